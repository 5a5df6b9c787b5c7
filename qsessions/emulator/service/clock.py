"""The service's time: as it passes, faster, or standing still until it is moved."""

import math
import re
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

_AMOUNT = r"(\d{1,12}(?:\.\d{1,6})?)\s*"
# Seconds without a unit, or at least one unit.
_DURATION = re.compile(
    rf"\s*(?:{_AMOUNT}|(?=\d)(?:{_AMOUNT}d\s*)?(?:{_AMOUNT}h\s*)?(?:{_AMOUNT}m\s*)?"
    rf"(?:{_AMOUNT}s\s*)?)",
    re.ASCII,
)
_LONGEST_STEP = 1e9
# The beginning of the last day of the year 9999: later times can't be written.
_END = 253_402_214_400.0


class ServiceClock:
    """The service's time in unix seconds, rounded to the microsecond.

    It never runs backwards, and stands still at the end of the year 9999.

    Microseconds are what a float near today's date can tell apart. Rounding makes two ways to the
    same moment, ten steps of 0.1 s and a job of 1 s, end on the same number.

    Args:
        speed: Seconds of the service in one real second; 0 stands still.
        clock: Returns the time, in place of `speed`.

    Attributes:
        speed: The speed; None with a clock that was passed.
        on_step: Called when it was moved.
        pause: Holds up the answer to a request whose client waits in this time, which has a number,
            for so many seconds; None where no client does.

    Raises:
        ValueError: The speed is negative, endless or beside a clock.
    """

    # Of the class: libraries that freeze a test's time put another into every module.
    _monotonic = staticmethod(time.monotonic)

    def __init__(self, *, speed: float = 1.0, clock: Callable[[], float] | None = None) -> None:
        if not 0 <= speed < math.inf:
            raise ValueError("speed must be a finite number, 0 or more")
        if clock is not None and speed != 1:
            raise ValueError(
                "speed and clock exclude each other: the clock that you pass sets the pace"
            )
        self._clock = clock
        self.speed = speed if clock is None else None
        self.on_step: Callable[[], object] = bool
        self.pause: Callable[[str, float], Awaitable[None]] | None = None
        # The time, and when that was by the machine's clock: one value, for readers in other
        # threads.
        self._base = time.time(), self._monotonic()
        self._latest = -math.inf

    def now(self) -> float:
        """Return the time."""
        base, since = self._base
        passed = (self.speed or 0) * (self._monotonic() - since)
        now = base + passed if self._clock is None else self._clock()
        self._latest = max(self._latest, min(round(now, 6), _END))
        return self._latest

    def step(self, seconds: float) -> float:
        """Move on at once, and return the time that it then is.

        Raises:
            RuntimeError: The time comes from a clock that was passed.
            ValueError: It would be past the year 9999.
        """
        if self._clock is not None:
            raise RuntimeError(
                "this emulator's time is the clock that was passed to it: move that one"
            )
        to = round(self.now() + seconds, 6)
        if to > _END:
            raise ValueError("that is past the year 9999, and no date has a later one")
        self._base = to, self._monotonic()
        self.on_step()
        return self.now()


def read_duration(duration: float | str | timedelta) -> float:
    """Return the seconds of a duration.

    Args:
        duration: Seconds, a `timedelta`, or text such as "90", "2h 30m" or "0.5s". Units are d, h,
            m and s, each once and the largest first.

    Raises:
        ValueError: It is anything else, negative or beyond a thousand million seconds.
    """
    seconds = _seconds_of(duration)
    if seconds is None or not 0 <= seconds <= _LONGEST_STEP:
        raise ValueError(
            f"{duration!r} is no duration: use seconds, a timedelta or text such as '2h 30m' "
            "(units: d, h, m, s, in this order), from 0 to 1e9 seconds"
        )
    return seconds


def _seconds_of(duration: object) -> float | None:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        return duration
    match = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    if match is None:
        return None
    amounts = zip(match.groups(), (1, 86400, 3600, 60, 1), strict=True)
    return sum(float(amount) * seconds for amount, seconds in amounts if amount is not None)
