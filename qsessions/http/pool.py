"""The HTTP library's sessions: one pool of kept connections, and one without."""

from __future__ import annotations

import asyncio
import os
import platform
import ssl as tls
import sys
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import aiohttp

from qsessions._version import __version__
from qsessions.api.messages import header_problem
from qsessions.clock import Clock
from qsessions.errors import ConfigurationError
from qsessions.http.certificates import Certificates
from qsessions.http.resolver import Resolver

# The type of `http=`, for modules that don't know aiohttp.
HttpSession: TypeAlias = aiohttp.ClientSession

# Less than the 60 s and more after which the usual servers and load balancers drop an idle
# connection.
_KEEP_ALIVE_S = 15.0
# A host that doesn't answer at all must leave time for another attempt within the call's deadline.
_CONNECT_TIMEOUT_S = 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)


class Pool:
    """Makes the HTTP library's sessions when they are first needed, and closes them.

    Args:
        clock: The time.
        http: See `AiohttpTransport`.
        ssl: See `AiohttpTransport`.
        application: See `AiohttpTransport`.

    Attributes:
        borrowed: The user's session, or None.
        certificates: What servers' certificates are checked with.
        sessions: Those that were made, by whether each request gets a connection of its own.
        warns_unclosed: Whether to warn where it is collected with connections that nobody closed.

    Raises:
        ConfigurationError: An argument can't be right.
    """

    warns_unclosed = True
    # It keeps the connections, which the collector would else let go of first.
    _finalizer: weakref.finalize[..., Any] | None = None

    def __init__(
        self,
        clock: Clock,
        *,
        http: HttpSession | None,
        ssl: tls.SSLContext | None,
        application: str | None,
    ) -> None:
        if not isinstance(http, aiohttp.ClientSession | None):
            raise ConfigurationError("http= must be an aiohttp.ClientSession.")
        if http is not None and http.auth is not None:
            raise ConfigurationError(
                "http= has default auth, which would replace ours; pass a session without it."
            )
        if not isinstance(ssl, tls.SSLContext | None):
            raise ConfigurationError("ssl= must be an ssl.SSLContext.")
        self.borrowed = http
        self.certificates = Certificates(ssl, is_borrowed=http is not None)
        self.sessions: dict[bool, aiohttp.ClientSession] = {}
        self._resolver = Resolver(clock)
        self._user_agent = (
            f"qsessions/{__version__} Python/{platform.python_version()} "
            f"aiohttp/{aiohttp.__version__}"
        )
        if application is not None:
            if problem := header_problem("User-Agent", application):
                raise ConfigurationError(f"application= {problem}.")
            self._user_agent += f" {application}"

    def make(self, *, force_close: bool) -> aiohttp.ClientSession:
        """Make a session, on the event loop that runs.

        Args:
            force_close: Whether each of its requests gets a connection of its own.

        Raises:
            ConfigurationError: The borrowed one is closed.
            Exception: What the HTTP library raises where it can make no connector.
        """
        # A session of our own even over a borrowed pool: its cookies, headers and raise_for_status
        # can't be turned off for one request.
        borrowed = self.borrowed
        if borrowed is not None and (borrowed.closed or borrowed.connector is None):
            raise ConfigurationError("the session that was passed as http= is closed.")
        http = self.sessions[force_close] = aiohttp.ClientSession(
            connector=borrowed.connector
            if borrowed is not None
            else aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=None if force_close else _KEEP_ALIVE_S,
                force_close=force_close,
                resolver=self._resolver,
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
        # At the interpreter's end there can be no finalizer any more.
        if self._finalizer is None and self.warns_unclosed and not sys.is_finalizing():
            loop = asyncio.get_running_loop()
            self._finalizer = weakref.finalize(
                self, _warn_and_close, self.sessions, loop, os.getpid()
            )
        return http

    async def aclose(self) -> None:
        """Close our own connections."""
        while self.sessions:
            await self.sessions.popitem()[1].close()
        if self._finalizer is not None:
            self._finalizer.detach()


def _warn_and_close(
    sessions: Mapping[bool, aiohttp.ClientSession], loop: asyncio.AbstractEventLoop, pid: int
) -> None:
    """Warn of a client that nobody closed, and close its connections.

    The HTTP library would warn of its own sessions, of which a user of the client knows nothing.
    """
    if os.getpid() != pid:
        # A child after a fork: they are its parent's.
        return
    for http in sessions.values():
        # The collector may run in any thread, and when the loop has ended.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_Close(http))
    warnings.warn(
        "an AsyncSessionClient was not closed: use `async with AsyncSessionClient() as client:`, "
        "or call `await client.aclose()` at the end.",
        ResourceWarning,
        stacklevel=2,
    )


class _Close:
    """Closes a session of the HTTP library when it is called, or else when it is let go of.

    That is when its event loop is closed, which is the end of its connections.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    def __call__(self) -> None:
        # The first step closes the connections; the rest would wait for their ends.
        closing = self._http.close()
        with suppress(StopIteration):
            closing.send(None)
        closing.close()

    __del__ = __call__
