"""The answers of the service, as JSON values."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from qsessions.emulator.service.errors import ServiceError
from qsessions.emulator.service.values import USER_ID, Job, Session

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MORE_INFO = "https://quantum.cloud.ibm.com/docs/errors"


def session_body(session: Session, now: float) -> dict[str, object]:
    """Return a session, without the times of what has not happened yet.

    Where the contract leaves a choice: `elapsed_time` is always a number, 0 before the first job
    starts, and goes on after the close while a job still runs. `activated_at` is the latest time
    that the session turned active. `active_ttl` is rounded up, so that 0 means spent.
    `backend_name`, which is required, is null until a backend is known.
    """
    return {
        "id": session.id,
        "backend_name": session.backend,
        "mode": session.mode,
        "state": session.state,
        "state_reason": session.reason,
        "accepting_jobs": session.accepting_jobs,
        **_times(
            started_at=session.started,
            activated_at=session.activated,
            closed_at=session.closed,
            last_job_started=session.last_job_started,
            last_job_completed=session.last_job_completed,
        ),
        "interactive_ttl": session.ttls.interactive,
        "max_ttl": session.ttls.maximum,
        # Rounding first keeps a clock's last bits from adding a second.
        "active_ttl": math.ceil(round(session.active_left(now), 3)),
        "timestamps": [
            {"status": change.state, "timestamp": date_time(change.at)}
            for change in session.changes
        ],
        "user_id": USER_ID,
        "elapsed_time": _usage(session, now),
    }


def job_body(job: Job, now: float, *, exclude_params: bool) -> dict[str, object]:
    """Return a job, a private one without its parameters.

    Its `cost`, whose unit is not public, is the whole seconds that it takes.
    """
    is_shown = not (exclude_params or job.details.private)
    state = _present(status=job.status, reason=job.reason, reason_code=job.reason_code)
    return {
        "id": job.id,
        "cost": math.ceil(job.seconds),
        "user_id": USER_ID,
        "backend": job.backend,
        **_present(session_id=job.session_id, params=job.details.params if is_shown else None),
        "program": {"id": job.program_id},
        "tags": job.tags,
        "private": job.details.private,
        **_times(created=job.created, ended=job.ended),
        "status": job.status,
        "state": state,
        "usage": _usage_body(job, now),
        "estimated_running_time_seconds": job.seconds,
    }


def metrics_body(job: Job, now: float, qiskit_version: str | None) -> dict[str, object]:
    """Return a job's times, usage and Qiskit version, in the service's form."""
    seconds = _usage(job, now)
    return {
        "timestamps": _times(created=job.created, running=job.started, finished=job.ended),
        "usage": {**_usage_body(job, now), "quantum_seconds": seconds, "seconds": seconds},
        "estimated_running_time_seconds": job.seconds,
        **_present(qiskit_version=qiskit_version),
    }


def log_text(job: Job) -> str:
    """Return a job's log: a line for each thing that happened to it."""
    steps = ((job.created, "queued"), (job.started, "running"), (job.ended, job.status.lower()))
    lines = [f"{date_time(at)} job {job.id} {what}" for at, what in steps if at is not None]
    if job.reason is not None:
        lines[-1] += f": {job.reason}"
    return "".join(f"{line}\n" for line in lines)


def workload_body(workload: Session | Job, now: float) -> dict[str, object]:
    """Return a session, a batch or a job as the list of workloads shows it."""
    own: Mapping[str, object]
    if isinstance(workload, Job):
        ended, own = workload.ended, {"estimated_running_time_seconds": workload.seconds}
    else:
        ended, own = workload.closed, {"accepting_jobs": workload.accepting_jobs}
    return {
        "id": workload.id,
        **_times(created=workload.created, ended=ended),
        "backend": workload.backend,
        "instance": workload.instance,
        "user_id": USER_ID,
        "mode": workload.workload_mode,
        "status": workload.workload_status,
        **_present(status_reason=workload.reason),
        "tags": workload.tags,
        "usage_seconds": _usage(workload, now),
        "usage": _usage_body(workload, now),
        **own,
    }


def error_body(error: ServiceError, trace: str) -> dict[str, object]:
    """Return the service's error form. Codes are integers, as the service was seen to send them."""
    fields = _present(
        code=error.code,
        message=error.message,
        solution=error.solution,
        more_info=f"{_MORE_INFO}#{error.code}",
    )
    return {"errors": [fields], "trace": trace}


def date_time(at: float) -> str:
    """Return unix seconds as a UTC date and time, in whole milliseconds that have passed."""
    return (
        (_EPOCH + timedelta(seconds=at)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _times(**times: float | None) -> dict[str, object]:
    return {name: date_time(at) for name, at in times.items() if at is not None}


def _present(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _usage_body(workload: Session | Job, now: float) -> dict[str, object]:
    body: dict[str, object] = {"qpu_charge_time_seconds": _usage(workload, now)}
    if isinstance(workload, Job):
        body["status"] = "pending" if workload.ended is None else "complete"
    return body


def _usage(workload: Session | Job, now: float) -> float:
    return round(workload.usage(now), 6)
