"""The values that the emulated service is made of.

Times are unix seconds, durations are seconds.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import attrs

Plan = Literal["paid", "open"]
Mode = Literal["dedicated", "batch"]
State = Literal["open", "active", "inactive", "closed"]
JobStatus = Literal["Queued", "Running", "Completed", "Cancelled", "Failed"]
WorkloadMode = Literal["job", "session", "batch"]
WorkloadStatus = Literal["pending", "in_progress", "failed", "completed", "canceled"]
EventKind = Literal[State, "draining", "reopened", "job_queued", "job_started", "job_ended"]

USER_ID = "IBMid-emulated"
"""The one user of the emulated account."""

JOB_WORKLOAD: Mapping[JobStatus, WorkloadStatus] = MappingProxyType(
    {
        "Queued": "pending",
        "Running": "in_progress",
        "Completed": "completed",
        "Cancelled": "canceled",
        "Failed": "failed",
    }
)


@attrs.frozen
class Terms:
    """The terms of an instance's owner.

    Attributes:
        plan: The plan.
        partner: Whether the owner is a channel partner.
        interactive_ttl: The idle limit in seconds of every session, unless the owner is a partner;
            None is the plan's. A shorter `max_ttl` cuts it.

    Raises:
        ValueError: The plan is unknown, or the idle limit below a second.
    """

    plan: Plan = "paid"
    partner: bool = False
    interactive_ttl: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.plan not in {"paid", "open"}:
            raise ValueError("plan must be 'paid' or 'open'")
        if self.interactive_ttl is not None and self.interactive_ttl < 1:
            raise ValueError("interactive_ttl must be at least one second")


@attrs.frozen
class Ttls:
    """A session's three limits in whole seconds; `interactive <= active <= maximum`."""

    maximum: int
    interactive: int
    active: int


@attrs.frozen
class StateChange:
    """One entry of a session's `timestamps`."""

    state: State
    at: float


@attrs.frozen
class Event:
    """One thing that happened to a session or to a job. Usage can be computed from these alone."""

    at: float
    what: EventKind
    session_id: str | None
    job_id: str | None = None


@attrs.frozen
class Meter:
    """Seconds that add up at a rate: 0 stands still, 1 is wall-clock time, 3 is three jobs."""

    total: float = 0.0
    at: float = 0.0
    rate: int = 0

    def with_rate(self, at: float, rate: int) -> "Meter":
        """Return the same meter, running at `rate` from `at` on."""
        return self if rate == self.rate else Meter(self.read(at), at, rate)

    def read(self, now: float) -> float:
        """Return the seconds that have added up by `now`."""
        return self.total + self.rate * (now - self.at) if self.rate else self.total

    def reaches(self, total: float) -> float:
        """Return when it will show `total`, or infinity while it stands still."""
        return self.at + (total - self.total) / self.rate if self.rate else math.inf


@attrs.frozen
class JobDetails:
    """What a job was submitted with that does not change how it runs."""

    params: Mapping[str, object] = attrs.field(factory=dict)
    tags: tuple[str, ...] = ()
    private: bool = False


@attrs.frozen
class JobEnd:
    """How a job ends that nobody stops: its status, and why, where it isn't Completed."""

    status: JobStatus = "Completed"
    reason: str | None = None
    code: int | None = None


@attrs.frozen
class Job:
    """One job.

    `serial` numbers the jobs and sessions of an instance in the order of their creation. `seconds`
    is how long the job runs; it may start at `ready`.
    """

    workload_mode: ClassVar[WorkloadMode] = "job"

    id: str
    serial: int
    session_id: str | None
    backend: str
    program_id: str
    seconds: float
    created: float
    ready: float
    instance: str = ""
    details: JobDetails = attrs.field(factory=JobDetails)
    end: JobEnd = JobEnd()
    status: JobStatus = "Queued"
    reason: str | None = None
    reason_code: int | None = None
    started: float | None = None
    ended: float | None = None

    @property
    def workload_status(self) -> WorkloadStatus:
        """The status as the list of workloads has it."""
        return JOB_WORKLOAD[self.status]

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that it was submitted with."""
        return self.details.tags

    @property
    def ends(self) -> float:
        """When it ends unless it is cancelled; infinity while it is queued."""
        return math.inf if self.started is None else round(self.started + self.seconds, 6)

    def usage(self, now: float) -> float:
        """Return the seconds that it has run by `now`."""
        if self.started is None:
            return 0.0
        return (now if self.ended is None else self.ended) - self.started


@attrs.frozen
class Session:
    """One session or batch, as it stood after its last event. `instance` is its CRN.

    `metered` counts the billed seconds and `activity` the active seconds that `active_ttl` limits:
    `usage` and `active_left` read them. `stuck` means that a fault keeps the draining session from
    closing. No operation gives a session `tags`.
    """

    tags: ClassVar[tuple[str, ...]] = ()

    id: str
    serial: int
    mode: Mode
    backend: str | None
    ttls: Ttls
    created: float
    instance: str = ""
    state: State = "open"
    reason: str = "session_created"
    accepting_jobs: bool = True
    stuck: bool = False
    started: float | None = None
    activated: float | None = None
    closed: float | None = None
    last_job_started: float | None = None
    last_job_completed: float | None = None
    stopped_queued_jobs: bool = False
    queued: int = 0
    running: int = 0
    idle_since: float | None = None
    changes: tuple[StateChange, ...] = ()
    metered: Meter = Meter()
    activity: Meter = Meter()

    @property
    def workload_mode(self) -> WorkloadMode:
        """The mode as the list of workloads has it: a dedicated session is a `session`."""
        return "batch" if self.mode == "batch" else "session"

    @property
    def workload_status(self) -> WorkloadStatus:
        """The status as the list of workloads has it."""
        if self.state == "closed":
            return "canceled" if self.stopped_queued_jobs else "completed"
        return "pending" if self.state == "open" else "in_progress"

    def usage(self, now: float) -> float:
        """Return the billed seconds by `now`.

        They are wall-clock time of a dedicated session, and the run time of a batch's jobs.
        """
        return self.metered.read(now)

    def active_left(self, now: float) -> float:
        """Return the seconds of active time left at `now`. A closed session keeps its rest."""
        return max(0.0, self.ttls.active - self.activity.read(now))
