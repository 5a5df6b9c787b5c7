"""A session as it lives: one poll for all who wait, as seldom as it can be, and nothing left when
nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

import pytest
from aiohttp import ClientSession, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from qsessions import (
    AsyncLiveSession,
    AsyncSessionClient,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    IBMCloudAPIKey,
    InvalidArgument,
    NotFound,
    QSessionsError,
    ServerError,
    ServiceCRN,
    Session,
    SessionState,
    StateChange,
    StateUnreachable,
    Unauthorized,
)
from qsessions.emulator import Emulator
from qsessions.models import StateName
from qsessions.session.live import Poll
from qsessions.session.outage import PATIENCE_S
from qsessions.testing import ManualClock
from tests.support.calls import SESSION
from tests.support.clients import CRN, Against, static_auth
from tests.support.errors import OUTAGE, Uncopyable
from tests.support.event_loop import TASK_FACTORIES
from tests.support.fault_server import Connection, FaultServer, hang, http
from tests.support.internals import poll_of, polls_of
from tests.support.manual_clock import Stepped, settled
from tests.support.providers import failing
from tests.support.tables import table
from tests.support.waiting import until

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def in_state(state: str | None, *history: str, **fields: Any) -> Session:
    """Return a session in a state; its history has a minute between two states."""
    entered = tuple(
        StateChange(SessionState(name), START + timedelta(minutes=minute))
        for minute, name in enumerate(history)
    )
    return Session(
        id="s1", state=None if state is None else SessionState(state), timestamps=entered, **fields
    )


class Scripted:
    """Calls that read a session from a script, the last reading again and again."""

    def __init__(self, time: Stepped, *readings: Session | Exception) -> None:
        self.readings = list(readings)
        self.time = time
        self.clock = time
        self.asked: list[float] = []
        self.ended: list[str] = []
        self.gate: asyncio.Event | None = None
        self.jobs: list[bool | Exception] = [True]
        self.looked: list[float] = []
        self.jobs_gate: asyncio.Event | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.poll = Poll("s1", cast("Any", self))

    def live(self) -> AsyncLiveSession:
        """Return a new handle."""
        return AsyncLiveSession(self.poll, cast("Any", self))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def get(self, session_id: str, /) -> Session:
        """Read the session."""
        self.asked.append(self.time.now)
        if self.gate is not None:
            await self.gate.wait()
        reading = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(reading, Exception):
            raise reading
        return reading

    async def has_pending_jobs(self, session_id: str, /, *, timeout: float) -> bool:
        """Return what the script says, its last answer again and again."""
        self.looked.append(self.time.now)
        if self.jobs_gate is not None:
            await self.jobs_gate.wait()
        has = self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]
        if isinstance(has, Exception):
            raise has
        return has

    async def drain(self, session_id: str, /) -> None:
        """Keep that it was called."""
        self.ended.append("drain")

    async def close(self, session_id: str, /) -> None:
        """Keep that it was called."""
        self.ended.append("close")


def start(coroutine: Coroutine[Any, Any, Session]) -> asyncio.Task[Session]:
    """Run a wait in the background."""
    return asyncio.get_running_loop().create_task(coroutine)


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and let everything settle."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settled()


async def waited_for(emulator: Emulator, client: AsyncSessionClient, waiters: int) -> int:
    """Let a session live with so many waiters, and return how often it was read."""
    session = await client.create(mode="dedicated", max_ttl="10m")
    emulator.submit_job(session.id, seconds=100)
    before = len(emulator.requests)
    waits = [
        asyncio.ensure_future(client.attach(session.id).wait_until("closed"))
        for _ in range(waiters)
    ]
    await client.drain(session.id)
    closed = await asyncio.gather(*waits)
    assert {found.state for found in closed} == {SessionState.CLOSED}
    reads = [request for request in emulator.requests[before:] if request.method == "GET"]
    await settled()
    # All of these, and one PATCH.
    assert len(emulator.requests) == before + len(reads) + 1
    return len(reads)


async def test_a_thousand_waiters_make_the_requests_of_one(
    emulator: Emulator, client: AsyncSessionClient
) -> None:
    """However many wait for one session, it is read as often as for one, and not once more after
    the last has left.
    """
    assert await waited_for(emulator, client, 1000) == await waited_for(emulator, client, 1)


@pytest.mark.smoke
async def test_watch_shows_a_session_from_open_to_closed(
    emulator: Emulator, client: AsyncSessionClient, time: ManualClock
) -> None:
    """Each change comes once, in order, and the stream ends by itself after closed."""
    session = await client.create(mode="dedicated", max_ttl="10m")
    live = client.attach(session.id)
    assert (live.id, live.snapshot) == (session.id, None)
    seen: list[str] = []
    async for snapshot in live.watch():
        assert live.snapshot is snapshot
        seen.append(f"{snapshot.state} {snapshot.accepting_jobs}")
        if seen == ["open True"]:
            emulator.submit_job(session.id, seconds=20)
        elif snapshot.state == "inactive":
            await live.close()
    assert [text for index, text in enumerate(seen) if text not in seen[:index]] == [
        "open True",
        "active True",
        "inactive True",
        "closed False",
    ]
    assert repr(live) == f"<AsyncLiveSession {session.id!r} last seen closed>"


async def test_a_handle_reads_drains_and_closes(
    emulator: Emulator, client: AsyncSessionClient
) -> None:
    """`refresh`, `drain` and `close` do at once what the client's calls do."""
    live = client.attach((await client.create(mode="dedicated", max_ttl="10m")).id)
    assert repr(live) == f"<AsyncLiveSession {live.id!r} not read yet>"
    emulator.submit_job(live.id, seconds=50)
    assert (await live.refresh()).state == "active"
    await live.drain()
    assert not (await live.refresh()).accepting_jobs
    await live.close()
    assert (await live.refresh()).is_final
    assert live.snapshot is not None
    assert live.snapshot.is_final


