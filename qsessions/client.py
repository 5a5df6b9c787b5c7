"""`AsyncSessionClient`: the calls of the sessions API as coroutines."""

from __future__ import annotations

import asyncio
import os
import ssl as tls
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from types import EllipsisType, TracebackType
from typing import Any, Self, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from yarl import URL

from qsessions import config, operations
from qsessions.attempts import Attempts, Clock
from qsessions.codec import decode_session_id
from qsessions.errors import (
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    Conflict,
    InvalidArgument,
    NotFound,
    QSessionsError,
    replica,
)
from qsessions.events import CreateCancelled, Observer, Observers
from qsessions.in_flight import ENDING_TIMEOUT, Undo
from qsessions.live import AsyncLiveSession, Poll
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
from qsessions.operations import Operation
from qsessions.paging import Fetch, by_creation, pages
from qsessions.retry import RetryPolicy
from qsessions.transport import AiohttpTransport, HttpSession
from qsessions.wire import FRAMING_HEADERS, AuthProvider, Response, header_problem

T = TypeVar("T")

# A call's deadline: seconds, a timedelta, text such as "2m", None for none, or `...` for the client's own.
Timeout: TypeAlias = float | timedelta | str | EllipsisType | None

# Headers that have an argument of their own.
_INSTEAD = {
    "authorization": "auth=",
    "backend-authentication": "auth=",
    "external-service-token": "auth=",
    "service-crn": "auth=",
    "ibm-api-version": "api_version=",
    "user-agent": "application=",
}


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
        max_concurrency: How many connections there are at the most; further calls wait.
        allow_insecure: Whether plain http to a host that isn't this machine is allowed.
        observers: Called with each event; see events.py. The logger "qsessions" hears of them anyway.
        clock: Time and chance, for tests.

    Raises:
        ConfigurationError: An argument or a variable of the environment is missing or can't be right.
    """

    # For the repr of a client whose making fails, in a traceback that shows locals.
    _base_url = ""

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
            self._api_version = None if api_version is None else operations.checked_version(api_version)
            self._timeout = deadline_seconds(timeout, "timeout")
            self._extra_headers = _extra_headers({} if headers is None else headers)
            self._retry = _one_of("retry", retry, RetryPolicy)
            self._clock = _one_of("clock", clock, Clock)
            self._observers = Observers(observers)
            self._transport = AiohttpTransport(
                application=application,
                http=http,
                ssl=ssl,
                proxy=proxy,
                max_concurrency=max_concurrency,
                allow_insecure=allow_insecure,
            )
        except QSessionsError as error:
            # A traceback that shows locals must not show a key, a header or a URL's password, of the environment neither.
            del auth, base_url, proxy, headers
            raise error.with_traceback(None)  # noqa: B904 - it is the same error
        self._attempts = Attempts(
            self._transport,
            retry=self._retry,
            clock=self._clock,
            observers=self._observers,
        )
        self._search: config.Search | None = None
        self._searching: asyncio.Task[QSessionsError | None] | None = None
        if isinstance(settings, config.Search):
            self._search = settings
        else:
            self._settle(settings)
        self._latest: str | None = None
        self._latest_lock = asyncio.Lock()
        self._closing: asyncio.Future[None] | None = None
        self._polls: WeakValueDictionary[str, Poll] = WeakValueDictionary()

    def __repr__(self) -> str:
        """Show where the client calls, and no credential."""
        return f"{type(self).__name__}(base_url={self._base_url!r})"

    async def __aenter__(self) -> Self:
        """Give the client itself, once it has its settings.

        Raises:
            ConfigurationError: They are in the account file, and it won't do.
        """
        await self._settled("configure", self._timeout)
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
        """End the client: bring creates that are in flight to their end (30 s at the most), then end its tasks and connections.

        Doing it twice does nothing. Sessions stay as they are; calls still waiting get `ClientClosed` or `ConnectionFailed`.
        """
        if self._closing is None or self._closing.done():
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
            max_ttl: After how long it closes whatever happens: whole seconds, a `timedelta` or text such as "2h 30m". Set it: it is the
                only guard when this host vanishes.
            interactive_ttl: How long it may sit without a job; channel partners only.
            active_ttl: How long it may be active in all; channel partners only.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            InvalidArgument: Something can't be right; nothing was sent.
            CreateOutcomeUnknown: A session may have been created, and nobody can tell.
            QSessionsError: Nothing was created; the class says why.
        """
        fields = {
            "backend": backend,
            "max_ttl": max_ttl,
            "interactive_ttl": interactive_ttl,
            "active_ttl": active_ttl,
        }
        operation = operations.create(_create_request(request, mode, fields))
        undo = partial(self._undo_create, api_version)
        return await self._call(operation, api_version=api_version, timeout=timeout, undo=undo)

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
        return await self._call(operations.get(session_id), api_version=api_version, timeout=timeout)

    async def update(
        self, session_id: str, *, accepting_jobs: bool, api_version: str | None = None, timeout: Timeout = ...
    ) -> None:
        """Open or shut a session for new jobs.

        Args:
            session_id: Its id.
            accepting_jobs: False: queued and running jobs finish, new ones are refused, then the session closes. True: take jobs again.
            api_version: The API version for this call.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            Conflict: The session is closed.
            NotFound: The instance has no such session.
            QSessionsError: See errors.py.
        """
        operation = operations.update(session_id, UpdateSession(accepting_jobs))
        await self._call(operation, api_version=api_version, timeout=timeout)

    async def drain(self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...) -> None:
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
        started, seconds = self._clock.monotonic(), self._seconds(timeout)
        operation = operations.update(session_id, UpdateSession(accepting_jobs=False), name="drain")
        try:
            await self._call(operation, api_version=api_version, timeout=seconds)
        except Conflict:
            left = self._left(seconds, started)
            if not (
                await self._call(operations.get(session_id), api_version=api_version, timeout=left)
            ).is_final:
                raise

    async def close(self, session_id: str, *, api_version: str | None = None, timeout: Timeout = ...) -> None:
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
        await self._call(operations.close(session_id), api_version=api_version, timeout=timeout)

    async def versions(self, *, api_version: str | None = None, timeout: Timeout = ...) -> list[ApiVersion]:
        """List the API versions that the service has, oldest first. Sends no credentials.

        Args:
            api_version: An API version to name in the request, which needs none.
            timeout: This call's deadline in seconds; None for none, `...` for the client's.

        Raises:
            QSessionsError: See errors.py.
        """
        headers = dict(self._extra_headers)
        if api_version is not None:
            headers["IBM-API-Version"] = operations.checked_version(api_version, latest=False)
        operation = operations.versions()
        seconds = await self._settled(operation.name, self._seconds(timeout))
        return await self._attempts.run(
            operation.request(self._base_url, headers), operation.read, seconds, authenticated=False
        )

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
        page_size: int = 100,
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
            created_after: Only those created after this time; without an offset it is UTC.
            created_before: Only those created before this time; without an offset it is UTC.
            newest_first: Begin with the newest.
            page_size: How many to fetch at a time, up to 200.
            api_version: The API version for these calls.
            timeout: The deadline of each page in seconds; None for none, `...` for the client's.

        Raises:
            InvalidArgument: A filter can't be right (at once, before the first page).
            QSessionsError: A page can't be fetched (while iterating).
        """
        modes, statuses = operations.words("mode", mode), operations.words("status", status)
        if not modes:
            raise InvalidArgument("mode must name at least one of job, session, batch.")
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
            for kind in modes
        ]
        seconds = self._seconds(timeout)
        version = None if api_version is None else operations.checked_version(api_version)

        def fetch(query: operations.Query) -> Fetch:
            return lambda cursor: self._call(
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
            poll = self._polls[session_id] = Poll(session_id, self, self._attempts.spawn, self._clock)
        return AsyncLiveSession(poll)

    async def _call(
        self,
        operation: Operation[T],
        *,
        api_version: str | None,
        timeout: Timeout,
        undo: Undo | None = None,
    ) -> T:
        seconds = await self._settled(operation.name, self._seconds(timeout))
        version = self._api_version if api_version is None else operations.checked_version(api_version)
        if version == operations.LATEST:
            started = self._clock.monotonic()
            version = await self._latest_version(operation, seconds)
            seconds = self._left(seconds, started)
        headers = {
            **self._extra_headers,
            "IBM-API-Version": version or operations.default_version(self._clock.wall()),
        }
        request = operation.request(self._base_url, headers)
        return await self._attempts.run(request, operation.read, seconds, undo=undo)

    def _settle(self, settings: config.Settings) -> None:
        """Take the settings on: here they become where calls go, how they get there and what they carry."""
        self._base_url = settings.base_url
        self._transport.proxies = settings.proxies
        self._attempts.providers = settings.providers

    async def _settled(self, operation: str, seconds: float | None) -> float | None:
        """Wait for the account file where the settings are in it; give what is left of the call's seconds."""
        if self._search is None:
            return seconds
        started = self._clock.monotonic()
        # One reading for all who wait, and not one that a caller's cancellation ends.
        if self._searching is None or self._searching.done():
            self._searching = self._attempts.spawn(self._look(self._search))
        searching = self._searching
        done, _ = await asyncio.wait({searching}, timeout=seconds)
        if not done:
            raise CallTimeout(
                "the call's deadline passed while reading the account file.", operation=operation, sent=False
            )
        if searching.cancelled():
            raise ClientClosed("the client was closed while reading the account file.", operation=operation)
        error = searching.result()
        if error is not None:
            raise replica(error)
        return self._left(seconds, started)

    async def _look(self, search: config.Search) -> QSessionsError | None:
        """Find the settings in the account file; give the error that all who wait get, or None."""
        try:
            self._settle(await asyncio.to_thread(search.in_file))
        except QSessionsError as error:
            return error.with_traceback(None)
        self._search = None
        return None

    async def _latest_version(self, operation: Operation[T], seconds: float | None) -> str:
        if self._latest is not None:
            return self._latest
        scope = asyncio.timeout(seconds)
        try:
            async with scope, self._latest_lock:
                return await self._newest_live(seconds)
        except TimeoutError:
            if not scope.expired():
                raise
            raise CallTimeout(
                "the call's deadline passed while asking for the latest API version.",
                operation=operation.name,
                session_id=operation.session_id,
                sent=False,
            ) from None

    async def _newest_live(self, seconds: float | None) -> str:
        # Whoever had the lock before may have got it.
        if self._latest is None:
            self._latest = operations.newest_live(await self.versions(timeout=seconds))
        return self._latest

    def _seconds(self, timeout: Timeout) -> float | None:
        return self._timeout if isinstance(timeout, EllipsisType) else deadline_seconds(timeout, "timeout")

    def _left(self, seconds: float | None, started: float) -> float | None:
        """Give what is left of a deadline; never 0 or less, which would be no deadline at all but a wrong one."""
        return None if seconds is None else max(seconds - (self._clock.monotonic() - started), 0.001)

    async def _close_down(self) -> None:
        await self._attempts.settle(ENDING_TIMEOUT)
        await self._transport.aclose()

    async def _undo_create(self, api_version: str | None, answer: Response) -> str | None:
        """Close the session of a create whose caller was cancelled; give what is left to tell."""
        session_id = decode_session_id(answer.body)
        left: str | None = "create was cancelled in flight; a session was created, and its id can't be read."
        if session_id is not None:
            left = await self._close_unwanted(session_id, api_version)
        self._attempts.notify(
            CreateCancelled(
                session_id=session_id, closed=left is None, detail=left or "closed after a cancelled create"
            )
        )
        return left

    async def _close_unwanted(self, session_id: str, api_version: str | None) -> str | None:
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


