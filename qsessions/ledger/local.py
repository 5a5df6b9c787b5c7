"""The local ledger: files in a directory, written by a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias, TypeVar

from qsessions.attempts import Clock
from qsessions.errors import ConfigurationError, LedgerUnavailable
from qsessions.ledger import files
from qsessions.ledger.files import OwnFile
from qsessions.ledger.records import LedgerEntry, LedgerRecord, RecordState

T = TypeVar("T")

_Job: TypeAlias = Callable[[], None]
_Work: TypeAlias = "SimpleQueue[_Job | None]"


class LocalLedger:
    """A ledger in files on this machine, or on a file system that several machines share.

    Each process that records has a file of its own, readable by its user only, and holds a lock on it for as long as it lives; how far
    that lock can be relied on is written in ledger/locks.py. A record is on the disk (fsync) when `record` returns; records that come
    together share one fsync. Writing is done in a thread, each reading in one of its own; no file system that
    hangs keeps the interpreter from ending.

    One ledger may serve any number of clients and event loops. Whoever makes it calls `aclose` at the end; a client that was given
    `ledger="local"` does so for its own.

    Args:
        path: The directory; it is made, for its user only, at the first record. By default "ledger" in the platform's directory for an
            application's state (~/.local/state/qsessions on Linux), for which the extra "ledger" is needed.
        clock: Time, for tests.

    Raises:
        ConfigurationError: No path was given and the extra isn't installed, or the path is none.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, clock: Clock | None = None) -> None:
        self._directory = _default() if path is None else _checked(path)
        self._clock = clock or Clock()
        self._closed = False
        self._begin()

    def __repr__(self) -> str:
        """Show where it is."""
        return f"{type(self).__name__}({str(self._directory)!r})"

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record of this process, in place of an earlier one of the same key; on the disk when this returns.

        Cancelling it ends the wait, not the writing. After a failure the next record writes again all that is open.

        Raises:
            LedgerUnavailable: It could not be written, or the ledger was closed.
        """
        self._check()
        done = _Outcome[None]()
        self._records.put((record, done))
        self._post(self._commit)
        await asyncio.wrap_future(done)

    async def entries(self) -> Sequence[LedgerEntry]:
        """Give every record that isn't ended, whoever owns it, oldest first; files of dead owners with nothing open are deleted.

        A file of which a line can't be read stays, and the log tells it.

        Raises:
            LedgerUnavailable: The directory, or a file in it, can't be read just now; a living owner's file is damaged; files come faster
                than they can be read; or the ledger was closed. Another user's file, and what is no file, is told in the log and passed
                over.
        """
        self._check()
        if self._thread is not None:
            # What was recorded before comes first.
            await self._run(lambda: None)
        # In a thread of its own: it may take long, and no create is to wait for it.
        return await self._run(lambda: files.read_all(self._directory, self._clock.wall()), _apart)

    async def amend(self, entry: LedgerEntry, record: LedgerRecord) -> bool:
        """Put `record` in place of the one in `entry`, whose owner is dead; on the disk when this returns.

        Returns:
            False, and nothing is changed, where the owner lives, where that can't be told, or where the record is no longer open.

        Raises:
            LedgerUnavailable: The file can't be read or written, or the ledger was closed.
        """
        self._check()
        return await self._run(lambda: files.amend(self._directory / entry.source, record))

    async def aclose(self) -> None:
        """Delete the file if nothing in it is open; else keep it, locked, so that what is open is this process's as long as it lives.

        Doing it twice does nothing; recording after it fails.

        Raises:
            LedgerUnavailable: The file system failed; nothing that was recorded is lost.
        """
        if not self._closed:
            self._check()
            self._closed = True
            if self._thread is not None:
                await self._run(self._close)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._since = self._clock.wall()
        self._mine: dict[str, LedgerRecord] = {}
        self._file: OwnFile | None = None
        self._is_whole = True
        self._records: SimpleQueue[tuple[LedgerRecord, Future[None]]] = SimpleQueue()
        self._work: _Work = SimpleQueue()
        self._thread: threading.Thread | None = None

    def _check(self) -> None:
        if self._closed:
            raise LedgerUnavailable(f"the ledger in {self._directory} was closed.")
        if self._pid != os.getpid():
            # A forked child has neither the thread nor the lock, and owns nothing yet.
            self._begin()

    async def _run(self, call: Callable[[], T], hand_over: Callable[[_Job], None] | None = None) -> T:
        done = _Outcome[T]()

        def carry_out() -> None:
            try:
                done.set_result(call())
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
                done.set_exception(self._told(error))

        (hand_over or self._post)(carry_out)
        return await asyncio.wrap_future(done)

    def _post(self, job: _Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_serve, args=(self._work,), name="qsessions-ledger", daemon=True
            )
            self._thread.start()
        self._work.put(job)

    def _commit(self) -> None:
        """Write all the records that wait. Those that come meanwhile are the next one's, so that all of them share one fsync."""
        waiting: list[tuple[LedgerRecord, Future[None]]] = []
        with suppress(Empty):
            while True:
                waiting.append(self._records.get_nowait())
        if not waiting:
            return
        failure: Exception | None = None
        try:
            for record, _ in waiting:
                if record.state is RecordState.ENDED:
                    self._mine.pop(record.key, None)
                else:
                    self._mine[record.key] = record
            self._write([record for record, _ in waiting])
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            failure = error
        for _, done in waiting:
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(self._told(failure))

    def _write(self, records: list[LedgerRecord]) -> None:
        if self._file is not None and self._is_whole and self._file.is_sound:
            # Until it has gone well.
            self._is_whole = False
            self._file.append(records)
        else:
            # The old file goes last: an open record is never without a living owner.
            new = OwnFile(self._directory, self._since, self._mine) if self._mine else None
            old, self._file = self._file, new
            if old is not None:
                old.discard()
        self._is_whole = True

    def _close(self) -> None:
        try:
            if self._file is not None:
                if self._mine:
                    self._file.leave()
                else:
                    self._file.discard()
        finally:
            self._work.put(None)

    def _told(self, error: Exception) -> Exception:
        if not isinstance(error, OSError):
            return error
        why = error.strerror or type(error).__name__
        if error.filename not in {None, str(self._directory)}:
            why = f"{why}: {error.filename}"
        return LedgerUnavailable(f"the ledger in {self._directory} can't be used: {why}.")


def _serve(work: _Work) -> None:
    while (call := work.get()) is not None:
        call()
        # What it holds must not live on until the next one comes.
        del call


def _apart(job: _Job) -> None:
    threading.Thread(target=job, name="qsessions-ledger-reader", daemon=True).start()


class _Outcome(Future[T]):
    """What comes of a job; cancelling whoever waits for it doesn't cancel it."""

    def __init__(self) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()


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
