"""The rules that one session lives by."""

import math
from collections.abc import Iterator
from copy import copy

import attrs

from qsessions.emulator.service.errors import SESSION_CLOSED
from qsessions.emulator.service.jobs import Book, Lanes
from qsessions.emulator.service.values import Job, Session, State, StateChange

UNUSED_SECONDS = 30 * 60
"""How long a session that is not active may have nothing queued or running before it closes."""


class BackendTrack:
    """The jobs of one backend that belong to no session."""

    def __init__(self, book: Book) -> None:
        self.lanes = Lanes(book)
        self.scheduled = math.inf

    def next_due(self) -> float:
        """When something happens next by itself; infinity for never."""
        return self.lanes.next_due()

    def settle(self, at: float) -> None:
        """Let happen what is due by `at`."""
        self.lanes.end_due(at)
        self.lanes.start_due(at)

    def submit(self, job: Job, at: float) -> None:
        """Queue a job, and start it if it may start at once."""
        self.lanes.add(job)
        self.settle(at)

    def cancel(self, job_id: str, at: float) -> None:
        """Cancel a job that is queued or running."""
        self.lanes.cancel(job_id, at)
        self.settle(at)


class SessionTrack:
    """One session on its way from open to closed.

    The service tells the limits but not what happens when several fall on one instant. Here a job that ends
    counts as ended, then limits apply (`max_ttl` before `active_ttl` before the rest), then queued jobs
    start. What the service tells of `max_ttl` is taken to hold for `active_ttl` too: running jobs finish,
    queued ones fail. A batch follows the same rules as a dedicated session; only its billing differs. Of the
    reasons, public sources tell session_created, session_closed_early and session_inactivated_by_interactive_ttl;
    the others are the emulator's, in the same form.
    """

    def __init__(self, session: Session, book: Book) -> None:
        self.lanes = Lanes(book)
        self.scheduled = math.inf
        self._book = book
        self.session = attrs.evolve(session, changes=(StateChange("open", session.created),))
        book.note(session.created, "open", session.id)
        self._take_stock(session.created)

    def next_due(self) -> float:
        """When something happens next by itself; infinity for never. May lie in the past, which means now."""
        return min(self.lanes.next_due(), *(due for due, _, _ in self._limits()), math.inf)

    def settle(self, at: float) -> None:
        """Let happen what is due by `at`."""
        if self.lanes.end_due(at):
            self.session = attrs.evolve(self.session, last_job_completed=at)
        self._take_stock(at)
        while (passed := self._passed_limit(at)) is not None:
            self._enter(*passed, at)
        if self.lanes.start_due(at):
            self._job_started(at)
        self._take_stock(at)

    def submit(self, job: Job, at: float) -> None:
        """Queue a job, and start it if it may start at once. The first one tells the session its backend."""
        self.session = attrs.evolve(self.session, backend=job.backend)
        self.lanes.add(job)
        self.settle(at)

    def cancel(self, job_id: str, at: float) -> None:
        """Cancel a job that is queued or running."""
        if self.lanes.cancel(job_id, at):
            self.session = attrs.evolve(self.session, last_job_completed=at)
        self.settle(at)

    def accept(self, accepting: bool, at: float, *, stuck: bool) -> None:
        """Open the session for new jobs, or shut it: then it closes as soon as it has nothing left to do, unless it is `stuck`.

        A stuck one stays so until it is opened again. Closed stays closed.
        """
        before = self.session
        self.session = attrs.evolve(
            before, accepting_jobs=accepting, stuck=not accepting and (stuck or before.stuck)
        )
        if before.state != "closed" and before.accepting_jobs != accepting:
            self._book.note(at, "reopened" if accepting else "draining", before.id)
        self.settle(at)

    def close(self, at: float) -> None:
        """Close now: queued jobs end cancelled, running ones go on to their end. Closed stays closed."""
        if self.session.state == "closed":
            return
        stopped = self.lanes.clear_queue(at, "Cancelled", "the session was closed on request")
        self.session = attrs.evolve(self.session, stopped_queued_jobs=stopped)
        self._enter("closed", "session_closed_early", at)

    def foretold(self) -> Session:
        """The session as it will end if nobody touches it any more, its last job included."""
        twin, book = copy(self), Book()
        twin._book, twin.lanes = book, self.lanes.twin(book)  # noqa: SLF001 - its own kind
        while (due := twin.next_due()) < math.inf:
            twin.settle(due)
        return twin.session

    def _limits(self) -> Iterator[tuple[float, State, str]]:
        """When each limit falls, where it leads and why, the weightiest first."""
        session, ttls = self.session, self.session.ttls
        if session.state == "closed":
            return
        if session.started is not None:
            yield session.started + ttls.maximum, "closed", "session_closed_by_max_ttl"
        yield session.activity.reaches(ttls.active), "closed", "session_closed_by_active_ttl"
        if session.idle_since is None:
            return
        if not session.accepting_jobs and not session.stuck:
            yield session.idle_since, "closed", "session_closed_by_drain"
        elif session.state == "active":
            yield (
                session.idle_since + ttls.interactive,
                "inactive",
                "session_inactivated_by_interactive_ttl",
            )
        elif not session.stuck:
            yield session.idle_since + UNUSED_SECONDS, "closed", "session_closed_by_disuse"

    def _passed_limit(self, at: float) -> tuple[State, str] | None:
        return next(((state, reason) for due, state, reason in self._limits() if due <= at), None)

    def _enter(self, state: State, reason: str, at: float) -> None:
        changes = (*self.session.changes, StateChange(state, at))
        self.session = attrs.evolve(self.session, state=state, reason=reason, changes=changes)
        if state == "active":
            self.session = attrs.evolve(self.session, activated=at)
        if state == "closed":
            self.session = attrs.evolve(self.session, closed=at, accepting_jobs=False)
            self.lanes.clear_queue(at, "Failed", f"the session is closed: {reason}", SESSION_CLOSED)
        self._book.note(at, state, self.session.id)
        self._take_stock(at)

    def _job_started(self, at: float) -> None:
        first = at if self.session.started is None else self.session.started
        self.session = attrs.evolve(self.session, started=first, last_job_started=at)
        if self.session.state != "active":
            self._enter("active", "session_activated_by_job", at)

    def _take_stock(self, at: float) -> None:
        """Count the jobs, and let the meters run as state and jobs now ask."""
        session, queued, running = self.session, self.lanes.queued, self.lanes.running
        active = session.state == "active"
        billed = running if session.mode == "batch" else int(active or running > 0)
        idle_since = at if session.idle_since is None else session.idle_since
        self.session = attrs.evolve(
            session,
            queued=queued,
            running=running,
            idle_since=None if queued or running else idle_since,
            metered=session.metered.turned(at, billed),
            activity=session.activity.turned(at, int(active)),
        )
