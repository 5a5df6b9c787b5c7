"""What the ledger in a database does with its lease and its records, case by case. How it does in
every order is in test_lease_machine.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from qsessions import (
    ConfigurationError,
    LeaseTerms,
    LedgerRecord,
    LedgerUnavailable,
    Liveness,
    RecordState,
)
from qsessions.ledger.database import DatabaseLedger
from qsessions.ledger.lease import Lease, LeaseState, OwnerRow
from tests.support.database_checks import record
from tests.support.manual_clock import Stepped
from tests.support.memory_database import MemoryDatabase


class GatedDatabase(MemoryDatabase):
    """A database in memory whose renewals wait for a gate before they are carried out.

    Attributes:
        gate: The gate.
        begun: How many renewals have begun.
        failure: What a renewal raises instead, if set.
        answer_lost: Whether the next renewal is carried out and raises that.
    """

    def __init__(self, time: Stepped) -> None:
        super().__init__(time.monotonic)
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = 0
        self.failure: Exception | None = None
        self.is_answer_lost = False

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """Renew it, when the gate is open."""
        self.begun += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        living = await super().renew(owner, records, begins=begins, regardless=regardless)
        if self.is_answer_lost:
            self.is_answer_lost = False
            raise ConnectionError("the connection is lost")
        return living


@pytest.fixture
async def database(stepped: Stepped) -> GatedDatabase:
    """Return a database on the test's time."""
    return GatedDatabase(stepped)


@pytest.fixture
async def ledger(database: GatedDatabase, stepped: Stepped) -> AsyncIterator[DatabaseLedger]:
    """Return a ledger; it ends with the test."""
    ledger = DatabaseLedger(database, LeaseTerms(), stepped)
    yield ledger
    if ledger._writer is not None:
        ledger._writer.cancel()
        await asyncio.wait({ledger._writer})


async def taken(ledger: DatabaseLedger, database: GatedDatabase, time: Stepped) -> None:
    """Have another take over the owner's lease, which was not renewed for long enough."""
    database.failure = ConnectionError("no way there")
    await time.step(ledger.terms.patience)
    await database.take_over(await database.owners())
    database.failure = None


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"heartbeat": 0}, "heartbeat of a lease must be seconds above 0"),
        ({"ttl": float("inf")}, "ttl of a lease must be seconds above 0"),
        ({"delay": True}, "delay of a lease must be seconds above 0"),
        ({"heartbeat": 16}, "a lease of 45 s is too short for a heartbeat of 16 s"),
        ({"delay": 19}, "a delay of 19 s is too short for a heartbeat of 10 s"),
    ],
)
def test_terms_that_can_not_hold_are_refused(terms: dict[str, float], message: str) -> None:
    """A lease outlives lost heartbeats, and a delay an owner's next try."""
    with pytest.raises(ConfigurationError, match=message):
        LeaseTerms(**terms)


async def test_a_detached_record_keeps_no_lease(
    ledger: DatabaseLedger, database: GatedDatabase
) -> None:
    """It is nobody's: its ledger gives the lease back, and the record stays."""
    await ledger.record(record(detached=True))
    await ledger.aclose()
    assert ledger.over.is_set()
    ((kept, owner),) = await database.entries(only_orphans=True)
    assert (kept.key, owner.is_over) == ("key", True)


async def test_a_closed_ledger_records_nothing(ledger: DatabaseLedger) -> None:
    """It says that it was closed; a second `aclose` does nothing."""
    await ledger.record(record())
    await ledger.record(record("ended"))
    await ledger.aclose()
    await ledger.aclose()
    for call in (ledger.record(record()), ledger.entries(), ledger.take_over(), ledger.renew()):
        with pytest.raises(LedgerUnavailable, match="the ledger was closed"):
            await call


