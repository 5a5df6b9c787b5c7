"""What the service answers, as JSON values."""

import math
from datetime import UTC, datetime, timedelta

from qsessions.emulator.refusals import Refusal
from qsessions.emulator.values import Job, Session

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def session_body(session: Session, now: float, user_id: str) -> dict[str, object]:
    """A session with all its fields.

    Where the contract leaves a choice: `elapsed_time` is always a number, 0 before the first job starts, and
    goes on after the close while a job still runs. `activated_at` is the latest time that the session turned
    active. `active_ttl` is rounded up, so that 0 means spent. `state_reason` is null until the state first
    changes. `backend_name` is null until a backend is known.
    """
    return {
        "id": session.id,
        "backend_name": session.backend,
        "mode": session.mode,
        "state": session.state,
        "state_reason": session.reason,
        "accepting_jobs": session.accepting_jobs,
        "started_at": date_time(session.started),
        "activated_at": date_time(session.activated),
        "closed_at": date_time(session.closed),
        "last_job_started": date_time(session.last_job_started),
        "last_job_completed": date_time(session.last_job_completed),
        "interactive_ttl": session.ttls.interactive,
        "max_ttl": session.ttls.maximum,
        # Rounding first keeps a clock's last bits from adding a second.
        "active_ttl": math.ceil(round(session.active_left(now), 3)),
        "timestamps": [
            {"status": change.state, "timestamp": date_time(change.at)} for change in session.changes
        ],
        "user_id": user_id,
        "elapsed_time": _usage(session, now),
    }


def job_body(job: Job) -> dict[str, object]:
    """A job."""
    return {
        "id": job.id,
        "backend": job.backend,
        "session_id": job.session_id,
        "program": {"id": job.program_id},
        "created": date_time(job.created),
        "ended": date_time(job.ended),
        "status": job.status,
        "state": {"status": job.status, "reason": job.reason, "reason_code": job.reason_code},
    }


def workload_body(workload: Session | Job, now: float, *, crn: str, user_id: str) -> dict[str, object]:
    """A session, a batch or a job as the list of workloads shows it."""
    return {
        "id": workload.id,
        "created": date_time(workload.created),
        "ended": date_time(workload.ended if isinstance(workload, Job) else workload.closed),
        "backend": workload.backend,
        "instance": crn,
        "user_id": user_id,
        "accepting_jobs": None if isinstance(workload, Job) else workload.accepting_jobs,
        "mode": workload.workload_mode,
        "status": workload.workload_status,
        "status_reason": workload.reason,
        "tags": [],
        "usage_seconds": _usage(workload, now),
    }


def error_body(refusal: Refusal, trace: str) -> dict[str, object]:
    """The service's error form. Codes are integers, as the service has been seen to send them."""
    error: dict[str, object] = {"code": refusal.code, "message": refusal.message}
    if refusal.solution is not None:
        error["solution"] = refusal.solution
    return {"errors": [error], "trace": trace}


def date_time(at: float | None) -> str | None:
    """Unix seconds as a UTC date and time, to the microsecond."""
    if at is None:
        return None
    return (_EPOCH + timedelta(seconds=at)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _usage(workload: Session | Job, now: float) -> float:
    return round(workload.usage(now), 6)
