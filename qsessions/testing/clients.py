"""Clients of an emulator, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

from qsessions.api.messages import AuthProvider
from qsessions.auth import IBMCloudAuth, ServiceCRN
from qsessions.client import AsyncSessionClient
from qsessions.sync.client import SessionClient
from qsessions.testing.threaded import ThreadedEmulator
from qsessions.testing.virtual_time import VirtualTime, virtual_time


def sync_client(
    emulator: ThreadedEmulator, *, real_time: bool = False, **options: Any
) -> SessionClient:
    """Make a client for code that doesn't await.

    Args:
        emulator: The emulator, which runs.
        real_time: Whether it waits in real time, not in the emulator's.
        options: What `SessionClient` takes, except for address, credentials, transport and clock.
    """
    time = virtual_time(emulator, real=real_time)
    return SessionClient(
        _auth(emulator),
        base_url=emulator.url,
        clock=time.clock,
        transport=time.transport,
        **options,
    )


@contextmanager
def async_client(
    emulator: ThreadedEmulator, *, real_time: bool = False, **options: Any
) -> Iterator[AsyncSessionClient]:
    """Provide a client for every event loop, made and closed where none runs.

    Args:
        emulator: The emulator, which runs.
        real_time: Whether it waits in real time, not in the emulator's.
        options: What `AsyncSessionClient` takes, except for its address, credentials, transport
            and clock.
    """
    client = _ClientOfEachLoop(emulator, virtual_time(emulator, real=real_time), options)
    try:
        yield client
    finally:
        client.end()


def _auth(emulator: ThreadedEmulator) -> list[AuthProvider]:
    return [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]


class _ClientOfEachLoop(AsyncSessionClient):
    """An `AsyncSessionClient` for every event loop: on each one that is closed with the loop.

    What a client's methods work with, its private attributes, is that of the running loop's client.

    The asyncio plugins differ in how long a loop lives and when a fixture can still await; but each
    of them shuts down asynchronous generators when it closes a loop, as `asyncio.run` does.
    """

    def __init__(  # no client of its own
        self, emulator: ThreadedEmulator, time: VirtualTime, options: dict[str, Any]
    ) -> None:
        self._url, self._crn = emulator.url, emulator.crn
        self._clients: dict[
            asyncio.AbstractEventLoop, tuple[AsyncSessionClient, AsyncGenerator[None]]
        ] = {}
        self.clock = time.clock
        self._make_client = partial(
            AsyncSessionClient,
            _auth(emulator),
            base_url=emulator.url,
            clock=time.clock,
            transport=time.transport,
            **options,
        )
        # What is wrong with the options is told here and not at the first call.
        self._make_client()

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
            client = self._make_client()
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


async def _closed_with_the_loop(client: AsyncSessionClient) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await client.aclose()
