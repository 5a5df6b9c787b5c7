"""A handle on one session: watch it, wait for it, drain or close it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any

import attrs

from qsessions.errors import (
    CallTimeout,
    ClientClosed,
    InvalidArgument,
    QSessionsError,
    StateUnreachable,
    copy_error,
)
from qsessions.models import Session, SessionState, StateChange, deadline_seconds
from qsessions.session.calls import SessionCalls

# Seconds between two reads: few after a change, since changes come in groups, then more and more.
SHORTEST_S = 0.5
_LONGEST_S = 15.0
_GROWTH = 1.5
# The service has been seen to accept a drain and leave the session open. So whether a session that
# drains unchanged has jobs at all is looked at each time so many seconds have passed. Found without
# any this often in a row, its drain isn't being carried out.
_QUIET_S = 300.0
_QUIET_LOOKS = 2
# How many seconds such a look may take, since the session isn't read meanwhile.
_LOOK_S = 10.0


def next_interval(interval: float) -> float:
    """Return the seconds until the next read when nothing has changed after `interval`."""
    return min(interval * _GROWTH, _LONGEST_S)


class Poll:
    """Reads one session again and again, while there are callers that wait for the next read.

    All handles on one session share one poll.

    Attributes:
        version: Counts the reads.
        snapshot: The session as it was last read, or None.
        last_error: The error of ours that the last read ended with, or None.
    """

    def __init__(self, session_id: str, calls: SessionCalls) -> None:
        self.session_id = session_id
        self.calls = calls
        self.version = 0
        self.snapshot: Session | None = None
        self._clock = calls.clock
        self.last_error: QSessionsError | None = None
        self._read_at = self._failed_at = -math.inf
        self._interval = SHORTEST_S
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None
        self._nap: asyncio.Future[None] | None = None
        # Resolved at each read: None, or the error that all waiting callers get.
        self._round: asyncio.Future[Exception | None] | None = None
        # When to look for the jobs of a session that drains, or None, and how often it was found
        # without any since its last change.
        self._look_at: float | None = None
        self._quiet_looks = 0

    @property
    def is_stuck(self) -> bool:
        """Whether the session drains and has had nothing to do for 10 minutes."""
        return self._quiet_looks >= _QUIET_LOOKS

    def subscribe(self) -> int:
        """Read soon for a new caller, and return the version that counts as seen.

        A read of just now doesn't count as seen yet.
        """
        self._failed_at = -math.inf
        if not self._waiting:
            self.last_error = None
        self.poll_soon()
        is_fresh = self._clock.monotonic() - self._read_at <= SHORTEST_S
        return self.version - 1 if is_fresh else self.version

    def update(self, snapshot: Session) -> None:
        """Pass on a read, which may be another caller's."""
        before, self.snapshot = self.snapshot, snapshot
        changed = before is None or has_changed(before, snapshot)
        self._interval = SHORTEST_S if changed else next_interval(self._interval)
        self.last_error = None
        self._read_at = self._clock.monotonic()
        if changed:
            self._look_at = self._read_at + _QUIET_S if snapshot.is_draining else None
            self._quiet_looks = 0
        self.version += 1
        self._wake()
        self._end_round(None)

    def poll_soon(self) -> None:
        """Read soon, because something is about to change."""
        self._interval = SHORTEST_S
        self._wake()

    async def wait_newer(self, seen: int) -> Session:
        """Return the first read that is newer than version `seen`.

        Raises:
            QSessionsError: The session can't be read.
        """
        self._waiting += 1
        try:
            while self.version <= seen or self.snapshot is None:
                # Made before the task, which an eager task factory runs at once.
                current = self._round = self._round or asyncio.get_running_loop().create_future()
                if self._task is None or self._task.done():
                    self._task = self.calls.spawn(self._run())
                    self._task.add_done_callback(self._task_done)
                # Not awaited itself: cancelling one caller must not cancel the round of all.
                await asyncio.wait({current})
                error = current.result()
                if error is not None:
                    raise copy_error(error)
            return self.snapshot
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._wake()

    async def _run(self) -> None:
        try:
            while await self._is_due():
                self.update(await self.calls.get(self.session_id))
                await self._look_for_jobs()
        except Exception as error:  # noqa: BLE001 - the waiting callers must get it
            self.last_error = error if isinstance(error, QSessionsError) else None
            self._interval, self._failed_at = next_interval(self._interval), self._clock.monotonic()
            self._end_round(error.with_traceback(None))

    async def _look_for_jobs(self) -> None:
        """Find out, when it is time, whether a session that drains unchanged has anything to do."""
        due = self._look_at
        if due is None or self._clock.monotonic() < due:
            return
        try:
            is_busy = await self.calls.has_pending_jobs(self.session_id, timeout=_LOOK_S)
        except Exception:  # noqa: BLE001 - it can't be told, so it may be
            is_busy = True
        if self._look_at != due:
            # There was a change meanwhile.
            return
        self._quiet_looks = 0 if is_busy else self._quiet_looks + 1
        self._look_at = self._clock.monotonic() + _QUIET_S

    def _task_done(self, task: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before its first step runs no line.
        if task.cancelled():
            self._end_round(
                ClientClosed(
                    "the client was closed.", operation="watch", session_id=self.session_id
                )
            )

    async def _is_due(self) -> bool:
        """Wait until it is time for the next read; False when no caller waits for one any more."""
        jitter = 0.8 + 0.4 * self._clock.random()
        while self._waiting and (wait := self._next_at(jitter) - self._clock.monotonic()) > 0:
            self._nap = asyncio.ensure_future(self._clock.sleep(wait))
            try:
                await asyncio.wait({self._nap})
            finally:
                self._nap.cancel()
                self._nap = None
        return self._waiting > 0

    def _next_at(self, jitter: float) -> float:
        return max(self._read_at, self._failed_at) + self._interval * jitter

    def _wake(self) -> None:
        """Compute the time of the next read anew."""
        if self._nap is not None:
            self._nap.cancel()

    def _end_round(self, error: Exception | None) -> None:
        current, self._round = self._round, None
        if current is not None:
            current.set_result(error)


class AsyncLiveSession:
    """A handle on one session, from `AsyncSessionClient.attach`.

    Attributes:
        id: The session's id.
        snapshot: The session as this handle last saw it, or None before the first `refresh`,
            `wait_until` or `watch`.
    """

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self.id = poll.session_id
        self.snapshot: Session | None = None

    def __repr__(self) -> str:
        """Show the id and the last known state."""
        seen = f"last seen {_state(self.snapshot)}" if self.snapshot else "not read yet"
        return f"<{type(self).__name__} {self.id!r} {seen}>"

    async def refresh(self) -> Session:
        """Read the session now.

        Raises:
            QSessionsError: As `AsyncSessionClient.get`.
        """
        self.snapshot = await self._poll.calls.get(self.id)
        self._poll.update(self.snapshot)
        return self.snapshot

    async def drain(self) -> None:
        """Let the session finish its jobs, then close; see `AsyncSessionClient.drain`."""
        await self._poll.calls.drain(self.id)
        self._poll.poll_soon()

    async def close(self) -> None:
        """Close now; queued jobs never run. See `AsyncSessionClient.close`."""
        await self._poll.calls.close(self.id)
        self._poll.poll_soon()

    async def watch(
        self, *, timeout: float | timedelta | str | None = None
    ) -> AsyncIterator[Session]:
        """Yield the session as it is, then at each change, until it is closed.

        `elapsed_time` and `active_ttl` run all the time and don't count as changes. States that
        come and go between two reads may be skipped; the next snapshot's `timestamps` has them.
        With a `timeout`, an outage of the service is borne until then; without one, as long as the
        client's retry policy bears it. A drain that the service doesn't carry out never ends it.

        Args:
            timeout: How long at most: seconds, a `timedelta` or text such as "5m"; None for no
                limit.

        Raises:
            CallTimeout: Time was up.
            QSessionsError: As `AsyncSessionClient.get`.
        """
        seconds = deadline_seconds(timeout, "timeout")
        deadline = _deadline(seconds)
        last: Session | None = None
        seen = self._poll.subscribe()
        while last is None or not last.is_final:
            looking = self._next(seen, ignore_transient=seconds is not None)
            snapshot = await self._in_time(looking, deadline, "watch", f"closed{_within(seconds)}")
            seen = self._poll.version
            if last is None or has_changed(last, snapshot):
                last = snapshot
                yield snapshot

    async def wait_until(
        self, *states: SessionState | str, timeout: float | timedelta | str | None = None
    ) -> Session:
        """Wait until the session is in one of the states, and return it.

        A state that the session entered and left between two reads counts, as far as its
        `timestamps` show it; of a session that was closed before the wait, each state in them
        counts. With a `timeout`, an outage of the service is borne until then; without one, as long
        as the client's retry policy bears it.

        The service has been seen to accept a drain and leave the session open. Without a `timeout`
        the wait for such a session ends once it has had nothing to do for 10 minutes, by its
        instance's list of jobs; where jobs can't be listed it goes on.

        Args:
            states: At least one of open, active, inactive, closed, pending_inactive,
                pending_closed; or any `SessionState`.
            timeout: How long at most: seconds, a `timedelta` or text such as "5m"; None for no
                limit.

        Raises:
            StateUnreachable: None of the states can come any more, or the session was drained and
                the service doesn't close it.
            CallTimeout: Time was up; it says whether the service was away then.
            InvalidArgument: There is no such state.
            QSessionsError: As `AsyncSessionClient.get`.
        """
        wanted = _wanted(states)
        seconds = deadline_seconds(timeout, "timeout")
        waiting = self._wait(wanted, ignore_transient=seconds is not None)
        goal = f"{_listed(wanted)}{_within(seconds)}"
        return await self._in_time(waiting, _deadline(seconds), "wait_until", goal)

    async def _in_time(
        self,
        waiting: Coroutine[Any, Any, Session],
        deadline: float | None,
        operation: str,
        goal: str,
    ) -> Session:
        scope = asyncio.timeout_at(deadline)
        try:
            async with scope:
                return await waiting
        except TimeoutError:
            if not scope.expired():
                raise
        error = self._poll.last_error
        if self.snapshot is None:
            seen = "it could not be read in that time" + (f": {error.message}" if error else ".")
        else:
            drains = ", taking no more jobs" if self.snapshot.is_draining else ""
            seen = f"it was last seen {_state(self.snapshot)}{drains}" + (
                f"; the service could not be read of late: {error.message}" if error else "."
            )
        raise CallTimeout(
            f"the session was not {goal}; {seen}",
            operation=operation,
            session_id=self.id,
            sent=False,
        )

    async def _next(self, seen: int, *, ignore_transient: bool) -> Session:
        """Return the first read newer than version `seen`."""
        while True:
            try:
                self.snapshot = await self._poll.wait_newer(seen)
            except QSessionsError as error:
                if not (ignore_transient and error.retryable):
                    raise
            else:
                return self.snapshot

    async def _wait(self, wanted: frozenset[SessionState], *, ignore_transient: bool) -> Session:
        # Once a session is closed, the question can only be about its past.
        known = self.snapshot.timestamps if self.snapshot and not self.snapshot.is_final else None
        seen = self._poll.subscribe()
        while True:
            snapshot = await self._next(seen, ignore_transient=ignore_transient)
            seen = self._poll.version
            if known is None:
                # What happened before the wait counts only if nothing more can happen.
                known = () if snapshot.is_final else snapshot.timestamps
            news = _entered(snapshot, known)
            if snapshot.state in wanted or not wanted.isdisjoint(news):
                return snapshot
            if self._poll.is_stuck and not ignore_transient:
                raise StateUnreachable(
                    f"the session was drained, and the service has left it {_state(snapshot)} "
                    "for 10 minutes with nothing to do.",
                    solution="Close it, or give the wait a timeout.",
                    operation="wait_until",
                    session_id=self.id,
                )
            if not any(_can_come(state, snapshot) for state in wanted):
                raise StateUnreachable(
                    f"the session is {snapshot.state} and can't become {_listed(wanted)} any more.",
                    operation="wait_until",
                    session_id=self.id,
                )


def attach(calls: SessionCalls, session_id: str) -> AsyncLiveSession:
    """Return a handle on a session; all handles on one session share one poll."""
    poll = calls.polls.get(session_id)
    if poll is None:
        poll = calls.polls[session_id] = Poll(session_id, calls)
    return AsyncLiveSession(poll)


def has_changed(before: Session, after: Session) -> bool:
    """Return whether two reads differ in anything but the meters that run all the time."""
    return attrs.evolve(before, elapsed_time=None, active_ttl=None) != attrs.evolve(
        after, elapsed_time=None, active_ttl=None
    )


def _state(snapshot: Session) -> str:
    return str(snapshot.state) if snapshot.state else "in no known state"


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else asyncio.get_running_loop().time() + seconds


def _within(seconds: float | None) -> str:
    return "" if seconds is None else f" within {seconds:g} s"


def _entered(snapshot: Session, known: tuple[StateChange, ...]) -> set[SessionState]:
    return {change.status for change in snapshot.timestamps if change not in known}


def _can_come(state: SessionState, snapshot: Session) -> bool:
    if snapshot.is_final:
        return False
    # Only a session that has not started is open.
    return state != SessionState.OPEN or (
        snapshot.started_at is None and snapshot.state in {None, SessionState.OPEN}
    )


def _wanted(states: tuple[SessionState | str, ...]) -> frozenset[SessionState]:
    if not states:
        raise InvalidArgument("wait_until needs at least one state.")
    for state in states:
        # An unknown SessionState is meant; unknown text is a typing error, waited for in vain.
        if not isinstance(state, SessionState) and state not in tuple(SessionState):
            raise InvalidArgument(
                f"there is no state {state!r}; the states are {', '.join(SessionState)}."
            )
    return frozenset(SessionState(state) for state in states)


def _listed(states: frozenset[SessionState]) -> str:
    return " or ".join(sorted(states))
