"""A database that restarts, is away, is behind a pooler, isn't ready; and what it has to do."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from qsessions import (
    Clock,
    LeaseTerms,
    LedgerUnavailable,
    PostgresLedger,
    RecordState,
)
from qsessions.ledger.database import DatabaseLedger
from qsessions.ledger.postgres import PostgresDatabase
from qsessions.ledger.postgres_schema import MIGRATIONS
from qsessions.testing import ThreadedEmulator
from tests.fleet.conftest import Start, eventually, kill
from tests.fleet.test_leases import LEASE_S, ask, is_closed, is_open, owner_of, recorded
from tests.programs import fleet
from tests.support.database_checks import owner_row, record
from tests.support.pages import snippets
from tests.support.postgres import PASSWORD, USER, Cluster, free_port
from tests.support.silent_proxy import SilentProxy
from tests.support.stage import Program, Stage
from tests.support.threaded import Threaded


def test_a_database_that_restarts_stops_nothing(
    start: Start,
    reaper: Program,
    emulator: ThreadedEmulator,
    server: Cluster,
    rows: Callable[..., list[Any]],
) -> None:
    """Sessions are created and closed while it is down, and their records are there afterwards."""
    owner, ids = owner_of(start, 2)
    server.stop()
    during = ask(owner, "create")
    assert is_open(emulator, during)
    assert ask(owner, f"closes {ids[0]}") == "closed"
    server.start()
    eventually(lambda: recorded(rows) == {ids[1], during})
    for _ in range(3):
        server.restart()
        during = ask(owner, "create")
        assert is_open(emulator, during)
    eventually(lambda: during in recorded(rows))
    assert ask(owner, "lost").split()[1] == "False"
    owner.kill()
    eventually(lambda: emulator.open_sessions == [])


def test_an_outage_longer_than_every_lease_ends_nobodys_session(
    start: Start, reaper: Program, emulator: ThreadedEmulator, server: Cluster
) -> None:
    """After it each lease looks as if it were over, and is renewed; owners were told meanwhile."""
    owner, ids = owner_of(start)
    server.stop()
    eventually(lambda: ask(owner, "lost") == "1 False")
    time.sleep(fleet.TERMS.delay + 1)
    assert ask(owner, "lease").split()[0] == "unrenewed"
    server.start()
    eventually(lambda: ask(owner, "lease").split()[0] == "held")
    time.sleep(LEASE_S + 1)
    assert is_open(emulator, *ids)
    assert ask(owner, "lost") == "1 False"


def test_what_was_held_up_puts_nothing_old_in_place(
    start: Start,
    emulator: ThreadedEmulator,
    way: str,
    proxy: Threaded[SilentProxy],
    rows: Callable[..., list[Any]],
) -> None:
    """A create whose first record was held up by the network ends with its id in the ledger."""
    owner, ids = owner_of(start, url=way)
    proxy.ask(SilentProxy.silence)
    created = ask(owner, "create")
    assert is_open(emulator, created)
    proxy.ask(SilentProxy.speak)
    eventually(lambda: recorded(rows) == {created, *ids})
    time.sleep(2 * fleet.TERMS.heartbeat)
    assert recorded(rows) == {created, *ids}


@pytest.fixture
def pooled(
    server: Cluster, database: str, pgbouncer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Return the URL of the ledger behind a pooler that gives each transaction another connection."""
    port, folder = free_port(), server.folder
    (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{database} = host=127.0.0.1 port={server.port} dbname={database}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {folder}/users\npool_mode = transaction\n"
        "default_pool_size = 2\nserver_round_robin = 1\n"
    )
    command = [*server.as_user, str(pgbouncer), "-q", str(folder / "pgbouncer.ini")]
    pooler = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = server.url(database, port)
    try:
        eventually(lambda: _answers(url))
        yield url
    finally:
        pooler.terminate()
        pooler.wait()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_pooler(start: Start, emulator: ThreadedEmulator, pooled: str) -> None:
    """All of it works through a transaction-mode pooler with two connections."""
    assert start(fleet.reaps, url=pooled).line() == "ready"
    owners = [owner_of(start, 2, url=pooled) for _ in range(4)]
    assert asyncio.run(fleet.ledger_of(pooled).init()) == 0
    for owner, _ in owners[1:]:
        owner.kill()
    eventually(lambda: is_closed(emulator, *(each for _, ids in owners[1:] for each in ids)))
    assert is_open(emulator, *owners[0][1])
    assert ask(owners[0][0], "lost") == "0 False"


