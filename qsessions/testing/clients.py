"""Clients of an emulator, for tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from qsessions.api.messages import AuthProvider
from qsessions.auth import IBMCloudAuth, ServiceCRN
from qsessions.client import AsyncSessionClient
from qsessions.clock import SYSTEM_CLOCK, Clock, Timer
from qsessions.sync.client import SessionClient
from qsessions.testing.threaded import ThreadedEmulator


def sync_client(emulator: ThreadedEmulator) -> SessionClient:
    """Make a client for code that doesn't await."""
    return SessionClient(_auth(emulator), base_url=emulator.url)


@contextmanager
def async_client(emulator: ThreadedEmulator) -> Iterator[AsyncSessionClient]:
    """Provide a client for every event loop, made and closed where none runs."""
    client = _ClientOfEachLoop(emulator)
    try:
        yield client
    finally:
        client.end()


def _auth(emulator: ThreadedEmulator) -> list[AuthProvider]:
    return [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]


class _ClientOfEachLoop(AsyncSessionClient):
    """An `AsyncSessionClient` for every event loop: on each one that is closed with the loop.

    What a client's methods work with, its private attributes, is that of the running loop's client.
    Its timers come in real time, also where a library freezes a test's.

    The asyncio plugins differ in how long a loop lives and when a fixture can still await; but each
    of them shuts down asynchronous generators when it closes a loop, as `asyncio.run` does.
    """

    def __init__(self, emulator: ThreadedEmulator) -> None:  # no client of its own
        self._auth = _auth(emulator)
        self._url, self._crn = emulator.url, emulator.crn
        self._clients: dict[
            asyncio.AbstractEventLoop, tuple[AsyncSessionClient, AsyncGenerator[None]]
        ] = {}
        self.clock = Clock(monotonic=_monotonic, call_later=_call_later)

    def __repr__(self) -> str:
        return f"AsyncSessionClient(base_url={self._url!r})"

    def __getattr__(self, name: str) -> Any:
        # The client's private attributes. Those that start with two aren't a client's.
        if name.startswith("_") and not name.startswith("__"):
            return getattr(self._client(), name)
        raise AttributeError(f"'AsyncSessionClient' object has no attribute {name!r}")

    @property
    def base_url(self) -> str:
        return self._url

    @property
    def instance(self) -> str:
        return self._crn

    async def __aenter__(self) -> Self:
        await self._client().__aenter__()
        return self

    async def aclose(self) -> None:
        await self._client().aclose()

    def _client(self) -> AsyncSessionClient:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # `hasattr` expects this class.
            raise AttributeError(
                "the plugin's client works on a running event loop, and none is running"
            ) from None
        if loop not in self._clients:
            for other in [other for other in self._clients if other.is_closed()]:
                del self._clients[other]
            client = AsyncSessionClient(self._auth, base_url=self._url, clock=self.clock)
            closing = _closed_with_the_loop(client)
            # Its first step, without awaiting: the loop shuts down generators that have begun.
            with suppress(StopIteration):
                closing.__anext__().send(None)
            self._clients[loop] = client, closing
        return self._clients[loop][0]

    def end(self) -> None:
        """Close the clients whose loops are open; a loop that runs closes its client itself."""
        for loop, (client, _) in self._clients.items():
            if not (loop.is_closed() or loop.is_running()):
                loop.run_until_complete(client.aclose())


def _monotonic() -> float:
    return SYSTEM_CLOCK.monotonic()


def _call_later(seconds: float, callback: Callable[[], object]) -> Timer:
    loop = asyncio.get_running_loop()
    if time.monotonic is SYSTEM_CLOCK.monotonic:
        return loop.call_later(seconds, callback)
    return _ThreadTimer(loop, seconds, callback)


class _ThreadTimer:
    """A call that is to come on an event loop whose own timers never come: its time is frozen.

    Args:
        loop: The event loop.
        seconds: In how many seconds.
        callback: What to call.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._timer = threading.Timer(seconds, self._post)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        # It may be on its way; this does nothing.
        self._callback = bool
        self._timer.cancel()

    def _post(self) -> None:
        # The loop may have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        self._callback()


async def _closed_with_the_loop(client: AsyncSessionClient) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await client.aclose()
