"""A handle on one session: watch it, wait for it, drain or close it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from qsessions.errors import (
    CallTimeout,
    ClientClosed,
    InvalidArgument,
    QSessionsError,
    StateUnreachable,
    copy_error,
)
from qsessions.models import Session, SessionState, StateName, deadline_seconds
from qsessions.session.calls import EndedBy, SessionCalls
from qsessions.session.outage import Outage, ends_wait
from qsessions.values import Displayed, OfItsProcess, summary, with_changes

if TYPE_CHECKING:
    from qsessions.usage import Job

# Seconds between two reads: few after a change, since changes come in groups, then more and more.
_SHORTEST_S = 0.5
_LONGEST_S = 15.0
_GROWTH = 1.5
# The service has been seen to accept a drain and leave the session open. So whether a session that
# drains unchanged has jobs at all is looked at each time so many seconds have passed. Found without
# any this often in a row, its drain isn't being carried out.
_QUIET_S = 300.0
_QUIET_LOOKS = 2
# How many seconds such a look may take, since the session isn't read meanwhile.
_LOOK_S = 10.0


@attrs.define(eq=False, repr=False)
class PolledSession:
    """A session that is read again and again.

    Attributes:
        session_id: Its id.
        snapshot: The session as it was last read, or None.
        interval: The seconds until the next read.
    """

    session_id: str
    snapshot: Session | None = None
    interval: float = _SHORTEST_S

    def keep(self, snapshot: Session) -> bool:
        """Keep a read, and return whether it is a change."""
        before, self.snapshot = self.snapshot, snapshot
        self.back_off()
        if changed := _has_changed(before, snapshot):
            self.interval = _SHORTEST_S
        return changed

    def back_off(self) -> None:
        """Make the next interval longer, since nothing has changed."""
        self.interval = min(self.interval * _GROWTH, _LONGEST_S)


class Poll(PolledSession):
    """Reads one session again and again, while there are callers that wait for the next read.

    All handles on one session share one poll.

    Attributes:
        version: Counts the reads.
        outage: Whether the session can't be read just now, and why.
        quiet_looks: How often in a row the session was found draining without jobs, since its last
            change.
    """

    def __init__(self, session_id: str, calls: SessionCalls) -> None:
        super().__init__(session_id)
        self.calls = calls
        self.version = self._waiting = self.quiet_looks = 0
        self.outage = Outage(f"session {session_id!r}", calls.clock)
        self._read_at = self._failed_at = -math.inf
        self._task: asyncio.Task[None] | None = None
        self._nap: asyncio.Future[None] | None = None
        # Resolved at each read: None, or the error that all waiting callers get.
        self._round: asyncio.Future[Exception | None] | None = None
        # When to look for the jobs of a session that drains, or None.
        self._look_at: float | None = None

    def subscribe(self) -> int:
        """Read soon for a new caller, and return the version that counts as seen.

        A read of just now doesn't count as seen yet.
        """
        self._failed_at = -math.inf
        if not self._waiting:
            self.outage.error = None
        self.poll_soon()
        is_fresh = self.calls.clock.monotonic() - self._read_at <= _SHORTEST_S
        return self.version - 1 if is_fresh else self.version

    def update(self, snapshot: Session) -> None:
        """Pass on a read, which may be another caller's."""
        self._read_at = self.calls.clock.monotonic()
        self.outage.end()
        if self.keep(snapshot):
            self._look_at = self._read_at + _QUIET_S if snapshot.is_draining else None
            self.quiet_looks = 0
        self.version += 1
        self._wake()
        self._end_round(None)

    def poll_soon(self) -> None:
        """Read soon, because something is about to change."""
        self.interval = _SHORTEST_S
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
                if (error := current.result()) is not None:
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
            self.outage.begin(error)
            self.back_off()
            self._failed_at = self.calls.clock.monotonic()
            self._end_round(error.with_traceback(None))

    async def _look_for_jobs(self) -> None:
        """Find out, when it is time, whether a session that drains unchanged has anything to do."""
        due = self._look_at
        if due is None or self.calls.clock.monotonic() < due:
            return
        try:
            is_busy = await self.calls.has_pending_jobs(self.session_id, timeout=_LOOK_S)
        except Exception:  # noqa: BLE001 - it can't be told, so it may be
            is_busy = True
        # Else there was a change meanwhile.
        if self._look_at == due:
            self.quiet_looks = 0 if is_busy else self.quiet_looks + 1
            self._look_at = self.calls.clock.monotonic() + _QUIET_S

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
        jitter = 0.8 + 0.4 * self.calls.clock.random()
        while self._waiting:
            last = max(self._read_at, self._failed_at)
            wait = last + self.interval * jitter - self.calls.clock.monotonic()
            if wait <= 0:
                return True
            self._nap = asyncio.ensure_future(self.calls.clock.sleep(wait))
            try:
                await asyncio.wait({self._nap})
            finally:
                self._nap.cancel()
                self._nap = None
        return False

    def _wake(self) -> None:
        """Compute the time of the next read anew."""
        if self._nap is not None:
            self._nap.cancel()

    def _end_round(self, error: Exception | None) -> None:
        current, self._round = self._round, None
        if current is not None:
            current.set_result(error)


