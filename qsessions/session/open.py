"""A session that ends with a block, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from qsessions.arguments import check_choice
from qsessions.caller import Caller
from qsessions.errors import (
    ClientClosed,
    ConfigurationError,
    InvalidArgument,
    QSessionsError,
    SessionLeftOpen,
    one_line,
)
from qsessions.events import EndingFailed, MaxUsageReached, logger
from qsessions.models import deadline_seconds
from qsessions.session import signals
from qsessions.session.calls import HOWS, SHUT_DOWN, EndedBy, How, SessionCalls
from qsessions.session.create import ENDING_TIMEOUT, Create, wait_uncancelled
from qsessions.session.live import AsyncLiveSession, attach
from qsessions.session.pending_creates import PendingCreates
from qsessions.values import Unentered

if TYPE_CHECKING:
    from qsessions.session.adopt import Adoption

# Its result is None when a session has ended, else why it hasn't.
_EndingTask: TypeAlias = "asyncio.Task[QSessionsError | None]"


class SessionContext(Unentered, AbstractAsyncContextManager[AsyncLiveSession]):
    """Gets a session on entering and ends it on leaving: `AsyncSessionClient.open` and `adopt`.

    Args:
        source: Creates the session, or takes it over.
        open_sessions: The client's open sessions.
        on_exit: How it ends after a clean block.
        on_error: How it ends after an error or a cancellation.
        ending_timeout: How long the ending may take in all.
        handle_signals: Whether signals end it.
        max_usage: It is closed when it has used that much, or None for no limit.

    Attributes:
        calls: Makes the calls.

    Raises:
        InvalidArgument: `on_exit`, `on_error`, `ending_timeout` or `max_usage` can't be right.
    """

    def __init__(
        self,
        source: Create | Adoption,
        open_sessions: OpenSessions,
        *,
        on_exit: How,
        on_error: How,
        ending_timeout: float | timedelta | str,
        handle_signals: bool,
        max_usage: float | timedelta | str | None,
    ) -> None:
        check_choice("on_exit", on_exit, HOWS)
        check_choice("on_error", on_error, HOWS)
        seconds = deadline_seconds(ending_timeout, "ending_timeout")
        if seconds is None:
            raise InvalidArgument(
                "ending_timeout must be a limit: an ending that can't succeed would go on for ever."
            )
        # As after a clean block, until it has ended otherwise.
        self.how: How = on_exit
        self._on_error: How = on_error
        self._source = source
        self._open_sessions = open_sessions
        self.calls = source.calls
        self._seconds = seconds
        self._max_usage = deadline_seconds(max_usage, "max_usage")
        self._limiting: asyncio.Task[None] | None = None
        self._handles_signals = handle_signals
        self._is_entered = False
        self._live: AsyncLiveSession | None = None
        self._ending: _EndingTask | None = None
        self._has_failed = False

    async def __aenter__(self) -> AsyncLiveSession:
        """Create the session, or take it over.

        Raises:
            QSessionsError: As `AsyncSessionClient.create` or `get`.
            ConfigurationError: It was entered before, or signals can't be handled here.
        """
        if self._is_entered:
            raise ConfigurationError(
                "what open() and adopt() return can be entered once.", solution="Call it again."
            )
        self._is_entered = True
        if self._handles_signals:
            signals.hold(self._open_sessions)
            for caller in (self.calls.caller, *self.calls.caller.ancestors):
                caller.before_call = signals.check
        try:
            session = await self._source.result()
        except BaseException:
            self._release()
            raise
        # Nothing is awaited between the answer and this, so that no cancellation can come between.
        live = self._live = attach(self.calls, session.id)
        live.snapshot = session
        self._open_sessions.contexts.add(self)
        if self._max_usage is not None:
            # Late: not every program comes here.
            from qsessions.session.usage import follow_usage

            with suppress(ClientClosed):
                self._limiting = self.calls.spawn(
                    follow_usage(self.calls.polls[live.id], self._limit_usage)
                )
        return live

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session, through every cancellation.

        An error of the block goes on unchanged, with a note where the ending failed.

        Raises:
            SessionLeftOpen: The block was clean, and the ending failed.
            CancelledError: This was cancelled meanwhile.
        """
        if error is not None:
            self.how = self._on_error
        if self._live is not None and self._limiting is not None:
            # What was read just now may have come too late for the task that looks at it.
            seen = self.calls.polls[self._live.id].snapshot
            self._check_usage((seen and seen.elapsed_time) or 0.0)
        failure, cancelled = await self._end_and_wait(self.how)
        if failure is not None:
            self.report(failure, cancelled or error)
        if cancelled is not None:
            raise cancelled

    def report(self, failure: QSessionsError, error: BaseException | None) -> None:
        """Add a note that the session is left open to an error, or raise `SessionLeftOpen`."""
        if error is not None:
            error.add_note(self._left_open(failure))
            return
        raise SessionLeftOpen.from_failure(
            failure,
            f"the session could not be ended after its block: {failure.message}",
            session_id=self._source.session_id,
        ) from failure

    def describe(self) -> str:
        """Return what a caller that leaves now must know."""
        if self._live is not None:
            return f"session {self._live.id!r} is being ended and may be open"
        return self._source.describe()

    @property
    def has_ended(self) -> bool:
        """Whether the session was ended."""
        return self._failure() is None

    def end(self, how: How, *, again: bool = True) -> _EndingTask | None:
        """Begin to end the session, unless that is under way or done.

        Return the task, or None where the client is closed already.
        """
        if self._ending is None or (again and self._ending.done() and not self.has_ended):
            with suppress(ClientClosed):
                self._ending = self.calls.spawn(self._end(how))
        return self._ending

    async def close(self) -> str | None:
        """Close the session for a caller that has left; return what to say of a failure."""
        failure, _ = await self._end_and_wait("close")
        return None if failure is None else self._left_open(failure)

    def release(self) -> None:
        """End it no more: it has ended, or is another owner's.

        A record in the ledger stays, so that a reaper ends the session if nobody does.
        """
        if self._limiting is not None:
            self._limiting.cancel()
        self._open_sessions.contexts.discard(self)
        self._release()

    async def _end_and_wait(
        self, how: How
    ) -> tuple[QSessionsError | None, asyncio.CancelledError | None]:
        """End the session; return why it could not be, and the last cancellation of this."""
        cancelled: asyncio.CancelledError | None = None
        ending = self.end(how)
        while ending is not None and not ending.done():
            cancelled = await wait_uncancelled(ending) or cancelled
            if ending.cancelled():
                # The event loop is shutting down, which cancels every task once, this one before
                # its first step.
                ending = self.end(how)
        return self._failure(), cancelled

    def _failure(self) -> QSessionsError | None:
        ending = self._ending
        if ending is None or not ending.done() or ending.cancelled():
            return ClientClosed(SHUT_DOWN)
        return ending.result()

    async def _limit_usage(self, used: float) -> None:
        """Close the session if it has used too many seconds; the next read tries it again."""
        if self._max_usage is None or used < self._max_usage:
            return
        if self._ending is None or self._ending.done():
            self._check_usage(used)
            self.end("close")
        # That of the block, which has ended, may yet fail.
        assert self._ending is not None  # noqa: S101 - closing the client cancels this
        await asyncio.wait({self._ending})

    def _check_usage(self, used: float) -> None:
        """Have it end with a close, and tell that once, if it has used too many seconds."""
        most, live = self._max_usage, self._live
        if most is None or live is None or used < most or live.ended_by is not None:
            return
        self.close_because("max_usage")
        reached = MaxUsageReached(session_id=live.id, max_usage=most, usage_seconds=used)
        self.calls.observers.notify(reached)

    def close_because(self, ended_by: EndedBy) -> None:
        """Have it end with a close, however the block ends, if that can't be done before."""
        self.how, self._on_error = "close", "close"
        assert self._live is not None  # noqa: S101 - only what was entered is closed
        # Before it is closed: whoever sees it closed must know why.
        self._live.ended_by = ended_by

    async def _end(self, how: How) -> QSessionsError | None:
        live = self._live
        assert live is not None  # noqa: S101 - only what was entered is ended
        failure: QSessionsError | None = None
        # An answer about another session, as a cache may give it, says nothing about this one.
        if live.snapshot is None or not live.snapshot.is_final or live.snapshot.id != live.id:
            failure = await self.calls.end(how, live.id, self._source.api_version, self._seconds)
        if failure is None:
            self.release()
            return None
        again, self._has_failed = self._has_failed, True
        self.calls.observers.notify(
            EndingFailed(session_id=live.id, operation=how, detail=str(failure), again=again)
        )
        return failure

    def _left_open(self, failure: QSessionsError) -> str:
        return f"session {self._source.session_id!r} is left open: {failure}"

    def _release(self) -> None:
        if self._handles_signals:
            self._handles_signals = False
            signals.release(self._open_sessions)


