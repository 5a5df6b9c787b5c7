"""Clocks under a test's hand: one moves when somebody sleeps on it, one wakes sleepers only when
their time has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import attrgetter

from qsessions import Clock

# A timer is due so many seconds early: times since 1970 are no exact numbers.
RESOLUTION_S = 1e-4


class ManualTimer:
    """A call that is to come when a test moves its clock.

    Attributes:
        at: When.
    """

    def __init__(
        self, timers: list[ManualTimer], at: float, callback: Callable[[], object]
    ) -> None:
        self.at = at
        self._timers = timers
        self._callback: Callable[[], object] | None = callback
        self._loop = asyncio.get_running_loop()
        timers.append(self)

    def cancel(self) -> None:
        """Call it off."""
        self._callback = None
        if self in self._timers:
            self._timers.remove(self)

    def fire(self) -> None:
        """Have it called by its event loop."""
        self._timers.remove(self)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        if self._callback is not None:
            self._callback()


class HandDriven:
    """Time that moves when a test says so, and not otherwise.

    Attributes:
        now: Seconds, both monotonic and since 1970.
        chance: What `random` gives.
        timers: What waits for its time, deadlines too.
    """

    def __init__(self, now: float, chance: float) -> None:
        self.now = now
        self.chance = chance
        self.timers: list[ManualTimer] = []

    def time(self) -> float:
        """Return the current time in seconds."""
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> ManualTimer:
        """Have a function called once the clock was moved that far."""
        timer = ManualTimer(self.timers, self.now + seconds, callback)
        if seconds <= 0:
            timer.fire()
        return timer

    def due(self, until: float) -> list[ManualTimer]:
        """List the timers whose time comes until then, in their order."""
        due = [timer for timer in self.timers if timer.at <= until + RESOLUTION_S]
        return sorted(due, key=attrgetter("at"))


class ManualClock(HandDriven):
    """Time under a test's hand: sleeping takes no time but moves the clock.

    Attributes:
        slept: The seconds of each sleep, in order.
    """

    def __init__(self, now: float = 1_780_000_000.0, chance: float = 0.5) -> None:
        super().__init__(now, chance)
        self.slept: list[float] = []

    def advance(self, seconds: float) -> None:
        """Move on. What is due then follows on its event loop."""
        self.now += seconds
        for timer in self.due(self.now):
            timer.fire()

    async def sleep(self, seconds: float) -> None:
        """Move on, and let others run."""
        self.slept.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)

    @property
    def clock(self) -> Clock:
        """Return what the client takes as `clock=`."""
        return Clock(
            monotonic=self.time,
            wall=self.time,
            sleep=self.sleep,
            random=lambda: self.chance,
            call_later=self.call_later,
        )


class Stepped(HandDriven):
    """A clock under a test's hand that wakes sleepers only when their time has come."""

    def __init__(self, chance: float = 0.5) -> None:
        super().__init__(1000.0, chance)

    async def advance(self, seconds: float) -> None:
        """Move on, with everything that is due on the way."""
        until = self.now + seconds
        await settled()
        while due := self.due(until):
            self.now = max(self.now, due[0].at)
            # What comes at one moment comes together, as on an event loop.
            for timer in due:
                if timer.at <= self.now:
                    timer.fire()
            await settled()
        self.now = until

    @property
    def clock(self) -> Clock:
        """Return what a poll takes."""
        return Clock(
            monotonic=self.time,
            wall=self.time,
            random=lambda: self.chance,
            call_later=self.call_later,
        )


async def settled() -> None:
    """Let everything run that can run by itself."""
    for _ in range(20):
        await asyncio.sleep(0)