def _create_request(request: object, mode: str | None, fields: dict[str, Any]) -> CreateSession:
    if request is None and mode is not None:
        return CreateSession(mode, **fields)
    if (
        isinstance(request, CreateSession)
        and mode is None
        and all(value is None for value in fields.values())
    ):
        return request
    raise InvalidArgument(
        "create takes either one CreateSession or mode= and the other fields as keyword arguments."
    )


def _one_of(name: str, value: object, kind: type[T]) -> T:
    """Give an argument that is of its kind, or one made anew for None."""
    if value is None:
        return kind()
    if isinstance(value, kind):
        return value
    raise ConfigurationError(f"{name}= must be a {kind.__name__}, not {value!r}.")


def _extra_headers(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        kind = type(headers).__name__
        del headers
        raise ConfigurationError(f"headers= must be a mapping of names to values, not {kind}.")
    for name, value in headers.items():
        if problem := header_problem(name, value):
            del value, headers
            raise ConfigurationError(f"the header {name!r} in headers= {problem}.")
        if name.lower() in FRAMING_HEADERS or name.lower() in _INSTEAD:
            del value, headers
            instead = _INSTEAD.get(name.lower())
            raise ConfigurationError(
                f"headers= can't set {name}, which qsessions sets itself.",
                solution=instead and f"Use {instead}.",
            )
    return dict(headers)
