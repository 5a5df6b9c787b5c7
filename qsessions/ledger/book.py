"""What one client records of the sessions that it creates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qsessions.ledger.guard import Guard
from qsessions.ledger.records import LedgerRecord, RecordState
from qsessions.models import CreateSession, Session


class Book:
    """Keeps the records of one client's sessions in its ledger. Without a ledger it does nothing.

    Args:
        guard: Writes the records, and never fails.
        wall: Returns the seconds since 1970.
        is_durable: Whether a session that was created is on the disk before anybody is told of it.

    Attributes:
        draining: The records of sessions that drain, by session, the longest ago first.
    """

    def __init__(self, guard: Guard, wall: Callable[[], float], *, is_durable: bool = True) -> None:
        self._guard = guard
        self._wall = wall
        self._is_durable = is_durable
        # The records that aren't ended, by their keys, and the keys by session.
        self._records: dict[str, LedgerRecord] = {}
        self._keys: dict[str, str] = {}
        self.draining: dict[str, LedgerRecord] = {}
        # The records of requests of which none has gone out yet.
        self._unsent: dict[str, LedgerRecord] = {}

    async def intend(
        self,
        request: CreateSession,
        key: str,
        *,
        base_url: str,
        instance: str | None,
        labels: Mapping[str, str],
        seconds: float | None = None,
    ) -> None:
        """Record that a request is about to go out, and wait until that is kept.

        Args:
            request: What is asked for.
            key: The record's own id.
            base_url: Of whom.
            instance: The CRN of the instance, or None.
            labels: What its maker calls it.
            seconds: What is left of the call's deadline; None for no deadline.
        """
        if self._guard.is_on:
            record = LedgerRecord.intent(
                request,
                key=key,
                base_url=base_url,
                instance=instance,
                now=self._wall(),
                labels=labels,
            )
            self._records[key] = self._unsent[key] = record
            await self._guard.record(record, seconds)

    def sent(self, key: str) -> None:
        """Take note that a request goes out."""
        record = self._unsent.pop(key, None)
        if record is not None and key not in self._records:
            # It was withdrawn, and refused for a while only. Nobody waits for this: it is better than none.
            self._records[key] = record
            self._guard.note(record)

    def withdraw(self) -> None:
        """Record that nothing comes of the requests that haven't gone out, since they are refused from now on."""
        for key in self._unsent:
            self._becomes(key, RecordState.ENDED)

    def created(self, key: str, session_id: str) -> None:
        """Record that a session came of it."""
        self._knows(key, session_id)
        self._becomes(key, RecordState.CREATED, session_id)

    async def kept(self, key: str) -> None:
        """Wait until what is recorded of a create is kept: 5 s at the most, and not where the ledger fails, which is told."""
        if self._is_durable:
            await self._guard.kept(key)

    def unknown(self, key: str, session_id: str | None = None) -> None:
        """Record that nobody can tell what came of it."""
        self._knows(key, session_id)
        self._becomes(key, RecordState.UNKNOWN, session_id)

    def nothing(self, key: str) -> None:
        """Record that nothing came of it."""
        self._unsent.pop(key, None)
        self._becomes(key, RecordState.ENDED)

    def updated(self, session_id: str, *, accepting_jobs: bool) -> None:
        """Record that a session takes no more jobs, or takes them again."""
        state = RecordState.CREATED if accepting_jobs else RecordState.DRAINING
        self._becomes(self._keys.get(session_id), state)

    def ended(self, session_id: str) -> None:
        """Record that a session is closed."""
        self._becomes(self._keys.pop(session_id, None), RecordState.ENDED)

    def saw(self, session: Session) -> None:
        """Take note of how a session is."""
        if session.is_final:
            self.ended(session.id)

    def _knows(self, key: str, session_id: str | None) -> None:
        if session_id is not None and key in self._records:
            self._keys[session_id] = key

    def _becomes(self, key: str | None, state: RecordState, session_id: str | None = None) -> None:
        record = None if key is None else self._records.get(key)
        if record is None or record.state is state:
            return
        record = record.becomes(state, now=self._wall(), session_id=session_id)
        if record.session_id is not None:
            self.draining.pop(record.session_id, None)
            if state is RecordState.DRAINING:
                self.draining[record.session_id] = record
        if state is RecordState.ENDED:
            del self._records[record.key]
        else:
            self._records[record.key] = record
        self._guard.note(record)