async def test_handles_on_one_session_share_a_poll_for_as_long_as_there_are_any(
    client: AsyncSessionClient,
) -> None:
    """Attaching sends nothing, and a handle that is gone leaves nothing in the client."""
    one, two = client.attach("s1"), client.attach("s1")
    assert poll_of(one) is poll_of(two)
    del one, two
    assert dict(polls_of(client)) == {}


@table("session_id", ["", "a/b", "..", "x" * 501, 7])
async def test_attach_refuses_what_can_be_no_id(
    client: AsyncSessionClient, session_id: Any
) -> None:
    """An id that can't be one is refused before anybody waits for it."""
    with pytest.raises(InvalidArgument):
        client.attach(session_id)


@table(("chance", "factor"), [(0.0, 0.8), (0.5, 1.0), (0.999999, 1.2)])
async def test_polling_slows_down_to_a_cap_and_is_quick_again_after_a_change(
    chance: float, factor: float
) -> None:
    """The pauses grow by half from 0.5 s to 15 s, begin anew after a change, and lie within 20 % of
    that.
    """
    time = Stepped(chance)
    service = Scripted(time, *[in_state("open")] * 12, in_state("active"))
    wait = start(service.live().wait_until("closed"))
    await time.step(200)
    pauses = [after - before for before, after in pairwise(service.asked)]
    grown = [0.5 * 1.5**step * factor for step in range(9)]
    assert pauses[:14] == pytest.approx([*grown, *[15 * factor] * 3, *grown[:2]], rel=1e-5)
    await cancel(wait)
    assert time.timers == []


async def test_drain_and_close_make_the_next_look_a_quick_one(stepped: Stepped) -> None:
    """After this handle changed something, those who wait don't sit out a long pause."""
    for end in ("drain", "close"):
        service = Scripted(stepped, in_state("active"))
        live = service.live()
        wait = start(live.wait_until("closed"))
        await stepped.step(100)
        looks = len(service.asked)
        await getattr(live, end)()
        await stepped.step(0.001)
        assert len(service.asked) == looks + 1
        assert service.ended == [end]
        await cancel(wait)


async def test_a_reading_that_somebody_else_made_counts(stepped: Stepped) -> None:
    """`refresh` serves all callers that wait, and puts off the next look."""
    service = Scripted(stepped, in_state("open"))
    wait = start(service.live().wait_until("active"))
    await stepped.step(10)
    looks = len(service.asked)
    await service.live().refresh()
    await stepped.step(4)
    assert len(service.asked) == looks + 1
    service.readings = [in_state("active")]
    await service.live().refresh()
    await settled()
    assert wait.done()
    assert len(service.asked) == looks + 2


async def test_who_joins_gets_a_reading_of_just_now_without_a_new_look(stepped: Stepped) -> None:
    """Within half a second of a reading nobody reads again for a newcomer, later somebody does."""
    service = Scripted(stepped, in_state("open"))
    await service.live().refresh()
    stepped.now += 0.5
    assert (await service.live().wait_until("open")).state == "open"
    assert len(service.asked) == 1
    stepped.now += 0.1
    assert (await service.live().wait_until("open")).state == "open"
    assert len(service.asked) == 2


@table("pause", [0.05, 0.3, 1.0])
async def test_staggered_newcomers_make_no_more_requests_than_quick_polling(
    stepped: Stepped, pause: float
) -> None:
    """Newcomers hurry the poll, but never beyond its shortest pause."""
    service = Scripted(stepped, in_state("open"))
    waits = []
    for _ in range(60):
        waits.append(start(service.live().wait_until("closed")))
        await stepped.step(pause)
    assert min(after - before for before, after in pairwise(service.asked)) >= 0.5 - 1e-6
    assert len(service.asked) <= 1 + 60 * pause / 0.5
    await cancel(*waits)


