"""Jobs waiting in line and running side by side."""

import math
from collections import Counter, OrderedDict, defaultdict
from itertools import islice

import attrs

from qsessions.emulator.service.values import Event, Happening, Job, JobStatus

LANES = 5
"""How many jobs of a session, or of a backend outside sessions, run side by side."""


class Book:
    """Every job as it stands, every event in order, how many jobs each backend has before it, and each session's ended jobs."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.events: list[Event] = []
        self.pending: Counter[str] = Counter()
        self.ended: defaultdict[str | None, list[str]] = defaultdict(list)

    def note(
        self, at: float, what: Happening, session_id: str | None, job_id: str | None = None
    ) -> None:
        """Add an event."""
        self.events.append(Event(at, what, session_id, job_id))

    def enter(self, at: float, what: Happening, job: Job) -> None:
        """Store a job as it now is, with the event that made it so."""
        self.jobs[job.id] = job
        self.note(at, what, job.session_id, job.id)
        if what == "job_queued":
            self.pending[job.backend] += 1
        elif what == "job_ended":
            self.pending[job.backend] -= 1
            self.ended[job.session_id].append(job.id)


class Lanes:
    """Five jobs at a time, first come first served.

    Every session has five lanes of its own, and so has every backend for the jobs without a session. The
    service shares a backend's lanes among batches and lets a dedicated session wait for the backend to be
    free; the emulator does neither, so that what one session does never depends on another.
    """

    def __init__(self, book: Book) -> None:
        self._book = book
        self._queued: OrderedDict[str, Job] = OrderedDict()
        self._running: dict[str, Job] = {}

    @property
    def queued(self) -> int:
        """How many jobs wait."""
        return len(self._queued)

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)

    def unended(self, most_queued: int) -> list[Job]:
        """The jobs that run, then the first in line, up to `most_queued`."""
        return [*self._running.values(), *islice(self._queued.values(), most_queued)]

    def twin(self, book: Book) -> "Lanes":
        """The same jobs in lanes of their own, which write to another book."""
        twin = Lanes(book)
        twin._queued, twin._running = self._queued.copy(), self._running.copy()
        return twin

    def next_due(self) -> float:
        """When the next job ends or may start; infinity if there is none. May lie in the past."""
        due = min((job.ends for job in self._running.values()), default=math.inf)
        head = self._head()
        return due if head is None else min(due, head.ready)

    def add(self, job: Job) -> None:
        """Put a new job at the end of the line."""
        self._queued[job.id] = job
        self._book.enter(job.created, "job_queued", job)

    def end_due(self, at: float) -> bool:
        """End the jobs whose time has come; says whether there were any."""
        done = sorted(
            (job for job in self._running.values() if job.ends <= at), key=lambda job: job.ends
        )
        for job in done:
            self._end(self._running.pop(job.id), at, "Completed", None)
        return bool(done)

    def start_due(self, at: float) -> bool:
        """Start the jobs that may start and find a lane; says whether there were any."""
        started = False
        while (head := self._head()) is not None and head.ready <= at:
            job = attrs.evolve(self._queued.pop(head.id), status="Running", started=at)
            self._running[job.id] = job
            self._book.enter(at, "job_started", job)
            started = True
        return started

    def cancel(self, job_id: str, at: float) -> bool:
        """Cancel one job; says whether it had been running."""
        was_running = job_id in self._running
        job = (self._running if was_running else self._queued).pop(job_id)
        self._end(job, at, "Cancelled", "cancelled on request")
        return was_running

    def clear_queue(
        self, at: float, status: JobStatus, reason: str, code: int | None = None
    ) -> bool:
        """End every waiting job with `status`; says whether there were any."""
        waiting = list(self._queued.values())
        self._queued.clear()
        for job in waiting:
            self._end(job, at, status, reason, code)
        return bool(waiting)

    def _head(self) -> Job | None:
        """The next to start, if a lane is free."""
        if len(self._running) >= LANES:
            return None
        return next(iter(self._queued.values()), None)

    def _end(
        self, job: Job, at: float, status: JobStatus, reason: str | None, code: int | None = None
    ) -> None:
        ended = attrs.evolve(job, status=status, reason=reason, reason_code=code, ended=at)
        self._book.enter(at, "job_ended", ended)
