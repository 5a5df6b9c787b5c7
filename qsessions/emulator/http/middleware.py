"""What every request meets on its way in and out: tidy paths, faults, the error form, the Date and the record."""

import logging
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from email.utils import formatdate
from random import Random

from aiohttp import web
from yarl import URL

from qsessions.emulator.faults import Fault, FaultPlan
from qsessions.emulator.http.fault_injection import ConnectionReset, deliver, strike
from qsessions.emulator.http.iam import TokenOffice
from qsessions.emulator.http.recording import Recorder
from qsessions.emulator.service.bodies import error_body
from qsessions.emulator.service.clock import ServiceClock
from qsessions.emulator.service.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    Refusal,
    invalid,
)

ADMIN_PATH = "/emulator"
PAGE_PATH = "/"
subject: ContextVar[str | None] = ContextVar("subject", default=None)
"""Where a handler notes which session its request was about."""

struck: ContextVar[tuple[Fault, ...]] = ContextVar("struck", default=())
"""Where a handler finds the faults that strike its request."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger("qsessions.emulator")


class Front:
    """The one middleware of the emulator.

    Requests below `ADMIN_PATH`, and for the page, are not the service's: faults don't touch them, and no record
    is kept.
    """

    def __init__(
        self,
        *,
        clock: ServiceClock,
        recorder: Recorder,
        faults: FaultPlan,
        tokens: TokenOffice,
        random: Random,
    ) -> None:
        self._clock = clock
        self._recorder = recorder
        self._faults = faults
        self._tokens = tokens
        self._random = random

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve one request, whatever it is."""
        if "//" in request.rel_url.raw_path:
            request, handler = await _tidied(request)
        if request.path == PAGE_PATH or request.path.startswith(f"{ADMIN_PATH}/"):
            return await self._admin(request, handler)
        subject.set(None)
        fired = self._faults.fire(request.match_info.route.name)
        struck.set(fired)
        body: bytes | None = None
        try:
            # Requests to unknown paths are read too: a connection can be kept only once its request is read.
            body = await request.read()
            response = await self._worked(request, handler, fired)
        except ConnectionReset as reset:
            self._note(request, body or b"", None, fired)
            return reset.carry_out(request)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the client gets the service's error form
            response = self._error_answer(error)
        if body is None:
            response.force_close()  # what is left of the body would be taken for the next request
        now = self._note(request, body or b"", response.status, fired)
        if now is not None:
            response.headers.setdefault("Date", formatdate(now, usegmt=True))
        return await deliver(request, response, fired, now)

    async def _worked(
        self, request: web.Request, handler: Handler, fired: tuple[Fault, ...]
    ) -> web.StreamResponse:
        """Do the work between the faults that come before it and those that come after."""
        token_endpoint = request.match_info.route.name == "token"
        early = [fault for fault in fired if not fault.after]
        response: web.StreamResponse | None = await strike(early, self._tokens, token_endpoint)
        if response is None:
            try:
                response = await handler(request)
            except Exception as error:  # noqa: BLE001 - a refused request can be struck like any other
                response = self._error_answer(error)
        late = await strike([fault for fault in fired if fault.after], self._tokens, token_endpoint)
        # By identity: aiohttp's answers are mappings too, and empty ones count as false.
        return response if late is None else late

    async def _admin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the same form for all errors
            response = self._error_answer(error)
            response.force_close()  # the body may not have been read
            return response

    def _note(
        self, request: web.Request, body: bytes, status: int | None, fired: tuple[Fault, ...]
    ) -> float | None:
        """Keep a record; gives the time, or None from a broken clock."""
        try:
            now = self._clock.now()
        except Exception as error:  # noqa: BLE001 - a clock that a test injected may fail
            _log.error("the clock failed: %s", type(error).__name__)
            return None
        self._recorder.record(
            at=now,
            method=request.method,
            raw_path=request.raw_path,
            headers=request.headers.items(),
            body=body,
            status=status,
            operation=request.match_info.route.name,
            session_id=subject.get(),
            faults=tuple(fault.kind for fault in fired),
        )
        return now

    def _error_answer(self, error: Exception) -> web.Response:
        refusal = _refusal_of(error)
        trace = f"{self._random.getrandbits(128):032x}"
        response = web.json_response(error_body(refusal, trace), status=refusal.status)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response


async def _tidied(request: web.Request) -> tuple[web.Request, Handler]:
    """The request as if each run of slashes in its path were one, as proxies make them, and who serves it."""
    url = request.rel_url
    path = re.sub("/{2,}", "/", url.raw_path)
    tidy = request.clone(rel_url=URL(f"{path}?{url.raw_query_string}", encoded=True))
    match = await request.app.router.resolve(tidy)
    # As aiohttp's own application does it, whose handlers ask for it.
    match.add_app(request.app)
    match.current_app = request.app
    tidy._match_info = match  # noqa: SLF001 - it has no other way
    return tidy, match.handler


def _refusal_of(error: Exception) -> Refusal:
    """The service's word for anything that was raised.

    No text of a foreign error goes into the answer or the log: it may quote secrets.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, web.HTTPNotFound):
        return Refusal(
            404, NOT_FOUND, "Path not found.", "Check the path against the API reference."
        )
    if isinstance(error, web.HTTPMethodNotAllowed):
        return Refusal(
            405, METHOD_NOT_ALLOWED, "Method not allowed.", "Use one that the Allow header names."
        )
    if isinstance(error, web.HTTPException):
        return Refusal(error.status, INVALID_REQUEST, error.reason)
    if isinstance(error, web.RequestPayloadError | ConnectionError):
        return invalid("The body could not be read.")
    _log.error("the emulator failed: %s", type(error).__name__)
    return Refusal(500, INTERNAL_ERROR, "API internal error.", "Retry the action.")
