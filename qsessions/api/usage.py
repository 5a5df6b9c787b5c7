"""What jobs and instances use: what to send, and how to read the answer."""

from __future__ import annotations

from urllib.parse import urlencode

import attrs
from attrs import frozen

from qsessions.api.codec import charged_seconds, decode
from qsessions.api.messages import Response
from qsessions.api.operations import Operation
from qsessions.usage import InstanceUsage, Job

_MAX_PAGE = 200


@frozen(eq=False, repr=False)
class JobPage:
    """One page of jobs, and how many there are on all pages, or None where that isn't said."""

    jobs: tuple[Job, ...]
    count: int | None = None


def usage() -> Operation[InstanceUsage]:
    """GET /v1/instances/usage."""
    return Operation(
        "usage", "GET", "/v1/instances/usage", lambda answer: decode(answer.body, InstanceUsage)
    )


def jobs_page(session_id: str, offset: int) -> Operation[JobPage]:
    """GET /v1/jobs: one page of a session's jobs, oldest first, after the first `offset` ones."""
    query = {
        "session_id": session_id,
        "sort": "ASC",
        "exclude_params": "true",
        "limit": _MAX_PAGE,
        "offset": offset,
    }
    return Operation(
        "jobs", "GET", f"/v1/jobs?{urlencode(query)}", _read_page, session_id=session_id
    )


def _read_page(answer: Response) -> JobPage:
    page = decode(answer.body, JobPage)
    return JobPage(tuple(map(_with_nested, page.jobs)), page.count)


def _with_nested(job: Job) -> Job:
    """Return a job with what the service puts into objects within it."""
    state, program = (
        value if isinstance(value := job.extra.get(name), dict) else {}
        for name in ("state", "program")
    )
    reason, program_id = state.get("reason"), program.get("id")
    return attrs.evolve(
        job,
        usage_seconds=charged_seconds(job.extra),
        reason=reason if isinstance(reason, str) and reason else None,
        program_id=program_id if isinstance(program_id, str) and program_id else None,
    )