class OpenSessions:
    """The sessions that a client opened and has yet to end; signals end them too.

    Attributes:
        calls: Makes the calls.
        creates: The creates that are under way.
        contexts: The sessions.
        has_warned: Whether it was said that a session has no `max_ttl`.
    """

    def __init__(self, calls: SessionCalls, creates: PendingCreates) -> None:
        self.has_warned = False
        self.calls = calls
        self.creates = creates
        self.contexts: set[SessionContext] = set()

    def describe(self) -> list[str]:
        """Return what a caller that leaves now must know, of each."""
        return [context.describe() for context in tuple(self.contexts)]

    async def end_of(self, owner: Caller) -> None:
        """End what a client with options of its own opened, by the owner of its calls."""
        await self._end(None, owner)

    async def end(self, how: How | None = None) -> None:
        """End what `open` created, and what comes of creates in flight, or try to.

        Failures are reported to the observers.

        Args:
            how: How; None ends each as its block did, or would if it were clean.
        """
        await self._end(how)
        await self.creates.wait_idle(self.calls.clock.deadline(ENDING_TIMEOUT))
        await self._end(how, again=False)

    async def end_for_lost_lease(self) -> None:
        """Close all sessions that the client created, or try to: they may be others' to end soon.

        Failures are reported to the observers.
        """
        for again in (True, False):
            for context in self.contexts:
                context.close_because("lost_lease")
            await self._end("close", again=again)
            # What comes of those in flight is closed too.
            await self.creates.wait_idle(self.calls.clock.deadline(ENDING_TIMEOUT))
        await asyncio.gather(*map(self._close_created, self.calls.recorder.open_sessions()))

    async def _close_created(self, session_id: str) -> None:
        failure = await self.calls.end("close", session_id, None, ENDING_TIMEOUT)
        if failure is not None:
            failed = EndingFailed(session_id=session_id, operation="close", detail=str(failure))
            self.calls.observers.notify(failed)

    async def close_for_signal(self) -> None:
        """Close them, and have the ledger know it: after a signal there may be no more time."""
        self.creates.stop_unsent()
        await self.end("close")
        await self.calls.recorder.flush()

    def on_signal(self, resume: Callable[[], None]) -> None:
        """Close them, then call `resume`; see `SignalListener`."""
        self.refuse_creates()

        def close(closing: asyncio.Task[None] | None = None) -> None:
            # One that was cancelled: the event loop is shutting down, which cancels every task
            # once; the endings go on.
            if closing is not None and not closing.cancelled():
                resume()
                return
            try:
                self.calls.spawn(self.close_for_signal()).add_done_callback(close)
            except ClientClosed:
                resume()

        try:
            asyncio.get_running_loop().call_soon_threadsafe(close)
        except RuntimeError:
            # The loop stands still, and with it the sessions' connections.
            resume()

    def on_second_signal(self) -> None:
        """Name the open sessions in the log."""
        for description in self.describe():
            logger.error("a second signal came: %s", one_line(description))

    def on_signal_done(self) -> None:
        """Let sessions be created again."""
        self.creates.refuse(None)

    def refuse_creates(self) -> None:
        """Let no session be created until the signal is done: it would be left open."""
        self.creates.refuse(
            ClientClosed(
                "a signal is ending the client's sessions, and none is created meanwhile.",
                solution="Let the program end, or call again when the signal has been handled.",
            )
        )

    async def _end(
        self, how: How | None, owner: Caller | None = None, *, again: bool = True
    ) -> None:
        endings = [
            context.end(how or context.how, again=again)
            for context in tuple(self.contexts)
            if owner in {None, context.calls.owner, *context.calls.owner.ancestors}
        ]
        if tasks := [ending for ending in endings if ending is not None]:
            await asyncio.wait(tasks)
