"""A ledger in PostgreSQL, which any number of machines share."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from qsessions.api.messages import strips_frames
from qsessions.clock import Clock, RealTimeLoop
from qsessions.errors import ConfigurationError, LedgerUnavailable, one_line
from qsessions.ledger import postgres_schema as sql
from qsessions.ledger.database import DatabaseLedger
from qsessions.ledger.lease import Lease, LeaseTerms, OwnerRow
from qsessions.ledger.lines import parse_line, record_line
from qsessions.ledger.postgres_connection import Connection
from qsessions.ledger.records import LedgerEntry, LedgerRecord, RecordState

T = TypeVar("T")

logger = logging.getLogger("qsessions.ledger")

_HOST = r"(?:\[[^\]@/?#]*\]|[^\[\]:,@/?#]*)(?::\d*)?"
# Stricter than the driver, which would take a part of a password that isn't percent-encoded for a
# host, a port or a name, and tell it in its errors.
_URL = re.compile(
    rf"postgres(?:ql)?://(?:[^@/?#]*@)?{_HOST}(?:,{_HOST})*(?:/[^@/?#]*)?(?:\?[^#]*)?"
)


class PostgresLedger:
    """A ledger in a PostgreSQL database, for processes on any number of machines.

    Each process that records holds a lease, which a thread of its own renews: an event loop that is
    blocked doesn't stop that. A process whose lease runs out is dead to the others, and `qsessions
    reap` on any machine ends its sessions; docs/fleet.md says when. A record is committed when
    `record` returns. What could not be written, since the database is away, is written when it is
    back.

    `qsessions ledger init`, or `init`, makes its tables, in a schema of their own. It works through
    a pooler that gives each transaction another connection. It needs the extra "postgres".

    One ledger may serve any number of clients and event loops. Call `aclose` at the end; a client
    that was given the URL does that itself. Where sessions are open by then, the lease is renewed
    while this process lives.

    Args:
        url: The database, such as "postgresql://user:password@host/database?sslmode=verify-full".
            What it leaves out is taken from the variables and files of libpq, such as PGPASSWORD.
        terms: How long the lease holds.
        clock: Time, for tests.

    Raises:
        ConfigurationError: The URL can't be used, or the extra is missing.
    """

    @strips_frames
    def __init__(
        self, url: str, *, terms: LeaseTerms | None = None, clock: Clock | None = None
    ) -> None:
        self.terms = terms or LeaseTerms()
        self._clock = clock or Clock()
        self._url = url
        self._is_closed = False
        self.begin()
        _LEDGERS.add(self)

    def __repr__(self) -> str:
        """Show the host and the database."""
        return f"{type(self).__name__}({self._database.place!r})"

    def begin(self) -> None:
        """Begin as another owner, as a forked child must, which has no thread and owns nothing."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._database = PostgresDatabase(self._url)
        self._ledger = DatabaseLedger(self._database, self.terms, self._clock)

    @property
    def lease(self) -> Lease:
        """What this process knows of its lease."""
        return self._ledger.lease

    async def init(self) -> int:
        """Make the tables, or bring them up to date, and return how many migrations that took.

        Doing it again, or at the same time from several processes, does no harm.

        Raises:
            LedgerUnavailable: The database can't be reached, or the user may not create them.
        """
        return await self._call(lambda _: self._database.init())

    async def record(self, record: LedgerRecord) -> None:
        """Write a record of this process, in place of an earlier one of the same key.

        It is committed when this returns. Cancelling this ends the wait, not the writing; after a
        failure it is written when that is possible again.

        Raises:
            LedgerUnavailable: It could not be written yet, or the ledger was closed.
        """
        await self._call(lambda ledger: ledger.record(record))

    async def entries(self) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, of all owners, oldest first.

        An owner is alive while its lease is good, and dead if it gave it back or another process
        has taken it over. In between it is unknown.

        Raises:
            LedgerUnavailable: The database can't be read, or the ledger was closed.
        """
        return await self._call(DatabaseLedger.entries)

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        """Replace the record in each entry of a dead owner, in one statement.

        Returns:
            For each change whether it was made. It was not if the owner lives, if that is unknown,
            or if the record is no longer open.

        Raises:
            LedgerUnavailable: The database can't be written, or the ledger was closed.
        """
        return await self._call(lambda ledger: ledger.amend(changes))

    async def renew(self) -> None:
        """Renew the lease now, and from now on by itself.

        Raises:
            LedgerUnavailable: The database can't be written, or the ledger was closed.
        """
        await self._call(DatabaseLedger.renew)

    async def next_lease(self, lease: Lease) -> Lease:
        """Wait until there is another state, or another number of owners, and return it."""
        return await self._call(lambda ledger: ledger.next_lease(lease))

    async def take_over(self) -> float:
        """Take over what this process has seen unrenewed for long enough: see `LeasedLedger`.

        Raises:
            LedgerUnavailable: The database can't be written or read, or the ledger was closed.
        """
        return await self._call(DatabaseLedger.take_over)

    async def orphans(self) -> Sequence[LedgerEntry]:
        """Return the records of dead owners, and those of others about the same sessions.

        Raises:
            LedgerUnavailable: The database can't be read, or the ledger was closed.
        """
        return await self._call(DatabaseLedger.orphans)

    async def aclose(self) -> None:
        """Give the lease back if nothing is open. Else go on renewing it while this process lives.

        A second call does nothing. Recording fails from now on.

        Raises:
            LedgerUnavailable: The database can't be written now. That goes on being tried.
        """
        was_closed, self._is_closed = self._is_closed, True
        if was_closed or self._loop is None:
            # Nothing was recorded by this process, or it is seen to.
            return
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._ledger.aclose(), self._loop)
        )

    async def _call(self, call: Callable[[DatabaseLedger], Coroutine[Any, Any, T]]) -> T:
        """Carry out a call on the ledger's own loop."""
        if self._is_closed:
            raise LedgerUnavailable("the ledger was closed.")
        with self._starting:
            if self._loop is None:
                loop = RealTimeLoop()
                threading.Thread(
                    target=_serve, args=(loop, self._ledger), name="qsessions-ledger", daemon=True
                ).start()
                self._loop = loop
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(call(self._ledger), self._loop)
        )


_LEDGERS: weakref.WeakSet[PostgresLedger] = weakref.WeakSet()


def _after_fork() -> None:
    for ledger in tuple(_LEDGERS):
        ledger.begin()


if sys.platform != "win32":  # pragma: no branch - there is no fork there
    # Before any thread of the child can use one.
    os.register_at_fork(after_in_child=_after_fork)


async def _until_over(ledger: DatabaseLedger) -> None:
    await ledger.over.wait()
    # Whoever waits for something has it, or an error, first.
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    asyncio.get_running_loop().stop()


def _serve(loop: asyncio.AbstractEventLoop, ledger: DatabaseLedger) -> None:
    try:
        loop.create_task(_until_over(ledger))
        loop.run_forever()
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks))
    finally:
        loop.close()


class PostgresDatabase:
    """The statements of a ledger in PostgreSQL.

    Args:
        url: The database.

    Attributes:
        place: The host and the database, for people.

    Raises:
        ConfigurationError: The URL can't be used, or the extra is missing.
    """

    @strips_frames
    def __init__(self, url: str) -> None:
        try:
            # An optional extra.
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            raise ConfigurationError(
                "a ledger in PostgreSQL needs the extra that talks to it.",
                solution='Install "qsessions[postgres]".',
            ) from None
        try:
            if not _URL.fullmatch(url):
                raise psycopg.ProgrammingError("another form")
            parts = conninfo_to_dict(url)
        except psycopg.Error:
            # What is wrong isn't repeated: it may hold the password.
            raise ConfigurationError(
                "the ledger's URL can't be used.",
                solution="Give one such as postgresql://user@host:5432/database; characters like "
                "@ or / in the password must be percent-encoded.",
            ) from None
        self.place = f"{parts.get('host', 'localhost')}/{parts.get('dbname', '')}"
        # Reading takes long where there is much, and no heartbeat must wait for it.
        secrets = [str(parts["password"])] if parts.get("password") else []
        self._writing, self._reading = Connection(url, secrets), Connection(url, secrets)

    async def init(self) -> int:
        """Make the tables, or bring them up to date; see `PostgresLedger.init`."""
        return await self._reading.init()

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """Write an owner's records, and renew its lease: see `Database`."""
        open_ = [record for record in records if record.state is not RecordState.ENDED]
        statement = sql.renewal(begins=begins, writes=bool(records))
        rows = await self._writing.run(
            statement,
            {
                "id": owner.id,
                "host": owner.host,
                "pid": owner.pid,
                "since": owner.since,
                "heartbeat": owner.terms.heartbeat,
                "ttl": owner.terms.ttl,
                "delay": owner.terms.delay,
                "epoch": owner.epoch,
                "beat": owner.beat,
                "regardless": regardless,
                "ended": [record.key for record in records if record not in open_],
                **_columns(open_),
                "asked_at": [record.asked_at for record in open_],
            },
        )
        return rows[0]["living"] if rows else None

    async def release(self, owner: OwnerRow) -> None:
        """Set an owner to be over: see `Database`."""
        await self._writing.run(sql.RELEASE, {"id": owner.id, "epoch": owner.epoch})

    async def owners(self) -> Sequence[OwnerRow]:
        """Return the owners that are not over."""
        return [_owner(row) for row in await self._reading.run(sql.OWNERS)]

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """Set owners to be over, with the next epoch: see `Database`."""
        await self._reading.run(
            sql.TAKE_OVER,
            {
                "ids": [owner.id for owner in owners],
                "epochs": [owner.epoch for owner in owners],
                "beats": [owner.beat for owner in owners],
            },
        )

    async def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """Return records with their owners: see `Database`."""
        entries = []
        for row in await self._reading.run(sql.ORPHANS if only_orphans else sql.ENTRIES):
            record = parse_line(row["body"].encode())
            if isinstance(record, LedgerRecord):
                entries.append((record, _owner(row)))
            else:
                logger.warning("a record of the ledger can't be read: %s", one_line(row["body"]))
        return entries

    async def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """Replace records of owners that are over: see `Database`."""
        records = [record for _, _, record in changes]
        rows = await self._reading.run(
            sql.AMEND,
            {
                "owners": [owner for owner, _, _ in changes],
                "seen": [seen.session_id for _, seen, _ in changes],
                "ended": [record.state is RecordState.ENDED for record in records],
                **_columns(records),
            },
        )
        done = {row["key"] for row in rows}
        return [record.key in done for record in records]

    async def aclose(self) -> None:
        """Close the connections."""
        self._writing.drop()
        self._reading.drop()


def _columns(records: Sequence[LedgerRecord]) -> dict[str, Sequence[object]]:
    return {
        "keys": [record.key for record in records],
        "session_ids": [record.session_id for record in records],
        "bodies": [record_line(record).decode() for record in records],
    }


def _owner(row: Mapping[str, Any]) -> OwnerRow:
    terms = {name: row[name] for name in ("heartbeat", "ttl", "delay")}
    names = ("host", "pid", "since", "epoch", "beat", "age", "is_over")
    return OwnerRow(
        id=row["owner"], terms=LeaseTerms(**terms), **{name: row[name] for name in names}
    )
