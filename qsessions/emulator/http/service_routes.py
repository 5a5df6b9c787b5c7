"""The emulated service over HTTP: the contract's operations, IAM, and the cloud's directory."""

from collections.abc import Callable, Mapping

import attrs
from aiohttp import web

from qsessions.emulator.http import backend_routes, job_routes, session_routes
from qsessions.emulator.http.calls import Answer, ApiCall, InstanceCall, exchange
from qsessions.emulator.http.credentials import Authenticator
from qsessions.emulator.http.iam import TokenIssuer
from qsessions.emulator.http.middleware import Handler
from qsessions.emulator.programs.runner import ProgramRunner
from qsessions.emulator.service.clock import ServiceClock
from qsessions.emulator.service.directory import (
    PLANS,
    plan_body,
    resource_body,
    resources_body,
    search_body,
)
from qsessions.emulator.service.errors import NOT_FOUND, ServiceError
from qsessions.emulator.service.instances import Instance
from qsessions.emulator.service.validation import VERSIONS, check_version

BASE_PATH = "/api"


@attrs.frozen(kw_only=True)
class ServiceRoutes:
    """The operations. Only one that waits for a job's program awaits before it answers."""

    instances: Mapping[str, Instance]
    tokens: TokenIssuer
    authenticator: Authenticator
    programs: ProgramRunner
    clock: ServiceClock

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the operations. A route's name is the operation's name in a fault plan."""
        v1 = f"{BASE_PATH}/v1"
        for operation, method, path, handler in (
            *session_routes.ROUTES,
            *job_routes.ROUTES,
            *backend_routes.ROUTES,
        ):
            router.add_route(method, v1 + path, self._authenticated(handler), name=operation)
        open_routes: list[tuple[str, str, str, Callable[[ApiCall], web.Response]]] = [
            ("versions", "GET", f"{v1}/versions", self._get_versions),
            ("token", "POST", "/identity/token", self._issue_token),
            ("instances", "POST", "/v3/resources/search", self._find_instances),
            ("resource_instances", "GET", "/v2/resource_instances", self._list_resources),
            ("resource_instance", "GET", "/v2/resource_instances/{id}", self._get_resource),
            ("plan", "GET", f"/{{id:{'|'.join(PLANS)}}}", self._get_plan),
        ]
        for operation, method, path, open_handler in open_routes:
            router.add_route(method, path, self._open(open_handler), name=operation)

    def _get_versions(self, _: ApiCall) -> web.Response:
        return web.json_response({"versions": [dict(version) for version in VERSIONS]})

    def _issue_token(self, call: ApiCall) -> web.Response:
        """Return a token, or an error in IAM's own form."""
        status, body = self.tokens.answer(call.body, call.now)
        return web.json_response(body, status=status)

    def _find_instances(self, call: ApiCall) -> web.Response:
        """Answer for Global Search, which needs a credential, but no instance."""
        self.authenticator.check_credentials(call.request.headers, call.now)
        return web.json_response(search_body(self.instances.values(), call.query, call.body))

    def _list_resources(self, call: ApiCall) -> web.Response:
        """Answer for the Resource Controller, which needs a credential, but no instance."""
        self.authenticator.check_credentials(call.request.headers, call.now)
        return web.json_response(resources_body(self.instances.values(), call.query))

    def _get_resource(self, call: ApiCall) -> web.Response:
        """Answer for the Resource Controller of one instance, by its CRN."""
        self.authenticator.check_credentials(call.request.headers, call.now)
        if call.id not in self.instances:
            raise ServiceError(404, NOT_FOUND, "Resource instance not found.")
        return web.json_response(resource_body(self.instances[call.id]))

    def _get_plan(self, call: ApiCall) -> web.Response:
        """Answer for Global Catalog."""
        return web.json_response(plan_body(call.id))

    def _authenticated(self, answering: Answer) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            body, now = await request.read(), self.clock.now()
            instance = self.authenticator.check(request.headers, now)
            check_version(request.headers)
            call = InstanceCall(
                request, body, now, instance, self.instances, self.programs, exchange.get()
            )
            answer = answering(call)
            return answer if isinstance(answer, web.Response) else await answer

        return serve

    def _open(self, handler: Callable[[ApiCall], web.Response]) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            return handler(ApiCall(request, await request.read(), self.clock.now()))

        return serve
