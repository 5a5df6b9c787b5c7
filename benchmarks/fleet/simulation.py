"""A fleet in virtual time: its workers and reapers run qsessions, on a clock that jumps.

What stands in for the rest are the database and the service, both in memory. A process that dies
does nothing more: its tasks end, and what it had sent is carried out all the same.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from random import Random
from typing import Any

from attrs import Factory, define, frozen

from benchmarks.fleet.database import Link, Outage, SimulatedDatabase
from benchmarks.fleet.service import Service, ServiceTransport
from benchmarks.fleet.virtual_loop import VirtualLoop
from benchmarks.payloads import CRN
from qsessions import AsyncSessionClient, IBMCloudAuth, LeaseTerms, QSessionsError, ServiceCRN
from qsessions.errors import LedgerUnavailable
from qsessions.ledger.database import DatabaseLedger
from qsessions.reaper import reap

# The time between two looks of `reap --watch` at records of unknown session ids.
_UNKNOWN_S = 300.0
_URL = "https://service.example.org/api"
_IAM_URL = "https://iam.example.org"


@frozen(kw_only=True)
class Fleet:
    """What is simulated, or really run.

    Attributes:
        workers: How many processes there are; one that dies is replaced.
        sessions: How many sessions each has.
        deaths: Which share of the workers dies in a minute.
        reapers: How many reapers there are.
        every: How often each looks, in seconds.
        terms: The terms of the leases.
        rate: How many requests a second those that watch may begin, all together.
        seconds: How long it goes on, once all workers have begun.
        starts_within: In how many seconds they begin, one after another.
        outage: When the database is away, counted as `seconds`, or None.
    """

    workers: int
    sessions: int = 10
    deaths: float = 0.01
    reapers: int = 1
    every: float = 10.0
    terms: LeaseTerms = LeaseTerms()
    rate: float = 20.0
    seconds: float = 3600.0
    starts_within: float = 60.0
    outage: Outage | None = None


@define(eq=False)
class Process:
    """A process of the fleet.

    Attributes:
        died_at: When it was killed, or None.
        tasks: Its tasks.
    """

    died_at: float | None = None
    tasks: set[asyncio.Task[Any]] = Factory(set)


@define
class Orphan:
    """A session whose owner died.

    Attributes:
        died_at: When that was, counted as `Fleet.seconds`.
        after: How many seconds later the session was closed, or None if it wasn't.
        is_recorded: Whether the ledger has its id, or had it.
    """

    died_at: float
    after: float | None
    is_recorded: bool = True


@define
class Result:
    """What came of it.

    Attributes:
        orphans: The sessions whose owners died.
        living_ended: How many sessions were closed whose owners lived.
        statements: The statements on the database by kind, and the rows that they returned.
        rows: These rows.
        by_second: How many statements there were in each second.
        worker_requests: The requests of workers by operation.
        reaper_requests: Those of reapers.
        polls_by_second: How many reads of sessions by workers there were in each second.
    """

    orphans: list[Orphan]
    living_ended: int
    statements: Counter[str]
    rows: Counter[str]
    by_second: Counter[int]
    worker_requests: Counter[str]
    reaper_requests: Counter[str]


_running: ContextVar[Process | None] = ContextVar("_running", default=None)


class Simulation:
    """A run of a fleet.

    Args:
        fleet: The fleet.
        seed: Makes chance the same in every run.
    """

    def __init__(self, fleet: Fleet, seed: int = 0) -> None:
        self._fleet = fleet
        self._seed = seed

    def run(self) -> Result:
        """Run it and return what came of it."""
        with _quiet(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(self._run())

    async def _run(self) -> Result:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.set_task_factory(_spawn)
        fleet, self._random = self._fleet, Random(self._seed)
        self._clock = loop.clock(self._random)
        outage = fleet.outage and Outage(
            fleet.outage.begins + fleet.starts_within, fleet.outage.ends + fleet.starts_within
        )
        self._database = SimulatedDatabase(loop, self._random, outage)
        self._service = Service(self._clock, self._random)
        self._worker_requests: Counter[str] = Counter()
        self._reaper_requests: Counter[str] = Counter()
        self._alive: list[Process] = []
        gc.disable()
        for _ in range(fleet.reapers):
            self._start(self._reaper)
        for _ in range(fleet.workers):
            self._alive.append(self._start(self._worker))
            await asyncio.sleep(fleet.starts_within / fleet.workers)
        for counts in (
            self._database.statements,
            self._database.rows,
            self._database.by_second,
            self._worker_requests,
            self._reaper_requests,
        ):
            counts.clear()
        # What lives until the end needn't be looked through again and again.
        gc.freeze()
        gc.enable()
        await self._go_on()
        gc.unfreeze()
        return self._result()

    async def _go_on(self) -> None:
        """Let workers die, one at a time, and begin others."""
        fleet = self._fleet
        deaths_a_second = fleet.workers * fleet.deaths / 60
        left = fleet.seconds
        while (pause := self._random.expovariate(deaths_a_second)) < left:
            left -= pause
            await asyncio.sleep(pause)
            number = self._random.randrange(len(self._alive))
            dead, self._alive[number] = self._alive[number], self._start(self._worker)
            dead.died_at = self._clock.monotonic()
            for task in dead.tasks:
                task.cancel()
        await asyncio.sleep(left)

    def _start(self, program: Any) -> Process:
        """Start a process."""
        process = Process()
        token = _running.set(process)
        asyncio.ensure_future(program(process))
        _running.reset(token)
        return process

    def _client(
        self, process: Process, requests: Counter[str], ledger: DatabaseLedger | None
    ) -> AsyncSessionClient:
        return AsyncSessionClient(
            [IBMCloudAuth("a-key-of-a-simulation", _IAM_URL), ServiceCRN(CRN)],
            base_url=_URL,
            transport=ServiceTransport(self._service, process, requests),
            ledger=ledger,
            clock=self._clock,
        )

    def _ledger(self) -> DatabaseLedger:
        return DatabaseLedger(Link(self._database), self._fleet.terms, self._clock)

    async def _worker(self, process: Process) -> None:
        client = self._client(process, self._worker_requests, self._ledger())
        ids = [
            (await client.create(mode="batch", backend="ibm_fez", max_ttl="8h")).id
            for _ in range(self._fleet.sessions)
        ]
        async for _ in client.watch(ids, rate=self._fleet.rate):
            pass

    async def _reaper(self, process: Process) -> None:
        """Do what `qsessions reap --watch` does."""
        client, ledger = self._client(process, self._reaper_requests, None), self._ledger()
        await asyncio.sleep(self._fleet.every * self._random.random())

        async def rounds(every: float, *, unknown: bool) -> None:
            while True:
                with suppress(QSessionsError):
                    await reap(client, ledger, unknown=unknown)
                await asyncio.sleep(every)

        await asyncio.gather(
            rounds(self._fleet.every, unknown=False), rounds(_UNKNOWN_S, unknown=True)
        )

    def _result(self) -> Result:
        began, orphans, living_ended = self._fleet.starts_within, [], 0
        recorded = {record.session_id for record, _ in self._database.records.values()}
        for session in self._service.sessions.values():
            died_at, closed_at = session.owner.died_at, session.closed_at
            if died_at is None or (closed_at is not None and closed_at < died_at):
                living_ended += closed_at is not None
            else:
                after = None if closed_at is None else closed_at - died_at
                orphans.append(Orphan(died_at - began, after, after is not None or session.id in recorded))
        return Result(
            orphans=orphans,
            living_ended=living_ended,
            statements=self._database.statements,
            rows=self._database.rows,
            by_second=self._database.by_second,
            worker_requests=self._worker_requests,
            reaper_requests=self._reaper_requests,
        )


def _spawn(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Make a task that ends with the process that starts it."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    if (process := _running.get()) is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


@contextmanager
def _quiet() -> Iterator[None]:
    """Let nobody be warned: in an outage each worker does."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
