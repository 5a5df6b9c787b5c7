"""The calls on one session, and what a client remembers of its sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import attrs

from qsessions.api import operations
from qsessions.api.messages import Progress
from qsessions.api.operations import YOUNG_S, Operation
from qsessions.caller import Caller, Timeout
from qsessions.clock import Clock, Deadline
from qsessions.errors import (
    CallTimeout,
    ClientClosed,
    Conflict,
    NotFound,
    ProtocolError,
    QSessionsError,
    ResponseError,
)
from qsessions.events import Observers, SessionClosed, SessionDraining, SessionEnded
from qsessions.ledger.recorder import SessionRecorder
from qsessions.models import Session, UpdateSession
from qsessions.session.draining import DrainingSessions

if TYPE_CHECKING:
    from qsessions.session.live import Poll
    from qsessions.session.usage import KnownUsage

T = TypeVar("T")

How: TypeAlias = Literal["drain", "close"]
HOWS: tuple[How, ...] = ("drain", "close")
EndedBy: TypeAlias = Literal["max_usage", "lost_lease"]
"""What closes a session before its block ends."""

# How many seconds to wait before looking again for a session that was created just now.
LOOK_AGAIN_S = 2.0
# Why a session may be open whose ending the end of the client or of its loop cut off.
SHUT_DOWN = "the client or the event loop was shut down before the session had ended."
# How many sessions a client remembers: more than can be new while a create is under way.
_REMEMBERED = 10_000


class SessionCalls:
    """Makes the calls on sessions for one client, and records what they show.

    An answer may be about another session, where a cache in between gives it.

    The service may not know a session yet that it has just created: a 404 about one that this
    client created in the last two minutes is looked at again.

    Attributes:
        caller: Makes the calls.
        spawn: Runs a coroutine as a task that the client owns; see `Caller`.
        recorder: Records the client's sessions in its ledger.
        observers: Get the client's events.
        clock: The time.
        owner: What makes the calls of the client that they belong to, without headers of their own.
        polls: What reads the sessions that somebody waits for, by id.
        draining: Finds out which drained sessions are over.
        usages: What the service last said of each instance's usage, once it was asked.
        created_at: When each of the client's newest sessions was created, by id, oldest first, on
            the monotonic clock.
    """

    def __init__(
        self, caller: Caller, recorder: SessionRecorder, observers: Observers, clock: Clock
    ) -> None:
        self.caller = caller
        self.spawn = caller.spawn
        self.recorder = recorder
        self.observers = observers
        self.clock = clock
        self.owner = caller
        self.polls: WeakValueDictionary[str, Poll] = WeakValueDictionary()
        self.draining = DrainingSessions(recorder, clock)
        self.usages: dict[str | None, KnownUsage] = {}
        self.created_at: dict[str, float] = {}

    def remember(self, session_id: str) -> None:
        """Remember a session that this client created just now."""
        self.created_at[session_id] = self.clock.monotonic()
        if len(self.created_at) > _REMEMBERED:
            del self.created_at[next(iter(self.created_at))]

    def is_young(self, session_id: str) -> bool:
        """Return whether the service may not know the session yet: it was created just now."""
        return self.clock.monotonic() - self.created_at.get(session_id, float("-inf")) < YOUNG_S

    async def get(
        self,
        session_id: str,
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
        progress: Progress | None = None,
    ) -> Session:
        """Read a session; see `AsyncSessionClient.get`. `progress` follows the request."""
        session = await self._call(operations.get(session_id), api_version, timeout, progress)
        if session.is_final:
            self.recorder.ended(session.id)
            self.observers.notify(
                SessionEnded(session_id=session.id, usage_seconds=session.elapsed_time)
            )
        return session

    async def has_pending_jobs(
        self,
        session_id: str,
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
    ) -> bool:
        """Return whether a session has jobs that are queued or running."""
        return await self.caller.call(operations.has_pending_jobs(session_id), api_version, timeout)

    async def update(
        self,
        session_id: str,
        *,
        accepting_jobs: bool,
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
        extra: Mapping[str, object] | None = None,
        name: str = "update",
    ) -> None:
        """Open or shut a session for new jobs; see `AsyncSessionClient.update`.

        Args:
            session_id: Its id.
            accepting_jobs: Whether it is to take new jobs.
            api_version: The API version for this call.
            timeout: Its timeout or deadline.
            extra: Further fields to send, or None.
            name: What errors call the operation; a "drain" of a closed session is a success.
        """
        deadline = self.caller.deadline(timeout)
        wanted = UpdateSession(accepting_jobs, extra=extra)
        operation = operations.update(session_id, wanted, name=name)
        try:
            await self._call(operation, api_version, deadline)
        except NotFound:
            self.recorder.ended(session_id)
            raise
        except Conflict as conflict:
            # The first of several attempts may have done it; and a drain is done whoever did it.
            if name != "drain" and (conflict.attempts == 1 or extra):
                raise
            get = operations.get(session_id, ending=operation.ending)
            session = await self.caller.call(get, api_version, deadline)
            if session.id != session_id or not operations.is_reached(wanted, session):
                raise
            self._updated(session_id, accepting_jobs=accepting_jobs)
            if session.is_final:
                self.recorder.ended(session_id)
        else:
            self._updated(session_id, accepting_jobs=accepting_jobs)
            if accepting_jobs:
                await self._check_reopened(operation, session_id, api_version, deadline)

    async def drain(
        self,
        session_id: str,
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
    ) -> None:
        """Let a session finish its jobs, then close; see `AsyncSessionClient.drain`."""
        await self.update(
            session_id,
            accepting_jobs=False,
            api_version=api_version,
            timeout=timeout,
            name="drain",
        )

    async def close(
        self,
        session_id: str,
        api_version: str | None = None,
        timeout: Timeout | Deadline = ...,
    ) -> None:
        """Close a session now; see `AsyncSessionClient.close`."""
        try:
            await self._call(operations.close(session_id), api_version, timeout)
        except NotFound:
            self.recorder.ended(session_id)
            raise
        self.recorder.ended(session_id)
        self.observers.notify(SessionClosed(session_id=session_id))

    async def end(
        self, how: How, session_id: str, api_version: str | None, seconds: float
    ) -> QSessionsError | None:
        """End a session within `seconds`; return why it may be open, or None. Nothing is raised.

        A cancellation is the event loop's shutdown, which cancels every task once. Either request
        can be sent again.
        """
        deadline = self.clock.deadline(seconds)
        end = self.drain if how == "drain" else self.close
        try:
            try:
                await end(session_id, api_version, deadline)
            except asyncio.CancelledError:
                await end(session_id, api_version, deadline)
        except NotFound:
            return None
        except QSessionsError as error:
            return error.with_traceback(None)
        except asyncio.CancelledError:
            return ClientClosed(SHUT_DOWN)
        except Exception as error:  # noqa: BLE001 - a user's clock may raise anything
            return QSessionsError(f"{type(error).__name__} was raised while ending the session.")
        return None

    def _call(
        self,
        operation: Operation[T],
        api_version: str | None,
        timeout: Timeout | Deadline,
        progress: Progress | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Carry out an operation on a session; see `_call_young` for one created just now."""
        if operation.session_id in self.created_at and self.is_young(operation.session_id):
            return self._call_young(operation, api_version, timeout, progress)
        return self.caller.call(operation, api_version, timeout, progress)

    async def _call_young(
        self,
        operation: Operation[T],
        api_version: str | None,
        timeout: Timeout | Deadline,
        progress: Progress | None,
    ) -> T:
        """Carry out an operation on a session that was created just now.

        A 404 is looked at again: by a GET after 2 s, then by the operation itself. Where that is a
        GET, one look will do. A repeat that finds it gone isn't success.

        Raises:
            NotFound: The service said again that it knows no such session.
            CallTimeout: It said so, and no time is left to look again.
            ResponseError: It says both.
            QSessionsError: See errors.py.
        """
        deadline = self.caller.deadline(timeout)
        operation = attrs.evolve(operation, done_when_repeated=frozenset())
        try:
            return await self.caller.call(operation, api_version, deadline, progress)
        except NotFound as error:
            refusal = error
        remaining = deadline.remaining()
        if remaining is not None and remaining <= LOOK_AGAIN_S:
            raise CallTimeout.from_failure(
                refusal,
                "the service doesn't know the session, which was created just now; "
                "no time was left to look again.",
                status=None,
                retryable=True,
            ) from refusal
        await self.clock.sleep(LOOK_AGAIN_S)
        is_open = operation.method != "GET" and await self._is_open(
            operation, api_version, deadline
        )
        try:
            return await self.caller.call(operation, api_version, deadline, progress)
        except NotFound as error:
            if not is_open:
                raise
            raise ResponseError.from_failure(
                error,
                "the service knows the session and says that it doesn't, so it may be open.",
                retryable=True,
            ) from error

    async def _is_open(
        self, operation: Operation[T], api_version: str | None, deadline: Deadline
    ) -> bool:
        """Return whether the service shows a session that may be open."""
        session_id = operation.session_id
        assert session_id is not None  # noqa: S101 - only a session's own id is young
        # The operation itself must have a chance, whatever becomes of this.
        half = None if (left := deadline.remaining()) is None else max(left / 2, 0.001)
        get = operations.get(session_id, ending=operation.ending)
        try:
            session = await self.caller.call(get, api_version, half)
        except NotFound:
            return False
        except QSessionsError:
            # It can't be read, so it may be open.
            return True
        return session.id != session_id or not session.is_final

    def _updated(self, session_id: str, *, accepting_jobs: bool) -> None:
        self.recorder.updated(session_id, accepting_jobs=accepting_jobs)
        if not accepting_jobs:
            self.observers.notify(SessionDraining(session_id=session_id))
        with suppress(ClientClosed):
            self.draining.look_if_due(self.owner)

    async def _check_reopened(
        self,
        operation: Operation[None],
        session_id: str,
        api_version: str | None,
        deadline: Deadline,
    ) -> None:
        """Read a session that was to take jobs again.

        The service accepts that of a closed session too, and reopens nothing.
        """
        where: dict[str, Any] = {
            "operation": operation.name,
            "session_id": session_id,
            "method": operation.method,
            "path": operation.path,
        }
        try:
            session = await self.get(session_id, api_version, deadline)
        except QSessionsError as error:
            error.add_note(
                "the update was accepted; whether the session takes jobs again could not be read."
            )
            raise
        if session.id != session_id:
            raise ProtocolError(
                "the update was accepted, and the answer to the reading is about another session.",
                **where,
            )
        if session.is_final:
            raise nothing_reopens(**where)


def nothing_reopens(**where: Any) -> Conflict:
    """Return the error of a session that was to take jobs and is closed."""
    return Conflict(
        "the session is closed, and nothing reopens it.", solution="Create another one.", **where
    )