async def test_nobody_is_polled_for_when_nobody_waits(stepped: Stepped) -> None:
    """When the last one who waits has left, the pause ends at once and no request follows."""
    service = Scripted(stepped, in_state("open"))
    waits = [start(service.live().wait_until("closed")) for _ in range(3)]
    await stepped.step(20)
    looks = len(service.asked)
    await cancel(*waits[:2])
    assert (len(service.tasks), len(stepped.timers)) == (1, 1)
    await cancel(waits[2])
    assert (service.tasks, stepped.timers) == (set(), [])
    await stepped.step(100)
    assert len(service.asked) == looks


async def test_a_cancelled_waiter_disturbs_no_other(stepped: Stepped) -> None:
    """Whoever leaves, before the first look or while one is under way, the others get theirs."""
    service = Scripted(stepped, in_state("active"))
    service.gate = asyncio.Event()
    waits = [start(service.live().wait_until("active")) for _ in range(3)]
    await asyncio.sleep(0)
    await cancel(waits[0])
    assert len(service.asked) == 1
    await cancel(waits[1])
    service.gate.set()
    assert (await waits[2]).state == "active"
    assert len(service.asked) == 1


async def test_a_look_under_way_when_the_last_waiter_leaves_serves_the_next(
    stepped: Stepped,
) -> None:
    """A newcomer joins the poll that is about to end, and isn't forgotten by it."""
    service = Scripted(stepped, in_state("open"), in_state("active"))
    service.gate = asyncio.Event()
    first = start(service.live().wait_until("active"))
    await settled()
    await cancel(first)
    second = start(service.live().wait_until("active"))
    service.gate.set()
    await stepped.step(1)
    assert (await second).state == "active"
    assert len(service.asked) == 2


async def test_watch_gives_changes_only(stepped: Stepped) -> None:
    """Readings that differ in nothing but the running meters are no change; any other difference
    is.
    """
    readings = [
        in_state("active", elapsed_time=1.0, active_ttl=599),
        in_state("active", elapsed_time=2.0, active_ttl=598),
        in_state("active", elapsed_time=3.0, active_ttl=None),
        in_state("active", elapsed_time=4.0, accepting_jobs=False),
        in_state("active", elapsed_time=5.0, accepting_jobs=False, extra={"new": 1}),
        in_state("closed", elapsed_time=6.0),
        in_state("closed", elapsed_time=7.0),
    ]
    service = Scripted(stepped, *readings)
    seen: list[Session] = []

    async def watch() -> None:
        seen.extend([snapshot async for snapshot in service.live().watch()])

    watching = asyncio.ensure_future(watch())
    await stepped.step(60)
    await watching
    assert seen == [readings[index] for index in (0, 3, 4, 5)]
    assert len(service.asked) == 6


async def test_a_slow_watcher_misses_what_was_between(stepped: Stepped) -> None:
    """Whoever takes long over a snapshot gets the session as it is then, and the others aren't held
    up.
    """
    service = Scripted(
        stepped, in_state("open"), in_state("active"), in_state("inactive"), in_state("closed")
    )
    quick = start(service.live().wait_until("closed"))
    seen: list[str | None] = []
    async for snapshot in service.live().watch():
        seen.append(snapshot.state)
        if not quick.done():
            await stepped.step(10)
    assert (await quick).is_final
    assert seen == ["open", "closed"]


async def test_a_watcher_that_leaves_half_way_leaves_nothing(stepped: Stepped) -> None:
    """After breaking out of `watch` there is no poll, no sleeper and no task."""
    service = Scripted(stepped, in_state("open"), in_state("active"))
    before = asyncio.all_tasks()
    async for snapshot in service.live().watch():
        assert snapshot.state == "open"
        break
    await settled()
    assert (service.tasks, stepped.timers, asyncio.all_tasks() - before) == (set(), [], set())
    await stepped.step(100)
    assert len(service.asked) == 1


async def test_wait_until_takes_the_first_of_several_states(stepped: Stepped) -> None:
    """Any of the wanted states ends the wait; each may be text or a `SessionState`."""
    service = Scripted(stepped, in_state("open"), in_state("inactive"))
    wait = start(service.live().wait_until("closed", SessionState.INACTIVE, "pending_closed"))
    await stepped.step(1)
    assert (await wait).state == "inactive"


async def test_a_state_that_the_service_added_can_be_waited_for(stepped: Stepped) -> None:
    """A `SessionState` that this version has no name for is waited for; text of the same kind is
    taken for a typing error.
    """
    service = Scripted(stepped, in_state("open"), in_state("resuming"))
    wait = start(service.live().wait_until(SessionState("resuming")))
    await stepped.step(1)
    assert (await wait).state == "resuming"


