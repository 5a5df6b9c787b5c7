"""What every database of a shared ledger must do, statement by statement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest

from qsessions import LeaseTerms, LedgerRecord, Mode, RecordState
from qsessions.ledger.database import Database
from qsessions.ledger.lease import OwnerRow

TERMS = LeaseTerms()


def owner_row(name: str = "owner", beat: int = 1) -> OwnerRow:
    """Return an owner at a beat."""
    return OwnerRow(id=name, host="node7", pid=42, since=1.78e9, terms=TERMS, beat=beat)


def record(state: str = "created", key: str = "key", **fields: Any) -> LedgerRecord:
    """Return a record, with an id unless it is an intent."""
    about: dict[str, Any] = {
        "key": key,
        "base_url": "https://quantum.example/api",
        "mode": Mode.BATCH,
        "asked_at": 1.78e9,
        "changed_at": 1.78e9,
        "state": RecordState(state),
        "session_id": None if state == "intent" else f"session of {key}",
        "labels": {"run": "zwölf"},
    }
    return LedgerRecord(**about | fields)


class Time:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return it."""
        return self.now


class DatabaseChecks:
    """The tests; each database has a class with a fixture `make` that returns one on a time."""

    @pytest.fixture
    def time(self) -> Time:
        """Return the database's time."""
        return Time()

    @pytest.fixture
    def make(self) -> Callable[[Time], Database]:
        """Return what makes a database."""
        raise NotImplementedError

    @pytest.fixture
    async def database(
        self, make: Callable[[Time], Database], time: Time
    ) -> AsyncIterator[Database]:
        """Return a database without records."""
        database = make(time)
        yield database
        await database.aclose()

    async def renew(
        self, database: Database, *records: LedgerRecord, late: bool = False, **about: Any
    ) -> int | None:
        """Renew a lease."""
        row = owner_row(**about)
        return await database.renew(row, records, begins=row.beat == 1, regardless=late)

    async def over(self, database: Database, time: Time) -> None:
        """Have the owner taken over."""
        time.now += TERMS.patience
        await database.take_over(await database.owners())

    async def kept(self, database: Database) -> list[LedgerRecord]:
        """Return the records."""
        return [record for record, _ in await database.entries(only_orphans=False)]

    async def test_an_owner_begins_and_renews(self, database: Database, time: Time) -> None:
        """An owner is there from its first statement on, and its age counts from its last."""
        assert await self.renew(database) == 1
        time.now += 5
        assert await self.renew(database, beat=2) is not None
        time.now += 3
        (row,) = await database.owners()
        assert row == attrs.evolve(owner_row(beat=2), age=row.age)
        assert row.age == pytest.approx(3)

    async def test_a_repeated_begin_renews(self, database: Database) -> None:
        """An owner whose first answer was lost begins again, as the same."""
        await self.renew(database)
        row = owner_row(beat=2)
        assert await database.renew(row, (), begins=True, regardless=False) == 1
        assert [each.beat for each in await database.owners()] == [2]

    async def test_an_owner_that_is_not_there(self, database: Database) -> None:
        """Without a row there is nothing to renew; records are written if they must be."""
        assert await self.renew(database, record(), beat=2) is None
        assert await self.kept(database) == []
        assert await self.renew(database, record(), beat=2, late=True) is None
        assert await self.kept(database) == [record()]

    async def test_living_owners_are_counted(self, database: Database, time: Time) -> None:
        """How many leases are good is counted once in a heartbeat."""
        for number in range(3):
            await self.renew(database, name=f"owner {number}")
        time.now += TERMS.heartbeat + 1
        await self.renew(database, name="owner 0", beat=2)
        assert await self.renew(database, name="owner 1", beat=2) == 3
        time.now += TERMS.ttl
        await self.renew(database, name="owner 0", beat=3)
        time.now += TERMS.heartbeat + 1
        await self.renew(database, name="owner 0", beat=4)
        assert await self.renew(database, name="owner 0", beat=5) == 1

    async def test_records_are_replaced_and_deleted(self, database: Database) -> None:
        """The newest of a key stands; an ended one is gone; all there is of one comes back."""
        await self.renew(database, record("intent"), record(key="other"))
        await self.renew(database, record(), record("ended", key="other"), beat=2)
        assert await self.kept(database) == [record()]
        ((_, row),) = await database.entries(only_orphans=False)
        assert (row.id, row.host, row.pid, row.is_over) == ("owner", "node7", 42, False)

    async def test_a_late_statement_changes_nothing(self, database: Database, time: Time) -> None:
        """One that is carried out after a later one neither writes nor renews."""
        await self.renew(database, record("intent"))
        await self.renew(database, record(), beat=3)
        time.now += 5
        assert await self.renew(database, record("intent"), beat=2, late=True) is None
        assert await self.renew(database, record(key="gone"), beat=2, late=True) is None
        assert await self.kept(database) == [record()]
        (row,) = await database.owners()
        assert row.beat == 3
        assert row.age == pytest.approx(5)

    async def test_a_late_statement_of_one_taken_over(self, database: Database, time: Time) -> None:
        """Of an owner that is over, too, the newest record stands."""
        await self.renew(database, record("intent"))
        await self.over(database, time)
        assert await self.renew(database, record(), beat=3, late=True) is None
        assert await self.renew(database, record("intent"), beat=2, late=True) is None
        assert await self.kept(database) == [record()]
        assert await self.renew(database, record("ended"), beat=5, late=True) is None
        assert await self.renew(database, record("intent"), beat=4, late=True) is None
        assert await self.kept(database) == []

    async def test_taking_over(self, database: Database, time: Time) -> None:
        """What was seen and is old enough is over, with the next epoch; then it can't be renewed."""
        await self.renew(database, record())
        time.now += TERMS.patience - 1
        seen = await database.owners()
        await database.take_over(seen)
        assert await database.owners() == seen
        time.now += 1
        await database.take_over(seen)
        assert await database.owners() == []
        ((_, row),) = await database.entries(only_orphans=True)
        assert (row.epoch, row.is_over) == (2, True)
        assert await self.renew(database, beat=2) is None

    async def test_a_renewal_wins_over_taking_over(self, database: Database, time: Time) -> None:
        """Who has renewed since it was seen is left alone, whatever the age says."""
        await self.renew(database)
        seen = await database.owners()
        await self.renew(database, beat=2)
        time.now += TERMS.patience
        await database.take_over(seen)
        assert len(await database.owners()) == 1
        await database.take_over([attrs.evolve(each, epoch=7) for each in await database.owners()])
        assert len(await database.owners()) == 1

    async def test_records_of_one_that_is_over(self, database: Database, time: Time) -> None:
        """They are written only if they must be, then they are an orphan's."""
        await self.renew(database)
        await self.over(database, time)
        await self.renew(database, record(), beat=2)
        assert await database.entries(only_orphans=True) == []
        await self.renew(database, record(), beat=3, late=True)
        assert len(await database.entries(only_orphans=True)) == 1

    async def test_a_new_owner_takes_its_records_along(self, database: Database) -> None:
        """A record that another owner writes is that owner's."""
        await self.renew(database, record())
        await self.renew(database, record("draining"), name="another")
        ((kept, row),) = await database.entries(only_orphans=False)
        assert (kept.state, row.id) == (RecordState.DRAINING, "another")

    async def test_orphans_come_with_others_of_the_same_session(
        self, database: Database, time: Time
    ) -> None:
        """Of a session that another owner has recorded, too, both records are given."""
        await self.renew(database, record("intent", key="a"), record(key="b", session_id="s"))
        await self.over(database, time)
        await self.renew(database, record(key="c", session_id="s"), record(key="d"), name="living")
        found = await database.entries(only_orphans=True)
        assert [(each.key, row.is_over) for each, row in found] == [
            ("a", True),
            ("b", True),
            ("c", False),
        ]

    async def test_amending(self, database: Database, time: Time) -> None:
        """Records of owners that are over are replaced or deleted, once; of others they are not."""
        await self.renew(database, record(), record(key="other"))
        await self.renew(database, record(key="its"), name="living")
        change = ("owner", record(), record("ended"))
        assert await database.amend([change]) == [False]
        time.now += TERMS.patience - 1
        await self.renew(database, name="living", beat=2)
        time.now += 1
        await database.take_over(await database.owners())
        drained = record("draining", key="other")
        changes = [
            ("owner", record(key="other"), drained),
            ("living", record(key="its"), record("ended", key="its")),
            change,
        ]
        assert await database.amend([("living", record(), record("ended"))]) == [False]
        assert await database.amend(changes) == [True, False, True]
        assert await database.amend([change]) == [False]
        assert await self.kept(database) == [record(key="its"), drained]

    async def test_an_id_that_came_meanwhile_is_not_amended(
        self, database: Database, time: Time
    ) -> None:
        """A record that has got its session's id since it was read is left as it is."""
        await self.renew(database, record("intent"))
        await self.over(database, time)
        await self.renew(database, record(), beat=2, late=True)
        for new in (record("ended"), record("intent")):
            assert await database.amend([("owner", record("intent"), new)]) == [False]
        assert await self.kept(database) == [record()]

    async def test_giving_back(self, database: Database) -> None:
        """An owner without records is gone; one with some is over."""
        await self.renew(database)
        await database.release(owner_row())
        assert await database.owners() == []
        await self.renew(database, record(detached=True), name="another")
        await database.release(owner_row("another"))
        await database.release(owner_row("another"))
        assert await database.owners() == []
        assert len(await database.entries(only_orphans=True)) == 1
        # An hour later nobody needs the row.
        await database.amend([])

    async def test_one_that_is_over_gives_nothing_back(
        self, database: Database, time: Time
    ) -> None:
        """An owner that was taken over stays as it is."""
        await self.renew(database, record())
        await self.over(database, time)
        await database.release(owner_row())
        ((_, row),) = await database.entries(only_orphans=True)
        assert row.epoch == 2

    async def test_owners_that_are_long_over_are_deleted(
        self, database: Database, time: Time
    ) -> None:
        """An hour after it is over, an owner without records is deleted by the next change; a record
        that it writes later is an orphan's all the same.
        """
        await self.renew(database, record())
        await self.over(database, time)
        time.now += 4000
        assert await database.amend([("owner", record(), record("ended"))]) == [True]
        await database.amend([])
        assert await self.renew(database, record(), beat=2, late=True) is None
        ((_, row),) = await database.entries(only_orphans=False)
        assert (row.id, row.host, row.is_over) == ("owner", "node7", True)
        assert len(await database.entries(only_orphans=True)) == 1
