"""Waits for what other tasks and threads do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until something holds."""
    for _ in range(50_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")


async def until_real(condition: Callable[[], bool]) -> None:
    """Let other threads run until something holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in another thread
            await asyncio.sleep(0.001)