async def test_a_state_between_two_looks_counts(stepped: Stepped) -> None:
    """A session that was active and closed again between two looks was active, as its timestamps
    show.
    """
    service = Scripted(
        stepped,
        in_state("open", "open"),
        in_state("closed", "open", "active", "inactive", "closed"),
    )
    live = service.live()
    waits = [start(live.wait_until(state)) for state in ("active", "inactive")]
    await stepped.step(1)
    assert [(await wait).state for wait in waits] == ["closed", "closed"]


async def test_a_state_from_before_the_wait_does_not_count(stepped: Stepped) -> None:
    """Waiting for active on an inactive session means the next time, not the last."""
    past = ("open", "active", "inactive")
    service = Scripted(
        stepped, in_state("inactive", *past), in_state("inactive", *past, "active", "inactive")
    )
    wait = start(service.live().wait_until("active"))
    await settled()
    assert not wait.done()
    await stepped.step(1)
    assert len((await wait).timestamps) == 5


async def test_what_a_handle_saw_before_is_not_news(stepped: Stepped) -> None:
    """A handle that has seen a session active, and finds it closed, can't wait for active; one that
    hasn't, can.
    """
    service = Scripted(
        stepped,
        in_state("active", "open", "active"),
        in_state("closed", "open", "active", "closed"),
    )
    old = service.live()
    await old.refresh()
    stepped.now += 60
    with pytest.raises(StateUnreachable):
        await old.wait_until("active")
    assert (await service.live().wait_until("active")).state == "closed"


async def test_the_same_question_has_the_same_answer(stepped: Stepped) -> None:
    """Of a session that was closed before anybody asked, each recorded state counts, however often
    it is asked for.
    """
    live = Scripted(stepped, in_state("closed", "open", "active", "closed")).live()
    for _ in range(2):
        assert (await live.wait_until("active")).state == "closed"
    await live.refresh()
    assert (await live.wait_until("active")).state == "closed"


@table(
    ("session", "wanted"),
    [
        (in_state("closed"), ["open"]),
        (in_state("closed", "open", "closed"), ["active", "inactive"]),
        (in_state("closed"), [SessionState("resuming")]),
        (in_state("active", "open", "active"), ["open"]),
        (in_state(None, started_at=START), ["open"]),
    ],
)
async def test_a_state_that_can_not_come_is_an_error_at_once(
    stepped: Stepped, session: Session, wanted: list[SessionState | StateName]
) -> None:
    """Nothing comes after closed, and nothing is open again once it has started: one look is enough
    to say so.
    """
    service = Scripted(stepped, session)
    with pytest.raises(StateUnreachable, match="can't become") as caught:
        await service.live().wait_until(*wanted, timeout="1h")
    assert (caught.value.session_id, caught.value.operation) == ("s1", "wait_until")
    assert len(service.asked) == 1


@table("state", ["open", None])
async def test_open_can_come_before_the_start(stepped: Stepped, state: str | None) -> None:
    """A session whose state isn't known yet may turn out open."""
    service = Scripted(stepped, in_state(state), in_state("open"))
    wait = start(service.live().wait_until("open"))
    await stepped.step(1)
    assert (await wait).state == "open"


@table("states", [[], ["Closed"], ["close"], ["closed", "done"], [""], [None], [7]])
async def test_a_state_that_is_none_is_refused_before_anything_is_sent(
    stepped: Stepped, states: list[Any]
) -> None:
    """A typing error would be waited for in vain, so it is an error with the list of states."""
    service = Scripted(stepped, in_state("open"))
    with pytest.raises(InvalidArgument):
        await service.live().wait_until(*states)
    assert service.asked == []


@table("timeout", [0, -1, float("nan"), "soon", True])
async def test_a_timeout_that_is_none_is_refused(stepped: Stepped, timeout: Any) -> None:
    """A deadline is a duration above 0."""
    service = Scripted(stepped, in_state("open"))
    with pytest.raises(InvalidArgument, match="timeout"):
        await service.live().wait_until("closed", timeout=timeout)
    assert service.asked == []


@table(
    ("session", "message"),
    [(in_state("open"), "it was last seen open"), (in_state(None), "in no known state")],
)
async def test_a_timeout_names_the_state_last_seen(
    stepped: Stepped, session: Session, message: str
) -> None:
    """When time is up, the error says what was waited for and what there was instead, and polling
    ends.
    """
    service = Scripted(stepped, session)
    waiting = start(service.live().wait_until("closed", "active", timeout=timedelta(seconds=5)))
    await stepped.step(5)
    with pytest.raises(CallTimeout, match=message) as caught:
        await waiting
    assert "was not active or closed within 5 s" in caught.value.message
    assert (caught.value.operation, caught.value.session_id, caught.value.sent) == (
        "wait_until",
        "s1",
        False,
    )
    assert caught.value.__context__ is None
    await settled()
    assert service.tasks == set()


