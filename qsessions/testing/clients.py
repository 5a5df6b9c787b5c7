"""Clients of an emulator, for tests."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from qsessions.api.messages import AuthProvider
from qsessions.auth import IBMCloudAuth, ServiceCRN
from qsessions.client import AsyncSessionClient
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
        yield cast("AsyncSessionClient", client)
    finally:
        client.end()


def _auth(emulator: ThreadedEmulator) -> list[AuthProvider]:
    return [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]


class _ClientOfEachLoop:
    """Passes for an `AsyncSessionClient`: on each event loop for one that is closed with the loop.

    The asyncio plugins differ in how long a loop lives and when a fixture can still await; but each
    of them shuts down asynchronous generators when it closes a loop, as `asyncio.run` does.
    """

    def __init__(self, emulator: ThreadedEmulator) -> None:
        self._auth = _auth(emulator)
        self._url = emulator.url
        self._clients: dict[
            asyncio.AbstractEventLoop, tuple[AsyncSessionClient, AsyncGenerator[None]]
        ] = {}

    if not TYPE_CHECKING:
        # For code under test that asks with isinstance.
        __class__ = AsyncSessionClient

    def __repr__(self) -> str:
        return f"AsyncSessionClient(base_url={self._url!r})"

    def __getattr__(self, name: str) -> Any:
        method = getattr(AsyncSessionClient, name, None)
        if not inspect.iscoroutinefunction(method):
            return getattr(self._client(), name)

        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            # Looked up here, since the call may be made before its loop runs, as in
            # `asyncio.run(client.get(...))`.
            return await getattr(self._client(), name)(*args, **kwargs)

        return call

    async def __aenter__(self) -> AsyncSessionClient:
        return await self._client().__aenter__()

    async def __aexit__(self, *_: object) -> None:
        await self._client().aclose()

    def _client(self) -> AsyncSessionClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            for other in [other for other in self._clients if other.is_closed()]:
                del self._clients[other]
            client = AsyncSessionClient(self._auth, base_url=self._url)
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
