"""What happened to each session that is open: for the reader of a failed test."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

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


def leak_report(
    instances: Iterable[Instance], requests: Sequence[ReceivedRequest], now: float
) -> Iterator[tuple[Session, str]]:
    """Yield each session that is open at `now` with its story, which is written when asked for.

    The story has the request that created the session, its events, and what will end it.
    """
    created_by = {
        request.session_id: request for request in requests if request.operation == "create"
    }
    for instance in instances:
        sessions = instance.state.sessions(now).values()
        open_sessions = [session for session in sessions if session.state != "closed"]
        events: dict[str | None, list[Event]] = {session.id: [] for session in open_sessions}
        for event in instance.state.events:
            if event.session_id in events:
                events[event.session_id].append(event)
        for session in open_sessions:
            lines = [
                _headline(session, now),
                _origin(session, created_by.get(session.id)),
                *(_event(event, session) for event in events[session.id]),
                _outlook(instance.state.predicted_end(now, session.id), now),
            ]
            yield session, "\n    ".join(lines)


def check_leaks(report: Iterable[tuple[Session, str]], ignoring: Collection[str]) -> None:
    """Raise AssertionError with the stories of the sessions, if any aren't to be ignored."""
    stories = [story for session, story in report if session.id not in ignoring]
    if stories:
        count = "1 session was" if len(stories) == 1 else f"{len(stories)} sessions were"
        raise AssertionError("\n  ".join([f"{count} left open:", *stories]))


def _headline(session: Session, now: float) -> str:
    backend = f" on {session.backend}" if session.backend else ""
    jobs = "takes jobs" if session.accepting_jobs else "takes no new jobs"
    return (
        f"{session.id}: {session.mode}{backend}, {session.state}, {jobs}; "
        f"{session.queued} queued and {session.running} running; "
        f"usage so far {_time_span(session.usage(now))}; "
        f"open for {_time_span(now - session.created)}"
    )


def _origin(session: Session, request: ReceivedRequest | None) -> str:
    created = f"created at {date_time(session.created)}"
    if request is None:
        return f"{created}; no request for it is on record"
    client = request.headers.get("user-agent", "a client without a User-Agent")
    body = request.body[:_LONGEST_BODY]
    return f"{created} by {request.method} {request.path} from {client}, with {body}"


def _event(event: Event, session: Session) -> str:
    job = "" if event.job_id is None else f"job {event.job_id} "
    return f"+{_time_span(event.at - session.created)}: {job}{_WORDS.get(event.what, event.what)}"


def _outlook(end: Session, now: float) -> str:
    if end.closed is None:
        return "left alone it never closes: its draining is stuck"
    wait, usage = _time_span(end.closed - now), _time_span(end.usage(math.inf))
    return f"left alone it closes in {wait} ({end.reason}), at a usage of {usage}"


def _time_span(seconds: float) -> str:
    """Return a time span as people write it, such as 1h 5m 30s."""
    whole = round(seconds, 3)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count:.0f}{unit}")
    if whole or not parts:
        parts.append(f"{round(whole, 3):g}s")
    return " ".join(parts)