async def test_a_timeout_before_the_first_look_is_one_too(stepped: Stepped) -> None:
    """Time may be up before anything is known."""
    service = Scripted(stepped, in_state("open"))
    service.gate = asyncio.Event()
    waiting = start(service.live().wait_until("closed", timeout=5))
    await stepped.step(5)
    with pytest.raises(CallTimeout, match="; it could not be read in that time"):
        await waiting
    service.gate.set()
    await settled()
    assert service.tasks == set()


FAILURES = [
    ServerError("it broke", status=503, trace_id="t-1"),
    CallTimeout("no answer", retryable=False),
    TimeoutError("foreign"),
    Uncopyable("a", "b"),
]


@table("factory", TASK_FACTORIES)
@table("failure", FAILURES)
async def test_an_error_while_polling_reaches_everybody(
    stepped: Stepped, failure: Exception, factory: Any
) -> None:
    """Each caller gets what the reading raised, an own copy of each error of ours; the next wait
    begins anew.
    """
    asyncio.get_running_loop().set_task_factory(factory)
    cause = LookupError("why")
    failure.__cause__ = cause
    service = Scripted(stepped, failure)
    waits = [start(service.live().wait_until("closed")) for _ in range(3)]
    errors = await asyncio.gather(*waits, return_exceptions=True)
    for error in errors:
        assert type(error) is type(failure)
        assert error.__dict__ == failure.__dict__
        assert isinstance(error, Exception)
        assert error.__cause__ is cause
    if isinstance(failure, QSessionsError):
        assert len({id(error) for error in errors}) == 3
    service.readings = [in_state("closed")]
    assert (await service.live().wait_until("closed")).is_final


async def test_notes_of_one_waiter_are_not_those_of_another(stepped: Stepped) -> None:
    """The notes that an error came with are in every copy, those added later only where they were
    added.
    """
    failure = ServerError("it broke")
    failure.add_note("from the start")
    service = Scripted(stepped, failure)
    waits = [start(service.live().wait_until("closed")) for _ in range(2)]
    one, two = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(one, ServerError)
    assert isinstance(two, ServerError)
    one.add_note("mine")
    assert (one.__notes__, two.__notes__) == (["from the start", "mine"], ["from the start"])


async def test_an_error_ends_a_watch_and_the_next_one_goes_on(client: AsyncSessionClient) -> None:
    """`watch` raises what the service answered; nothing of it stays in the poll."""
    for _ in range(2):
        with pytest.raises(NotFound) as caught:
            await anext(client.attach("unknown").watch())
        assert caught.value.session_id == "unknown"


@table("factory", TASK_FACTORIES)
async def test_an_error_of_a_custom_provider_reaches_the_caller(
    against: Against, factory: Any
) -> None:
    """A provider that fails before anything is sent leaves nobody waiting, eager tasks or not."""
    asyncio.get_running_loop().set_task_factory(factory)

    _, client = await against(http(200), auth=failing(LookupError("no ticket in the drawer")))
    with pytest.raises(ConfigurationError, match="LookupError: no ticket"):
        await client.attach("s1").wait_until("closed")


@table("factory", TASK_FACTORIES)
@table("steps", range(10))
async def test_closing_the_client_ends_every_wait(
    against: Against, steps: int, factory: Any
) -> None:
    """Whenever the client is closed, be it before the poll has made its first step, nobody waits in
    vain.
    """
    asyncio.get_running_loop().set_task_factory(factory)
    _, client = await against(hang)
    live = client.attach("s1")
    waits = [start(live.wait_until("closed")) for _ in range(3)]
    for _ in range(steps):
        await asyncio.sleep(0)
    await client.aclose()
    for error in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(error, ClientClosed)
    with pytest.raises(ClientClosed):
        await live.wait_until("closed")
    with pytest.raises(ClientClosed):
        await live.refresh()


async def test_closing_the_client_ends_a_long_pause(against: Against) -> None:
    """A poll that sleeps is ended with the client, and no task is left."""
    time = Stepped()
    _, client = await against(http(200, {"id": "s1", "state": "open"}), clock=time)
    wait = start(client.attach("s1").wait_until("closed"))
    await until(lambda: time.timers)
    await client.aclose()
    assert time.timers == []
    with pytest.raises(ClientClosed):
        await wait


