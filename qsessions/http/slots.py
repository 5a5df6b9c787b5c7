"""How many requests there are at a time."""

from __future__ import annotations

import asyncio
from collections import deque


class Slots:
    """A number of places, given out in the order in which they were asked for.

    An `asyncio.Semaphore` costs four calls even where a place is free, which it is as a rule.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a place, if one is free; return whether it was."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Wait for a place that another one gives back, and take it."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                # It came just before the cancellation.
                self.give_back()
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def give_back(self) -> None:
        """Give a place back, to the one who has waited longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
