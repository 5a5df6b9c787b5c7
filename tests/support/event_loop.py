"""What tests do to their event loop: have it run tasks eagerly, and let the time of a call be up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar

from qsessions.testing import ManualClock

T = TypeVar("T")

# Eager tasks run inside the call that starts them; Python 3.11 has none.
TASK_FACTORIES: list[Any] = [None]
if sys.version_info >= (3, 12):
    TASK_FACTORIES.append(asyncio.eager_task_factory)


async def past_deadline(
    call: Awaitable[T], ready: Awaitable[object], time: ManualClock, seconds: float = 600
) -> T:
    """Make a call, and let its time be up as soon as the test is ready for that.

    Args:
        call: The call.
        ready: Returns when the call has come as far as it must.
        time: The test's clock, which is the call's.
        seconds: How far to move it.
    """
    task = asyncio.ensure_future(call)
    await ready
    time.advance(seconds)
    return await task
