"""The rules that one session lives by."""

import math
from collections.abc import Iterator
from copy import copy

import attrs

from qsessions.emulator.service.errors import SESSION_CLOSED
from qsessions.emulator.service.jobs import JobQueue, JobStore
from qsessions.emulator.service.values import Job, Session, State, StateChange

UNUSED_SECONDS = 30 * 60
"""How long a session that is not active may have nothing queued or running before it closes."""


class SessionLifecycle:
    """One session on its way from open to closed.

    Every command must be followed by `settle` with the same time.

    The service documents the limits but not what happens when several fall on one instant. Here a
    job that ends counts as ended, then limits apply (`max_ttl` before `active_ttl` before the
    rest), then queued jobs start. What the service documents for `max_ttl` is taken to hold for
    `active_ttl` too: running jobs finish, queued ones fail. A batch follows the same rules as a
    dedicated session; only its billing differs. Of the reasons, public sources name
    session_created, session_closed_early and session_inactivated_by_interactive_ttl; the others
    are the emulator's, in the same form.

    Attributes:
        session: The session as it stands.
        queue: Its jobs that have not ended.
        scheduled: When the service's schedule looks at this session next.
    """

    def __init__(self, session: Session, store: JobStore) -> None:
        self.queue = JobQueue(store)
        self.scheduled = math.inf
        self._store = store
        self.session = attrs.evolve(session, changes=(StateChange("open", session.created),))
        store.add_event(session.created, "open", session.id)

    def next_due(self) -> float:
        """Return when the next change falls due, or infinity. It may lie in the past."""
        return min(self.queue.next_due(), *(due for due, _, _ in self._limits()), math.inf)

    def settle(self, at: float) -> None:
        """Carry out every change that is due by `at`."""
        if self.queue.end_due(at):
            self.session = attrs.evolve(self.session, last_job_completed=at)
        self._update_counts(at)
        while passed := next((limit for limit in self._limits() if limit[0] <= at), None):
            self._enter(*passed[1:], at)
        if self.queue.start_due(at):
            first = at if self.session.started is None else self.session.started
            self.session = attrs.evolve(self.session, started=first, last_job_started=at)
            if self.session.state != "active":
                self._enter("active", "session_activated_by_job", at)
        self._update_counts(at)

    def submit(self, job: Job) -> None:
        """Queue a job. The first one sets the session's backend."""
        self.session = attrs.evolve(self.session, backend=job.backend)
        self.queue.submit(job)

    def cancel(self, job_id: str, at: float) -> None:
        """Cancel a job that is queued or running."""
        if self.queue.cancel(job_id, at):
            self.session = attrs.evolve(self.session, last_job_completed=at)

    def accept(self, accepting: bool, at: float, *, stuck: bool) -> None:
        """Set whether the session takes new jobs.

        One that takes none closes as soon as it has nothing left to do, unless it is `stuck`; it
        is stuck until it takes jobs again. A closed session stays closed.
        """
        before = self.session
        self.session = attrs.evolve(
            self.session, accepting_jobs=accepting, stuck=not accepting and (stuck or before.stuck)
        )
        if before.state != "closed" and before.accepting_jobs != accepting:
            self._store.add_event(at, "reopened" if accepting else "draining", before.id)

    def close(self, at: float) -> None:
        """Close now: queued jobs are cancelled, running ones finish. Closed stays closed."""
        if self.session.state == "closed":
            return
        stopped = self.queue.clear(at, "Cancelled", "the session was closed on request")
        self.session = attrs.evolve(self.session, stopped_queued_jobs=stopped)
        self._enter("closed", "session_closed_early", at)

    def predicted_end(self) -> Session:
        """Return the session as it will end, its last job included, if no more calls are made."""
        future, store = copy(self), JobStore()
        future._store, future.queue = store, self.queue.copy(store)  # noqa: SLF001 - same class
        while (due := future.next_due()) < math.inf:
            future.settle(due)
        return future.session

    def _limits(self) -> Iterator[tuple[float, State, str]]:
        """Yield when each limit falls, the state it leads to and the reason, by precedence."""
        session, ttls = self.session, self.session.ttls
        if session.state == "closed":
            return
        if session.started is not None:
            yield session.started + ttls.maximum, "closed", "session_closed_by_max_ttl"
        yield session.activity.reaches(ttls.active), "closed", "session_closed_by_active_ttl"
        idle = session.idle_since
        if idle is None:
            return
        if not session.accepting_jobs and not session.stuck:
            yield idle, "closed", "session_closed_by_drain"
        elif session.state == "active":
            yield idle + ttls.interactive, "inactive", "session_inactivated_by_interactive_ttl"
        elif not session.stuck:
            yield idle + UNUSED_SECONDS, "closed", "session_closed_by_disuse"

    def _enter(self, state: State, reason: str, at: float) -> None:
        changes = (*self.session.changes, StateChange(state, at))
        self.session = attrs.evolve(self.session, state=state, reason=reason, changes=changes)
        if state == "active":
            self.session = attrs.evolve(self.session, activated=at)
        elif state == "closed":
            self.session = attrs.evolve(self.session, closed=at, accepting_jobs=False)
            self.queue.clear(at, "Failed", f"the session is closed: {reason}", SESSION_CLOSED)
        self._store.add_event(at, state, self.session.id)
        self._update_counts(at)

    def _update_counts(self, at: float) -> None:
        """Count the jobs, and run the meters at the rate that state and jobs ask for."""
        session, queued, running = self.session, len(self.queue.queued), len(self.queue.running)
        active = session.state == "active"
        billed = running if session.mode == "batch" else int(active or running > 0)
        idle_since = at if session.idle_since is None else session.idle_since
        self.session = attrs.evolve(
            session,
            queued=queued,
            running=running,
            idle_since=None if queued or running else idle_since,
            metered=session.metered.with_rate(at, billed),
            activity=session.activity.with_rate(at, int(active)),
        )
