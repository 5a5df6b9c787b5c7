"""Servers on an event loop in a thread of their own, for tests of what is called without awaiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Generic, TypeVar

from attrs import frozen

T = TypeVar("T")
R = TypeVar("R")

# Seconds; a bound, not a wait.
_PATIENCE_S = 30


@frozen
class Threaded(Generic[T]):
    """A server that runs in another thread."""

    server: T
    loop: asyncio.AbstractEventLoop

    def ask(self, function: Callable[[T], R]) -> R:
        """Call a function with the server, in its thread."""

        async def call() -> R:
            return function(self.server)

        return self.wait(call())

    def wait(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in its thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(_PATIENCE_S)


@contextmanager
def threaded(context: AbstractAsyncContextManager[T]) -> Iterator[Threaded[T]]:
    """Run a server in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(_PATIENCE_S)
        try:
            yield Threaded(server, loop)
        finally:
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(
                _PATIENCE_S
            )
    finally:
        asyncio.run_coroutine_threadsafe(_wind_up(), loop).result(_PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _wind_up() -> None:
    """Let what still runs come to its end, such as a connection that was accepted last, then end
    the rest.
    """
    for _ in range(1000):
        if len(asyncio.all_tasks()) == 1:
            break
        await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(10):
        await asyncio.sleep(0)
