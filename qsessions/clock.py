"""Time and chance, in one place, so that tests can stand in for both."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from attrs import frozen


@frozen
class Clock:
    """Time and chance, so that tests can stand in for both.

    Attributes:
        monotonic: Seconds that only go forward.
        wall: Seconds since 1970.
        sleep: Waits for a number of seconds.
        random: Gives a number from 0 up to 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
