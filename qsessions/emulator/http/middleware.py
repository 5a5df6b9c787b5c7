"""What happens to every request: tidy paths, faults, the error form, the Date and the record."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from random import Random

import attrs
from aiohttp import web
from yarl import URL

from qsessions.emulator.fault_kinds import Operation
from qsessions.emulator.faults import Fault, FaultPlan
from qsessions.emulator.http.calls import Exchange, exchange
from qsessions.emulator.http.fault_injection import (
    ConnectionReset,
    Pause,
    inject,
    reset_connection,
    respond,
)
from qsessions.emulator.http.iam import TokenIssuer
from qsessions.emulator.http.recording import EXCHANGE_HEADER, Recorder
from qsessions.emulator.service.bodies import error_body
from qsessions.emulator.service.clock import ServiceClock
from qsessions.emulator.service.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    ServiceError,
    invalid,
)
from qsessions.emulator.service.validation import read_accepting_jobs

ADMIN_PATH = "/emulator"
PAGE_PATH = "/"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# What aiohttp's router refuses, in the service's words.
_HTTP_ERRORS: Mapping[int, tuple[int, str, str | None]] = {
    404: (NOT_FOUND, "Path not found.", "Check the path against the API reference."),
    405: (METHOD_NOT_ALLOWED, "Method not allowed.", "Use one that the Allow header names."),
}

_CHALLENGE = 'Basic realm="The admin token of the qsessions emulator, as the password"'

_log = logging.getLogger("qsessions.emulator")


@attrs.frozen(kw_only=True)
class Middleware:
    """The one middleware of the emulator.

    Requests below `ADMIN_PATH`, and for the page, are not the service's: faults don't apply to
    them, and they are not recorded.
    """

    clock: ServiceClock
    recorder: Recorder
    faults: FaultPlan
    tokens: TokenIssuer
    random: Random

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve one request. Every failure gets the service's error form."""
        if "//" in request.rel_url.raw_path:
            request, handler = await _merge_slashes(request)
        is_service = request.path != PAGE_PATH and not request.path.startswith(f"{ADMIN_PATH}/")
        try:
            return await (self._serve(request, handler) if is_service else handler(request))
        except Exception as error:  # noqa: BLE001 - of the control endpoints, or of a test's clock
            response = self._error_answer(error)
            if response.status == 401:
                # A browser then asks its user.
                response.headers["WWW-Authenticate"] = _CHALLENGE
            response.force_close()  # the body may not have been read
            return response

    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve a request for the service, and record it."""
        met = Exchange()
        exchange.set(met)
        body: bytes | None = None
        pause = self._pause_of(request)
        try:
            # Requests to unknown paths too: a connection can be kept only once its request is read.
            body = await request.read()
            met.faults = self.faults.fire(
                request.match_info.route.name, _client_call(request, body)
            )
            response = await self._work(request, handler, met.faults, pause)
        except ConnectionReset:
            self._record(request, body or b"", None, met)
            return reset_connection(request)
        except Exception as error:  # noqa: BLE001 - a body that can't be read is recorded, too
            response = self._error_answer(error)
        if body is None:
            response.force_close()  # the rest of the body would be read as the next request
        now = self._record(request, body or b"", response.status, met)
        response.headers.setdefault("Date", formatdate(now, usegmt=True))
        return await respond(request, response, met.faults, now, pause)

    async def _work(
        self, request: web.Request, handler: Handler, faults: tuple[Fault, ...], pause: Pause
    ) -> web.StreamResponse:
        """Run the handler between the faults that act before and those that act after it."""
        token_endpoint = request.match_info.route.name == "token"
        before = [fault for fault in faults if not fault.after]
        after = [fault for fault in faults if fault.after]
        response: web.StreamResponse | None = await inject(
            before, self.tokens, token_endpoint, pause
        )
        if response is None:
            try:
                response = await handler(request)
            except Exception as error:  # noqa: BLE001 - faults apply to refused requests too
                response = self._error_answer(error)
        replacement = await inject(after, self.tokens, token_endpoint, pause)
        # By identity: aiohttp's answers are mappings too, and empty ones count as false.
        return response if replacement is None else replacement

    def _pause_of(self, request: web.Request) -> Pause:
        number, pause = request.headers.get(EXCHANGE_HEADER), self.clock.pause
        return asyncio.sleep if number is None or pause is None else partial(pause, number)

    def _record(
        self, request: web.Request, body: bytes, status: int | None, met: Exchange
    ) -> float:
        """Record the request, and return the time."""
        now = self.clock.now()
        self.recorder.record(
            at=now,
            method=request.method,
            raw_path=request.raw_path,
            headers=request.headers.items(),
            body=body,
            status=status,
            operation=request.match_info.route.name,
            session_id=met.session_id,
            faults=tuple(fault.kind for fault in met.faults),
        )
        return now

    def _error_answer(self, error: Exception) -> web.Response:
        answer = _service_error(error)
        trace = f"{self.random.getrandbits(128):032x}"
        response = web.json_response(error_body(answer, trace), status=answer.status)
        if answer.retry_after is not None:
            response.headers["Retry-After"] = str(answer.retry_after)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response


def _client_call(request: web.Request, body: bytes) -> Operation | None:
    """Return the client's word for a request, where it is not its operation's name."""
    operation, query = request.match_info.route.name, request.query
    if operation == "update":
        with suppress(ServiceError):
            return None if read_accepting_jobs(body) else "drain"
    elif operation == "list_jobs" and query.get("pending") == "true" and "session_id" in query:
        return "has_pending_jobs"
    return None


async def _merge_slashes(request: web.Request) -> tuple[web.Request, Handler]:
    """Return the request with each run of slashes in its path as one, and its handler.

    Proxies make such runs.
    """
    url = request.rel_url
    path = re.sub("/{2,}", "/", url.raw_path)
    tidy = request.clone(rel_url=URL(f"{path}?{url.raw_query_string}", encoded=True))
    match = await request.app.router.resolve(tidy)
    # As aiohttp's own application does it, whose handlers ask for it.
    match.add_app(request.app)
    match.current_app = request.app
    tidy._match_info = match  # noqa: SLF001 - it has no other way
    return tidy, match.handler


def _service_error(error: Exception) -> ServiceError:
    """Return the service's error for an exception.

    No text of a foreign error goes into the answer or the log: it may quote secrets.
    """
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, web.HTTPException):
        code, message, solution = _HTTP_ERRORS.get(
            error.status, (INVALID_REQUEST, error.reason, None)
        )
        return ServiceError(error.status, code, message, solution)
    if isinstance(error, web.RequestPayloadError | ConnectionError):
        return invalid("The body could not be read.")
    _log.error("the emulator failed: %s", type(error).__name__)
    return ServiceError(500, INTERNAL_ERROR, "API internal error.", "Retry the action.")
