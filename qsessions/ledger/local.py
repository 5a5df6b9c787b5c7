"""The local ledger: which directories it has, and what goes into which."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from qsessions.clock import Clock
from qsessions.errors import ConfigurationError
from qsessions.ledger.directory import DirectoryLedger
from qsessions.ledger.records import Ledger, LedgerEntry, LedgerRecord

# The accounts of emulators; the service's are hexadecimal.
_EMULATED = re.compile("crn:(?:[^:]*:){5}a/emulated")
# An emulator seldom outlives the test or the demonstration that it was started for.
_EMULATED_LIFE_S = 86_400.0


class LocalLedger:
    """A ledger in files on this machine, or on a file system that several machines share.

    Each process that records has a file of its own, readable by its user only, and holds a lock on it for as long as it lives; how far
    that lock can be relied on is written in ledger/locks.py. A record is on the disk (fsync) when `record` returns; records that come
    together share one fsync. Writing is done in a thread, each reading in one of its own; no file system that
    hangs keeps the interpreter from ending.

    In the default place an emulator's sessions have a directory of their own, beside the one for the service's. What dead processes
    left there is forgotten after a day.

    One ledger may serve any number of clients and event loops. Whoever makes it calls `aclose` at the end; a client that was given
    `ledger="local"` does so for its own.

    Args:
        path: The directory; it is made, for its user only, at the first record. By default "ledger" in the platform's directory for an
            application's state (~/.local/state/qsessions on Linux), for which the extra "ledger" is needed.
        clock: Time, for tests.

    Raises:
        ConfigurationError: No path was given and the extra isn't installed, or the path is none.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, clock: Clock | None = None
    ) -> None:
        clock = clock or Clock()
        self._directory = _default() if path is None else _checked(path)
        self._places = [DirectoryLedger(self._directory, clock)]
        if path is None:
            beside = self._directory.with_name(f"{self._directory.name}-emulated")
            self._places.append(DirectoryLedger(beside, clock, _EMULATED_LIFE_S))

    def __repr__(self) -> str:
        """Show where it is."""
        return f"{type(self).__name__}({str(self._directory)!r})"

    def place_of(self, instance: str | None) -> Ledger:
        """Give the part of it that has the sessions of an instance. It is closed with the whole.

        Args:
            instance: The CRN, or None.
        """
        is_emulated = instance is not None and _EMULATED.match(instance)
        # A path of the user's own is one place.
        return self._places[-1 if is_emulated else 0]

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record of this process, in place of an earlier one of the same key; on the disk when this returns.

        Cancelling it ends the wait, not the writing. After a failure the next record writes again all that is open.

        Raises:
            LedgerUnavailable: It could not be written, or the ledger was closed.
        """
        await self.place_of(record.instance).record(record)

    async def entries(self) -> Sequence[LedgerEntry]:
        """Give every record that isn't ended, whoever owns it, oldest first; files of dead owners with nothing open are deleted.

        A file of which a line can't be read stays, and the log tells it.

        Raises:
            LedgerUnavailable: The directory, or a file in it, can't be read just now; a living owner's file is damaged; files come faster
                than they can be read; or the ledger was closed. Another user's file, and what is no file, is told in the log and passed
                over; root's own are the only ones that count for root, too.
        """
        found = [entry for place in self._places for entry in await place.entries()]
        return sorted(found, key=lambda entry: entry.record.asked_at)

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        """Put each record in place of the one in its entry, whose owner is dead; on the disk when this returns.

        What goes into one file is written at once, with one fsync.

        Returns:
            For each of them whether it was done; False, and nothing is changed, where the owner lives, where that can't be told, or where
            the record is no longer open.

        Raises:
            LedgerUnavailable: A file can't be read or written, and what goes into others was done; or the ledger was closed.
        """
        # Each entry says in which file it is.
        return await self._places[0].amend(changes)

    async def aclose(self) -> None:
        """Delete the file if nothing in it is open; else keep it, locked, so that what is open is this process's as long as it lives.

        Doing it twice does nothing; recording after it fails.

        Raises:
            LedgerUnavailable: The file system failed; nothing that was recorded is lost.
        """
        async with AsyncExitStack() as stack:
            for place in self._places:
                stack.push_async_callback(place.aclose)


def place_of(ledger: Ledger, instance: str | None) -> Ledger:
    """Give the part of a ledger that has the sessions of an instance: all of it, but where an emulator's have a place of their own."""
    return ledger.place_of(instance) if isinstance(ledger, LocalLedger) else ledger


def _default() -> Path:
    try:
        # An optional extra: who brings a path goes without it.
        import platformdirs
    except ImportError:
        raise ConfigurationError(
            "the local ledger needs the extra that finds its place on this platform, or a path",
            solution='Install "qsessions[ledger]", or pass ledger=LocalLedger(path).',
        ) from None
    return platformdirs.user_state_path("qsessions", appauthor=False) / "ledger"


def _checked(path: str | os.PathLike[str]) -> Path:
    try:
        text = os.fsdecode(path)
        if text and "\0" not in text:
            return Path(text).expanduser().absolute()
        problem = "it is empty" if not text else "it holds a NUL"
    except TypeError:
        problem = f"it must be that of a directory, not {type(path).__name__}"
    except (RuntimeError, OSError) as error:
        # A home folder that nobody knows, or no current directory.
        problem = str(error)
    raise ConfigurationError(f"the ledger's path can't be used: {problem}.")