def failure(url: str) -> LedgerUnavailable:
    """Return what a ledger fails with."""

    async def fail() -> LedgerUnavailable:
        ledger = fleet.ledger_of(url)
        with pytest.raises(LedgerUnavailable) as caught:
            await ledger.record(record())
        await kill(ledger)
        return caught.value

    return asyncio.run(fail())


@pytest.fixture
def weak(url: str) -> Iterator[psycopg.Connection]:
    """Return an administrator's connection to a ledger whose user `weak` has no rights."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
        yield connection
        connection.execute("DROP OWNED BY weak; DROP ROLE weak")


def test_a_wrong_password_is_not_repeated(url: str) -> None:
    """The message says what the database says, without what was given."""
    error = failure(url.replace(PASSWORD, "not-the-password"))
    assert "password authentication failed" in str(error)
    assert "not-the-password" not in repr(error) + str(error)


def test_a_database_without_tables(server: Cluster, empty: str) -> None:
    """The message says which command makes them."""
    assert "qsessions ledger init" in str(failure(server.url(empty)).solution)
    with psycopg.connect(server.url(empty), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA qsessions")
        connection.execute("CREATE TABLE qsessions.migrations (number integer)")
    assert "earlier version" in str(failure(server.url(empty)))


@pytest.mark.parametrize(
    ("setting", "problem", "todo"),
    [
        ("NOLOGIN", 'role "weak" is not permitted to log in', "ledger's URL"),
        ("LOGIN", "permission denied for schema qsessions", "docs/fleet.md"),
        (
            "SUPERUSER; ALTER ROLE weak SET default_transaction_read_only = on",
            "in a read-only transaction",
            "target_session_attrs=read-write",
        ),
    ],
)
def test_a_user_that_may_not_write(
    url: str, weak: psycopg.Connection, setting: str, problem: str, todo: str
) -> None:
    """The message is what the database says, without the statement, and what to do about it."""
    weak.execute(f"ALTER ROLE weak {setting}".encode())
    error = failure(url.replace(f"{USER}:{PASSWORD}", "weak:weak"))
    assert error.message.endswith(f"{problem}.")
    assert todo in str(error.solution)


def test_no_hint_of_the_driver_is_in_a_message() -> None:
    """Where nothing listens the message ends with that, and doesn't ask whether anything does."""
    assert failure(f"postgresql://127.0.0.1:{free_port()}/db").message.endswith(
        "Connection refused."
    )


def test_the_rights_of_the_page_are_enough(url: str, weak: psycopg.Connection) -> None:
    """A user that has what docs/fleet.md grants can record, list, take over and end records."""
    (grants,) = snippets("docs/fleet.md", "sql")
    weak.execute(grants.replace("worker", "weak").encode())

    async def use() -> None:
        ledger, other = (
            fleet.ledger_of(url.replace(f"{USER}:{PASSWORD}", "weak:weak")) for _ in range(2)
        )
        await ledger.record(record())
        await kill(ledger)
        while not (entries := await other.orphans()):
            await other.take_over()
            await asyncio.sleep(fleet.TERMS.heartbeat)
        assert await other.amend([(each, record("ended")) for each in entries]) == [True]
        await other.aclose()

    asyncio.run(use())


@pytest.mark.parametrize("place", ["url", "pooled"])
def test_what_was_given_up_holds_no_connection(
    url: str, place: str, request: pytest.FixtureRequest, rows: Callable[..., list[Any]]
) -> None:
    """However often statements are given up that wait for a lock, at most one of each connection
    still waits, behind a pooler too: else they would use up the server's connections.
    """
    waits = (
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'qsessions'"
    )
    seen: set[object] = set()

    def are_new(waiting: list[object]) -> bool:
        return len(waiting) == 2 and seen.isdisjoint(waiting)

    async def give_up(database: PostgresDatabase) -> None:
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE qsessions.owners, qsessions.migrations")
            for _ in range(4):
                calls = [
                    asyncio.ensure_future(database.renew(OWNER, (), begins=True, regardless=False)),
                    asyncio.ensure_future(database.owners()),
                ]
                await asyncio.to_thread(eventually, lambda: are_new(rows(waits)))
                seen.update(rows(waits))
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
        assert await database.renew(OWNER, (), begins=True, regardless=False) == 1
        await database.aclose()

    asyncio.run(give_up(PostgresDatabase(request.getfixturevalue(place))))


