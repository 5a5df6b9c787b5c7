"""The statements for PostgreSQL on a real server, in a test's own time.

A statement is carried out at once, whoever else could run meanwhile, as with the database in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from qsessions.ledger.postgres import PostgresDatabase

# It comes before PostgreSQL's own.
_TIME = """
    CREATE SCHEMA IF NOT EXISTS test;
    CREATE TABLE IF NOT EXISTS test.time (now double precision NOT NULL);
    CREATE OR REPLACE FUNCTION test.clock_timestamp() RETURNS timestamptz LANGUAGE sql
    AS 'SELECT to_timestamp(now) FROM test.time';
    ALTER TABLE qsessions.owners ALTER renewed_at SET DEFAULT test.clock_timestamp();
    TRUNCATE test.time, qsessions.owners, qsessions.records;
    INSERT INTO test.time VALUES (0);
    UPDATE qsessions.living SET number = 1, counted_at = '-infinity';
    SET search_path = test, pg_catalog;
"""


class _Link:
    def __init__(self, url: str, now: Callable[[], float]) -> None:
        self._now = now
        self._set: float | None = None
        self._connection: psycopg.Connection[dict[str, Any]] = psycopg.connect(
            url, autocommit=True, prepare_threshold=None, row_factory=dict_row
        )
        self._connection.execute(_TIME)

    async def run(self, statement: str, values: Mapping[str, object] | None = None) -> list[Any]:
        if self._now() != self._set:
            self._set = self._now()
            self._connection.execute("UPDATE test.time SET now = %s", [self._set])
        cursor = self._connection.execute(statement.encode(), values)
        return [] if cursor.description is None else cursor.fetchall()

    def drop(self) -> None:
        self._connection.close()


class VirtualPostgres(PostgresDatabase):
    """A ledger's database, emptied, which has tables already.

    Args:
        url: The database.
        now: The time.
    """

    def __init__(self, url: str, now: Callable[[], float]) -> None:
        super().__init__(url)
        link: Any = _Link(url, now)
        self._writing = self._reading = link
