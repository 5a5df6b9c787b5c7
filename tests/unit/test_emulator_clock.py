"""The emulator's time: its pace, its steps and the durations that people write."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import pytest

from qsessions.emulator.service.bodies import date_time
from qsessions.emulator.service.clock import ServiceClock, read_duration
from tests.support.tables import table


@table(
    ("duration", "seconds"),
    [
        (0, 0),
        (1.5, 1.5),
        ("90", 90),
        (" 0.25 ", 0.25),
        ("30m", 1800),
        ("2h 30m 40s", 9040),
        ("1d2h", 93600),
        ("0.5s", 0.5),
        (timedelta(minutes=2, milliseconds=5), 120.005),
    ],
)
def test_durations_are_read(duration: float | str | timedelta, seconds: float) -> None:
    """Numbers, timedeltas and text with units all give seconds."""
    assert read_duration(duration) == seconds


@table(
    "duration",
    [
        -1,
        "-1",
        "",
        "m",
        "5 weeks",
        "1m 1h",
        "1m 1m",
        "1h30",
        "nan",
        "1e3",
        "\u0663s",
        float("nan"),
        float("inf"),
        1.1e9,
        True,
        None,
        timedelta(-1),
    ],
)
def test_what_is_no_duration_is_refused(duration: float | str | timedelta) -> None:
    """What is negative, endless or not understood is a ValueError that quotes it."""
    with pytest.raises(ValueError, match="is no duration"):
        read_duration(duration)


def test_a_clock_that_stands_still_moves_by_steps() -> None:
    """At speed 0 only steps move the time, and many small ones end where one large one does."""
    clock = ServiceClock(speed=0)
    start = clock.now()
    assert clock.now() == start
    for _ in range(10):
        clock.step(0.1)
    assert clock.now() == round(start + 1, 6)
    assert clock.step(0.2) == round(start + 1.2, 6)


def test_a_fast_clock_is_ahead_and_takes_steps_too() -> None:
    """A fast clock passes much of the service's time in little real time, and goes on after a step."""
    clock = ServiceClock(speed=1e9)
    start = clock.now()
    assert clock.now() > start + 1
    before = clock.now()
    assert clock.step(1e6) >= before + 1e6


def test_a_given_clock_sets_the_time_alone() -> None:
    """A clock that is passed in is what moves the time: it takes no speed, no steps, and no way
    back.
    """
    times = [5.0000004, 4.0]
    give: Callable[[], float] = lambda: times.pop(0)  # noqa: E731 - the shortest clock
    clock = ServiceClock(clock=give)
    assert (clock.now(), clock.now()) == (5, 5)
    with pytest.raises(RuntimeError, match="move that one"):
        clock.step(1)
    with pytest.raises(ValueError, match="exclude each other"):
        ServiceClock(speed=60, clock=give)


def test_no_time_is_past_the_year_9999() -> None:
    """A step past the last day of the year 9999 is refused and moves nothing; time that gets there
    by itself stands still.
    """
    clock = ServiceClock(speed=0)
    start = clock.now()
    for _ in range(251):
        clock.step(1e9)
    late = clock.now()
    with pytest.raises(ValueError, match="past the year 9999"):
        clock.step(1e9)
    assert clock.now() == late > start
    times = [1e12, math.inf]
    given = ServiceClock(clock=lambda: times.pop(0))
    assert date_time(given.now()) == date_time(given.now()) == "9999-12-31T00:00:00.000Z"


@table("speed", [-1, float("inf"), float("nan")])
def test_impossible_speeds_are_refused(speed: float) -> None:
    """Time that runs backwards or at once is a ValueError."""
    with pytest.raises(ValueError, match="speed must be"):
        ServiceClock(speed=speed)
