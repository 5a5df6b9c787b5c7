"""`AsyncSessionClient`: the calls of the sessions API as coroutines."""

from __future__ import annotations

import asyncio
import os
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, ClassVar, ParamSpec, Self, TypeVar, overload
from weakref import WeakValueDictionary

from yarl import URL

from qsessions.api import operations
from qsessions.api.messages import AuthProvider, Transport, hidden, strips_frames
from qsessions.arguments import check_choice, check_session_id, texts, value_or_default
from qsessions.auth import ServiceCRN
from qsessions.caller import Caller, Timeout
from qsessions.clock import Clock
from qsessions.config.checks import checked_headers
from qsessions.config.resolve import resolve
from qsessions.config.variables import log_as_asked, read_defaults
from qsessions.errors import ClientClosed, ConfigurationError, InvalidArgument
from qsessions.events import ClientStopped, Observer, Observers, logger
from qsessions.http.attempts import Attempts
from qsessions.http.pool import HttpSession
from qsessions.http.raw import Raw, check_recordable, recording
from qsessions.http.retry import RetryPolicy
from qsessions.http.transport import AiohttpTransport
from qsessions.ledger.recorder import SessionRecorder
from qsessions.ledger.records import Ledger, checked_labels
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
    creation,
    deadline_seconds,
)
from qsessions.session.calls import HOWS, How, SessionCalls
from qsessions.session.create import Create, client_closed, why_closed
from qsessions.session.live import AsyncLiveSession, attach
from qsessions.session.open import OpenSessions, SessionContext
from qsessions.session.pending_creates import PendingCreates
from qsessions.values import OfItsProcess, with_changes

if TYPE_CHECKING:
    from qsessions.ledger.ownership import OnLost
    from qsessions.session.close_all import Ending
    from qsessions.usage import InstanceUsage

