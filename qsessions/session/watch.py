"""Watching many sessions at once: one stream of changes, at a bounded rate of requests."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TypeAlias

from qsessions.arguments import check_positive
from qsessions.errors import CallTimeout, ClientClosed, QSessionsError
from qsessions.models import Session
from qsessions.session.calls import SessionCalls
from qsessions.session.live import PolledSession

# Requests a second; no client makes as many.
_FASTEST = 10_000
# A read, or why there is none.
_Result: TypeAlias = Session | Exception


class Watch:
    """Reads sessions until all are closed, the one that has waited longest first.

    Args:
        ids: Which; each once.
        calls: Makes the calls.
        rate: How many reads to begin a second at most; no more are under way at a time.
        seconds: How long it may take in all, or None.

    Raises:
        InvalidArgument: The rate isn't a number above 0, or is above 10,000.
    """

    def __init__(
        self,
        ids: Sequence[str],
        calls: SessionCalls,
        *,
        rate: float,
        seconds: float | None,
    ) -> None:
        check_positive("rate", rate, most=_FASTEST)
        self._calls = calls
        self._gap = 1 / rate
        self._at_once = math.ceil(rate)
        self._seconds = seconds
        self._count = len(ids)
        # Sorted by time, then by turn: a heap as it is.
        self._turns = itertools.count()
        self._due = [
            (calls.clock.monotonic(), next(self._turns), PolledSession(session_id))
            for session_id in ids
        ]
        self._reading: dict[asyncio.Task[_Result], PolledSession] = {}
        self._no_start_before = -math.inf
        self._last_error: QSessionsError | None = None

    async def changes(self) -> AsyncGenerator[tuple[str, Session], None]:
        """Yield each session as it is, then at each change; see `AsyncSessionClient.watch`."""
        loop = asyncio.get_running_loop()
        deadline = None if self._seconds is None else loop.time() + self._seconds
        try:
            while (self._due or self._reading) and (deadline is None or loop.time() < deadline):
                self._begin()
                await self._wait(None if deadline is None else deadline - loop.time())
                for change in self._new_changes():
                    yield change
            if open_count := len(self._due) + len(self._reading):
                away = (
                    f"; the service could not be read of late: {self._last_error.message}"
                    if self._last_error
                    else "."
                )
                raise CallTimeout(
                    f"{open_count} of {self._count} sessions were not closed "
                    f"within {self._seconds:g} s{away}",
                    operation="watch",
                    sent=False,
                )
        finally:
            for task in self._reading:
                task.cancel()
            if self._reading:
                await asyncio.wait(self._reading)

    def _new_changes(self) -> Iterator[tuple[str, Session]]:
        for task in [task for task in self._reading if task.done()]:
            watched = self._reading.pop(task)
            snapshot = self._handle(watched, task)
            if snapshot is not None:
                yield watched.session_id, snapshot

    def _begin(self) -> None:
        """Begin the reads whose time has come, as far as the rate allows."""
        while self._pause() <= 0:
            _, _, watched = heapq.heappop(self._due)
            now = self._calls.clock.monotonic()
            # A timer is always a little late, which must not slow down the rate.
            late = now - self._no_start_before
            self._no_start_before = now - (late if late < self._gap else 0.0) + self._gap
            self._reading[self._calls.spawn(self._result(watched.session_id))] = watched

    def _pause(self) -> float:
        """Return the seconds until the next read may begin; infinity if one must end first."""
        if not self._due or len(self._reading) >= self._at_once:
            return math.inf
        return max(self._due[0][0], self._no_start_before) - self._calls.clock.monotonic()

    async def _wait(self, seconds: float | None) -> None:
        """Wait until a read has ended or another may begin, `seconds` at most."""
        pause = self._pause()
        nap = None if pause == math.inf else asyncio.ensure_future(self._calls.clock.sleep(pause))
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

    def _handle(self, watched: PolledSession, task: asyncio.Task[_Result]) -> Session | None:
        """Handle the result of a read, and return the session if it has changed."""
        if task.cancelled():
            raise ClientClosed(
                "the client was closed.", operation="watch", session_id=watched.session_id
            )
        result = task.result()
        if isinstance(result, Session):
            self._last_error = None
            changed = watched.keep(result)
            if not result.is_final:
                self._schedule(watched)
            return result if changed else None
        if self._seconds is None or not (isinstance(result, QSessionsError) and result.retryable):
            raise result
        self._last_error = result.with_traceback(None)
        watched.back_off()
        self._schedule(watched)
        return None

    def _schedule(self, watched: PolledSession) -> None:
        jitter = 0.8 + 0.4 * self._calls.clock.random()
        due = self._calls.clock.monotonic() + watched.interval * jitter
        heapq.heappush(self._due, (due, next(self._turns), watched))
