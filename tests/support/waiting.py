"""Waits for what other tasks and threads do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Seconds; a bound for a machine that is busy, not a wait.
PATIENCE_S = 60
# So often the event loop goes round at once before each further turn takes a millisecond, which
# leaves the processor to other threads.
_QUICK_TURNS = 1_000


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks and threads run until something holds."""
    given_up_at = time.monotonic() + PATIENCE_S
    turns = 0
    while not condition():
        assert time.monotonic() < given_up_at, "it never came to hold"
        await asyncio.sleep(0)
        if turns > _QUICK_TURNS:
            # In a thread, since the event loop's timers may be on a test's clock.
            await asyncio.to_thread(time.sleep, 0.001)
        turns += 1
