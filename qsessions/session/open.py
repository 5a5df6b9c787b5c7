"""A session that ends with a block: opened on the way in, drained or closed on the way out, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from qsessions.clock import Clock
from qsessions.errors import (
    ClientClosed,
    ConfigurationError,
    InvalidArgument,
    NotFound,
    QSessionsError,
    SessionLeftOpen,
)
from qsessions.events import EndingFailed, Observers
from qsessions.models import CreateSession, deadline_seconds
from qsessions.session.close_all import How, checked_way
from qsessions.session.create import Creation
from qsessions.session.live import AsyncLiveSession
from qsessions.session.signals import Signals

# Gives None when a session has ended, else why it hasn't.
_Ending: TypeAlias = "asyncio.Task[QSessionsError | None]"
_Spawn: TypeAlias = Callable[[Coroutine[Any, Any, QSessionsError | None]], _Ending]


class End(Protocol):
    """Ends a session as a client does."""

    async def __call__(self, how: How, session_id: str, /, *, timeout: float) -> None:
        """Drain or close it within `timeout` seconds."""
        ...


class Owned:
    """The sessions that a client opened and has yet to end."""

    def __init__(self) -> None:
        self._opened: set[Opened] = set()

    def add(self, opened: Opened) -> None:
        """Take one on."""
        self._opened.add(opened)

    def discard(self, opened: Opened) -> None:
        """Let go of one that has ended."""
        self._opened.discard(opened)

    def interrupted(self) -> list[str]:
        """Say of each what somebody who leaves now must know."""
        return [opened.interrupted() for opened in tuple(self._opened)]

    async def end(self, how: How | None = None, *, again: bool = True) -> None:
        """End them all, or try to; those that fail are told to observers and stay.

        Args:
            how: What ends them; None ends each as its block did, or would if it were clean.
            again: Whether to try those again that could not be ended before.
        """
        endings = [opened.end(how or opened.how, again=again) for opened in tuple(self._opened)]
        if tasks := [ending for ending in endings if ending is not None]:
            await asyncio.wait(tasks)


class Opened(AbstractAsyncContextManager[AsyncLiveSession]):
    """What `AsyncSessionClient.open` gives: enter it once.

    Args:
        begin: Creates the session and gives its handle.
        end: Ends it.
        creation: Follows its create.
        request: What it asks for.
        owned: Knows it while it is open.
        spawn: Makes the task that ends it, so that nobody's cancellation does away with the ending.
        observers: Told of an ending that failed.
        clock: The time.
        on_exit: How it ends after a clean block.
        on_error: How it ends after an error or a cancellation.
        ending_timeout: How long the ending may take in all: seconds, a `timedelta` or text such as "1m".
        signals: Held while the session is open, where signals are to end it.

    Raises:
        InvalidArgument: One of the ways isn't one, or the timeout can't be right.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[AsyncLiveSession]],
        end: End,
        *,
        creation: Creation,
        request: CreateSession,
        owned: Owned,
        spawn: _Spawn,
        observers: Observers,
        clock: Clock,
        on_exit: How,
        on_error: How,
        ending_timeout: float | timedelta | str,
        signals: Signals | None = None,
    ) -> None:
        checked_way("on_exit", on_exit)
        checked_way("on_error", on_error)
        seconds = deadline_seconds(ending_timeout, "ending_timeout")
        if seconds is None:
            raise InvalidArgument(
                "ending_timeout must be a limit: an ending that can't succeed would go on for ever."
            )
        # As after a clean block, until it has ended otherwise.
        self.how: How = on_exit
        self._on_error: How = on_error
        self.creation = creation
        self._request = request
        self._begin = begin
        self._end = end
        self._owned = owned
        self._spawn = spawn
        self._observers = observers
        self._clock = clock
        self._seconds = seconds
        self._signals = signals
        self._entered = False
        self._live: AsyncLiveSession | None = None
        self._ending: _Ending | None = None
        self._has_failed = False

    async def __aenter__(self) -> AsyncLiveSession:
        """Create the session.

        Raises:
            QSessionsError: As `AsyncSessionClient.create`.
            ConfigurationError: It was entered before, or signals can't be handled here.
        """
        if self._entered:
            raise ConfigurationError(
                "what open() gives can be entered once.", solution="Call open() again."
            )
        self._entered = True
        if self._signals is not None:
            self._signals.hold()
        try:
            live = self._live = await self._begin()
        except BaseException:
            self._release()
            raise
        # Nothing is awaited between the answer and this, so that no cancellation can come between.
        self._owned.add(self)
        return live

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session, whoever cancels this meanwhile; an error of the block goes on unchanged, with a note where the ending failed.

        Raises:
            SessionLeftOpen: The block was clean, and the ending failed.
            CancelledError: Somebody cancelled this meanwhile.
        """
        if error is not None:
            self.how = self._on_error
        failure, cancelled = await self._through(self.how)
        if failure is not None:
            self.tell(failure, cancelled or error)
        if cancelled is not None:
            raise cancelled

    def tell(self, failure: QSessionsError, error: BaseException | None) -> None:
        """Add to an error that goes on that the session is left open, or raise `SessionLeftOpen` where there is none."""
        if error is not None:
            error.add_note(f"session {self.session_id!r} is left open: {failure}")
            return
        raise SessionLeftOpen(
            f"the session could not be ended after its block: {failure.message}",
            operation=failure.operation,
            session_id=self.session_id,
            method=failure.method,
            path=failure.path,
            status=failure.status,
            code=failure.code,
            trace_id=failure.trace_id,
            attempts=failure.attempts,
            retryable=failure.retryable,
        ) from failure

    def interrupted(self) -> str:
        """Say what somebody who leaves now must know."""
        if self._live is not None:
            return f"session {self.session_id!r} is being ended and may be open"
        return self.creation.interrupted(self._request)

    @property
    def session_id(self) -> str:
        """The session's id."""
        assert self._live is not None  # noqa: S101 - nobody asks before it was entered
        return self._live.id

    @property
    def is_over(self) -> bool:
        """Whether the session was ended."""
        return self._outcome() is None

    def end(self, how: How, *, again: bool = True) -> _Ending | None:
        """Begin to end the session, unless that is under way or done; give the task, or None where the client is closed already."""
        if self._ending is None or (again and self._ending.done() and not self.is_over):
            with suppress(ClientClosed):
                self._ending = self._spawn(self._carry(how))
        return self._ending

    async def take_back(self) -> str | None:
        """End the session at once for somebody who has left; give what is left to tell."""
        failure, _ = await self._through("close")
        return None if failure is None else f"session {self.session_id!r} is left open: {failure}"

    async def _through(
        self, how: How
    ) -> tuple[QSessionsError | None, asyncio.CancelledError | None]:
        """Wait until the session has ended, however often somebody cancels this; give why it hasn't, and the last cancellation."""
        cancelled: asyncio.CancelledError | None = None
        ending = self.end(how)
        while ending is not None and not ending.done():
            try:
                await asyncio.wait({ending})
            except asyncio.CancelledError as error:
                cancelled = error
            if ending.cancelled():
                # The event loop is shutting down, which cancels every task once, this one before its first step.
                ending = self.end(how)
        return self._outcome(), cancelled

    def _outcome(self) -> QSessionsError | None:
        ending = self._ending
        if ending is None or not ending.done() or ending.cancelled():
            return ClientClosed(
                "the client or the event loop was shut down before the session had ended."
            )
        return ending.result()

    async def _carry(self, how: How) -> QSessionsError | None:
        failure = await self._attempt(how)
        if failure is None:
            self._owned.discard(self)
            self._release()
        else:
            again, self._has_failed = self._has_failed, True
            self._observers.notify(
                EndingFailed(
                    session_id=self.session_id, operation=how, detail=str(failure), again=again
                )
            )
        return failure

    async def _attempt(self, how: How) -> QSessionsError | None:
        assert self._live is not None  # noqa: S101 - only what was entered is ended
        seen = self._live.snapshot
        # An answer about another session, as a cache in between may give, says nothing about this one.
        if seen is not None and seen.is_final and seen.id == self.session_id:
            return None
        until = self._clock.monotonic() + self._seconds
        try:
            try:
                await self._end(how, self.session_id, timeout=self._seconds)
            except asyncio.CancelledError:
                # The event loop is shutting down, which cancels every task once. Either request can be sent again.
                left = max(until - self._clock.monotonic(), 0.001)
                await self._end(how, self.session_id, timeout=left)
        except NotFound:
            return None
        except QSessionsError as error:
            return error.with_traceback(None)
        except asyncio.CancelledError:
            return ClientClosed(
                "the client or the event loop was shut down before the session had ended."
            )
        except Exception as error:  # noqa: BLE001 - whatever a user's provider raises, the block's own error must go on
            return QSessionsError(f"{type(error).__name__} was raised while ending the session.")
        return None

    def _release(self) -> None:
        signals, self._signals = self._signals, None
        if signals is not None:
            signals.release()
