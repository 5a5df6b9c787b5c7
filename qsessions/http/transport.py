"""Moves bytes: the only client-side module that knows aiohttp. It owns the connections and the background tasks, and no business rule."""

from __future__ import annotations

import asyncio
import platform
import ssl as tls
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Self, TypeAlias, TypeVar
from urllib.request import (  # type: ignore[attr-defined]  # the stubs leave out what getproxies_environment() is read with
    proxy_bypass_environment,  # pyright: ignore[reportAttributeAccessIssue]
)

import aiohttp
from attrs import define, field, frozen
from yarl import URL

from qsessions._version import __version__
from qsessions.api.messages import (
    Progress,
    Request,
    Response,
    SecretHeaders,
    SecretValues,
    header_problem,
    is_loopback,
    strip_frames,
)
from qsessions.errors import (
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    ProtocolError,
    QSessionsError,
)

T = TypeVar("T")

# The type of `http=`, for modules that don't know aiohttp.
HttpSession: TypeAlias = aiohttp.ClientSession

# The service's answers are a few KiB, a full page of workloads about 100.
MAX_BODY_BYTES = 1024 * 1024
# Less than the 60 s and more after which the usual servers and load balancers drop an idle connection.
_KEEP_ALIVE_S = 15.0
# We ask for none of these; some proxies pack all the same.
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})
# How many urgent requests there may be at a time, however few others.
_URGENT = 100
# Tells zlib to recognise gzip and zlib by their first bytes.
_ANY_FORM = zlib.MAX_WBITS | 32
# A host that doesn't answer at all must leave time for another attempt within the call's deadline.
_CONNECT_TIMEOUT_S = 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)


class _Body(AsyncIterator[bytes]):
    """A request's body that knows whether the HTTP library has begun to send it: before that, nothing can have been carried out."""

    def __init__(self, content: bytes, progress: Progress) -> None:
        self._content = content
        self._progress = progress
        progress.begun = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._progress.begun or self._progress.stopped:
            raise StopAsyncIteration
        self._progress.begun = True
        return self._content


