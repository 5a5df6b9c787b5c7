"""Moves bytes over aiohttp: owns the connections and the background tasks."""

from __future__ import annotations

import asyncio
import platform
import ssl as tls
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

import aiohttp
from yarl import URL

from qsessions._version import __version__
from qsessions.api.messages import (
    Request,
    Response,
    SecretHeaders,
    SecretValues,
    header_problem,
    is_loopback,
    strip_frames,
)
from qsessions.arguments import check_bool, check_count
from qsessions.clock import Clock, Timeout
from qsessions.errors import (
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    QSessionsError,
)
from qsessions.http.bodies import Incoming, RequestBody
from qsessions.http.failures import translated
from qsessions.http.proxies import Proxy, parse_proxy, proxy_for
from qsessions.http.slots import Slots
from qsessions.http.timer import SharedTimer

T = TypeVar("T")

# The type of `http=`, for modules that don't know aiohttp.
HttpSession: TypeAlias = aiohttp.ClientSession

# Less than the 60 s and more after which the usual servers and load balancers drop an idle
# connection.
_KEEP_ALIVE_S = 15.0
# How many urgent requests there may be at a time, however few others.
_URGENT = 100
# How long closing waits for cancelled tasks: what ignores its cancellation must not hold it up.
_CLOSE_TIMEOUT_S = 5.0
# A host that doesn't answer at all must leave time for another attempt within the call's deadline.
_CONNECT_TIMEOUT_S = 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)


