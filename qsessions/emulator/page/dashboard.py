"""What the page shows, as JSON values of bounded size."""

from collections import Counter
from collections.abc import Mapping
from heapq import nlargest
from operator import attrgetter
from typing import Self

import attrs

from qsessions.emulator.http.recording import ReceivedRequest, Recorder
from qsessions.emulator.programs.pubs import PROGRAMS
from qsessions.emulator.programs.runner import ProgramRunner
from qsessions.emulator.service.clock import ServiceClock
from qsessions.emulator.service.instances import Instance, queue_length
from qsessions.emulator.service.values import Job, Meter, Session

MOST_LANES = 40
MOST_REQUESTS = 40
_MOST_ENDED = 60
_MOST_QUEUED = 12
_MOST_CHANGES = 100
_LONGEST_TEXT = 200


@attrs.frozen
class Snapshot:
    """All that is shown at one moment, newest first.

    Nothing in it changes by time alone: seconds that add up are a meter, `[total, at, rate]`.

    Attributes:
        summary: What concerns all sessions.
        lanes: The sessions by id.
        requests: The requests by number.
    """

    summary: Mapping[str, object] = attrs.field(factory=dict)
    lanes: Mapping[str, Mapping[str, object]] = attrs.field(factory=dict)
    requests: Mapping[int, Mapping[str, object]] = attrs.field(factory=dict)

    def since(self, previous: Self) -> dict[str, object]:
        """Return what a page that shows `previous` needs to show this."""
        if self is previous:
            return {}
        return {
            **self.summary,
            "shown": list(self.lanes),
            "lanes": [
                lane
                for session_id, lane in self.lanes.items()
                if lane != previous.lanes.get(session_id)
            ],
            "requests": [
                shown for number, shown in self.requests.items() if number not in previous.requests
            ],
        }


class Dashboard:
    """Computes snapshots on demand, and a new one only after a change."""

    def __init__(
        self,
        *,
        instances: Mapping[str, Instance],
        clock: ServiceClock,
        recorder: Recorder,
        programs: ProgramRunner,
    ) -> None:
        self._instances = instances
        self._clock = clock
        self._recorder = recorder
        self._programs = programs
        self._revision: list[int] = []
        self._latest = Snapshot()

    def snapshot(self) -> tuple[float, Snapshot]:
        """Return the time, and what there is to see."""
        now = self._clock.now()
        states = [instance.state for instance in self._instances.values()]
        for state in states:
            state.advance(now)
        events = (len(state.events) for state in states)
        revision = [self._recorder.received, self._programs.finished, *events]
        if revision != self._revision:
            self._latest, self._revision = self._compute(now), revision
        return now, self._latest

    def _compute(self, now: float) -> Snapshot:
        sessions = [
            session
            for instance in self._instances.values()
            for session in instance.state.sessions(now).values()
        ]
        shown = nlargest(MOST_LANES, sessions, key=_weight)
        shown.sort(key=attrgetter("created", "serial"), reverse=True)
        received = self._recorder.received
        return Snapshot(
            self._summary(sessions, now),
            {session.id: self._lane(session) for session in shown},
            {
                received - age: _request(received - age, request)
                for age, request in enumerate(self._recorder.latest(MOST_REQUESTS))
            },
        )

    def _summary(self, sessions: list[Session], now: float) -> dict[str, object]:
        instances = self._instances.values()
        backends = next(iter(instances)).state.backends
        usage = sum(session.usage(now) for session in sessions)
        return {
            "speed": self._clock.speed,
            "instances": [
                {
                    "crn": instance.crn,
                    "plan": instance.terms.plan,
                    "partner": instance.terms.partner,
                }
                for instance in instances
            ],
            "queues": [
                {"backend": name, "jobs": queue_length(instances, now, name)} for name in backends
            ],
            "states": Counter(session.state for session in sessions),
            "usage": attrs.astuple(
                Meter(usage, now, sum(session.metered.rate for session in sessions))
            ),
        }

    def _lane(self, session: Session) -> dict[str, object]:
        jobs = self._instances[session.instance].state.session_jobs(
            session.id, most_ended=_MOST_ENDED, most_queued=_MOST_QUEUED
        )
        return {
            "id": session.id,
            "instance": list(self._instances).index(session.instance) + 1,
            "mode": session.mode,
            "backend": session.backend,
            "state": session.state,
            "reason": session.reason,
            "accepting": session.accepting_jobs,
            "created": session.created,
            "started": session.started,
            "closed": session.closed,
            "ttls": attrs.asdict(session.ttls),
            "queued": session.queued,
            "running": session.running,
            "usage": attrs.astuple(session.metered),
            "activity": attrs.astuple(session.activity),
            "changes": [[change.state, change.at] for change in session.changes[-_MOST_CHANGES:]],
            "jobs": [self._job(job) for job in jobs],
        }

    def _job(self, job: Job) -> dict[str, object]:
        has_results = job.status == "Completed" and job.program_id in PROGRAMS
        return {
            "id": job.id,
            "program": job.program_id[:_LONGEST_TEXT],
            "status": job.status,
            "reason": job.reason,
            "results": self._programs.shape(job.id)[:_LONGEST_TEXT] if has_results else None,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
        }


def _weight(session: Session) -> tuple[bool, float, int]:
    """Return a sort key: open sessions first, then the latest event, then the newest session."""
    latest = max(
        session.changes[-1].at, session.last_job_started or 0, session.last_job_completed or 0
    )
    return session.state != "closed", latest, session.serial


def _request(number: int, request: ReceivedRequest) -> dict[str, object]:
    query = f"?{request.query}" if request.query else ""
    return {
        "number": number,
        "at": request.at,
        "method": request.method[:_LONGEST_TEXT],
        "path": f"{request.path}{query}"[:_LONGEST_TEXT],
        "status": request.status,
        "operation": request.operation,
        "session": request.session_id and request.session_id[:_LONGEST_TEXT],
        "faults": request.faults,
    }
