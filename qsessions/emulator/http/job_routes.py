"""The operations on jobs."""

from functools import partial

from aiohttp import web

from qsessions.emulator.fault_kinds import DOWN_SECONDS
from qsessions.emulator.http.access import is_loopback
from qsessions.emulator.http.calls import InstanceCall, Route
from qsessions.emulator.programs.pubs import PROGRAMS
from qsessions.emulator.programs.runner import QISKIT_VERSION
from qsessions.emulator.service.bodies import job_body, log_text, metrics_body
from qsessions.emulator.service.errors import (
    INTERNAL_ERROR,
    JOB_FAILED,
    USAGE_LIMIT_REACHED,
    ServiceError,
)
from qsessions.emulator.service.listing import read_flag, read_job_query
from qsessions.emulator.service.validation import read_job_request, read_tags
from qsessions.emulator.service.values import JobEnd


def create_job(call: InstanceCall) -> web.Response:
    """POST /v1/jobs."""
    request = read_job_request(call.body)
    is_program = request["program_id"] in PROGRAMS and "pubs" in request["details"].params
    if is_program:
        call.programs.check_origin(is_local=is_loopback(call.request.remote or ""))
    if call.fault("usage_limit") is not None:
        message = "Usage exceeds the instance's limit."
        raise ServiceError(409, USAGE_LIMIT_REACHED, message, "Raise the limit, or wait.")
    call.instance.rate.take(call.now)
    state = call.instance.state
    job = state.submit_job(
        call.now, **request, wait_seconds=_wait_for_backend(call), end=_end_of_job(call)
    )
    call.exchange.session_id = job.session_id
    if is_program:
        call.programs.submit(job.id, call.body, partial(state.fail_program, call.now, job.id))
    in_session = {} if job.session_id is None else {"session_id": job.session_id}
    return web.json_response({"id": job.id, "backend": job.backend, **in_session})


def list_jobs(call: InstanceCall) -> web.Response:
    """GET /v1/jobs: one page. `count` is how many match on all pages."""
    query = read_job_query(call.query)
    matching = query.select(call.instance.state.jobs(call.now))
    page = matching[query.offset : query.offset + query.limit]
    return web.json_response(
        {
            "jobs": [job_body(job, call.now, exclude_params=query.exclude_params) for job in page],
            "count": len(matching),
            "limit": query.limit,
            "offset": query.offset,
        }
    )


def get_job(call: InstanceCall) -> web.Response:
    """GET /v1/jobs/{id}."""
    exclude_params = read_flag(call.query, "exclude_params", default=False)
    job = call.instance.state.job(call.now, call.id)
    return web.json_response(job_body(job, call.now, exclude_params=exclude_params))


def delete_job(call: InstanceCall) -> web.Response:
    """DELETE /v1/jobs/{id}."""
    call.instance.state.delete_job(call.now, call.id)
    call.programs.forget(call.id)
    return web.Response(status=204)


def cancel_job(call: InstanceCall) -> web.Response:
    """POST /v1/jobs/{id}/cancel."""
    call.instance.state.cancel_job(call.now, call.id)
    return web.Response(status=204)


async def get_results(call: InstanceCall) -> web.Response:
    """GET /v1/jobs/{id}/results.

    What the service answers for a job that ended without a result isn't public. Here it is a 400
    with the reason where the job failed as it ran, since clients show that, and else a 204. So it
    is for the results of a private job that were read already.
    """
    state = call.instance.state
    job, results = state.job(call.now, call.id), None
    if job.status == "Completed" and job.program_id in PROGRAMS:
        results = await call.programs.results(job.id, once=job.details.private)
        job = state.job(call.now, call.id)  # it may have failed or been deleted meanwhile
    if job.status == job.end.status == "Failed":
        raise ServiceError(400, job.end.code or INTERNAL_ERROR, f"The job failed: {job.end.reason}")
    if not results:
        return web.Response(status=204)
    # JSON, but the service says that it is text, and clients made from its description need that.
    return web.Response(body=results, content_type="text/plain", charset="utf-8")


def get_metrics(call: InstanceCall) -> web.Response:
    """GET /v1/jobs/{id}/metrics."""
    job = call.instance.state.job(call.now, call.id)
    return web.json_response(metrics_body(job, call.now, QISKIT_VERSION))


def get_logs(call: InstanceCall) -> web.Response:
    """GET /v1/jobs/{id}/logs."""
    return web.Response(text=log_text(call.instance.state.job(call.now, call.id)))


def replace_tags(call: InstanceCall) -> web.Response:
    """PUT /v1/jobs/{id}/tags."""
    call.instance.state.replace_job_tags(call.now, call.id, read_tags(call.body))
    return web.Response(status=204)


ROUTES: list[Route] = [
    ("create_job", "POST", "/jobs", create_job),
    ("list_jobs", "GET", "/jobs", list_jobs),
    ("get_job", "GET", "/jobs/{id}", get_job),
    ("delete_job", "DELETE", "/jobs/{id}", delete_job),
    ("cancel_job", "POST", "/jobs/{id}/cancel", cancel_job),
    ("job_results", "GET", "/jobs/{id}/results", get_results),
    ("job_metrics", "GET", "/jobs/{id}/metrics", get_metrics),
    ("job_logs", "GET", "/jobs/{id}/logs", get_logs),
    ("job_tags", "PUT", "/jobs/{id}/tags", replace_tags),
]


def _wait_for_backend(call: InstanceCall) -> float:
    """Return how many seconds a job waits for a backend that a fault keeps from work."""
    fault = call.fault("backend_offline", "backend_paused")
    if fault is None:
        return 0.0
    return DOWN_SECONDS if fault.seconds is None else fault.seconds


def _end_of_job(call: InstanceCall) -> JobEnd:
    """Return how a fault makes a job end."""
    if call.fault("job_failure") is not None:
        return JobEnd("Failed", "The emulator's fault plan says so.", JOB_FAILED)
    if call.fault("job_cancellation") is not None:
        return JobEnd("Cancelled", "The emulator's fault plan says so.")
    return JobEnd()
