"""The ledger of the command line, which is on in every command that creates a session."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

import attrs

from qsessions.cli.failures import complain, tell
from qsessions.errors import LedgerUnavailable, one_line
from qsessions.events import Event, LedgerFailed
from qsessions.ledger import (
    LedgerRecord,
    LocalLedger,
    RecordState,
    amend_entries,
    close_ledger,
    read_entries,
)


class _Detached(LocalLedger):
    async def record(self, record: LedgerRecord) -> None:
        await super().record(attrs.evolve(record, detached=True))


@asynccontextmanager
async def local_ledger(*, detached: bool = False) -> AsyncIterator[LocalLedger]:
    """Give the ledger in the platform's own place, and close it at the end, waiting 5 s at the most.

    Args:
        detached: Whether the sessions that are recorded belong to nobody, since they are made to outlive this process.
    """
    ledger = _Detached() if detached else LocalLedger()
    told, log = _Told(logging.WARNING), logging.getLogger("qsessions.ledger")
    log.addHandler(told)
    try:
        yield ledger
    finally:
        with suppress(LedgerUnavailable):
            await close_ledger(ledger)
        log.removeHandler(told)


class _Told(logging.Handler):
    """Tells on standard error what the ledger warns of, each thing once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._known: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a warning."""
        text = record.getMessage()
        if text not in self._known:
            self._known.add(text)
            tell(f"qsessions: {one_line(text)}")


async def note_ended(session_ids: Collection[str]) -> None:
    """Put the records of sessions that were closed to ended, those of dead owners; what goes wrong is left to `reap`."""
    if not session_ids:
        return
    with suppress(LedgerUnavailable):
        async with local_ledger() as ledger:
            now = time.time()
            changes = [
                (entry, entry.record.becomes(RecordState.ENDED, now=now))
                for entry in await read_entries(ledger)
                if entry.record.session_id in session_ids
            ]
            await amend_entries(ledger, changes)


class Warner:
    """Tells on standard error, once, that a command goes on without the ledger."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._has_told = False

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, LedgerFailed) and not self._has_told:
            self._has_told = True
            complain(
                self._command,
                f"the session is not recorded: {event.reason}",
                f"{self._command} goes on all the same; should nobody end it, only qsessions workloads finds it.",
            )
