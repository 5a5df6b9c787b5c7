"""`AsyncSessionClient`: the calls of the sessions API as coroutines."""

from __future__ import annotations

import asyncio
import os
import ssl as tls
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakValueDictionary

from yarl import URL

from qsessions.api import operations
from qsessions.api.messages import AuthProvider, strip_frames
from qsessions.api.operations import Operation
from qsessions.api.outcome import CreateOutcomeUnknown
from qsessions.api.pages import Fetch, by_creation, pages
from qsessions.caller import Caller, Timeout
from qsessions.clock import Clock
from qsessions.config import settings as config
from qsessions.errors import (
    ClientClosed,
    Conflict,
    InvalidArgument,
    NotFound,
    ProtocolError,
    QSessionsError,
    one_line,
)
from qsessions.events import (
    Observer,
    Observers,
    SessionClosed,
    SessionCreated,
    SessionDraining,
    logger,
)
from qsessions.http.attempts import Attempts
from qsessions.http.retry import RetryPolicy
from qsessions.http.transport import AiohttpTransport, HttpSession
from qsessions.http.unrepeatable import ENDING_TIMEOUT
from qsessions.ledger import Book, Guard, Ledger, checked_labels
from qsessions.models import (
    ApiVersion,
    CreateSession,
    Duration,
    Mode,
    Session,
    UpdateSession,
    Workload,
    deadline_seconds,
)
from qsessions.session import close_all as closing
from qsessions.session.candidates import Lookup
from qsessions.session.close_all import Ending, How
from qsessions.session.create import Creation
from qsessions.session.draining import DrainedSessions
from qsessions.session.live import AsyncLiveSession, Poll
from qsessions.session.open import Opened, Owned
from qsessions.session.recent import RecentSessions
from qsessions.session.signals import Signals
from qsessions.session.watch import Watch, checked_rate


