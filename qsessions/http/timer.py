"""Deadlines of requests, with one timer for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

from qsessions.clock import Clock, Timer

# How much too early the timer may wake, in seconds.
_RESOLUTION_S = 0.001


class SharedTimer:
    """Has functions called later, for calls that are nearly all called off before.

    A clock's own `call_later` makes a timer and cancels it again for each request, which costs more
    than all else that qsessions does for it. Deadlines are seldom reached, so here one timer wakes
    at the earliest of them, and finds that request over, as a rule.

    Args:
        clock: The time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: set[_Call] = set()
        self._timer: Timer | None = None
        # When it wakes, on the monotonic clock.
        self._wakes_at = math.inf

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Have a function called in so many seconds; see `Clock`."""
        now = self._clock.monotonic()
        call = _Call(self._waiting, now + seconds, callback)
        self._waiting.add(call)
        if call.at < self._wakes_at:
            self._wake_at(call.at, now)
        return call

    def stop(self) -> None:
        """Stop the timer. Nothing is called any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._wakes_at = None, math.inf

    def _wake_at(self, at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._wakes_at = self._clock.call_later(at - now, self._wake), at

    def _wake(self) -> None:
        self._timer, self._wakes_at = None, math.inf
        now = self._clock.monotonic()
        # As an event loop does, lest a clock that is a little coarse wakes it again and again.
        for call in [call for call in self._waiting if call.at <= now + _RESOLUTION_S]:
            self._waiting.remove(call)
            call.callback()
        if self._waiting:
            self._wake_at(min(call.at for call in self._waiting), now)


class _Call:
    """A call that is to come.

    Attributes:
        at: When, on the monotonic clock.
        callback: What to call.
    """

    __slots__ = ("_waiting", "at", "callback")

    def __init__(self, waiting: set[_Call], at: float, callback: Callable[[], object]) -> None:
        self._waiting = waiting
        self.at = at
        self.callback = callback

    def cancel(self) -> None:
        """Call it off."""
        self._waiting.discard(self)
