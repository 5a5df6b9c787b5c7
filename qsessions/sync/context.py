"""What the facade needs of the inside of an asynchronous client: creates, blocks and signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, cast

from qsessions.caller import Timeout
from qsessions.client import AsyncSessionClient
from qsessions.errors import ClientClosed, QSessionsError
from qsessions.models import CreateSession, Mode, ModeName, Session, creation
from qsessions.session import signals
from qsessions.session.open import SessionContext
from qsessions.session.signals import SignalListener
from qsessions.sync.calls import leave, run_to_end
from qsessions.sync.live import LiveSession
from qsessions.sync.loop_thread import Call, LoopThread
from qsessions.values import Unentered


class FacadeClient(AsyncSessionClient):
    """The asynchronous client of a `SessionClient`.

    Attributes:
        thread: Where it lives, set before it is used.
    """

    # The `SessionClient` warns itself, and its thread closes this.
    _warns_unclosed: ClassVar[bool] = False

    thread: LoopThread

    def create_blocking(
        self,
        request: CreateSession | None,
        *,
        mode: Mode | ModeName | None,
        labels: Mapping[str, str] | None,
        api_version: str | None,
        timeout: Timeout,
        extra_headers: Mapping[str, str] | None,
        **fields: Any,
    ) -> Session:
        """Create a session for a caller in another thread; closed where that is interrupted."""
        wanted = creation(request, mode, **fields)
        create = self._create(wanted, labels, api_version, timeout, extra_headers)
        return run_to_end(self.thread, create.result, create.describe, lambda _: create.close())

    def on_signal(self, resume: Callable[[], None]) -> None:
        """Close the open sessions, then call `resume`; see `SignalListener`."""
        sessions = self._open_sessions
        sessions.refuse_creates()
        with suppress(QSessionsError):
            # What interrupts this is a second signal.
            run_to_end(self.thread, sessions.close_for_signal, self.describe, is_interrupted=True)
        # While it shuts down it takes no call, and ends the sessions unasked.
        self.thread.await_end()
        resume()

    def on_second_signal(self) -> None:
        """Name the open sessions in the log."""
        self._open_sessions.on_second_signal()

    def on_signal_done(self) -> None:
        """Let sessions be created again."""
        self._open_sessions.on_signal_done()

    def describe(self) -> str:
        """Return what a caller that leaves while it closes must know."""
        return "; ".join(self._open_sessions.describe()) or "what open() created is being ended"


class SyncSessionContext(Unentered, AbstractContextManager[LiveSession]):
    """A session that ends with a `with` block, from `SessionClient.open` and `adopt`.

    Args:
        owner: The `SessionClient`.
        client: Its asynchronous client.
        begin: That client's `open` or `adopt`.
        handle_signals: Whether signals close the session first.
        args, kwargs: What `begin` takes besides.
    """

    def __init__(
        self,
        owner: object,
        client: FacadeClient,
        begin: Callable[..., object],
        *args: Any,
        handle_signals: bool,
        **kwargs: Any,
    ) -> None:
        self._owner = owner
        self._thread = client.thread
        # Signals are handled here, in the caller's thread.
        self._listener: SignalListener | None = client if handle_signals else None
        self._context = cast("SessionContext", begin(*args, **kwargs))

    def __enter__(self) -> LiveSession:
        """Create the session, or take it over; see `AsyncSessionClient.open` and `adopt`."""
        if self._listener is not None:
            signals.hold(self._listener)
            self._thread.before_call = signals.check
        try:
            return run_to_end(
                self._thread, self._enter, self._context.describe, lambda _: self._context.close()
            )
        except BaseException:
            self._release()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the session; in a child after a fork it is the parent's.

        Raises:
            SessionLeftOpen: The block was clean, and the session could not be ended.
        """
        try:
            if self._context.has_ended or self._thread.is_forked:
                return
            describe = self._context.describe
            end = partial(self._context.__aexit__, kind, error, traceback)
            if self._thread.is_abandoned and not isinstance(error, Exception | None):
                # A user who insisted on leaving one session doesn't wait for the next one.
                leave(Call(self._thread, end), describe, error)
            else:
                # Ctrl-C in the block was the first one.
                run_to_end(
                    self._thread,
                    end,
                    describe,
                    is_interrupted=isinstance(error, KeyboardInterrupt),
                )
        except ClientClosed as closed:
            self._context.report(closed, error)
        finally:
            self._release()

    async def _enter(self) -> LiveSession:
        # The handle is made on the loop: no signal comes between the session and its return.
        return LiveSession(self._owner, self._thread, await self._context.__aenter__())

    def _release(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            signals.release(listener)
