"""The time of an emulator's clients: the emulator's, which moves on when all of them wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from operator import attrgetter
from random import Random
from weakref import WeakKeyDictionary

import attrs

from qsessions.api.messages import Request, Response, SecretHeaders, Transport
from qsessions.clock import SYSTEM_CLOCK, Clock, sleep_by
from qsessions.emulator.http.recording import EXCHANGE_HEADER
from qsessions.testing.threaded import ThreadedEmulator, inside

# How often each event loop runs all that is ready, before its tasks count as waiting. From the end
# of a wait to the next request of who waited there is a handful of steps.
_STEPS = 15
# After so many seconds an event loop that runs no step counts as waiting: something blocks it, such
# as a call of the synchronous client.
_BLOCKED_S = 0.5


def _monotonic() -> float:
    """Return real time: a function of its own, since a `Clock` with timers must bring its time."""
    return SYSTEM_CLOCK.monotonic()


class _Timer:
    """A call that is to come.

    Attributes:
        at: When.
        moves_time: Whether somebody waits for it, so that time may move on to it.
    """

    __slots__ = ("_callback", "_time", "at", "loop", "moves_time")

    def __init__(
        self, time: VirtualTime, at: float, callback: Callable[[], object], *, moves_time: bool
    ) -> None:
        self._time = time
        self.at = at
        self._callback = callback
        self.moves_time = moves_time
        self.loop = asyncio.get_running_loop()

    def cancel(self) -> None:
        # It may be on its way; this does nothing.
        self._callback = bool
        self._time.discard(self)

    def call(self) -> None:
        self._callback()


class VirtualTime:
    """Has an emulator's clients wait in its time, and moves that when all of them wait.

    A wait between two attempts or two reads then takes next to no real time: as soon as no request
    is under way, but those that a fault holds up, time moves to the end of the first wait or to the
    first deadline, whichever comes first. Otherwise it goes on by the emulator's `speed`. A client
    whose program does something else doesn't count as waiting, nor does it hold time up.

    Timers come from the thread of the emulator, so that they come where a library freezes a test's
    time too.

    Args:
        emulator: The emulator, which runs.
        real: Whether clients wait in real time instead.

    Attributes:
        clock: What the clients take as `clock=`.
        transport: What they take as `transport=`: it says which requests are under way.
        thread: The emulator's event loop, in a thread of its own.
        is_real: Whether it is real time.
    """

    def __init__(self, emulator: ThreadedEmulator, *, real: bool) -> None:
        service, self.thread = inside(emulator)
        self._service = service
        self.is_real = real or service.speed is None
        self._speed = 1.0 if self.is_real else service.speed or 0.0
        self._now = _monotonic if self.is_real else service.now
        # Chance is the same in every run, so that a test's waits are, too.
        clock = Clock(
            monotonic=self._now,
            sleep=self._sleep,
            random=Random(0).random,  # noqa: S311 - jitter is no secret
            call_later=self._call_later,
        )
        self.clock = clock if self.is_real else attrs.evolve(clock, wall=self._now)
        self.transport = None if self.is_real else partial(_CountingTransport, time=self)
        # Guards what follows.
        self._lock = threading.RLock()
        # In the order in which they were made.
        self._timers: dict[_Timer, None] = {}
        self._loops: set[asyncio.AbstractEventLoop] = set()
        # The requests under way, and those of them that a fault holds up.
        self._numbers = count(1)
        self._under_way: set[str] = set()
        self._held: dict[str, _Timer] = {}
        # Counts what happens, so that it shows whether something did.
        self._changes = 0
        self._is_looking = False
        # The timer of real time.
        self._alarm: asyncio.TimerHandle | None = None
        self._moving: asyncio.Task[None] | None = None
        if not self.is_real:
            service.on_step = self._look_soon
            service.pause = self._pause

    def _call_later(self, seconds: float, callback: Callable[[], object]) -> _Timer:
        return self._add(seconds, callback, moves_time=False)

    async def _sleep(self, seconds: float) -> None:
        await sleep_by(partial(self._add, moves_time=True), seconds)

    def _add(self, seconds: float, callback: Callable[[], object], *, moves_time: bool) -> _Timer:
        # The emulator's time has microseconds.
        exact = self._now() + seconds
        at = round(exact, 6)
        timer = _Timer(self, at if at >= exact else at + 1e-6, callback, moves_time=moves_time)
        with self._lock:
            self._timers[timer] = None
            self._loops.add(timer.loop)
            self._changes += 1
        self._look_soon()
        return timer

    def discard(self, timer: _Timer) -> None:
        """Forget a timer."""
        with self._lock:
            self._timers.pop(timer, None)
            self._changes += 1

    @contextmanager
    def under_way(self) -> Iterator[str]:
        """Let no time be skipped while a request is under way; yields its number."""
        number = str(next(self._numbers))
        with self._lock:
            self._under_way.add(number)
            self._loops.add(asyncio.get_running_loop())
            self._changes += 1
        try:
            yield number
        finally:
            with self._lock:
                self._under_way.discard(number)
                held = self._held.pop(number, None)
                if held is not None:
                    # The emulator goes on with it when its time comes, and nobody waits for that.
                    held.moves_time = False
                self._changes += 1
            self._look_soon()

    async def _pause(self, number: str, seconds: float) -> None:
        """Hold up a request in the emulator."""
        over = asyncio.Event()
        timer = self._add(seconds, over.set, moves_time=True)
        with self._lock:
            self._held[number] = timer
            timer.moves_time = number in self._under_way
        self._look_soon()
        try:
            await over.wait()
        finally:
            timer.cancel()
            with self._lock:
                self._held.pop(number, None)
                self._changes += 1

    def _look_soon(self) -> None:
        """Have the emulator's thread look at what is due."""
        if not self._is_looking:
            self._is_looking = True
            # It may have ended, and all timers with it.
            with suppress(RuntimeError):
                self.thread.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._is_looking = False
        with self._lock:
            now = self._now()
            due = [timer for timer in self._timers if timer.at <= now]
            for timer in sorted(due, key=attrgetter("at")):
                del self._timers[timer]
                self._changes += 1
                # An event loop may be closed.
                with suppress(RuntimeError):
                    timer.loop.call_soon_threadsafe(timer.call)
            self._set_alarm(now)
        if self._all_wait() and (self._moving is None or self._moving.done()):
            self._moving = self.thread.create_task(self._move())

    def _set_alarm(self, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        if self._timers and self._speed:
            seconds = (self._next() - now) / self._speed
            self._alarm = self.thread.call_later(seconds, self._look)

    def _next(self) -> float:
        return min(timer.at for timer in self._timers)

    def _all_wait(self) -> bool:
        """Return whether someone waits, and no request is under way that isn't held up."""
        with self._lock:
            return (
                not self.is_real
                and self._under_way <= self._held.keys()
                and any(timer.moves_time for timer in self._timers)
            )

    async def _move(self) -> None:
        """Move time on to what comes next, again and again, as long as all wait."""
        while self._all_wait():
            changes = self._changes
            if await self._let_run(changes) > 1:
                # Once more, for what one event loop has handed to another.
                await self._let_run(changes)
            with self._lock:
                if changes != self._changes:
                    continue
                seconds = self._next() - self._now()
            self._service.step(max(seconds, 0.0))
            self._look()

    async def _let_run(self, changes: int) -> int:
        """Wait until each client's event loop has run what is ready, unless something changes.

        Return how many there are.
        """
        with self._lock:
            self._loops = {loop for loop in self._loops if not loop.is_closed()} - {self.thread}
            loops = tuple(self._loops)
        ran = [self.thread.create_future() for _ in loops]

        def step(loop: asyncio.AbstractEventLoop, over: asyncio.Future[None], left: int) -> None:
            if left and changes == self._changes:
                loop.call_soon(step, loop, over, left - 1)
            else:
                with suppress(RuntimeError):
                    self.thread.call_soon_threadsafe(over.set_result, None)

        for loop, over in zip(loops, ran, strict=True):
            # It may have been closed just now.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(step, loop, over, _STEPS)
        # There may be no other event loop than this thread's own.
        await asyncio.wait({*ran, asyncio.ensure_future(asyncio.sleep(0))}, timeout=_BLOCKED_S)
        return len(loops)


class _CountingTransport:
    def __init__(self, own: Transport, time: VirtualTime) -> None:
        self._own = own
        self._time = time
        self.spawn = own.spawn

    async def send(self, request: Request) -> Response:
        with self._time.under_way() as number:
            headers = SecretHeaders(request.headers, **{EXCHANGE_HEADER: number})
            return await self._own.send(attrs.evolve(request, headers=headers))


_TIMES: WeakKeyDictionary[ThreadedEmulator, VirtualTime] = WeakKeyDictionary()


def virtual_time(emulator: ThreadedEmulator, *, real: bool) -> VirtualTime:
    """Return the time of an emulator's clients, the same for all of them unless it is real."""
    if real:
        return VirtualTime(emulator, real=True)
    time = _TIMES.get(emulator)
    if time is None or time.thread is not inside(emulator)[1]:
        time = _TIMES[emulator] = VirtualTime(emulator, real=False)
    return time
