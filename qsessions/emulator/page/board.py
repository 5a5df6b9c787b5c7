"""What the page shows, as JSON values, whatever number of sessions there are."""

from collections import Counter
from collections.abc import Mapping
from heapq import nlargest
from operator import attrgetter
from typing import Self

import attrs

from qsessions.emulator.http.recording import ReceivedRequest, Recorder
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
class View:
    """All that is shown at one moment. `lanes` are the sessions by id, `requests` by number; newest first.

    Nothing in it changes by time alone: what adds up is told as its meter, `[total, at, rate]`.
    """

    summary: Mapping[str, object] = attrs.field(factory=dict)
    lanes: Mapping[str, Mapping[str, object]] = attrs.field(factory=dict)
    requests: Mapping[int, Mapping[str, object]] = attrs.field(factory=dict)

    def since(self, seen: Self) -> dict[str, object]:
        """What a page that has shown `seen` lacks."""
        if self is seen:
            return {}
        return {
            **self.summary,
            "shown": list(self.lanes),
            "lanes": [
                lane
                for session_id, lane in self.lanes.items()
                if lane != seen.lanes.get(session_id)
            ],
            "requests": [
                shown for number, shown in self.requests.items() if number not in seen.requests
            ],
        }


class Board:
    """Reckons what is to be seen, once for each change, whoever watches; nothing where nobody does."""

    def __init__(
        self, *, instances: Mapping[str, Instance], clock: ServiceClock, recorder: Recorder
    ) -> None:
        self._instances = instances
        self._clock = clock
        self._recorder = recorder
        self._revision: list[int] = []
        self._view = View()

    def look(self) -> tuple[float, View]:
        """The time, and what there is to see."""
        now = self._clock.now()
        machines = [instance.machine for instance in self._instances.values()]
        for machine in machines:
            machine.advance(now)
        revision = [self._recorder.received, *(machine.revision for machine in machines)]
        if revision != self._revision:
            self._view, self._revision = self._reckoned(now), revision
        return now, self._view

    def _reckoned(self, now: float) -> View:
        sessions = [
            session
            for instance in self._instances.values()
            for session in instance.machine.sessions(now).values()
        ]
        shown = nlargest(MOST_LANES, sessions, key=_weight)
        shown.sort(key=attrgetter("created", "serial"), reverse=True)
        received = self._recorder.received
        return View(
            self._summary(sessions, now),
            {session.id: self._lane(session) for session in shown},
            {
                received - age: _request(received - age, request)
                for age, request in enumerate(self._recorder.latest(MOST_REQUESTS))
            },
        )

    def _summary(self, sessions: list[Session], now: float) -> dict[str, object]:
        instances = self._instances.values()
        backends = next(iter(instances)).machine.backends
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
            "usage": _meter(Meter(usage, now, sum(session.metered.rate for session in sessions))),
        }

    def _lane(self, session: Session) -> dict[str, object]:
        jobs = self._instances[session.instance].machine.session_jobs(
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
            "usage": _meter(session.metered),
            "activity": _meter(session.activity),
            "changes": [[change.state, change.at] for change in session.changes[-_MOST_CHANGES:]],
            "jobs": [_job(job) for job in jobs],
        }


def _weight(session: Session) -> tuple[bool, float, int]:
    """What is open matters more than what is closed, then what something happened to last, then what is newer."""
    latest = max(
        session.changes[-1].at, session.last_job_started or 0, session.last_job_completed or 0
    )
    return session.state != "closed", latest, session.serial


def _job(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "status": job.status,
        "reason": job.reason,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
    }


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


def _meter(meter: Meter) -> list[float]:
    return [meter.total, meter.at, meter.rate]
