"""Telling what became of a session: for whoever wonders why it was left open."""

import math
from collections.abc import Iterable, Iterator, Sequence

from qsessions.emulator.http.recording import ReceivedRequest
from qsessions.emulator.service.bodies import date_time
from qsessions.emulator.service.instances import Instance
from qsessions.emulator.service.values import Event, Session

_LONGEST_BODY = 300
_WORDS = {
    "draining": "takes no new jobs",
    "reopened": "takes jobs again",
    "job_queued": "queued",
    "job_started": "started",
    "job_ended": "ended",
}


def stories(
    instances: Iterable[Instance], requests: Sequence[ReceivedRequest], now: float
) -> Iterator[tuple[Session, str]]:
    """Each session that is open at `now` with its story, told when it is asked for: what made it, what happened, what will end it."""
    made_by = {
        request.session_id: request
        for request in requests
        if request.operation == "create" and request.session_id is not None
    }
    for instance in instances:
        open_sessions = {session.id: session for session in instance.machine.open_sessions(now)}
        events: dict[str, list[Event]] = {session_id: [] for session_id in open_sessions}
        for event in instance.machine.events:
            if event.session_id in events:
                events[event.session_id].append(event)
        for session_id, session in open_sessions.items():
            end = instance.machine.foretold(now, session_id)
            lines = [
                _headline(session, now),
                _origin(session, made_by.get(session_id)),
                *(_happened(event, session) for event in events[session_id]),
                _outlook(end, now),
            ]
            yield session, "\n    ".join(lines)


def _headline(session: Session, now: float) -> str:
    backend = f" on {session.backend}" if session.backend else ""
    jobs = "takes jobs" if session.accepting_jobs else "takes no new jobs"
    return (
        f"{session.id}: {session.mode}{backend}, {session.state}, {jobs}; {session.queued} queued and "
        f"{session.running} running; usage so far {_spoken(session.usage(now))}; open for {_spoken(now - session.created)}"
    )


def _origin(session: Session, request: ReceivedRequest | None) -> str:
    if request is None:
        return f"created at {date_time(session.created)}; no request for it is on record"
    client = request.headers.get("user-agent", "a client without a User-Agent")
    return f"created at {date_time(session.created)} by {request.method} {request.path} from {client}, with {request.body[:_LONGEST_BODY]}"


def _happened(event: Event, session: Session) -> str:
    job = "" if event.job_id is None else f"job {event.job_id} "
    return f"+{_spoken(event.at - session.created)}: {job}{_WORDS.get(event.what, event.what)}"


def _outlook(end: Session, now: float) -> str:
    if end.closed is None:
        return "left alone it never closes: its draining is stuck"
    left = end.closed - now
    return f"left alone it closes in {_spoken(left)} ({end.reason}), at a usage of {_spoken(end.usage(math.inf))}"


def _spoken(seconds: float) -> str:
    """A time span as people write it: 1h 5m 30s."""
    whole = round(seconds, 3)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if whole or not parts:
        parts.append(f"{round(whole, 3):g}s")
    return " ".join(parts)
