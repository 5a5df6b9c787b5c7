"""Watching many sessions at once: one stream of changes, at a bounded rate of requests."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from operator import attrgetter
from typing import TypeAlias

from qsessions.api.codec import WorkloadPage
from qsessions.api.messages import Progress
from qsessions.api.operations import LISTED_AS
from qsessions.arguments import check_positive
from qsessions.clock import Deadline
from qsessions.errors import (
    BadRequest,
    CallTimeout,
    ClientClosed,
    Forbidden,
    NotFound,
    ProtocolError,
    QSessionsError,
    WatchIncomplete,
    one_line,
)
from qsessions.models import Session
from qsessions.session.calls import SessionCalls
from qsessions.session.outage import PATIENCE_S, Outage, ends_wait
from qsessions.session.pace import Pace
from qsessions.session.sweep import Stretch, Sweep, Watched

# Requests a second; no client makes as many.
_FASTEST = 10_000
# After a failure no read begins for so many seconds at most.
_LONGEST_HOLD_S = 1.0
# What the service says of one session, or in a way that can't be read. All else that doesn't pass
# is about the credentials, the instance or the way to the service, and each session would meet it.
_OF_ONE = (BadRequest, Forbidden, NotFound, ProtocolError)
# So many of the sessions that were left are named in a message.
_NAMED = 3
# The command line prints its warnings.
_logger = logging.getLogger("qsessions.session")
# A session or a page, or why there is none.
_Result: TypeAlias = Session | WorkloadPage | Exception
# When a read is due that doesn't wait for its turn.
_AT_ONCE = -math.inf
# So many pages in a row leave room for a read in turn, and each page for a read that is urgent.
_PAGES_PER_TURN = 7


class Watch:
    """Reads sessions until all are closed, the one that has waited longest first.

    Of many sessions the list of workloads shows which to read before their turn; see `Sweep`.

    Args:
        ids: Which; each once.
        calls: Makes the calls.
        rate: How many requests to begin a second at most; no more are under way at a time.
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
        self._pace = Pace(calls.clock, rate, lambda: calls.recorder.living)
        self._at_once = math.ceil(rate)
        self._seconds = seconds
        self._count = len(ids)
        # Those that aren't closed, and why others were left.
        self._sessions = {session_id: Watched(session_id) for session_id in ids}
        self._errors: dict[str, QSessionsError] = {}
        self._sweeps = [Sweep(mode, self._sessions, calls.clock) for mode in LISTED_AS.values()]
        # Sorted by time, then by turn. Of a session only the entry with its own turn counts.
        self._turns = itertools.count(1)
        self._due: list[tuple[float, int, Watched]] = []
        for watched in self._sessions.values():
            self._schedule(watched, 0.0)
        self._pages_in_a_row = _PAGES_PER_TURN
        self._running: dict[asyncio.Task[_Result], Watched | Stretch] = {}
        self._last_error: QSessionsError | None = None
        # When the service last answered; and since when each session can't be read, oldest first.
        self._outage = Outage("watched sessions", calls.clock)
        self._answered_at = -math.inf
        self._away_since: dict[str, float] = {}

    async def changes(self) -> AsyncGenerator[tuple[str, Session], None]:
        """Yield each session as it is, then at each change; see `AsyncSessionClient.watch`."""
        deadline = self._calls.clock.deadline(self._seconds)
        # Processes with a lease share the rate.
        if self._calls.recorder.ownership is not None:
            self._calls.recorder.ownership.begin()
        try:
            while self._sessions and not deadline.passed():
                self._begin()
                await self._wait(deadline)
                for change in self._new_changes():
                    yield change
            incomplete = self._incomplete()
            if self._sessions:
                raise self._timeout(incomplete) from incomplete
            if incomplete:
                raise incomplete
        finally:
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)

    def _timeout(self, incomplete: WatchIncomplete | None) -> CallTimeout:
        left = f"{len(self._sessions)} of {self._count} sessions were not closed"
        parts = [f"{left} within {self._seconds:g} s"]
        if self._last_error:
            parts.append(f"the service could not be read of late: {self._last_error.message}")
        if incomplete:
            parts.append(incomplete.message)
        message = "; ".join(part.removesuffix(".") for part in parts)
        return CallTimeout(f"{message}.", operation="watch", sent=False)

    def _new_changes(self) -> Iterator[tuple[str, Session]]:
        for task in [task for task in self._running if task.done()]:
            job = self._running.pop(task)
            if task.cancelled():
                session_id = job.session_id if isinstance(job, Watched) else None
                raise ClientClosed(
                    "the client was closed.", operation="watch", session_id=session_id
                )
            result = task.result()
            if isinstance(job, Stretch):
                self._keep_page(job, result)
            elif (snapshot := self._handle(job, result)) is not None:
                yield job.session_id, snapshot

    def _begin(self) -> None:
        """Begin the requests whose time has come, as far as the rate allows."""
        while self._pause() <= 0:
            self._pace.begin()
            job: Watched | Stretch
            if self._is_page_next():
                job = self._next_sweep().begin()
            else:
                job = heapq.heappop(self._due)[2]
                job.turn, job.is_urgent = 0, False
            self._running[self._calls.spawn(self._result(job))] = job

    def _is_page_next(self) -> bool:
        """Return whether a page comes next, of the requests whose time has come."""
        now = self._calls.clock.monotonic()
        read_at = self._next_read()
        most = _PAGES_PER_TURN if read_at > _AT_ONCE else 1
        is_page = self._next_sweep().due <= now and (self._pages_in_a_row < most or read_at > now)
        self._pages_in_a_row = self._pages_in_a_row + 1 if is_page else 0
        return is_page

    def _next_sweep(self) -> Sweep:
        return min(self._sweeps, key=attrgetter("due"))

    def _next_read(self) -> float:
        """Return when the next read may begin."""
        while self._due and self._due[0][1] != self._due[0][2].turn:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else math.inf

    def _pause(self) -> float:
        """Return the seconds until the next request may begin; infinity if one must end first."""
        if len(self._running) >= self._at_once:
            return math.inf
        due = min(self._next_read(), self._next_sweep().due)
        return max(due, self._pace.next_at) - self._calls.clock.monotonic()

    async def _wait(self, deadline: Deadline) -> None:
        """Wait until a request has ended, another may begin, or the deadline has passed."""
        pause = self._pause()
        nap = None if pause == math.inf else asyncio.ensure_future(self._calls.clock.sleep(pause))
        try:
            await deadline.wait(
                {*self._running, nap} if nap else self._running,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if nap:
                nap.cancel()

    async def _result(self, job: Watched | Stretch) -> _Result:
        progress = Progress()
        progress.wait = self._pace.wait
        try:
            if isinstance(job, Stretch):
                return await job.fetch(self._calls.caller, progress)
            session = await self._calls.get(job.session_id, progress=progress)
        except Exception as error:  # noqa: BLE001 - the caller must get it
            return error
        if (poll := self._calls.polls.get(job.session_id)) is not None:
            poll.update(session)
        return session

    def _handle(self, watched: Watched, result: _Result) -> Session | None:
        """Handle the result of a read, and return the session if it has changed."""
        now = self._calls.clock.monotonic()
        if isinstance(result, Session):
            self._answered_at = now
            self._answered(watched.session_id)
            changed = watched.keep(result)
            if result.is_final:
                del self._sessions[watched.session_id]
            else:
                self._schedule(watched, watched.interval)
            return result if changed else None
        assert isinstance(result, Exception)  # noqa: S101 - pages have a stretch
        if not isinstance(result, QSessionsError):
            raise result
        since = self._away_since.setdefault(watched.session_id, now)
        # One session may fail for ever, or all together before one is read twice.
        all_since = max(next(iter(self._away_since.values())), self._answered_at)
        if ends_wait(result, now - min(since, all_since), self._seconds):
            others_answer = now - all_since < PATIENCE_S
            if not (others_answer if result.retryable else isinstance(result, _OF_ONE)):
                raise result
            self._leave(watched, result)
            return None
        self._outage.begin(result)
        self._last_error = result.with_traceback(None)
        watched.back_off()
        self._pace.hold(_asked_wait(result) or min(watched.interval, _LONGEST_HOLD_S))
        self._schedule(watched, watched.interval)
        return None

    def _leave(self, watched: Watched, error: QSessionsError) -> None:
        """Go on without a session that can't be read."""
        session_id = watched.session_id
        del self._sessions[session_id]
        self._errors[session_id] = error.with_traceback(None)
        _logger.warning("%r isn't watched any more: %s", session_id, one_line(error.details))
        self._answered(session_id)

    def _answered(self, session_id: str) -> None:
        """Record that a session isn't away, or is watched no more."""
        self._last_error = None
        self._away_since.pop(session_id, None)
        if not self._away_since:
            self._outage.end()

    def _incomplete(self) -> WatchIncomplete | None:
        """Return the error that says which sessions were left, if any were."""
        if not self._errors:
            return None
        left = [f"{name!r}: {error.details}" for name, error in self._errors.items()]
        more = [f"and {len(left) - _NAMED} more"] if len(left) > _NAMED else []
        return WatchIncomplete(
            f"{len(left)} of {self._count} sessions could not be watched to their end: "
            + "; ".join(left[:_NAMED] + more),
            operation="watch",
            errors=self._errors,
        )

    def _keep_page(self, stretch: Stretch, result: _Result) -> None:
        """Handle a page of the list; without one the sessions are read all the same."""
        assert not isinstance(result, Session)  # noqa: S101 - that is a read's
        if isinstance(result, Exception):
            self._pace.hold(_asked_wait(result))
        else:
            self._answered_at = self._calls.clock.monotonic()
        for watched in stretch.sweep.keep(stretch, result):
            watched.is_urgent = True
            # One that is being read is read again: the answer may be older than the page.
            if watched.turn:
                self._schedule(watched, 0.0)

    def _schedule(self, watched: Watched, interval: float) -> None:
        jitter = 0.8 + 0.4 * self._calls.clock.random()
        due = self._calls.clock.monotonic() + interval * jitter
        watched.turn = next(self._turns)
        heapq.heappush(self._due, (_AT_ONCE if watched.is_urgent else due, watched.turn, watched))


def _asked_wait(error: Exception) -> float:
    """Return how many seconds the service asked to wait, or 0."""
    return getattr(error, "retry_after", None) or 0.0
