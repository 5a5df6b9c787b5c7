"""Clocks under a test's hand: one moves when somebody sleeps on it, one wakes sleepers only when
their time has come.
"""

from __future__ import annotations

import asyncio
from operator import itemgetter

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
        """Return the current time in seconds."""
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
        """Return what the client takes as `clock=`."""
        return Clock(
            monotonic=self.time, wall=self.time, sleep=self.sleep, random=lambda: self.chance
        )


class Stepped:
    """A clock under a test's hand that wakes sleepers only when their time has come."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now = 1000.0
        self.chance = chance
        self.sleeping: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock was moved that far."""
        entry = (self.now + seconds, asyncio.get_running_loop().create_future())
        self.sleeping.append(entry)
        try:
            await entry[1]
        finally:
            self.sleeping.remove(entry)

    async def advance(self, seconds: float) -> None:
        """Move on, with everything that is due on the way."""
        until = self.now + seconds
        await settled()
        while due := [entry for entry in self.sleeping if entry[0] <= until]:
            self.now, sleeper = min(due, key=itemgetter(0))
            sleeper.set_result(None)
            await settled()
        self.now = until

    @property
    def clock(self) -> Clock:
        """Return what a poll takes."""
        return Clock(monotonic=lambda: self.now, sleep=self.sleep, random=lambda: self.chance)


async def settled() -> None:
    """Let everything run that can run by itself."""
    for _ in range(20):
        await asyncio.sleep(0)
