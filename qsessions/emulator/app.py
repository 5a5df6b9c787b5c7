"""The emulated service over HTTP: every operation of the contract, and the token endpoint beside it."""

import logging
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from random import Random
from urllib.parse import urlencode

import attrs
from aiohttp import web

from qsessions.emulator.answers import error_body, job_body, session_body, workload_body
from qsessions.emulator.checks import (
    VERSIONS,
    Terms,
    check_version,
    read_accepting_jobs,
    read_job_request,
    read_session_request,
)
from qsessions.emulator.credentials import Gate
from qsessions.emulator.iam import TokenOffice
from qsessions.emulator.listing import cut_page, read_job_query, read_workload_query
from qsessions.emulator.recording import Recorder
from qsessions.emulator.refusals import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    Refusal,
    invalid,
)
from qsessions.emulator.state import Machine

BASE_PATH = "/api"
_LONGEST_SESSION_ID = 500

_log = logging.getLogger("qsessions.emulator")

_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


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


@attrs.frozen(kw_only=True)
class Service:
    """The operations as plain functions: nothing awaits between reading the clock and answering."""

    machine: Machine
    tokens: TokenOffice
    gate: Gate
    terms: Terms
    recorder: Recorder
    crn: str
    user_id: str
    clock: Callable[[], float]
    random: Random

    def now(self) -> float:
        """The service's time in unix seconds. It never runs backwards, even if the clock does."""
        return self.machine.advance(self.clock())

    def application(self) -> web.Application:
        """An aiohttp application that serves this service once."""
        app = web.Application(middlewares=[self._answer])
        v1 = f"{BASE_PATH}/v1"
        routes: list[tuple[str, str, Callable[[Call], web.Response]]] = [
            ("POST", f"{v1}/sessions", self.create_session),
            ("GET", f"{v1}/sessions/{{id}}", self.get_session),
            ("PATCH", f"{v1}/sessions/{{id}}", self.update_session),
            ("DELETE", f"{v1}/sessions/{{id}}/close", self.close_session),
            ("GET", f"{v1}/workloads", self.find_workloads),
            ("POST", f"{v1}/jobs", self.create_job),
            ("GET", f"{v1}/jobs", self.list_jobs),
            ("GET", f"{v1}/jobs/{{id}}", self.get_job),
            ("POST", f"{v1}/jobs/{{id}}/cancel", self.cancel_job),
            ("GET", f"{v1}/backends/{{id}}/status", self.get_backend_status),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, path, self._serve(handler, guarded=True))
        app.router.add_route("GET", f"{v1}/versions", self._serve(self.get_versions, guarded=False))
        app.router.add_route("POST", "/identity/token", self._serve(self.issue_token, guarded=False))
        return app

    def create_session(self, call: Call) -> web.Response:
        """POST /v1/sessions."""
        wanted = read_session_request(call.body, self.terms)
        session = self.machine.create_session(
            call.now, mode=wanted.mode, backend=wanted.backend, ttls=wanted.ttls
        )
        return web.json_response(session_body(session, call.now, self.user_id))

    def get_session(self, call: Call) -> web.Response:
        """GET /v1/sessions/{id}."""
        session = self.machine.session(call.now, _session_id(call))
        return web.json_response(session_body(session, call.now, self.user_id))

    def update_session(self, call: Call) -> web.Response:
        """PATCH /v1/sessions/{id}."""
        session_id = _session_id(call)
        accepting = read_accepting_jobs(call.body)
        self.machine.update_session(call.now, session_id, accepting_jobs=accepting)
        return web.Response(status=204)

    def close_session(self, call: Call) -> web.Response:
        """DELETE /v1/sessions/{id}/close."""
        self.machine.close_session(call.now, _session_id(call))
        return web.Response(status=204)

    def get_versions(self, _: Call) -> web.Response:
        """GET /v1/versions; needs no credentials."""
        return web.json_response({"versions": [dict(version) for version in VERSIONS]})

    def find_workloads(self, call: Call) -> web.Response:
        """GET /v1/workloads. Page links keep the host that the caller used, and all its filters."""
        query = read_workload_query(call.request.query)
        page = cut_page(self.machine.workloads(call.now), query)
        workloads = [
            workload_body(workload, call.now, crn=self.crn, user_id=self.user_id)
            for workload in page.workloads
        ]
        return web.json_response(
            {
                "total_count": page.total,
                "limit": query.limit,
                "workloads": workloads,
                "next": _page_link(call.request, "next", page.next),
                "previous": _page_link(call.request, "previous", page.previous),
            }
        )

    def create_job(self, call: Call) -> web.Response:
        """POST /v1/jobs."""
        wanted = read_job_request(call.body)
        job = self.machine.submit_job(
            call.now,
            program_id=wanted.program_id,
            backend=wanted.backend,
            session_id=wanted.session_id,
            seconds=wanted.seconds,
        )
        return web.json_response({"id": job.id, "backend": job.backend, "session_id": job.session_id})

    def list_jobs(self, call: Call) -> web.Response:
        """GET /v1/jobs, newest first; `count` is how many match on all pages."""
        query = read_job_query(call.request.query)
        matching = [job for job in self.machine.jobs(call.now) if query.takes(job)]
        matching.reverse()
        page = matching[query.offset : query.offset + query.limit]
        return web.json_response(
            {
                "jobs": [job_body(job) for job in page],
                "count": len(matching),
                "limit": query.limit,
                "offset": query.offset,
            }
        )

    def get_job(self, call: Call) -> web.Response:
        """GET /v1/jobs/{id}."""
        return web.json_response(job_body(self.machine.job(call.now, call.id)))

    def cancel_job(self, call: Call) -> web.Response:
        """POST /v1/jobs/{id}/cancel."""
        self.machine.cancel_job(call.now, call.id)
        return web.Response(status=204)

    def get_backend_status(self, call: Call) -> web.Response:
        """GET /v1/backends/{name}/status; every emulated backend is up."""
        length = self.machine.pending_jobs(call.now, call.id)
        return web.json_response(
            {
                "state": True,
                "status": "active",
                "message": "",
                "length_queue": length,
                "backend_version": "1.0.0",
            }
        )

    def issue_token(self, call: Call) -> web.Response:
        """POST /identity/token, which answers errors in its own form."""
        status, body = self.tokens.answer(call.body, call.now)
        return web.json_response(body, status=status)

    def _serve(self, handler: Callable[[Call], web.Response], *, guarded: bool) -> _Answer:
        async def serve(request: web.Request) -> web.StreamResponse:
            call = Call(request, await request.read(), self.now())
            if guarded:
                self.gate.check(request.headers, call.now)
                check_version(request.headers)
            return handler(call)

        return serve

    @web.middleware
    async def _answer(self, request: web.Request, handler: _Answer) -> web.StreamResponse:
        """Give answers a Date by the emulator's clock and errors the service's form, and keep a record."""
        body: bytes | None = None
        try:
            # Requests to unknown paths are read too: a connection can be kept only once its request is read.
            body = await request.read()
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the client gets the service's error form
            response = self._error_answer(error)
        if body is None:
            response.force_close()  # what is left of the body would be taken for the next request
        try:
            now = self.now()
            response.headers["Date"] = formatdate(now, usegmt=True)
        except Exception as error:  # noqa: BLE001 - a clock that a test injected may fail
            _log.error("the clock failed: %s", type(error).__name__)
        else:
            self.recorder.record(
                at=now,
                method=request.method,
                raw_path=request.raw_path,
                headers=request.headers.items(),
                body=body or b"",
                status=response.status,
            )
        return response

    def _error_answer(self, error: Exception) -> web.Response:
        refusal = _refusal_of(error)
        trace = f"{self.random.getrandbits(128):032x}"
        response = web.json_response(error_body(refusal, trace), status=refusal.status)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response


