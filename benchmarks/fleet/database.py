"""A database in memory, with the statements of a shared ledger, and what they take and weigh.

It does what qsessions/ledger/postgres_schema.py has PostgreSQL do, with indexes of its own, so that
ten thousand owners cost no more than they must.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import TypeVar

from attrs import define, frozen

from qsessions.ledger.lease import OwnerRow
from qsessions.ledger.records import LedgerRecord, RecordState

T = TypeVar("T")

# How many statements it carries out at a time: what a pooler lets through.
_AT_ONCE = 20
# What a statement takes, what a row that it returns adds, and the way there and back, in seconds.
# `python -m benchmarks.fleet --database` measures the first two.
_STATEMENT_S = 0.001
_ROW_S = {"owners": 1.5e-6, "orphans": 30e-6}
_NETWORK_S = 0.001


@define
class _Lease:
    """An owner's row."""

    owner: OwnerRow
    epoch: int
    beat: int
    renewed_at: float
    is_over: bool = False


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
        by_second: How many statements there were in each second.
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
        self.by_second: Counter[int] = Counter()
        self.records: dict[str, tuple[LedgerRecord, str]] = {}
        self._leases: dict[str, _Lease] = {}
        self._keys: dict[str, set[str]] = {}
        # The ids of owners that are over and have records.
        self._orphaned: dict[str, None] = {}
        self._living, self._counted_at = 1, -math.inf
        self._free_at = [0.0] * _AT_ONCE

    async def run(self, kind: str, rows: int, work: Callable[[], T]) -> T:
        """Carry out a statement that reads so many rows."""
        now = self._loop.time()
        self.statements[kind] += 1
        self.rows[kind] += rows
        self.by_second[int(now)] += 1
        reply: asyncio.Future[T] = self._loop.create_future()
        if self._outage is None or not self._outage.covers(now):
            takes = (_STATEMENT_S + rows * _ROW_S.get(kind, 0.0)) * self._random.lognormvariate(0.0, 0.5)
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
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """Write records, and renew a lease."""
        now, lease = self._loop.time(), self._leases.get(owner.id)
        is_late = lease is not None and lease.beat >= owner.beat
        if lease is None and begins:
            lease = self._leases[owner.id] = _Lease(owner, owner.epoch, owner.beat, now)
            is_renewed = True
        else:
            is_renewed = (
                lease is not None
                and not is_late
                and lease.epoch == owner.epoch
                and not lease.is_over
            )
        if lease is not None and is_renewed:
            lease.beat, lease.renewed_at = owner.beat, now
        if records and (is_renewed or (regardless and not is_late)):
            if lease is None:
                self._leases[owner.id] = _Lease(owner, owner.epoch, owner.beat, now, is_over=True)
            for record in records:
                self._put(record, owner.id)
        if now >= self._counted_at + owner.terms.heartbeat:
            self._counted_at = now
            self._living = sum(
                not lease.is_over and now - lease.renewed_at < lease.owner.terms.ttl
                for lease in self._leases.values()
            )
        return max(1, self._living) if is_renewed else None

    def release(self, owner: OwnerRow) -> None:
        """Set an owner to be over, or delete it."""
        if not self._keys.get(owner.id):
            self._leases.pop(owner.id, None)
        elif (lease := self._leases[owner.id]).epoch == owner.epoch:
            self._end(lease)

    @property
    def owner_count(self) -> int:
        """How many owners are not over."""
        return len(self._leases) - len(self._orphaned)

    def owners(self) -> Sequence[OwnerRow]:
        """Return the owners that are not over."""
        return [self._row(lease) for lease in self._leases.values() if not lease.is_over]

    def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """Set owners to be over that are still as they were seen."""
        for seen in owners:
            lease = self._leases.get(seen.id)
            if lease is None or (lease.epoch, lease.beat) != (seen.epoch, seen.beat):
                continue
            if not lease.is_over and self._loop.time() - lease.renewed_at >= seen.terms.patience:
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

    def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """Replace records of owners that are over, if they are as they were read."""
        done = []
        for owner_id, seen, record in changes:
            has_it = owner_id in self._orphaned and seen.key in self._keys[owner_id]
            done.append(has_it and self.records[seen.key][0].session_id == seen.session_id)
            if done[-1]:
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
        if (lease := self._leases[owner_id]).is_over:
            self._end(lease)

    def _end(self, lease: _Lease) -> None:
        owner_id, lease.is_over = lease.owner.id, True
        if self._keys.get(owner_id):
            self._orphaned[owner_id] = None
        else:
            # PostgreSQL's goes ten minutes later, which no reaper sees.
            self._orphaned.pop(owner_id, None)
            self._leases.pop(owner_id)
            self._keys.pop(owner_id, None)

    def _row(self, lease: _Lease) -> OwnerRow:
        owner = lease.owner
        return OwnerRow(
            id=owner.id,
            host=owner.host,
            pid=owner.pid,
            since=owner.since,
            terms=owner.terms,
            epoch=lease.epoch,
            beat=lease.beat,
            age=self._loop.time() - lease.renewed_at,
            is_over=lease.is_over,
        )


class Link:
    """One process's way to the database: a `Database`."""

    def __init__(self, database: SimulatedDatabase) -> None:
        self._database = database

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """See `Database`."""
        renew = partial(
            self._database.renew, owner, records, begins=begins, regardless=regardless
        )
        return await self._database.run("records" if records else "heartbeats", len(records), renew)

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

    async def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """See `Database`."""
        return await self._database.run("amend", 0, lambda: self._database.amend(changes))

    async def aclose(self) -> None:
        """See `Database`."""
