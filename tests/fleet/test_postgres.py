"""The ledger in PostgreSQL, as its callers have it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from qsessions import ConfigurationError, LeaseState, LedgerUnavailable, PostgresLedger
from qsessions.ledger.postgres import _after_fork
from tests.fleet.conftest import kill
from tests.programs import fleet
from tests.support.database_checks import record
from tests.support.waiting import until

SECRET = "not-to-be-told"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://user:{SECRET}@host/name",
        f"postgresql://user:{SECRET}%zz@host/name",
        f"postgresql://user:{SECRET}@host/name?no_such_option=1",
        # What the driver would take for a host, a port, a name or a fragment.
        f"postgresql://user:some@{SECRET}@host/name",
        f"postgresql://127.0.0.1:{SECRET}/more@host/name",
        f"postgresql://user:some/{SECRET}@host/name",
        f"postgresql://user:some?{SECRET}@host/name",
        f"postgresql://user:some#{SECRET}@host/name",
        f"postgresql://user@host:{SECRET}/name",
    ],
)
def test_a_url_that_can_not_be_used_is_not_repeated(url: str) -> None:
    """The message says what one looks like, and nothing of what was given."""
    with pytest.raises(ConfigurationError, match="the ledger's URL can't be used") as caught:
        PostgresLedger(url)
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.solution}"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError) as caught:
        PostgresLedger("postgresql://host/name")
    assert caught.value.solution == 'Install "qsessions[postgres]".'


async def test_a_ledger_that_was_never_used_is_closed_without_a_database() -> None:
    """Nothing is reached for it; afterwards it says that it was closed."""
    ledger = PostgresLedger("postgresql://nowhere.invalid/name")
    await ledger.aclose()
    await ledger.aclose()
    with pytest.raises(LedgerUnavailable, match="the ledger was closed"):
        await ledger.entries()


async def test_another_process_of_the_same_ledger_is_another_owner(url: str) -> None:
    """What begins anew, as a forked child does, leaves its parent's lease alone."""
    ledger = fleet.ledger_of(url)
    await ledger.record(record())
    parents = PostgresLedger.__new__(PostgresLedger)
    parents.__dict__.update(ledger.__dict__)
    _after_fork()
    await ledger.record(record(key="its"))
    owners = {entry.record.key: entry.source for entry in await ledger.entries()}
    assert owners["key"] != owners["its"]
    assert parents.lease.state is LeaseState.HELD
    for each in (ledger, parents):
        await kill(each)


async def test_a_record_that_can_not_be_read_hides_no_other(
    url: str, rows: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, on one line, and stays."""
    ledger = fleet.ledger_of(url)
    await ledger.record(record())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO qsessions.records SELECT 'other', owner, NULL, asked_at, beat, "
            "'no' || chr(10) || 'json' FROM qsessions.records"
        )
    with caplog.at_level(logging.WARNING, "qsessions.ledger"):
        assert [entry.record for entry in await ledger.entries()] == [record()]
    assert [each.getMessage() for each in caplog.records] == [
        "a record of the ledger can't be read: no json"
    ]
    assert rows("SELECT count(*) FROM qsessions.records") == [(2,)]
    await kill(ledger)


def test_threads_that_begin_together_share_one_connection(
    url: str, rows: Callable[..., list[Any]]
) -> None:
    """A ledger that many threads use first at the same time has one thread and one owner."""
    ledger = fleet.ledger_of(url)
    before = set(threading.enumerate())
    together = threading.Barrier(16)

    def begin(number: int) -> None:
        together.wait()
        asyncio.run(ledger.record(record(key=str(number))))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(begin, range(16)))
    assert rows("SELECT count(DISTINCT owner), count(*) FROM qsessions.records") == [(1, 16)]
    assert [one.name for one in set(threading.enumerate()) - before] == ["qsessions-ledger"]
    asyncio.run(kill(ledger))


async def test_a_closed_ledger_ends_its_thread(url: str) -> None:
    """Once nothing is open and the lease was given back, nothing of it is left."""
    ledger = fleet.ledger_of(url)
    await ledger.record(record())
    await ledger.record(record("ended"))
    following = asyncio.ensure_future(ledger.next_lease(ledger.lease))
    await ledger.aclose()
    with pytest.raises(LedgerUnavailable, match="was closed"):
        await following
    loop = ledger._loop
    assert loop is not None
    await until(loop.is_closed)
