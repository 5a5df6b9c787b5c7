"""The clock: timers, timeouts and waits, which are asyncio's own but for the time."""

from __future__ import annotations

import asyncio
import time as real
from contextlib import suppress
from typing import Any

import pytest

from qsessions import Clock, ConfigurationError
from qsessions.clock import SYSTEM_CLOCK
from qsessions.testing import ManualClock
from tests.support.leaks import loop_steps
from tests.support.manual_clock import Stepped
from tests.support.tables import table


@table("part", ["monotonic", "call_later"])
def test_a_clock_with_two_times_is_refused(part: str, time: ManualClock) -> None:
    """Timers and deadlines keep one time, so both are replaced or neither."""
    parts: dict[str, Any] = {"monotonic": time.wall, "call_later": time.call_later}
    with pytest.raises(ConfigurationError, match="both or neither"):
        Clock(**{part: parts[part]})
    assert Clock(**parts).monotonic() == time.now


def test_a_clock_is_the_real_one_in_a_patched_process(
    monkeypatch: pytest.MonkeyPatch, time: ManualClock
) -> None:
    """A library that stops the process's time stops no client's, and a clock can be made then."""
    monkeypatch.setattr(real, "monotonic", time.wall)
    monkeypatch.setattr(asyncio, "sleep", time.sleep)
    assert Clock() == SYSTEM_CLOCK
    assert SYSTEM_CLOCK.monotonic() != time.now


async def test_a_clock_sleeps_by_its_timers(stepped: Stepped) -> None:
    """Where only the timers are given, sleep is by them, and one that is cancelled leaves none."""
    sleeping = [asyncio.ensure_future(stepped.sleep(seconds)) for seconds in (5, 5, 0)]
    await stepped.step(4)
    assert [sleeper.done() for sleeper in sleeping] == [False, False, True]
    sleeping[0].cancel()
    await stepped.step(1)
    assert [sleeper.cancelled() for sleeper in sleeping] == [True, False, False]
    assert sleeping[1].done()


async def test_a_wait_ends_with_what_it_waits_for_or_with_its_time(stepped: Stepped) -> None:
    """A wait cancels nothing, and ends without an error."""
    futures = [asyncio.Future[None](), asyncio.Future[None]()]
    short, long = (
        asyncio.ensure_future(stepped.deadline(seconds).wait(futures)) for seconds in (5, None)
    )
    futures[0].set_result(None)
    await stepped.step(4)
    assert not short.done()
    await stepped.step(1)
    assert (short.done(), long.done(), futures[1].done()) == (True, False, False)
    futures[1].set_result(None)
    await asyncio.gather(short, long)


async def timed_out(clock: Clock | None, *steps: str) -> tuple[object, ...]:
    """Return what becomes of a task in a timeout, by a clock or by asyncio.

    Args:
        clock: The clock, or None for `asyncio.timeout`.
        steps: What happens at the same moment: "cancel" from outside, "expire", or "finish" of what
            the task waits for.
    """
    done = asyncio.Event()
    seen: list[object] = []

    async def work() -> None:
        try:
            if clock is None:
                async with asyncio.timeout(None) as scope:
                    scopes.append(scope)
                    await done.wait()
            else:
                with clock.timeout(None) as scope:
                    scopes.append(scope)
                    await done.wait()
            seen.append("went on")
            await asyncio.sleep(0)
        except BaseException as error:
            seen.append(type(error))
            raise
        finally:
            current = asyncio.current_task()
            assert current is not None
            seen.append((has_expired(scopes[0]), current.cancelling()))

    def has_expired(scope: Any) -> bool:
        return bool(scope.expired() if clock is None else scope.expired)

    scopes: list[Any] = []
    task = asyncio.ensure_future(work())
    await loop_steps(2)
    for step in steps:
        if step == "cancel":
            task.cancel()
        elif step == "finish":
            done.set()
        elif clock is None:
            scopes[0]._on_timeout()
        else:
            scopes[0]._expire()
    await asyncio.wait({task})
    return (*seen, task.cancelled())


@table(
    "steps",
    [
        ("expire",),
        ("cancel",),
        ("finish",),
        ("expire", "cancel"),
        ("cancel", "expire"),
        ("finish", "expire"),
        ("finish", "cancel"),
        ("finish", "cancel", "expire"),
        ("cancel", "cancel", "expire"),
    ],
)
async def test_a_timeout_and_a_cancellation_at_once(
    time: ManualClock, steps: tuple[str, ...]
) -> None:
    """Whatever comes together, the task fares as with `asyncio.timeout`."""
    assert await timed_out(time, *steps) == await timed_out(None, *steps)


async def rescheduled(clock: Clock, first: float | None, then: float) -> bool:
    """Wait for nothing in a timeout that is set anew; return whether it expired."""
    scope = clock.timeout(first)
    with suppress(TimeoutError), scope:
        scope.reschedule(then)
        await asyncio.Event().wait()
    return scope.expired


async def test_a_timeout_can_be_set_anew(stepped: Stepped) -> None:
    """A timeout under way can be put off, made sooner, and set where there was none."""
    for first, then in ((5, 8), (8, 5), (None, 5)):
        waiting = asyncio.ensure_future(rescheduled(stepped, first, then))
        await stepped.step(then - 1)
        assert not waiting.done()
        await stepped.step(1)
        assert (waiting.done(), await waiting) == (True, True)


async def test_a_timeout_of_ones_own_is_no_other(time: ManualClock) -> None:
    """A TimeoutError that comes from inside goes on, and the timeout has not expired."""
    with pytest.raises(TimeoutError, match="own"), time.timeout(5) as scope:
        raise TimeoutError("own")
    assert not scope.expired
    assert time.timers == []


async def test_without_a_task_there_is_no_limit(time: ManualClock) -> None:
    """A coroutine that no task runs can't be cancelled, so its time isn't limited."""

    async def work() -> str:
        with time.timeout(0):
            return "done"

    def drive() -> None:
        with pytest.raises(StopIteration, match="done"):
            work().send(None)
        driven.set()

    driven = asyncio.Event()
    asyncio.get_running_loop().call_soon(drive)
    await driven.wait()
