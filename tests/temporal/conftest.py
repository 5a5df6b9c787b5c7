"""A Temporal server, a PostgreSQL server and workers of their own processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from attrs import frozen
from blockbuster import BlockBuster
from temporalio.client import Client
from temporalio.service import RPCError

from qsessions import AsyncSessionClient, PostgresLedger, reap
from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.programs.temporal_worker import Experiment
from tests.support.pages import ROOT
from tests.support.postgres import Cluster, cluster, free_port

TEMPORAL = str(Path(sys.executable).with_name("temporal"))
# Seconds; a bound for a machine that is busy, not a wait.
PATIENCE_S = 60.0
# Seconds between two rounds of the reaper.
ROUND_S = 0.3


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something holds, and return it."""
    given_up_at = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < given_up_at, "it never came to hold"
        time.sleep(0.05)
    return found


class Server:
    """A Temporal server with a database in a file.

    Attributes:
        address: Where it listens.
        runner: Its clients' event loop.
    """

    def __init__(self, folder: Path, runner: asyncio.Runner) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.runner = runner
        self._folder = folder
        self._command = [
            *(TEMPORAL, "server", "start-dev", "--headless", "--log-level", "error"),
            *("--ip", "127.0.0.1", "--port", str(port)),
            *("--db-filename", str(folder / "temporal.db")),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command,
            env=os.environ | {"HOME": str(self._folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._is_up)

    def stop(self) -> None:
        """Stop it, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_S)

    @property
    def client(self) -> Client:
        """A client."""
        assert self._client is not None
        return self._client

    def _is_up(self) -> bool:
        async def list_nothing() -> None:
            self._client = await Client.connect(self.address)
            async for _ in self._client.list_workflows(page_size=1):
                pass

        try:
            self.runner.run(asyncio.wait_for(list_nothing(), 5))
        except (RPCError, RuntimeError, TimeoutError):
            return False
        return True


@pytest.fixture(scope="session", autouse=True)
def clients_may_block(detector: BlockBuster) -> None:
    """Allow the event loop of a test to block: it serves nobody else."""
    detector.deactivate()


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """Return the event loop of the tests' own clients."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def server(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a Temporal server."""
    server = Server(tmp_path_factory.mktemp("temporal"), runner)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """Run a PostgreSQL server."""
    with cluster() as postgres:
        yield postgres


@frozen
class Event:
    """What the activity of a worker said.

    Attributes:
        what: "begun", "done" or the class of the error.
        pid: The worker's process.
        attempt: The attempt of the activity.
        session: The session's id.
        at: When, in seconds since 1970.
    """

    what: str
    pid: int
    attempt: int
    session: str
    at: float


class Stage:
    """An emulator, a ledger and the workers of one test.

    Attributes:
        emulator: The service.
        server: The Temporal server.
        folder: Where the workers say what happens.
        env: What leads a program to the service and the ledger.
    """

    def __init__(
        self, emulator: ThreadedEmulator, server: Server, database: str, folder: Path
    ) -> None:
        self.emulator = emulator
        self.server = server
        self.folder = folder
        self.env = os.environ | emulator.env() | {"QSESSIONS_LEDGER": database}
        self.queue = str(uuid4())
        self._run = server.runner.run
        self._workers: list[subprocess.Popen[bytes]] = []
        self.ledger = PostgresLedger(database)
        self._run(self.ledger.init())
        self._reaper = AsyncSessionClient(
            base_url=emulator.url,
            auth=None,
            ledger=None,
        )

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.kill()
            worker.wait(PATIENCE_S)
        self._run(self._reaper.aclose())
        self._run(self.ledger.aclose())

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker."""
        program = "tests.programs.temporal_worker"
        with (self.folder / "log").open("ab") as log:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", program),
                    *(self.server.address, self.queue, str(self.folder)),
                ],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
            )
        self._workers.append(worker)
        return worker

    def begin(self, failures: int = 0) -> Any:
        """Start a workflow, and return its handle."""
        return self._run(
            self.server.client.start_workflow(
                Experiment.run, failures, id=str(uuid4()), task_queue=self.queue
            )
        )

    def do(self, call: Any) -> Any:
        """Return the result of a call of Temporal's client."""
        return self._run(asyncio.wait_for(call, PATIENCE_S))

    def finish(self, workflow: Any) -> Any:
        """Let the activity come to its end, and return the workflow's result."""
        (self.folder / "go").touch()
        return self.do(workflow.result())

    def events(self) -> list[Event]:
        """Return what the workers have said."""
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Event(**json.loads(line)) for line in lines]

    def next(self, what: str, after: Event | None = None) -> Event:
        """Wait for an event, of a later attempt than another one's."""

        def found() -> Event | None:
            for event in self.events():
                if event.what == what and (after is None or event.attempt > after.attempt):
                    return event
            return None

        event: Event = until(found)
        return event

    def reap(self) -> list[tuple[str | None, str, bool]]:
        """Run a round of the reaper; return the session, the verdict and whether it was done."""
        done = self._run(reap(self._reaper, self.ledger))
        return [
            (each.entry.record.session_id, each.decision.verdict.value, each.done) for each in done
        ]

    def owners(self, session: str) -> list[tuple[int | None, str]]:
        """Return the processes that have recorded a session, and whether they live."""
        entries = self._run(self.ledger.entries())
        return [
            (entry.owner.pid, entry.owner.liveness.value)
            for entry in entries
            if entry.record.session_id == session
        ]

    def reap_until(self, condition: Callable[[], Any]) -> None:
        """Run rounds of the reaper until something holds."""

        def holds() -> Any:
            self.reap()
            time.sleep(ROUND_S)
            return condition()

        until(holds)

    def operations(self) -> list[str | None]:
        """Return what the service was asked for, in order, without reads and what is repeated."""
        asked = [request.operation for request in self.emulator.requests]
        return [each for each in asked if each in {"create", "update", "close"}]

    def is_open(self, session: str) -> bool:
        """Return whether a session takes jobs."""
        return any(
            each.id == session and each.accepting_jobs for each in self.emulator.open_sessions
        )


@pytest.fixture
def stage(
    server: Server, postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """Return a stage with a ledger of its own."""
    name = f"d{uuid4().hex}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with ThreadedEmulator(Emulator()) as emulator:
        for variable, value in emulator.env().items():
            monkeypatch.setenv(variable, value)
        stage = Stage(emulator, server, postgres.url(name), tmp_path)
        try:
            yield stage
        finally:
            stage.close()
