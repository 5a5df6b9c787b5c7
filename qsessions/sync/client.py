"""`SessionClient` and `LiveSession`: the calls of the asynchronous client for code that doesn't await, on a private event loop."""

from __future__ import annotations

import os
import ssl as tls
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from yarl import URL

from qsessions.api import operations
from qsessions.api.messages import AuthProvider, strip_frames
from qsessions.api.operations import MAX_PAGE
from qsessions.caller import Timeout
from qsessions.client import AsyncSessionClient
from qsessions.clock import Clock
from qsessions.errors import ClientClosed, QSessionsError
from qsessions.events import Observer
from qsessions.http.retry import RetryPolicy
from qsessions.ledger import Ledger
from qsessions.models import (
    ApiVersion,
    CreateSession,
    Duration,
    Mode,
    Session,
    SessionState,
    Workload,
)
from qsessions.session import signals
from qsessions.session.calls import How
from qsessions.session.close_all import Ending
from qsessions.session.create import Create
from qsessions.session.live import AsyncLiveSession
from qsessions.session.open import SessionContext
from qsessions.session.signals import SignalListener, release
from qsessions.sync.loop_thread import Lasting, LoopThread, Undoable

T = TypeVar("T")

_NO_MORE: Any = object()


class _Client(AsyncSessionClient):
    """The asynchronous client, with what only the facade needs.

    Attributes:
        thread: Where it lives, set before it is used.
    """

    thread: LoopThread

    def creating(
        self,
        wanted: CreateSession,
        labels: Mapping[str, str] | None,
        api_version: str | None,
        timeout: Timeout,
    ) -> Create:
        """Return a create that is followed from outside."""
        return self._create(wanted, labels, api_version, timeout)

    def on_signal(self, resume: Callable[[], None]) -> None:
        """Close the sessions, then resume."""
        self._open_sessions.refuse_creates()
        with suppress(QSessionsError):
            # What interrupts this is a second signal.
            self.thread.carry(
                Lasting(
                    self.thread,
                    self._open_sessions.close_for_signal,
                    self._interrupted,
                    patient=False,
                )
            )
        # While it shuts down it takes no call, and ends the sessions unasked.
        self.thread.await_end()
        resume()

    def on_second_signal(self) -> None:
        """Name the sessions."""
        self._open_sessions.on_second_signal()

    def on_signal_done(self) -> None:
        """Go on."""
        self._open_sessions.on_signal_done()

    def _interrupted(self) -> str:
        return "; ".join(self._open_sessions.describe()) or "what open() created is being ended"


