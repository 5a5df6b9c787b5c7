"""The emulated service's rules, told as a table and searched for holes by hypothesis."""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from qsessions.emulator.service.errors import ServiceError
from qsessions.emulator.service.state import ServiceState
from qsessions.emulator.service.values import Event, Job, Meter, Mode, Session, Ttls
from tests.support.tables import table

BACKENDS = ("ibm_fez", "ibm_torino")
TTLS = Ttls(maximum=600, interactive=60, active=600)


def seeded(seed: int) -> Random:
    """A source of the same ids in every run."""
    return Random(seed)  # noqa: S311 - nothing here is secret


class Bench:
    """A machine with one session made at 0, and short words for what is done to it."""

    def __init__(
        self, *, mode: Mode = "dedicated", ttls: Ttls = TTLS, queue_seconds: float = 0.0
    ) -> None:
        self.machine = ServiceState(
            random=seeded(1), backends=BACKENDS, queue_seconds=queue_seconds
        )
        self.id = self.machine.create_session(0, mode=mode, backend=None, ttls=ttls).id
        self.jobs: list[str] = []

    def job(self, now: float, seconds: float = 10) -> str:
        """Queue a job in the session."""
        job = self.machine.submit_job(
            now, program_id="sampler", seconds=seconds, session_id=self.id
        )
        self.jobs.append(job.id)
        return job.id

    def drain(self, now: float) -> None:
        """Shut the session for new jobs."""
        self.machine.update_session(now, self.id, accepting_jobs=False)

    def stick(self, now: float) -> None:
        """Shut it for new jobs, and have it stuck so."""
        self.machine.update_session(now, self.id, accepting_jobs=False, stuck=True)

    def reopen(self, now: float) -> None:
        """Open it again."""
        self.machine.update_session(now, self.id, accepting_jobs=True)

    def close(self, now: float) -> None:
        """Close the session."""
        self.machine.close_session(now, self.id)

    def cancel(self, now: float, index: int = 0) -> None:
        """Cancel one of the jobs."""
        self.machine.cancel_job(now, self.jobs[index])

    def session(self, now: float) -> Session:
        """The session as it stands."""
        return self.machine.session(now, self.id)

    def statuses(self, now: float) -> list[str]:
        """Where the jobs stand, oldest first."""
        return [job.status for job in self.machine.jobs(now)]


def facts(bench: Bench, now: float, names: Sequence[str]) -> dict[str, object]:
    """The named facts of the bench's session at a moment."""
    session = bench.session(now)
    special: dict[str, object] = {
        "usage": session.usage(now),
        "active_left": session.active_left(now),
        "jobs": bench.statuses(now),
        "path": [(change.state, change.at) for change in session.changes],
    }
    return {name: special[name] if name in special else getattr(session, name) for name in names}


Step = tuple[Any, ...]

