"""What one client records of its sessions. Whatever its ledger does wrong, sessions are created and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import define

from qsessions.errors import ConfigurationError, QSessionsError
from qsessions.events import LedgerFailed, Observers
from qsessions.ledger import timeouts
from qsessions.ledger.local import LocalLedger, place_of
from qsessions.ledger.records import Ledger, LedgerEntry, LedgerRecord, RecordState
from qsessions.models import CreateSession, Session

_Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@define(eq=False)
class _OpenRecord:
    """A record that the ledger doesn't have as ended yet.

    Attributes:
        newest: What is to be in the ledger.
        saved: What the ledger has, or None.
    """

    newest: LedgerRecord
    saved: LedgerRecord | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to record."""
        return self.newest is self.saved and self.newest.state is RecordState.ENDED

    @property
    def is_needed(self) -> bool:
        """Whether the newest must be written: a session that ended and was never recorded needs no record."""
        is_open = self.saved is not None and self.saved.state is not RecordState.ENDED
        return is_open or self.newest.state is not RecordState.ENDED


class SessionRecorder:
    """Records one client's sessions in its ledger, and never fails. Without a ledger it does nothing.

    A record that can't be written is written after the next one that can be. The first failure is reported to the observers.

    Args:
        ledger: "local" for the platform's own place, which is closed with the recorder; a ledger, which its maker closes; or None.
        spawn: Makes the tasks that write, so that cancelling a call doesn't tear a record in two.
        observers: Notified of failures.
        wall: Returns the seconds since 1970.
        wait: Whether `written` waits.

    Attributes:
        draining: The records of sessions that drain, by session, the longest ago first.

    Raises:
        ConfigurationError: `ledger` is none of these, or "local" can't be had.
    """

    def __init__(
        self,
        ledger: Ledger | str | None,
        spawn: _Spawn,
        observers: Observers,
        wall: Callable[[], float],
        *,
        wait: bool = True,
    ) -> None:
        candidate: object = ledger
        if not (candidate is None or candidate == "local" or isinstance(candidate, Ledger)):
            shown = repr(candidate) if isinstance(candidate, str) else type(candidate).__name__
            raise ConfigurationError(
                f'ledger= must be "local", a ledger or None, not {shown}.',
                solution="For a directory of your own, pass LocalLedger(path).",
            )
        self._is_ours = isinstance(ledger, str)
        self._ledger = LocalLedger() if isinstance(ledger, str) else ledger
        self._spawn = spawn
        self._observers = observers
        self._wall = wall
        self._wait = wait
        self.draining: dict[str, LedgerRecord] = {}
        # By their keys, and the keys by session.
        self._open: dict[str, _OpenRecord] = {}
        self._keys: dict[str, str] = {}
        # Who writes which record, and the records that could not be written.
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._failed: set[str] = set()
        self._is_overdue = False
        self._has_reported = False
        self._is_closed = False

    @property
    def enabled(self) -> bool:
        """Whether there is a ledger."""
        return self._ledger is not None

    async def record_intent(
        self,
        request: CreateSession,
        key: str,
        *,
        base_url: str,
        instance: str | None,
        labels: Mapping[str, str],
        seconds: float | None = None,
    ) -> None:
        """Record that a request is about to go out, and wait until that is written.

        It waits 5 s at the most, and not at all while an earlier record is overdue. Cancelling it ends the wait, not the writing.

        Args:
            request: What is asked for.
            key: The record's own id.
            base_url: The service's.
            instance: The CRN of the instance, or None.
            labels: The caller's labels for the session.
            seconds: The seconds left of the call's timeout, of which the ledger gets half; None for no timeout.
        """
        if self.enabled:
            record = LedgerRecord.intent(
                request,
                key=key,
                base_url=base_url,
                instance=instance,
                now=self._wall(),
                labels=labels,
            )
            self._open[key] = _OpenRecord(record)
            self._write_soon(key)
            # However slow the ledger is, the request must have a chance.
            await self._wait_for(key, None if seconds is None else seconds / 2)

    def created(self, key: str, session_id: str) -> None:
        """Record the session that a request created."""
        self._becomes(key, RecordState.CREATED, session_id)

    async def written(self, key: str) -> None:
        """Wait until the newest record of a create is written: 5 s at the most, and not at all while a record is overdue."""
        if self._wait:
            await self._wait_for(key)

    def unknown(self, key: str, session_id: str | None = None) -> None:
        """Record that it can't be told what a request created."""
        self._becomes(key, RecordState.UNKNOWN, session_id)

    def not_created(self, key: str) -> None:
        """Record that a request created nothing."""
        self._becomes(key, RecordState.ENDED)

    def updated(self, session_id: str, *, accepting_jobs: bool) -> None:
        """Record that a session takes no more jobs, or takes them again."""
        state = RecordState.CREATED if accepting_jobs else RecordState.DRAINING
        self._becomes(self._keys.get(session_id), state)

    def ended(self, session_id: str) -> None:
        """Record that a session is closed."""
        self._becomes(self._keys.pop(session_id, None), RecordState.ENDED)

    def observe(self, session: Session) -> None:
        """Record that a session is closed, if it is."""
        if session.is_final:
            self.ended(session.id)

    async def flush(self) -> None:
        """Wait until all is written: 5 s at the most, and not at all while a record is overdue."""
        await self._wait_until_done(self._writers.values())

    async def entries(self, instance: str | None) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, of all owners; none where there is no ledger.

        Args:
            instance: The CRN of the instance whose sessions matter, or None. Records of others may be among them.

        Raises:
            LedgerUnavailable: They can't be read.
        """
        if self._ledger is None:
            return ()
        return await timeouts.read_entries(place_of(self._ledger, instance))

    async def aclose(self) -> None:
        """Write what is unwritten, close the ledger if it is ours, 5 s at the most for both, and report what is lost; once."""
        if self._ledger is None or self._is_closed:
            return
        self._is_closed = True
        for key in tuple(self._open):
            self._write_soon(key)
        closing = self._task(self._close(self._ledger))
        if closing is not None:
            await asyncio.wait({closing}, timeout=timeouts.WRITE_TIMEOUT_S)
            closing.cancel()
        unrecorded = tuple(
            record.newest.session_id or key
            for key, record in self._open.items()
            # A session that drains ends by itself.
            if record.newest is not record.saved
            and record.newest.state not in {RecordState.ENDED, RecordState.DRAINING}
        )
        if unrecorded:
            self._observers.notify(
                LedgerFailed(reason="it never took these records", unrecorded=unrecorded)
            )

    async def _close(self, ledger: Ledger) -> None:
        while self._writers:
            await asyncio.wait(tuple(self._writers.values()))
        if self._is_ours:
            try:
                await ledger.aclose()
            except Exception as error:  # noqa: BLE001 - closing the client must go on
                self._report(timeouts.reason(error))

    def _becomes(self, key: str | None, state: RecordState, session_id: str | None = None) -> None:
        record = None if key is None else self._open.get(key)
        if key is None or record is None or record.newest.state is RecordState.ENDED:
            return
        if session_id is not None:
            self._keys[session_id] = key
        if record.newest.state is not state:
            newest = record.newest.becomes(state, now=self._wall(), session_id=session_id)
            record.newest = newest
            if newest.session_id is not None:
                self.draining.pop(newest.session_id, None)
                if state is RecordState.DRAINING:
                    self.draining[newest.session_id] = newest
            self._write_soon(key)

    async def _wait_for(self, key: str, seconds: float | None = None) -> None:
        if key in self._writers:
            await self._wait_until_done([self._writers[key]], seconds)

    async def _wait_until_done(
        self, writers: Collection[asyncio.Task[None]], seconds: float | None = None
    ) -> None:
        if writers and not self._is_overdue:
            most = timeouts.WRITE_TIMEOUT_S
            await asyncio.wait(
                tuple(writers), timeout=most if seconds is None else min(most, seconds)
            )

    def _write_soon(self, key: str) -> None:
        record, writer = self._open[key], self._writers.get(key)
        # A writer at work writes the newest record when it is done with the one before.
        if (
            self._ledger is not None
            and record.newest is not record.saved
            and (writer is None or writer.done())
        ):
            self._failed.discard(key)
            writer = self._task(self._write(self._ledger, key, record))
            if writer is not None:
                self._writers[key] = writer
                writer.add_done_callback(lambda done: self._writer_done(key, done))

    def _writer_done(self, key: str, writer: asyncio.Task[None]) -> None:
        # By now there may be another.
        if self._writers[key] is writer:
            del self._writers[key]

    def _task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        try:
            return self._spawn(coroutine)
        except QSessionsError as error:
            self._report(timeouts.reason(error))
            return None

    async def _write(self, ledger: Ledger, key: str, record: _OpenRecord) -> None:
        while (newest := record.newest) is not record.saved:
            timer = asyncio.get_running_loop().call_later(timeouts.WRITE_TIMEOUT_S, self._late)
            try:
                await ledger.record(newest)
            except Exception as error:  # noqa: BLE001 - a ledger of the user's own may raise anything
                self._is_overdue = False
                self._report(timeouts.reason(error))
                if record.newest is newest:
                    if record.is_needed:
                        self._failed.add(key)
                        return
                    record.saved = newest
            else:
                self._is_overdue = False
                record.saved = newest
                for failed in tuple(self._failed):
                    self._write_soon(failed)
            finally:
                timer.cancel()
        self._drop_if_over(record)

    def _drop_if_over(self, record: _OpenRecord) -> None:
        if record.is_over:
            self._open.pop(record.newest.key, None)

    def _late(self) -> None:
        self._is_overdue = True
        self._report(f"it did not answer within {timeouts.WRITE_TIMEOUT_S:g} s")

    def _report(self, reason: str) -> None:
        if not self._has_reported:
            self._has_reported = True
            self._observers.notify(LedgerFailed(reason=reason))
