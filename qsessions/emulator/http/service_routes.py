"""The emulated service over HTTP: the operations of the contract, and the token endpoint."""

from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlencode

import attrs
from aiohttp import web

from qsessions.emulator.faults import YOUNG_SECONDS, Fault, FaultKind
from qsessions.emulator.http.credentials import Authenticator
from qsessions.emulator.http.iam import TokenIssuer
from qsessions.emulator.http.middleware import Handler, active_faults, request_session_id
from qsessions.emulator.service.backends import (
    configuration_body,
    list_body,
    properties_body,
    status_body,
)
from qsessions.emulator.service.bodies import job_body, session_body, workload_body
from qsessions.emulator.service.clock import ServiceClock
from qsessions.emulator.service.errors import invalid, session_not_found
from qsessions.emulator.service.instances import (
    PLANS,
    Instance,
    plan_body,
    queue_length,
    search_body,
)
from qsessions.emulator.service.listing import (
    Query,
    cut_page,
    read_flag,
    read_job_query,
    read_workload_query,
)
from qsessions.emulator.service.validation import (
    VERSIONS,
    check_version,
    read_accepting_jobs,
    read_job_request,
    read_session_request,
)

BASE_PATH = "/api"
_LONGEST_SESSION_ID = 500


@attrs.frozen
class ApiCall:
    """A request with its body and its time in unix seconds."""

    request: web.Request
    body: bytes
    now: float

    @property
    def id(self) -> str:
        """The id or name in the path."""
        return self.request.match_info["id"]

    @property
    def query(self) -> Query:
        """The query: all values of each name."""
        return parse_qs(self.request.rel_url.raw_query_string, keep_blank_values=True)


@attrs.frozen
class InstanceCall(ApiCall):
    """A request with checked credentials, and the instance that it is for."""

    instance: Instance


