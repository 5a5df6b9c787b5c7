"""The ledger of the command line, which is on in every command that creates a session."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import attrs

from qsessions.cli.failures import complain
from qsessions.errors import LedgerUnavailable
from qsessions.events import Event, LedgerFailed
from qsessions.ledger import Ledger, LedgerEntry, LedgerRecord, LocalLedger, RecordState, answer_of


@asynccontextmanager
async def local_ledger() -> AsyncIterator[LocalLedger]:
    """Give the ledger in the platform's own place, and give up its lock at the end, waiting 5 s at the most."""
    ledger = LocalLedger()
    try:
        yield ledger
    finally:
        with suppress(LedgerUnavailable):
            await answer_of(ledger.aclose())


async def note_ended(session_id: str) -> None:
    """Put the records of a session that was closed to ended, those of dead owners; what goes wrong is left to `reap`."""
    with suppress(LedgerUnavailable):
        async with local_ledger() as ledger:
            for entry in await answer_of(ledger.entries()):
                if entry.record.session_id == session_id:
                    ended = entry.record.becomes(RecordState.ENDED, now=time.time())
                    await answer_of(ledger.amend(entry, ended))


class Detached:
    """A ledger whose records belong to nobody: their sessions are made to outlive their maker."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def record(self, record: LedgerRecord) -> None:
        """Keep it as detached."""
        await self._ledger.record(attrs.evolve(record, detached=True))

    async def entries(self) -> Sequence[LedgerEntry]:
        """Give every record that isn't ended."""
        return await self._ledger.entries()

    async def amend(self, entry: LedgerEntry, record: LedgerRecord) -> bool:
        """Put `record` in place of a dead owner's."""
        return await self._ledger.amend(entry, record)

    async def aclose(self) -> None:
        """Close it."""
        await self._ledger.aclose()


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
                "It is created and ended all the same; if this process is killed, only qsessions workloads finds it.",
            )
