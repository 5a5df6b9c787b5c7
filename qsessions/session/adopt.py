"""Taking over a session that another process created."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from qsessions.arguments import check_session_id
from qsessions.errors import Conflict, ProtocolError
from qsessions.models import Session
from qsessions.session.calls import SessionCalls, nothing_reopens
from qsessions.session.create import why_closed
from qsessions.session.pending_creates import PendingCreates


class Adoption:
    """One session that is taken over.

    Args:
        calls: Makes the calls.
        creates: What the client waits for when it is closed.
        session_id: The session.
        labels: What to call it in the ledger.
        api_version: The API version, or None for the client's.
        seconds: The timeout, or None for none.

    Attributes:
        calls: Makes the calls.
        session_id: The session.
        api_version: The API version of all calls about it.
    """

    def __init__(
        self,
        calls: SessionCalls,
        creates: PendingCreates,
        session_id: str,
        *,
        labels: Mapping[str, str],
        api_version: str | None,
        seconds: float | None,
    ) -> None:
        check_session_id(session_id)
        self.calls = calls
        self._creates = creates
        self.session_id = session_id
        self._labels = labels
        self.api_version = api_version
        self._seconds = seconds

    async def result(self) -> Session:
        """Read the session and record it; once only.

        Where this fails or is cancelled, nothing has changed.

        Raises:
            Conflict: It is closed, or takes no more jobs.
            LeaseLost: This process may own no session any more.
            QSessionsError: As `AsyncSessionClient.get`.
        """
        if (refusal := self._creates.refusal or why_closed(self.calls.caller)) is not None:
            # As a create: the loop must get on with what this would have to wait for.
            await asyncio.sleep(0)
            raise refusal
        # Whatever closes the client waits for it, and then ends the session.
        self._creates.add(self, lambda _: None)
        try:
            deadline = self.calls.clock.deadline(self._seconds)
            session = await self.calls.get(self.session_id, self.api_version, deadline)
            self._check(session)
            caller = self.calls.caller
            await self.calls.recorder.adopt(
                session,
                base_url=caller.base_url,
                instance=caller.instance,
                labels=self._labels,
                seconds=deadline.remaining(),
            )
            return session
        finally:
            self._creates.remove(self)

    def describe(self) -> str:
        """Return what a caller that leaves now must know."""
        return f"session {self.session_id!r} was being taken over, and is as it was"

    def _check(self, session: Session) -> None:
        where: dict[str, Any] = {"operation": "adopt", "session_id": self.session_id}
        if session.id != self.session_id:
            raise ProtocolError("the answer is about another session.", **where)
        if session.is_final:
            raise nothing_reopens(**where)
        if session.is_draining:
            raise Conflict(
                "the session takes no more jobs, and closes when those that it has are done.",
                solution="Create another one, or let it take jobs again first: "
                "update(accepting_jobs=True).",
                **where,
            )
