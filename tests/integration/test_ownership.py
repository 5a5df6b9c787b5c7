"""What a client does about its process's lease in a shared ledger, and when that is lost."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    ConfigurationError,
    EndingFailed,
    Event,
    InvalidArgument,
    Lease,
    LeaseLost,
    LeaseState,
    LeaseTerms,
    LedgerEntry,
    LedgerFailed,
    LedgerUnavailable,
    Liveness,
    LocalLedger,
    OwnershipLost,
    RecordState,
    Verdict,
    reap,
)
from qsessions.emulator import Emulator, Fault
from qsessions.ledger.lease import Holding
from qsessions.testing import ManualClock
from tests.support.clients import client_of
from tests.support.given_lease import GivenLease
from tests.support.given_ledger import entry
from tests.support.tables import table
from tests.support.waiting import until

WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": "10m"}
LOST = (LeaseState.UNRENEWED, LeaseState.TAKEN)


@pytest.fixture
def ledger() -> GivenLease:
    """Return a ledger with a lease that is held."""
    return GivenLease()


@pytest.fixture
def told() -> list[Event]:
    """Return what the observer was told."""
    return []


def lost(told: list[Event]) -> list[OwnershipLost]:
    """Return the events about a lost lease."""
    return [event for event in told if isinstance(event, OwnershipLost)]


def ended(ledger: GivenLease) -> int:
    """Return how many records are ended."""
    return sum(record.state is RecordState.ENDED for record in ledger.kept.values())


async def test_a_client_that_creates_nothing_holds_no_lease(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """The lease begins with the first create, and each client begins it once."""
    async with client_of(emulator, time, ledger=ledger) as client:
        await client.versions()
        assert ledger.renewals == 0
        for _ in range(2):
            await client.create(**WANTED)
        await until(lambda: ledger.renewals == 1)


async def test_who_can_no_longer_renew_goes_on(
    emulator: Emulator,
    time: ManualClock,
    ledger: GivenLease,
    told: list[Event],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lease that can't be renewed is told with the open sessions, which go on, and so do creates;
    once it is renewed again the log says so.
    """
    caplog.set_level(logging.INFO, "qsessions")
    async with client_of(emulator, time, ledger=ledger, observers=[told.append]) as client:
        first, second = [await client.create(**WANTED) for _ in range(2)]
        await client.drain(second.id)
        await ledger.set(LeaseState.HELD, living=2)
        assert lost(told) == []
        await ledger.set(LeaseState.UNRENEWED)
        assert lost(told) == [
            OwnershipLost(
                reason="it could not be renewed", taken_over=False, session_ids=(first.id,)
            )
        ]
        await client.create(**WANTED)
        await ledger.set(LeaseState.HELD)
        assert caplog.messages[-1] == "this process's lease in the ledger is renewed again"
    assert len(emulator.open_sessions) == 2


@pytest.mark.parametrize("state", LOST)
async def test_ending_at_once(
    emulator: Emulator,
    time: ManualClock,
    ledger: GivenLease,
    told: list[Event],
    state: LeaseState,
) -> None:
    """With on_lost="end" all sessions are closed, those of blocks too, whose handles say why; none
    is created meanwhile.
    """
    client = client_of(emulator, time, ledger=ledger, on_lost="end", observers=[told.append])
    async with client, client.open(**WANTED) as live:
        await client.create(**WANTED)
        await ledger.set(state)
        with pytest.raises(LeaseLost, match="nothing was created: it could not be renewed"):
            await client.create(**WANTED)
        await until(lambda: ended(ledger) == 2)
        assert live.ended_by == "lost_lease"
    assert emulator.open_sessions == []
    assert [event.taken_over for event in lost(told)] == [state is LeaseState.TAKEN]


async def test_an_end_that_fails(
    emulator: Emulator, time: ManualClock, ledger: GivenLease, told: list[Event]
) -> None:
    """A session that can't be ended when the lease is lost is told, and the next one is ended."""
    client = client_of(emulator, time, ledger=ledger, on_lost="end", observers=[told.append])
    async with client:
        first, _ = [await client.create(**WANTED) for _ in range(2)]
        emulator.faults.add(Fault(kind="answer", operations=["close"], status=400, times=1))
        await ledger.set(LeaseState.UNRENEWED)
        await until(lambda: ended(ledger) == 1)
    assert [event.session_id for event in told if isinstance(event, EndingFailed)] == [first.id]