P = ParamSpec("P")
T = TypeVar("T")

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class AsyncSessionClient(OfItsProcess):
    """Creates, reads, updates and closes IBM Quantum sessions.

    Use it as `async with AsyncSessionClient() as client:`, or call `aclose` at the end. One client
    serves any number of concurrent calls over one pool of connections, on one event loop.

    Args:
        auth: An auth provider or several, such as `[IBMCloudAuth(api_key), ServiceCRN(crn)]`. By
            default the API key in QISKIT_IBM_TOKEN and the CRN in QISKIT_IBM_INSTANCE, else both
            from an account in ~/.qiskit/qiskit-ibm.json, the official client's file. A key alone
            gets its CRN from there if it is the same key, and a CRN alone its key. Where there is a
            key and no CRN, or an instance's name, the instance is looked up at the first call that
            needs it; see docs/configuration.md. `[]` calls without credentials, which is enough for
            `versions`.
        base_url: The part of the URL before /v1. By default QSESSIONS_BASE_URL, else the service of
            the CRN's region (us-east without a CRN) in the cloud that the account's `url` names,
            else QISKIT_IBM_URL, else https://cloud.ibm.com.
        account: The name of an account in the file, which then comes before the environment. By
            default, if one is needed, that of the channel QISKIT_IBM_CHANNEL (ibm_quantum_platform)
            with `is_default_account`, else the one named default-<channel>, else the last of the
            channel.
        account_file: The path of the file, in place of ~/.qiskit/qiskit-ibm.json; its accounts then
            come before the environment. The file is only read, in a thread, once, on entering
            `async with` or at the first call, which raises what is wrong with it.
        api_version: The dated version of the API, "YYYY-MM-DD", or "latest" for the newest live
            one, which is asked for once. By default 2025-01-01, the API description's own, and from
            that one's sunset on 2027-01-01 the newest that qsessions is tested with.
        timeout: The timeout of each call as a whole (tokens, attempts and the waits between them):
            seconds, a `timedelta` or text such as "2m"; None for none. By default
            QSESSIONS_TIMEOUT, else 60 s.
        retry: When to send a request again.
        http: An aiohttp session whose connection pool is used and left open. Only its pool and its
            trace configs are used; `ssl` and `max_concurrency` are then the pool's own.
        transport: What carries the requests in place of the client's own connections, for
            recording, playback or another HTTP library: a `Transport`, or a function that is called
            with the client's own transport and returns one, such as a recorder around it. With a
            `Transport` that is passed as it is, `http`, `ssl`, `proxy`, `application` and
            `max_concurrency` have no effect. It is used on the client's event loop, from the first
            request on, and is left open: who makes it ends it.
        ssl: TLS settings; by default the system's.
        proxy: The URL of an HTTP proxy. By default HTTPS_PROXY, HTTP_PROXY and NO_PROXY decide,
            else the account's `proxies.urls`; these are never used to reach this machine itself.
        application: A product name for the User-Agent, such as "my-orchestrator/1.2".
        headers: Further headers for the requests to the service (never sent to IAM).
        max_concurrency: How many requests there are at a time, each over a connection of its own;
            further calls wait. Creates have as many connections besides, a new one for each: on a
            kept one that the server just dropped, it couldn't be told whether a session was
            created. Requests that end a session, and the token they may need, wait for none of
            these: at least 100 of them run at a time. (With `http=` the limit is that pool's, for
            everything.)
        ledger: Where to record the sessions that this client creates, so that `qsessions reap`
            finds those of a process that was killed: "local" for the platform's own place (extra
            "ledger"), the URL of a PostgreSQL database that many machines share (extra "postgres";
            docs/fleet.md), a `LocalLedger`, `PostgresLedger` or another `Ledger`, which you close,
            or None for nowhere. By default what QSESSIONS_LEDGER says, else nowhere. A session
            belongs to this process while that lives, even after the client was closed. A failing
            ledger stops no session from being created or ended, and is reported once; sessions that
            it never took are named at the end.
        ledger_wait: Whether `create` and `open` return only when the session's id is in the ledger,
            so that a process that is killed at the very next instruction leaves nothing that
            `qsessions reap` can't end. It costs what the disk takes (a millisecond or so, 5 s at
            most), which doesn't count against `timeout`. With False the id is written in the
            background: a process that dies before that, or blocks its event loop and dies, leaves a
            record without an id, and `reap` can only show which session it may be.
        on_lost: What becomes of this client's sessions when the lease of this process in a shared
            ledger can't be renewed, so that another may take them over: "continue" leaves them
            alone, "end" closes them, and none is created until the lease is renewed. Either way it
            is reported, and after another process took them over none is created until they are
            over.
        allow_insecure: Whether plain http to a host other than this machine is allowed.
        observers: Called with each event; see events.py. The logger "qsessions" logs them anyway.
        clock: Time and chance, for tests. The client waits by it alone.

    Raises:
        ConfigurationError: An argument or a variable of the environment is missing or can't be
            right.
    """

    _warns_unclosed: ClassVar[bool] = True
    # Until it is otherwise.
    _parent: AsyncSessionClient | None = None
    _closing: asyncio.Future[None] | None = None

    # Else a traceback that shows locals would show a key, a header or a URL's password.
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
        http: HttpSession | None = None,
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
        log_as_asked()
        self._defaults = read_defaults()
        settings = resolve(
            auth,
            base_url,
            account=account,
            account_file=account_file,
            own_tls=ssl is not None or http is not None,
        )
        self.clock = value_or_default("clock=", clock, Clock)
        watchers = Observers(observers)
        self._transport = AiohttpTransport(
            self.clock,
            application=application,
            http=http,
            ssl=ssl,
            proxy=proxy,
            max_concurrency=max_concurrency,
            allow_insecure=allow_insecure,
        )
        self._transport.pool.warns_unclosed = self._warns_unclosed
        carrier = _carrier(transport, self._transport, self.clock)
        self._recorder = self._make_recorder(ledger, watchers, wait=ledger_wait)
        policy = value_or_default("retry=", retry, RetryPolicy)
        self._caller = Caller(
            settings,
            self._transport,
            Attempts(carrier, retry=policy, clock=self.clock, observers=watchers),
            self.clock,
            api_version=api_version,
            timeout=self._defaults.timeout
            if timeout is ...
            else deadline_seconds(timeout, "timeout"),
            headers=checked_headers({} if headers is None else headers),
        )
        self._calls = SessionCalls(self._caller, self._recorder, watchers, self.clock)
        self._creates = PendingCreates()
        self._open_sessions = OpenSessions(self._calls, self._creates)
        self._hold_lease(watchers, on_lost)
        self._labels: Mapping[str, str] = {}

    def __repr__(self) -> str:
        """Show where the client calls, and no credential."""
        # A client whose constructor failed has no caller, and may be in a traceback with locals.
        base_url = self._caller.base_url if hasattr(self, "_caller") else ""
        return f"{type(self).__name__}(base_url={base_url!r})"

    @property
    def base_url(self) -> str:
        """The part of the service's URL before /v1; empty until the settings are loaded.

        Until an instance was looked up, whose region counts, it is that of us-east.
        """
        return self._caller.base_url

    @property
    def instance(self) -> str | None:
        """The CRN that is sent; None before it was looked up, and where none is known."""
        return self._caller.instance

    async def __aenter__(self) -> Self:
        """Return the client once its settings are loaded.

        Raises:
            ConfigurationError: They are in the account file, which can't be used.
            ClientClosed: The client was closed; it can't be opened again.
        """
        if self._closing is not None or self._creates.is_closed:
            raise client_closed()
        await self._caller.ensure_configured("configure", ..., instance=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client: end the sessions of `open`, wait for creates, close the connections.

        A session of `open` that is still open ends as after a clean block, within its ending
        timeout. A create in flight comes to its end, within 30 s. Where there is a ledger, one look
        at the list of workloads, 5 s at most, ends the records of drained sessions that are over.
        Other sessions stay as they are. Calls still waiting get `ClientClosed` or
        `ConnectionFailed`. Closing twice does nothing. Of a client that `with_options` returned
        (or one that was made from it) only what its own `open` created ends, and it creates no
        more; creates in flight go on.
        """
        if self._closing is None or self._closing.cancelled():
            # A task of its own, so that cancelling the caller leaves nothing half closed.
            self._closing = asyncio.ensure_future(self._close_down())
        await asyncio.shield(self._closing)

    @overload
    async def create(
        self,
        request: CreateSession,
        *,
        labels: Mapping[str, str] | None = None,
        api_version: str | None = None,
        timeout: Timeout = ...,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Session: ...

    @overload
    async def create(
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

    async def create(
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
        be a second session that costs. When this call is cancelled while the request is in flight,
        the request is brought to its end and its session is closed, each within 30 s; then the
        cancellation goes on. A second cancellation goes on at once, and the ending in the
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
        wanted = creation(
            request,
            mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
            extra=extra,
        )
        return await self._create(wanted, labels, api_version, timeout, extra_headers).result()

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
    ) -> AbstractAsyncContextManager[AsyncLiveSession]: ...

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
    ) -> AbstractAsyncContextManager[AsyncLiveSession]: ...

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
    ) -> AbstractAsyncContextManager[AsyncLiveSession]:
        """Create a session that ends with an `async with` block, which gets its handle.

        After a clean block it is drained: queued jobs finish. After an error or a cancellation it
        is closed at once. The ending goes on through every cancellation, within a timeout of its
        own. When it fails, the block's error goes on unchanged, with a note; a clean block raises
        `SessionLeftOpen`. Either way the failure is logged, and `aclose` tries once more. When this
        process is killed or this host vanishes, only `max_ttl` ends the session, or `qsessions
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
            on_error: What ends it after an error or a cancellation: "close" or "drain".
            ending_timeout: The ending's timeout: seconds, a `timedelta` or text such as "1m".
            handle_signals: Whether SIGTERM, SIGHUP (a terminal or ssh that is gone) and Ctrl-C
                first close the open sessions of this client, which creates none meanwhile, and then
                do what they did before. One that is ignored stays so. A second signal goes on at
                once, and the log names the open sessions. Main thread only. While the event loop is
                blocked, no session can be closed. A notebook resets the handler of Ctrl-C for each
                cell; the next call then logs a warning. (Under `asyncio.run`, Ctrl-C cancels the
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
        wanted = creation(
            request,
            mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
            extra=extra,
        )
        create = self._create(wanted, labels, api_version, timeout, extra_headers)
        context = SessionContext(
            create,
            self._open_sessions,
            on_exit=on_exit,
            on_error=on_error,
            ending_timeout=ending_timeout,
            handle_signals=handle_signals,
            max_usage=max_usage,
        )
        if create.request.max_ttl is None and not self._open_sessions.has_warned:
            self._open_sessions.has_warned = True
            logger.warning(
                "open() without max_ttl: if this host vanishes, the session may cost for 8 hours "
                "from its first job's start"
            )
        return context

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
    ) -> AbstractAsyncContextManager[AsyncLiveSession]:
        """Take over a session that another process created: it ends with an `async with` block.

        It is for a process that goes on with the work of one that is gone, such as the retry of a
        job on another machine. The session is read first. Where there is a ledger, it is recorded
        as this client's, so that `reap`, which finds the record of the other process too, leaves
        it alone while this process lives. From then on all is as with `open`. Before that, or where
        taking it over fails or is cancelled, nothing is changed.

        The service doesn't know who owns a session: an owner that lives isn't told, and what it or
        a reaper has sent already may still end the session.

        Args:
            session_id: Its id.
            labels: Its labels in the ledger; see `create`. The other record's aren't taken over.
            on_exit: What ends it after a clean block: "drain" or "close".
            on_error: What ends it after an error or a cancellation: "close" or "drain".
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
        # Late, as in `watch`: not every program comes here.
        from qsessions.session.adopt import Adoption

        extra_headers = hidden(extra_headers)
        self._check_open()
        adoption = Adoption(
            self._calls_with(extra_headers),
            self._creates,
            session_id,
            labels={**self._labels, **self._checked_labels(labels)},
            api_version=operations.checked_version(api_version),
            seconds=self._caller.seconds(timeout),
        )
        return SessionContext(
            adoption,
            self._open_sessions,
            on_exit=on_exit,
            on_error=on_error,
            ending_timeout=ending_timeout,
            handle_signals=handle_signals,
            max_usage=max_usage,
        )

    async def get(
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
        calls = self._calls
        if extra_headers is not None:
            calls = self._calls_with(extra_headers := hidden(extra_headers))
        return await calls.get(session_id, api_version, timeout)

    async def has_pending_jobs(
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
        calls = self._calls_with(extra_headers := hidden(extra_headers))
        return await calls.has_pending_jobs(session_id, api_version, timeout)

    async def update(
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
        calls = self._calls_with(extra_headers := hidden(extra_headers))
        await calls.update(
            session_id,
            accepting_jobs=accepting_jobs,
            api_version=api_version,
            timeout=timeout,
            extra=extra,
        )

    async def drain(
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
        calls = self._calls_with(extra_headers := hidden(extra_headers))
        await calls.drain(session_id, api_version, timeout)

    async def close(
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
        calls = self._calls_with(extra_headers := hidden(extra_headers))
        await calls.close(session_id, api_version, timeout)

    async def close_all(
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
        # Late, as in `watch`: not every program comes here.
        from qsessions.session.close_all import end, find, session_modes

        extra_headers = hidden(extra_headers)
        check_choice("how", how, HOWS)
        listed = self.workloads(
            mode=session_modes(mode),
            status=operations.OPEN_STATUSES,
            backend=backend,
            created_after=created_after,
            created_before=created_before,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )
        sessions = await find(
            listed,
            # Which instance it is may be known only by then.
            lambda: self._recorder.entries(self.instance),
            labels=self._checked_labels(labels),
            include_owned=include_owned,
        )
        call = partial(
            self.drain if how == "drain" else self.close,
            api_version=api_version,
            timeout=timeout,
            extra_headers=extra_headers,
        )
        return await end(sessions, how, call, self.clock.wall)

    async def versions(
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
        caller = self._calls_with(extra_headers := hidden(extra_headers)).caller
        return await caller.versions(api_version, timeout)

    async def instances(self, *, timeout: Timeout = ...) -> list[Instance]:
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
        return await self._caller.instances(timeout)

    async def usage(
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
        # Late, as in `watch`: not every program comes here.
        from qsessions.session.usage import known_usage

        caller = self._calls_with(extra_headers := hidden(extra_headers)).caller
        return await known_usage(self._calls).fetch(caller, api_version, timeout)

    async def resolve_instance(self, *, timeout: Timeout = ...) -> str | None:
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
        await self._caller.ensure_configured("resolve_instance", timeout)
        return self._caller.instance

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
    ) -> AsyncIterator[Workload]:
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
        statuses = texts("status", status)
        queries = [
            operations.workloads_query(
                mode=kind,
                status=statuses,
                backend=backend,
                search=search,
                created_after=created_after,
                created_before=created_before,
                newest_first=newest_first,
                page_size=page_size,
            )
            for kind in texts("mode", mode)
        ]
        if not queries:
            raise InvalidArgument("mode must name at least one of job, session, batch.")
        caller = self._calls_with(extra_headers).caller
        # It is checked at once, and counts for each page; the command line's deadline for all.
        caller.deadline(timeout)
        version = operations.checked_version(api_version)
        return by_creation(
            [caller.workloads(query, version, timeout) for query in queries],
            newest_first=newest_first,
        )

    def attach(self, session_id: str) -> AsyncLiveSession:
        """Return a handle on an existing session, to watch it and wait for it.

        Nothing is sent, and the session isn't ended by it.

        Args:
            session_id: Its id.

        Raises:
            InvalidArgument: It can't be a session's id.
        """
        check_session_id(session_id)
        return attach(self._calls, session_id)

    def watch(
        self,
        ids: Iterable[str],
        *,
        rate: float = 20.0,
        timeout: float | timedelta | str | None = None,
    ) -> AsyncIterator[tuple[str, Session]]:
        """Yield the id and the `Session` of many sessions, each as it is, then at each change.

        It ends when all are closed, except for those that can't be read: the log names each at
        once, the others go on, and `WatchIncomplete` is raised at the end. However many there are,
        it takes no task for each, and at most `rate` requests a second, spread evenly. Few sessions
        are each read as often as by `AsyncLiveSession.watch`, where the same counts as a change.
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
        from qsessions.session.watch import Watch

        return Watch(
            operations.session_ids(ids),
            self._calls,
            rate=rate,
            seconds=deadline_seconds(timeout, "timeout"),
        ).changes()

    # Its headers may be secret, as those of the client.
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
        caller = self._caller.with_options(
            None if instance is None else ServiceCRN(instance),
            None if retry is None else value_or_default("retry=", retry, RetryPolicy),
            headers,
            api_version=operations.checked_version(api_version),
            timeout=timeout,
        )
        return with_changes(
            self,
            _caller=caller,
            _calls=with_changes(
                self._calls, caller=caller, owner=caller, polls=WeakValueDictionary()
            ),
            _labels={**self._labels, **self._checked_labels(labels)},
            _parent=self,
            _closing=None,
        )

    async def raw(
        self, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Raw[T]:
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
        if "extra_headers" in kwargs:
            kwargs["extra_headers"] = hidden(kwargs["extra_headers"])  # type: ignore[arg-type]
        check_recordable(call, self, AsyncLiveSession)
        with recording(self.clock) as answer:
            value = await call(*args, **kwargs)
        return answer.raw(value)

    def _create(
        self,
        request: CreateSession,
        labels: Mapping[str, str] | None,
        api_version: str | None,
        timeout: Timeout,
        extra_headers: Mapping[str, str] | None,
    ) -> Create:
        """Return a create that is checked and not yet begun."""
        self._check_open()
        return Create(
            self._calls_with(extra_headers),
            self._creates,
            self._defaults.complete(request),
            labels={**self._labels, **self._checked_labels(labels)},
            api_version=operations.checked_version(api_version),
            seconds=self._caller.seconds(timeout),
        )

    def _check_open(self) -> None:
        if (closed := why_closed(self._caller)) is not None:
            raise closed

    # A frame that shows its locals must not show headers that may be secret; so callers hide them.
    @strips_frames
    def _calls_with(self, headers: Mapping[str, str] | None) -> SessionCalls:
        """Return what makes calls with further headers, or None for none."""
        if headers is None:
            return self._calls
        try:
            return with_changes(self._calls, caller=self._caller.with_options(None, None, headers))
        except ConfigurationError as error:
            raise InvalidArgument(
                error.message.replace("headers=", "extra_headers="), solution=error.solution
            ) from None

    def _checked_labels(self, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        checked = checked_labels(labels)
        if checked and not self._recorder.enabled:
            raise InvalidArgument(
                "labels= needs a ledger, and this client has none.",
                solution='Pass ledger="local" to the client.',
            )
        return checked

    def _make_recorder(
        self, ledger: Ledger | str | EllipsisType | None, observers: Observers, *, wait: bool
    ) -> SessionRecorder:
        variable, chosen = self._defaults.ledger, None
        if ledger is not None and (ledger is not ... or variable is not None):
            # Late, as in `watch`: not every program comes here.
            from qsessions.ledger.choice import chosen_ledger

            chosen = chosen_ledger(ledger, variable, self.clock)
        return SessionRecorder(
            chosen,
            self._transport.spawn,
            observers,
            self.clock,
            is_ours=not isinstance(ledger, Ledger),
            wait=wait,
        )

    def _hold_lease(self, observers: Observers, on_lost: OnLost) -> None:
        """Have the client hold a lease, if its ledger has leases."""
        check_choice("on_lost", on_lost, ("continue", "end"))
        ledger = self._recorder.ledger
        if ledger is None:
            return
        # Late, as above.
        from qsessions.ledger.lease import LeasedLedger
        from qsessions.ledger.ownership import Ownership

        if isinstance(ledger, LeasedLedger):
            self._recorder.ownership = Ownership(
                ledger,
                self._recorder,
                observers,
                self._transport.spawn,
                on_lost=on_lost,
                end=self._open_sessions.end_for_lost_lease,
            )

    async def _close_down(self) -> None:
        if self._parent is not None:
            self._caller.is_closed = True
            await self._open_sessions.end_of(self._calls.owner)
            return
        self._creates.refuse(ClientClosed("the client is being closed."), for_good=True)
        self._creates.stop_unsent()
        await self._open_sessions.end()
        try:
            await self._calls.draining.aclose()
        finally:
            await self._recorder.aclose()
            await self._transport.aclose()
            self._calls.observers.notify(ClientStopped(base_url=self.base_url))


def _carrier(
    transport: Transport | Callable[[Transport], Transport] | None,
    own: AiohttpTransport,
    clock: Clock,
) -> Transport:
    """Return what carries the requests of a client."""
    if transport is None:
        return own
    # Late, as in `watch`: not every program comes here.
    from qsessions.http.user_transport import UserTransport

    return UserTransport(transport, own, clock)


async def by_creation(
    streams: Sequence[AsyncIterator[Workload]], *, newest_first: bool
) -> AsyncIterator[Workload]:
    """Merge several streams that are sorted by creation time into one."""
    choose = max if newest_first else min
    heads = {stream: head for stream in streams if (head := await anext(stream, None)) is not None}
    while heads:
        stream = choose(heads, key=lambda candidate: heads[candidate].created or _LONG_AGO)
        yield heads.pop(stream)
        if (head := await anext(stream, None)) is not None:
            heads[stream] = head
