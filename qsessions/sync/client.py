"""`SessionClient`: the calls of the asynchronous client for code that doesn't await."""

from __future__ import annotations

import os
import ssl as tls
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar, overload

from yarl import URL

from qsessions.api import operations
from qsessions.api.messages import AuthProvider, Transport, hidden, strips_frames
from qsessions.caller import Timeout
from qsessions.clock import Clock
from qsessions.events import Observer
from qsessions.http.raw import Raw, check_recordable, recording
from qsessions.http.retry import RetryPolicy
from qsessions.ledger.records import Ledger
from qsessions.models import (
    ApiVersion,
    CreateSession,
    Duration,
    Instance,
    Mode,
    ModeName,
    Session,
    SessionKind,
    Workload,
    WorkloadMode,
    WorkloadStatus,
)
from qsessions.session.calls import How
from qsessions.sync.calls import run, run_to_end
from qsessions.sync.context import FacadeClient, SyncSessionContext
from qsessions.sync.live import LiveSession, each
from qsessions.sync.loop_thread import LoopThread
from qsessions.values import OfItsProcess, with_changes

if TYPE_CHECKING:
    from qsessions.ledger.ownership import OnLost
    from qsessions.session.close_all import Ending
    from qsessions.usage import InstanceUsage

P = ParamSpec("P")
T = TypeVar("T")


