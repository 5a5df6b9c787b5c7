"""A ledger in one directory: its files, written by a thread of its own."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias, TypeVar

from qsessions.clock import Clock
from qsessions.errors import LedgerUnavailable
from qsessions.ledger import files
from qsessions.ledger.files import OwnFile
from qsessions.ledger.records import LedgerEntry, LedgerRecord, RecordState

T = TypeVar("T")

_Job: TypeAlias = Callable[[], None]
_Work: TypeAlias = "SimpleQueue[_Job | None]"


class DirectoryLedger:
    """A ledger in one directory.

    Args:
        directory: It is made, for its user only, at the first record.
        clock: Time, for tests.
        life_s: After so many seconds a dead owner's record is forgotten.
    """

    def __init__(self, directory: Path, clock: Clock, life_s: float = math.inf) -> None:
        self._directory = directory
        self._clock = clock
        self._life_s = life_s
        self._closed = False
        self._begin()

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record of this process: see LocalLedger."""
        self._check()
        done = _Outcome[None]()
        self._records.put((record, done))
        self._post(self._commit)
        await asyncio.wrap_future(done)

    async def entries(self) -> Sequence[LedgerEntry]:
        """Give every record that isn't ended, oldest first: see LocalLedger."""
        self._check()
        if self._thread is not None:
            # What was recorded before comes first.
            await self._run(lambda: None)
        # In a thread of its own: it may take long, and no create is to wait for it.
        return await self._run(
            lambda: files.read_all(self._directory, self._clock.wall(), self._life_s), _apart
        )

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
        """Put records in place of those in the entries: see LocalLedger. The files may be in other directories."""
        self._check()
        # In a thread of its own, as reading is.
        return await self._run(lambda: _amend(changes), _apart)

    async def aclose(self) -> None:
        """Give up what is open: see LocalLedger."""
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

    async def _run(
        self, call: Callable[[], T], hand_over: Callable[[_Job], None] | None = None
    ) -> T:
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


def _amend(changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
    by_file: dict[str, list[int]] = {}
    for number, (entry, _) in enumerate(changes):
        by_file.setdefault(entry.source, []).append(number)
    done = [False] * len(changes)
    failure: OSError | None = None
    for source, numbers in by_file.items():
        try:
            found = files.amend(Path(source), [changes[number][1] for number in numbers])
        except OSError as error:
            # The other files are none the worse for it.
            error.filename = source
            failure = failure or error
        else:
            for number, is_done in zip(numbers, found, strict=True):
                done[number] = is_done
    if failure is not None:
        raise failure
    return done


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
