"""All open sessions of an instance ended at once, but for those whose owner lives."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest

from qsessions import (
    AsyncSessionClient,
    Ending,
    Forbidden,
    IBMCloudAuth,
    InstanceNotFound,
    InvalidArgument,
    LedgerUnavailable,
    Liveness,
    LocalLedger,
    NotFound,
    ServiceCRN,
    SessionClient,
    Workload,
)
from qsessions.api.operations import YOUNG_S
from qsessions.emulator import Emulator, Fault
from qsessions.session.close_all import end
from qsessions.testing import ManualClock
from tests.support.calls import fault
from tests.support.given_ledger import GivenLedger, entry
from tests.support.loop_time import let_pass


class With(Protocol):
    """Makes a client of the emulator with a ledger, which ends with the test."""

    async def __call__(self, ledger: Any) -> AsyncSessionClient:
        """Make one with this ledger."""
        ...


@pytest.fixture
async def having(emulator: Emulator, time: ManualClock) -> AsyncIterator[With]:
    """Return a function that makes a client with a ledger."""
    async with AsyncExitStack() as stack:

        async def make(ledger: Any) -> AsyncSessionClient:
            auth = [
                IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time),
                ServiceCRN(emulator.crn),
            ]
            client = AsyncSessionClient(auth, base_url=emulator.url, clock=time, ledger=ledger)
            return await stack.enter_async_context(client)

        yield make


@pytest.fixture
async def made(client: AsyncSessionClient, time: ManualClock) -> list[str]:
    """Return the ids of three sessions: a dedicated one on ibm_fez, a batch on ibm_torino, and a
    dedicated one of a second later.
    """
    ids = [(await client.create(mode="dedicated", backend="ibm_fez", max_ttl="1h")).id]
    ids.append((await client.create(mode="batch", backend="ibm_torino", max_ttl="1h")).id)
    time.advance(1)
    ids.append((await client.create(mode="dedicated", backend="ibm_fez", max_ttl="1h")).id)
    return ids


def still_open(emulator: Emulator) -> list[str]:
    """Return the ids of the sessions that are open."""
    return [session.id for session in emulator.open_sessions]


@pytest.mark.smoke
async def test_all_are_closed(
    client: AsyncSessionClient, emulator: Emulator, made: list[str]
) -> None:
    """Every open session and batch is closed, oldest first, queued jobs never run; one that was
    closed before is none of them.
    """
    await client.close((await client.create(mode="batch", max_ttl="1h")).id)
    for _ in range(6):
        emulator.submit_job(made[0], seconds=60)
    endings = await client.close_all()
    assert [(one.workload.id, one.done, one.owner, one.error) for one in endings] == [
        (session_id, "close", None, None) for session_id in made
    ]
    assert [one.workload.status for one in endings] == ["in_progress", "pending", "pending"]
    emulator.assert_no_open_sessions()
    assert any(job.started is None for job in emulator.jobs.values())
    assert await client.close_all() == []


async def test_all_are_drained(
    client: AsyncSessionClient, emulator: Emulator, made: list[str]
) -> None:
    """With drain, running jobs and queued ones go on, and the session closes after them."""
    emulator.submit_job(made[0], seconds=60)
    endings = await client.close_all(how="drain")
    assert [one.done for one in endings] == ["drain"] * 3
    assert still_open(emulator) == made[:1]
    assert not emulator.sessions[made[0]].accepting_jobs


@pytest.mark.parametrize(
    ("filters", "ended"),
    [
        ({"mode": "batch"}, [1]),
        ({"mode": ["session"]}, [0, 2]),
        ({"backend": "ibm_torino"}, [1]),
        ({"created_after": datetime.fromtimestamp(1_780_000_000.5, UTC)}, [2]),
        ({"created_before": datetime.fromtimestamp(1_780_000_000.5, UTC)}, [0, 1]),
        ({"created_before": datetime.fromtimestamp(1_780_000_000.5, UTC), "mode": "session"}, [0]),
    ],
)
async def test_filters(
    client: AsyncSessionClient,
    emulator: Emulator,
    made: list[str],
    filters: dict[str, Any],
    ended: list[int],
) -> None:
    """Only those that fit every filter are ended."""
    endings = await client.close_all(**filters)
    assert [one.workload.id for one in endings] == [made[number] for number in ended]
    assert not {made[number] for number in ended} & set(still_open(emulator))
    assert len(still_open(emulator)) == 3 - len(ended)


async def test_one_that_fails_does_not_stop_the_others(
    client: AsyncSessionClient, emulator: Emulator, made: list[str]
) -> None:
    """A session that can't be ended is given with its error, and the others are ended; the result
    survives pickling.
    """
    emulator.faults.add(Fault(kind="answer", status=403, operations=["close"], times=1))
    endings = await client.close_all()
    (failed,) = [one for one in endings if one.error is not None]
    assert isinstance(failed.error, Forbidden)
    assert failed.error.session_id == failed.workload.id
    assert failed.done is None
    assert still_open(emulator) == [failed.workload.id]
    again = pickle.loads(pickle.dumps(failed))  # noqa: S301 - our own
    assert (again.workload, str(again.error)) == (failed.workload, str(failed.error))


async def test_one_that_is_gone_is_ended(
    client: AsyncSessionClient, emulator: Emulator, time: ManualClock, made: list[str]
) -> None:
    """A session that the service doesn't know any more counts as ended; one of just now, which it
    may not know yet, doesn't.
    """
    emulator.faults.add(Fault(kind="answer", status=404, operations=["close", "get"]))
    (young,) = await client.close_all(mode="batch")
    assert (young.done, type(young.error)) == (None, NotFound)
    time.advance(YOUNG_S)
    assert [one.done for one in await client.close_all(mode="batch")] == ["close"]


async def test_an_instance_that_is_not_found_ends_nothing(
    client: AsyncSessionClient, emulator: Emulator, made: list[str]
) -> None:
    """A 404 about the instance says nothing about a session, which is told with the error and is
    open.
    """
    emulator.faults.add(
        Fault(kind="answer", status=404, body=fault(code=1279), operations=["close"])
    )
    (failed,) = await client.close_all(mode="batch")
    assert (failed.done, type(failed.error)) == (None, InstanceNotFound)
    assert failed.workload.id in still_open(emulator)


async def test_those_whose_owner_lives_or_may_live_are_passed_over(
    having: With, emulator: Emulator, made: list[str]
) -> None:
    """A living owner's session and one whose owner can't be told stay open; a dead one's is closed;
    or all, where that is asked for.
    """
    ledger = GivenLedger(
        entry(Liveness.ALIVE, session_id=made[0]),
        entry(Liveness.UNKNOWN, session_id=made[1]),
        entry(Liveness.DEAD, session_id=made[2]),
    )
    client = await having(ledger)
    endings = await client.close_all()
    assert [one.done for one in endings] == [None, None, "close"]
    assert [one.owner and one.owner.liveness for one in endings] == [
        Liveness.ALIVE,
        Liveness.UNKNOWN,
        None,
    ]
    assert still_open(emulator) == made[:2]
    assert [one.done for one in await client.close_all(include_owned=True)] == ["close", "close"]
    emulator.assert_no_open_sessions()


async def test_detached_ones_belong_to_nobody(
    having: With, emulator: Emulator, made: list[str]
) -> None:
    """A session that was made to outlive its maker is ended though nobody can tell whether that
    lives, but not while it is being made.
    """
    ledger = GivenLedger(
        entry(Liveness.UNKNOWN, session_id=made[0], detached=True),
        entry(Liveness.ALIVE, session_id=made[1], detached=True),
    )
    await (await having(ledger)).close_all()
    assert still_open(emulator) == [made[1]]


async def test_one_that_is_just_being_created_is_its_owners(
    having: With, emulator: Emulator, made: list[str]
) -> None:
    """A session that may be the one whose id a living owner has yet to record is passed over; one
    whose id is known is another's.
    """
    ledger = GivenLedger(
        entry(
            Liveness.ALIVE, asked_at=1_780_000_000.0, changed_at=1_780_000_000.0, backend="ibm_fez"
        ),
        entry(Liveness.DEAD, session_id=made[0]),
    )
    await (await having(ledger)).close_all()
    assert still_open(emulator) == [made[2]]


async def test_a_clients_own_sessions_are_its_owners(
    having: With, emulator: Emulator, made: list[str], tmp_path: Any
) -> None:
    """What this client has opened itself is left to its block, by the local ledger."""
    ledger = LocalLedger(tmp_path / "ledger")
    client = await having(ledger)
    async with client.open(mode="batch", max_ttl="1h") as live:
        endings = await client.close_all()
        assert [one.done for one in endings] == ["close"] * 3 + [None]
        assert still_open(emulator) == [live.id]
    await ledger.aclose()
    emulator.assert_no_open_sessions()


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (LedgerUnavailable("it is full of holes."), "it is full of holes"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
async def test_a_ledger_that_cannot_be_read(
    having: With, emulator: Emulator, made: list[str], failure: Exception, why: str
) -> None:
    """Where nobody can tell whose sessions they are, none is ended, unless those of living owners
    are to end too.
    """
    ledger = GivenLedger()
    ledger.failure = failure
    client = await having(ledger)
    with pytest.raises(LedgerUnavailable, match=why):
        await client.close_all()
    assert still_open(emulator) == made
    assert len(await client.close_all(include_owned=True)) == 3


async def test_a_ledger_that_hangs(
    having: With, emulator: Emulator, made: list[str], time: ManualClock
) -> None:
    """A ledger that never answers is given up after its minute, and no session is ended."""

    class Hanging(GivenLedger):
        async def entries(self) -> Any:
            await let_pass(59, time)
            await let_pass(1, time)
            await asyncio.Event().wait()

    client = await having(Hanging())
    with pytest.raises(LedgerUnavailable, match="did not answer within 60 s"):
        await client.close_all()
    assert still_open(emulator) == made


@pytest.mark.parametrize(
    "wrong",
    [
        {"how": "stop"},
        {"mode": "job"},
        {"mode": ("session", "job")},
        {"mode": ()},
        {"mode": 5},
        {"backend": ""},
        {"created_before": "yesterday"},
        {"created_before": datetime(2026, 5, 1)},  # noqa: DTZ001 - a time without an offset is what is tested
        {"timeout": -1},
        {"api_version": "newest"},
    ],
)
async def test_what_cannot_be_right(
    client: AsyncSessionClient, emulator: Emulator, wrong: dict[str, Any]
) -> None:
    """A wrong argument is told before anything is sent."""
    with pytest.raises(InvalidArgument):
        await client.close_all(**wrong)
    assert emulator.requests == []


async def test_some_at_a_time() -> None:
    """However many there are, no more than twenty are being ended at once, and all are in the end;
    a foreign error stays one session's.
    """
    under_way: set[str] = set()
    most = 0
    go = asyncio.Event()

    async def call(session_id: str) -> None:
        nonlocal most
        under_way.add(session_id)
        most = max(most, len(under_way))
        if len(under_way) == 20:
            go.set()
        await go.wait()
        under_way.remove(session_id)
        if session_id == "s7":
            raise KeyError(session_id)

    found = [Ending(workload=Workload(id=f"s{number}")) for number in range(50)]
    endings = await end(found, "close", call, lambda: 0.0)
    assert most == 20
    assert [one.workload for one in endings] == [one.workload for one in found]
    assert [one.workload.id for one in endings if one.done is None] == ["s7"]
    assert isinstance(endings[7].error, KeyError)


async def test_without_await(emulator: Emulator, made: list[str]) -> None:
    """The facade does the same."""

    def close_all() -> list[Ending]:
        auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
        with SessionClient(auth, base_url=emulator.url) as client:
            return client.close_all(mode="session", how="drain")

    assert [one.workload.id for one in await asyncio.to_thread(close_all)] == [made[0], made[2]]
    assert still_open(emulator) == [made[1]]