RULES: list[Any] = [
    ("open waits", {}, [], 1799, {"state": "open", "started": None, "usage": 0, "queued": 0}),
    (
        "first job activates",
        {},
        [("job", 10)],
        12,
        {
            "state": "active",
            "started": 10,
            "activated": 10,
            "last_job_started": 10,
            "backend": "ibm_fez",
        },
    ),
    (
        "idle time counts while active",
        {},
        [("job", 10)],
        79,
        {"state": "active", "last_job_completed": 20, "usage": 69, "active_left": 531},
    ),
    (
        "interactive_ttl ends the active time",
        {},
        [("job", 10)],
        200,
        {"state": "inactive", "usage": 70, "active_left": 530, "workload_status": "in_progress"},
    ),
    (
        "next job brings it back, the gap is not billed",
        {},
        [("job", 10), ("job", 100)],
        105,
        {
            "path": [("open", 0), ("active", 10), ("inactive", 80), ("active", 100)],
            "started": 10,
            "activated": 100,
            "usage": 75,
        },
    ),
    (
        "a job at the very end of interactive_ttl comes too late",
        {},
        [("job", 10), ("job", 80)],
        85,
        {"path": [("open", 0), ("active", 10), ("inactive", 80), ("active", 80)], "usage": 75},
    ),
    (
        "idle counts from the last end, not from the last start",
        {},
        [("job", 10, 30), ("job", 20, 5)],
        99.75,
        {"state": "active", "last_job_completed": 40, "last_job_started": 20},
    ),
    (
        "a waiting job keeps it active",
        {"queue_seconds": 100},
        [("job", 0), ("job", 100)],
        200,
        {"state": "active", "jobs": ["Completed", "Running"], "usage": 100},
    ),
    (
        "a waiting job does not bring it back before it starts",
        {"queue_seconds": 100},
        [("job", 0), ("job", 175)],
        274,
        {"state": "inactive", "jobs": ["Completed", "Queued"], "usage": 70},
    ),
    ("unused", {}, [], 1800, {"state": "closed", "reason": "session_closed_by_disuse"}),
    (
        "unused counts from the last job's end",
        {"ttls": Ttls(9000, 60, 9000)},
        [("job", 10)],
        1820,
        {"state": "closed", "closed": 1820, "usage": 70, "workload_status": "completed"},
    ),
    (
        "an active session is never unused",
        {"ttls": Ttls(9000, 2000, 9000)},
        [("job", 10)],
        2020,
        {"path": [("open", 0), ("active", 10), ("inactive", 2020), ("closed", 2020)]},
    ),
    (
        "a waiting job means it is in use",
        {"queue_seconds": 3000},
        [("job", 100)],
        3099,
        {"state": "open", "queued": 1},
    ),
    (
        "unused counts from a cancelled wait too",
        {"queue_seconds": 3000},
        [("job", 100), ("cancel", 200)],
        2000,
        {
            "state": "closed",
            "closed": 2000,
            "jobs": ["Cancelled"],
            "started": None,
            "last_job_completed": None,
        },
    ),
    (
        "max_ttl closes, running jobs go on and count",
        {},
        [("job", 10, 700), ("job", 20, 595)],
        650,
        {
            "state": "closed",
            "closed": 610,
            "reason": "session_closed_by_max_ttl",
            "usage": 640,
            "active_left": 0,
            "jobs": ["Running", "Completed"],
        },
    ),
    (
        "usage ends with the last job",
        {},
        [("job", 10, 700)],
        5000,
        {"jobs": ["Completed"], "usage": 700, "last_job_completed": 710, "running": 0},
    ),
    (
        "max_ttl fails what waits",
        {},
        [("job", 10, 700)] * 6,
        610,
        {"jobs": ["Running"] * 5 + ["Failed"], "queued": 0, "workload_status": "completed"},
    ),
    (
        "at max_ttl a job ends before the limit and none starts after",
        {},
        [("job", 0, 600)] * 6,
        600,
        {"jobs": ["Completed"] * 5 + ["Failed"]},
    ),
    (
        "max_ttl never pauses",
        {"ttls": Ttls(600, 60, 100)},
        [("job", 10)],
        610,
        {"state": "closed", "reason": "session_closed_by_max_ttl", "closed": 610, "usage": 70},
    ),
    (
        "active_ttl pauses while inactive",
        {"ttls": Ttls(600, 60, 100)},
        [("job", 10), ("job", 200, 500), *[("job", 201, 1)] * 5],
        701,
        {
            "state": "closed",
            "closed": 230,
            "reason": "session_closed_by_active_ttl",
            "active_left": 0,
            "usage": 570,
            "jobs": ["Completed"] * 7,
        },
    ),
    (
        "active_ttl fails what waits",
        {"ttls": Ttls(600, 60, 60)},
        [("job", 10, 100)] * 6,
        70,
        {"state": "closed", "jobs": ["Running"] * 5 + ["Failed"]},
    ),
    (
        "spent weighs more than idle",
        {"ttls": Ttls(600, 60, 60)},
        [("job", 10, 0)],
        70,
        {"state": "closed", "reason": "session_closed_by_active_ttl"},
    ),
    (
        "drain empty",
        {},
        [("drain", 5)],
        5,
        {"state": "closed", "closed": 5, "reason": "session_closed_by_drain"},
    ),
    (
        "drain while idle closes at once",
        {},
        [("job", 10), ("drain", 30)],
        30,
        {"state": "closed", "closed": 30, "usage": 20},
    ),
    (
        "drain while inactive",
        {},
        [("job", 10), ("drain", 100)],
        100,
        {"state": "closed", "closed": 100, "usage": 70},
    ),
    (
        "drain lets jobs finish",
        {},
        [*[("job", 10)] * 6, ("drain", 12)],
        29,
        {"state": "active", "accepting_jobs": False, "jobs": ["Completed"] * 5 + ["Running"]},
    ),
    (
        "drain closes with the last end",
        {},
        [*[("job", 10)] * 6, ("drain", 12)],
        30,
        {"state": "closed", "closed": 30, "usage": 20, "workload_status": "completed"},
    ),
    (
        "drain closes with the last cancel",
        {},
        [("job", 10), ("drain", 12), ("cancel", 15)],
        15,
        {
            "state": "closed",
            "closed": 15,
            "jobs": ["Cancelled"],
            "last_job_completed": 15,
            "usage": 5,
        },
    ),
    (
        "reopen",
        {},
        [("job", 10), ("drain", 12), ("reopen", 15), ("reopen", 16), ("job", 30)],
        31,
        {"state": "active", "accepting_jobs": True, "jobs": ["Completed", "Running"]},
    ),
    (
        "close cancels what waits and lets run what runs",
        {},
        [*[("job", 10, 50)] * 7, ("close", 20)],
        30,
        {
            "state": "closed",
            "closed": 20,
            "accepting_jobs": False,
            "jobs": ["Running"] * 5 + ["Cancelled"] * 2,
            "workload_status": "canceled",
            "usage": 20,
            "active_left": 590,
        },
    ),
    (
        "close again changes nothing",
        {},
        [("job", 10), ("close", 15), ("close", 16)],
        100,
        {
            "closed": 15,
            "usage": 10,
            "workload_status": "completed",
            "reason": "session_closed_early",
        },
    ),
    (
        "drain after the close changes nothing",
        {},
        [("job", 10), ("close", 15), ("drain", 16)],
        100,
        {"closed": 15, "usage": 10, "accepting_jobs": False, "reason": "session_closed_early"},
    ),
    (
        "reopen after the close reopens nothing",
        {},
        [("job", 10), ("close", 15), ("reopen", 16)],
        5000,
        {
            "state": "closed",
            "closed": 15,
            "usage": 10,
            "accepting_jobs": True,
            "path": [("open", 0), ("active", 10), ("closed", 15)],
        },
    ),
    (
        "a stuck drain leaves an open session open",
        {},
        [("stick", 5)],
        1e6,
        {"state": "open", "accepting_jobs": False, "reason": "session_created"},
    ),
    (
        "a stuck drain leaves it inactive, and drained again too",
        {},
        [("job", 10), ("stick", 30), ("drain", 40)],
        609,
        {
            "path": [("open", 0), ("active", 10), ("inactive", 80)],
            "accepting_jobs": False,
            "reason": "session_inactivated_by_interactive_ttl",
        },
    ),
    (
        "max_ttl ends a stuck drain",
        {},
        [("job", 10), ("stick", 30)],
        610,
        {"state": "closed", "reason": "session_closed_by_max_ttl", "usage": 70},
    ),
    (
        "close ends a stuck drain",
        {},
        [("stick", 5), ("close", 9)],
        9,
        {"state": "closed", "reason": "session_closed_early"},
    ),
    (
        "reopen ends a stuck drain",
        {},
        [("stick", 5), ("reopen", 6), ("drain", 7)],
        7,
        {"state": "closed", "reason": "session_closed_by_drain"},
    ),
    ("close while open", {}, [("close", 3)], 3, {"state": "closed", "usage": 0}),
    (
        "a batch is billed by run time",
        {"mode": "batch"},
        [*[("job", 10)] * 6, ("job", 15, 100)],
        40,
        {"usage": 5 * 10 + 10 + 20, "state": "active"},
    ),
    (
        "a batch is billed for what runs on after its close",
        {"mode": "batch"},
        [("job", 10), ("job", 10, 40), ("close", 20), ("cancel", 30, 1)],
        40,
        {"usage": 30, "state": "closed", "jobs": ["Completed", "Cancelled"]},
    ),
    ("a job of no time", {}, [("job", 10, 0)], 10, {"state": "active", "jobs": ["Completed"]}),
    (
        "a cancelled job frees the session",
        {},
        [("job", 10, 100), ("cancel", 30)],
        90,
        {"state": "inactive", "usage": 80, "last_job_completed": 30},
    ),
]


