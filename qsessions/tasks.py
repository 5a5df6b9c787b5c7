"""Waiting for a task whatever happens to the one who waits."""

from __future__ import annotations

import asyncio
from typing import Any


async def wait_uncancelled(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a task is done, through every cancellation; return the last one, or None."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