class AsyncSessionClient:
    """Creates, reads, updates and closes IBM Quantum sessions.

    Use it as `async with AsyncSessionClient() as client:`, or call `aclose` at the end. One client serves any number of concurrent calls
    over one pool of connections, on one event loop.

    Args:
        auth: An auth provider or several, such as `[IBMCloudAuth(api_key), ServiceCRN(crn)]`. By default the API key in QISKIT_IBM_TOKEN
            and the CRN in QISKIT_IBM_INSTANCE, else both from an account in ~/.qiskit/qiskit-ibm.json, the official client's file. A key
            alone gets its CRN from there, and a CRN alone its key. `[]` calls without credentials, which is enough for `versions`.
        base_url: The part of the URL before /v1; by default QSESSIONS_BASE_URL, else the service of the CRN's region (us-east without a
            CRN) in the cloud that the account's `url` names, else QISKIT_IBM_URL, else https://cloud.ibm.com.
        account: The name of an account in the file, which then comes before the environment. By default, if one is needed, that of the
            channel QISKIT_IBM_CHANNEL (ibm_quantum_platform) with `is_default_account`, else the one named default-<channel>, else the
            last of the channel.
        account_file: The path of the file, in place of ~/.qiskit/qiskit-ibm.json; the accounts in it then come before the environment. The
            file is only read, in a thread, once, on entering `async with` or at the first call; what is wrong with it is raised there.
        api_version: The dated version of the API to ask for, "YYYY-MM-DD", or "latest" for the newest live one, asked for once. By default
            2025-01-01, the API description's own, and from that one's sunset on 2027-01-01 the newest that qsessions is tested with.
        timeout: The deadline of each call as a whole (tokens, attempts and the waits between them), in seconds, or None for none.
        retry: When to send a request again.
        http: An aiohttp session whose connection pool is used and left open; of the session only the pool and its trace configs are
            used, and `ssl` and `max_concurrency` are then the pool's own.
        ssl: TLS settings; by default the system's.
        proxy: The URL of an HTTP proxy. By default HTTPS_PROXY, HTTP_PROXY and NO_PROXY say which, else the account's `proxies.urls`; these
            are never used to reach this machine itself.
        application: A product name to put into the User-Agent, such as "my-orchestrator/1.2".
        headers: Further headers for the requests to the service (never sent to IAM).
        max_concurrency: How many requests there are at a time, over a connection for each; further calls wait. Creates have as many
            connections of their own, a new one for each, since over a kept one that the server just dropped nobody could tell whether a
            session was created. What ends a session, and the token that it may need, waits for none of these: of such requests there are
            at least 100 at a time. (With `http=` the limit is that pool's own, for everything.)
        ledger: Where to record the sessions that this client creates, so that `qsessions reap` finds those of a process that was killed:
            "local" for the platform's own place (extra "ledger"), a `LocalLedger` or another `Ledger`, which its maker closes, or None for
            nowhere. A session is this process's as long as that lives, also when the client was closed. Whatever goes wrong with the
            ledger stops no session from being created or ended, and is told once; sessions that it never took are named at the end.
        ledger_wait: Whether `create` and `open` return only when the session's id is in the ledger, so that a process that is killed at the
            very next instruction leaves nothing that `qsessions reap` can't end. It costs what the disk takes (a millisecond or so, 5 s at
            the most), which doesn't count against `timeout`. With False the id is written meanwhile: a process that dies before that, or
            blocks its event loop and dies, leaves a session of which the ledger knows no id, and `reap` can only show what it may be.
        allow_insecure: Whether plain http to a host that isn't this machine is allowed.
        observers: Called with each event; see events.py. The logger "qsessions" hears of them anyway.
        clock: Time and chance, for tests.

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
        http: HttpSession | None = None,
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
            settings = config.resolve(
                auth,
                base_url,
                account=account,
                account_file=account_file,
                own_tls=ssl is not None or http is not None,
            )
            version = None if api_version is None else operations.checked_version(api_version)
            seconds = deadline_seconds(timeout, "timeout")
            extra_headers = config.extra_headers({} if headers is None else headers)
            policy = config.one_of("retry", retry, RetryPolicy)
            self._clock = config.one_of("clock", clock, Clock)
            self._observers = Observers(observers)
            self._transport = AiohttpTransport(
                application=application,
                http=http,
                ssl=ssl,
                proxy=proxy,
                max_concurrency=max_concurrency,
                allow_insecure=allow_insecure,
            )
            self._guard = Guard(ledger, self._transport.spawn, self._observers)
            self._attempts = Attempts(
                self._transport, retry=policy, clock=self._clock, observers=self._observers
            )
            self._caller = Caller(
                settings,
                self._transport,
                self._attempts,
                self._clock,
                api_version=version,
                timeout=seconds,
                headers=extra_headers,
            )
        except BaseException as error:
            # A traceback that shows locals must not show a key, a header or a URL's password, of the environment neither.
            del auth, base_url, proxy, headers
            strip_frames(error)
            raise
        self._book = Book(self._guard, self._clock.wall, is_durable=ledger_wait)
        self._drained = DrainedSessions(self._caller, self._book, self._clock)
        self._looking: asyncio.Task[None] | None = None
        self._owned = Owned()
        # The newest sessions that it created: nobody else's create can have made them.
        self._recent = RecentSessions(self._caller, self._clock)
        self._signals = Signals(self._react, insisted=self._name_owned, acted=self._create_again)
        self._has_warned = False
        self._closing: asyncio.Future[None] | None = None
        self._polls: WeakValueDictionary[str, Poll] = WeakValueDictionary()

    def __repr__(self) -> str:
        """Show where the client calls, and no credential."""
        # A client whose making fails has none, and a traceback that shows locals shows it all the same.
        base_url = self._caller.base_url if hasattr(self, "_caller") else ""
        return f"{type(self).__name__}(base_url={base_url!r})"

    @property
    def base_url(self) -> str:
        """Where it calls, the part before /v1; empty until its settings are read, on entering it or at the first call."""
        return self._caller.base_url

    @property
    def instance(self) -> str | None:
        """The CRN that it sends, or None where it sends none, its own provider does, or its settings aren't read yet."""
        return self._caller.instance

    async def __aenter__(self) -> Self:
        """Give the client itself, once it has its settings.

        Raises:
            ConfigurationError: They are in the account file, and it won't do.
            ClientClosed: It was closed: a client lives once.
        """
        if self._closing is not None:
            raise ClientClosed("the client was closed.", solution="Make another one.")
        await self._caller.settled("configure", ...)
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
        """End the client: the sessions that `open` created, creates in flight, then its tasks and connections.

        A session of `open` that is still open ends as after a clean block, within the deadline of its ending; a create that is in flight
        comes to its end, within 30 s. Where there is a ledger, one look at the list of workloads, 5 s at the most, lets it forget the
        drained sessions that are over. Other sessions stay as they are; calls still waiting get `ClientClosed` or `ConnectionFailed`.
        Doing it twice does nothing.
        """
        if self._closing is None or self._closing.cancelled():
            # A task of its own, so that cancelling the caller leaves nothing half closed.
            self._closing = asyncio.ensure_future(self._close_down())
        await asyncio.shield(self._closing)

    async def create(
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
        """Create a session and give it.

        The request is never sent twice where the first may have been carried out, since that could be a second session that costs. When
        this call is cancelled while the request is in flight, the request is brought to its end, the session that came of it is closed,
        each within 30 s, and then the cancellation goes on. A second cancellation goes on at once, and the ending in the background.

        Args:
            request: What to create; or give its fields as arguments.
            mode: "dedicated" or "batch".
            backend: The backend's name.
            max_ttl: How long after its first job's start it closes at the latest: whole seconds, a `timedelta` or text such as "2h 30m".
                Set it: it bounds what the session costs when this host vanishes. One that no job ever reached costs nothing, and the
                service closes it after 30 minutes.
            interactive_ttl: How long it may sit without a job; channel partners only.
            active_ttl: How long it may be active in all; channel partners only.
            labels: What to call the session in the ledger, such as `{"run": "42"}`, by which `reap`, `close_all` and the command line find
                it from another process. The service doesn't hear of them.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            InvalidArgument: Something can't be right; nothing was sent.
            CreateOutcomeUnknown: A session may have been created, and nobody can tell. It names the sessions that may have come of it,
                looked for within what is left of the deadline and 10 s at the most.
            QSessionsError: Nothing was created; the class says why.
        """
        wanted = operations.creation(
            request,
            mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
        )
        return await self._create(wanted, self._creation(api_version, labels), api_version, timeout)

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
    ) -> AbstractAsyncContextManager[AsyncLiveSession]:
        """Create a session that ends with an `async with` block, and give its handle there.

        After a clean block it is drained: queued jobs finish. After an error or a cancellation it is closed at once. The ending goes on
        whoever cancels it meanwhile, within a deadline of its own. When it fails, the error of the block goes on unchanged, with a note;
        a block without one raises `SessionLeftOpen`. Either way it is logged, and `aclose` tries once more. What can't be promised: when
        this process is killed or this host vanishes, only `max_ttl` ends the session, or `qsessions reap` where there is a ledger.

        Args:
            request: What to create; or give its fields as arguments, as for `create`.
            mode: "dedicated" or "batch".
            backend: The backend's name.
            max_ttl: How long after its first job's start it closes at the latest. Set it: it bounds what the session costs when this host
                vanishes; see `create`.
            interactive_ttl: How long it may sit without a job; channel partners only.
            active_ttl: How long it may be active in all; channel partners only.
            labels: What to call the session in the ledger; see `create`.
            on_exit: What ends it after a clean block: "drain" or "close".
            on_error: What ends it after an error or a cancellation: "close" or "drain".
            ending_timeout: The ending's deadline: seconds, a `timedelta` or text such as "1m".
            handle_signals: Whether SIGTERM and Ctrl-C first close the open sessions of this client, which creates none meanwhile, and then
                do what they did before; a second one does so at once, and the log names the open sessions. (Under `asyncio.run`, what
                Ctrl-C did before is to cancel the main task, whose blocks still end their sessions; and of a handler of your own, asyncio
                lets only SystemExit and KeyboardInterrupt through.) Main thread only. While the event loop is held up, none can be closed.
            api_version: The API version for creating and ending it.
            timeout: The deadline of the create in seconds; None for none, `...` for the client's.

        Raises:
            InvalidArgument: Something can't be right (at once; nothing was sent).
            QSessionsError: As `create` (on entering).
            SessionLeftOpen: The block was clean and the session could not be ended (on leaving).
        """
        wanted = operations.creation(
            request,
            mode,
            backend=backend,
            max_ttl=max_ttl,
            interactive_ttl=interactive_ttl,
            active_ttl=active_ttl,
        )
        seconds = self._caller.seconds(timeout)
        version = None if api_version is None else operations.checked_version(api_version)

        creation = self._creation(version, labels)

        async def begin() -> AsyncLiveSession:
            session = await self._create(wanted, creation, version, seconds)
            live = self.attach(session.id)
            live.snapshot = session
            return live

        opened = Opened(
            begin,
            partial(self._end, version),
            creation=creation,
            request=wanted,
            owned=self._owned,
            spawn=self._attempts.spawn,
            observers=self._observers,
            clock=self._clock,
            on_exit=on_exit,
            on_error=on_error,
            ending_timeout=ending_timeout,
            signals=self._signals if handle_signals else None,
        )
        if wanted.max_ttl is None and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "open() without max_ttl: if this host vanishes, the session may cost for 8 hours from its first job's start"
            )
        return opened

    async def get(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> Session:
        """Read a session.

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        session = await self._recent.call(operations.get(session_id), api_version, timeout)
        self._book.saw(session)
        return session

    async def has_pending_jobs(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> bool:
        """Return whether a session has jobs that are queued or running, by the instance's list of jobs.

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            QSessionsError: See errors.py.
        """
        return await self._caller.call(
            operations.has_pending_jobs(session_id), api_version, timeout
        )

    async def update(
        self,
        session_id: str,
        *,
        accepting_jobs: bool,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> None:
        """Open or shut a session for new jobs.

        Args:
            session_id: Its id.
            accepting_jobs: False: queued and running jobs finish, new ones are refused, then the session closes. True: take jobs again; the
                session is read afterwards, since the service accepts that of a closed session too and reopens nothing.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            Conflict: The session is closed, and was to take jobs again.
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        await self._change(
            session_id, UpdateSession(accepting_jobs), "update", api_version, timeout
        )

    async def drain(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> None:
        """Let a session finish: queued and running jobs end, new ones are refused, then it closes.

        A session that is closed already is a success. (The official client calls this `Session.close()`.)

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        await self._change(
            session_id, UpdateSession(accepting_jobs=False), "drain", api_version, timeout
        )

    async def close(
        self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> None:
        """Close a session now: queued jobs never run, running jobs finish.

        A session that is closed already is a success. (The official client calls this `Session.cancel()`.)

        Args:
            session_id: Its id.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        try:
            await self._recent.call(operations.close(session_id), api_version, timeout)
        except NotFound:
            self._book.ended(session_id)
            raise
        self._book.ended(session_id)
        self._observers.notify(SessionClosed(session_id=session_id))

    async def close_all(
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
        """End the instance's open sessions, whoever created them, and give what became of each, oldest first.

        They are found in the list of workloads. Where this client has a ledger, those whose owner lives there, or may live, are passed
        over, its own too. One that can't be ended doesn't stop the others.

        Args:
            how: "close", at once, or "drain": queued and running jobs finish.
            mode: Which kinds: "session" (dedicated ones), "batch", or both.
            backend: Only those on this backend.
            created_before: Only those created before this time, which must have an offset.
            labels: Only those that the ledger has with all of these labels.
            include_owned: Whether to end those too whose owner lives.
            api_version: The API version for these calls.
            timeout: The deadline of each call in seconds; None for none, `...` for the client's.

        Raises:
            InvalidArgument: Something can't be right; nothing was sent.
            LedgerUnavailable: Whose they are can't be read; nothing was ended. With `include_owned` and without `labels` nobody asks.
            QSessionsError: They can't be listed; nothing was ended.
        """
        closing.checked_way("how", how)
        listed = self.workloads(
            mode=closing.session_modes(mode),
            status=closing.OPEN_STATUSES,
            backend=backend,
            created_before=created_before,
            api_version=api_version,
            timeout=timeout,
        )
        found = await closing.find(
            listed,
            # Which instance it is may be known only by then.
            lambda: self._guard.entries(self.instance),
            labels=self._checked_labels(labels),
            include_owned=include_owned,
        )
        call = partial(self._end, api_version, how, timeout=timeout)
        return await closing.end(found, how, call, self._clock.wall)

    async def versions(
        self, *, api_version: str | None = None, timeout: Timeout = ...
    ) -> list[ApiVersion]:
        """List the API versions that the service has, oldest first. Sends no credentials.

        Args:
            api_version: An API version to name in the request, which needs none.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            QSessionsError: See errors.py.
        """
        return await self._caller.versions(api_version, timeout)

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
        page_size: int = operations.MAX_PAGE,
        api_version: str | None = None,
        timeout: Timeout = ...,
    ) -> AsyncIterator[Workload]:
        """List the instance's sessions and batches by creation time, all pages; a page is fetched when it is needed.

        Args:
            mode: Which kinds: "session" (dedicated ones), "batch", "job", or several. The service filters by one at a time, so each kind is
                fetched in pages of its own.
            status: Only those that are pending, in_progress, failed, completed or canceled; or several. What costs or may cost is pending
                and in_progress together.
            backend: Only those on this backend.
            search: Only those that the service finds by this text.
            created_after: Only those created after this time, which must have an offset.
            created_before: Only those created before this time, which must have an offset.
            newest_first: Begin with the newest.
            page_size: How many to fetch at a time, up to 50, the service's limit.
            api_version: The API version for these calls.
            timeout: The deadline of each page in seconds; None for none, `...` for the client's.

        Raises:
            InvalidArgument: A filter can't be right (at once, before the first page).
            QSessionsError: A page can't be fetched (while iterating).
        """
        query = partial(
            operations.workloads_query,
            status=operations.words("status", status),
            backend=backend,
            search=search,
            created_after=created_after,
            created_before=created_before,
            newest_first=newest_first,
            page_size=page_size,
        )
        queries = [query(mode=kind) for kind in operations.words("mode", mode)]
        if not queries:
            raise InvalidArgument("mode must name at least one of job, session, batch.")
        seconds = self._caller.seconds(timeout)
        version = None if api_version is None else operations.checked_version(api_version)

        def fetch(query: operations.Query) -> Fetch:
            return lambda cursor: self._caller.call(
                operations.workloads(query, cursor), api_version=version, timeout=seconds
            )

        return by_creation([pages(fetch(query)) for query in queries], newest_first=newest_first)

    def attach(self, session_id: str) -> AsyncLiveSession:
        """Give a handle on a session that exists, to watch it and wait for it. Nothing is sent, and nothing ends the session.

        Args:
            session_id: Its id.

        Raises:
            InvalidArgument: It can't be a session's id.
        """
        operations.get(session_id)
        poll = self._polls.get(session_id)
        if poll is None:
            poll = self._polls[session_id] = Poll(
                session_id, self, self._attempts.spawn, self._clock
            )
        return AsyncLiveSession(poll)

    def watch(
        self,
        ids: Iterable[str],
        *,
        rate: float = 20.0,
        timeout: float | timedelta | str | None = None,
    ) -> AsyncIterator[tuple[str, Session]]:
        """Give the id and the `Session` of many sessions, each as it is, then at each change, until all are closed.

        However many there are, this takes no task for each, and `rate` requests a second at the most, spread evenly: 10,000 sessions at 20
        a second are each read every 500 s; few ones as often as by `AsyncLiveSession.watch`. What counts as a change is the same as there.
        With a `timeout`, an outage of the service is borne until then; without one, as long as the client's retry policy bears it. Nothing
        is read while you handle what you got, but for what is under way. The first session that can't be read otherwise ends it.

        Args:
            ids: Their ids; one that comes twice counts once.
            rate: How many sessions to read a second at the most, retries not counted.
            timeout: How long at the most in all: seconds, a `timedelta` or text such as "5m"; None for no limit.

        Raises:
            InvalidArgument: An id, the rate or the timeout can't be right (at once, before anything is sent).
            CallTimeout: Time was up (while iterating, like the following); where the service was away then, it says so.
            NotFound: The instance has no such session; `session_id` says which.
            QSessionsError: As `get`.
        """
        watching = Watch(
            operations.session_ids(ids),
            read=self._read,
            spawn=self._attempts.spawn,
            clock=self._clock,
            rate=checked_rate(rate),
            seconds=deadline_seconds(timeout, "timeout"),
        )
        return watching.changes()

    async def _read(self, session_id: str) -> Session:
        session = await self.get(session_id)
        if (poll := self._polls.get(session_id)) is not None:
            poll.saw(session)
        return session

    def _creation(self, api_version: str | None, labels: Mapping[str, str] | None) -> Creation:
        close = partial(self._close_unwanted, api_version)
        return Creation(self._book, close, self._observers, self._checked_labels(labels))

    def _checked_labels(self, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        checked = checked_labels(labels)
        if checked and not self._guard.is_on:
            raise InvalidArgument(
                "labels are kept in the ledger, and this client has none: pass ledger= to it."
            )
        return checked

    async def _create(
        self, wanted: CreateSession, creation: Creation, api_version: str | None, timeout: Timeout
    ) -> Session:
        caller = self._caller
        lookup = Lookup(
            wanted,
            self._clock,
            lambda operation, left: caller.call(operation, api_version, left),
            self._observers,
            self._recent,
        )
        started, seconds = self._clock.monotonic(), caller.seconds(timeout)
        try:
            await caller.settled("create", seconds)
            operation = operations.create(wanted)
            # First of all, so that the ledger hears of no request that doesn't go out.
            await caller.admit(operation)
            await self._book.intend(
                wanted,
                creation.key,
                base_url=caller.base_url,
                instance=caller.instance,
                labels=creation.labels,
                seconds=caller.left(seconds, started),
            )
            left = caller.left(seconds, started)
            session = await caller.call(operation, api_version, left, creation)
        except BaseException as error:
            creation.failed(error)
            if isinstance(error, CreateOutcomeUnknown):
                if error.session_id is not None:
                    self._recent.add(error.session_id)
                await lookup.tell(error, seconds)
            raise
        creation.succeeded(session)
        self._recent.add(session.id)
        self._observers.notify(
            SessionCreated(
                session_id=session.id,
                mode=wanted.mode,
                backend=wanted.backend,
                max_ttl=wanted.max_ttl,
            )
        )
        return session

    async def _end(
        self, api_version: str | None, how: How, session_id: str, *, timeout: Timeout
    ) -> None:
        end = self.drain if how == "drain" else self.close
        await end(session_id, api_version=api_version, timeout=timeout)

    def _react(self, resume: Callable[[], None]) -> None:
        """Close what `open` created, then let a signal go on. Called in the main thread, between any two instructions."""
        self._refuse_creates()

        def go_on(ending: asyncio.Task[None]) -> None:
            if ending.cancelled():
                # The event loop is shutting down, which cancels every task once; the endings themselves go on.
                close()
            else:
                resume()

        def close() -> None:
            try:
                ending = self._attempts.spawn(self._close_owned())
            except ClientClosed:
                resume()
            else:
                ending.add_done_callback(go_on)

        try:
            asyncio.get_running_loop().call_soon_threadsafe(close)
        except RuntimeError:
            # The loop stands still, and with it the sessions' connections.
            resume()

    async def _close_owned(self) -> None:
        """Close what `open` created or is creating, and have the ledger know it."""
        self._book.withdraw()
        await self._end_owned("close")
        # After the signal there may be no more time for that.
        await self._guard.flush()

    def _refuse_creates(self) -> None:
        """Let nobody create a session until `_create_again`: it would be left open."""
        if self._closing is None:
            why = ClientClosed(
                "a signal is ending the client's sessions, and none is created meanwhile.",
                solution="Let the program end, or make the call again when the signal has been handled.",
            )
            self._attempts.refuse(why)

    def _name_owned(self) -> None:
        for told in self._owned.interrupted():
            logger.error("a second signal came: %s", one_line(told))

    def _create_again(self) -> None:
        if self._closing is None:
            self._attempts.refuse(None)

    async def _change(
        self,
        session_id: str,
        wanted: UpdateSession,
        name: str,
        api_version: str | None,
        timeout: Timeout,
    ) -> None:
        started, seconds = self._clock.monotonic(), self._caller.seconds(timeout)
        operation = operations.update(session_id, wanted, name=name)
        try:
            await self._recent.call(operation, api_version, seconds)
        except NotFound:
            self._book.ended(session_id)
            raise
        except Conflict as conflict:
            # The first of several attempts may have done it; and a drain is done whoever did it.
            if name != "drain" and conflict.attempts == 1:
                raise
            look = operations.get(session_id, ending=operation.ending)
            session = await self._caller.call(
                look, api_version, self._caller.left(seconds, started)
            )
            # An answer about another session, as a cache in between may give, says nothing about this one.
            if session.id != session_id or not operations.is_reached(wanted, session):
                raise
            self._updated(session_id, accepting_jobs=wanted.accepting_jobs)
            self._book.saw(session)
        else:
            self._updated(session_id, accepting_jobs=wanted.accepting_jobs)
            if wanted.accepting_jobs:
                await self._check_reopened(
                    operation, api_version, self._caller.left(seconds, started)
                )

    def _updated(self, session_id: str, *, accepting_jobs: bool) -> None:
        """Record that a session takes no more jobs, or takes them again, and look for drained ones that are over where that is due."""
        self._book.updated(session_id, accepting_jobs=accepting_jobs)
        if not accepting_jobs:
            self._observers.notify(SessionDraining(session_id=session_id))
        if self._drained.is_due and self._looking is None:
            with suppress(ClientClosed):
                self._looking = self._attempts.spawn(self._drained.look())
                self._looking.add_done_callback(self._looked)

    def _looked(self, _: asyncio.Task[None]) -> None:
        self._looking = None

    async def _check_reopened(
        self, operation: Operation[None], api_version: str | None, left: float | None
    ) -> None:
        """Read a session that was told to take jobs again: the service accepts that of a closed one, and reopens nothing."""
        assert operation.session_id is not None  # noqa: S101 - an update has one
        where: dict[str, Any] = {
            "operation": operation.name,
            "session_id": operation.session_id,
            "method": operation.method,
            "path": operation.path,
        }
        try:
            session = await self._recent.call(
                operations.get(operation.session_id), api_version, left
            )
        except QSessionsError as error:
            error.add_note(
                "the update was accepted; whether the session takes jobs again could not be read."
            )
            raise
        if session.id != operation.session_id:
            raise ProtocolError(
                "the update was accepted, and the answer to the reading is about another session.",
                **where,
            )
        self._book.saw(session)
        if session.is_final:
            raise Conflict(
                "the session is closed, and nothing reopens it.",
                solution="Create another one.",
                **where,
            )

    async def _close_down(self) -> None:
        self._attempts.refuse(ClientClosed("the client is being closed."))
        self._book.withdraw()
        await self._end_owned(None)
        try:
            if self._looking is not None:
                # The last look has it all.
                self._looking.cancel()
                await asyncio.wait({self._looking})
            if self._book.draining:
                await self._drained.look()
        finally:
            await self._guard.aclose()
            await self._transport.aclose()

    async def _end_owned(self, how: How | None) -> None:
        """End what `open` created, and what comes of creates that are in flight; None ends each as its block would."""
        await self._owned.end(how)
        await self._attempts.settle(ENDING_TIMEOUT)
        await self._owned.end(how, again=False)

    async def _close_unwanted(self, api_version: str | None, session_id: str) -> str | None:
        self._recent.add(session_id)
        try:
            try:
                await self.close(session_id, api_version=api_version, timeout=ENDING_TIMEOUT)
            except asyncio.CancelledError:
                # The event loop is shutting down, which cancels every task once. A DELETE can be sent again.
                await self.close(session_id, api_version=api_version, timeout=ENDING_TIMEOUT)
        except NotFound:
            # The HTTP library may itself have sent the DELETE twice: it is gone all the same.
            return None
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it must not take the place of the caller's cancellation
            why = str(error) if isinstance(error, QSessionsError) else type(error).__name__
            return f"create was cancelled in flight; session {session_id!r} was created and could not be closed: {why}"
        return None