@table(("case", "options", "steps", "at", "expected"), RULES)
def test_lifecycle_rule(
    case: str, options: dict[str, Any], steps: list[Step], at: float, expected: dict[str, object]
) -> None:
    """After the steps, each at its time, the session stands as the contract says."""
    bench = Bench(**options)
    for verb, *arguments in steps:
        getattr(bench, verb)(*arguments)
    assert facts(bench, at, list(expected)) == expected, case


def test_unused_open_session_is_pending_until_it_closes() -> None:
    """The list of workloads words an open session as pending and a batch as batch."""
    bench = Bench(mode="batch")
    assert (bench.session(0).workload_status, bench.session(0).workload_mode) == (
        "pending",
        "batch",
    )
    assert Bench().session(0).workload_mode == "session"


def test_five_lanes_first_come_first_served() -> None:
    """Five jobs run side by side, and each that ends lets in the one that waited longest."""
    bench = Bench()
    for seconds in (30, 10, 20, 30, 30, 5, 5, 5):
        bench.job(0, seconds)
    started = [job.started for job in bench.machine.jobs(100)]
    assert started == [0, 0, 0, 0, 0, 10, 15, 20]


def test_sessions_do_not_share_lanes() -> None:
    """A full session delays neither another session nor jobs without one."""
    bench = Bench()
    for _ in range(6):
        bench.job(0)
    other = bench.machine.create_session(0, mode="batch", backend="ibm_fez", ttls=TTLS)
    inside = bench.machine.submit_job(0, program_id="p", seconds=1, session_id=other.id)
    outside = bench.machine.submit_job(0, program_id="p", seconds=1)
    assert (inside.status, outside.status) == ("Running", "Running")


