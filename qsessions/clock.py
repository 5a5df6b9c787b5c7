"""Time and chance, in one place, so that tests can stand in for both.

Every deadline and every wait of the core comes from a `Clock`; no other module has a timer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from attrs import frozen

from qsessions.errors import CallTimeout, ConfigurationError

# As they are now: a test may put others in their place. (In a tuple, because libraries that freeze
# time look for them in every module.)
_REAL = (time.monotonic, asyncio.sleep)

# How many seconds this machine's clock and the service's may be apart.
CLOCK_SKEW_S = 60.0


class Timer(Protocol):
    """A call that is to come, such as an `asyncio.TimerHandle`."""

    def cancel(self) -> None:
        """Call it off. Afterwards, and a second time, it does nothing."""
        ...


# Has a function called in so many seconds; see `Clock`.
CallLater: TypeAlias = Callable[[float, Callable[[], object]], Timer]


def _call_later(seconds: float, callback: Callable[[], object]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, callback)


async def sleep_by(call_later: CallLater, seconds: float) -> None:
    """Wait for a number of seconds by a clock's `call_later`, whatever its `sleep` does."""
    over = asyncio.Event()
    timer = call_later(seconds, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()


@frozen
class Clock:
    """Time and chance, so that tests can stand in for both.

    A client waits by its clock alone, its background tasks too. What is left to real time are the
    connections: how long one takes to be made, and how long one is kept.

    Attributes:
        monotonic: Seconds that only go forward.
        wall: Seconds since 1970.
        sleep: Waits for a number of seconds; by default by `call_later`.
        random: Gives a number from 0 up to 1.
        call_later: Has a function called on the running event loop, from the loop itself as
            `loop.call_later` does, once `monotonic` has gone on by a number of seconds; returns
            what has a `cancel()`. Most are deadlines, which are cancelled.

    Raises:
        ConfigurationError: Only one of `monotonic` and `call_later` was replaced: timers would keep
            another time than deadlines.
    """

    monotonic: Callable[[], float] = _REAL[0]
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = _REAL[1]
    random: Callable[[], float] = random.random
    call_later: CallLater = _call_later

    def __attrs_post_init__(self) -> None:
        """Check that there is one time, and sleep by it."""
        is_real = self.call_later is _call_later
        if is_real != (self.monotonic is _REAL[0]):
            raise ConfigurationError(
                "a Clock must have monotonic= and call_later= both or neither: with one of them, "
                "timers keep another time than deadlines."
            )
        if not is_real and self.sleep is _REAL[1]:
            object.__setattr__(self, "sleep", partial(sleep_by, self.call_later))

    def deadline(self, seconds: float | None) -> Deadline:
        """Return the deadline that is so many seconds from now; None for none."""
        return Deadline(self, seconds)

    def timeout(self, seconds: float | None) -> TimeoutScope:
        """Return a context that raises TimeoutError once it took so many seconds; None for none."""
        return TimeoutScope(self.call_later, seconds, asyncio.current_task())


# The machine's own time.
SYSTEM_CLOCK = Clock()


class RealTimeLoop(asyncio.SelectorEventLoop):
    """An event loop for a thread of its own, whose time is the machine's.

    Libraries that freeze a test's time freeze that of other loops, whose timers then never come.
    """

    def time(self) -> float:
        """Return the seconds of the machine's own clock."""
        return SYSTEM_CLOCK.monotonic()


class Deadline:
    """The end of a call's time.

    Args:
        clock: The time.
        seconds: How many from now, or None for no deadline.

    Attributes:
        last_failure: What the last attempt met that was repeated within it, or "".
    """

    __slots__ = ("_at", "clock", "last_failure")

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        self.clock = clock
        self.last_failure = ""
        self._at = None if seconds is None else clock.monotonic() + seconds

    def remaining(self) -> float | None:
        """Return the seconds left, 0 or less when none are, or None without a deadline."""
        return None if self._at is None else self._at - self.clock.monotonic()

    def passed(self) -> bool:
        """Return whether no time is left."""
        return self._at is not None and self._at <= self.clock.monotonic()

    def within(self, seconds: float) -> Deadline:
        """Return this deadline, or the one `seconds` from now if that comes first."""
        remaining = self.remaining()
        sooner = seconds if remaining is None else min(seconds, remaining)
        return Deadline(self.clock, sooner)

    def timeout(self) -> TimeoutScope:
        """Return a context that raises TimeoutError once the deadline has passed."""
        return self.clock.timeout(self.remaining())

    @contextmanager
    def call_timeout(self, problem: str, **facts: Any) -> Iterator[None]:
        """Return a context that raises `CallTimeout` once the deadline has passed.

        Args:
            problem: What the error says.
            facts: The error's facts; nothing was sent.
        """
        scope = self.timeout()
        try:
            with scope:
                yield
        except TimeoutError:
            if not scope.expired:
                raise
            raise CallTimeout(problem, sent=False, **facts).after(self.last_failure) from None

    async def wait(
        self,
        futures: Iterable[asyncio.Future[Any]],
        *,
        return_when: str = asyncio.ALL_COMPLETED,
    ) -> None:
        """Wait as `asyncio.wait` does, until the deadline at most."""
        with suppress(TimeoutError), self.timeout():
            await asyncio.wait(futures, return_when=return_when)


class TimeoutScope:
    """A context that time ends by cancelling its task, as `asyncio.timeout` does.

    Args:
        call_later: Calls it when time is up.
        seconds: How many it has from its beginning, or None for no limit.
        task: The task that enters it. Without one, as in a callback that drives a coroutine,
            nothing can be cancelled, and there is no limit.

    Attributes:
        expired: Whether time was up.
    """

    __slots__ = ("_call_later", "_cancelling", "_seconds", "_task", "_timer", "expired")

    def __init__(
        self, call_later: CallLater, seconds: float | None, task: asyncio.Task[Any] | None
    ) -> None:
        self._call_later = call_later
        self._seconds = seconds
        self._task = task
        self._timer: Timer | None = None
        self.expired = False

    def reschedule(self, seconds: float) -> None:
        """Have it end in so many seconds from now, while it goes on."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._call_later(seconds, self._expire)

    def _expire(self) -> None:
        task = self._task
        assert task is not None  # noqa: S101 - else there is no timer
        self.expired = True
        task.cancel()

    def __enter__(self) -> Self:
        if self._task is not None:
            # A cancellation from elsewhere, before or meanwhile, isn't ours to end.
            self._cancelling = self._task.cancelling()
            if self._seconds is not None:
                self._timer = self._call_later(self._seconds, self._expire)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            # It refers to this.
            self._timer = None
        if self._task is None or not self.expired:
            return
        is_only_ours = self._task.uncancel() <= self._cancelling
        if is_only_ours and kind is asyncio.CancelledError:
            raise TimeoutError from error
