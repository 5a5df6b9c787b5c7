"""The local ledger: files in one directory, and in another for the sessions of emulators."""

from __future__ import annotations

import asyncio
import math
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

from qsessions.clock import Clock
from qsessions.errors import ConfigurationError, LedgerUnavailable
from qsessions.ledger import files
from qsessions.ledger.files import OwnFile
from qsessions.ledger.records import Ledger, LedgerEntry, LedgerRecord, put

T = TypeVar("T")

_Job: TypeAlias = Callable[[], None]

# The accounts of emulators. The service's are hexadecimal.
_EMULATED = re.compile("crn:(?:[^:]*:){5}a/emulated")
# Emulators rarely outlive the test or the demonstration that started them.
_EMULATED_LIFE_S = 86_400.0


class LocalLedger:
    """A ledger in files on this machine, or on a file system that several machines share.

    Each process that records has a file of its own, readable by its user only, and holds a lock on
    it while it lives; ledger/locks.py says how reliable that lock is. A record is on the disk
    (fsync) when `record` returns; records that come together share one fsync. One thread writes,
    and each reading has a thread of its own. A file system that hangs doesn't keep the interpreter
    from exiting.

    In the default place, sessions of emulators have a directory of their own, beside the service's.
    Records of dead processes are deleted from it after a day.

    One ledger may serve any number of clients and event loops. Call `aclose` at the end; a client
    with `ledger="local"` does that itself.

    Args:
        path: The directory. The first record makes it, for its user only. By default "ledger" in
            the platform's directory for application state (~/.local/state/qsessions on Linux),
            which needs the extra "ledger".
        clock: Time, for tests.

    Raises:
        ConfigurationError: The path can't be used; or there is no path, and the extra is missing or
            the home folder is unknown.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, clock: Clock | None = None
    ) -> None:
        clock = clock or Clock()
        self._directory = _default() if path is None else _checked(path)
        self._places = [DirectoryLedger(self._directory, clock)]
        if path is None:
            self._places.append(
                DirectoryLedger(
                    self._directory.with_name(f"{self._directory.name}-emulated"),
                    clock,
                    _EMULATED_LIFE_S,
                )
            )

    def __repr__(self) -> str:
        """Show the directory."""
        return f"{type(self).__name__}({str(self._directory)!r})"

    def place_of(self, instance: str | None) -> Ledger:
        """Return the part that has the sessions of an instance. It is closed with the whole.

        Args:
            instance: The CRN, or None.
        """
        is_emulated = instance is not None and _EMULATED.match(instance)
        # With a path of the user's own there is one part only.
        return self._places[-1 if is_emulated else 0]

    async def record(self, record: LedgerRecord) -> None:
        """Write a record of this process, in place of an earlier one of the same key.

        It is on the disk when this returns. Cancelling this ends the wait, not the writing. After a
        failure, the next call writes all open records again.

        Raises:
            LedgerUnavailable: It could not be written, or the ledger was closed.
        """
        await self.place_of(record.instance).record(record)

    async def entries(self) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, of all owners, oldest first.

        Files of dead owners without an open record are deleted. A file with a line that can't be
        read is kept and logged. Another user's file (for root, too), and anything that is not a
        file, is logged and skipped.

        Raises:
            LedgerUnavailable: The directory or a file in it can't be read now; a living owner's
                file is damaged; files appear faster than they can be read; or the ledger was
                closed.
        """
        return sorted(
            [entry for place in self._places for entry in await place.entries()],
            key=lambda entry: entry.record.asked_at,
        )

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        """Replace the record in each entry of a dead owner. It is on the disk when this returns.

        All changes to one file are written at once, with one fsync.

        Returns:
            For each change whether it was made. It was not if the owner lives, if that is unknown,
            or if the record is no longer open.

        Raises:
            LedgerUnavailable: A file can't be read or written; changes to other files were made. Or
                the ledger was closed.
        """
        # An entry names its file, so any part can do this.
        return await self._places[0].amend(changes)

    async def aclose(self) -> None:
        """Delete the file if it has no open record. Else keep it, locked, while this process lives.

        So open records stay this process's own. A second call does nothing. Recording fails from
        now on.

        Raises:
            LedgerUnavailable: The file system failed. No record is lost.
        """
        async with AsyncExitStack() as stack:
            for place in self._places:
                stack.push_async_callback(place.aclose)


def place_of(ledger: Ledger, instance: str | None) -> Ledger:
    """Return the part of a ledger that has the sessions of an instance, or the ledger itself."""
    return ledger.place_of(instance) if isinstance(ledger, LocalLedger) else ledger


def _default() -> Path:
    try:
        # An optional extra, which a path makes unnecessary.
        import platformdirs
    except ImportError:
        raise ConfigurationError(
            "the local ledger needs the extra that finds its place on this platform, or a path",
            solution='Install "qsessions[ledger]", or pass ledger=LocalLedger(path).',
        ) from None
    # Without a home folder newer versions raise it, and older ones leave the ~ in the path.
    with suppress(RuntimeError):
        place = platformdirs.user_state_path("qsessions", appauthor=False)
        if place.is_absolute():
            return place / "ledger"
    raise ConfigurationError(
        "the local ledger has no place: the home folder is unknown, and neither HOME nor "
        "XDG_STATE_HOME is set to an absolute path.",
        solution="Set one of them, or pass ledger=LocalLedger(path).",
        argument="ledger",
    )