def test_jobs_without_a_session_share_their_backends_lanes() -> None:
    """Outside sessions a backend runs five jobs at once, and another backend has lanes of its own."""
    machine = ServiceState(random=seeded(1), backends=BACKENDS)
    jobs = [machine.submit_job(0, program_id="p", seconds=10) for _ in range(6)]
    other = machine.submit_job(0, program_id="p", seconds=10, backend="ibm_torino")
    assert [job.status for job in (*jobs, other)] == ["Running"] * 5 + ["Queued", "Running"]
    assert (machine.pending_jobs(1, "ibm_fez"), machine.pending_jobs(1, "ibm_torino")) == (6, 1)
    machine.cancel_job(4, jobs[0].id)
    assert machine.job(5, jobs[5].id).started == 4
    assert machine.job(5, jobs[5].id).usage(6) == 2
    assert machine.pending_jobs(100, "ibm_fez") == 0


def test_the_failed_job_tells_why() -> None:
    """A job that its closed session left behind carries the service's code 4001 and the limit's
    name.
    """
    bench = Bench()
    for _ in range(6):
        bench.job(0, 1000)
    job = bench.machine.job(600, bench.jobs[5])
    assert (job.reason, job.reason_code) == (
        "the session is closed: session_closed_by_max_ttl",
        4001,
    )
    assert (job.usage(700), job.workload_status, job.ended) == (0, "failed", 600)


