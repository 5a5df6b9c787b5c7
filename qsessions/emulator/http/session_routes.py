"""The operations on sessions, and the list of workloads."""

from urllib.parse import urlencode

from aiohttp import web

from qsessions.emulator.fault_kinds import YOUNG_SECONDS
from qsessions.emulator.http.calls import InstanceCall, Route
from qsessions.emulator.service.bodies import session_body, workload_body
from qsessions.emulator.service.errors import invalid, session_not_found
from qsessions.emulator.service.listing import cut_page, read_workload_query
from qsessions.emulator.service.validation import read_accepting_jobs, read_session_request

_LONGEST_SESSION_ID = 500


def create_session(call: InstanceCall) -> web.Response:
    """POST /v1/sessions."""
    request = read_session_request(call.body, call.instance.terms)
    session = call.instance.state.create_session(call.now, **request)
    call.exchange.session_id = session.id
    return web.json_response(session_body(session, call.now))


def get_session(call: InstanceCall) -> web.Response:
    """GET /v1/sessions/{id}."""
    session = call.instance.state.session(call.now, _session_id(call))
    return web.json_response(session_body(session, call.now))


def update_session(call: InstanceCall) -> web.Response:
    """PATCH /v1/sessions/{id}."""
    session_id = _session_id(call)
    accepting = read_accepting_jobs(call.body)
    call.instance.state.update_session(
        call.now, session_id, accepting_jobs=accepting, stuck=call.fault("stuck_drain") is not None
    )
    return web.Response(status=204)


def close_session(call: InstanceCall) -> web.Response:
    """DELETE /v1/sessions/{id}/close."""
    call.instance.state.close_session(call.now, _session_id(call))
    return web.Response(status=204)


def find_workloads(call: InstanceCall) -> web.Response:
    """GET /v1/workloads: one page, whose links keep the caller's host and all its filters."""
    query = read_workload_query(call.query)
    page = cut_page(call.instance.state.workloads(call.now), query)
    workloads = [workload_body(workload, call.now) for workload in page.workloads]
    return web.json_response(
        {
            "total_count": page.total,
            "limit": query.limit,
            "workloads": workloads,
            **_page_link(call.request, "next", page.next),
            **_page_link(call.request, "previous", page.previous),
        }
    )


ROUTES: list[Route] = [
    ("create", "POST", "/sessions", create_session),
    ("get", "GET", "/sessions/{id}", get_session),
    ("update", "PATCH", "/sessions/{id}", update_session),
    ("close", "DELETE", "/sessions/{id}/close", close_session),
    ("workloads", "GET", "/workloads", find_workloads),
]


def _session_id(call: InstanceCall) -> str:
    if len(call.id) > _LONGEST_SESSION_ID:
        raise invalid(f"A session's id has at most {_LONGEST_SESSION_ID} characters.")
    call.exchange.session_id = call.id
    young = call.fault("young_404")
    if young is not None:
        session = call.instance.state.session(call.now, call.id)
        if call.now - session.created < (YOUNG_SECONDS if young.seconds is None else young.seconds):
            raise session_not_found()
    return call.id


def _page_link(request: web.Request, name: str, cursor: str | None) -> dict[str, dict[str, str]]:
    if cursor is None:
        return {}
    # Without a Host header aiohttp would ask the name service for one, and block the loop.
    host = request.headers.get("Host") or "{}:{}".format(*request.get_extra_info("sockname"))
    kept = [(key, value) for key, value in request.query.items() if key not in {"next", "previous"}]
    return {
        name: {
            "href": f"{request.scheme}://{host}{request.path}?{urlencode([*kept, (name, cursor)])}"
        }
    }