@attrs.frozen(kw_only=True)
class ServiceRoutes:
    """The operations. Nothing is awaited between reading the clock and answering."""

    instances: Mapping[str, Instance]
    tokens: TokenIssuer
    authenticator: Authenticator
    clock: ServiceClock

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the operations. A route's name is the operation's name in a fault plan."""
        v1 = f"{BASE_PATH}/v1"
        backend = f"{v1}/backends/{{id}}"
        routes: list[tuple[str, str, str, Callable[[InstanceCall], web.Response]]] = [
            ("create", "POST", f"{v1}/sessions", self._create_session),
            ("get", "GET", f"{v1}/sessions/{{id}}", self._get_session),
            ("update", "PATCH", f"{v1}/sessions/{{id}}", self._update_session),
            ("close", "DELETE", f"{v1}/sessions/{{id}}/close", self._close_session),
            ("workloads", "GET", f"{v1}/workloads", self._find_workloads),
            ("create_job", "POST", f"{v1}/jobs", self._create_job),
            ("list_jobs", "GET", f"{v1}/jobs", self._list_jobs),
            ("get_job", "GET", f"{v1}/jobs/{{id}}", self._get_job),
            ("cancel_job", "POST", f"{v1}/jobs/{{id}}/cancel", self._cancel_job),
            ("backends", "GET", f"{v1}/backends", self._list_backends),
            ("backend_configuration", "GET", f"{backend}/configuration", self._get_configuration),
            ("backend_properties", "GET", f"{backend}/properties", self._get_properties),
            ("backend_status", "GET", f"{backend}/status", self._get_backend_status),
        ]
        for operation, method, path, handler in routes:
            router.add_route(method, path, self._authenticated(handler), name=operation)
        open_routes: list[tuple[str, str, str, Callable[[ApiCall], web.Response]]] = [
            ("versions", "GET", f"{v1}/versions", self._get_versions),
            ("token", "POST", "/identity/token", self._issue_token),
            ("instances", "POST", "/v3/resources/search", self._find_instances),
            ("plan", "GET", f"/{{id:{'|'.join(PLANS)}}}", self._get_plan),
        ]
        for operation, method, path, open_handler in open_routes:
            router.add_route(method, path, self._open(open_handler), name=operation)

    def _create_session(self, call: InstanceCall) -> web.Response:
        request = read_session_request(call.body, call.instance.terms)
        session = call.instance.state.create_session(call.now, **request)
        request_session_id.set(session.id)
        return web.json_response(session_body(session, call.now))

    def _get_session(self, call: InstanceCall) -> web.Response:
        session = call.instance.state.session(call.now, _session_id(call))
        return web.json_response(session_body(session, call.now))

    def _update_session(self, call: InstanceCall) -> web.Response:
        session_id = _session_id(call)
        accepting = read_accepting_jobs(call.body)
        call.instance.state.update_session(
            call.now, session_id, accepting_jobs=accepting, stuck=_fault("stuck_drain") is not None
        )
        return web.Response(status=204)

    def _close_session(self, call: InstanceCall) -> web.Response:
        call.instance.state.close_session(call.now, _session_id(call))
        return web.Response(status=204)

    def _get_versions(self, _: ApiCall) -> web.Response:
        return web.json_response({"versions": [dict(version) for version in VERSIONS]})

    def _find_workloads(self, call: InstanceCall) -> web.Response:
        """Return a page. Its links keep the host that the caller used, and all its filters."""
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

    def _create_job(self, call: InstanceCall) -> web.Response:
        job = call.instance.state.submit_job(call.now, **read_job_request(call.body))
        request_session_id.set(job.session_id)
        in_session = {} if job.session_id is None else {"session_id": job.session_id}
        return web.json_response({"id": job.id, "backend": job.backend, **in_session})

    def _list_jobs(self, call: InstanceCall) -> web.Response:
        """Return a page. `count` is how many match on all pages."""
        query = read_job_query(call.query)
        matching = query.select(call.instance.state.jobs(call.now))
        page = matching[query.offset : query.offset + query.limit]
        return web.json_response(
            {
                "jobs": [
                    job_body(job, call.now, exclude_params=query.exclude_params) for job in page
                ],
                "count": len(matching),
                "limit": query.limit,
                "offset": query.offset,
            }
        )

    def _get_job(self, call: InstanceCall) -> web.Response:
        exclude_params = read_flag(call.query, "exclude_params", default=False)
        job = call.instance.state.job(call.now, call.id)
        return web.json_response(job_body(job, call.now, exclude_params=exclude_params))

    def _cancel_job(self, call: InstanceCall) -> web.Response:
        call.instance.state.cancel_job(call.now, call.id)
        return web.Response(status=204)

    def _list_backends(self, call: InstanceCall) -> web.Response:
        names = call.instance.state.backends
        return web.json_response(
            list_body(
                (name, queue_length(self.instances.values(), call.now, name)) for name in names
            )
        )

    def _get_backend_status(self, call: InstanceCall) -> web.Response:
        return web.json_response(
            status_body(queue_length(self.instances.values(), call.now, call.id))
        )

    def _get_configuration(self, call: InstanceCall) -> web.Response:
        queue_length(self.instances.values(), call.now, call.id)  # raises for an unknown name
        return web.json_response(configuration_body(call.id))

    def _get_properties(self, call: InstanceCall) -> web.Response:
        queue_length(self.instances.values(), call.now, call.id)  # raises for an unknown name
        return web.json_response(properties_body(call.id))

    def _issue_token(self, call: ApiCall) -> web.Response:
        """Return a token, or an error in IAM's own form."""
        status, body = self.tokens.answer(call.body, call.now)
        return web.json_response(body, status=status)

    def _find_instances(self, call: ApiCall) -> web.Response:
        """Answer for Global Search, which needs a credential, but no instance."""
        self.authenticator.check_credentials(call.request.headers, call.now)
        return web.json_response(search_body(self.instances.values(), call.query, call.body))

    def _get_plan(self, call: ApiCall) -> web.Response:
        """Answer for Global Catalog."""
        return web.json_response(plan_body(call.id))

    def _authenticated(self, handler: Callable[[InstanceCall], web.Response]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            body, now = await request.read(), self.clock.now()
            instance = self.authenticator.check(request.headers, now)
            check_version(request.headers)
            return handler(InstanceCall(request, body, now, instance))

        return serve

    def _open(self, handler: Callable[[ApiCall], web.Response]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            return handler(ApiCall(request, await request.read(), self.clock.now()))

        return serve


def _session_id(call: InstanceCall) -> str:
    if len(call.id) > _LONGEST_SESSION_ID:
        raise invalid(f"A session's id has at most {_LONGEST_SESSION_ID} characters.")
    request_session_id.set(call.id)
    young = _fault("young_404")
    if young is not None:
        session = call.instance.state.session(call.now, call.id)
        if call.now - session.created < (YOUNG_SECONDS if young.seconds is None else young.seconds):
            raise session_not_found()
    return call.id


def _fault(kind: FaultKind) -> Fault | None:
    return next((fault for fault in active_faults.get() if fault.kind == kind), None)


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
