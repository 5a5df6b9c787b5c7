"""A PostgreSQL server, an emulator, and processes that share them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from qsessions import PostgresLedger
from qsessions.emulator import Emulator
from qsessions.testing import ThreadedEmulator
from tests.programs import fleet
from tests.support.postgres import Cluster, cluster
from tests.support.silent_proxy import SilentProxy
from tests.support.stage import Program, Stage, stage
from tests.support.threaded import Threaded, threaded

# Seconds; a bound, not a wait.
PATIENCE_S = 60


def eventually(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.05)


async def kill(ledger: PostgresLedger) -> None:
    """End a ledger's thread, as the end of its process does."""
    loop = ledger._loop
    if loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(eventually, loop.is_closed)
    for link in (ledger._database._writing, ledger._database._reading):
        link.drop()


class Start(Protocol):
    """Starts a process of the fleet; it ends with the test."""

    def __call__(self, scenario: Callable[..., None], *arguments: object, **where: Any) -> Program:
        """Take the scenario and its arguments but the ledger and the emulator, which `url` and
        `base_url` replace.
        """
        ...


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    """Return a server for this worker's tests."""
    with cluster(shared_preload_libraries="pg_stat_statements") as server:
        yield server


@pytest.fixture(scope="session")
def names() -> Iterator[int]:
    """Return a number for each database."""
    return count()


@pytest.fixture
def empty(server: Cluster, names: Iterator[int]) -> str:
    """Return the name of a database without tables."""
    name = f"fleet{next(names)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return name


@pytest.fixture
def database(server: Cluster, empty: str) -> str:
    """Return the name of a database with a ledger."""

    async def init() -> None:
        ledger = fleet.ledger_of(server.url(empty))
        await ledger.init()
        await ledger.aclose()

    asyncio.run(init())
    return empty


@pytest.fixture
def url(server: Cluster, database: str) -> str:
    """Return the URL of a ledger."""
    return server.url(database)


@pytest.fixture
def emulator() -> Iterator[ThreadedEmulator]:
    """Return an emulator in a thread."""
    with ThreadedEmulator(Emulator()) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def plays() -> Iterator[Stage]:
    """Return what starts processes."""
    with stage(is_measured=False) as plays:
        yield plays


@pytest.fixture
def start(plays: Stage, url: str, emulator: ThreadedEmulator) -> Iterator[Start]:
    """Return a function that starts processes of the fleet."""
    with ExitStack() as stack:

        def begin(scenario: Callable[..., None], *arguments: object, **where: Any) -> Program:
            variables = emulator.env()
            if "base_url" in where:
                variables["QSESSIONS_BASE_URL"] = where["base_url"]
            return stack.enter_context(
                plays.running(scenario, where.get("url", url), json.dumps(variables), *arguments)
            )

        yield begin


@pytest.fixture
def reaper(start: Start) -> Program:
    """Return a process that reaps."""
    reaper = start(fleet.reaps)
    assert reaper.line() == "ready"
    return reaper


@pytest.fixture
def proxy(server: Cluster) -> Iterator[Threaded[SilentProxy]]:
    """Return a proxy in front of the database."""
    with threaded(SilentProxy(server.port)) as proxy:
        yield proxy


@pytest.fixture
def way(server: Cluster, database: str, proxy: Threaded[SilentProxy]) -> str:
    """Return the URL of the ledger through the proxy."""
    return server.url(database, proxy.server.port)


@pytest.fixture
def rows(url: str) -> Callable[..., list[Any]]:
    """Return a function that asks the database."""

    def ask(statement: str) -> list[Any]:
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    return ask


@pytest.fixture(scope="session")
def pgbouncer() -> Path:
    """Return the pooler's program, which Debian has where only root looks."""
    path = [*map(Path, os.get_exec_path()), Path("/usr/sbin")]
    return next(folder / "pgbouncer" for folder in path if (folder / "pgbouncer").exists())
