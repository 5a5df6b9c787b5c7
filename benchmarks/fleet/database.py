"""A database in memory, with the statements of a shared ledger, and what they take and weigh.

It does what qsessions/ledger/postgres_schema.py has PostgreSQL do, with indexes of its own, so that
ten thousand owners cost no more than they must.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import TypeVar

from attrs import define

from benchmarks.fleet.fleet import Result
from qsessions.ledger.lease import OwnerRow
from qsessions.ledger.records import LedgerRecord, put

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


class SimulatedDatabase:
    """The database of a fleet.

    A statement that an outage meets is never answered. One whose sender gives up or dies is carried
    out all the same.

    Args:
        loop: The event loop, whose time counts.
        random: Chance.
        result: Counts the statements.

    Attributes:
        began_at: When the time of its counts begins.
        away: From when to when it answers nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random, result: Result) -> None:
        self._loop = loop
        self._random = random
        self._result = result
        self.began_at = 0.0
        self.away = (math.inf, math.inf)
        self._leases: dict[str, _Lease] = {}
        # By owner, then by key; and the owners that are over and have records.
        self._records: dict[str, dict[str, LedgerRecord]] = {}
        self._orphaned: dict[str, None] = {}
        self._living, self._counted_at = 1, -math.inf
        self._free_at = [0.0] * _AT_ONCE

    def records(self) -> Iterator[LedgerRecord]:
        """Yield the records."""
        for records in self._records.values():
            yield from records.values()

    async def run(self, kind: str, rows: int, work: Callable[[], T]) -> T:
        """Carry out a statement that returns so many rows."""
        now, result = self._loop.time(), self._result
        result.statements[kind] += 1
        result.rows[kind] += rows
        result.by_second[int(now - self.began_at)] += 1
        reply: asyncio.Future[T] = self._loop.create_future()
        if not self._is_away(now):
            takes = (_STATEMENT_S + rows * _ROW_S.get(kind, 0.0)) * self._random.lognormvariate(
                0.0, 0.5
            )
            done_at = max(now, self._free_at[0]) + takes
            heapq.heapreplace(self._free_at, done_at)
            self._loop.call_later(done_at + _NETWORK_S - now, self._carry_out, reply, work)
        return await reply

    def _carry_out(self, reply: asyncio.Future[T], work: Callable[[], T]) -> None:
        if not self._is_away(self._loop.time()):
            result = work()
            if not reply.done():
                reply.set_result(result)

    def _is_away(self, now: float) -> bool:
        return self.away[0] <= now < self.away[1]

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
        lease = self._leases.get(owner.id)
        if lease is not None and lease.epoch == owner.epoch:
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

    @property
    def orphan_count(self) -> int:
        """How many records belong to owners that are over."""
        return sum(len(self._records[owner_id]) for owner_id in self._orphaned)

    @property
    def record_count(self) -> int:
        """How many records there are."""
        return sum(map(len, self._records.values()))

    def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """Return records with their owners. No two are about the same session."""
        owner_ids = self._orphaned if only_orphans else self._records
        return [
            (record, self._row(self._leases[owner_id]))
            for owner_id in owner_ids
            for record in self._records[owner_id].values()
        ]

    def amend(self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]) -> Sequence[bool]:
        """Replace records of owners that are over, if they are as they were read."""
        done = []
        for owner_id, seen, record in changes:
            now = self._records[owner_id].get(seen.key) if owner_id in self._orphaned else None
            done.append(now is not None and now.session_id == seen.session_id)
            if done[-1]:
                self._put(record, owner_id)
        return done

    def _put(self, record: LedgerRecord, owner_id: str) -> None:
        put(self._records.setdefault(owner_id, {}), record)
        if (lease := self._leases[owner_id]).is_over:
            self._end(lease)

    def _end(self, lease: _Lease) -> None:
        owner_id, lease.is_over = lease.owner.id, True
        if self._records.get(owner_id):
            self._orphaned[owner_id] = None
        else:
            # PostgreSQL's goes ten minutes later, which no reaper sees.
            self._orphaned.pop(owner_id, None)
            self._records.pop(owner_id, None)
            self._leases.pop(owner_id)

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
        renew = partial(self._database.renew, owner, records, begins=begins, regardless=regardless)
        return await self._database.run("records" if records else "heartbeats", len(records), renew)

    async def release(self, owner: OwnerRow) -> None:
        """See `Database`."""
        await self._database.run("release", 0, lambda: self._database.release(owner))

    async def owners(self) -> Sequence[OwnerRow]:
        """See `Database`."""
        return await self._database.run("owners", self._database.owner_count, self._database.owners)

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """See `Database`."""
        await self._database.run("take over", 0, lambda: self._database.take_over(owners))

    async def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """See `Database`."""
        kind = "orphans" if only_orphans else "entries"
        database = self._database
        rows = database.orphan_count if only_orphans else database.record_count
        return await self._database.run(
            kind, rows, lambda: database.entries(only_orphans=only_orphans)
        )

    async def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """See `Database`."""
        return await self._database.run("amend", 0, lambda: self._database.amend(changes))

    async def aclose(self) -> None:
        """See `Database`."""