class SessionClient(OfItsProcess):
    """Creates, reads, updates and closes IBM Quantum sessions, for code that doesn't await.

    Use it as `with SessionClient() as client:`, or call `shutdown` at the end. It has the methods
    of `AsyncSessionClient`, with the same arguments, results and errors. One client serves any
    number of threads; it works in a notebook too, where an event loop runs already. The calls run
    on an event loop in a thread of the client's own, and so do observers, auth providers and
    `clock`.

    Ctrl-C ends a call at once, and the call is cancelled in the background. Only in `create`,
    `open` and `shutdown`, the first one waits until the session that may be open is closed (for
    some 60 s at the most); a second one leaves at once, with a note on the KeyboardInterrupt that
    names the session, or the request where no id is known. (On Windows, Python gives way to Ctrl-C
    only when the answer comes; inside `asyncio.run`, whose own handler takes the first one, it is
    the second that counts.)

    After a fork the child needs a client of its own. While the interpreter shuts down, calls raise
    `ClientClosed` or `ConnectionFailed`.

    The arguments are those of `AsyncSessionClient`, without `http`; see `__init__`.
    """

    # What a client with options of its own was made from.
    _parent: SessionClient | None = None

    def __repr__(self) -> str:
        """Show where the client calls, and no credential."""
        # A client that could not be made may be in a traceback that shows locals.
        base_url = self._client.base_url if hasattr(self, "_client") else ""
        return f"{type(self).__name__}(base_url={base_url!r})"

    def __enter__(self) -> Self:
        """Return the client itself, once its settings are loaded.

        Raises:
            ConfigurationError: The account file can't be used.
        """
        try:
            run(self._thread, self._client.__aenter__)
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
        """End the sessions that `open` created, creates in flight, the connections and the thread.

        Doing it twice does nothing. The first Ctrl-C waits for the end too; a second one leaves at
        once. In a child after a fork there is nothing to end. See `AsyncSessionClient.aclose`.
        """
        if self._parent is not None:
            if not (self._thread.closing or self._thread.is_forked):
                run_to_end(self._thread, self._client.aclose, self._client.describe)
            return
        self._thread.shut_down()
        self._finalizer.detach()

    def _attach(self, session_id: str) -> LiveSession:
        async def attach() -> LiveSession:
            return LiveSession(self, self._thread, self._client.attach(session_id))

        return run(self._thread, attach)

    def _derived(self, client: FacadeClient) -> Self:
        # `_parent` keeps this one, whose thread it shares, from being collected.
        return with_changes(self, _client=client, _parent=self)

    def _raw(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Raw[T]:
        check_recordable(call, self, LiveSession)
        # The call on the loop begins in this thread's context.
        with recording(self._client.clock) as answer:
            value = call(*args, **kwargs)
        return answer.raw(value)

    # From here on generated by scripts/blocking.py from client.py.
    @strips_frames
    def __init__(
        self,
        auth: AuthProvider | Iterable[AuthProvider] | None = None,
        *,
        base_url: str | None = None,
        account: str | None = None,
        account_file: str | os.PathLike[str] | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        retry: RetryPolicy | None = None,
        transport: Transport | Callable[[Transport], Transport] | None = None,
        ssl: tls.SSLContext | None = None,
        proxy: str | URL | None = None,
        application: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_concurrency: int = 100,
        ledger: Ledger | str | EllipsisType | None = ...,
        ledger_wait: bool = True,
        on_lost: OnLost = "continue",
        allow_insecure: bool = False,
        observers: Iterable[Observer] = (),
        clock: Clock | None = None,
    ) -> None:
        """Start the client, and the thread that its calls run in.

        Args:
            auth: An auth provider or several, such as `[IBMCloudAuth(api_key), ServiceCRN(crn)]`.
                By default the API key in QISKIT_IBM_TOKEN and the CRN in QISKIT_IBM_INSTANCE, else
                both from an account in ~/.qiskit/qiskit-ibm.json, the official client's file. A key
                alone gets its CRN from there if it is the same key, and a CRN alone its key. Where
                there is a key and no CRN, or an instance's name, the instance is looked up at the
                first call that needs it; see docs/configuration.md. `[]` calls without credentials,
                which is enough for `versions`.
            base_url: The part of the URL before /v1. By default QSESSIONS_BASE_URL, else the
                service of the CRN's region (us-east without a CRN) in the cloud that the account's
                `url` names, else QISKIT_IBM_URL, else https://cloud.ibm.com.
            account: The name of an account in the file, which then comes before the environment. By
                default, if one is needed, that of the channel QISKIT_IBM_CHANNEL
                (ibm_quantum_platform) with `is_default_account`, else the one named
                default-<channel>, else the last of the channel.
            account_file: The path of the file, in place of ~/.qiskit/qiskit-ibm.json; its accounts
                then come before the environment. The file is only read, in a thread, once, on
                entering `with` or at the first call, which raises what is wrong with it.
            api_version: The dated version of the API, "YYYY-MM-DD", or "latest" for the newest live
                one, which is asked for once. By default 2025-01-01, the API description's own, and
                from that one's sunset on 2027-01-01 the newest that qsessions is tested with.
            timeout: The timeout of each call as a whole (tokens, attempts and the waits between
                them): seconds, a `timedelta` or text such as "2m"; None for none. By default
                QSESSIONS_TIMEOUT, else 60 s.
            retry: When to send a request again.
            transport: What carries the requests in place of the client's own connections, for
                recording, playback or another HTTP library: a `Transport`, or a function that is
                called with the client's own transport and returns one, such as a recorder around
                it. With a `Transport` that is passed as it is, `http`, `ssl`, `proxy`,
                `application` and `max_concurrency` have no effect. It is used on the client's event
                loop, from the first request on, and is left open: who makes it ends it.
            ssl: TLS settings; by default the system's.
            proxy: The URL of an HTTP proxy. By default HTTPS_PROXY, HTTP_PROXY and NO_PROXY decide,
                else the account's `proxies.urls`; these are never used to reach this machine
                itself.
            application: A product name for the User-Agent, such as "my-orchestrator/1.2".
            headers: Further headers for the requests to the service (never sent to IAM).
            max_concurrency: How many requests there are at a time, each over a connection of its
                own; further calls wait. Creates have as many connections besides, a new one for
                each: on a kept one that the server just dropped, it couldn't be told whether a
                session was created. Requests that end a session, and the token they may need, wait
                for none of these: at least 100 of them run at a time. (With `http=` the limit is
                that pool's, for everything.)
            ledger: Where to record the sessions that this client creates, so that `qsessions reap`
                finds those of a process that was killed: "local" for the platform's own place
                (extra "ledger"), the URL of a PostgreSQL database that many machines share (extra
                "postgres"; docs/fleet.md), a `LocalLedger`, `PostgresLedger` or another `Ledger`,
                which you close, or None for nowhere. By default what QSESSIONS_LEDGER says, else
                nowhere. A session belongs to this process while that lives, even after the client
                was closed. A failing ledger stops no session from being created or ended, and is
                reported once; sessions that it never took are named at the end.
            ledger_wait: Whether `create` and `open` return only when the session's id is in the
                ledger, so that a process that is killed at the very next instruction leaves nothing
                that `qsessions reap` can't end. It costs what the disk takes (a millisecond or so,
                5 s at most), which doesn't count against `timeout`. With False the id is written in
                the background: a process that dies before that, or blocks its event loop and dies,
                leaves a record without an id, and `reap` can only show which session it may be.
            on_lost: What becomes of this client's sessions when the lease of this process in a
                shared ledger can't be renewed, so that another may take them over: "continue"
                leaves them alone, "end" closes them, and none is created until the lease is
                renewed. Either way it is reported, and after another process took them over none is
                created until they are over.
            allow_insecure: Whether plain http to a host other than this machine is allowed.
            observers: Called with each event; see events.py. The logger "qsessions" logs them
                anyway.
            clock: Time and chance, for tests. The client waits by it alone.

        Raises:
            ConfigurationError: An argument or a variable of the environment is missing or can't be
                right.
        """
        self._client = FacadeClient(
            auth,
            base_url=base_url,
            account=account,
            account_file=account_file,
            api_version=api_version,
            timeout=timeout,
            retry=retry,
            transport=transport,
            ssl=ssl,
            proxy=proxy,
            application=application,
            headers=headers,
            max_concurrency=max_concurrency,
            ledger=ledger,
            ledger_wait=ledger_wait,
            on_lost=on_lost,
            allow_insecure=allow_insecure,
            observers=observers,
            clock=clock,
        )
        self._thread = self._client.thread = LoopThread(self._client.aclose)
        # Before the thread begins, which it ends whatever happens.
        self._finalizer = weakref.finalize(self, self._thread.finalize)
        self._thread.start()

    @property
    def base_url(self) -> str:
        """The part of the service's URL before /v1; empty until the settings are loaded.

        Until an instance was looked up, whose region counts, it is that of us-east.
        """
        return self._client.base_url

    @property
    def instance(self) -> str | None:
        """The CRN that is sent; None before it was looked up, and where none is known."""
        return self._client.instance

    @overload
    def create(
        self,
        request: CreateSession,
        *,
        labels: Mapping[str, str] | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Session: ...

    @overload
    def create(
        self,
        request: None = None,
        *,
        mode: Mode | ModeName,
        backend: str | None = None,
        max_ttl: Duration | None = None,
        interactive_ttl: Duration | None = None,
        active_ttl: Duration | None = None,
        extra: Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Session: ...

    def create(
        self,
        request: CreateSession | None = None,
        *,
        mode: Mode | ModeName | None = None,
        backend: str | None = None,
        max_ttl: Duration | None = None,
        interactive_ttl: Duration | None = None,
        active_ttl: Duration | None = None,
        extra: Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Session:
        """Create a session.

        The request is never sent twice where the first may have been carried out, since that could
        be a second session that costs. When this call is interrupted while the request is in
        flight, the request is brought to its end and its session is closed, each within 30 s; then
        the interruption goes on. A second interruption goes on at once, and the ending in the
        background. The request, auth providers included, runs in a task of its own.

        Args:
            request: What to create; or pass its fields as arguments.
            mode: "dedicated" or "batch".
            backend: The backend's name; by default QSESSIONS_BACKEND, else the service's choice.
            max_ttl: How long after its first job's start it closes at the latest: whole seconds, a
                `timedelta` or text such as "2h 30m"; by default QSESSIONS_MAX_TTL, else 8 hours.
                Set it: it bounds what the session costs when this host vanishes. A session that no
                job ever reached costs nothing, and the service closes it after 30 minutes.
            interactive_ttl: How long it may be without a job; channel partners only.
            active_ttl: How long it may be active in all; channel partners only.
            extra: Fields that the service has learnt and qsessions doesn't know, as JSON has them.
            labels: The session's labels in the ledger, such as `{"run": "42"}`, by which `reap`,
                `close_all` and the command line find it from another process. They aren't sent.
            api_version: The API version for this call.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Returns:
            The session as the service returned it.

        Raises:
            InvalidArgument: An argument can't be right; nothing was sent.
            CreateOutcomeUnknown: A session may have been created. It names the sessions that may
                have come of it, looked for within the rest of the timeout and 10 s at most.
            QSessionsError: Nothing was created; the class says why.
        """
        extra_headers = hidden(extra_headers)
        return self._client.create_blocking(
            request,
            mode=mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
            extra=extra,
            labels=labels,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    @overload
    def open(
        self,
        request: CreateSession,
        *,
        labels: Mapping[str, str] | None = None,
        on_exit: How = "drain",
        on_error: How = "close",
        ending_timeout: float | timedelta | str = 30.0,
        handle_signals: bool = False,
        max_usage: float | timedelta | str | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[LiveSession]: ...

    @overload
    def open(
        self,
        request: None = None,
        *,
        mode: Mode | ModeName,
        backend: str | None = None,
        max_ttl: Duration | None = None,
        interactive_ttl: Duration | None = None,
        active_ttl: Duration | None = None,
        extra: Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        on_exit: How = "drain",
        on_error: How = "close",
        ending_timeout: float | timedelta | str = 30.0,
        handle_signals: bool = False,
        max_usage: float | timedelta | str | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[LiveSession]: ...

    def open(
        self,
        request: CreateSession | None = None,
        *,
        mode: Mode | ModeName | None = None,
        backend: str | None = None,
        max_ttl: Duration | None = None,
        interactive_ttl: Duration | None = None,
        active_ttl: Duration | None = None,
        extra: Mapping[str, object] | None = None,
        labels: Mapping[str, str] | None = None,
        on_exit: How = "drain",
        on_error: How = "close",
        ending_timeout: float | timedelta | str = 30.0,
        handle_signals: bool = False,
        max_usage: float | timedelta | str | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[LiveSession]:
        """Create a session that ends with a `with` block, which gets its handle.

        After a clean block it is drained: queued jobs finish. After an error or an interruption it
        is closed at once. The ending goes on through every interruption, within a timeout of its
        own. When it fails, the block's error goes on unchanged, with a note; a clean block raises
        `SessionLeftOpen`. Either way the failure is logged, and `shutdown` tries once more. When
        this process is killed or this host vanishes, only `max_ttl` ends the session, or `qsessions
        reap` where there is a ledger.

        Args:
            request: What to create; or pass its fields as arguments, as for `create`.
            mode: "dedicated" or "batch".
            backend: The backend's name; by default QSESSIONS_BACKEND.
            max_ttl: How long after its first job's start it closes at the latest; by default
                QSESSIONS_MAX_TTL. Set it: it bounds what the session costs when this host vanishes;
                see `create`.
            interactive_ttl: How long it may be without a job; channel partners only.
            active_ttl: How long it may be active in all; channel partners only.
            extra: Fields that the service has learnt and qsessions doesn't know, as JSON has them.
            labels: The session's labels in the ledger; see `create`.
            on_exit: What ends it after a clean block: "drain" or "close".
            on_error: What ends it after an error or an interruption: "close" or "drain".
            ending_timeout: The ending's timeout: seconds, a `timedelta` or text such as "1m".
            handle_signals: Whether SIGTERM, SIGHUP (a terminal or ssh that is gone) and Ctrl-C
                first close the open sessions of this client, which creates none meanwhile, and then
                do what they did before. One that is ignored stays so. A second signal goes on at
                once, and the log names the open sessions. Main thread only. While the event loop is
                blocked, no session can be closed. A notebook resets the handler of Ctrl-C for each
                cell; the next call then logs a warning. (Under `asyncio.run`, Ctrl-C interrupts the
                main task, whose blocks still end their sessions; of a handler of your own, asyncio
                lets only SystemExit and KeyboardInterrupt through.)
            max_usage: Close the session when it has used that much, though the block goes on:
                seconds, a `timedelta` or text such as "5m"; None for no limit. The usage is what
                the service says (`elapsed_time`), or where it doesn't say it meanwhile, for a
                dedicated session the time that it was seen active. It is read every 15 s or so, so
                up to 18 s more may be used by each job that runs at once, besides jobs that run on;
                the event loop must run meanwhile. `ended_by` of the handle is then "max_usage", and
                there is the event `MaxUsageReached`. After the block it counts no more: drained
                jobs may use more. The instance's usage is asked for once, in the background.
            api_version: The API version for creating and ending it.
            timeout: The timeout of the create; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            InvalidArgument: An argument can't be right (at once; nothing was sent).
            QSessionsError: As `create` (on entering).
            SessionLeftOpen: The block was clean and the session could not be ended (on leaving).
        """
        extra_headers = hidden(extra_headers)
        return SyncSessionContext(
            self,
            self._client,
            self._client.open,
            request,
            mode=mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
            extra=extra,
            labels=labels,
            on_exit=on_exit,
            on_error=on_error,
            ending_timeout=ending_timeout,
            handle_signals=handle_signals,
            max_usage=max_usage,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def adopt(
        self,
        session_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        on_exit: How = "drain",
        on_error: How = "close",
        ending_timeout: float | timedelta | str = 30.0,
        handle_signals: bool = False,
        max_usage: float | timedelta | str | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> AbstractContextManager[LiveSession]:
        """Take over a session that another process created: it ends with a `with` block.

        It is for a process that goes on with the work of one that is gone, such as the retry of a
        job on another machine. The session is read first. Where there is a ledger, it is recorded
        as this client's, so that `reap`, which finds the record of the other process too, leaves
        it alone while this process lives. From then on all is as with `open`. Before that, or where
        taking it over fails or is interrupted, nothing is changed.

        The service doesn't know who owns a session: an owner that lives isn't told, and what it or
        a reaper has sent already may still end the session.

        Args:
            session_id: Its id.
            labels: Its labels in the ledger; see `create`. The other record's aren't taken over.
            on_exit: What ends it after a clean block: "drain" or "close".
            on_error: What ends it after an error or an interruption: "close" or "drain".
            ending_timeout: The ending's timeout: seconds, a `timedelta` or text such as "1m".
            handle_signals: Whether signals first close the open sessions of this client; see
                `open`.
            max_usage: Close the session when it has used that much in all; see `open`.
            api_version: The API version for reading and ending it.
            timeout: The timeout of the reading; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            InvalidArgument: An argument can't be right (at once; nothing was sent).
            Conflict: The session is closed, or takes no more jobs (on entering, as what follows).
            NotFound: The instance has no such session.
            LeaseLost: This process may own no session any more.
            QSessionsError: See errors.py.
            SessionLeftOpen: The block was clean and the session could not be ended (on leaving).
        """
        extra_headers = hidden(extra_headers)
        return SyncSessionContext(
            self,
            self._client,
            self._client.adopt,
            session_id,
            labels=labels,
            on_exit=on_exit,
            on_error=on_error,
            ending_timeout=ending_timeout,
            handle_signals=handle_signals,
            max_usage=max_usage,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def get(
        self,
        session_id: str,
        *,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Session:
        """Read a session.

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Returns:
            The session as it is.

        Raises:
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        extra_headers = hidden(extra_headers)
        return run(
            self._thread,
            self._client.get,
            session_id,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def has_pending_jobs(
        self,
        session_id: str,
        *,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Return whether a session has queued or running jobs, by the instance's list of jobs.

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            QSessionsError: See errors.py.
        """
        extra_headers = hidden(extra_headers)
        return run(
            self._thread,
            self._client.has_pending_jobs,
            session_id,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def update(
        self,
        session_id: str,
        *,
        accepting_jobs: bool,
        extra: Mapping[str, object] | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        """Open or shut a session for new jobs.

        Args:
            session_id: Its id.
            accepting_jobs: False: queued and running jobs finish, new ones are refused, then the
                session closes. True: it takes jobs again. The session is then read, since the
                service accepts that of a closed session too, and reopens nothing.
            extra: Fields that the service has learnt and qsessions doesn't know, as JSON has them.
            api_version: The API version for this call.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            Conflict: The session is closed, and was to take jobs again.
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        extra_headers = hidden(extra_headers)
        run(
            self._thread,
            self._client.update,
            session_id,
            accepting_jobs=accepting_jobs,
            extra=extra,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def drain(
        self,
        session_id: str,
        *,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let a session finish: queued and running jobs end, new ones are refused, then it closes.

        Success where the session is closed already. (The official client's `Session.close()`.)

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        extra_headers = hidden(extra_headers)
        run(
            self._thread,
            self._client.drain,
            session_id,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def close(
        self,
        session_id: str,
        *,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        """Close a session now: queued jobs never run, running jobs finish.

        Success where the session is closed already. (The official client's `Session.cancel()`.)

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        extra_headers = hidden(extra_headers)
        run(
            self._thread,
            self._client.close,
            session_id,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def close_all(
        self,
        *,
        how: How = "close",
        mode: SessionKind | Iterable[SessionKind] = ("session", "batch"),
        backend: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        include_owned: bool = False,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> list[Ending]:
        """End the open sessions of the instance, whoever created them.

        They are found in the list of workloads. Where this client has a ledger, sessions whose
        owner is or may be alive are passed over, this client's own too. One that can't be ended
        doesn't stop the others.

        Args:
            how: "close", at once, or "drain": queued and running jobs finish.
            mode: Which kinds: "session" (dedicated ones), "batch", or both.
            backend: Only those on this backend.
            created_after: Only those created after this time, which must have an offset.
            created_before: The same for before this time.
            labels: Only those that the ledger has with all of these labels.
            include_owned: Whether to end those too whose owner is alive.
            api_version: The API version for these calls.
            timeout: The timeout of each call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Returns:
            What became of each, oldest first.

        Raises:
            InvalidArgument: An argument can't be right; nothing was sent.
            LedgerUnavailable: The ledger can't be read; nothing was ended. It isn't needed with
                `include_owned` and without `labels`.
            QSessionsError: They can't be listed; nothing was ended.
        """
        extra_headers = hidden(extra_headers)
        return run(
            self._thread,
            self._client.close_all,
            how=how,
            mode=mode,
            backend=backend,
            created_after=created_after,
            created_before=created_before,
            labels=labels,
            include_owned=include_owned,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def versions(
        self,
        *,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> list[ApiVersion]:
        """List the API versions of the service, oldest first. No credentials are sent.

        Args:
            api_version: The API version for this call, which needs none.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            QSessionsError: See errors.py.
        """
        extra_headers = hidden(extra_headers)
        return run(
            self._thread,
            self._client.versions,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def instances(self, *, timeout: Timeout = ...) -> list[Instance]:
        """List the service instances of the key's account that have a backend, of all regions.

        IBM Cloud's Global Search and Global Catalog are asked, as by the official client, and only
        with the key's token. It takes an `IBMCloudAuth`.

        Args:
            timeout: The timeout of this call; None for none, `...` for the client's.

        Raises:
            ConfigurationError: There is no such key, or it isn't known where to ask.
            InstanceLookupFailed: Global Search refused or failed.
            QSessionsError: See errors.py.
        """
        return run(self._thread, self._client.instances, timeout=timeout)

    def usage(
        self,
        *,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> InstanceUsage:
        """Return what the instance has used, and its limits.

        For five minutes, the next create warns in the log if the answer says that the limit is
        reached.

        Args:
            api_version: The API version for this call.
            timeout: The timeout of this call; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            QSessionsError: See errors.py.
        """
        extra_headers = hidden(extra_headers)
        return run(
            self._thread,
            self._client.usage,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )

    def resolve_instance(self, *, timeout: Timeout = ...) -> str | None:
        """Return the CRN that is sent, after looking it up if that wasn't done yet.

        Calls that need the instance do so themselves.

        Args:
            timeout: The timeout of this call; None for none, `...` for the client's.

        Returns:
            The CRN, or None where none is known.

        Raises:
            ConfigurationError: There is no such instance, or there are several; the message lists
                them.
            InstanceLookupFailed: Global Search refused or failed.
            QSessionsError: See errors.py.
        """
        return run(self._thread, self._client.resolve_instance, timeout=timeout)

    def workloads(
        self,
        *,
        mode: WorkloadMode | Iterable[WorkloadMode] = ("session", "batch"),
        status: WorkloadStatus | Iterable[WorkloadStatus] = (),
        backend: str | None = None,
        search: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        newest_first: bool = False,
        page_size: int = operations.MAX_PAGE,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Iterator[Workload]:
        """List the instance's sessions and batches by creation time, each page when it is needed.

        Args:
            mode: Which kinds: "session" (dedicated ones), "batch", "job", or several. The service
                filters by one at a time, so each kind is fetched in pages of its own.
            status: Only those that are pending, in_progress, failed, completed or canceled; or
                several. What costs or may cost is pending and in_progress together.
            backend: Only those on this backend.
            search: Only those that the service finds by this text.
            created_after: Only those created after this time, which must have an offset.
            created_before: Only those created before this time, which must have an offset.
            newest_first: Whether to begin with the newest.
            page_size: How many to fetch at a time, up to 50, the service's limit.
            api_version: The API version for these calls.
            timeout: The timeout of each page; None for none, `...` for the client's.
            extra_headers: Further headers of its requests, as `headers` of `with_options`.

        Raises:
            InvalidArgument: A filter can't be right (at once, before the first page).
            QSessionsError: A page can't be fetched (while iterating).
        """
        extra_headers = hidden(extra_headers)
        return each(
            self,
            self._thread,
            self._client.workloads(
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
                extra_headers=extra_headers,
            ),
        )

    def attach(self, session_id: str) -> LiveSession:
        """Return a handle on an existing session, to watch it and wait for it.

        Nothing is sent, and the session isn't ended by it.

        Args:
            session_id: Its id.

        Raises:
            InvalidArgument: It can't be a session's id.
        """
        return self._attach(session_id)

    def watch(
        self,
        ids: Iterable[str],
        *,
        rate: float = 20.0,
        timeout: float | timedelta | str | None = None,
    ) -> Iterator[tuple[str, Session]]:
        """Yield the id and the `Session` of many sessions, each as it is, then at each change.

        It ends when all are closed, except for those that can't be read: the log names each at
        once, the others go on, and `WatchIncomplete` is raised at the end. However many there are,
        it takes no task for each, and at most `rate` requests a second, spread evenly. Few sessions
        are each read as often as by `LiveSession.watch`, where the same counts as a change.
        From 40 on the instance's list of workloads helps. It shows 50 of them to a request: which
        have ended, which have started and which take no more jobs. That is seen within 15 s for up
        to 500 sessions for each request a second, so for 10,000 at 20 a second; each such change is
        then read, and many at once one after another. All else, such as active and inactive, is
        seen when a session is read in its turn, the longest unread first: 1,000 sessions every
        minute, 10,000 every 40 minutes, the first time too. So is all of a session that the list
        doesn't have, and of all sessions while there is no list.

        With a `timeout`, an outage of the service or the network is borne until then; without one,
        for 10 minutes, of all sessions or of one. The log says when it begins and when it is over.
        While a request waits for its retry no other begins, nor while you handle an item.

        Args:
            ids: Their ids; one that comes twice counts once.
            rate: How many requests to begin a second at most, retries and pages of the list
                included.
            timeout: How long at most in all: seconds, a `timedelta` or text such as "5m"; None for
                no limit.

        Raises:
            InvalidArgument: An id, the rate or the timeout can't be right (at once, before anything
                is sent).
            CallTimeout: Time was up (while iterating, as all that follows); it says whether the
                service was away then. Where sessions were left, its cause is `WatchIncomplete`.
            WatchIncomplete: All others are closed; `errors` has for each session that was left why:
                it doesn't exist (404), isn't yours (403), was refused (400), its answer can't be
                read, or it alone gave none for 10 minutes.
            QSessionsError: What concerns all of them, at once: refused credentials, an unknown
                instance, no way to the service.
        """
        return each(self, self._thread, self._client.watch(ids, rate=rate, timeout=timeout))

    @strips_frames
    def with_options(
        self,
        *,
        instance: str | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        retry: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a client with options of its own, for example for one of many tenants.

        It shares this client's connections, credentials and tokens, retry budget, limit of
        concurrent requests, ledger and observers; a signal that ends the sessions of one ends those
        of both. It costs next to nothing, so make one whenever it is needed. It needn't be closed:
        closing it ends what its own `open` created, and closing this client ends it, too.

        Args:
            instance: The CRN of another instance that the credentials are good for. Where the base
                URL comes from the CRN's region, it is that of this one. None for the same.
            api_version: The API version of its calls; None for the same.
            timeout: The timeout of its calls: seconds, a `timedelta` or text such as "2m"; None for
                none, `...` for the same.
            retry: When to send a request again; None for the same. Its `budget` doesn't count.
            headers: Further headers, in place of those of the same names.
            labels: Labels of every session that it creates, beside those of each call; see
                `create`.

        Raises:
            ConfigurationError: The instance isn't a CRN, or a header can't be sent or is one that
                qsessions sets itself.
            InvalidArgument: Another argument can't be right.
        """
        return self._derived(
            self._client.with_options(
                instance=instance,
                api_version=api_version,
                timeout=timeout,
                retry=retry,
                headers=headers,
                labels=labels,
            )
        )

    def raw(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Raw[T]:
        """Make a call, and return its result with the answer's status, headers and ids.

        It is for one call and can be used by many at the same time. Of a call that makes several
        requests it has the last answer; so `update(accepting_jobs=True)` has that of the reading
        that follows. Calls that make many requests, such as `workloads` and `close_all`, or none
        are refused. An error of the call comes as without it, with its own status and attempts.

        Args:
            call: `create`, `get`, `update`, `drain`, `close`, `has_pending_jobs`, `usage` or
                `versions` of this client, or `refresh`, `drain` or `close` of a session's handle;
                not called yet, as in `client.raw(client.get, session_id)`.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            InvalidArgument: It is none of these; nothing was sent.
            QSessionsError: As the call.
        """
        return self._raw(call, *args, **kwargs)

    # End of what is generated.
