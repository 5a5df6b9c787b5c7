"""What sessions and their instance use: read, warned of, and limited."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from qsessions import (
    AsyncSessionClient,
    ClientClosed,
    EndingFailed,
    Forbidden,
    InstanceUsage,
    InvalidArgument,
    Job,
    MaxUsageReached,
    NotFound,
    ProtocolError,
    RetryPolicy,
    Session,
    SessionState,
    UsagePeriod,
)
from qsessions.emulator import Emulator, Fault
from qsessions.models import ModeName
from qsessions.session.live import Poll
from qsessions.session.usage import follow_usage, usage_of
from qsessions.testing import ManualClock
from tests.support.calls import SESSION
from tests.support.clients import Against, client_of, static_auth
from tests.support.errors import OUTAGE
from tests.support.fault_server import Answer, FaultServer, Received, http
from tests.support.manual_clock import Stepped
from tests.support.tables import table

CLOSED = Session(id="s1", state=SessionState.CLOSED)


def used_up(seconds: float) -> Session:
    """Return a session that has used so much."""
    return Session(id="s1", state=SessionState.ACTIVE, elapsed_time=seconds)


USED = {"instance_id": "crn:1", "plan_id": "p", "usage_consumed_seconds": 12}


def usage_requests(emulator: Emulator) -> int:
    """Return how often the usage was asked for."""
    return sum(request.operation == "usage" for request in emulator.requests)


async def test_the_usage_of_the_instance(
    client: AsyncSessionClient, emulator: Emulator, time: ManualClock
) -> None:
    """What jobs used shows in the instance's usage."""
    session = await client.create(mode="dedicated", max_ttl="10m")
    emulator.submit_job(session.id, seconds=30)
    time.now += 30
    await client.close(session.id)
    usage = await client.usage()
    assert usage.usage_consumed_seconds == 30
    assert usage.instance_id == client.instance
    assert usage.usage_period is not None
    assert usage.usage_period.end_time is not None


async def test_nothing_of_an_answer_is_lost(against: Against) -> None:
    """Unknown fields are kept at every depth, and absent ones are None."""
    body = USED | {"new": [1], "usage_period": {"start_time": "", "zone": "UTC"}}
    _, client = await against(http(200, body))
    assert await client.usage() == InstanceUsage(
        usage_consumed_seconds=12,
        instance_id="crn:1",
        plan_id="p",
        usage_period=UsagePeriod(extra={"zone": "UTC"}),
        extra={"new": [1]},
    )