async def test_who_was_taken_over_creates_no_more(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """After another process took over, nothing is sent by a create; a new client is the way on."""
    async with client_of(emulator, time, ledger=ledger) as client:
        session = await client.create(**WANTED)
        await ledger.set(LeaseState.TAKEN)
        sent = len(emulator.requests)
        with pytest.raises(LeaseLost, match="new client") as caught:
            await client.create(**WANTED)
        assert not caught.value.retryable
        assert len(emulator.requests) == sent
        # It is still this program's to use.
        await client.close(session.id)


async def test_a_take_over_that_the_intent_finds(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """A process that wakes finds its lease gone when it writes what it is about to create, and
    doesn't send it.
    """
    async with client_of(emulator, time, ledger=ledger) as client:
        ledger.gate.clear()
        creating = asyncio.create_task(client.create(**WANTED))
        await ledger.called.wait()
        await ledger.set(LeaseState.TAKEN)
        ledger.gate.set()
        with pytest.raises(LeaseLost):
            await creating
    assert emulator.open_sessions == []


async def test_a_lease_that_never_begins(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """A database that is away stops no create."""
    ledger.renew_failure = LedgerUnavailable("away")
    ledger.record_failure = LedgerUnavailable("away")
    async with client_of(emulator, time, ledger=ledger) as client:
        await client.create(**WANTED)
    assert len(emulator.open_sessions) == 1


async def test_processes_share_the_rate_of_a_watch(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """Where two processes hold leases, each watches at half the rate; where that isn't known yet, at
    a tenth of it.
    """
    spent = []
    for lease in (Lease(living=1), Lease(living=2), Holding(LeaseTerms(), 0.0).lease):
        ledger.lease = lease
        async with client_of(emulator, time, ledger=ledger) as client:
            sessions = [await client.create(**WANTED) for _ in range(20)]
            for session in sessions:
                await client.close(session.id)
            began = time.monotonic()
            async for _ in client.watch([session.id for session in sessions], rate=2):
                pass
            spent.append(time.monotonic() - began)
    assert spent[1] == pytest.approx(2 * spent[0], rel=0.1)
    assert spent[2] == pytest.approx(10 * spent[0], rel=0.1)


async def test_reap_takes_over_first(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """`reap` looks at the leases, and then at the records of dead owners alone; a dry run, or one
    of named records, reads them all, and a dry run takes nothing over.
    """
    async with client_of(emulator, time) as client:
        dead, living = [await client.create(**WANTED) for _ in range(2)]
        ledger.given = [
            entry(Liveness.DEAD, session_id=dead.id, base_url=client.base_url),
            entry(Liveness.ALIVE, session_id=living.id, base_url=client.base_url),
        ]
        decided = await reap(client, ledger, dry_run=True)
        assert ledger.looks == 0
        assert [item.decision.verdict for item in decided] == [Verdict.CLOSE, Verdict.LEAVE]
        (named,) = await reap(client, ledger, only=living.id)
        assert named.decision.verdict is Verdict.LEAVE
        (reaped,) = await reap(client, ledger)
        assert (ledger.looks, reaped.entry.record.session_id, reaped.done) == (2, dead.id, True)


async def test_what_is_taken_over_while_reap_decides(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """A session that a living process has taken over meanwhile stays open, and so do all where the
    ledger can't be read again.
    """
    async with client_of(emulator, time) as client:
        left = (await client.create(**WANTED)).id
        dead = entry(Liveness.DEAD, session_id=left, base_url=client.base_url)
        adopted = entry(Liveness.ALIVE, session_id=left, base_url=client.base_url, key="new")
        for then, verdict in (([dead, adopted], Verdict.LEAVE), ([], Verdict.UNDECIDED)):
            read = iter([[dead], then])

            async def orphans(read: Any = read) -> list[LedgerEntry]:
                found: list[LedgerEntry] = next(read)
                if not found:
                    raise LedgerUnavailable("away")
                return found

            ledger.orphans = orphans  # type: ignore[method-assign]
            (reaped,) = await reap(client, ledger)
            assert (reaped.decision.verdict, reaped.done) == (verdict, False)
    assert len(emulator.open_sessions) == 1


async def test_reap_looks_on_while_it_works(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """A round that takes long looks at the leases at every heartbeat."""
    going_on = asyncio.Event()
    async with client_of(emulator, time) as client:
        left = (await client.create(**WANTED)).id
        dead = entry(Liveness.DEAD, session_id=left, base_url=client.base_url)
        reads = 0

        async def orphans() -> list[LedgerEntry]:
            nonlocal reads
            reads += 1
            if reads > 1:
                await going_on.wait()
            return [dead]

        ledger.orphans = orphans  # type: ignore[method-assign]
        reaping = asyncio.create_task(reap(client, ledger))
        await until(lambda: reads == 2)
        for looks in (2, 3):
            time.advance(10)
            await until(lambda looks=looks: ledger.looks == looks)  # type: ignore[misc]
        going_on.set()
        (reaped,) = await reaping
        assert reaped.done


async def test_a_create_in_flight_when_the_lease_is_lost(
    emulator: Emulator, time: ManualClock, ledger: GivenLease
) -> None:
    """With on_lost="end" what comes of it is closed too, and its block is told why."""
    client = client_of(emulator, time, ledger=ledger, on_lost="end")
    async with client:
        entered = asyncio.Event()

        async def block() -> str | None:
            async with client.open(**WANTED) as live:
                entered.set()
                await until(lambda: ended(ledger) == 1)
                return live.ended_by

        emulator.faults.add(Fault(kind="latency", operations=["create"], seconds=0.2))
        running = asyncio.create_task(block())
        await until(lambda: any(one.operation == "create" for one in emulator.requests))
        await ledger.set(LeaseState.UNRENEWED)
        assert await running == "lost_lease"
    assert emulator.open_sessions == []


async def test_a_ledger_of_ones_own_that_breaks(
    emulator: Emulator, time: ManualClock, ledger: GivenLease, told: list[Event]
) -> None:
    """What it raises is told, and stops no create."""
    ledger.renew_failure = OSError("no way there")

    async def next_lease(_: Lease) -> Lease:
        raise OSError("it broke")

    ledger.next_lease = next_lease  # type: ignore[method-assign,assignment]
    async with client_of(emulator, time, ledger=ledger, observers=[told.append]) as client:
        await client.create(**WANTED)
        failed = LedgerFailed(reason="OSError: it broke")
        await until(lambda: failed in told)


async def test_a_ledger_that_is_closed_under_its_client(
    emulator: Emulator, time: ManualClock, ledger: GivenLease, told: list[Event]
) -> None:
    """The lease is followed no more, which is no failure."""
    followed = asyncio.Event()

    async def next_lease(_: Lease) -> Lease:
        followed.set()
        raise LedgerUnavailable("the ledger was closed.")

    ledger.next_lease = next_lease  # type: ignore[method-assign,assignment]
    async with client_of(emulator, time, ledger=ledger, observers=[told.append]) as client:
        await client.create(**WANTED)
        await followed.wait()
    assert not any(isinstance(event, LedgerFailed) for event in told)


def test_the_ledger_of_the_environment(
    home: object, monkeypatch: pytest.MonkeyPatch, emulator: Emulator
) -> None:
    """QSESSIONS_LEDGER counts for clients that are given no ledger, and None means none."""
    monkeypatch.setenv("QSESSIONS_LEDGER", "local")
    for ledger, kind in ((..., LocalLedger), (None, type(None))):
        client = AsyncSessionClient([], base_url="http://127.0.0.1:9", ledger=ledger)
        assert type(client._recorder.ledger) is kind
    monkeypatch.setenv("QSESSIONS_LEDGER", "postgres:pass/word@host")
    with pytest.raises(ConfigurationError, match="QSESSIONS_LEDGER must be") as caught:
        AsyncSessionClient([], base_url="http://127.0.0.1:9")
    assert "pass/word" not in str(caught.value)


def test_no_such_way_to_lose_it() -> None:
    """A typo in on_lost is refused when the client is made."""
    with pytest.raises(InvalidArgument, match="on_lost"):
        AsyncSessionClient([], on_lost="stop")  # type: ignore[arg-type]  # that is the point


@table("wrong", [{"heartbeat": 0}, {"ttl": float("inf")}, {"delay": "1m"}, {"heartbeat": 20}])
def test_terms_that_cant_be(wrong: dict[str, Any]) -> None:
    """Terms by which a living owner could lose its lease are refused."""
    with pytest.raises(ConfigurationError, match=r"of a lease must be|too short"):
        LeaseTerms(**wrong)