def test_a_program_that_fails() -> None:
    """A job whose program fails runs as long as it would have, and fails then: also one that waits
    in its session. One that is completed fails afterwards, one that ended otherwise stays as it is.
    """
    bench = Bench()
    completed, *others, waiting, cancelled = (bench.job(0, 10) for _ in range(8))
    bench.machine.cancel_job(0, cancelled)
    bench.machine.fail_program(0, waiting, "why", 7)
    bench.machine.fail_program(0, cancelled, "why", 7)
    bench.machine.fail_program(0, others[0], "why", 7)
    assert bench.machine.job(9, others[0]).reason is None
    jobs = {job.id: job for job in bench.machine.jobs(100)}
    assert (jobs[completed].status, jobs[completed].reason) == ("Completed", None)
    bench.machine.fail_program(100, completed, "late", 8)
    late = bench.machine.job(100, completed)
    assert (late.status, late.reason, late.reason_code) == ("Failed", "late", 8)
    for job_id, started in ((others[0], 0), (waiting, 10)):
        job = jobs[job_id]
        assert (job.status, job.reason, job.reason_code) == ("Failed", "why", 7)
        assert (job.started, job.ended) == (started, started + 10)
    assert (jobs[cancelled].status, jobs[cancelled].reason_code) == ("Cancelled", None)
    assert [jobs[job_id].status for job_id in others[1:]] == ["Completed"] * 4
    with pytest.raises(ServiceError) as unknown:
        bench.machine.fail_program(100, "none", "why", 7)
    assert unknown.value.status == 404


def test_the_first_job_gives_the_session_its_backend() -> None:
    """A session without a backend takes its first job's, and from then on no other."""
    bench = Bench()
    machine = bench.machine
    machine.submit_job(0, program_id="p", seconds=1, session_id=bench.id, backend="ibm_torino")
    assert bench.session(0).backend == "ibm_torino"
    with pytest.raises(ServiceError) as refused:
        machine.submit_job(0, program_id="p", seconds=1, session_id=bench.id, backend="ibm_fez")
    assert refused.value.status == 400
    assert bench.machine.job(0, bench.job(0)).backend == "ibm_torino"


REFUSALS: list[Any] = [
    ("job into a closed session", [("close", 1)], ("job", 2), 409, 4001),
    ("job into a draining session", [("job", 1), ("drain", 2)], ("job", 3), 409, 4001),
    (
        "job into a closed session that says it accepts jobs",
        [("close", 1), ("reopen", 2)],
        ("job", 3),
        409,
        4001,
    ),
    ("cancel an ended job", [("job", 1)], ("cancel", 11), 409, 9409),
]


@table(("case", "steps", "last", "status", "code"), REFUSALS)
def test_refused_step(case: str, steps: list[Step], last: Step, status: int, code: int) -> None:
    """What the session's state forbids is refused with the status and code that the contract gives."""
    bench = Bench()
    for verb, *arguments in steps:
        getattr(bench, verb)(*arguments)
    verb, *arguments = last
    with pytest.raises(ServiceError) as refused:
        getattr(bench, verb)(*arguments)
    assert (refused.value.status, refused.value.code) == (status, code), case
    assert str(code) in str(refused.value)