def test_a_poll_of_a_loop_that_has_ended_is_in_nobodys_way(time: ManualClock) -> None:
    """A wait that ended with its event loop leaves a handle that says which loop its client belongs
    to.
    """

    async def first() -> None:
        asyncio.ensure_future(live.wait_until("closed"))  # noqa: RUF006 - it ends with the loop, that's the point
        await settled()

    async def second() -> None:
        with pytest.raises(ConfigurationError, match="another event loop"):
            await live.wait_until("closed")
        await client.aclose()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = AsyncSessionClient(
            [IBMCloudAPIKey("key"), ServiceCRN(CRN)], base_url=url, clock=time
        )
        live = client.attach("s1")
        asyncio.run(first())
        asyncio.run(second())


@table("factory", TASK_FACTORIES)
async def test_a_reading_at_the_very_start_is_not_missed(stepped: Stepped, factory: Any) -> None:
    """With eager tasks the first reading may be there before anybody waits for it: it counts."""
    asyncio.get_running_loop().set_task_factory(factory)
    service = Scripted(stepped, in_state("active"))
    assert (await service.live().wait_until("active")).state == "active"
    await settled()
    assert len(service.asked) == 1


async def test_an_outage_is_borne_until_the_timeout(stepped: Stepped) -> None:
    """A wait with a timeout goes on through failures that may pass, less and less often, and ends
    with the state when the service is back.
    """
    service = Scripted(stepped, in_state("open"), *[OUTAGE] * 12, in_state("closed"))
    waits = [start(service.live().wait_until("closed", timeout="1h")) for _ in range(3)]
    seen: list[Session] = []

    async def watch() -> None:
        seen.extend([snapshot async for snapshot in service.live().watch(timeout="1h")])

    watching = asyncio.ensure_future(watch())
    await stepped.step(150)
    assert [(await wait).state for wait in waits] == ["closed"] * 3
    await watching
    assert [snapshot.state for snapshot in seen] == ["open", "closed"]
    assert len(service.asked) == 14
    pauses = [after - before for before, after in pairwise(service.asked)]
    assert pauses[1:9] == pytest.approx([0.5 * 1.5**step for step in range(1, 9)])
    assert pauses[-1] == 15


