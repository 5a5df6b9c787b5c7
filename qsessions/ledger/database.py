"""A ledger in a database that many machines share: what an owner and a reaper do with its leases.

It runs on one event loop and waits by a clock, so that a simulation can run it in virtual time.
What a database has to do is `Database`, each method of which is one statement.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from socket import gethostname
from typing import Protocol, TypeVar
from uuid import uuid4

import attrs

from qsessions.clock import Clock
from qsessions.errors import LedgerUnavailable, copy_error
from qsessions.ledger.lease import Holding, Lease, LeaseState, LeaseTerms, OwnerRow, Sightings
from qsessions.ledger.records import (
    READ_TIMEOUT_S,
    WRITE_TIMEOUT_S,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Owner,
    answer,
    put,
)

T = TypeVar("T")


class Database(Protocol):
    """A shared ledger's database. Each method is carried out wholly or not at all.

    Any may raise. One that is cancelled may have been carried out.
    """

    async def renew(
        self, owner: OwnerRow, records: Sequence[LedgerRecord], *, begins: bool, regardless: bool
    ) -> int | None:
        """Write an owner's records, and renew its lease.

        One that is carried out after a later one of the same owner changes nothing: what was given
        up by its sender may still be under way.

        Args:
            owner: The owner, with the next beat. Its lease is renewed if there it has the same
                epoch, a lower beat, and isn't over.
            records: Replace those of the same keys; ended ones are deleted.
            begins: Whether the owner may not be there yet. Then it is added.
            regardless: Whether the records are written even if the lease can't be renewed: the id
                of a session must not get lost.

        Returns:
            How many leases are good, counted lately, or None if this one can't be renewed.
        """
        ...

    async def release(self, owner: OwnerRow) -> None:
        """Set an owner to be over, and delete it if it has no records."""
        ...

    async def owners(self) -> Sequence[OwnerRow]:
        """Return the owners that are not over."""
        ...

    async def take_over(self, owners: Sequence[OwnerRow]) -> None:
        """Set owners to be over, with the next epoch, if their epoch and beat are still these.

        By the database's clock their leases must be over, too, for as long as their terms say.
        """
        ...

    async def entries(self, *, only_orphans: bool) -> Sequence[tuple[LedgerRecord, OwnerRow]]:
        """Return records with their owners, oldest first.

        Args:
            only_orphans: Whether to return only those whose owners are over, and others about the
                same sessions.
        """
        ...

    async def amend(
        self, changes: Sequence[tuple[str, LedgerRecord, LedgerRecord]]
    ) -> Sequence[bool]:
        """Replace records, or delete ended ones.

        Args:
            changes: For each the owner's id, the record as it was read, and the new one.

        Returns:
            For each whether that was done. It was not if the owner isn't over, or if the record
            isn't there or has another session id by now: its owner may write it until the end.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class DatabaseLedger:
    """A `LeasedLedger` in a database, for one event loop.

    One task writes: records that come together share a statement, and each statement renews the
    lease. What can't be written is kept, and written with the next one that succeeds.

    Args:
        database: The database, closed with the ledger.
        terms: The terms of the lease.
        clock: The time.

    Attributes:
        owner: This owner, as it began.
        over: Set when it was closed and renews no lease any more.
    """

    def __init__(
        self,
        database: Database,
        terms: LeaseTerms,
        clock: Clock,
    ) -> None:
        self.terms = terms
        self._database = database
        self._clock = clock
        self._sightings = Sightings()
        # By key: those that aren't written, and those that are this owner's to end.
        self._unwritten: dict[str, LedgerRecord] = {}
        self._open: dict[str, LedgerRecord] = {}
        # Whoever waits for the next statement.
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._is_closed = False
        self.over = asyncio.Event()
        self._begin()

    def _begin(self) -> None:
        self._has_begun = False
        self._beat = 0
        # The keys of open records that the database has as this owner's, or may have: the answer
        # may have been lost.
        self._sent: set[str] = set()
        self._holding = Holding(self.terms, self._clock.monotonic())
        self.owner = OwnerRow(
            id=uuid4().hex,
            host=gethostname(),
            pid=os.getpid(),
            since=self._clock.wall(),
            terms=self.terms,
        )

    @property
    def lease(self) -> Lease:
        """What this process knows of its lease."""
        return self._holding.lease

    async def renew(self) -> None:
        """Renew the lease, and write what is unwritten, in a statement that begins from now on.

        Raises:
            LedgerUnavailable: That can't be done now, or the ledger was closed.
        """
        self._check()
        await self._written()

    async def next_lease(self, lease: Lease) -> Lease:
        """Wait until there is another state, or another number of owners, and return it.

        Raises:
            LedgerUnavailable: The ledger was closed, and there will be no other.
        """
        while self.lease == lease:
            if self.over.is_set():
                raise _closed()
            await self._changed.wait()
        return self.lease

    async def record(self, record: LedgerRecord) -> None:
        """Write a record of this process, in place of an earlier one of the same key.

        It is in the database when this returns. Cancelling this ends the wait, not the writing,
        and after a failure it is written with the next record or heartbeat that can be.

        Raises:
            LedgerUnavailable: It could not be written yet, or the ledger was closed.
        """
        self._check()
        self._unwritten[record.key] = record
        if not record.detached:
            put(self._open, record)
        await self._written()

    async def entries(self) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, of all owners, oldest first.

        Raises:
            LedgerUnavailable: The database can't be read, or the ledger was closed.
        """
        return await self._entries(only_orphans=False)

    async def orphans(self) -> Sequence[LedgerEntry]:
        """Return the records of dead owners, and those of others about the same sessions.

        Raises:
            LedgerUnavailable: The database can't be read, or the ledger was closed.
        """
        return await self._entries(only_orphans=True)

    async def take_over(self) -> float:
        """Take over what this process has seen unrenewed for long enough: see `LeasedLedger`.

        Raises:
            LedgerUnavailable: The database can't be written or read, or the ledger was closed. All
                that was seen before counts no more.
        """
        self._check()
        try:
            # A database that is only read from may not let the others renew their leases.
            await self._written()
            asked_at = self._clock.monotonic()
            owners = await self._reply(self._database.owners())
            others = [owner for owner in owners if owner.id != self.owner.id]
            self._sightings.look(others, asked_at, self._clock.monotonic())
            waits = {owner.id: self._sightings.remaining(owner) for owner in others}
            if due := [owner for owner in others if waits[owner.id] == 0.0]:
                await self._reply(self._database.take_over(due))
        except LedgerUnavailable:
            self._sightings.failed()
            raise
        return min(
            (
                waits[owner.id]
                for owner in others
                if waits[owner.id] > 0.0 and _liveness(owner) is Liveness.UNKNOWN
            ),
            default=0.0,
        )

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        """Replace the record in each entry of a dead owner, in one statement.

        Returns:
            For each change whether it was made. It was not if the owner lives, if that is unknown,
            or if the record is no longer open.

        Raises:
            LedgerUnavailable: The database can't be written, or the ledger was closed.
        """
        self._check()
        named = [(entry.source, entry.record, record) for entry, record in changes]
        return await self._reply(self._database.amend(named))

    async def aclose(self) -> None:
        """Give the lease back if nothing is open. Else go on renewing it while this process lives.

        So open records stay this process's own. A second call does nothing. Recording fails from
        now on.

        Raises:
            LedgerUnavailable: The database can't be written now. That goes on being tried, and
                then the lease is given back.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._writer is None:
            # Nothing was ever written.
            await self._end()
            return
        if self._unwritten:
            await self._written()
        self._wake.set()
        if not self._is_needed:
            await asyncio.wait({self._writer})

    @property
    def _is_needed(self) -> bool:
        """Whether the lease must be renewed after the ledger was closed."""
        return bool(self._open) and self.lease.state is not LeaseState.TAKEN

    @property
    def _is_done(self) -> bool:
        return self._is_closed and not self._unwritten and not self._is_needed

    async def _end(self) -> None:
        try:
            with suppress(LedgerUnavailable):
                if self._has_begun:
                    # Else it ends by itself.
                    await self._reply(self._database.release(self.owner), WRITE_TIMEOUT_S)
        finally:
            await self._database.aclose()
            self.over.set()
            self._changed.set()

    async def _reply(self, call: Awaitable[T], seconds: float = READ_TIMEOUT_S) -> T:
        return await answer(call, seconds, self._clock)

    def _check(self) -> None:
        if self._is_closed:
            raise _closed()

    async def _entries(self, *, only_orphans: bool) -> list[LedgerEntry]:
        self._check()
        if self._unwritten:
            with suppress(LedgerUnavailable):
                await self._written()
        rows = await self._reply(self._database.entries(only_orphans=only_orphans))
        return [
            LedgerEntry(
                record=record,
                owner=Owner(
                    host=owner.host,
                    pid=owner.pid,
                    since=owner.since,
                    liveness=_liveness(owner),
                    lease_age=owner.age,
                ),
                source=owner.id,
            )
            for record, owner in rows
        ]

    async def _written(self) -> None:
        """Wait for a statement that begins from now on."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        self._wake.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.ensure_future(self._serve())
        await written

    async def _serve(self) -> None:
        """Write whenever there is something to, and at every heartbeat."""
        while not self._is_done:
            self._wake.clear()
            is_written = await self._write()
            if not self._is_done:
                await self._pause(is_written=is_written)
        await self._end()

    async def _pause(self, *, is_written: bool) -> None:
        """Wait until there is something to write, or until the next heartbeat."""
        spread = 1 - 0.5 * self._clock.random()
        # One that failed is tried again sooner, but not by all at the same time.
        wait = self.terms.heartbeat * (0.5 + spread / 2 if is_written else spread)
        if self.lease.state is LeaseState.HELD:
            over_in = self._holding.over_at - self._clock.monotonic()
            wait = max(0.0, min(wait, over_in))
        timer = self._clock.call_later(wait, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _write(self) -> bool:
        """Renew the lease with what is unwritten; return whether that was done."""
        waiting, self._waiting = self._waiting, []
        before, failure = self.lease, None
        try:
            await self._renew()
        except LedgerUnavailable as error:
            self._holding.failed(error.message.removesuffix("."), self._clock.monotonic())
            failure = error
        for written in waiting:
            if not written.done():
                if failure is None:
                    written.set_result(None)
                else:
                    written.set_exception(copy_error(failure))
        if self.lease != before:
            self._changed.set()
            self._changed = asyncio.Event()
        return failure is None

    async def _renew(self) -> None:
        records, sent_at = dict(self._unwritten), self._clock.monotonic()
        owns = bool(self._sent & self._open.keys())
        self._beat += 1
        self._sent |= records.keys()
        living = await self._reply(
            self._database.renew(
                attrs.evolve(self.owner, beat=self._beat),
                tuple(records.values()),
                begins=not self._has_begun,
                regardless=owns,
            ),
            WRITE_TIMEOUT_S,
        )
        if living is None and not owns:
            # There was nothing to take over, and nothing was written: go on as a new owner.
            self._begin()
            await self._renew()
            return
        for key, record in records.items():
            if self._unwritten[key] is record:
                del self._unwritten[key]
        self._sent &= self._open.keys()
        self._has_begun = True
        if living is None:
            self._holding.taken()
        else:
            self._holding.renewed(sent_at, living)


def _closed() -> LedgerUnavailable:
    return LedgerUnavailable("the ledger was closed.")


def _liveness(owner: OwnerRow) -> Liveness:
    if owner.is_over:
        return Liveness.DEAD
    return Liveness.ALIVE if owner.age < owner.terms.ttl else Liveness.UNKNOWN
