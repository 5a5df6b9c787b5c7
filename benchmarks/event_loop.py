"""An event loop that is run piece by piece, so that variants with and without `await` alternate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

from benchmarks.rounds import Variant

T = TypeVar("T")
Call: TypeAlias = Callable[[], Awaitable[object]]


class EventLoop:
    """Runs coroutines for code that doesn't await, and closes at its end what was entered on it."""

    def __enter__(self) -> Self:
        """Start the loop."""
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what was entered, and the loop."""
        try:
            self._runner.run(self._stack.aclose())
        finally:
            self._runner.close()

    def open(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """Make a client on the running loop, and enter it for as long as the loop lasts."""

        async def enter() -> T:
            return await self._stack.enter_async_context(make())

        return self._runner.run(enter())

    def sequential(self, name: str, call: Call) -> Variant:
        """Return a variant that makes one call after another."""

        async def sequential(calls: int) -> None:
            for _ in range(calls):
                await call()

        return Variant(name, lambda calls: self._runner.run(sequential(calls)))

    def concurrent(self, name: str, call: Call, callers: int) -> Variant:
        """Return a variant with so many callers at a time."""

        async def caller(calls: int) -> None:
            for _ in range(calls):
                await call()

        async def all_at_once(calls: int) -> None:
            await asyncio.gather(*(caller(calls // callers) for _ in range(callers)))

        return Variant(name, lambda calls: self._runner.run(all_at_once(calls)), least=callers)

    def run(self, call: Call) -> object:
        """Make one call."""

        async def once() -> object:
            return await call()

        return self._runner.run(once())