async def test_without_a_timeout_an_outage_of_ten_minutes_is_borne(
    stepped: Stepped, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits without a limit bears 10 minutes without an answer, counted anew after each, and
    then gets what is wrong, with a note; others with a limit go on, and a newcomer's look is at
    once.
    """
    service = Scripted(stepped, OUTAGE)
    patient = start(service.live().wait_until("closed", timeout="2h"))
    ended = [start(service.live().wait_until("closed")), start(_last(service.live().watch()))]
    await stepped.step(599)
    service.readings = [in_state("open")]
    await stepped.step(20)
    service.readings = [OUTAGE]
    await stepped.step(PATIENCE_S)
    assert not any(wait.done() for wait in ended)
    await stepped.step(16)
    for wait in ended:
        with pytest.raises(ServerError, match="the service is down") as caught:
            await wait
        assert caught.value.__notes__ == [
            "the wait has borne that for 10 minutes, as one without a timeout does."
        ]
    newcomer = start(service.live().wait_until("closed"))
    await settled()
    assert service.asked[-1] == stepped.now
    await stepped.step(PATIENCE_S - 1)
    service.readings = [in_state("closed")]
    await stepped.step(16)
    assert (await newcomer).is_final
    assert (await patient).is_final
    assert told(caplog) == [
        "session 's1' can't be read, and the wait goes on: the service is down",
        "session 's1' can be read again after 607 s.",
        "session 's1' can't be read, and the wait goes on: the service is down",
        "session 's1' can be read again after 1219 s.",
    ]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings in the log."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@table(
    "refusal",
    [
        Unauthorized("no", status=401),
        Forbidden("no", status=403),
        NotFound("no such session", status=404),
        ConnectionFailed("the certificate can't be trusted", retryable=False),
    ],
)
async def test_a_definite_refusal_ends_a_wait_at_once(
    stepped: Stepped, caplog: pytest.LogCaptureFixture, refusal: QSessionsError
) -> None:
    """What comes again each time isn't borne without a timeout either, whether the wait begins with
    it or it follows an outage; and the log has nothing of it.
    """
    caplog.clear()
    with pytest.raises(type(refusal)):
        await Scripted(stepped, refusal).live().wait_until("closed")
    assert told(caplog) == []
    service = Scripted(stepped, OUTAGE, refusal)
    wait = start(service.live().wait_until("closed"))
    await stepped.step(5)
    with pytest.raises(type(refusal)):
        await wait


@table("operation", ["wait_until", "watch", "client.watch"])
async def test_a_laptop_that_wakes_without_a_network(
    monkeypatch: pytest.MonkeyPatch,
    time: ManualClock,
    caplog: pytest.LogCaptureFixture,
    operation: str,
) -> None:
    """A host's name that can't be looked up for a while, as after a laptop woke, ends no wait; the
    log says once that it began and once that it is over.
    """
    caplog.clear()
    lookups: list[str] = []

    class Resolver(AbstractResolver):
        """Knows no host for 40 s and more."""

        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
            """Return the server's address once the network is there."""
            lookups.append(host)
            if time.now < woken + 40:
                raise OSError(socket.EAI_AGAIN, "Temporary failure in name resolution")
            at = URL(server.url)
            return [
                ResolveResult(hostname=host, host=str(at.host), port=at.port or 0, family=socket.AF_INET, proto=0, flags=0)
            ]  # fmt: skip

        async def close(self) -> None:
            """Have nothing to close."""

    woken = time.now
    async with (
        FaultServer(http(200, SESSION | {"state": "closed"})) as server,
        ClientSession(connector=TCPConnector(resolver=Resolver())) as session,
        AsyncSessionClient(
            static_auth(), base_url="http://service.invalid", http=session, clock=time, allow_insecure=True
        ) as client,
    ):  # fmt: skip
        live = client.attach("s1")
        if operation == "wait_until":
            snapshot = await live.wait_until("closed")
        elif operation == "watch":
            snapshot = await anext(live.watch())
        else:
            _, snapshot = await anext(client.watch(["s1"]))
    assert snapshot.is_final
    assert len(lookups) > 5
    began, over = told(caplog)
    assert "can't be read, and the wait goes on: the server can't be reached." in began
    assert "can be read again after" in over


async def test_what_does_not_pass_is_not_borne(stepped: Stepped) -> None:
    """A timeout is no reason to wait through what comes again each time."""
    service = Scripted(stepped, NotFound("no such session", status=404))
    with pytest.raises(NotFound):
        await service.live().wait_until("closed", timeout="1h")
    with pytest.raises(NotFound):
        await anext(service.live().watch(timeout="1h"))


async def test_a_timeout_of_what_was_never_read_has_the_last_failure(stepped: Stepped) -> None:
    """When no reading came at all, the error says so, and why as far as that is known; no state is
    named.
    """
    service = Scripted(stepped, OUTAGE)
    waiting = start(service.live().wait_until("closed", timeout=5))
    await stepped.step(5)
    with pytest.raises(CallTimeout) as caught:
        await waiting
    assert caught.value.message == (
        "the session was not closed within 5 s; it could not be read in that time: the service is down"
    )


async def test_a_timeout_in_an_outage_says_so(stepped: Stepped) -> None:
    """When time is up while the service is away, the error says both."""
    service = Scripted(stepped, in_state("active"), OUTAGE)
    waits = [
        start(service.live().wait_until("closed", timeout=5)),
        start(_last(service.live().watch(timeout=5))),
    ]
    await stepped.step(5)
    for wait, operation in zip(waits, ("wait_until", "watch"), strict=True):
        with pytest.raises(CallTimeout) as caught:
            await wait
        assert caught.value.operation == operation
        assert caught.value.message == (
            "the session was not closed within 5 s; it was last seen active; the service could not be read of late: the service is down"
        )
    await settled()
    assert service.tasks == set()


async def _last(stream: AsyncIterator[Session]) -> Session:
    return [snapshot async for snapshot in stream][-1]


async def test_a_watch_has_a_timeout_over_all_its_changes(stepped: Stepped) -> None:
    """The time that the watcher itself takes counts, and a timeout that can be none is refused."""
    service = Scripted(stepped, in_state("open"))
    stream = service.live().watch(timeout=5)
    assert (await anext(stream)).state == "open"
    await stepped.step(5)
    with pytest.raises(CallTimeout, match=r"not closed within 5 s; it was last seen open\."):
        await anext(stream)
    with pytest.raises(InvalidArgument, match="timeout"):
        await anext(service.live().watch(timeout=0))


async def test_an_outage_of_long_ago_is_not_mentioned(stepped: Stepped) -> None:
    """A timeout speaks of failures of its own time only."""
    service = Scripted(stepped, OUTAGE)
    wait = start(service.live().wait_until("closed", timeout=1))
    await stepped.step(1)
    with pytest.raises(CallTimeout, match="the service is down"):
        await wait
    service.gate = asyncio.Event()
    waiting = start(service.live().wait_until("closed", timeout=5))
    await stepped.step(5)
    with pytest.raises(CallTimeout) as caught:
        await waiting
    assert caught.value.message.endswith("; it could not be read in that time.")
    service.gate.set()
    await settled()


DRAINING = in_state("inactive", "open", "active", "inactive", accepting_jobs=False)


async def waiting_for_a_drain(
    time: Stepped, *jobs: bool | Exception
) -> tuple[Scripted, asyncio.Task[Session]]:
    """Wait without a limit for the end of a session that drains for ever."""
    service = Scripted(time, DRAINING)
    service.jobs = list(jobs)
    waiting = start(service.live().wait_until("closed"))
    await time.step(0)
    return service, waiting


async def test_a_drain_that_is_not_carried_out_ends_the_wait(stepped: Stepped) -> None:
    """Without a timeout the wait ends once the session had nothing to do for 10 minutes, looked at
    after 5 and after 10.
    """
    begun = stepped.now
    service, waiting = await waiting_for_a_drain(stepped, False)
    await stepped.step(590)
    assert not waiting.done()
    assert len(service.looked) == 1
    assert 300 <= service.looked[0] - begun < 316
    await stepped.step(60)
    with pytest.raises(
        StateUnreachable, match="has left it inactive for 10 minutes with nothing to do"
    ) as caught:
        await waiting
    assert (caught.value.operation, caught.value.session_id) == ("wait_until", "s1")
    assert caught.value.solution == "Close it, or give the wait a timeout."
    assert len(service.looked) == 2
    assert 300 <= service.looked[1] - service.looked[0] < 316


@table("busy", [True, NotFound("no such path", status=404), OUTAGE])
async def test_a_drain_that_has_jobs_goes_on(stepped: Stepped, busy: bool | Exception) -> None:
    """While the session has jobs, or nobody can tell whether it has, the wait goes on; after that
    the 10 minutes begin anew.
    """
    service, waiting = await waiting_for_a_drain(stepped, False, busy, busy, False)
    await stepped.step(1500)
    assert not waiting.done()
    assert len(service.looked) == 4
    await stepped.step(320)
    with pytest.raises(StateUnreachable):
        await waiting
    assert len(service.looked) == 5


async def test_a_change_begins_the_ten_minutes_anew(stepped: Stepped) -> None:
    """As long as a draining session changes, something goes on in it; one that takes jobs again
    isn't looked at for any.
    """
    service, waiting = await waiting_for_a_drain(stepped, False)
    await stepped.step(500)
    service.readings = [
        in_state("active", "open", "active", "inactive", "active", accepting_jobs=False)
    ]
    await stepped.step(500)
    assert not waiting.done()
    assert len(service.looked) == 2
    service.readings = [in_state("open", accepting_jobs=True)]
    await stepped.step(2000)
    assert len(service.looked) == 2
    service.readings = [in_state("closed", accepting_jobs=False)]
    await stepped.step(20)
    assert (await waiting).is_final


async def test_a_change_that_somebody_sees_during_the_look_counts(stepped: Stepped) -> None:
    """When the session is seen to take jobs again while its jobs are looked at, what the look finds
    says nothing.
    """
    service, waiting = await waiting_for_a_drain(stepped, False)
    service.jobs_gate = asyncio.Event()
    await stepped.step(320)
    assert len(service.looked) == 1
    service.readings = [in_state("open", accepting_jobs=True)]
    await service.live().refresh()
    service.jobs_gate.set()
    await stepped.step(2000)
    assert not waiting.done()
    assert len(service.looked) == 1
    await cancel(waiting)


async def test_who_comes_late_waits_for_a_second_look(stepped: Stepped) -> None:
    """Two looks are five minutes apart, also where the session was seen to drain long before
    anybody waited again.
    """
    service, waiting = await waiting_for_a_drain(stepped, False)
    await cancel(waiting)
    await stepped.step(3600)
    late = start(service.live().wait_until("closed"))
    await stepped.step(250)
    assert not late.done()
    assert len(service.looked) == 1
    await stepped.step(80)
    with pytest.raises(StateUnreachable):
        await late


async def test_a_drain_that_is_not_carried_out_leaves_a_timeout_alone(stepped: Stepped) -> None:
    """A wait with a timeout lasts until then, and its error says that the session takes no jobs."""
    service = Scripted(stepped, DRAINING)
    service.jobs = [False]
    patient = start(service.live().wait_until("closed", timeout="2h"))
    await stepped.step(5000)
    assert service.poll.quiet_looks >= 2
    await stepped.step(2200)
    with pytest.raises(CallTimeout, match="it was last seen inactive, taking no more jobs"):
        await patient


async def test_a_drain_that_a_service_never_carries_out(
    against: Against, time: ManualClock
) -> None:
    """Against a service that accepts a drain and leaves the session open, the wait ends and says
    what to do.
    """
    draining = http(200, SESSION | {"state": "inactive", "accepting_jobs": False})

    async def answer(connection: Connection) -> None:
        about_jobs = server.received[-1].target.startswith("/v1/jobs")
        await connection.write(http(200, {"jobs": []}) if about_jobs else draining)

    server, client = await against(http(204), answer)
    live = client.attach("s1")
    await live.drain()
    begun = time.now
    with pytest.raises(StateUnreachable, match="the service has left it inactive"):
        await live.wait_until("closed")
    assert 600 <= time.now - begun < 660
    assert sum(request.target.startswith("/v1/jobs") for request in server.received) == 2