class SessionClient:
    """Creates, reads, updates and closes IBM Quantum sessions, for code that doesn't await.

    Use it as `with SessionClient() as client:`, or call `shutdown` at the end. It has the methods of `AsyncSessionClient`, with the same
    arguments, results and errors. One client serves any number of threads; it works in a notebook too, where an event loop runs already.
    The calls run on an event loop in a thread of the client's own, and so do observers, auth providers and `clock`.

    Ctrl-C ends a call at once, and the call is cancelled in the background. Only in `create`, `open` and `shutdown` the first one waits
    until the session that may be open is closed (for some 60 s at the most); a second one leaves at once, with a note on the
    KeyboardInterrupt that names the session, or the request where no id is known. (On Windows, Python gives way to Ctrl-C only when the
    answer comes; inside `asyncio.run`, whose own handler takes the first one, it is the second that counts.)

    After a fork the child needs a client of its own. While the interpreter shuts down, calls raise `ClientClosed` or `ConnectionFailed`.

    Args:
        auth, base_url and all others: See `AsyncSessionClient`, which takes `http` besides.

    Raises:
        ConfigurationError: An argument or a variable of the environment is missing or can't be right.
    """

    def __init__(
        self,
        auth: AuthProvider | Iterable[AuthProvider] | None = None,
        *,
        base_url: str | None = None,
        account: str | None = None,
        account_file: str | os.PathLike[str] | None = None,
        api_version: str | None = None,
        timeout: float | timedelta | str | None = 60.0,
        retry: RetryPolicy | None = None,
        ssl: tls.SSLContext | None = None,
        proxy: str | URL | None = None,
        application: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_concurrency: int = 100,
        ledger: Ledger | Literal["local"] | None = None,
        ledger_wait: bool = True,
        allow_insecure: bool = False,
        observers: Iterable[Observer] = (),
        clock: Clock | None = None,
    ) -> None:
        try:
            self._client = _Client(
                auth,
                base_url=base_url,
                account=account,
                account_file=account_file,
                api_version=api_version,
                timeout=timeout,
                retry=retry,
                ssl=ssl,
                proxy=proxy,
                application=application,
                headers=headers,
                max_concurrency=max_concurrency,
                ledger=ledger,
                ledger_wait=ledger_wait,
                allow_insecure=allow_insecure,
                observers=observers,
                clock=clock,
            )
        except BaseException as error:
            # As there: a traceback that shows locals must not show a secret.
            del auth, base_url, proxy, headers
            strip_frames(error)
            raise
        self._thread = self._client.thread = LoopThread(self._client.aclose)
        # Before there is a thread, which it ends whatever happens.
        self._finalizer = weakref.finalize(self, self._thread.abandon)
        self._thread.start()

    def __repr__(self) -> str:
        """Show where the client calls, and no credential."""
        # One whose making failed has no client, and is in a traceback that shows locals.
        return f"{type(self).__name__}{str(getattr(self, '_client', '()')).removeprefix('_Client')}"

    @property
    def base_url(self) -> str:
        """Where it calls, the part before /v1; see `AsyncSessionClient.base_url`."""
        return self._client.base_url

    @property
    def instance(self) -> str | None:
        """The CRN that it sends, or None; see `AsyncSessionClient.instance`."""
        return self._client.instance

    def __enter__(self) -> Self:
        """Give the client itself, once it has its settings.

        Raises:
            ConfigurationError: They are in the account file, and it won't do.
        """
        try:
            self._thread.run(self._client.__aenter__)
        except BaseException:
            self.shutdown()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Shut the client down."""
        self.shutdown()

    def shutdown(self) -> None:
        """End the client: the sessions that `open` created, creates in flight, then its connections and its thread.

        See `AsyncSessionClient.aclose`. Doing it twice does nothing. The first Ctrl-C waits for the end too; a second one leaves at once.
        In a child after a fork there is nothing to end.
        """
        self._thread.shut_down()
        self._finalizer.detach()

    def create(
        self,
        request: CreateSession | None = None,
        *,
        mode: Mode | str | None = None,
        backend: str | None = None,
        max_ttl: Duration | None = None,
        interactive_ttl: Duration | None = None,
        active_ttl: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> Session:
        """Create a session and give it; see `AsyncSessionClient.create`.

        The first Ctrl-C waits until the session that may have come of it is closed; a second one leaves at once.
        """
        wanted = operations.creation(
            request,
            mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
        )
        create = self._client.creating(wanted, labels, api_version, timeout)
        return self._thread.carry(
            Undoable(self._thread, create.result, lambda _: create.close(), create.describe)
        )

    def open(
        self,
        request: CreateSession | None = None,
        *,
        mode: Mode | str | None = None,
        backend: str | None = None,
        max_ttl: Duration | None = None,
        interactive_ttl: Duration | None = None,
        active_ttl: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        on_exit: How = "drain",
        on_error: How = "close",
        ending_timeout: float | timedelta | str = 30.0,
        handle_signals: bool = False,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> AbstractContextManager[LiveSession]:
        """Create a session that ends with a `with` block, and give its handle there; see `AsyncSessionClient.open`.

        The first Ctrl-C, in the block too, waits until it is ended; a second one leaves at once, naming it. With
        `handle_signals`, SIGTERM and Ctrl-C close the open sessions of this client, whatever the main thread is doing.
        """
        opened = self._client.open(
            request,
            mode=mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
            labels=labels,
            on_exit=on_exit,
            on_error=on_error,
            ending_timeout=ending_timeout,
            api_version=api_version,
            timeout=timeout,
        )
        signals = self._client if handle_signals else None
        return _Opened(self, self._thread, cast("SessionContext", opened), signals)

    def get(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> Session:
        """Read a session; see `AsyncSessionClient.get`."""
        return self._thread.run(
            self._client.get, session_id, api_version=api_version, timeout=timeout
        )

    def has_pending_jobs(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> bool:
        """Return whether a session has jobs that are queued or running; see `AsyncSessionClient.has_pending_jobs`."""
        return self._thread.run(
            self._client.has_pending_jobs, session_id, api_version=api_version, timeout=timeout
        )

    def update(
        self,
        session_id: str,
        *,
        accepting_jobs: bool,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> None:
        """Open or shut a session for new jobs; see `AsyncSessionClient.update`."""
        self._thread.run(
            self._client.update,
            session_id,
            accepting_jobs=accepting_jobs,
            api_version=api_version,
            timeout=timeout,
        )

    def drain(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> None:
        """Let a session finish: queued and running jobs end, new ones are refused, then it closes; see `AsyncSessionClient.drain`."""
        self._thread.run(self._client.drain, session_id, api_version=api_version, timeout=timeout)

    def close(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> None:
        """Close a session now: queued jobs never run, running jobs finish; see `AsyncSessionClient.close`."""
        self._thread.run(self._client.close, session_id, api_version=api_version, timeout=timeout)

    def close_all(
        self,
        *,
        how: How = "close",
        mode: str | Iterable[str] = ("session", "batch"),
        backend: str | None = None,
        created_before: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        include_owned: bool = False,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> list[Ending]:
        """End the instance's open sessions, whoever created them, and give what became of each; see `AsyncSessionClient.close_all`."""
        return self._thread.run(
            self._client.close_all,
            how=how,
            mode=mode,
            backend=backend,
            created_before=created_before,
            labels=labels,
            include_owned=include_owned,
            api_version=api_version,
            timeout=timeout,
        )

    def versions(
        self, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> list[ApiVersion]:
        """List the API versions that the service has, oldest first; see `AsyncSessionClient.versions`."""
        return self._thread.run(self._client.versions, api_version=api_version, timeout=timeout)

    def workloads(
        self,
        *,
        mode: str | Iterable[str] = ("session", "batch"),
        status: str | Iterable[str] = (),
        backend: str | None = None,
        search: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        newest_first: bool = False,
        page_size: int = MAX_PAGE,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> Iterator[Workload]:
        """List the instance's sessions and batches by creation time, all pages; see `AsyncSessionClient.workloads`.

        A page is fetched when it is needed; the iterator may be left half-way.
        """
        listed = self._client.workloads(
            mode=mode,
            status=status,
            backend=backend,
            search=search,
            created_after=created_after,
            created_before=created_before,
            newest_first=newest_first,
            page_size=page_size,
            api_version=api_version,
            timeout=timeout,
        )
        return _each(self, self._thread, listed)

    def watch(
        self,
        ids: Iterable[str],
        *,
        rate: float = 20.0,
        timeout: float | timedelta | str | None = None,
    ) -> Iterator[tuple[str, Session]]:
        """Give the id and the `Session` of many sessions at each change, until all are closed; see `AsyncSessionClient.watch`.

        The iterator may be left half-way.
        """
        return _each(self, self._thread, self._client.watch(ids, rate=rate, timeout=timeout))

    def attach(self, session_id: str) -> LiveSession:
        """Give a handle on a session that exists, to watch it and wait for it; see `AsyncSessionClient.attach`."""
        return LiveSession(
            self, self._thread, self._thread.run(_done, self._client.attach, session_id)
        )


class LiveSession:
    """A handle on one session, from `SessionClient.attach`; the synchronous form of `AsyncLiveSession`.

    Attributes:
        id: The session's id.
        snapshot: The session as this handle last saw it, or None before the first `refresh`, `wait_until` or `watch`.
    """

    def __init__(self, client: SessionClient, thread: LoopThread, live: AsyncLiveSession) -> None:
        # Keeps the client from being collected.
        self._client = client
        self._thread = thread
        self._live = live
        self.id = live.id

    def __repr__(self) -> str:
        """Show the id and the last known state."""
        return repr(self._live).replace(type(self._live).__name__, type(self).__name__, 1)

    @property
    def snapshot(self) -> Session | None:
        """The session as this handle last saw it, or None."""
        return self._live.snapshot

    def refresh(self) -> Session:
        """Read the session now and give it; see `AsyncLiveSession.refresh`."""
        return self._thread.run(self._live.refresh)

    def drain(self) -> None:
        """Let queued and running jobs finish, refuse new ones, then close; see `AsyncSessionClient.drain`."""
        self._thread.run(self._live.drain)

    def close(self) -> None:
        """Close now; queued jobs never run. See `AsyncSessionClient.close`."""
        self._thread.run(self._live.close)

    def watch(self, *, timeout: float | timedelta | str | None = None) -> Iterator[Session]:
        """Give the session as it is, then at each change, until it is closed; see `AsyncLiveSession.watch`.

        The iterator may be left half-way.
        """
        return _each(self, self._thread, self._live.watch(timeout=timeout))

    def wait_until(
        self, *states: SessionState | str, timeout: float | timedelta | str | None = None
    ) -> Session:
        """Wait until the session is in one of the states, and give it; see `AsyncLiveSession.wait_until`."""
        return self._thread.run(self._live.wait_until, *states, timeout=timeout)


class _Opened(AbstractContextManager[LiveSession]):
    """What `SessionClient.open` gives."""

    def __init__(
        self,
        client: SessionClient,
        thread: LoopThread,
        opened: SessionContext,
        signals: SignalListener | None,
    ) -> None:
        self._client = client
        self._thread = thread
        self._opened = opened
        self._signals = signals

    def __enter__(self) -> LiveSession:
        """Create the session; see `Opened.__aenter__`."""
        if self._signals is not None:
            signals.hold(self._signals)
        try:
            # The handle is made there, so that no signal comes between the session and its return.
            return self._thread.carry(
                Undoable(
                    self._thread,
                    self._enter,
                    lambda _: self._opened.close(),
                    self._opened.describe,
                )
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
        """End the session; see `Opened.__aexit__`. In a child after a fork it is the parent's."""
        leave = partial(self._opened.__aexit__, kind, error, traceback)
        try:
            if not (self._opened.has_ended or self._thread.is_forked):
                # Ctrl-C in the block was the first one.
                patient = not isinstance(error, KeyboardInterrupt)
                call = Lasting(self._thread, leave, self._opened.describe, patient=patient)
                if self._thread.is_left and error is not None and not isinstance(error, Exception):
                    # Who insisted on leaving one session doesn't wait for the next one.
                    call.interrupted_again(error)
                else:
                    self._thread.carry(call)
        except ClientClosed as closed:
            self._opened.report(closed, error)
        finally:
            self._release()

    async def _enter(self) -> LiveSession:
        return LiveSession(self._client, self._thread, await self._opened.__aenter__())

    def _release(self) -> None:
        signals, self._signals = self._signals, None
        if signals is not None:
            release(signals)


def _each(owner: object, thread: LoopThread, source: AsyncIterator[T]) -> Iterator[T]:
    """Give what an asynchronous generator gives; `owner` is held so that it isn't collected meanwhile.

    A generator left half-way lets go of its source, which the loop's own hook for collected generators then closes.
    """
    while (item := thread.run(_next, source)) is not _NO_MORE:
        yield item


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source, _NO_MORE)


async def _done(function: Callable[[str], T], argument: str) -> T:
    return function(argument)
