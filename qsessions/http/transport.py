"""Moves bytes over aiohttp: owns the connections and the background tasks."""

from __future__ import annotations

import asyncio
import ssl as tls
import sys
from collections.abc import Coroutine, Mapping
from traceback import walk_tb
from typing import Any, TypeVar

import aiohttp
from aiohttp.tracing import Trace
from yarl import URL

from qsessions.api.addresses import InsecureHosts
from qsessions.api.messages import Request, Response, SecretHeaders, SecretValues, strip_frames
from qsessions.arguments import check_bool, check_count
from qsessions.clock import Clock, TimeoutScope
from qsessions.errors import (
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    QSessionsError,
)
from qsessions.http.bodies import Incoming, RequestBody
from qsessions.http.certificates import Certificates
from qsessions.http.network_errors import translated
from qsessions.http.plain_http import check_plain_http
from qsessions.http.pool import HttpSession, Pool
from qsessions.http.proxies import Proxy, parse_proxy, proxy_for
from qsessions.http.slots import Slots
from qsessions.http.timer import SharedTimer

T = TypeVar("T")

# How many urgent requests there may be at a time, however few others.
_URGENT = 100
# How long closing waits for cancelled tasks: what ignores its cancellation must not hold it up.
_CLOSE_TIMEOUT_S = 5.0
# An error that comes out of these comes before its request goes out. A request without a body tells
# nobody when that begins.
_BEFORE_SENDING = frozenset(
    function.__code__
    for function in (
        Certificates.load,
        aiohttp.TraceConfig.trace_config_ctx,
        Trace.send_request_start,
        aiohttp.BaseConnector.connect,
    )
)


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
        pool: The connections.
        proxies: Where `proxy` is None, the proxies by the scheme of the address, and under "no" the
            hosts that need none: the form of `urllib.request.getproxies_environment`. None is used
            to reach this machine itself.
        insecure_hosts: The hosts, each with its port, to which plain http is allowed all the same.
        is_closed: Whether it was closed.

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
        check_count("max_concurrency=", max_concurrency)
        check_bool("allow_insecure=", allow_insecure, ConfigurationError)
        self.pool = Pool(clock, http=http, ssl=ssl, application=application)
        parsed = None if proxy is None else parse_proxy(proxy)
        if isinstance(parsed, str):
            # A frame would show it, with its password.
            del proxy
            raise ConfigurationError(f"proxy= {parsed}.", argument="proxy")
        self._proxy = parsed
        self.proxies: Mapping[str, str] = SecretValues()
        self.insecure_hosts: InsecureHosts = frozenset()
        self._allow_insecure = allow_insecure
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
        self.is_closed = False

    def check(self, url: URL) -> None:
        """Check whether requests may go to an address.

        Raises:
            ConfigurationError: It is plain http to another machine, or through one.
        """
        if not self._allow_insecure:
            proxy = self._proxy or proxy_for(url, self.proxies)
            check_plain_http(url, proxy, self.insecure_hosts)

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
            proxy = self._proxy or proxy_for(request.url, self.proxies)
            if not self._allow_insecure:
                check_plain_http(request.url, proxy, self.insecure_hosts)
            incoming = Incoming(secrets=() if proxy is None else proxy.secrets)
            # The body is made before the wait for a connection, in which nothing is sent.
            arguments = self._arguments(request, proxy)
            slots = self._slots_for(request)
            try:
                with TimeoutScope(self._timer.call_later, request.timeout, task):
                    if not slots.take():
                        await slots.wait()
                    try:
                        if "ssl" in arguments and arguments["ssl"] is None:
                            arguments["ssl"] = await self.pool.certificates.load()
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
        sent = request.progress.begun is not False and not any(
            frame.f_code in _BEFORE_SENDING for frame, _ in walk_tb(error.__traceback__)
        )
        if not self.is_closed:
            return translated(error, request, incoming.secrets, self.pool.certificates, sent=sent)
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
        if self.is_closed:
            coroutine.close()
            raise ClientClosed("the client is closed.")
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """End the background tasks and our own connections. A second call does nothing."""
        self.is_closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await self._clock.deadline(_CLOSE_TIMEOUT_S).wait(tasks)
        await self.pool.aclose()
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
        is_tls = request.url.scheme == "https"
        if self.pool.borrowed is None and (is_tls or (proxy and proxy.url.scheme == "https")):
            # None until they are loaded.
            arguments["ssl"] = self.pool.certificates.context
        if proxy is not None:
            arguments["proxy"] = proxy.url
            if is_tls:
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
        if self.is_closed:
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
        force_close = not request.repeatable and self.pool.borrowed is None
        http = self.pool.sessions.get(force_close)
        if http is None:
            try:
                http = self.pool.make(force_close=force_close)
            except QSessionsError:
                raise
            except Exception as error:  # noqa: BLE001 - it may be any
                certificates = self.pool.certificates
                raise translated(error, request, (), certificates, sent=False) from None
        return http
