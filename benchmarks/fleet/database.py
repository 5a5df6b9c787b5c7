"""A database in memory, whose statements take time and are counted, and which may be away."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

from benchmarks.fleet.fleet import Result
from qsessions.ledger.lease import OwnerRow
from qsessions.ledger.records import LedgerRecord
from tests.support.memory_database import MemoryDatabase

T = TypeVar("T")

# How many statements it carries out at a time: what a pooler lets through.
_AT_ONCE = 20
# What a statement takes, what a row that it returns adds, and the way there and back, in seconds.
# `python -m benchmarks.fleet --statements` measures the first two.
_STATEMENT_S = 0.001
_ROW_S = 3e-6
_NETWORK_S = 0.001


class SimulatedDatabase:
    """The database of a fleet.

    A statement that an outage meets is never answered. One whose sender gives up or dies is carried
    out all the same.

    Args:
        loop: The event loop, whose time counts.
        random: Chance.
        result: Counts the statements.

    Attributes:
        tables: What is in it.
        began_at: When the time of its counts begins.
        away: From when to when it answers nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random, result: Result) -> None:
        self.tables = MemoryDatabase(loop.time)
        self._loop = loop
        self._random = random
        self._result = result
        self.began_at = 0.0
        self.away = (math.inf, math.inf)
        self._free_at = [0.0] * _AT_ONCE

    async def run(self, kind: str, statement: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Carry out a statement when its time comes, and return its answer when that arrives."""
        now = self._loop.time()
        self._result.statements[kind] += 1
        self._result.by_second[int(now - self.began_at)] += 1
        reply: asyncio.Future[T] = self._loop.create_future()
        if not self._is_away():
            begins_at = max(now, self._free_at[0])
            takes = _STATEMENT_S * self._random.lognormvariate(0.0, 0.5)
            heapq.heapreplace(self._free_at, begins_at + takes)
            after = begins_at + takes + _NETWORK_S - now
            self._loop.call_later(after, self._carry_out, kind, reply, statement)
        return await reply

    def _carry_out(
        self, kind: str, reply: asyncio.Future[T], statement: Callable[[], Coroutine[Any, Any, T]]
    ) -> None:
        if self._is_away():
            return
        answer = _run_at_once(statement())
        rows = len(answer) if isinstance(answer, Sequence) else 0
        self._result.rows[kind] += rows
        if rows:
            self._loop.call_later(rows * _ROW_S, _tell, reply, answer)
        else:
            _tell(reply, answer)

    def _is_away(self) -> bool:
        return self.away[0] <= self._loop.time() < self.away[1]


def _run_at_once(statement: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing."""
    try:
        statement.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the database in memory waits for something")


def _tell(reply: asyncio.Future[T], answer: T) -> None:
    if not reply.done():
        reply.set_result(answer)


class Link:
    """One process's way to the database: a `Database`."""

    def __init__(self, database: SimulatedDatabase) -> None:
        self._run, self._tables = database.run, database.tables

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """See `Database`."""
        renew = partial(self._tables.renew, owner, records, begins=begins, regardless=regardless)
        return await self._run("records" if records else "heartbeats", renew)

    async def release(self, owner: OwnerRow) -> None:
        """See `Database`."""
        await self._run("release", partial(self._tables.release, owner))

    async def owners(self) -> Sequence[OwnerRow]:
        """See `Database`."""
        return await self._run("owners", self._tables.owners)

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """See `Database`."""
        await self._run("take over", partial(self._tables.take_over, owners))

    async def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """See `Database`."""
        read = partial(self._tables.entries, only_orphans=only_orphans)
        return await self._run("orphans" if only_orphans else "entries", read)

    async def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """See `Database`."""
        return await self._run("amend", partial(self._tables.amend, changes))

    async def aclose(self) -> None:
        """See `Database`."""
