"""The emulated service without a network: sessions, jobs, limits and billing.

The machine owns no clock. Every call takes `now` (unix seconds) and first lets happen, in order and each at
its exact time, all that fell due since the call before: no timers, no threads, and a test that moves the
clock by a year gets the same history as one that looks every second. A `now` earlier than one already seen
counts as that one: time never runs backwards.
"""

import math
import uuid
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from random import Random

from qsessions.emulator.service.errors import (
    BACKEND_NOT_FOUND,
    CONFLICT,
    JOB_NOT_FOUND,
    SESSION_CLOSED,
    Refusal,
    invalid_body,
    session_not_found,
)
from qsessions.emulator.service.jobs import Book
from qsessions.emulator.service.lifecycle import BackendTrack, SessionTrack
from qsessions.emulator.service.values import Event, Job, JobDetails, Mode, Session, Ttls

_ID_LETTERS = "0123456789abcdefghijklmnopqrstuv"


class Machine:
    """All sessions and jobs of one service instance, whose CRN is `instance`.

    `queue_seconds` is how long every job waits in line, even when a lane is free: the emulator's picture of
    a busy backend. The service lets the jobs of an active session pass the line; here they wait as well, so
    that a test can hold a job in the queue in any state. `random` yields the ids. Raises ValueError for no
    backends, and for a wait that is negative or endless.
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
        self._book = Book()
        self._sessions: dict[str, SessionTrack] = {}
        self._unbound = {name: BackendTrack(self._book) for name in backends}
        self._serials: list[str] = []
        self._now = -math.inf
        self._due: list[tuple[float, int, SessionTrack | BackendTrack]] = []
        self._ties = count()

    @property
    def events(self) -> Sequence[Event]:
        """All that has happened up to the last call, oldest first."""
        return tuple(self._book.events)

    @property
    def revision(self) -> int:
        """A number that grows with all that happens."""
        return len(self._book.events)

    def advance(self, now: float) -> float:
        """Let happen all that is due by `now`; returns the time that it then is."""
        while self._due and self._due[0][0] <= now:
            due, _, track = heappop(self._due)
            if due != track.scheduled:
                continue  # this track was scheduled anew after a command
            self._now = max(self._now, due)
            track.settle(self._now)
            track.scheduled = math.inf
            self._schedule(track)
        self._now = max(self._now, now)
        return self._now

    def create_session(self, now: float, *, mode: Mode, backend: str | None, ttls: Ttls) -> Session:
        """A new open session. Raises Refusal (1007) for an unknown backend."""
        at = self.advance(now)
        if backend is not None:
            # The contract gives this operation no 404, so the unknown backend is a wrong value in the body.
            self._check_backend(backend, status=400)
        session_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        serial = self._serial(session_id)
        session = Session(
            session_id, serial, mode, backend, ttls, created=at, instance=self._instance
        )
        track = self._sessions[session_id] = SessionTrack(session, self._book)
        self._schedule(track)
        return track.session

    def session(self, now: float, session_id: str) -> Session:
        """One session. Raises Refusal (404) for an unknown id."""
        self.advance(now)
        return self._track(session_id).session

    def holds(self, session_id: str) -> bool:
        """Whether a session is one of this instance."""
        return session_id in self._sessions

    def sessions(self, now: float) -> dict[str, Session]:
        """All sessions by id, oldest first."""
        self.advance(now)
        return {session_id: track.session for session_id, track in self._sessions.items()}

    def open_sessions(self, now: float) -> list[Session]:
        """The sessions that are not closed, oldest first."""
        return [session for session in self.sessions(now).values() if session.state != "closed"]

    def foretold(self, now: float, session_id: str) -> Session:
        """A session as it will end if nobody touches it any more. Raises Refusal (404) for an unknown id."""
        self.advance(now)
        return self._track(session_id).foretold()

    def update_session(
        self, now: float, session_id: str, *, accepting_jobs: bool, stuck: bool = False
    ) -> None:
        """Open or shut a session for new jobs; a closed one stays closed, and a `stuck` one open or inactive. Raises Refusal (404)."""
        at = self.advance(now)
        track = self._track(session_id)
        track.accept(accepting_jobs, at, stuck=stuck)
        self._schedule(track)

    def close_session(self, now: float, session_id: str) -> None:
        """Close a session now; nothing changes if it is closed. Raises Refusal (404) for an unknown id."""
        at = self.advance(now)
        track = self._track(session_id)
        track.close(at)
        self._schedule(track)

    def submit_job(
        self,
        now: float,
        *,
        program_id: str,
        seconds: float,
        backend: str | None = None,
        session_id: str | None = None,
        details: JobDetails | None = None,
    ) -> Job:
        """A new job that will run for `seconds`.

        Without `backend` it runs on its session's, or on the first that the service has. Raises Refusal: 404
        for an unknown session or backend, 400 for a backend that is not its session's, 409 (4001) for a
        session that is closed or takes no jobs.
        """
        at = self.advance(now)
        session = None if session_id is None else self._track(session_id).session
        backend = backend or (session and session.backend) or self.backends[0]
        self._check_backend(backend, status=404)
        if session is not None:
            _check_takes_job(session, backend)
        job_id = "e" + "".join(self._random.choices(_ID_LETTERS, k=19))
        job = Job(
            id=job_id,
            serial=self._serial(job_id),
            session_id=session_id,
            backend=backend,
            program_id=program_id,
            seconds=seconds,
            created=at,
            ready=round(at + self._queue_seconds, 6),
            instance=self._instance,
            details=details or JobDetails(),
        )
        track = self._owner(job)
        track.submit(job, at)
        self._schedule(track)
        return self._book.jobs[job_id]

    def job(self, now: float, job_id: str) -> Job:
        """One job. Raises Refusal (404) for an unknown id."""
        self.advance(now)
        job = self._book.jobs.get(job_id)
        if job is None:
            raise Refusal(
                404, JOB_NOT_FOUND, "Job not found.", "Check the job's id and the instance."
            )
        return job

    def jobs(self, now: float) -> list[Job]:
        """All jobs, oldest first."""
        self.advance(now)
        return list(self._book.jobs.values())

    def session_jobs(self, session_id: str, *, most_ended: int, most_queued: int) -> list[Job]:
        """The jobs that a session ended last, those that run, and the first in line."""
        ended = self._book.ended.get(session_id, [])[-most_ended:]
        return [
            *(self._book.jobs[job_id] for job_id in ended),
            *self._track(session_id).lanes.unended(most_queued),
        ]

    def cancel_job(self, now: float, job_id: str) -> None:
        """Cancel a job. Raises Refusal: 404 for an unknown id, 409 for a job that has ended."""
        job = self.job(now, job_id)
        if job.ended is not None:
            raise Refusal(409, CONFLICT, f"The job has ended: {job.status}.")
        track = self._owner(job)
        track.cancel(job_id, self._now)
        self._schedule(track)

    def pending_jobs(self, now: float, backend: str) -> int:
        """How many jobs a backend has queued or running. Raises Refusal (404) for an unknown backend."""
        self.advance(now)
        self._check_backend(backend, status=404)
        return self._book.pending[backend]

    def workloads(self, now: float) -> Iterator[Session | Job]:
        """Sessions, batches and jobs in the order in which they were created."""
        self.advance(now)
        for workload_id in self._serials:
            track = self._sessions.get(workload_id)
            yield self._book.jobs[workload_id] if track is None else track.session

    def _serial(self, workload_id: str) -> int:
        self._serials.append(workload_id)
        return len(self._serials) - 1

    def _schedule(self, track: SessionTrack | BackendTrack) -> None:
        due = track.next_due()
        if due not in (math.inf, track.scheduled):
            heappush(self._due, (due, next(self._ties), track))
        track.scheduled = due

    def _track(self, session_id: str) -> SessionTrack:
        track = self._sessions.get(session_id)
        if track is None:
            raise session_not_found()
        return track

    def _owner(self, job: Job) -> SessionTrack | BackendTrack:
        return (
            self._unbound[job.backend] if job.session_id is None else self._sessions[job.session_id]
        )

    def _check_backend(self, backend: str, *, status: int) -> None:
        if backend not in self._unbound:
            known = ", ".join(self.backends)
            raise Refusal(status, BACKEND_NOT_FOUND, "Backend not found.", f"Use one of: {known}.")


def _check_takes_job(session: Session, backend: str) -> None:
    if session.state == "closed":
        raise Refusal(409, SESSION_CLOSED, "The job's session is closed.", "Create a new session.")
    if not session.accepting_jobs:
        # Public sources tell one code for "no more jobs here"; a session that drains answers with it too.
        solution = "Wait for it to close and create a new session, or reopen it."
        raise Refusal(409, SESSION_CLOSED, "The job's session does not accept jobs.", solution)
    if session.backend is not None and session.backend != backend:
        raise invalid_body("The job's backend is not its session's backend.")