async def test_a_create_on_a_spent_instance_warns_once(
    client: AsyncSessionClient,
    emulator: Emulator,
    time: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An answer of the last five minutes that says that nothing is left warns the next create, once,
    and nothing is asked for that.
    """

    def warnings() -> int:
        return caplog.text.count("has reached its usage limit")

    await client.usage()
    await client.create(mode="batch")
    assert warnings() == 0
    emulator.faults.add(Fault(kind="usage_limit"))
    assert (await client.usage()).usage_limit_reached is True
    await client.create(mode="batch")
    assert warnings() == 1
    await client.create(mode="batch")
    assert warnings() == 1
    await client.usage()
    time.now += 301
    await client.create(mode="batch")
    assert warnings() == 1
    assert usage_requests(emulator) == 3


async def test_a_session_ends_when_it_has_used_its_share(
    emulator: Emulator, time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The session is closed within 18 s after the limit, once; the block goes on and sees by what;
    an event and the log tell it, and the instance's usage was asked for once.
    """
    events: list[object] = []
    emulator.faults.add(Fault(kind="usage_limit"))
    async with client_of(emulator, time, observers=[events.append]) as client:
        for _ in range(2):
            async with client.open(mode="dedicated", max_ttl="1h", max_usage="1m") as live:
                emulator.submit_job(live.id, seconds=3600)
                assert live.ended_by is None
                await live.wait_until("closed")
                assert live.ended_by == "max_usage"
    (event, _) = (event for event in events if isinstance(event, MaxUsageReached))
    assert event.max_usage == 60
    assert 60 <= event.usage_seconds <= 78.1
    assert f"{event.session_id} has used " in caplog.text
    assert [request.method for request in emulator.requests].count("DELETE") == 2
    assert "PATCH" not in {request.method for request in emulator.requests}
    assert usage_requests(emulator) == 1
    assert caplog.text.count("has reached its usage limit") == 1


async def test_a_block_that_ends_first_is_limited_no_more(
    emulator: Emulator, time: ManualClock
) -> None:
    """After the block nothing of it is read, and other sessions ask for no usage."""
    async with client_of(emulator, time) as client:
        async with client.open(mode="batch", max_ttl="1h", max_usage=5) as live:
            await live.refresh()
        assert live.ended_by is None
        async with client.open(mode="batch", max_ttl="1h"):
            pass
        count = len(emulator.requests)
        time.now += 600
        await asyncio.sleep(0)
        assert len(emulator.requests) == count
    assert usage_requests(emulator) == 1


async def test_what_is_used_during_the_ending_is_no_share(
    emulator: Emulator, time: ManualClock
) -> None:
    """While the block's own ending is under way, a reading above the limit tells nobody that the
    session is being closed for it.
    """
    events: list[object] = []
    ending: Any = asyncio.get_running_loop().create_future()
    async with (
        client_of(emulator, time, observers=[events.append]) as client,
        client.open(mode="batch", max_ttl="1h", max_usage=5) as live,
    ):
        emulator.submit_job(live.id, seconds=3600)
        (context,) = client._open_sessions.contexts
        context._ending = ending
        time.now += 600
        await live.refresh()
        for _ in range(30):
            await asyncio.sleep(0)
        assert not any(isinstance(event, MaxUsageReached) for event in events)
        context._ending = None
        ending.set_result(None)


@pytest.mark.parametrize("on_exit", ["drain", "close"])
async def test_a_block_that_ends_just_when_its_share_is_used(
    emulator: Emulator, time: ManualClock, on_exit: Any
) -> None:
    """Where the last read within the block shows that the share is used, the block ends with a close
    that says so, though nothing has run between the two.
    """
    events: list[object] = []
    async with client_of(emulator, time, observers=[events.append]) as client:
        async with client.open(
            mode="dedicated", max_ttl="2h", max_usage="5m", on_exit=on_exit
        ) as live:
            emulator.submit_job(live.id, seconds=3600)
            time.now += 1200
            await live.refresh()
        assert live.ended_by == "max_usage"
    assert emulator.requests[-1].method == "DELETE"
    assert [type(event) for event in events].count(MaxUsageReached) == 1


class Silent(FaultServer):
    """A service with one session, active for most of the time, whose usage it doesn't say.

    It closes by itself after so many reads.
    """

    def __init__(self, mode: str, states: list[str]) -> None:
        super().__init__(b"")
        self.session = SESSION | {"mode": mode, "state": "open", "elapsed_time": None}
        self.states = states

    async def _answer_to(self, request: Received) -> Answer:
        if request.target.endswith("/usage"):
            return http(200, USED)
        if request.method == "DELETE":
            self.states = ["closed"]
            return http(204)
        if request.method == "GET":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            self.session = self.session | {"state": state}
        return http(200, self.session)


@table(("mode", "ended_by"), [("dedicated", "max_usage"), ("batch", None)])
async def test_where_the_service_says_no_usage_active_time_counts(
    time: ManualClock, mode: ModeName, ended_by: str | None
) -> None:
    """Of a dedicated session without `elapsed_time` the time counts that it was seen active; of a
    batch nothing.
    """
    states = ["active", *["inactive"] * 20, *["active"] * 20, "closed"]
    async with (
        Silent(mode, states) as server,
        AsyncSessionClient(static_auth(), base_url=server.url, clock=time) as client,
        client.open(mode=mode, max_ttl="1h", max_usage=60) as live,
    ):
        await live.wait_until("closed")
        assert live.ended_by == ended_by
        # Not while it was inactive.
        assert sum(received.method == "GET" for received in server.received) > 25
    assert server.count("DELETE") == (ended_by is not None)


class Scripted:
    """Calls that read a session from a script; it is young until a 404 was met."""

    def __init__(self, time: Stepped, *readings: Session | Exception) -> None:
        self.clock = time
        self.readings = list(readings)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task."""
        return asyncio.create_task(coroutine)

    def is_young(self, _: str) -> bool:
        """Return whether there is anything left to read."""
        return bool(self.readings)

    async def get(self, _: str) -> Session:
        """Read the session."""
        reading = self.readings.pop(0)
        if isinstance(reading, Exception):
            raise reading
        return reading


@table(
    ("readings", "used", "warnings"),
    [
        ([Forbidden("no"), Forbidden("no"), used_up(3), used_up(4), CLOSED], [3, 4], 1),
        ([OUTAGE, used_up(3), Session(id="another", elapsed_time=9), CLOSED], [3], 0),
        # Not known yet, then gone.
        ([NotFound("what?"), used_up(3), NotFound("gone")], [3], 1),
        ([used_up(3), ClientClosed("closed.")], [3], 0),
    ],
)
async def test_usage_that_cannot_be_read_is_read_again(
    stepped: Stepped,
    caplog: pytest.LogCaptureFixture,
    readings: list[Session | Exception],
    used: list[float],
    warnings: int,
) -> None:
    """A refusal is told once and doesn't end it; a session that is over or gone does, and the end of
    the client.
    """
    caplog.clear()
    poll = Poll("s1", cast("Any", Scripted(stepped, *readings)))

    async def collect() -> list[float]:
        return [seconds async for seconds in usage_of(poll)]

    collecting = asyncio.ensure_future(collect())
    await stepped.step(60)
    assert await collecting == used
    assert caplog.text.count("the usage of 's1' can't be read") == warnings


async def test_a_read_that_fails_unexpectedly_ends_no_limit(
    stepped: Stepped, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a read fails with, the usage is read again, and the log has it once."""
    readings: list[Session | Exception] = [
        RuntimeError("boom"),
        RuntimeError("boom"),
        used_up(3),
        CLOSED,
    ]
    poll = Poll("s1", cast("Any", Scripted(stepped, *readings)))

    async def collect() -> list[float]:
        return [seconds async for seconds in usage_of(poll)]

    collecting = asyncio.ensure_future(collect())
    await stepped.step(60)
    assert await collecting == [3]
    assert caplog.text.count("the usage of 's1' can't be read: RuntimeError('boom')") == 1


async def test_a_limit_that_fails_is_loud(
    client: AsyncSessionClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit that ends with an error of its own logs that, with the session and what to do."""

    async def fail(used: float) -> None:
        raise RuntimeError(f"boom {used:g}")

    async with client.open(mode="dedicated", max_ttl="1h", max_usage="1h") as live:
        await follow_usage(client._calls.polls[live.id], fail)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == (
        f"session {live.id!r} won't be closed at its max_usage: close it in time yourself"
    )
    assert "RuntimeError: boom 0" in caplog.text


@table("kind", [RuntimeError, asyncio.CancelledError])
async def test_an_observer_that_fails_ends_no_limit(
    emulator: Emulator, time: ManualClock, *, kind: type[BaseException]
) -> None:
    """A session that has used its share is closed, whatever an observer raises."""

    def observe(event: object) -> None:
        raise kind

    async with (
        client_of(emulator, time, observers=[observe]) as client,
        client.open(mode="dedicated", max_ttl="1h", max_usage="1m") as live,
    ):
        emulator.submit_job(live.id, seconds=3600)
        await live.wait_until("closed")
        assert live.ended_by == "max_usage"


async def test_a_close_that_fails_is_tried_again(emulator: Emulator, time: ManualClock) -> None:
    """A session that has used its share and can't be closed is tried again at the next read."""
    retry = RetryPolicy(max_attempts=1)
    async with client_of(emulator, time, retry=retry) as client:
        emulator.faults.add(Fault(kind="answer", status=503, operations=["close"], times=2))
        async with client.open(mode="dedicated", max_ttl="1h", max_usage="1m") as live:
            emulator.submit_job(live.id, seconds=3600)
            await live.wait_until("closed")
            assert live.ended_by == "max_usage"
    assert sum(request.operation == "close" for request in emulator.requests) == 3


async def test_a_block_ends_with_a_close_where_its_share_is_used(
    emulator: Emulator, time: ManualClock
) -> None:
    """A session that has used its share is closed after its block too, not drained, if it couldn't be
    closed before.
    """
    retry = RetryPolicy(max_attempts=1)
    told = asyncio.Event()

    def observe(event: object) -> None:
        if isinstance(event, EndingFailed):
            told.set()

    async with client_of(emulator, time, retry=retry, observers=[observe]) as client:
        emulator.faults.add(Fault(kind="answer", status=503, operations=["close"], times=1))
        async with client.open(mode="dedicated", max_ttl="1h", max_usage="1m") as live:
            emulator.submit_job(live.id, seconds=3600)
            await told.wait()
    assert emulator.open_sessions == []
    assert "PATCH" not in {request.method for request in emulator.requests}


@table("wrong", [0, -1, True, "soon", float("nan")])
async def test_a_wrong_limit_is_refused_at_once(client: AsyncSessionClient, wrong: Any) -> None:
    """A limit that can't be right is refused by the call itself."""
    with pytest.raises(InvalidArgument, match="max_usage"):
        client.open(mode="batch", max_usage=wrong)


async def test_the_jobs_of_a_session(
    client: AsyncSessionClient, emulator: Emulator, time: ManualClock
) -> None:
    """A session's jobs come oldest first, with what the service says of them, and no others."""
    async with (
        client.open(mode="batch", max_ttl="1h", on_exit="close") as live,
        client.open(mode="batch", max_ttl="1h", on_exit="close") as other,
    ):
        first = emulator.submit_job(live.id, seconds=5)
        emulator.submit_job(other.id)
        second = emulator.submit_job(live.id, seconds=7)
        time.now += 5
        jobs = [job async for job in live.jobs()]
    assert [job.id for job in jobs] == [first, second]
    job = jobs[0]
    assert (job.status, job.usage_seconds, job.session_id) == ("Completed", 5, live.id)
    assert job.program_id is not None
    assert job.extra["usage"] == {"qpu_charge_time_seconds": 5, "status": "complete"}


def page(*ids: str, **fields: Any) -> bytes:
    """Return a page of jobs."""
    return http(200, {"jobs": [{"id": job_id} for job_id in ids]} | fields)


@table(
    "pages",
    [
        [page("a", "b", count=3), page("c", count=3)],
        [page("a", "b"), page("b", "c"), page()],
        [page("a", "b", "c", count=3)],
    ],
)
async def test_all_pages_of_jobs(against: Against, pages: list[bytes]) -> None:
    """Pages are fetched to the end, by the count where there is one; a job comes once."""
    server, client = await against(*pages)
    assert [job.id async for job in client.attach("s1").jobs()] == ["a", "b", "c"]
    assert len(server.received) == len(pages)
    assert "session_id=s1" in server.received[0].target


async def test_pages_of_jobs_without_end(against: Against) -> None:
    """A service that gives the same page again and again is told as such."""
    _, client = await against(page("a"))
    jobs = client.attach("s1").jobs()
    assert (await anext(jobs)).id == "a"
    with pytest.raises(ProtocolError, match="circle"):
        await anext(jobs)


async def test_what_is_odd_of_a_job_is_kept(against: Against) -> None:
    """Words and forms that nobody knows don't keep a job from being read."""
    odd = {"id": "a", "status": "Paused", "usage": 7, "state": {"reason": 5}, "program": {"id": ""}}
    _, client = await against(http(200, {"jobs": [odd], "count": 1}))
    (job,) = [job async for job in client.attach("s1").jobs()]
    assert job == Job(
        id="a",
        status="Paused",
        extra={name: odd[name] for name in ("usage", "state", "program")},
    )
    assert json.dumps(dict(job.extra))
