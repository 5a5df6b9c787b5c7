"""Records one client's sessions. A failing ledger stops no session from being created or ended."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
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
        newest: The version to write.
        saved: The version that the ledger has, or None.
    """

    newest: LedgerRecord
    saved: LedgerRecord | None = None


class SessionRecorder:
    """Records one client's sessions in its ledger; never fails. Without a ledger it does nothing.

    A record that can't be written is written again after the next one that can be. The first
    failure is reported to the observers.

    Args:
        ledger: "local" for the platform's own place, closed with the recorder; a ledger, which its
            owner closes; or None.
        spawn: Starts the tasks that write, so that cancelling a call interrupts no write.
        observers: Notified of failures.
        wall: Returns the seconds since 1970.
        wait: Whether `written` waits.

    Attributes:
        enabled: Whether there is a ledger.
        draining: The records of sessions that drain, by session id, oldest first.

    Raises:
        ConfigurationError: `ledger` is something else, or "local" needs an extra.
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
        self.enabled = ledger is not None
        self.draining: dict[str, LedgerRecord] = {}
        # By key; and the keys by session id.
        self._open: dict[str, _OpenRecord] = {}
        self._keys: dict[str, str] = {}
        # By key: the tasks that write, and the records that could not be written.
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._failed: set[str] = set()
        self._is_overdue = False
        self._has_reported = False
        self._is_closed = False

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
        """Record that a request is about to be sent, and wait until that is written.

        It waits at most 5 s, and not at all while an earlier record is overdue. Cancelling it ends
        the wait, not the writing.

        Args:
            request: What is asked for.
            key: The record's own id.
            base_url: The service's.
            instance: The CRN of the instance, or None.
            labels: The caller's labels for the session.
            seconds: The seconds left of the call's timeout, or None. The ledger gets half of them.
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
            # A slow ledger must leave time for the request.
            await self._wait_for([key], math.inf if seconds is None else seconds / 2)

    def created(self, key: str, session_id: str) -> None:
        """Record the session that a request created."""
        self._becomes(key, RecordState.CREATED, session_id)

    async def written(self, key: str) -> None:
        """Wait until a create's newest record is written.

        It waits at most 5 s, and not at all while a record is overdue or with `wait=False`.
        """
        if self._wait:
            await self._wait_for([key])

    def unknown(self, key: str, session_id: str | None = None) -> None:
        """Record that it is unknown what a request created."""
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
        """Wait until all is written: at most 5 s, and not at all while a record is overdue."""
        await self._wait_for(tuple(self._writers))

    async def entries(self, instance: str | None) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, of all owners. Without a ledger there are none.

        Args:
            instance: The CRN of the instance whose sessions matter, or None. Records of other
                instances may be among them.

        Raises:
            LedgerUnavailable: They can't be read.
        """
        if self._ledger is None:
            return ()
        return await timeouts.read_entries(place_of(self._ledger, instance))

    async def aclose(self) -> None:
        """Write what is unwritten, close the ledger if it is ours, and report what is lost.

        It takes at most 5 s. A second call does nothing.
        """
        if self._ledger is None or self._is_closed:
            return
        self._is_closed = True
        for key in tuple(self._open):
            self._write_soon(key)
        try:
            async with asyncio.timeout(timeouts.WRITE_TIMEOUT_S):
                while self._writers:
                    await asyncio.wait(tuple(self._writers.values()))
                if self._is_ours:
                    await self._ledger.aclose()
        except TimeoutError:
            self._late()
        except Exception as error:  # noqa: BLE001 - closing the client must go on
            self._report(timeouts.reason(error))
        unrecorded = tuple(
            record.newest.session_id or key
            for key, record in self._open.items()
            # A draining session ends without help.
            if record.newest is not record.saved
            and record.newest.state not in {RecordState.ENDED, RecordState.DRAINING}
        )
        if unrecorded:
            self._observers.notify(
                LedgerFailed(reason="it never took these records", unrecorded=unrecorded)
            )

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

    async def _wait_for(self, keys: Iterable[str], seconds: float = math.inf) -> None:
        writers = [self._writers[key] for key in keys if key in self._writers]
        if writers and not self._is_overdue:
            await asyncio.wait(writers, timeout=min(timeouts.WRITE_TIMEOUT_S, seconds))

    def _write_soon(self, key: str) -> None:
        record, writer = self._open.get(key), self._writers.get(key)
        # A running writer goes on with the newest version when the one before is written.
        if (
            self._ledger is not None
            and record is not None
            and record.newest is not record.saved
            and (writer is None or writer.done())
        ):
            self._failed.discard(key)
            try:
                writer = self._spawn(self._write(self._ledger, key, record))
            except QSessionsError as error:
                self._report(timeouts.reason(error))
            else:
                self._writers[key] = writer
                writer.add_done_callback(lambda done: self._writer_done(key, done))

    def _writer_done(self, key: str, writer: asyncio.Task[None]) -> None:
        # By now another may have replaced it.
        if self._writers[key] is writer:
            del self._writers[key]

    async def _write(self, ledger: Ledger, key: str, record: _OpenRecord) -> None:
        while (newest := record.newest) is not record.saved:
            timer = asyncio.get_running_loop().call_later(timeouts.WRITE_TIMEOUT_S, self._late)
            try:
                await ledger.record(newest)
            except Exception as error:  # noqa: BLE001 - a user's own ledger may raise anything
                self._is_overdue = False
                self._report(timeouts.reason(error))
                is_open = record.saved is not None and record.saved.state is not RecordState.ENDED
                if newest.state is RecordState.ENDED and not is_open:
                    # A session that is over and was never recorded needs no record.
                    record.saved = newest
                elif record.newest is newest:
                    self._failed.add(key)
                    return
            else:
                self._is_overdue = False
                record.saved = newest
                for failed in tuple(self._failed):
                    self._write_soon(failed)
            finally:
                timer.cancel()
        if record.newest.state is RecordState.ENDED:
            self._open.pop(key, None)

    def _late(self) -> None:
        self._is_overdue = True
        self._report(f"it did not answer within {timeouts.WRITE_TIMEOUT_S:g} s")

    def _report(self, reason: str) -> None:
        if not self._has_reported:
            self._has_reported = True
            self._observers.notify(LedgerFailed(reason=reason))
