"""What becomes of the connections of a client that nobody closed."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress

import aiohttp


def left_open(
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
            loop.call_soon_threadsafe(_Closing(http))
    warnings.warn(
        "an AsyncSessionClient was not closed: use `async with AsyncSessionClient() as client:`, "
        "or call `await client.aclose()` at the end.",
        ResourceWarning,
        stacklevel=2,
    )


class _Closing:
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
