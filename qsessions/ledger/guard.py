"""Between the client and its ledger: whatever the ledger does wrong, sessions are created and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

from qsessions.errors import ConfigurationError, LedgerUnavailable, QSessionsError
from qsessions.events import LedgerFailed, Observers
from qsessions.ledger.local import LocalLedger, place_of
from qsessions.ledger.records import Ledger, LedgerEntry, LedgerRecord, RecordState

T = TypeVar("T")

# How many seconds a call waits for its record, as a network file system may never answer.
PATIENCE = 5.0
# How many seconds everybody's records may take to be read.
READING = 60.0

_Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Guard:
    """Records in a ledger, or nowhere, and never fails.

    What could not be written is kept and written after the next record that could be. The first failure is told to the observers.

    Args:
        ledger: "local" for the platform's own place, which is closed with the guard; a ledger, which its maker closes; or None.
        spawn: Makes the tasks that write, so that cancelling a call doesn't tear a record in two.
        observers: Who is told.

    Raises:
        ConfigurationError: It is none of these, or "local" can't be had.
    """

    def __init__(self, ledger: Ledger | str | None, spawn: _Spawn, observers: Observers) -> None:
        given: object = ledger
        if not (given is None or given == "local" or isinstance(given, Ledger)):
            shown = repr(given) if isinstance(given, str) else type(given).__name__
            raise ConfigurationError(
                f'ledger= must be "local", a ledger or None, not {shown}.',
                solution="For a directory of your own, pass LocalLedger(path).",
            )
        self._is_ours = isinstance(ledger, str)
        self._ledger = LocalLedger() if isinstance(ledger, str) else ledger
        self._spawn = spawn
        self._observers = observers
        # The newest record of each key that the ledger doesn't have yet, and who is writing it.
        self._unwritten: dict[str, LedgerRecord] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}
        # The keys of records that it has and that aren't ended.
        self._written: set[str] = set()
        self._is_overdue = False
        self._has_told = False
        self._is_closed = False

    @property
    def is_on(self) -> bool:
        """Whether there is a ledger."""
        return self._ledger is not None

    def note(self, record: LedgerRecord) -> None:
        """Begin to write a record; nobody waits for it."""
        if self._ledger is not None:
            self._unwritten[record.key] = record
            self._begin(record.key)

    async def record(self, record: LedgerRecord, seconds: float | None = None) -> None:
        """Write a record and wait until it is kept, and not at all while an earlier one is overdue.

        Cancelling this ends the wait, not the writing. It raises nothing else.

        Args:
            record: The record.
            seconds: What is left of the call's deadline, of which the ledger gets half, 5 s at the most; None for no deadline.
        """
        self.note(record)
        # However slow the ledger is, what the call is about must have a chance.
        await self.kept(record.key, None if seconds is None else seconds / 2)

    async def kept(self, key: str, seconds: float | None = None) -> None:
        """Wait until the newest record of a key is kept or could not be, 5 s at the most, and not at all while one is overdue.

        Args:
            key: The record's.
            seconds: How long at the most, where that is less; None for 5 s.
        """
        writer = self._writers.get(key)
        if writer is not None and not self._is_overdue:
            await asyncio.wait(
                {writer}, timeout=PATIENCE if seconds is None else min(PATIENCE, seconds)
            )

    async def flush(self) -> None:
        """Wait until what was noted is kept, 5 s at the most, and not at all while a record is overdue."""
        if self._writers and not self._is_overdue:
            await asyncio.wait(tuple(self._writers.values()), timeout=PATIENCE)

    async def entries(self, instance: str | None) -> Sequence[LedgerEntry]:
        """Give every record that isn't ended, whoever owns it; none where there is no ledger.

        Args:
            instance: The CRN of the instance whose sessions matter, or None. Some others are given too.

        Raises:
            LedgerUnavailable: They can't be read.
        """
        return () if self._ledger is None else await entries_of(place_of(self._ledger, instance))

    async def aclose(self) -> None:
        """Write what is still unwritten, close the ledger if it is ours, 5 s at the most for both, and tell what is lost; once."""
        if self._ledger is None or self._is_closed:
            return
        self._is_closed = True
        for key in tuple(self._unwritten):
            self._begin(key)
        ending = self._task(self._end(self._ledger))
        if ending is not None:
            await asyncio.wait({ending}, timeout=PATIENCE)
            ending.cancel()
        # What drains ends by itself.
        over = {RecordState.ENDED, RecordState.DRAINING}
        if lost := [one for one in self._unwritten.values() if one.state not in over]:
            names = tuple(record.session_id or record.key for record in lost)
            self._observers.notify(
                LedgerFailed(reason="it never took these records", unrecorded=names)
            )

    async def _end(self, ledger: Ledger) -> None:
        while self._writers:
            await asyncio.wait(tuple(self._writers.values()))
        if self._is_ours:
            try:
                await ledger.aclose()
            except Exception as error:  # noqa: BLE001 - closing the client must go on
                self._tell(_told(error))

    def _begin(self, key: str) -> None:
        writer = self._writers.get(key)
        # One that is at work takes the newest record when it is done with the one before.
        if self._ledger is not None and (writer is None or writer.done()):
            writer = self._task(self._write(self._ledger, key))
            if writer is not None:
                self._writers[key] = writer
                writer.add_done_callback(lambda done: self._ended(key, done))

    def _late(self) -> None:
        self._is_overdue = True
        self._tell(f"it did not answer within {PATIENCE:g} s")

    def _ended(self, key: str, writer: asyncio.Task[None]) -> None:
        # By now there may be another.
        if self._writers[key] is writer:
            del self._writers[key]

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        try:
            return self._spawn(coroutine)
        except QSessionsError as error:
            self._tell(_told(error))
            return None

    async def _write(self, ledger: Ledger, key: str) -> None:
        while (record := self._unwritten.get(key)) is not None:
            timer = asyncio.get_running_loop().call_later(PATIENCE, self._late)
            try:
                await ledger.record(record)
            except Exception as error:  # noqa: BLE001 - a ledger of the user's own may raise anything
                self._is_overdue = False
                self._tell(_told(error))
                if self._unwritten[key] is record:
                    self._keep(record)
                    return
            else:
                self._is_overdue = False
                self._took(record)
            finally:
                timer.cancel()

    def _took(self, record: LedgerRecord) -> None:
        if record.state is RecordState.ENDED:
            self._written.discard(record.key)
        else:
            self._written.add(record.key)
        if self._unwritten[record.key] is record:
            del self._unwritten[record.key]
        for key in tuple(self._unwritten):
            self._begin(key)

    def _keep(self, record: LedgerRecord) -> None:
        # Of a session that is over and was never recorded, nothing needs to be.
        if record.state is RecordState.ENDED and record.key not in self._written:
            del self._unwritten[record.key]

    def _tell(self, reason: str) -> None:
        if not self._has_told:
            self._has_told = True
            self._observers.notify(LedgerFailed(reason=reason))


async def answer_of(asked: Awaitable[T], seconds: float | None = None) -> T:
    """Give what a ledger answers within so many seconds, by default 5.

    Raises:
        LedgerUnavailable: It did not answer in time, or raised something.
    """
    seconds = PATIENCE if seconds is None else seconds
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await asked
    except LedgerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - a ledger of the user's own may raise anything
        why = f"it did not answer within {seconds:g} s" if scope.expired() else _told(error)
    raise LedgerUnavailable(f"the ledger can't be used: {why}.")


async def entries_of(ledger: Ledger) -> Sequence[LedgerEntry]:
    """Give every record in a ledger that isn't ended.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await answer_of(ledger.entries(), READING)


async def amend_in(
    ledger: Ledger, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]
) -> Sequence[bool]:
    """Put records in place of those in a ledger's entries; see `Ledger.amend`.

    Raises:
        LedgerUnavailable: It did not answer within 60 s, or raised something.
    """
    return await answer_of(ledger.amend(changes), READING)


def _told(error: Exception) -> str:
    return (
        error.message if isinstance(error, QSessionsError) else f"{type(error).__name__}: {error}"
    )
