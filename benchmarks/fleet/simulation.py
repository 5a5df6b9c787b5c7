"""A fleet in virtual time: its workers and reapers run qsessions, on a clock that jumps.

What stands in for the rest are the database and the service, both in memory. A process that dies
does nothing more: its tasks end, and what it had sent is carried out all the same.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import deepcopy
from random import Random
from typing import Any

from attrs import Factory, define

from benchmarks.fleet.database import Link, SimulatedDatabase
from benchmarks.fleet.fleet import Fleet, Orphan, Result
from benchmarks.fleet.service import Service, ServiceTransport
from benchmarks.fleet.virtual_loop import VirtualLoop
from benchmarks.payloads import CRN
from qsessions import AsyncSessionClient, IBMCloudAuth, QSessionsError, ServiceCRN
from qsessions.ledger.database import DatabaseLedger
from qsessions.reaper import reap

_URL = "https://service.example.org/api"
_IAM_URL = "https://iam.example.org"
# How often `reap --watch` looks at records of unknown session ids.
_UNKNOWN_S = 300.0


@define(eq=False)
class Process:
    """A process of the fleet.

    Attributes:
        died_at: When it was killed, or None.
        tasks: Its tasks.
    """

    died_at: float | None = None
    tasks: set[asyncio.Task[Any]] = Factory(set)

    def kill(self, now: float) -> None:
        """End it. What it begins from now on ends at once."""
        self.died_at = now
        for task in self.tasks:
            task.cancel()


# The process that is running.
_running: ContextVar[Process | None] = ContextVar("_running", default=None)


def simulate(fleet: Fleet, seed: int = 0) -> Result:
    """Run a fleet in virtual time and return what came of it.

    Args:
        fleet: The fleet.
        seed: Who dies and when is the same in every run with the same one.
    """
    with _quiet(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(_Simulation(fleet, loop, seed).run())


class _Simulation:
    def __init__(self, fleet: Fleet, loop: VirtualLoop, seed: int) -> None:
        self._fleet = fleet
        # Who dies and when is the same in every run, in whatever order the rest asks for chance.
        self._deaths = Random(seed)  # noqa: S311 - no secret
        self._random = random = Random(seed)  # noqa: S311
        self._result = result = Result()
        self._loop = loop
        self._clock = loop.clock(random)
        self._database = SimulatedDatabase(loop, random, result)
        self._service = Service(self._clock, random, fleet.answer)
        self._workers: list[Process] = []

    async def run(self) -> Result:
        """Run it."""
        fleet, database = self._fleet, self._database
        self._loop.set_task_factory(_spawn)  # type: ignore[arg-type]
        # What begins now lives until the end, and needn't be looked through again and again.
        gc.disable()
        reapers = [self._start(self._reaper) for _ in range(fleet.reapers)]
        for _ in range(fleet.workers):
            self._workers.append(self._start(self._worker))
            await asyncio.sleep(fleet.starts_within / fleet.workers)
        gc.freeze()
        gc.enable()
        began = self._clock.monotonic()
        self._service.has_begun, database.began_at = True, began
        if fleet.outage is not None:
            database.away = (began + fleet.outage.begins, began + fleet.outage.ends)
        for counts in self._result.counts():
            counts.clear()
        await self._go_on(began + fleet.seconds)
        result = deepcopy(self._result)
        # Those that died last.
        await asyncio.sleep(fleet.bound)
        for process in (*reapers, *self._workers):
            process.kill(self._clock.monotonic())
        await asyncio.sleep(1)
        gc.unfreeze()
        await self._tell(result, began)
        return result

    async def _go_on(self, until: float) -> None:
        """Let workers die, and begin others in their place."""
        deaths_a_second = self._fleet.workers * self._fleet.deaths / 60
        while True:
            pause = self._deaths.expovariate(deaths_a_second)
            left = until - self._clock.monotonic()
            await asyncio.sleep(min(pause, left))
            if pause >= left:
                return
            number = self._deaths.randrange(len(self._workers))
            self._workers[number].kill(self._clock.monotonic())
            self._workers[number] = self._start(self._worker)

    def _start(self, program: Callable[[Process], Coroutine[Any, Any, None]]) -> Process:
        process = Process()
        token = _running.set(process)
        self._loop.create_task(program(process))
        _running.reset(token)
        return process

    async def _worker(self, process: Process) -> None:
        client = self._client(process, self._result.worker_requests, self._ledger())
        ids = [
            (await client.create(mode="batch", backend="ibm_fez", max_ttl="8h")).id
            for _ in range(self._fleet.sessions)
        ]
        async for _ in client.watch(ids, rate=self._fleet.rate):
            pass

    async def _reaper(self, process: Process) -> None:
        """Do what `qsessions reap --watch` does."""
        client, ledger = self._client(process, self._result.reaper_requests, None), self._ledger()
        await asyncio.sleep(self._fleet.every * self._random.random())

        async def rounds(every: float, *, unknown: bool) -> None:
            while True:
                next_at = self._clock.monotonic() + every
                with suppress(QSessionsError):
                    await reap(client, ledger, unknown=unknown)
                await asyncio.sleep(next_at - self._clock.monotonic())

        await asyncio.gather(
            rounds(self._fleet.every, unknown=False), rounds(_UNKNOWN_S, unknown=True)
        )

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

    async def _tell(self, result: Result, began: float) -> None:
        """Complete a result with what became of the sessions."""
        left = await self._database.tables.entries(only_orphans=False)
        recorded = {record.session_id for record, _ in left}
        for session in self._service.sessions.values():
            died_at, closed_at = session.owner.died_at, session.closed_at
            assert died_at is not None
            if closed_at is not None and closed_at < died_at:
                result.living_ended += 1
            elif died_at <= began + self._fleet.seconds:
                after = None if closed_at is None else closed_at - died_at
                is_recorded = after is not None or session.id in recorded
                result.orphans.append(Orphan(died_at - began, after, is_recorded))


def _spawn(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Make a task that ends with the process that starts it."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    process = _running.get()
    if process is not None and process.died_at is not None:
        task.cancel()
    elif process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


@contextmanager
def _quiet() -> Iterator[None]:
    """Let nobody be warned: in an outage each worker is."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