async def test_no_record_is_without_its_owner(url: str) -> None:
    """An owner's row can't be deleted while it has records, which nobody would be seen to own."""
    ledger = fleet.ledger_of(url)
    await ledger.record(record())
    await kill(ledger)
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
        connection.execute("DELETE FROM qsessions.owners")


def test_five_processes_make_the_tables_at_once(plays: Stage, server: Cluster, empty: str) -> None:
    """One does all of it, and the others find it done."""
    programs = [plays.start(fleet.inits, server.url(empty)) for _ in range(5)]
    try:
        assert [program.line() for program in programs] == ["ready"] * 5
        for program in programs:
            program.tell()
        assert sorted(program.line() for program in programs) == ["0"] * 4 + [str(len(MIGRATIONS))]
    finally:
        for program in programs:
            program.close()


OWNER = owner_row()
OWNERS, SESSIONS = 100, 10_000
SLOW = LeaseTerms(heartbeat=1, ttl=20, delay=20)


class Load:
    """Counts the statements of a database."""

    def __init__(self, server: Cluster, database: str) -> None:
        self._server, self._database = server, database
        with psycopg.connect(server.url(database), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def renewals(self) -> int:
        """Return how often leases were renewed."""
        return self._ask("SELECT sum(beat)::int FROM qsessions.owners")

    def others(self) -> int:
        """Return how many statements there were besides renewals, each of which is one."""
        return self._ask(
            """
            SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND query LIKE '%qsessions.%' AND query NOT LIKE '%WITH renewed %'
            AND query NOT LIKE '%pg_stat_statements%' AND query NOT LIKE '%sum(beat)%'
            """
        )

    def _ask(self, statement: LiteralString) -> int:
        with psycopg.connect(self._server.url(self._database), autocommit=True) as connection:
            row = connection.execute(statement).fetchone()
        assert row is not None
        return int(row[0])


def test_load_does_not_grow_with_sessions(server: Cluster, database: str) -> None:
    """10,000 sessions of 100 owners cost one statement for each heartbeat of an owner, as none does,
    and a reaper three in a round; a round gives it nothing that is others'.
    """
    load = Load(server, database)

    async def run() -> None:
        databases = [PostgresDatabase(server.url(database)) for _ in range(OWNERS)]
        ledgers = [DatabaseLedger(each, SLOW, Clock()) for each in databases]
        await some_at_a_time(ledger.renew() for ledger in ledgers)
        assert await asyncio.to_thread(_others_meanwhile, load) == 0
        records = [
            record(key=f"{number}", session_id=f"session {number}") for number in range(SESSIONS)
        ]
        await some_at_a_time(
            ledgers[number % OWNERS].record(each) for number, each in enumerate(records)
        )
        assert await asyncio.to_thread(_others_meanwhile, load) == 0
        before = await asyncio.to_thread(load.others)
        assert await ledgers[0].orphans() == []
        assert await ledgers[0].take_over() == 0.0
        # A new connection asks for the version first.
        assert await asyncio.to_thread(load.others) - before in {2, 3}
        await some_at_a_time(
            ledgers[number % OWNERS].record(each.becomes(RecordState.ENDED, now=1.78e9))
            for number, each in enumerate(records)
        )
        await some_at_a_time(ledger.aclose() for ledger in ledgers)

    asyncio.run(run())
    with psycopg.connect(server.url(database)) as connection:
        assert connection.execute("SELECT FROM qsessions.owners").fetchall() == []
        assert connection.execute("SELECT FROM qsessions.records").fetchall() == []


async def some_at_a_time(calls: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Make calls of all owners, few enough for a busy machine to answer each in time."""
    waiting = iter(calls)
    while some := list(islice(waiting, 10 * OWNERS)):
        await asyncio.gather(*some)


def _others_meanwhile(load: Load) -> int:
    """Return how many statements there are besides renewals, over two heartbeats of all."""
    others, renewals = load.others(), load.renewals()
    eventually(lambda: load.renewals() >= renewals + 2 * OWNERS)
    return load.others() - others


def test_a_call_that_is_given_up_disturbs_no_other(url: str) -> None:
    """Of two reads on one connection, one that is cancelled while it waits leaves the other alone."""

    async def run() -> None:
        ledger = PostgresLedger(url, terms=fleet.TERMS)
        await ledger.record(record())
        reads = [asyncio.ensure_future(ledger.entries()) for _ in range(20)]
        await asyncio.sleep(0)
        for read in reads[1:]:
            read.cancel()
        assert len(await reads[0]) == 1
        await ledger.record(record("ended"))
        await ledger.aclose()

    asyncio.run(run())