class AiohttpTransport:
    """Carries requests over one pool of kept connections, which is made when first needed.

    Args:
        clock: The time.
        application: A product name to put into the User-Agent header, or None.
        http: An aiohttp session whose connection pool is used and left open. Of the session only
            the pool and the trace configs are used: not its headers, cookies, timeouts or proxies.
            One with default auth is refused.
        ssl: The TLS settings, or None for the system's.
        proxy: The URL of an HTTP proxy for every request, with its credentials if it wants any,
            percent-encoded; http where it has no scheme.
        max_concurrency: How many requests there are at a time, a connection for each; further ones
            wait. Those that can't be repeated have as many connections of their own, made for each,
            and urgent ones at least 100.
        allow_insecure: Whether plain http to a host that isn't this machine is allowed.

    Attributes:
        proxies: Where `proxy` is None, the proxies by the scheme of the address, and under "no" the
            hosts that need none: the form of `urllib.request.getproxies_environment`. None is used
            to reach this machine itself.

    Raises:
        ConfigurationError: An argument can't be right.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        application: str | None = None,
        http: HttpSession | None = None,
        ssl: tls.SSLContext | None = None,
        proxy: str | URL | None = None,
        max_concurrency: int = 100,
        allow_insecure: bool = False,
    ) -> None:
        if not isinstance(http, aiohttp.ClientSession | None):
            raise ConfigurationError("http= must be an aiohttp.ClientSession.")
        if http is not None and http.auth is not None:
            raise ConfigurationError(
                "http= has default auth, which would replace ours; pass a session without it."
            )
        if not isinstance(ssl, tls.SSLContext | None):
            raise ConfigurationError("ssl= must be an ssl.SSLContext.")
        check_count("max_concurrency=", max_concurrency, ConfigurationError)
        check_bool("allow_insecure=", allow_insecure, ConfigurationError)
        self._borrowed = http
        self._ssl = ssl
        parsed = None if proxy is None else parse_proxy(proxy)
        if isinstance(parsed, str):
            # A frame would show it, with its password.
            del proxy
            raise ConfigurationError(f"proxy= {parsed}.", argument="proxy")
        self._proxy = parsed
        self.proxies: Mapping[str, str] = SecretValues()
        self._user_agent = (
            f"qsessions/{__version__} Python/{platform.python_version()} "
            f"aiohttp/{aiohttp.__version__}"
        )
        if application is not None:
            if problem := header_problem("User-Agent", application):
                raise ConfigurationError(f"application= {problem}.")
            self._user_agent += f" {application}"
        self._allow_insecure = allow_insecure
        # By whether each request gets a connection of its own.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        # The HTTP library's own limit loses a free connection when the task that it wakes is
        # cancelled just then. A borrowed pool has a limit of its own.
        limit = sys.maxsize if http is not None else max_concurrency
        self._slots = Slots(limit)
        self._fresh_slots = Slots(limit)
        self._urgent_slots = Slots(max(limit, _URGENT))
        # The headers of the latest request that had no body, and what they were merged from.
        self._headers: tuple[Mapping[str, str], Mapping[str, str], SecretHeaders]
        self._headers = ({}, {}, SecretHeaders())
        self._clock = clock
        self._timer = SharedTimer(clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def check(self, url: URL) -> None:
        """Check whether requests may go to an address.

        Raises:
            ConfigurationError: It is plain http to another machine, or through one.
        """
        if self._allow_insecure or url.scheme == "https":
            return
        is_through_another = self._proxy is not None and not is_loopback(self._proxy.url.raw_host)
        if is_loopback(url.raw_host) and not is_through_another:
            return
        problem = f"{url.origin()} is plain http, so others on the way could read the credentials"
        if not is_loopback(url.raw_host):
            raise ConfigurationError(
                f"{problem}.",
                solution="Use https, or pass allow_insecure=True.",
                argument="allow_insecure",
            )
        raise ConfigurationError(
            f"{problem}: the proxy is another machine.",
            solution="Leave out proxy=, or pass allow_insecure=True.",
            argument="allow_insecure",
        )

    async def send(self, request: Request) -> Response:
        """Carry one request; see `Transport.send`.

        Raises:
            ClientClosed: The transport was closed.
            ConfigurationError: The URL is plain http to another machine, the proxy for it can't be
                one, or the running event loop isn't the one of the connections.
        """
        try:
            task = asyncio.current_task()
            http = self._open(request, task)
            self.check(request.url)
            proxy = self._proxy or proxy_for(request.url, self.proxies)
            incoming = Incoming(secrets=() if proxy is None else proxy.secrets)
            # The body is made before the wait for a connection, in which nothing is sent.
            arguments = self._arguments(request, proxy)
            slots = self._slots_for(request)
            try:
                with Timeout(self._timer.call_later, request.timeout, task):
                    if not slots.take():
                        await slots.wait()
                    try:
                        await incoming.read(
                            await http.request(request.method, request.url, **arguments)
                        )
                    finally:
                        slots.give_back()
                return incoming.response()
            except QSessionsError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - a request that was sent may be done
                failure = self._failure(error, request, incoming)
            if incoming.status >= 400:
                # The status says enough without the whole body.
                return incoming.response()
            raise failure
        except BaseException as error:
            # The frames of the HTTP library hold headers, and so may other errors that led here.
            strip_frames(error)
            raise

    def _failure(self, error: Exception, request: Request, incoming: Incoming) -> QSessionsError:
        sent = request.progress.begun is not False
        if not self._closed:
            return translated(error, request, incoming.secrets, sent=sent)
        # What the HTTP library raises when its connections go away under it differs with its
        # versions.
        message = "the client was closed during the call."
        if sent and not request.repeatable:
            return ConnectionFailed(message, retryable=False)
        return ClientClosed(message)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task that is cancelled, at the latest, when the transport is closed.

        Raises:
            ClientClosed: The transport was closed; the coroutine was not started.
        """
        if self._closed:
            coroutine.close()
            raise ClientClosed("the client is closed.")
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """End the background tasks and our own connections. A second call does nothing."""
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await self._clock.deadline(_CLOSE_TIMEOUT_S).wait(tasks)
        while self._sessions:
            await self._sessions.popitem()[1].close()
        self._timer.stop()

    def _arguments(self, request: Request, proxy: Proxy | None) -> dict[str, Any]:
        """Return what aiohttp is to do beside the method and the URL."""
        latest, credentials, headers = self._headers
        # As a rule both are those of the request before.
        if latest is not request.headers or credentials is not request.credentials:
            headers = SecretHeaders(request.headers, **request.credentials)
            self._headers = (request.headers, request.credentials, headers)
        arguments: dict[str, Any] = {"headers": headers, "allow_redirects": False}
        if request.body is not None:
            arguments["data"] = RequestBody(request.body, request.progress)
        if proxy is not None:
            arguments["proxy"] = proxy.url
            if request.url.scheme == "https":
                # The request for a tunnel has headers of its own; what is inside the tunnel is the
                # service's.
                arguments["proxy_headers"] = proxy.headers
            else:
                arguments["headers"] = SecretHeaders(arguments["headers"], **proxy.headers)
        return arguments

    def _slots_for(self, request: Request) -> Slots:
        if request.urgent:
            # Calls that hang must not keep a session from being ended.
            return self._urgent_slots
        return self._slots if request.repeatable else self._fresh_slots

    def _open(self, request: Request, task: asyncio.Task[Any] | None) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientClosed("the client is closed.")
        # To ask for the running loop again costs a system call, before Python 3.12.
        loop = asyncio.get_running_loop() if task is None else task.get_loop()
        if self._loop is not loop and self._loop is not None:
            raise ConfigurationError(
                "this client's connections belong to another event loop.",
                solution="Make one client for each event loop; auth providers may be shared.",
            )
        self._loop = loop
        # A server that drops an idle connection just when a request goes out leaves open whether it
        # was carried out. What must not be repeated never goes over one; only in a borrowed pool
        # there is no way to say so.
        force_close = not request.repeatable and self._borrowed is None
        http = self._sessions.get(force_close)
        if http is None:
            http = self._sessions[force_close] = self._make(force_close=force_close)
        return http

    def _make(self, *, force_close: bool) -> aiohttp.ClientSession:
        # A session of our own even over a borrowed pool: its cookies, headers and raise_for_status
        # can't be turned off for one request.
        borrowed = self._borrowed
        if borrowed is not None and (borrowed.closed or borrowed.connector is None):
            raise ConfigurationError("the session that was passed as http= is closed.")
        return aiohttp.ClientSession(
            connector=borrowed.connector
            if borrowed is not None
            else aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=None if force_close else _KEEP_ALIVE_S,
                force_close=force_close,
                ssl=True if self._ssl is None else self._ssl,
            ),
            connector_owner=borrowed is None,
            # The service's CDN sets a cookie on every answer.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={
                "User-Agent": self._user_agent,
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            timeout=_TIMEOUT,
            trace_configs=None if borrowed is None else borrowed.trace_configs,
        )
