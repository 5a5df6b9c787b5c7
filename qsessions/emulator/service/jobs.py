"""Jobs waiting in line and running side by side."""

import math
from collections import Counter, OrderedDict, defaultdict

import attrs

from qsessions.emulator.service.values import Event, EventKind, Job, JobStatus

MOST_RUNNING = 5
"""How many jobs of a session, or of a backend outside sessions, run side by side."""


class JobStore:
    """The jobs and the events of one service instance.

    Attributes:
        jobs: Every job as it stands, by id, oldest first.
        events: Every event of jobs and sessions, oldest first.
        pending: How many jobs each backend has queued or running.
        ended: The ids of the jobs that ended, by session, in the order in which they ended.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.events: list[Event] = []
        self.pending: Counter[str] = Counter()
        self.ended: defaultdict[str | None, list[str]] = defaultdict(list)

    def add_event(
        self, at: float, what: EventKind, session_id: str | None, job_id: str | None = None
    ) -> None:
        """Append an event."""
        self.events.append(Event(at, what, session_id, job_id))

    def remove(self, job: Job) -> None:
        """Forget a job that has ended. Its events stay."""
        del self.jobs[job.id]
        self.ended[job.session_id].remove(job.id)

    def put(self, at: float, what: EventKind, job: Job) -> None:
        """Store a job's new state together with the event that caused it."""
        self.jobs[job.id] = job
        self.add_event(at, what, job.session_id, job.id)
        if what == "job_queued":
            self.pending[job.backend] += 1
        elif what == "job_ended":
            self.pending[job.backend] -= 1
            self.ended[job.session_id].append(job.id)


class JobQueue:
    """Runs five jobs at a time, first come first served.

    Every session has a queue of its own, and so has every backend for the jobs without a session.
    The service shares a backend's five places among batches and lets a dedicated session wait for
    the backend to be free. The emulator does neither, so that what one session does never depends
    on another.

    Attributes:
        queued: The jobs that wait, first in line first.
        running: The jobs that run.
        scheduled: When the service's schedule looks at this queue next.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self.queued: OrderedDict[str, Job] = OrderedDict()
        self.running: dict[str, Job] = {}
        self.scheduled = math.inf

    def copy(self, store: JobStore) -> "JobQueue":
        """Return a queue of the same jobs that writes to another store."""
        copy = JobQueue(store)
        copy.queued, copy.running = self.queued.copy(), self.running.copy()
        return copy

    def next_due(self) -> float:
        """Return when the next job ends or may start, or infinity. It may lie in the past."""
        due = min((job.ends for job in self.running.values()), default=math.inf)
        head = self._head()
        return due if head is None else min(due, head.ready)

    def submit(self, job: Job) -> None:
        """Put a new job at the end of the line."""
        self.queued[job.id] = job
        self._store.put(job.created, "job_queued", job)

    def settle(self, at: float) -> None:
        """End and start the jobs that are due by `at`."""
        self.end_due(at)
        self.start_due(at)

    def end_due(self, at: float) -> bool:
        """End the jobs whose time has come, and return whether there were any."""
        due = [job for job in self.running.values() if job.ends <= at]
        for job in sorted(due, key=lambda job: job.ends):
            end = job.end
            self._end(self.running.pop(job.id), at, end.status, end.reason, end.code)
        return bool(due)

    def start_due(self, at: float) -> bool:
        """Start the jobs that may start and find a place, and return whether there were any."""
        started = False
        while (head := self._head()) is not None and head.ready <= at:
            job = attrs.evolve(self.queued.pop(head.id), status="Running", started=at)
            self.running[job.id] = job
            self._store.put(at, "job_started", job)
            started = True
        return started

    def replace(self, job: Job) -> None:
        """Put a job that waits or runs here in its own place."""
        for jobs in (self.queued, self.running):
            if job.id in jobs:
                jobs[job.id] = job

    def cancel(self, job_id: str, at: float) -> bool:
        """Cancel a job that has not ended, and return whether it was running."""
        was_running = job_id in self.running
        job = (self.running if was_running else self.queued).pop(job_id)
        self._end(job, at, "Cancelled", "cancelled on request")
        return was_running

    def clear(self, at: float, status: JobStatus, reason: str, code: int | None = None) -> bool:
        """End every waiting job with `status`, and return whether there were any."""
        waiting = list(self.queued.values())
        self.queued.clear()
        for job in waiting:
            self._end(job, at, status, reason, code)
        return bool(waiting)

    def _head(self) -> Job | None:
        """Return the next job to start, if there is a place for it."""
        if len(self.running) >= MOST_RUNNING:
            return None
        return next(iter(self.queued.values()), None)

    def _end(
        self, job: Job, at: float, status: JobStatus, reason: str | None, code: int | None = None
    ) -> None:
        ended = attrs.evolve(job, status=status, reason=reason, reason_code=code, ended=at)
        self._store.put(at, "job_ended", ended)
