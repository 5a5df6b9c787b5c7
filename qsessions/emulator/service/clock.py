"""The service's time: as it passes, faster, or standing still until it is moved."""

import math
import re
import time
from collections.abc import Callable
from datetime import timedelta

_UNIT_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([dhms])", re.ASCII)
_LONGEST_STEP = 1e9
# The beginning of the last day of the year 9999: later times can't be written.
_END = 253_402_214_400.0


class ServiceClock:
    """Says what time the service has, in unix seconds rounded to the microsecond.

    It never runs backwards, and stands still at the end of the year 9999.

    Microseconds are what a float near today's date can tell apart: rounding makes two ways to the same moment,
    ten steps of 0.1 s and a job of 1 s, end on the same number.

    speed: seconds of the service in one real second; 0 stands still.
    clock: whatever it says is the time, instead.

    Raises ValueError for a speed that is negative or endless, and for one beside a clock.
    """

    def __init__(self, *, speed: float = 1.0, clock: Callable[[], float] | None = None) -> None:
        if not 0 <= speed < math.inf:
            raise ValueError("speed must be a finite number, 0 or more")
        if clock is not None and speed != 1:
            raise ValueError(
                "speed and clock exclude each other: the clock that you pass sets the pace"
            )
        self._given = clock
        self._speed = speed
        self._base = time.time()
        self._base_monotonic = time.monotonic()
        self._latest = -math.inf

    @property
    def speed(self) -> float | None:
        """Seconds of the service in one real second; None where the clock that was passed sets the pace."""
        return self._speed if self._given is None else None

    def now(self) -> float:
        """The time."""
        self._latest = max(self._latest, min(round(self._read(), 6), _END))
        return self._latest

    def step(self, seconds: float) -> float:
        """Move on at once; gives the time that it then is.

        Raises RuntimeError if the time is another's to move, ValueError if it would leave the year 9999.
        """
        if self._given is not None:
            raise RuntimeError(
                "this emulator's time is the clock that was passed to it: move that one"
            )
        to = round(self.now() + seconds, 6)
        if to > _END:
            raise ValueError("that is past the year 9999, and no date has a later one")
        self._base = to
        self._base_monotonic = time.monotonic()
        return self.now()

    def _read(self) -> float:
        if self._given is not None:
            return self._given()
        return self._base + self._speed * (time.monotonic() - self._base_monotonic)


def read_duration(duration: float | str | timedelta) -> float:
    """Seconds of a duration: a number of them, a `timedelta`, or text such as "90", "2h 30m" or "0.5s".

    Units are d, h, m and s, each once and the largest first. Raises ValueError for anything else, and for
    what is negative or beyond a thousand million seconds.
    """
    seconds = _seconds_of(duration)
    if seconds is None or not 0 <= seconds <= _LONGEST_STEP:
        raise ValueError(
            f"{duration!r} is no duration: use seconds, a timedelta or text such as '2h 30m', from 0 to 1e9 seconds"
        )
    return seconds


def _seconds_of(duration: object) -> float | None:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        return duration
    if not isinstance(duration, str):
        return None
    if re.fullmatch(r"\s*\d{1,12}(\.\d{1,6})?\s*", duration, re.ASCII):
        return float(duration)
    if not re.fullmatch(rf"\s*({_PART.pattern}\s*)+", duration, re.ASCII):
        return None
    parts = [(float(number), unit) for number, unit in _PART.findall(duration)]
    units = [unit for _, unit in parts]
    if units != [unit for unit in _UNIT_SECONDS if unit in units]:
        return None
    return sum(number * _UNIT_SECONDS[unit] for number, unit in parts)
