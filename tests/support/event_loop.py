"""What tests do to their event loop: play its clock, and have it run tasks eagerly."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar

from tests.support.manual_clock import ManualClock

T = TypeVar("T")

# Eager tasks run inside the call that starts them; Python 3.11 has none.
TASK_FACTORIES: list[Any] = [None]
if sys.version_info >= (3, 12):
    TASK_FACTORIES.append(asyncio.eager_task_factory)


def advance_loop(seconds: float) -> None:
    """Move the clock of the running event loop, so that timers due by then fire at its next turn."""
    loop = asyncio.get_running_loop()
    real = loop.time
    loop.time = lambda: real() + seconds  # type: ignore[method-assign]


async def past_deadline(
    call: Awaitable[T],
    ready: Awaitable[object],
    *,
    time: ManualClock | None = None,
    seconds: float = 600,
) -> T:
    """Make a call, and let its time be up as soon as the test is ready for that.

    Args:
        call: The call.
        ready: Returns when the call has come as far as it must.
        time: The client's clock, for a call that looks at it once its time is up.
        seconds: How far to move the clocks.
    """
    task = asyncio.ensure_future(call)
    await ready
    advance_loop(seconds)
    if time is not None:
        time.advance(seconds)
    return await task
