"""Many sessions at once: one stream of their changes, with requests at a bounded rate and no task for each session."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from attrs import define

from qsessions.clock import Clock
from qsessions.errors import CallTimeout, ClientClosed, InvalidArgument, QSessionsError
from qsessions.models import Session
from qsessions.session.live import SHORTEST_S, has_changed, longer

# Requests a second; no client makes as many.
_FASTEST = 10_000
# A reading, or why there is none.
_Result: TypeAlias = Session | Exception
_Spawn: TypeAlias = Callable[[Coroutine[Any, Any, _Result]], "asyncio.Task[_Result]"]


def checked_rate(rate: object) -> float:
    """Give a rate back.

    Raises:
        InvalidArgument: It is no number above 0.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= _FASTEST:
        raise InvalidArgument(f"rate must be a number above 0 and up to {_FASTEST}, not {rate!r}.")
    return float(rate)


@define(eq=False)
class _Watched:
    """A session that isn't closed yet, as it was last read."""

    session_id: str
    snapshot: Session | None = None
    interval: float = SHORTEST_S

    def take(self, snapshot: Session) -> bool:
        """Take a reading; say whether it is a change."""
        before, self.snapshot = self.snapshot, snapshot
        changed = before is None or has_changed(before, snapshot)
        self.interval = SHORTEST_S if changed else longer(self.interval)
        return changed


class Watch:
    """Reads sessions until all are closed: each in its turn, the one that has waited longest first.

    Args:
        ids: Which; each once.
        read: Reads one.
        spawn: Runs a task that ends with the client.
        clock: The time.
        rate: How many reads to begin a second at the most; no more than these are under way at a time.
        seconds: How long it may take in all, or None.
    """

    def __init__(
        self,
        ids: Sequence[str],
        *,
        read: Callable[[str], Awaitable[Session]],
        spawn: _Spawn,
        clock: Clock,
        rate: float,
        seconds: float | None,
    ) -> None:
        self._read = read
        self._spawn = spawn
        self._clock = clock
        self._gap = 1 / rate
        self._at_once = math.ceil(rate)
        self._seconds = seconds
        self._count = len(ids)
        # Sorted by time, then by turn: a heap as it is.
        self._due = [
            (clock.monotonic(), turn, _Watched(session_id)) for turn, session_id in enumerate(ids)
        ]
        self._turn = len(ids)
        self._reading: dict[asyncio.Task[_Result], _Watched] = {}
        self._no_start_before = -math.inf
        self._away: QSessionsError | None = None

    async def changes(self) -> AsyncGenerator[tuple[str, Session], None]:
        """Give each session as it is, then at each change, until all are closed; see `AsyncSessionClient.watch`."""
        loop = asyncio.get_running_loop()
        deadline = None if self._seconds is None else loop.time() + self._seconds
        try:
            while self._due or self._reading:
                if deadline is not None and loop.time() >= deadline:
                    raise self._late()
                self._begin()
                await self._wait(None if deadline is None else deadline - loop.time())
                for task in [task for task in self._reading if task.done()]:
                    watched = self._reading.pop(task)
                    snapshot = self._taken(watched, task)
                    if snapshot is not None:
                        yield watched.session_id, snapshot
        finally:
            for task in self._reading:
                task.cancel()
            if self._reading:
                await asyncio.wait(self._reading)

    def _begin(self) -> None:
        """Begin the reads whose time has come, as far as the rate allows."""
        while self._pause() <= 0:
            _, _, watched = heapq.heappop(self._due)
            now = self._clock.monotonic()
            # A timer is always a little late, which must not slow down the rate.
            late = now - self._no_start_before
            self._no_start_before = now - (late if late < self._gap else 0.0) + self._gap
            self._reading[self._spawn(self._result(watched.session_id))] = watched

    def _pause(self) -> float:
        """Say in how many seconds the next read may begin; infinity where one must end first."""
        if not self._due or len(self._reading) >= self._at_once:
            return math.inf
        return max(self._due[0][0], self._no_start_before) - self._clock.monotonic()

    async def _wait(self, seconds: float | None) -> None:
        """Wait until a read has ended or another may begin, `seconds` at the most."""
        pause = self._pause()
        nap = None if pause == math.inf else asyncio.ensure_future(self._clock.sleep(pause))
        try:
            await asyncio.wait(
                {*self._reading, nap} if nap else self._reading,
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if nap:
                nap.cancel()

    async def _result(self, session_id: str) -> _Result:
        try:
            return await self._read(session_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, who watches must get it
            return error

    def _taken(self, watched: _Watched, task: asyncio.Task[_Result]) -> Session | None:
        """Take the result of a read, and give it if it is a change."""
        if task.cancelled():
            raise ClientClosed(
                "the client was closed.", operation="watch", session_id=watched.session_id
            )
        result = task.result()
        if isinstance(result, Session):
            self._away = None
            changed = watched.take(result)
            if not result.is_final:
                self._again(watched)
            return result if changed else None
        if self._seconds is None or not (isinstance(result, QSessionsError) and result.retryable):
            raise result
        self._away = result.with_traceback(None)
        watched.interval = longer(watched.interval)
        self._again(watched)
        return None

    def _again(self, watched: _Watched) -> None:
        jitter = 0.8 + 0.4 * self._clock.random()
        due = self._clock.monotonic() + watched.interval * jitter
        heapq.heappush(self._due, (due, self._turn, watched))
        self._turn += 1

    def _late(self) -> CallTimeout:
        left = len(self._due) + len(self._reading)
        away = (
            f"; the service could not be read of late: {self._away.message}" if self._away else "."
        )
        return CallTimeout(
            f"{left} of {self._count} sessions were not closed within {self._seconds:g} s{away}",
            operation="watch",
            sent=False,
        )
