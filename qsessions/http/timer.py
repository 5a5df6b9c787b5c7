"""Deadlines of requests, with one timer of the event loop for all of them."""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

# How much too early the timer may wake, in seconds.
_RESOLUTION_S = 0.001


class SharedTimer:
    """Times requests out.

    An `asyncio.timeout` makes a timer and cancels it again for each request, which costs more than
    all else that qsessions does for it. Deadlines are seldom reached, so here one timer wakes at
    the earliest of them, and finds that request over, as a rule.
    """

    def __init__(self) -> None:
        self._waiting: set[Timeout] = set()
        self._handle: asyncio.TimerHandle | None = None
        # When it wakes, in the event loop's time.
        self._wakes_at = math.inf

    def timeout(
        self, seconds: float | None, task: asyncio.Task[Any] | None
    ) -> Timeout | AbstractContextManager[None]:
        """Return a context that raises TimeoutError once it took so many seconds.

        Args:
            seconds: How many, or None for no limit.
            task: The current task.
        """
        if seconds is None or task is None:
            # Without a task, as in a callback that drives a coroutine, nothing can be cancelled.
            return nullcontext()
        return Timeout(self, seconds, task)

    def stop(self) -> None:
        """Stop the timer. Nothing times out any more."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._wakes_at = None, math.inf

    def add(self, timeout: Timeout, seconds: float) -> None:
        """Have a context end in so many seconds."""
        loop = timeout.task.get_loop()
        timeout.at = loop.time() + seconds
        self._waiting.add(timeout)
        if timeout.at < self._wakes_at:
            self._wake_at(loop, timeout.at)

    def remove(self, timeout: Timeout) -> None:
        """Forget a context, which is over."""
        self._waiting.discard(timeout)

    def _wake_at(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._wakes_at = loop.call_at(at, self._wake, loop), at

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle, self._wakes_at = None, math.inf
        # As the loop itself does, lest a clock that is a little coarse wakes it again and again.
        now = loop.time() + _RESOLUTION_S
        for timeout in [timeout for timeout in self._waiting if timeout.at <= now]:
            self._waiting.remove(timeout)
            timeout.expire()
        if self._waiting:
            self._wake_at(loop, min(timeout.at for timeout in self._waiting))


class Timeout:
    """A context that a timer ends by cancelling its task, as `asyncio.timeout` does.

    Attributes:
        at: When it ends, in the event loop's time.
        task: The task that it is entered by.
    """

    __slots__ = ("_cancelling", "_has_expired", "_seconds", "_timer", "at", "task")

    def __init__(self, timer: SharedTimer, seconds: float, task: asyncio.Task[Any]) -> None:
        self.at = math.inf
        self.task = task
        self._timer = timer
        self._seconds = seconds
        self._has_expired = False

    def expire(self) -> None:
        """End it."""
        self._has_expired = True
        self.task.cancel()

    def __enter__(self) -> Self:
        # A cancellation from elsewhere, before or meanwhile, isn't ours to end.
        self._cancelling = self.task.cancelling()
        self._timer.add(self, self._seconds)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self._timer.remove(self)
        if not self._has_expired:
            return
        is_only_ours = self.task.uncancel() <= self._cancelling
        if is_only_ours and kind is asyncio.CancelledError:
            raise TimeoutError from error