def _checked(path: str | os.PathLike[str]) -> Path:
    solution = None
    try:
        text = os.fsdecode(path)
        if text and "\0" not in text:
            return Path(text).expanduser().absolute()
        problem = "it is empty" if not text else "it holds a NUL"
    except TypeError:
        problem = f"it must be that of a directory, not {type(path).__name__}"
    except RuntimeError:
        problem = "the home folder in it is unknown"
        solution = "Set HOME, or give a path without ~."
    except OSError as error:
        # There is no current directory.
        problem = str(error)
    raise ConfigurationError(f"the ledger's path can't be used: {problem}.", solution=solution)


class DirectoryLedger:
    """A ledger in one directory.

    Args:
        directory: Where the files are. The first record makes it, for its user only.
        clock: Time, for tests.
        life_s: The seconds after which a dead owner's record is deleted.
    """

    def __init__(self, directory: Path, clock: Clock, life_s: float = math.inf) -> None:
        self._directory = directory
        self._clock = clock
        self._life_s = life_s
        self._closed = False
        self._begin()

    def __repr__(self) -> str:
        """Show the directory."""
        return f"{type(self).__name__}({str(self._directory)!r})"

    async def record(self, record: LedgerRecord) -> None:
        """Write a record of this process: see LocalLedger."""
        self._check()
        done: Future[None] = Future()
        self._records.put((record, done))
        self._post(self._commit)
        await asyncio.wrap_future(done)

    async def entries(self) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, oldest first: see LocalLedger."""
        self._check()
        if self._thread is not None:
            # Records that came before must be written first.
            await self._run(lambda: None, self._post)
        return await self._run(
            lambda: files.read_all(self._directory, self._clock.wall(), self._life_s)
        )

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
        """Replace the records in the entries: see LocalLedger. They may be in any directory."""
        self._check()
        return await self._run(partial(_amend, changes))

    async def aclose(self) -> None:
        """Close what is open: see LocalLedger."""
        if not self._closed:
            self._check()
            self._closed = True
            if self._thread is not None:
                await self._run(self._close, self._post)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._since = self._clock.wall()
        self._open: dict[str, LedgerRecord] = {}
        # It shares `_open`.
        self._file: OwnFile | None = None
        self._records: SimpleQueue[tuple[LedgerRecord, Future[None]]] = SimpleQueue()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def _check(self) -> None:
        if self._closed:
            raise LedgerUnavailable(f"the ledger in {self._directory} was closed.")
        if self._pid != os.getpid():
            # A forked child has neither the thread nor the lock, and owns nothing yet.
            self._begin()

    async def _run(self, call: Callable[[], T], start: Callable[[_Job], object] | None = None) -> T:
        """Return what `call` returns. By default it runs in a thread of its own: reading may take
        long, and no create must wait for it.
        """
        done: Future[T] = Future()
        (start or _start_thread)(partial(self._carry_out, call, [done]))
        return await asyncio.wrap_future(done)

    def _carry_out(self, call: Callable[[], T], waiting: Sequence[Future[T]]) -> None:
        # From here on, a cancellation ends the wait only.
        waiting = [done for done in waiting if done.set_running_or_notify_cancel()]
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - it is raised where the call is waited for
            for done in waiting:
                done.set_exception(self._translated(error))
        else:
            for done in waiting:
                done.set_result(result)

    def _post(self, job: _Job) -> None:
        if self._thread is None:
            self._thread = _start_thread(partial(_serve, self._jobs))
        self._jobs.put(job)

    def _commit(self) -> None:
        """Write all waiting records with one fsync. Those that come meanwhile wait for the next."""
        # No other thread takes any, so none of these waits.
        if batch := [self._records.get() for _ in range(self._records.qsize())]:
            records = [record for record, _ in batch]
            self._carry_out(partial(self._write, records), [done for _, done in batch])

    def _write(self, records: Sequence[LedgerRecord]) -> None:
        for record in records:
            put(self._open, record)
        if self._file is not None and self._file.is_sound:
            self._file.append(records)
        else:
            # The old file goes last: an open record is never without a living owner.
            new = OwnFile(self._directory, self._since, self._open) if self._open else None
            old, self._file = self._file, new
            if old is not None:
                old.discard()

    def _close(self) -> None:
        try:
            if self._file is not None:
                self._file.retire()
        finally:
            self._jobs.put(None)

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, OSError):
            return error
        why = error.strerror or type(error).__name__
        if error.filename not in {None, str(self._directory)}:
            why = f"{why}: {error.filename}"
        return LedgerUnavailable(f"the ledger in {self._directory} can't be used: {why}.")


def _amend(changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
    by_file: defaultdict[str, dict[int, LedgerRecord]] = defaultdict(dict)
    for number, (entry, record) in enumerate(changes):
        by_file[entry.source][number] = record
    results = dict.fromkeys(range(len(changes)), False)
    failure: OSError | None = None
    for source, records in by_file.items():
        try:
            amended = files.amend(Path(source), tuple(records.values()))
            results.update(zip(records, amended, strict=True))
        except OSError as error:
            # The other files must not suffer from it.
            error.filename = source
            failure = failure or error
    if failure is not None:
        raise failure
    return list(results.values())


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        # What it holds must not live on until the next one comes.
        del job


def _start_thread(job: _Job) -> threading.Thread:
    thread = threading.Thread(target=job, name="qsessions-ledger", daemon=True)
    thread.start()
    return thread
