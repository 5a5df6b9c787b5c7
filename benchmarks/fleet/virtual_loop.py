"""An event loop whose time is virtual: where nothing is ready, it moves on to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from random import Random

from qsessions.clock import Clock

# What the wall clocks show at the beginning.
_BEGINS_AT = 1_780_000_000.0


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: no file is ever ready.

    Attributes:
        now: The seconds that were to be waited by now.
    """

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the time pass that was to be waited."""
        if timeout is None:
            raise RuntimeError("all tasks wait, and for no timer")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The event loop of a simulation. Its time begins at 0."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._skipping.now

    def clock(self, random: Random) -> Clock:
        """Return a clock of that time."""
        return Clock(
            monotonic=self.time,
            wall=lambda: _BEGINS_AT + self.time(),
            sleep=asyncio.sleep,
            random=random.random,
            call_later=self.call_later,
        )