def test_unknown_names_are_refused() -> None:
    """An unknown session, job or backend is told apart from every other mistake."""
    machine = ServiceState(random=seeded(1), backends=BACKENDS)
    calls: list[Callable[[], object]] = [
        lambda: machine.session(0, "none"),
        lambda: machine.update_session(0, "none", accepting_jobs=True),
        lambda: machine.close_session(0, "none"),
        lambda: machine.submit_job(0, program_id="p", seconds=1, session_id="none"),
        lambda: machine.submit_job(0, program_id="p", seconds=1, backend="none"),
        lambda: machine.job(0, "none"),
        lambda: machine.cancel_job(0, "none"),
        lambda: machine.pending_jobs(0, "none"),
    ]
    for call in calls:
        with pytest.raises(ServiceError) as refused:
            call()
        assert refused.value.status == 404
    with pytest.raises(ServiceError) as refused:
        machine.create_session(0, mode="batch", backend="none", ttls=TTLS)
    assert (refused.value.status, refused.value.code) == (400, 1007)


@table("options", [{"backends": []}, {"queue_seconds": -1.0}, {"queue_seconds": float("inf")}])
def test_impossible_machine(options: dict[str, Any]) -> None:
    """A machine that could never run a job is refused when it is made."""
    with pytest.raises(ValueError, match=r"backend|queue_seconds"):
        ServiceState(random=seeded(1), **{"backends": BACKENDS, **options})


def test_time_never_runs_backwards() -> None:
    """A clock that is set back counts as standing still, so that no history is rewritten."""
    bench = Bench()
    bench.job(100)
    assert bench.session(50).started == 100
    assert bench.machine.advance(50) == 100


def test_a_second_deadline_on_the_old_moment_does_no_harm() -> None:
    """A deadline that moved away and back again takes effect once."""
    bench = Bench()
    bench.job(0, 10)
    bench.job(5, 1)
    bench.cancel(5.5, 1)
    assert [event.what for event in bench.machine.events].count("inactive") == 0
    bench.session(100)
    assert [event.what for event in bench.machine.events].count("inactive") == 1


def test_ids_depend_on_the_seed_alone() -> None:
    """The same seed gives the same ids, and no id comes twice."""
    first, second = Bench(), Bench()
    assert first.id == second.id
    assert first.job(1) == second.job(1) != second.job(1)


def test_workloads_in_the_order_of_creation() -> None:
    """Sessions and jobs are listed together, oldest first."""
    bench = Bench()
    job = bench.job(1)
    later = bench.machine.create_session(2, mode="batch", backend=None, ttls=TTLS)
    assert [workload.id for workload in bench.machine.workloads(3)] == [bench.id, job, later.id]
    assert list(bench.machine.sessions(3)) == [bench.id, later.id]


def test_a_meter_that_stands_still_reaches_nothing() -> None:
    """A meter adds up at its rate, and while it stands still it has no moment of reaching anything."""
    meter = Meter().with_rate(10, 2)
    assert (meter.read(15), meter.reaches(20)) == (10, 20)
    still = meter.with_rate(15, 0)
    assert (still.read(100), still.reaches(11)) == (10, float("inf"))


def reckoned_usage(events: Sequence[Event], session: Session, now: float) -> float:
    """Billed seconds of a session from nothing but what happened: the way a customer checks a bill."""
    spans: list[tuple[float, float]] = []
    begun: dict[str, float] = {}
    for event in events:
        if event.session_id != session.id:
            continue
        if event.what == "job_started":
            begun[str(event.job_id)] = event.at
        elif event.what == "job_ended" and event.job_id in begun:
            spans.append((begun.pop(event.job_id), event.at))
        elif event.what == "active" and session.mode == "dedicated":
            begun["the session"] = event.at
        elif event.what in {"inactive", "closed"} and "the session" in begun:
            spans.append((begun.pop("the session"), event.at))
    spans += [(start, now) for start in begun.values()]
    if session.mode == "batch":
        return sum(end - start for start, end in spans)
    covered, seen = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, seen))
        seen = max(seen, end)
    return covered


# Quarters of a second are exact in binary, so that every sum of them can be compared with ==.
waits = st.one_of(st.integers(0, 40), st.integers(0, 4000), st.integers(0, 200_000)).map(
    lambda n: n / 4
)
job_seconds = st.integers(0, 800).map(lambda n: n / 4)
limits = st.lists(st.integers(1, 400), min_size=3, max_size=3).map(sorted)


