"""Time and chance, in one place, so that tests can stand in for both."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from attrs import frozen

# How many seconds this machine's clock and the service's may be apart.
CLOCK_SKEW_S = 60.0


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

    def deadline(self, seconds: float | None) -> Deadline:
        """Return the deadline that is so many seconds from now; None for none."""
        return Deadline(self.monotonic, seconds)


class Deadline:
    """The end of a call's time.

    Args:
        monotonic: Returns seconds that only go forward.
        seconds: How many from now, or None for no deadline.
    """

    __slots__ = ("_at", "_monotonic")

    def __init__(self, monotonic: Callable[[], float], seconds: float | None) -> None:
        self._monotonic = monotonic
        self._at = None if seconds is None else monotonic() + seconds

    def remaining(self) -> float | None:
        """Return the seconds left, 0 or less when none are, or None without a deadline."""
        return None if self._at is None else self._at - self._monotonic()

    def within(self, seconds: float) -> Deadline:
        """Return this deadline, or the one `seconds` from now if that comes first."""
        remaining = self.remaining()
        sooner = seconds if remaining is None else min(seconds, remaining)
        return Deadline(self._monotonic, sooner)
