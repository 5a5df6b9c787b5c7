"""The emulated service over HTTP: every operation of the contract, and the token endpoint beside it."""

from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import attrs
from aiohttp import web

from qsessions.emulator.faults import YOUNG_SECONDS, Fault, FaultKind
from qsessions.emulator.http.credentials import Gate
from qsessions.emulator.http.iam import TokenOffice
from qsessions.emulator.http.middleware import Handler, struck, subject
from qsessions.emulator.service.backends import (
    configuration_body,
    list_body,
    properties_body,
    status_body,
)
from qsessions.emulator.service.bodies import job_body, session_body, workload_body
from qsessions.emulator.service.clock import ServiceClock
from qsessions.emulator.service.directory import PLANS, plan_body, search_body
from qsessions.emulator.service.errors import invalid, session_not_found
from qsessions.emulator.service.instances import Instance, queue_length
from qsessions.emulator.service.listing import (
    cut_page,
    read_exclude_params,
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
class Call:
    """A request whose body has been read and whose time has been taken (unix seconds)."""

    request: web.Request
    body: bytes
    now: float

    @property
    def id(self) -> str:
        """The id or name in the path."""
        return self.request.match_info["id"]


@attrs.frozen
class InstanceCall(Call):
    """A request that has shown its credentials, and the instance that it is for."""

    instance: Instance


@attrs.frozen(kw_only=True)
class Service:
    """The operations as plain functions: nothing awaits between reading the clock and answering."""

    instances: Mapping[str, Instance]
    tokens: TokenOffice
    gate: Gate
    clock: ServiceClock
    user_id: str

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the operations; a route's name is what a fault plan calls its operation."""
        v1 = f"{BASE_PATH}/v1"
        routes: list[tuple[str, str, str, Callable[[InstanceCall], web.Response]]] = [
            ("create", "POST", f"{v1}/sessions", self.create_session),
            ("get", "GET", f"{v1}/sessions/{{id}}", self.get_session),
            ("update", "PATCH", f"{v1}/sessions/{{id}}", self.update_session),
            ("close", "DELETE", f"{v1}/sessions/{{id}}/close", self.close_session),
            ("workloads", "GET", f"{v1}/workloads", self.find_workloads),
            ("create_job", "POST", f"{v1}/jobs", self.create_job),
            ("list_jobs", "GET", f"{v1}/jobs", self.list_jobs),
            ("get_job", "GET", f"{v1}/jobs/{{id}}", self.get_job),
            ("cancel_job", "POST", f"{v1}/jobs/{{id}}/cancel", self.cancel_job),
            ("backends", "GET", f"{v1}/backends", self.list_backends),
            (
                "backend_configuration",
                "GET",
                f"{v1}/backends/{{id}}/configuration",
                self.get_configuration,
            ),
            ("backend_properties", "GET", f"{v1}/backends/{{id}}/properties", self.get_properties),
            ("backend_status", "GET", f"{v1}/backends/{{id}}/status", self.get_backend_status),
        ]
        for operation, method, path, handler in routes:
            router.add_route(method, path, self._guarded(handler), name=operation)
        router.add_route("GET", f"{v1}/versions", self._free(self.get_versions), name="versions")
        router.add_route("POST", "/identity/token", self._free(self.issue_token), name="token")
        router.add_route(
            "POST", "/v3/resources/search", self._free(self.find_instances), name="instances"
        )
        router.add_route(
            "GET", f"/{{id:{'|'.join(PLANS)}}}", self._free(self.get_plan), name="plan"
        )

    def create_session(self, call: InstanceCall) -> web.Response:
        """POST /v1/sessions."""
        wanted = read_session_request(call.body, call.instance.terms)
        session = call.instance.machine.create_session(
            call.now, mode=wanted.mode, backend=wanted.backend, ttls=wanted.ttls
        )
        subject.set(session.id)
        return web.json_response(session_body(session, call.now, self.user_id))

    def get_session(self, call: InstanceCall) -> web.Response:
        """GET /v1/sessions/{id}."""
        session = call.instance.machine.session(call.now, _session_id(call))
        return web.json_response(session_body(session, call.now, self.user_id))

    def update_session(self, call: InstanceCall) -> web.Response:
        """PATCH /v1/sessions/{id}."""
        session_id = _session_id(call)
        accepting = read_accepting_jobs(call.body)
        call.instance.machine.update_session(
            call.now, session_id, accepting_jobs=accepting, stuck=_fault("stuck_drain") is not None
        )
        return web.Response(status=204)

    def close_session(self, call: InstanceCall) -> web.Response:
        """DELETE /v1/sessions/{id}/close."""
        call.instance.machine.close_session(call.now, _session_id(call))
        return web.Response(status=204)

    def get_versions(self, _: Call) -> web.Response:
        """GET /v1/versions; needs no credentials."""
        return web.json_response({"versions": [dict(version) for version in VERSIONS]})

    def find_workloads(self, call: InstanceCall) -> web.Response:
        """GET /v1/workloads. Page links keep the host that the caller used, and all its filters."""
        query = read_workload_query(call.request.query)
        page = cut_page(call.instance.machine.workloads(call.now), query)
        workloads = [
            workload_body(workload, call.now, crn=call.instance.crn, user_id=self.user_id)
            for workload in page.workloads
        ]
        return web.json_response(
            {
                "total_count": page.total,
                "limit": query.limit,
                "workloads": workloads,
                **_page_link(call.request, "next", page.next),
                **_page_link(call.request, "previous", page.previous),
            }
        )

    def create_job(self, call: InstanceCall) -> web.Response:
        """POST /v1/jobs."""
        wanted = read_job_request(call.body)
        job = call.instance.machine.submit_job(
            call.now,
            program_id=wanted.program_id,
            backend=wanted.backend,
            session_id=wanted.session_id,
            seconds=wanted.seconds,
            details=wanted.details,
        )
        subject.set(job.session_id)
        in_session = {} if job.session_id is None else {"session_id": job.session_id}
        return web.json_response({"id": job.id, "backend": job.backend, **in_session})

    def list_jobs(self, call: InstanceCall) -> web.Response:
        """GET /v1/jobs; `count` is how many match on all pages."""
        query = read_job_query(call.request.query)
        matching = [job for job in call.instance.machine.jobs(call.now) if query.takes(job)]
        if query.newest_first:
            matching.reverse()
        page = matching[query.offset : query.offset + query.limit]
        return web.json_response(
            {
                "jobs": [
                    job_body(job, call.now, self.user_id, exclude_params=query.exclude_params)
                    for job in page
                ],
                "count": len(matching),
                "limit": query.limit,
                "offset": query.offset,
            }
        )

    def get_job(self, call: InstanceCall) -> web.Response:
        """GET /v1/jobs/{id}."""
        exclude_params = read_exclude_params(call.request.query, default=False)
        job = call.instance.machine.job(call.now, call.id)
        return web.json_response(
            job_body(job, call.now, self.user_id, exclude_params=exclude_params)
        )

    def cancel_job(self, call: InstanceCall) -> web.Response:
        """POST /v1/jobs/{id}/cancel."""
        call.instance.machine.cancel_job(call.now, call.id)
        return web.Response(status=204)

    def list_backends(self, call: InstanceCall) -> web.Response:
        """GET /v1/backends."""
        names = call.instance.machine.backends
        return web.json_response(
            list_body((name, self._queue_length(call.now, name)) for name in names)
        )

    def get_backend_status(self, call: InstanceCall) -> web.Response:
        """GET /v1/backends/{name}/status."""
        return web.json_response(status_body(self._queue_length(call.now, call.id)))

    def get_configuration(self, call: InstanceCall) -> web.Response:
        """GET /v1/backends/{name}/configuration."""
        self._queue_length(call.now, call.id)  # refuses an unknown name
        return web.json_response(configuration_body(call.id))

    def get_properties(self, call: InstanceCall) -> web.Response:
        """GET /v1/backends/{name}/properties."""
        self._queue_length(call.now, call.id)  # refuses an unknown name
        return web.json_response(properties_body(call.id))

    def issue_token(self, call: Call) -> web.Response:
        """POST /identity/token, which answers errors in its own form."""
        status, body = self.tokens.answer(call.body, call.now)
        return web.json_response(body, status=status)

    def find_instances(self, call: Call) -> web.Response:
        """POST /v3/resources/search, of Global Search: it asks for a credential, but for no instance."""
        self.gate.check_credentials(call.request.headers, call.now)
        instances = self.instances.values()
        return web.json_response(
            search_body((instance.crn, instance.terms.plan) for instance in instances)
        )

    def get_plan(self, call: Call) -> web.Response:
        """GET /{plan}, of Global Catalog; needs no credentials."""
        return web.json_response(plan_body(call.id))

    def _queue_length(self, now: float, backend: str) -> int:
        """How many jobs a backend has before it, whichever instance they are from. Raises Refusal (404)."""
        return queue_length(self.instances.values(), now, backend)

    def _guarded(self, handler: Callable[[InstanceCall], web.Response]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            body, now = await request.read(), self.clock.now()
            instance = self.gate.check(request.headers, now)
            check_version(request.headers)
            return handler(InstanceCall(request, body, now, instance))

        return serve

    def _free(self, handler: Callable[[Call], web.Response]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            return handler(Call(request, await request.read(), self.clock.now()))

        return serve


def _session_id(call: InstanceCall) -> str:
    if len(call.id) > _LONGEST_SESSION_ID:
        raise invalid(f"A session's id has at most {_LONGEST_SESSION_ID} characters.")
    subject.set(call.id)
    young = _fault("young_404")
    if young is not None:
        session = call.instance.machine.session(call.now, call.id)
        if call.now - session.created < (YOUNG_SECONDS if young.seconds is None else young.seconds):
            raise session_not_found()
    return call.id


def _fault(kind: FaultKind) -> Fault | None:
    return next((fault for fault in struck.get() if fault.kind == kind), None)


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
