"""One stream of requests at a bounded rate, spread evenly whatever happens."""

from __future__ import annotations

import math
from collections.abc import Callable

from qsessions.clock import Clock


class Pace:
    """Says when the next request may begin: `1 / rate` seconds after the one before.

    While a request waits for its retry no other begins, so that a refusal or an outage slows down
    the whole stream. What has waited then goes on one by one.

    Args:
        clock: The time.
        rate: How many requests a second may begin, retries included.
        sharers: Returns how many processes share that rate.

    Attributes:
        next_at: When the next request may begin, on the monotonic clock.
    """

    def __init__(self, clock: Clock, rate: float, sharers: Callable[[], int] = lambda: 1) -> None:
        self._clock = clock
        self._rate = rate
        self._sharers = sharers
        self.next_at = -math.inf

    @property
    def _gap(self) -> float:
        return self._sharers() / self._rate

    def begin(self) -> None:
        """Count a request that begins now, when its time has come."""
        now = self._clock.monotonic()
        # A timer is always a little late, which must not slow down the rate.
        late = now - self.next_at
        self.next_at = now - (late if late < self._gap else 0.0) + self._gap

    def hold(self, seconds: float) -> None:
        """Let no request begin for so many seconds."""
        self.next_at = max(self.next_at, self._clock.monotonic() + seconds)

    async def wait(self, seconds: float) -> None:
        """Wait before the retry of a request: so many seconds, then for its place in the stream."""
        self.hold(seconds)
        await self._clock.sleep(seconds)
        now = self._clock.monotonic()
        begin_at = max(self.next_at, now)
        self.next_at = begin_at + self._gap
        if begin_at > now:
            await self._clock.sleep(begin_at - now)