class AsyncLiveSession(Displayed, OfItsProcess):
    """A handle on one session, from `AsyncSessionClient.attach`.

    Attributes:
        id: The session's id.
        snapshot: The session as this handle last saw it, or None before the first `refresh`,
            `wait_until` or `watch`.
        ended_by: "max_usage" once `open(max_usage=)` closes the session, "lost_lease" once a client
            with `on_lost="end"` does, else None.
    """

    def __init__(self, poll: Poll, calls: SessionCalls) -> None:
        self._poll = poll
        self._calls = calls
        self.id = poll.session_id
        self.snapshot: Session | None = None
        self.ended_by: EndedBy | None = None

    def __repr__(self) -> str:
        """Show the id and the last known state."""
        seen = f"last seen {_state(self.snapshot)}" if self.snapshot else "not read yet"
        return summary(self, seen)

    async def refresh(self) -> Session:
        """Read the session now.

        Raises:
            QSessionsError: As `AsyncSessionClient.get`.
        """
        self.snapshot = await self._calls.get(self.id)
        self._poll.update(self.snapshot)
        return self.snapshot

    async def drain(self) -> None:
        """Let the session finish its jobs, then close; see `AsyncSessionClient.drain`."""
        await self._calls.drain(self.id)
        self._poll.poll_soon()

    async def close(self) -> None:
        """Close now; queued jobs never run. See `AsyncSessionClient.close`."""
        await self._calls.close(self.id)
        self._poll.poll_soon()

    def jobs(self) -> AsyncIterator[Job]:
        """List the session's jobs, oldest first, each page when it is needed.

        Raises:
            QSessionsError: A page can't be fetched (while iterating).
        """
        # Late: not every program comes here.
        from qsessions.session.jobs import jobs

        return jobs(self._calls.caller, self.id)

    async def watch(
        self, *, timeout: float | timedelta | str | None = None
    ) -> AsyncIterator[Session]:
        """Yield the session as it is, then at each change, until it is closed.

        `elapsed_time` and `active_ttl` run all the time and don't count as changes. States that
        come and go between two reads may be skipped; the next snapshot's `timestamps` has them.
        With a `timeout`, an outage of the service or the network is borne until then; without one,
        for 10 minutes. The log says when it begins and when it is over. A drain that the service
        doesn't carry out never ends it.

        Args:
            timeout: How long at most: seconds, a `timedelta` or text such as "5m"; None for no
                limit.

        Raises:
            CallTimeout: Time was up.
            QSessionsError: As `AsyncSessionClient.get`.
        """
        last: Session | None = None
        async with aclosing(self._reads("watch", "closed", timeout)) as reads:
            while last is None or not last.is_final:
                snapshot = await anext(reads)
                if _has_changed(last, snapshot):
                    last = snapshot
                    yield snapshot

    async def wait_until(
        self, *states: SessionState | StateName, timeout: float | timedelta | str | None = None
    ) -> Session:
        """Wait until the session is in one of the states, and return it.

        A state that the session entered and left between two reads counts, as far as its
        `timestamps` show it; of a session that was closed before the wait, each state in them
        counts. With a `timeout`, an outage of the service or the network is borne until then;
        without one, for 10 minutes. The log says when it begins and when it is over.

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
        goal = " or ".join(sorted(wanted))
        # Once a session is closed, the question can only be about its past.
        known = self.snapshot.timestamps if self.snapshot and not self.snapshot.is_final else None
        async with aclosing(self._reads("wait_until", goal, timeout)) as reads:
            while True:
                snapshot = await anext(reads)
                if known is None:
                    # What happened before the wait counts only if nothing more can happen.
                    known = () if snapshot.is_final else snapshot.timestamps
                entered = {change.status for change in snapshot.timestamps if change not in known}
                if snapshot.state in wanted or not wanted.isdisjoint(entered):
                    return snapshot
                if timeout is None and self._poll.quiet_looks >= _QUIET_LOOKS:
                    raise StateUnreachable(
                        f"the session was drained, and the service has left it {_state(snapshot)} "
                        "for 10 minutes with nothing to do.",
                        solution="Close it, or give the wait a timeout.",
                        operation="wait_until",
                        session_id=self.id,
                    )
                if not any(_can_come(state, snapshot) for state in wanted):
                    raise StateUnreachable(
                        f"the session is {snapshot.state} and can't become {goal} any more.",
                        operation="wait_until",
                        session_id=self.id,
                    )

    async def _reads(
        self, operation: str, goal: str, timeout: float | timedelta | str | None
    ) -> AsyncGenerator[Session, None]:
        """Yield the session at each read, until time is up.

        Args:
            operation: What the error calls it.
            goal: What the session is waited to be.
            timeout: How long at most; until then an outage of the service is borne, without one for
                10 minutes.
        """
        seconds = deadline_seconds(timeout, "timeout")
        deadline = self._poll.calls.clock.deadline(seconds)
        seen = self._poll.subscribe()
        away_since = math.inf
        while True:
            scope = deadline.timeout()
            try:
                with scope:
                    self.snapshot = await self._poll.wait_newer(seen)
            except QSessionsError as error:
                away_since = min(away_since, deadline.clock.monotonic())
                if ends_wait(error, deadline.clock.monotonic() - away_since, seconds):
                    raise
            except TimeoutError:
                if not scope.expired:
                    raise
                break
            else:
                seen, away_since = self._poll.version, math.inf
                yield self.snapshot
        failure = self._poll.outage.error
        why = f": {failure.message}" if failure else "."
        state = f"it could not be read in that time{why}"
        if self.snapshot is not None:
            drains = ", taking no more jobs" if self.snapshot.is_draining else ""
            away = f"; the service could not be read of late{why}" if failure else "."
            state = f"it was last seen {_state(self.snapshot)}{drains}{away}"
        message = f"the session was not {goal} within {seconds:g} s; {state}"
        raise CallTimeout(message, operation=operation, session_id=self.id, sent=False)


def attach(calls: SessionCalls, session_id: str) -> AsyncLiveSession:
    """Return a handle on a session; all handles on one session share one poll."""
    # What all share has no call's own headers.
    poll = Poll(session_id, with_changes(calls, caller=calls.owner))
    return AsyncLiveSession(calls.polls.setdefault(session_id, poll), calls)


def _has_changed(before: Session | None, after: Session) -> bool:
    """Return whether two reads differ in anything but the meters that run all the time."""
    return before is None or attrs.evolve(
        before, elapsed_time=None, active_ttl=None
    ) != attrs.evolve(after, elapsed_time=None, active_ttl=None)


def _state(snapshot: Session) -> str:
    return str(snapshot.state) if snapshot.state else "in no known state"


def _can_come(state: SessionState, snapshot: Session) -> bool:
    # Only a session that has not started is open.
    can_be_open = snapshot.started_at is None and snapshot.state in {None, SessionState.OPEN}
    return not snapshot.is_final and (state != SessionState.OPEN or can_be_open)


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
