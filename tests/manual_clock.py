"""A clock that moves only when told, or when somebody sleeps on it."""

from __future__ import annotations

import asyncio

from qsessions import Clock


class ManualClock:
    """Time under a test's hand: sleeping takes no time but moves the clock.

    Attributes:
        now: Seconds, both monotonic and since 1970.
        slept: The seconds of each sleep, in order.
        chance: What `random` gives.
    """

    def __init__(self, now: float = 1_780_000_000.0, chance: float = 0.5) -> None:
        self.now = now
        self.slept: list[float] = []
        self.chance = chance

    def time(self) -> float:
        """Give the current time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        """Move on, and let others run."""
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    @property
    def clock(self) -> Clock:
        """Give what the client takes as `clock=`."""
        return Clock(monotonic=self.time, wall=self.time, sleep=self.sleep, random=lambda: self.chance)
