"""Watching many sessions at once: one stream of changes, at a bounded rate of requests."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import AsyncGenerator, Sequence
from typing import TypeAlias

from attrs import define

from qsessions.errors import CallTimeout, ClientClosed, InvalidArgument, QSessionsError
from qsessions.models import Session
from qsessions.session.calls import SessionCalls
from qsessions.session.live import SHORTEST_S, has_changed, next_interval

# Requests a second; no client makes as many.
_FASTEST = 10_000
# A read, or why there is none.
_Result: TypeAlias = Session | Exception


def checked_rate(rate: object) -> float:
    """Return a rate of reads, per second.

    Raises:
        InvalidArgument: It isn't a number above 0.
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

    def update(self, snapshot: Session) -> bool:
        """Keep a read, and return whether it is a change."""
        before, self.snapshot = self.snapshot, snapshot
        changed = before is None or has_changed(before, snapshot)
        self.interval = SHORTEST_S if changed else next_interval(self.interval)
        return changed


class Watch:
    """Reads sessions until all are closed, the one that has waited longest first.

    Args:
        ids: Which; each once.
        calls: Makes the calls.
        rate: How many reads to begin a second at most; no more are under way at a time.
        seconds: How long it may take in all, or None.
    """

    def __init__(
        self,
        ids: Sequence[str],
        calls: SessionCalls,
        *,
        rate: float,
        seconds: float | None,
    ) -> None:
        self._calls = calls
        self._clock = calls.clock
        self._gap = 1 / rate
        self._at_once = math.ceil(rate)
        self._seconds = seconds
        self._count = len(ids)
        # Sorted by time, then by turn: a heap as it is.
        self._due = [
            (self._clock.monotonic(), turn, _Watched(session_id))
            for turn, session_id in enumerate(ids)
        ]
        self._turn = len(ids)
        self._reading: dict[asyncio.Task[_Result], _Watched] = {}
        self._no_start_before = -math.inf
        self._last_error: QSessionsError | None = None

    async def changes(self) -> AsyncGenerator[tuple[str, Session], None]:
        """Yield each session as it is, then at each change; see `AsyncSessionClient.watch`."""
        loop = asyncio.get_running_loop()
        deadline = None if self._seconds is None else loop.time() + self._seconds
        try:
            while self._due or self._reading:
                if deadline is not None and loop.time() >= deadline:
                    raise self._timeout_error()
                self._begin()
                await self._wait(None if deadline is None else deadline - loop.time())
                for task in [task for task in self._reading if task.done()]:
                    watched = self._reading.pop(task)
                    snapshot = self._handle(watched, task)
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
            self._reading[self._calls.spawn(self._result(watched.session_id))] = watched

    def _pause(self) -> float:
        """Return the seconds until the next read may begin; infinity if one must end first."""
        if not self._due or len(self._reading) >= self._at_once:
            return math.inf
        return max(self._due[0][0], self._no_start_before) - self._clock.monotonic()

    async def _wait(self, seconds: float | None) -> None:
        """Wait until a read has ended or another may begin, `seconds` at most."""
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
            session = await self._calls.get(session_id)
        except Exception as error:  # noqa: BLE001 - the caller must get it
            return error
        if (poll := self._calls.polls.get(session_id)) is not None:
            poll.update(session)
        return session

    def _handle(self, watched: _Watched, task: asyncio.Task[_Result]) -> Session | None:
        """Handle the result of a read, and return the session if it has changed."""
        if task.cancelled():
            raise ClientClosed(
                "the client was closed.", operation="watch", session_id=watched.session_id
            )
        result = task.result()
        if isinstance(result, Session):
            self._last_error = None
            changed = watched.update(result)
            if not result.is_final:
                self._schedule(watched)
            return result if changed else None
        if self._seconds is None or not (isinstance(result, QSessionsError) and result.retryable):
            raise result
        self._last_error = result.with_traceback(None)
        watched.interval = next_interval(watched.interval)
        self._schedule(watched)
        return None

    def _schedule(self, watched: _Watched) -> None:
        jitter = 0.8 + 0.4 * self._clock.random()
        due = self._clock.monotonic() + watched.interval * jitter
        heapq.heappush(self._due, (due, self._turn, watched))
        self._turn += 1

    def _timeout_error(self) -> CallTimeout:
        open_count = len(self._due) + len(self._reading)
        away = (
            f"; the service could not be read of late: {self._last_error.message}"
            if self._last_error
            else "."
        )
        return CallTimeout(
            f"{open_count} of {self._count} sessions were not closed "
            f"within {self._seconds:g} s{away}",
            operation="watch",
            sent=False,
        )
