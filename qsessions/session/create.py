"""One create on its way: what the ledger hears of it, and what becomes of its session when its caller is cancelled meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from uuid import uuid4

import attrs

from qsessions.api.codec import decode_session_id
from qsessions.api.messages import Response, strip_frames
from qsessions.api.outcome import CreateOutcomeUnknown
from qsessions.errors import QSessionsError
from qsessions.events import CreateCancelled, Observers
from qsessions.ledger import Book
from qsessions.models import CreateSession, Session


class Creation:
    """Follows one create to its end; an `Undo` too.

    Args:
        book: Where it is recorded.
        close: Closes a session that nobody wants any more; gives what is left to tell, or None, and raises nothing.
        observers: Told of a create that was cancelled in flight.
        labels: What its maker calls the session.

    Attributes:
        key: The id of its record, made before there is a session.
        session_id: The session that came of it, as soon as that is known.
    """

    def __init__(
        self,
        book: Book,
        close: Callable[[str], Coroutine[Any, Any, str | None]],
        observers: Observers,
        labels: Mapping[str, str],
    ) -> None:
        self.key = uuid4().hex
        self.labels = labels
        self.session_id: str | None = None
        self._book = book
        self._close = close
        self._observers = observers
        self._is_taken_over = False

    def succeeded(self, session: Session) -> None:
        """Take note of the session that came of it."""
        self._found(session.id)

    def failed(self, error: BaseException) -> None:
        """Take note that its caller gets an error in place of a session."""
        if isinstance(error, CreateOutcomeUnknown):
            self._book.unknown(self.key, error.session_id)
        elif self.session_id is not None:
            # It exists, and the ledger has it: what interrupts its caller is no word about it.
            return
        elif isinstance(error, QSessionsError) or not self._is_taken_over:
            self._book.nothing(self.key)

    def sent(self) -> None:
        """Take note that the request is about to go out."""
        self._book.sent(self.key)

    def begin(self) -> None:
        """Take note that its caller was cancelled while the request was in flight."""
        self._is_taken_over = True

    def nothing(self) -> None:
        """Take note that the request did nothing after all."""
        self._book.nothing(self.key)

    def lost(self) -> None:
        """Take note that nobody can tell what it did."""
        self._book.unknown(self.key)

    async def keep(self, answer: Response) -> None:
        """Record the session that came of it: whoever is told of it may be killed at the next instruction."""
        session_id = _id_in(answer)
        if session_id is not None:
            self._found(session_id)
            await self._book.kept(self.key)

    async def undo(self, answer: Response) -> str | None:
        """Close the session; give what is left to tell."""
        session_id = _id_in(answer)
        if session_id is not None:
            self._found(session_id)
            return await self.take_back()
        self._book.unknown(self.key)
        return self._told(
            "create was cancelled in flight; a session was created, and its id can't be read."
        )

    async def take_back(self) -> str | None:
        """Close the session that came of it, since whoever asked for it has left; give what is left to tell."""
        assert self.session_id is not None  # noqa: S101 - it has come of it
        return self._told(await self._close(self.session_id))

    def interrupted(self, request: CreateSession) -> str:
        """Say what somebody who leaves now must know."""
        if self.session_id is not None:
            return (
                f"create was interrupted; session {self.session_id!r} was created and may be open"
            )
        asked = ", ".join(
            f"{name}={value}" for name, value in attrs.asdict(request).items() if value is not None
        )
        return (
            f"create({asked}) was interrupted, and its outcome is unknown: look through workloads()"
        )

    def _found(self, session_id: str) -> None:
        self.session_id = session_id
        self._book.created(self.key, session_id)

    def _told(self, left: str | None) -> str | None:
        told = left or "closed after a cancelled create"
        self._observers.notify(
            CreateCancelled(session_id=self.session_id, closed=left is None, detail=told)
        )
        return left


def _id_in(answer: Response) -> str | None:
    try:
        return decode_session_id(answer.body)
    except BaseException as interruption:
        # The frames of the reading hold the body, which may repeat what was sent.
        strip_frames(interruption)
        raise