def _refusal_of(error: Exception) -> Refusal:
    """The service's word for anything that was raised.

    No text of a foreign error goes into the answer or the log: it may quote secrets.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, web.HTTPNotFound):
        return Refusal(404, NOT_FOUND, "Path not found.", "Check the path against the API reference.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return Refusal(405, METHOD_NOT_ALLOWED, "Method not allowed.", "Use one that the Allow header names.")
    if isinstance(error, web.HTTPException):
        return Refusal(error.status, INVALID_REQUEST, error.reason)
    if isinstance(error, web.RequestPayloadError | ConnectionError):
        return invalid("The body could not be read.")
    _log.error("the emulator failed: %s", type(error).__name__)
    return Refusal(500, INTERNAL_ERROR, "API internal error.", "Retry the action.")


def _session_id(call: Call) -> str:
    if len(call.id) > _LONGEST_SESSION_ID:
        raise invalid(f"A session's id has at most {_LONGEST_SESSION_ID} characters.")
    return call.id


def _page_link(request: web.Request, name: str, cursor: str | None) -> dict[str, str] | None:
    if cursor is None:
        return None
    # Without a Host header aiohttp would ask the name service for one, and block the loop.
    host = request.headers.get("Host") or "{}:{}".format(*request.get_extra_info("sockname"))
    kept = [(key, value) for key, value in request.query.items() if key not in {"next", "previous"}]
    return {"href": f"{request.scheme}://{host}{request.path}?{urlencode([*kept, (name, cursor)])}"}
