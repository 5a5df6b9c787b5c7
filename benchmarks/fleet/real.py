"""The same fleet as real processes, with a PostgreSQL of their own and the emulator."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from random import Random

from attrs import Factory, define

from benchmarks.fleet.fleet import Fleet, Orphan, Result
from qsessions import PostgresLedger
from qsessions.emulator import Emulator
from tests.support.postgres import cluster

# Beginning at once, they would take turns on a few cores.
_START_AT_ONCE = 4
# What each kind of statement has that no other has, in this order.
_KINDS = {
    "take over": "SET epoch",
    "orphans": "WITH orphans",
    "owners": "AS owner",
    "amend": "is_ended",
    "records": "unnest",
    "heartbeats": "counted AS",
}
_COMMAND = "from qsessions.cli import main; main()"
_SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "max_connections": "400",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_utility": "off",
}


@define(eq=False)
class _Worker:
    """A worker's process, what it has created, and when it was killed by the emulator's time."""

    process: Process
    ids: list[str]
    died_at: float | None = None


@define
class RealFleet:
    """Processes that do what a fleet says.

    Args:
        fleet: The fleet.
        url: The database, which has the ledger's tables.
        emulator: The service.
    """

    fleet: Fleet
    url: str
    emulator: Emulator
    random: Random = Factory(lambda: Random(0))  # noqa: S311 - no secret
    workers: list[_Worker] = Factory(list)
    processes: list[Process] = Factory(list)

    async def run(self) -> Result:
        """Run them for the fleet's time and return what came of it."""
        fleet = self.fleet
        try:
            for _ in range(fleet.reapers):
                await self._start_reaper()
            limit = asyncio.Semaphore(_START_AT_ONCE)

            async def start() -> None:
                async with limit:
                    await self._start_worker()

            await asyncio.gather(*(start() for _ in range(fleet.workers)))
            await _sql(self.url, "SELECT pg_stat_statements_reset()")
            began = self.emulator.now()
            await self._let_die(began + fleet.seconds)
            ended = self.emulator.now()
            statements, rows = await _statements(self.url)
            # Those that died last.
            await asyncio.sleep(fleet.bound)
            return self._result(began, ended, statements, rows)
        finally:
            for process in self.processes:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def _let_die(self, until: float) -> None:
        deaths_a_second = self.fleet.workers * self.fleet.deaths / 60
        async with asyncio.TaskGroup() as group:
            while True:
                pause = self.random.expovariate(deaths_a_second)
                left = until - self.emulator.now()
                await asyncio.sleep(min(pause, left))
                if pause >= left:
                    return
                alive = [worker for worker in self.workers if worker.died_at is None]
                dead = self.random.choice(alive)
                dead.died_at = self.emulator.now()
                dead.process.kill()
                group.create_task(self._start_worker())

    async def _start_worker(self) -> None:
        fleet = self.fleet
        process = await self._start(
            *("-m", "benchmarks.fleet.worker", self.url),
            *map(str, (fleet.terms.heartbeat, fleet.terms.ttl, fleet.terms.delay)),
            *map(str, (fleet.sessions, fleet.rate)),
        )
        assert process.stdout is not None
        ids = (await process.stdout.readline()).decode().split()
        self.workers.append(_Worker(process, ids))

    async def _start_reaper(self) -> None:
        await self._start("-c", _COMMAND, "reap", "--watch", f"{self.fleet.every:g}s", "--jsonl")

    async def _start(self, *command: str) -> Process:
        env = {**os.environ, **self.emulator.env(), "QSESSIONS_LEDGER": self.url}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, env=env, stdout=PIPE, stdin=DEVNULL
        )
        self.processes.append(process)
        return process

    def _result(
        self, began: float, ended: float, statements: Counter[str], rows: Counter[str]
    ) -> Result:
        sessions = self.emulator.sessions
        result = Result(statements=statements, rows=rows)
        for worker in self.workers:
            for session_id in worker.ids:
                closed_at = sessions[session_id].closed
                if worker.died_at is None:
                    result.living_ended += closed_at is not None
                else:
                    after = None if closed_at is None else closed_at - worker.died_at
                    result.orphans.append(Orphan(worker.died_at - began, after))
        for request in self.emulator.requests:
            if began <= request.at < ended:
                is_reaper = "qsessions-cli" in request.headers.get("user-agent", "")
                requests = result.reaper_requests if is_reaper else result.worker_requests
                requests[request.operation or ""] += 1
        return result


async def _sql(url: str, statement: str) -> list[tuple[object, ...]]:
    import psycopg

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def _statements(url: str) -> tuple[Counter[str], Counter[str]]:
    """Return how many statements there were of each kind, and how many rows they returned."""
    statements, rows = Counter[str](), Counter[str]()
    listed = await _sql(url, "SELECT query, calls, rows FROM pg_stat_statements")
    for query, calls, returned in listed:
        kind = next((kind for kind, text in _KINDS.items() if text in str(query)), "others")
        statements[kind] += int(str(calls))
        rows[kind] += int(str(returned))
    return statements, rows


def run_real(fleet: Fleet) -> Result:
    """Run a fleet as processes. It takes its time, and the time that they take to begin."""

    async def run(url: str) -> Result:
        ledger = PostgresLedger(url)
        await ledger.init()
        await ledger.aclose()
        await _sql(url, "CREATE EXTENSION pg_stat_statements")
        async with Emulator() as emulator:
            return await RealFleet(fleet, url, emulator).run()

    with cluster(**_SETTINGS) as server:
        return asyncio.run(run(server.url()))
