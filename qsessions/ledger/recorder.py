"""Records one client's sessions. A failing ledger stops no session from being created or ended."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from attrs import define

from qsessions.clock import Clock
from qsessions.errors import QSessionsError
from qsessions.events import LedgerFailed, Observers
from qsessions.ledger import records
from qsessions.ledger.records import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    RecordState,
    read_entries,
    reason,
)
from qsessions.models import CreateSession, Mode, Session

if TYPE_CHECKING:
    from qsessions.ledger.ownership import Ownership

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@define(eq=False, repr=False)
class _OpenRecord:
    """A record that the ledger doesn't have as ended yet.

    Attributes:
        newest: The version to write.
        saved: The version that the ledger has, or None.
        writer: The task that writes, or wrote last.
    """

    newest: LedgerRecord
    saved: LedgerRecord | None = None
    writer: asyncio.Task[None] | None = None


class SessionRecorder:
    """Records one client's sessions in its ledger; never fails. Without a ledger it does nothing.

    A record that can't be written is written again after the next one that can be. The first
    failure is reported to the observers.

    Args:
        ledger: The ledger, or None.
        is_ours: Whether it is closed with the recorder.
        spawn: Starts the tasks that write, so that cancelling a call interrupts no write.
        observers: Notified of failures.
        clock: The time.
        wait: Whether `written` waits.

    Attributes:
        ledger: As above.
        enabled: Whether there is one.
        ownership: The process's lease, where the ledger has leases; set by the client.
        draining: The records of sessions that drain, by session id, oldest first.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        spawn: Spawn,
        observers: Observers,
        clock: Clock,
        *,
        is_ours: bool = False,
        wait: bool = True,
    ) -> None:
        self._is_ours = is_ours
        self.ledger = ledger
        self.ownership: Ownership | None = None
        self._spawn = spawn
        self._observers = observers
        self._clock = clock
        self._wait = wait
        self.enabled = ledger is not None
        self.draining: dict[str, LedgerRecord] = {}
        # All by key, and those of known sessions by session id.
        self._open: dict[str, _OpenRecord] = {}
        self._by_session: dict[str, _OpenRecord] = {}
        self._writers: set[asyncio.Task[None]] = set()
        # Those that could not be written.
        self._failed: set[_OpenRecord] = set()
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

        Raises:
            LeaseLost: Another process has taken this one's sessions over, or may do so and they
                are being ended.
        """
        if self.enabled:
            intent = LedgerRecord.intent(
                request,
                key=key,
                base_url=base_url,
                instance=instance,
                now=self._clock.wall(),
                labels=labels,
            )
            await self._begin(intent, "created", seconds)

    async def adopt(
        self,
        session: Session,
        *,
        base_url: str,
        instance: str | None,
        labels: Mapping[str, str],
        seconds: float | None = None,
    ) -> None:
        """Record a session that another process created, and wait until that is written.

        Args:
            session: The session as it is. One that this client has recorded stays as it is.
            base_url, instance, labels, seconds: As of `record_intent`.

        Raises:
            LeaseLost: As of `record_intent`.
        """
        self._check_lease("taken over")
        if not self.enabled or session.id in self._by_session:
            return
        now = self._clock.wall()
        record = LedgerRecord(
            key=uuid4().hex,
            base_url=base_url,
            instance=instance,
            mode=session.mode or Mode("unknown"),
            backend=session.backend_name,
            max_ttl=session.max_ttl,
            asked_at=now,
            changed_at=now,
            state=RecordState.CREATED,
            session_id=session.id,
            labels=labels,
        )
        try:
            await self._begin(record, "taken over", seconds)
        except BaseException:
            self.ended(session.id)
            raise

    async def _begin(self, record: LedgerRecord, done: str, seconds: float | None) -> None:
        """Write the first record of a session, unless this process may own none any more."""
        self._check_lease(done)
        opened = self._open[record.key] = _OpenRecord(record)
        if record.session_id is not None:
            self._by_session[record.session_id] = opened
        self._write_soon(opened)
        # A slow ledger must leave time for the request.
        await self.flush(record.key, math.inf if seconds is None else seconds / 2)
        self._check_lease(done)

    def _check_lease(self, done: str) -> None:
        if self.ownership is not None:
            self.ownership.begin()
            self.ownership.check(done)

    def open_sessions(self) -> list[str]:
        """Return the ids of the client's sessions that may be open, and don't drain."""
        return [
            session_id
            for session_id, record in self._by_session.items()
            if record.newest.state is not RecordState.DRAINING
        ]

    def created(self, key: str, session_id: str) -> None:
        """Record the session that a request created."""
        self._becomes(self._open.get(key), RecordState.CREATED, session_id)

    async def written(self, key: str) -> None:
        """Wait until a create's newest record is written.

        It waits at most 5 s, and not at all while a record is overdue or with `wait=False`.
        """
        if self._wait:
            await self.flush(key)

    def unknown(self, key: str, session_id: str | None = None) -> None:
        """Record that it is unknown what a request created."""
        self._becomes(self._open.get(key), RecordState.UNKNOWN, session_id)

    def not_created(self, key: str) -> None:
        """Record that a request created nothing."""
        self._becomes(self._open.get(key), RecordState.ENDED)

    def updated(self, session_id: str, *, accepting_jobs: bool) -> None:
        """Record that a session takes no more jobs, or takes them again."""
        self._becomes(
            self._by_session.get(session_id),
            RecordState.CREATED if accepting_jobs else RecordState.DRAINING,
        )

    def ended(self, session_id: str) -> None:
        """Record that a session is closed."""
        self._becomes(self._by_session.pop(session_id, None), RecordState.ENDED)

    async def flush(self, key: str | None = None, seconds: float = math.inf) -> None:
        """Wait until all is written: at most 5 s, and not at all while a record is overdue.

        Args:
            key: The create whose record alone is waited for, or None.
            seconds: The seconds that it may take at most, if they are fewer.
        """
        record = None if key is None else self._open.get(key)
        writers = self._writers if key is None else self._writers & {record and record.writer}
        if writers and not self._is_overdue:
            await self._clock.deadline(min(records.WRITE_TIMEOUT_S, seconds)).wait(writers)

    @property
    def living(self) -> int:
        """How many processes hold a lease in the ledger, this one included."""
        return 1 if self.ownership is None else self.ownership.living

    async def entries(self, instance: str | None) -> Sequence[LedgerEntry]:
        """Return every record that isn't ended, of all owners. Without a ledger there are none.

        Args:
            instance: The CRN of the instance whose sessions matter, or None. Records of other
                instances may be among them.

        Raises:
            LedgerUnavailable: They can't be read.
        """
        if self.ledger is None:
            return ()
        # Here already, unless the ledger is the user's own.
        from qsessions.ledger.local import place_of

        return await read_entries(place_of(self.ledger, instance), self._clock)

    async def aclose(self) -> None:
        """Write what is unwritten, close the ledger if it is ours, and report what is lost.

        It takes at most 5 s. A second call does nothing.
        """
        if self.ledger is None or self._is_closed:
            return
        self._is_closed = True
        for record in tuple(self._open.values()):
            self._write_soon(record)
        try:
            with self._clock.timeout(records.WRITE_TIMEOUT_S):
                while self._writers:
                    await asyncio.wait(self._writers)
                if self._is_ours:
                    await self.ledger.aclose()
        except TimeoutError:
            self._late()
        except Exception as error:  # noqa: BLE001 - closing the client must go on
            self._report(reason(error))
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

    def _becomes(
        self, record: _OpenRecord | None, state: RecordState, session_id: str | None = None
    ) -> None:
        if record is None or record.newest.state is RecordState.ENDED:
            return
        if session_id is not None:
            self._by_session[session_id] = record
        if record.newest.state is not state:
            newest = record.newest = record.newest.becomes(
                state, now=self._clock.wall(), session_id=session_id
            )
            if newest.session_id is not None:
                self.draining.pop(newest.session_id, None)
                if state is RecordState.DRAINING:
                    self.draining[newest.session_id] = newest
            self._write_soon(record)

    def _write_soon(self, record: _OpenRecord) -> None:
        if (
            self.ledger is None
            or record.newest is record.saved
            # A running writer goes on with the newest version when the one before is written.
            or (record.writer is not None and not record.writer.done())
        ):
            return
        self._failed.discard(record)
        try:
            record.writer = self._spawn(self._write(self.ledger, record))
        except QSessionsError as error:
            self._report(reason(error))
        else:
            self._writers.add(record.writer)
            record.writer.add_done_callback(self._writers.discard)

    async def _write(self, ledger: Ledger, record: _OpenRecord) -> None:
        while (newest := record.newest) is not record.saved:
            timer = self._clock.call_later(records.WRITE_TIMEOUT_S, self._late)
            try:
                await ledger.record(newest)
            except Exception as error:  # noqa: BLE001 - a user's own ledger may raise anything
                self._report(reason(error))
                is_open = record.saved is not None and record.saved.state is not RecordState.ENDED
                if newest.state is RecordState.ENDED and not is_open:
                    # A session that is over and was never recorded needs no record.
                    record.saved = newest
                elif record.newest is newest:
                    self._failed.add(record)
                    return
            else:
                record.saved = newest
                for failed in tuple(self._failed):
                    self._write_soon(failed)
            finally:
                self._is_overdue = False
                timer.cancel()
        if record.newest.state is RecordState.ENDED:
            self._open.pop(record.newest.key, None)

    def _late(self) -> None:
        self._is_overdue = True
        self._report(f"it did not answer within {records.WRITE_TIMEOUT_S:g} s")

    def _report(self, reason: str) -> None:
        if not self._has_reported:
            self._has_reported = True
            self._observers.notify(LedgerFailed(reason=reason))
