"""A clock for tests of code that waits: its time moves when a test says so, or somebody sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from operator import attrgetter

from qsessions.clock import Clock
from qsessions.emulator.service.clock import read_duration

# A timer is due so many seconds early: times since 1970 are no exact numbers.
_RESOLUTION_S = 1e-4


class ManualTimer:
    """A call that is to come when a test moves its clock.

    Attributes:
        at: When, in seconds.
    """

    def __init__(
        self, timers: list[ManualTimer], at: float, callback: Callable[[], object]
    ) -> None:
        self.at = at
        self._timers = timers
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        timers.append(self)

    def cancel(self) -> None:
        """Call it off."""
        # It may be on its way; this does nothing.
        self._callback = bool
        if self in self._timers:
            self._timers.remove(self)

    def fire(self) -> None:
        """Have it called by its event loop."""
        self._timers.remove(self)
        # The event loop may be closed.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        self._callback()


class ManualClock(Clock):
    """Time in a test's hand: a sleep takes no time but moves the clock.

    A client takes it as `clock=`, and an emulator as `Emulator(clock=clock.wall)`, so that both
    have one time. It is for one event loop.

    Args:
        now: The time to begin with, in seconds since 1970.
        chance: What `random` gives, from 0 up to 1: how much of the longest wait a retry waits.

    Attributes:
        now: The time in seconds, both of `monotonic` and of `wall`. To move it, call `advance`.
        chance: The same; may be changed.
        slept: The seconds of each sleep, in order.
        timers: What waits for its time, deadlines too.
    """

    # Of the class, a value can't be changed.
    __setattr__ = object.__setattr__

    def __init__(self, now: float = 1_780_000_000.0, chance: float = 0.5) -> None:
        self.now = now
        self.chance = chance
        self.slept: list[float] = []
        self.timers: list[ManualTimer] = []
        super().__init__(
            monotonic=self._time,
            wall=self._time,
            sleep=self._sleep,
            random=lambda: self.chance,
            call_later=self._call_later,
        )

    def advance(self, duration: float | str | timedelta) -> None:
        """Move on. What is due then follows on its event loop.

        Args:
            duration: Seconds, a `timedelta` or text such as "2h 30m".

        Raises:
            ValueError: It is not a duration.
        """
        self.now += read_duration(duration)
        for timer in self.due(self.now):
            timer.fire()

    def due(self, until: float) -> list[ManualTimer]:
        """List the timers whose time comes until then, in their order."""
        due = [timer for timer in self.timers if timer.at <= until + _RESOLUTION_S]
        return sorted(due, key=attrgetter("at"))

    def _time(self) -> float:
        return self.now

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(max(seconds, 0.0))
        await asyncio.sleep(0)

    def _call_later(self, seconds: float, callback: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(self.timers, self.now + seconds, callback)
        if seconds <= 0:
            timer.fire()
        return timer
