"""A database in memory, with the statements of a shared ledger, and what they take and weigh.

It does what qsessions/ledger/postgres_schema.py has PostgreSQL do, with indexes of its own, so that
ten thousand owners cost no more than they must.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

import attrs
from attrs import define, frozen

from qsessions.ledger.lease import OwnerRow
from qsessions.ledger.records import LedgerRecord, RecordState

T = TypeVar("T")

# How many statements it carries out at a time: what a pooler lets through.
_AT_ONCE = 20
# What a statement takes at least, what each row adds, and what the network adds, in seconds. They
# were measured by `python -m benchmarks.fleet --database`, and are rounded up.
_STATEMENT_S = 0.0005
_ROW_S = 3e-6
_NETWORK_S = 0.001
# How often the leases that are good are counted.
_COUNT_S = 10.0


@define
class _Lease:
    """An owner's row."""

    owner: OwnerRow
    epoch: int
    renewed_at: float
    beat: int = 0
    over_at: float | None = None


@frozen
class Outage:
    """When the database answers nothing, in seconds."""

    begins: float
    ends: float

    def covers(self, now: float) -> bool:
        """Return whether it is going on."""
        return self.begins <= now < self.ends


class SimulatedDatabase:
    """The database of a fleet.

    A statement that an outage meets is never answered. One whose sender gives up or dies is carried
    out all the same.

    Args:
        loop: The event loop, whose time counts.
        random: Chance.
        outage: When it is away, or None.

    Attributes:
        statements: How many of each kind there were.
        rows: How many rows they returned, by their kind.
        by_minute: How many statements there were in each minute.
        records: The records with the ids of their owners, by key.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, random: Random, outage: Outage | None
    ) -> None:
        self._loop = loop
        self._random = random
        self._outage = outage
        self.statements: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.by_minute: Counter[int] = Counter()
        self.records: dict[str, tuple[LedgerRecord, str]] = {}
        self._leases: dict[str, _Lease] = {}
        self._keys: dict[str, set[str]] = {}
        # The ids of owners that are over and have records.
        self._orphaned: dict[str, None] = {}
        self._living, self._counted_at = 1, -_COUNT_S
        self._free_at = [0.0] * _AT_ONCE

    async def run(self, kind: str, rows: int, work: Callable[[], T]) -> T:
        """Carry out a statement that reads so many rows."""
        now = self._loop.time()
        self.statements[kind] += 1
        self.rows[kind] += rows
        self.by_minute[int(now // 60)] += 1
        reply: asyncio.Future[T] = self._loop.create_future()
        if self._outage is None or not self._outage.covers(now):
            takes = (_STATEMENT_S + rows * _ROW_S) * self._random.lognormvariate(0.0, 0.5)
            done_at = max(now, self._free_at[0]) + takes
            heapq.heapreplace(self._free_at, done_at)
            self._loop.call_later(done_at + _NETWORK_S - now, self._carry_out, reply, work)
        return await reply

    def _carry_out(self, reply: asyncio.Future[T], work: Callable[[], T]) -> None:
        if self._outage is None or not self._outage.covers(self._loop.time()):
            result = work()
            if not reply.done():
                reply.set_result(result)

    def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool
    ) -> int | None:
        """Write records, and renew a lease."""
        now = self._loop.time()
        for record in records:
            self._put(record, owner.id)
        if begins and owner.id not in self._leases:
            self._leases[owner.id] = _Lease(owner, owner.epoch, now)
        elif not self._renewed(owner, now):
            return None
        if now >= self._counted_at + _COUNT_S:
            self._counted_at = now
            self._living = sum(
                lease.over_at is None and now - lease.renewed_at < lease.owner.terms.ttl
                for lease in self._leases.values()
            )
        return max(1, self._living)

    def _renewed(self, owner: OwnerRow, now: float) -> bool:
        lease = self._leases.get(owner.id)
        if lease is None or lease.epoch != owner.epoch or lease.over_at is not None:
            return False
        lease.beat += 1
        lease.renewed_at = now
        return True

    def release(self, owner: OwnerRow) -> None:
        """Set an owner to be over, or delete it."""
        if not self._keys.get(owner.id):
            self._leases.pop(owner.id, None)
        elif (lease := self._leases[owner.id]).epoch == owner.epoch:
            self._end(lease)

    @property
    def owner_count(self) -> int:
        """How many owners there are."""
        return len(self._leases)

    def owners(self) -> Sequence[OwnerRow]:
        """Return the owners."""
        return [self._row(lease) for lease in self._leases.values()]

    def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """Set owners to be over that are still as they were seen."""
        for seen in owners:
            lease = self._leases[seen.id]
            is_same = (lease.epoch, lease.beat) == (seen.epoch, seen.beat)
            age = self._loop.time() - lease.renewed_at
            if is_same and lease.over_at is None and age >= seen.terms.patience:
                lease.epoch += 1
                self._end(lease)

    def orphan_count(self) -> int:
        """Return how many records belong to owners that are over."""
        return sum(len(self._keys[owner_id]) for owner_id in self._orphaned)

    def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """Return records with their owners. No two are about the same session."""
        owner_ids = self._orphaned if only_orphans else self._keys
        return [
            (self.records[key][0], self._row(self._leases[owner_id]))
            for owner_id in owner_ids
            for key in sorted(self._keys[owner_id])
        ]

    def amend(self, changes: Sequence[tuple[str, LedgerRecord]]) -> Sequence[bool]:
        """Replace records of owners that are over."""
        done = [
            owner_id in self._orphaned and record.key in self._keys[owner_id]
            for owner_id, record in changes
        ]
        for is_done, (owner_id, record) in zip(done, changes, strict=True):
            if is_done:
                self._put(record, owner_id)
        return done

    def _put(self, record: LedgerRecord, owner_id: str) -> None:
        keys = self._keys.setdefault(owner_id, set())
        if record.state is RecordState.ENDED:
            self.records.pop(record.key, None)
            keys.discard(record.key)
        else:
            self.records[record.key] = record, owner_id
            keys.add(record.key)
        lease = self._leases.get(owner_id)
        if not keys:
            self._orphaned.pop(owner_id, None)
        elif lease is not None and lease.over_at is not None:
            self._orphaned[owner_id] = None

    def _end(self, lease: _Lease) -> None:
        lease.over_at = self._loop.time()
        if self._keys.get(lease.owner.id):
            self._orphaned[lease.owner.id] = None

    def _row(self, lease: _Lease) -> OwnerRow:
        return attrs.evolve(
            lease.owner,
            epoch=lease.epoch,
            beat=lease.beat,
            age=self._loop.time() - lease.renewed_at,
            is_over=lease.over_at is not None,
        )


class Link:
    """One process's way to the database: a `Database`.

    Attributes:
        is_cut: Whether the process is dead. Its next statement ends the task that sends it.
    """

    def __init__(self, database: SimulatedDatabase) -> None:
        self._database = database

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool
    ) -> int | None:
        """See `Database`."""
        kind = "begin" if begins else "write records" if records else "heartbeat"
        return await self._database.run(
            kind, len(records), lambda: self._database.renew(owner, records, begins=begins)
        )

    async def release(self, owner: OwnerRow) -> None:
        """See `Database`."""
        await self._database.run("release", 0, lambda: self._database.release(owner))

    async def owners(self) -> Sequence[OwnerRow]:
        """See `Database`."""
        return await self._database.run(
            "owners", self._database.owner_count, self._database.owners
        )

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """See `Database`."""
        await self._database.run("take over", 0, lambda: self._database.take_over(owners))

    async def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """See `Database`."""
        kind = "orphans" if only_orphans else "entries"
        rows = self._database.orphan_count() if only_orphans else len(self._database.records)
        return await self._database.run(
            kind, rows, lambda: self._database.entries(only_orphans=only_orphans)
        )

    async def amend(self, changes: Sequence[tuple[str, LedgerRecord]]) -> Sequence[bool]:
        """See `Database`."""
        return await self._database.run("amend", 0, lambda: self._database.amend(changes))

    async def aclose(self) -> None:
        """See `Database`."""