@define
class _Incoming:
    """What has come of an answer so far. Its repr shows no body."""

    status: int | None = None
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytearray = field(factory=bytearray, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    is_too_large: bool = False

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Read the body up to one byte over the cap; of a packed one no more comes in than that either, and nothing after its end."""
        self.status, self.headers = response.status, response.headers
        content = response.content
        # The HTTP library's own unpacking has no bound in its older versions.
        packed = response.headers.get("Content-Encoding", "").lower() in _PACKED
        unpacker = zlib.decompressobj(_ANY_FORM) if packed else None
        arrived = 0
        try:
            while self._has_room(arrived) and (chunk := await content.readany()):
                arrived += len(chunk)
                room = MAX_BODY_BYTES + 1 - len(self.body)
                self.body += unpacker.decompress(chunk, room) if unpacker else chunk[:room]
                if unpacker is not None and unpacker.eof:
                    break
            self.is_too_large = not self._has_room(arrived)
            if self.is_too_large or response.status < 200 or not content.at_eof():
                response.close()
        except BaseException:
            response.close()
            raise

    def _has_room(self, arrived: int) -> bool:
        return max(arrived, len(self.body)) <= MAX_BODY_BYTES

    def response(self, status: int) -> Response:
        return Response(status, self.headers, bytes(self.body), secrets=self.secrets)


@frozen
class _Proxy:
    """A proxy, apart from its credentials: the HTTP library shows URLs in errors and warnings."""

    url: URL
    headers: SecretHeaders = field(factory=SecretHeaders)
    secrets: tuple[str, ...] = field(default=(), repr=False)


class AiohttpTransport:
    """Carries requests over one pool of kept connections, which is made when first needed.

    Args:
        application: A product name to put into the User-Agent header, or None.
        http: An aiohttp session whose connection pool is used and left open. Of the session only the pool and the trace configs are used:
            not its headers, cookies, timeouts or proxies. One with default auth is refused.
        ssl: The TLS settings, or None for the system's.
        proxy: The URL of an HTTP proxy for every request, with its credentials if it wants any.
        max_concurrency: How many requests there are at a time, a connection for each; further ones wait. Those that can't be repeated have
            as many connections of their own, made for each, and urgent ones at least 100.
        allow_insecure: Whether plain http to a host that isn't this machine is allowed.

    Attributes:
        proxies: Where `proxy` is None, the proxies by the scheme of the address, and under "no" the hosts that need none: the form of
            `urllib.request.getproxies_environment`. None is used to reach this machine itself.

    Raises:
        ConfigurationError: An argument can't be right.
    """

    def __init__(
        self,
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
                "http= has default auth, which would be sent in place of ours; pass a session without it."
            )
        if not isinstance(ssl, tls.SSLContext | None):
            raise ConfigurationError("ssl= must be an ssl.SSLContext.")
        _check_limit(max_concurrency)
        if not isinstance(allow_insecure, bool):
            raise ConfigurationError(
                f"allow_insecure= must be True or False, not {allow_insecure!r}."
            )
        self._borrowed = http
        self._ssl = ssl
        self._proxy = None if proxy is None else _proxy_of(proxy)
        self.proxies: Mapping[str, str] = SecretValues()
        self._user_agent = _user_agent(application)
        self._allow_insecure = allow_insecure
        self._http: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        # The HTTP library's own limit loses a free connection when whoever it wakes is cancelled just then.
        self._slots = asyncio.Semaphore(max_concurrency)
        self._fresh_slots = asyncio.Semaphore(max_concurrency)
        self._urgent_slots = asyncio.Semaphore(max(max_concurrency, _URGENT))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def check(self, url: URL) -> None:
        """Check whether requests may go to an address.

        Raises:
            ConfigurationError: It is plain http to another machine, or by way of one.
        """
        if self._allow_insecure or url.scheme == "https":
            return
        told = f"{url.origin()} is plain http: credentials would travel readable by everybody on the way"
        if not is_loopback(url.raw_host):
            raise ConfigurationError(f"{told}.", solution="Use https, or pass allow_insecure=True.")
        if self._proxy is not None and not is_loopback(self._proxy.url.raw_host):
            raise ConfigurationError(
                f"{told} to the proxy, which is another machine.",
                solution="Leave out proxy=, or pass allow_insecure=True.",
            )

    async def send(self, request: Request) -> Response:
        """Carry one request; see `Transport.send`.

        Raises:
            ClientClosed: The transport was closed.
            ConfigurationError: The URL is plain http to another machine, the proxy for it can't be one, or the running event loop isn't the
                one of the connections.
        """
        try:
            return await self._send(request)
        except BaseException as error:
            # The frames of the HTTP library hold headers, and so may other errors that led here.
            strip_frames(error)
            raise

    async def _send(self, request: Request) -> Response:
        http = self._open(request)
        self.check(request.url)
        proxy = self._proxy_for(request.url)
        body = None if request.body is None else _Body(request.body, request.progress)
        incoming = _Incoming(secrets=() if proxy is None else proxy.secrets)
        failure: QSessionsError
        try:
            async with asyncio.timeout(request.timeout):
                await self._exchange(http, request, body, proxy, incoming)
        except Exception as error:  # noqa: BLE001 - whatever it is, a request that was sent may have been carried out
            sent = request.progress.begun is not False
            # What it quotes of what came may be what was sent.
            failure = _translated(error, request.mask(_text_of(error), incoming.secrets), sent=sent)
            if self._closed:
                # What the HTTP library raises when its connections go away under it differs with its versions.
                told = "the client was closed during the call."
                lost = sent and not request.repeatable
                failure = ConnectionFailed(told, retryable=False) if lost else ClientClosed(told)
        else:
            if incoming.status is not None and incoming.status < 200:
                raise ProtocolError(
                    "the service wants to speak another protocol.", status=incoming.status
                )
            if not incoming.is_too_large and incoming.status is not None:
                return incoming.response(incoming.status)
            failure = ProtocolError(
                f"the answer is larger than {MAX_BODY_BYTES} bytes.", status=incoming.status
            )
        if incoming.status is not None and incoming.status >= 400:
            # The status says enough, whatever became of the body.
            del incoming.body[MAX_BODY_BYTES:]
            return incoming.response(incoming.status)
        raise failure

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
        """End the background tasks and the connections that are ours. Doing it twice does nothing."""
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        opened = self._http, self._fresh
        self._http = self._fresh = None
        for http in opened:
            if http is not None:
                await http.close()

    async def _exchange(
        self,
        http: aiohttp.ClientSession,
        request: Request,
        body: _Body | None,
        proxy: _Proxy | None,
        incoming: _Incoming,
    ) -> None:
        headers = _headers(request)
        # The request for a tunnel has headers of its own; what is inside the tunnel is the service's.
        tunnel = request.url.scheme == "https"
        if proxy is not None and not tunnel:
            headers |= proxy.headers
        async with self._slot(request):
            response = await http.request(
                request.method,
                request.url,
                headers=headers,
                data=body,
                proxy=None if proxy is None else proxy.url,
                proxy_headers=proxy.headers if proxy is not None and tunnel else None,
                allow_redirects=False,
            )
            await incoming.read(response)

    def _slot(self, request: Request) -> AbstractAsyncContextManager[None]:
        if self._borrowed is not None:
            # It has a limit of its own.
            return nullcontext()
        if request.urgent:
            # Calls that hang must not keep a session from being ended.
            return self._urgent_slots
        return self._slots if request.repeatable else self._fresh_slots

    def _proxy_for(self, url: URL) -> _Proxy | None:
        if self._proxy is not None or url.scheme not in self.proxies:
            return self._proxy
        # What is sent to this machine must not leave it, least of all as plain http.
        if is_loopback(url.raw_host) or proxy_bypass_environment(
            f"{url.raw_host}:{url.port}", self.proxies
        ):
            return None
        named = self.proxies[url.scheme]
        try:
            return _proxy_of(named if "://" in named else f"http://{named}")
        except ConfigurationError:
            pass
        del named
        raise ConfigurationError(
            f"the proxy for {url.scheme} addresses, from {url.scheme.upper()}_PROXY or the account, must have an http or https URL, "
            'such as "http://proxy.example:3128".',
            solution="Correct it, pass proxy=, or name the host in NO_PROXY.",
        )

    def _open(self, request: Request) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientClosed("the client is closed.")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "this client's connections belong to another event loop.",
                solution="Make one client for each event loop; auth providers may be shared.",
            )
        # A server that drops an idle connection just when a request goes out leaves open whether it was carried out. What must not be
        # repeated never goes over one; only in a borrowed pool there is no way to say so.
        if request.repeatable or self._borrowed is not None:
            self._http = self._http or self._make()
            return self._http
        self._fresh = self._fresh or self._make(force_close=True)
        return self._fresh

    def _make(self, *, force_close: bool = False) -> aiohttp.ClientSession:
        # A session of our own even over a borrowed pool: its cookies, headers and raise_for_status can't be turned off for one request.
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


def _check_limit(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"max_concurrency= must be an int of at least 1, not {value!r}.")


def _user_agent(application: str | None) -> str:
    ours = (
        f"qsessions/{__version__} Python/{platform.python_version()} aiohttp/{aiohttp.__version__}"
    )
    if application is None:
        return ours
    if problem := header_problem("User-Agent", application):
        raise ConfigurationError(f"application= {problem}.")
    return f"{ours} {application}"


def _headers(request: Request) -> SecretHeaders:
    headers = SecretHeaders(request.headers, **request.credentials)
    if request.body is not None:
        # Without it, aiohttp would send the body in chunks.
        headers["Content-Length"] = str(len(request.body))
    return headers


def _proxy_of(proxy: str | URL) -> _Proxy:
    try:
        url = URL(proxy)
        if url.scheme in {"http", "https"} and url.host:
            return _with_credentials(url.with_user(None), url.user, url.password)
    except (TypeError, ValueError, IndexError):
        pass
    # The value isn't repeated: a proxy's URL may hold a password.
    del proxy
    raise ConfigurationError(
        'proxy= must be an http or https URL, such as "http://proxy.example:3128".'
    )


def _with_credentials(url: URL, user: str | None, password: str | None) -> _Proxy:
    if user is None and password is None:
        return _Proxy(url)
    both = f"{user or ''}:{password or ''}".encode()
    basic = f"Basic {b64encode(both).decode()}"
    # Some proxies take a token for a user's name, without a password.
    return _Proxy(
        url, SecretHeaders({"Proxy-Authorization": basic}), (basic, password or user or "")
    )


def _text_of(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        # Its own text has an address, which is the proxy's where that answered.
        return f"{type(error).__name__}: {error.status}, {error.message}"
    return f"{type(error).__name__}: {error}"


def _translated(error: Exception, told: str, *, sent: bool) -> QSessionsError:
    """Turn an error of the network or of the HTTP library into ours, as text only. The one table."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return ConnectionFailed(
                f"the server's certificate can't be trusted. {told}",
                sent=False,
                retryable=False,
                solution="Check the URL and the clock; for a private CA pass ssl=ssl.create_default_context(cafile=...).",
            )
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return ConnectionFailed(
                f"TLS could not be agreed on. {told}", sent=False, retryable=False
            )
        case aiohttp.ClientResponseError() if error.request_info.method == "CONNECT":
            return _kept_out(error)
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return ConnectionFailed(f"the service can't be reached. {told}", sent=False)
        case TimeoutError():
            return CallTimeout("the call's deadline passed without an answer.", sent=sent)
        case aiohttp.ClientResponseError() | zlib.error():
            return ProtocolError(f"what came is no HTTP answer. {told}")
        case aiohttp.ClientError() | OSError():
            return ConnectionFailed(f"the connection was lost. {told}", sent=sent)
        case UnicodeError():
            return ConnectionFailed(
                f"the host's name can't be looked up. {told}", sent=False, retryable=False
            )
        case RuntimeError():
            # aiohttp and asyncio say so when the event loop or the interpreter is shutting down, or a borrowed pool is closed.
            return ConnectionFailed(
                f"the event loop or the connections are gone. {told}", sent=sent, retryable=False
            )
        case _:
            # A trace config of a borrowed session, or a defect: what was sent stays sent all the same.
            return ConnectionFailed(f"the HTTP library failed. {told}", sent=sent, retryable=False)


def _kept_out(error: aiohttp.ClientResponseError) -> ConnectionFailed:
    """Give the error for a proxy that let no request through, without its words: its URL, which may hold a password, is among them."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        told = f"the proxy refused with status {error.status}."
        return ConnectionFailed(told, sent=False, retryable=False)
    return ConnectionFailed(
        "what the proxy answers is no HTTP.",
        sent=False,
        retryable=False,
        solution="Check the proxy's address and port.",
    )
