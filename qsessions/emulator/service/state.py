"""The emulated service without a network: sessions, jobs, limits and billing."""

import math
import uuid
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from operator import attrgetter
from random import Random

import attrs

from qsessions.emulator.service.errors import (
    BACKEND_NOT_FOUND,
    CONFLICT,
    JOB_NOT_FOUND,
    SESSION_CLOSED,
    ServiceError,
    invalid,
    invalid_body,
    session_not_found,
)
from qsessions.emulator.service.jobs import JobQueue, JobStore
from qsessions.emulator.service.lifecycle import SessionLifecycle
from qsessions.emulator.service.values import Event, Job, JobDetails, JobEnd, Mode, Session, Ttls

_ID_LETTERS = "0123456789abcdefghijklmnopqrstuv"


class ServiceState:
    """All sessions and jobs of one service instance.

    It owns no clock. Every call takes `now` (unix seconds) and first carries out, in order and
    each at its exact time, all that fell due since the call before. There are no timers and no
    threads, and a test that moves the clock by a year gets the same history as one that looks
    every second. A `now` earlier than one already seen counts as that one.

    Args:
        random: Where the ids come from.
        backends: The names of the backends; the first serves jobs that name none.
        queue_seconds: How long every job waits in line, even when there is room for it: the
            emulator's picture of a busy backend. The service lets the jobs of an active session
            pass the line; here they wait as well, so that a test can hold a job in the queue in
            any state.
        instance: The instance's CRN.

    Attributes:
        backends: The names of the backends.
        events: All that has happened up to the last call, oldest first.

    Raises:
        ValueError: There are no backends, or the wait is negative or endless.
    """

    def __init__(
        self,
        *,
        random: Random,
        backends: Sequence[str],
        queue_seconds: float = 0.0,
        instance: str = "",
    ) -> None:
        if not backends:
            raise ValueError("a service without backends can't run anything: name at least one")
        if not 0 <= queue_seconds < math.inf:
            raise ValueError("queue_seconds must be a finite number of seconds, 0 or more")
        self.backends = tuple(backends)
        self._random = random
        self._queue_seconds = queue_seconds
        self._instance = instance
        self._store = JobStore()
        self.events: Sequence[Event] = self._store.events
        self._sessions: dict[str, SessionLifecycle] = {}
        self._backend_queues = {name: JobQueue(self._store) for name in backends}
        self._now = -math.inf
        self._schedule: list[tuple[float, int, SessionLifecycle | JobQueue]] = []
        self._sequence = 0
        self._serial = -1
        self._deleted_usage = 0.0

    def advance(self, now: float) -> float:
        """Carry out all that is due by `now`, and return the time that it then is."""
        while self._schedule and self._schedule[0][0] <= now:
            due, _, target = heappop(self._schedule)
            # A command may have scheduled it anew; the earlier entry is then void.
            if due == target.scheduled:
                self._now = max(self._now, due)
                target.scheduled = math.inf
                self._settle(target)
        self._now = max(self._now, now)
        return self._now

    def create_session(self, now: float, *, mode: Mode, backend: str | None, ttls: Ttls) -> Session:
        """Return a new open session. Raises ServiceError (400) for an unknown backend."""
        at = self.advance(now)
        if backend is not None:
            # The contract has no 404 for this operation: an unknown backend is a wrong value.
            self.check_backend(backend, status=400)
        session = Session(
            str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            self._next_serial(),
            mode,
            backend,
            ttls,
            created=at,
            instance=self._instance,
        )
        lifecycle = self._sessions[session.id] = SessionLifecycle(session, self._store)
        self._settle(lifecycle)
        return lifecycle.session

    def session(self, now: float, session_id: str) -> Session:
        """Return one session. Raises ServiceError (404) for an unknown id."""
        self.advance(now)
        return self._lifecycle(session_id).session

    def holds(self, session_id: str | None) -> bool:
        """Return whether a session is one of this instance."""
        return session_id in self._sessions

    def sessions(self, now: float) -> dict[str, Session]:
        """Return all sessions by id, oldest first."""
        self.advance(now)
        return {session_id: entry.session for session_id, entry in self._sessions.items()}

    def predicted_end(self, now: float, session_id: str) -> Session:
        """Return a session as it will end if no more calls are made.

        Raises ServiceError (404) for an unknown id.
        """
        self.advance(now)
        return self._lifecycle(session_id).predicted_end()

    def update_session(
        self, now: float, session_id: str, *, accepting_jobs: bool, stuck: bool = False
    ) -> None:
        """Set whether a session takes new jobs. Raises ServiceError (404) for an unknown id.

        A closed session stays closed, and a `stuck` one stays open or inactive.
        """
        at = self.advance(now)
        lifecycle = self._lifecycle(session_id)
        lifecycle.accept(accepting_jobs, at, stuck=stuck)
        self._settle(lifecycle)

    def close_session(self, now: float, session_id: str) -> None:
        """Close a session, which may be closed. Raises ServiceError (404) for an unknown id."""
        at = self.advance(now)
        lifecycle = self._lifecycle(session_id)
        lifecycle.close(at)
        self._settle(lifecycle)

    def submit_job(
        self,
        now: float,
        *,
        program_id: str,
        seconds: float,
        backend: str | None = None,
        session_id: str | None = None,
        details: JobDetails | None = None,
        wait_seconds: float = 0.0,
        end: JobEnd | None = None,
    ) -> Job:
        """Return a new job that will run for `seconds`, and then end as `end` says.

        Without `backend` it runs on its session's, or on the first one. It waits `wait_seconds`
        longer than all jobs do.

        Raises:
            ServiceError: 404 for an unknown session or backend, 400 for a backend that is not its
                session's, 409 (4001) for a session that is closed or takes no jobs.
        """
        at = self.advance(now)
        session = None if session_id is None else self._lifecycle(session_id).session
        backend = backend or (session and session.backend) or self.backends[0]
        self.check_backend(backend, status=404)
        if session is not None:
            _check_takes_job(session, backend)
        job = Job(
            id="e" + "".join(self._random.choices(_ID_LETTERS, k=19)),
            serial=self._next_serial(),
            session_id=session_id,
            backend=backend,
            program_id=program_id,
            seconds=seconds,
            created=at,
            ready=round(at + self._queue_seconds + wait_seconds, 6),
            instance=self._instance,
            details=details or JobDetails(),
            end=end or JobEnd(),
        )
        target = self._runner(job)
        target.submit(job)
        self._settle(target)
        return self._store.jobs[job.id]

    def job(self, now: float, job_id: str) -> Job:
        """Return one job. Raises ServiceError (404) for an unknown id."""
        self.advance(now)
        if job_id not in self._store.jobs:
            solution = "Check the job's id and the instance."
            raise ServiceError(404, JOB_NOT_FOUND, "Job not found.", solution)
        return self._store.jobs[job_id]

    def jobs(self, now: float) -> list[Job]:
        """Return all jobs, oldest first."""
        self.advance(now)
        return list(self._store.jobs.values())

    def session_jobs(self, session_id: str, *, most_ended: int, most_queued: int) -> list[Job]:
        """Return the jobs that a session ended last, those that run, and the first in line."""
        queue = self._lifecycle(session_id).queue
        ended = self._store.ended.get(session_id, [])[-most_ended:]
        return [
            *(self._store.jobs[job_id] for job_id in ended),
            *queue.running.values(),
            *islice(queue.queued.values(), most_queued),
        ]

    def cancel_job(self, now: float, job_id: str) -> None:
        """Cancel a job. Raises ServiceError: 404 for an unknown id, 409 for one that has ended."""
        job = self.job(now, job_id)
        if job.ended is not None:
            raise ServiceError(409, CONFLICT, f"The job has ended: {job.status}.")
        target = self._runner(job)
        target.cancel(job_id, self._now)
        self._settle(target)

    def delete_job(self, now: float, job_id: str) -> None:
        """Forget a job. One that waits never runs. What it cost stays.

        Raises ServiceError: 404 for an unknown id, 400 for one that runs.
        """
        if self.job(now, job_id).status == "Running":
            raise invalid("A job that runs can't be deleted: cancel it first.")
        if self._store.jobs[job_id].ended is None:
            self.cancel_job(now, job_id)
        job = self._store.jobs[job_id]
        self._deleted_usage += job.usage(now) if job.session_id is None else 0.0
        self._store.remove(job)

    def replace_job_tags(self, now: float, job_id: str, tags: tuple[str, ...]) -> None:
        """Give a job other tags. Raises ServiceError (404) for an unknown id."""
        job = self.job(now, job_id)
        self._replace(attrs.evolve(job, details=attrs.evolve(job.details, tags=tags)))

    def fail_program(self, now: float, job_id: str, reason: str, code: int) -> None:
        """Make a job fail for its program: at its end or, if it is completed, afterwards.

        Raises ServiceError (404) for an unknown id.
        """
        job = attrs.evolve(self.job(now, job_id), end=JobEnd("Failed", reason, code))
        if job.status == "Completed":
            job = attrs.evolve(job, status="Failed", reason=reason, reason_code=code)
        self._replace(job)

    def usage(self, now: float) -> float:
        """Return the billed seconds of all sessions, and of the jobs without one."""
        sessions = sum(session.usage(now) for session in self.sessions(now).values())
        jobs = sum(job.usage(now) for job in self.jobs(now) if job.session_id is None)
        return sessions + jobs + self._deleted_usage

    def pending_jobs(self, now: float, backend: str) -> int:
        """Return how many jobs a backend has queued or running.

        Raises ServiceError (404) for an unknown backend.
        """
        self.advance(now)
        self.check_backend(backend, status=404)
        return self._store.pending[backend]

    def workloads(self, now: float) -> list[Session | Job]:
        """Return sessions, batches and jobs in the order in which they were created."""
        workloads: list[Session | Job] = [*self.sessions(now).values(), *self.jobs(now)]
        return sorted(workloads, key=attrgetter("serial"))

    def check_backend(self, backend: str, *, status: int) -> None:
        """Check that there is such a backend. Raises ServiceError with this status."""
        if backend not in self.backends:
            solution = f"Use one of: {', '.join(self.backends)}."
            raise ServiceError(status, BACKEND_NOT_FOUND, "Backend not found.", solution)

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def _settle(self, target: SessionLifecycle | JobQueue) -> None:
        """Bring a session or a backend's queue up to date, and schedule its next change."""
        target.settle(self._now)
        due = target.next_due()
        if due not in (math.inf, target.scheduled):
            self._sequence += 1
            heappush(self._schedule, (due, self._sequence, target))
        target.scheduled = due

    def _lifecycle(self, session_id: str) -> SessionLifecycle:
        if session_id not in self._sessions:
            raise session_not_found()
        return self._sessions[session_id]

    def _replace(self, job: Job) -> None:
        """Put a job in its own place, which is also where it waits or runs."""
        self._store.jobs[job.id] = job
        runner = self._runner(job)
        (runner.queue if isinstance(runner, SessionLifecycle) else runner).replace(job)

    def _runner(self, job: Job) -> SessionLifecycle | JobQueue:
        if job.session_id is None:
            return self._backend_queues[job.backend]
        return self._sessions[job.session_id]


def _check_takes_job(session: Session, backend: str) -> None:
    if session.state == "closed":
        solution = "Create a new session."
        raise ServiceError(409, SESSION_CLOSED, "The job's session is closed.", solution)
    if not session.accepting_jobs:
        # Public sources have one code for "no more jobs here"; a draining session answers with it.
        solution = "Wait for it to close and create a new session, or reopen it."
        raise ServiceError(409, SESSION_CLOSED, "The job's session does not accept jobs.", solution)
    if session.backend is not None and session.backend != backend:
        raise invalid_body("The job's backend is not its session's backend.")