class ServiceRules(RuleBasedStateMachine):
    """Any sequence of requests at any times. A twin that is looked at all the time tells the same
    history.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000.0
        self.machine = ServiceState(random=seeded(7), backends=BACKENDS, queue_seconds=2.5)
        self.twin = ServiceState(random=seeded(7), backends=BACKENDS, queue_seconds=2.5)
        self.session_ids: list[str] = []
        self.job_ids: list[str] = []

    @rule(wait=waits)
    def pass_time(self, wait: float) -> None:
        """Let time pass; the twin is asked at many moments in between, the machine is not."""
        until = self.now + wait
        step = max(0.25, int(wait) / 64)
        while self.now + step < until:
            self.now += step
            self.twin.advance(self.now)
        self.now = until

    @rule(
        mode=st.sampled_from(["dedicated", "batch"]),
        ttls=limits,
        backend=st.sampled_from([None, *BACKENDS]),
    )
    def create(self, mode: Mode, ttls: list[int], backend: str | None) -> None:
        """Make a session."""
        interactive, active, maximum = ttls
        made = self._both(
            "create_session", mode=mode, backend=backend, ttls=Ttls(maximum, interactive, active)
        )
        self.session_ids.append(made.id)

    @precondition(lambda self: self.session_ids)
    @rule(data=st.data(), seconds=job_seconds, count=st.integers(1, 7))
    def submit(self, data: st.DataObject, seconds: float, count: int) -> None:
        """Queue jobs in a session; one that is closed or drains must refuse."""
        session_id = data.draw(st.sampled_from(self.session_ids))
        for _ in range(count):
            session = self.machine.session(self.now, session_id)
            takes = session.state != "closed" and session.accepting_jobs
            job = self._both("submit_job", program_id="p", seconds=seconds, session_id=session_id)
            assert (job is not None) == takes
            if job is not None:
                self.job_ids.append(job.id)

    @rule(seconds=job_seconds, backend=st.sampled_from(BACKENDS))
    def submit_alone(self, seconds: float, backend: str) -> None:
        """Queue a job outside sessions."""
        job = self._both("submit_job", program_id="p", seconds=seconds, backend=backend)
        self.job_ids.append(job.id)

    @precondition(lambda self: self.job_ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a job, ended ones too."""
        self._both("cancel_job", data.draw(st.sampled_from(self.job_ids)))

    @precondition(lambda self: self.session_ids)
    @rule(data=st.data(), accepting=st.booleans())
    def update(self, data: st.DataObject, accepting: bool) -> None:
        """Drain or reopen a session."""
        self._both(
            "update_session", data.draw(st.sampled_from(self.session_ids)), accepting_jobs=accepting
        )

    @precondition(lambda self: self.session_ids)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """Close a session."""
        session_id = data.draw(st.sampled_from(self.session_ids))
        self._both("close_session", session_id)
        assert self.machine.session(self.now, session_id).state == "closed"

    @precondition(lambda self: self.session_ids)
    @rule(data=st.data())
    def foretell(self, data: st.DataObject) -> None:
        """What is foretold of a session is what becomes of it if nobody touches it, to the last
        second billed.
        """
        session_id = data.draw(st.sampled_from(self.session_ids))
        foretold = self.machine.predicted_end(self.now, session_id)
        future = deepcopy(self.machine)
        assert foretold == future.session(self.now + 1e9, session_id)
        assert foretold.state == "closed"

    def _both(self, verb: str, *arguments: object, **options: object) -> Any:
        answers: list[Any] = []
        for machine in (self.twin, self.machine):
            try:
                answers.append(getattr(machine, verb)(self.now, *arguments, **options))
            except ServiceError:
                answers.append(None)
        assert answers[0] == answers[1]
        return answers[1]

    @invariant()
    def looking_changes_nothing(self) -> None:
        """The history does not depend on how often one looks."""
        self.machine.advance(self.now)
        self.twin.advance(self.now)
        assert self.machine.events == self.twin.events

    @invariant()
    def the_bill_is_right(self) -> None:
        """Usage equals what the events add up to."""
        for session in self.machine.sessions(self.now).values():
            assert session.usage(self.now) == reckoned_usage(self.machine.events, session, self.now)

    @invariant()
    def every_session_is_sound(self) -> None:
        """State, limits and counts of each session agree with each other."""
        jobs = self.machine.jobs(self.now)
        for session in self.machine.sessions(self.now).values():
            own = [job for job in jobs if job.session_id == session.id]
            check_counts(session, own)
            check_limits(session, self.now)
            check_path(session)

    @invariant()
    def every_job_is_sound(self) -> None:
        """Jobs go from queued to running to ended, start in the order they came, and run as long as
        asked.
        """
        assert sorted(self.machine.events, key=lambda event: event.at) == list(self.machine.events)
        lines: dict[str | None, list[float]] = {}
        pending: Counter[str] = Counter()
        for job in self.machine.jobs(self.now):
            check_job(job)
            pending[job.backend] += job.ended is None
            if job.started is not None:
                lines.setdefault(job.session_id or job.backend, []).append(job.started)
        assert all(line == sorted(line) for line in lines.values())
        assert all(self.machine.pending_jobs(self.now, name) == pending[name] for name in BACKENDS)
        assert len(list(self.machine.workloads(self.now))) == len(self.session_ids) + len(
            self.job_ids
        )