async def test_whoever_leaves_ends_the_wait_and_not_the_writing(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """A record whose caller is cancelled is written all the same, and once."""
    database.gate.clear()
    left = asyncio.ensure_future(ledger.record(record()))
    await stepped.step(1)
    left.cancel()
    database.gate.set()
    await stepped.step(1)
    assert left.cancelled()
    assert database.record("key") == record()
    assert database.begun == 1


async def test_a_record_that_comes_while_an_earlier_one_is_written(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """The newest is written next, with all that came meanwhile in one statement."""
    database.gate.clear()
    calls = [asyncio.ensure_future(ledger.record(record("intent")))]
    await stepped.step(1)
    calls += [
        asyncio.ensure_future(ledger.record(each)) for each in (record(), record(key="other"))
    ]
    await stepped.step(1)
    database.gate.set()
    await asyncio.gather(*calls)
    assert database.begun == 2
    assert [database.record(key) for key in ("key", "other")] == [record(), record(key="other")]


async def test_what_could_not_be_written_is_written_later(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """It goes with the next heartbeat that gets there, and readers see it at once."""
    database.failure = ConnectionError("no way there")
    with pytest.raises(LedgerUnavailable, match="no way there"):
        await ledger.record(record())
    assert await ledger.entries() == []
    database.failure = None
    await stepped.step(ledger.terms.heartbeat)
    ((entry),) = await ledger.entries()
    assert entry.owner.liveness is Liveness.ALIVE


async def test_a_ledger_with_nothing_to_write_ends_at_once(
    ledger: DatabaseLedger, database: GatedDatabase
) -> None:
    """Where the database is away, nothing goes on for its sake."""
    database.failure = ConnectionError("no way there")
    with pytest.raises(LedgerUnavailable, match="no way there"):
        await ledger.take_over()
    await ledger.aclose()
    assert ledger.over.is_set()


async def test_a_ledger_that_is_closed_while_the_database_is_away(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """It goes on until its records are written, and then gives its lease back if none is open."""
    database.failure = ConnectionError("no way there")
    with pytest.raises(LedgerUnavailable, match="no way there"):
        await ledger.record(record().becomes(RecordState.ENDED, now=1.78e9))
    with pytest.raises(LedgerUnavailable, match="no way there"):
        await ledger.aclose()
    await ledger.aclose()

    async def follow() -> None:
        while True:
            await ledger.next_lease(ledger.lease)

    following = asyncio.ensure_future(follow())
    assert not ledger.over.is_set()
    database.failure = None
    await stepped.step(ledger.terms.heartbeat)
    assert ledger.over.is_set()
    with pytest.raises(LedgerUnavailable, match="was closed"):
        await following
    assert await database.owners() == []


async def test_a_lease_is_told_when_it_ends_and_not_at_the_next_heartbeat(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """That is when the lease has passed since the last renewal was sent, whatever fails meanwhile."""
    await ledger.renew()
    held = ledger.lease
    following = asyncio.ensure_future(ledger.next_lease(held))
    database.failure = ConnectionError("no way there")
    await stepped.step(ledger.terms.ttl - 0.1)
    assert ledger.lease == held
    await stepped.step(0.2)
    lease = await following
    assert lease.state is LeaseState.UNRENEWED
    assert lease.reason == (
        "its lease of 45 s could not be renewed: "
        "the ledger can't be used: ConnectionError: no way there"
    )
    database.failure = None
    await stepped.step(ledger.terms.heartbeat)
    assert ledger.lease == Lease(living=1)


async def test_an_answer_that_comes_too_late_holds_no_lease(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """A process that was paused while it renewed renews again at once."""
    await ledger.renew()
    database.gate.clear()
    await stepped.step(ledger.terms.heartbeat)
    begun = database.begun
    # It was paused: its deadline has passed, and the answer is there.
    stepped.now += ledger.terms.ttl
    database.gate.set()
    await stepped.step(0)
    assert database.begun == begun + 1
    assert ledger.lease.state is LeaseState.HELD


async def test_who_owns_nothing_goes_on_as_a_new_owner(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """A process that was paused with nothing open isn't told, and its next record is a new owner's."""
    await ledger.renew()
    before = ledger.owner.id
    await taken(ledger, database, stepped)
    await ledger.record(record())
    assert ledger.owner.id != before
    assert ledger.lease.state is LeaseState.HELD
    assert await database.entries(only_orphans=True) == []


async def test_an_answer_that_was_lost_may_have_been_carried_out(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """What another may have read as this owner's is never a new owner's: the session may be ended."""
    await ledger.renew()
    database.is_answer_lost = True
    with pytest.raises(LedgerUnavailable):
        await ledger.record(record())
    assert database.record("key") == record()
    await taken(ledger, database, stepped)
    await stepped.step(ledger.terms.heartbeat)
    assert ledger.lease.state is LeaseState.TAKEN
    assert len(await database.entries(only_orphans=True)) == 1


async def test_one_that_was_taken_over_goes_on_when_it_owns_nothing(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """Once its last session is over, its next heartbeat is a new owner's."""
    await ledger.record(record())
    await taken(ledger, database, stepped)
    await stepped.step(ledger.terms.heartbeat)
    assert ledger.lease.state is LeaseState.TAKEN
    following = asyncio.ensure_future(ledger.next_lease(ledger.lease))
    await ledger.record(record().becomes(RecordState.ENDED, now=1.78e9))
    await stepped.step(ledger.terms.heartbeat)
    assert (await following).state is LeaseState.HELD
    await ledger.aclose()
    assert ledger.over.is_set()


async def test_one_that_was_taken_over_closes_with_what_it_has_open(
    ledger: DatabaseLedger, database: GatedDatabase, stepped: Stepped
) -> None:
    """There is no lease to renew for it, and the records are others' to end."""
    await ledger.record(record())
    await taken(ledger, database, stepped)
    await ledger.renew()
    await ledger.aclose()
    assert ledger.over.is_set()
    assert len(await database.entries(only_orphans=True)) == 1
