"""A clock under a test's hand that wakes sleepers only when their time has come."""

from __future__ import annotations

import asyncio
from functools import partial

from qsessions.clock import sleep_by
from qsessions.testing import ManualClock


class Stepped(ManualClock):
    """Time that moves when a test says so, and not when somebody sleeps."""

    def __init__(self, chance: float = 0.5) -> None:
        super().__init__(1000.0, chance)
        self.sleep = partial(sleep_by, self.call_later)  # type: ignore[misc]

    async def step(self, seconds: float) -> None:
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


async def settled() -> None:
    """Let everything run that can run by itself."""
    for _ in range(20):
        await asyncio.sleep(0)