def check_counts(session: Session, own: list[Job]) -> None:
    """The session's counts are those of its jobs, and fit its state."""
    counts = Counter(job.status for job in own)
    assert (session.queued, session.running) == (counts["Queued"], counts["Running"])
    assert session.running <= 5
    assert (session.idle_since is None) == (session.queued + session.running > 0)
    if session.state == "closed":
        assert not session.queued
        assert session.closed is not None
    elif session.state != "active":
        assert not session.running
    if session.stopped_queued_jobs:
        assert session.workload_status == "canceled"
    starts = [job.started for job in own if job.started is not None]
    assert session.started == min(starts, default=None)
    assert session.last_job_started == max(starts, default=None)


def check_limits(session: Session, now: float) -> None:
    """No limit is passed without its effect."""
    end = now if session.closed is None else session.closed
    assert session.active_left(now) == session.ttls.active - session.activity.read(now)
    if session.started is not None:
        assert end <= session.started + session.ttls.maximum
    if session.state != "closed" and session.idle_since is not None:
        assert session.accepting_jobs
        idle = now - session.idle_since
        assert idle < (session.ttls.interactive if session.state == "active" else 1800)


def check_path(session: Session) -> None:
    """States follow each other only as the contract's picture allows."""
    allowed = {
        ("open", "active"),
        ("open", "closed"),
        ("active", "inactive"),
        ("active", "closed"),
        ("inactive", "active"),
        ("inactive", "closed"),
    }
    states = [change.state for change in session.changes]
    assert states[0] == "open"
    assert states[-1] == session.state
    assert set(pairwise(states)) <= allowed
    times = [change.at for change in session.changes]
    assert times == sorted(times)


def check_job(job: Job) -> None:
    """A job's times fit its status."""
    if job.started is not None:
        assert job.started >= job.ready
    assert (job.ended is None) == (job.status in {"Queued", "Running"})
    if job.status == "Completed":
        assert job.ended == job.ends
        assert job.ended is not None
        assert job.usage(job.ended) == job.seconds
    if job.status == "Failed":
        assert job.started is None


def test_service_rules() -> None:
    """Whatever is asked and whenever, the emulated service keeps its rules."""
    run_state_machine_as_test(ServiceRules, settings=settings(stateful_step_count=30))
