"""One connection to a PostgreSQL database, which is made again when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from qsessions.errors import LedgerUnavailable, one_line
from qsessions.ledger import postgres_schema as sql
from qsessions.masking import mask

T = TypeVar("T")

_NO_TABLES = "the database has no ledger yet, or one of an earlier version."
_INIT = "Make it, or bring it up to date: qsessions ledger init"
_CHECK = "Check the ledger's URL, and that its database can be reached from here."
# By the server's code of an error.
_NO_SUCH_TABLE = "42P01"
_SOLUTIONS = {
    "23503": "Run it again: an owner that was taken for over has written a record meanwhile.",
    "42501": "Have the database's owner grant what docs/fleet.md lists.",
    "25006": "It may be a standby: name all its servers in the ledger's URL, and "
    "?target_session_attrs=read-write.",
}


class Connection:
    """A connection that is made when it is needed, and again after a failure.

    Args:
        url: The database.
        secrets: What no message must have.
    """

    def __init__(self, url: str, secrets: Sequence[str]) -> None:
        self._url = url
        self._secrets = secrets
        self._connection: Any = None
        # Before each statement, so that those which were given up can be told from others'.
        self._mark = f"/* qsessions {uuid4()} */ "
        self._has_given_up = False
        # One statement at a time.
        self._lock = asyncio.Lock()

    def drop(self) -> None:
        """Close the connection, without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()

    async def run(self, statement: str, values: Mapping[str, object] | None = None) -> list[Any]:
        """Carry out a statement and return its rows.

        Raises:
            LedgerUnavailable: The database said no, or can't be reached.
        """
        return await self._guarded(lambda: self._run(statement, values))

    async def init(self) -> int:
        """Apply the migrations that are missing, and return how many there were.

        Raises:
            LedgerUnavailable: The database said no, or can't be reached.
        """
        return await self._guarded(self._init)

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        import psycopg

        try:
            async with self._lock:
                return await self._undisturbed(work())
        except (psycopg.Error, OSError) as error:
            self.drop()
            failure = self._failure(error)
        # Without the driver's error, which holds the password, as do its frames.
        raise failure

    def _failure(self, error: Any) -> LedgerUnavailable:
        # None of an `OSError`, and where the server said nothing.
        code: Any = getattr(error, "sqlstate", None)
        if code == _NO_SUCH_TABLE:
            return LedgerUnavailable(_NO_TABLES, solution=_INIT)
        # Without the statement, and without the driver's hints, which begin with tabs.
        lines = [line for line in str(error).splitlines() if line[:1] != "\t"]
        text = error.diag.message_primary if code else " ".join(lines)
        text = mask(one_line(text), self._secrets)
        return LedgerUnavailable(
            f"the ledger's database can't be used: {text.rstrip('.?')}.",
            solution=_SOLUTIONS.get(code, _CHECK),
        )

    async def _undisturbed(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # psycopg would ask the server to stop first, which may be what doesn't answer.
            self._has_given_up = True
            self.drop()
            task.cancel()
            raise

    async def _run(self, statement: str, values: Mapping[str, object] | None) -> list[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
            if self._has_given_up:
                # Before it is tried: the server may refuse it, and that fails one call, not all.
                self._has_given_up = False
                # While a statement waits for a lock, the server doesn't see that nobody is there.
                await self._fetch(sql.TERMINATE, {"mark": self._mark})
            (version,) = await self._fetch(sql.APPLIED)
            if version["applied"] < len(sql.MIGRATIONS):
                self.drop()
                raise LedgerUnavailable(_NO_TABLES, solution=_INIT)
        return await self._fetch(statement, values)

    async def _fetch(self, statement: str, values: Mapping[str, object] | None = None) -> list[Any]:
        async with self._connection.cursor() as cursor:
            await cursor.execute(self._mark + statement, values)
            return [] if cursor.description is None else await cursor.fetchall()

    async def _init(self) -> int:
        connection = await self._connect()
        async with connection, connection.transaction():
            await connection.execute(sql.LOCK)
            await connection.execute(sql.PREPARE)
            version = await (await connection.execute(sql.APPLIED)).fetchone()
            missing = range(version["applied"], len(sql.MIGRATIONS))
            for number in missing:
                await connection.execute(sql.MIGRATIONS[number])
                await connection.execute(sql.APPLY, [number + 1])
        return len(missing)

    async def _connect(self) -> Any:
        from psycopg import AsyncConnection
        from psycopg.rows import DictRow, dict_row

        # A pooler may give each transaction another connection, which knows no prepared statement.
        return await AsyncConnection[DictRow].connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
        )
