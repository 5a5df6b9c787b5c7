"""The ledger of the command line. It is on in every command that creates a session."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

import attrs

from qsessions.cli import service
from qsessions.cli.failures import StderrHandler, count, print_error, shorten
from qsessions.config.variables import LEDGER, read_defaults
from qsessions.errors import ConfigurationError, LedgerUnavailable, copy_error
from qsessions.events import Event, LedgerFailed, SessionClosed, SessionDraining
from qsessions.ledger.choice import chosen_ledger
from qsessions.ledger.lease import LeasedLedger, orphans
from qsessions.ledger.local import place_of
from qsessions.ledger.records import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    RecordState,
    amend_entries,
    close_ledger,
    read_entries,
)
from qsessions.models import CreateSession, Mode


class _DetachedLedger(Ledger):
    """Records sessions in a ledger as nobody's."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record(self, record: LedgerRecord) -> None:
        await self._ledger.record(attrs.evolve(record, detached=True))

    async def entries(self) -> Sequence[LedgerEntry]:
        return await self._ledger.entries()

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        return await self._ledger.amend(changes)

    async def aclose(self) -> None:
        await self._ledger.aclose()


class _NoPlace(Ledger):
    """Stands in for the ledger where that has no place, and fails at each use.

    Args:
        error: Why there is none.
    """

    def __init__(self, error: ConfigurationError) -> None:
        self._error = error

    async def record(self, record: LedgerRecord) -> None:
        raise copy_error(self._error)

    async def entries(self) -> Sequence[LedgerEntry]:
        raise copy_error(self._error)

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        raise copy_error(self._error)

    async def aclose(self) -> None:
        """Do nothing."""


def open_ledger() -> AbstractAsyncContextManager[Ledger]:
    """Open the ledger that QSESSIONS_LEDGER names, or that in the platform's own place.

    Closing it takes at most 5 s.

    Raises:
        ConfigurationError: The variable can't be used, or the home folder is unknown.
    """
    return _opened(_ledger())


def _ledger() -> Ledger:
    ledger = chosen_ledger(..., read_defaults().ledger or "local", service.CLOCK)
    assert ledger is not None  # noqa: S101 - it has a name
    return ledger


async def use_ledger(instance: str | None) -> str:
    """Return which ledger commands use, once it has been written. Nothing of that is left in it.

    Args:
        instance: The CRN, or None.

    Raises:
        ConfigurationError: The variable that names it can't be used.
        LedgerUnavailable: It can't be used.
    """
    is_named = bool(read_defaults().ledger)
    try:
        opened = open_ledger()
    except ConfigurationError as error:
        if is_named:
            raise
        return f"none: {error.message}"
    async with opened as ledger:
        place, now = place_of(ledger, instance), time.time()
        # Of no service, so that nobody takes a session for it if this is killed in between.
        intent = LedgerRecord.intent(
            CreateSession(Mode.BATCH), base_url="none", instance=None, now=now
        )
        try:
            await place.record(intent)
        finally:
            await place.record(intent.becomes(RecordState.ENDED, now=now))
        records = count(len(await read_entries(place)), "record")
    by = f"by {LEDGER}" if is_named else f"of commands alone; {LEDGER} isn't set"
    return f"{place!r}, {by}: {records}"


def optional_ledger(*, detached: bool = False) -> AbstractAsyncContextManager[Ledger]:
    """Open the same for a command that goes on without it. Without a place it fails at each use.

    Args:
        detached: Whether the recorded sessions belong to nobody, because they outlive this process.
    """
    try:
        ledger = _ledger()
    except ConfigurationError as error:
        return nullcontext(_NoPlace(error))
    return _opened(_DetachedLedger(ledger) if detached else ledger)


@asynccontextmanager
async def _opened(ledger: Ledger) -> AsyncIterator[Ledger]:
    handler, log = StderrHandler(logging.WARNING), logging.getLogger("qsessions.ledger")
    log.addHandler(handler)
    try:
        yield ledger
    finally:
        with suppress(LedgerUnavailable):
            await close_ledger(ledger)
        log.removeHandler(handler)


async def record_ended(session_ids: Collection[str]) -> None:
    """Mark the records of closed sessions as ended, if their owners are dead.

    Failures are ignored: `reap` ends these records later.
    """
    if not session_ids:
        return
    with suppress(LedgerUnavailable):
        async with optional_ledger() as ledger:
            now = time.time()
            changes = [
                (entry, entry.record.becomes(RecordState.ENDED, now=now))
                for entry in await _of_the_dead(ledger)
                if entry.record.session_id in session_ids
            ]
            await amend_entries(ledger, changes)


async def _of_the_dead(ledger: Ledger) -> Sequence[LedgerEntry]:
    """Return at least the records of dead owners; a shared ledger has many others."""
    return await (orphans(ledger) if isinstance(ledger, LeasedLedger) else read_entries(ledger))


class LedgerWarning:
    """An observer that prints once that a command goes on without the ledger."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._is_printed = False

    def __call__(self, event: Event) -> None:
        """Print what a failure of the ledger means."""
        if isinstance(event, LedgerFailed) and not self._is_printed:
            self._is_printed = True
            print_error(
                self._command,
                f"the session is not recorded: {event.reason}.",
                f"{self._command} goes on all the same; if nobody ends the session, "
                "only qsessions workloads finds it.",
            )


class ClosedSessions:
    """An observer of the client that knows which sessions an interrupted command has ended."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._ids: dict[str, None] = {}

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, SessionClosed | SessionDraining):
            self._ids[event.session_id] = None

    def describe_interruption(self, is_abandoned: bool) -> tuple[str, str]:
        """Return which sessions were ended, and what to do."""
        ids = list(self._ids)
        ended = (
            f"{count(len(ids), 'session')} ended so far: {shorten(ids)}"
            if ids
            else "no session was ended"
        )
        return f"interrupted; {ended}.", f"To go on, run it again: qsessions {self._command}"
