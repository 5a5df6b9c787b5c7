"""Controlling the emulator over HTTP, beside the service: for tests not written in Python."""

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

import attrs
from aiohttp import web

from qsessions.emulator.faults import FaultPlan, read_faults
from qsessions.emulator.http.leak_report import leak_report
from qsessions.emulator.http.middleware import ADMIN_PATH, Handler
from qsessions.emulator.http.recording import Recorder
from qsessions.emulator.service.bodies import date_time, session_body
from qsessions.emulator.service.clock import ServiceClock, read_duration
from qsessions.emulator.service.errors import CONFLICT, NOT_AUTHORISED, ServiceError, invalid
from qsessions.emulator.service.instances import Instance

_MOST_SHOWN = 1000
_MOST_AT_ONCE = 50
HOST = web.AppKey("host", str)
"""The host that the emulator listens on, as its user named it."""


def is_loopback(address: str) -> bool:
    """Return whether only this machine can have an address, of a peer or to listen on.

    localhost is the only such name.
    """
    if address.lower() == "localhost":
        return True
    parsed = _address(address)
    # A socket for both families reports IPv4 peers as mapped ones.
    return parsed is not None and (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@attrs.frozen(kw_only=True)
class AdminRoutes:
    """The endpoints below `ADMIN_PATH`. They need no token, and answer this machine only."""

    instances: Mapping[str, Instance]
    clock: ServiceClock
    recorder: Recorder
    faults: FaultPlan

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the endpoints."""
        routes: list[tuple[str, str, Handler]] = [
            ("GET", "/faults", self.list_faults),
            ("POST", "/faults", self.add_faults),
            ("DELETE", "/faults", self.clear_faults),
            ("GET", "/requests", self.list_requests),
            ("POST", "/advance", self.advance),
            ("GET", "/sessions", self.list_open_sessions),
        ]
        for method, path, handler in routes:
            router.add_route(method, ADMIN_PATH + path, local(handler))

    async def list_faults(self, _: web.Request) -> web.Response:
        """GET /emulator/faults: the plan, with what each fault matched and how often it fired."""
        return web.json_response({"faults": self.faults.shown()})

    async def add_faults(self, request: web.Request) -> web.Response:
        """POST /emulator/faults: add to the plan; all of the faults or, if one is invalid, none."""
        try:
            self.faults.add(*read_faults(await _json(request)))
        except ValueError as error:
            raise invalid(str(error)) from None
        return await self.list_faults(request)

    async def clear_faults(self, _: web.Request) -> web.Response:
        """DELETE /emulator/faults: empty the plan."""
        self.faults.clear()
        return web.Response(status=204)

    async def list_requests(self, _: web.Request) -> web.Response:
        """GET /emulator/requests: the last thousand requests, oldest first, without secrets."""
        shown = [
            {
                **attrs.asdict(request, recurse=False),
                "at": date_time(request.at),
                "headers": dict(request.headers),
            }
            for request in self.recorder.requests[-_MOST_SHOWN:]
        ]
        return web.json_response({"requests": shown})

    async def list_open_sessions(self, _: web.Request) -> web.Response:
        """GET /emulator/sessions: all sessions that are not closed, each with its story."""
        now = self.clock.now()
        shown: list[str] = []
        for session, story in leak_report(self.instances.values(), self.recorder.requests, now):
            body = session_body(session, now)
            shown.append(json.dumps({**body, "instance": session.instance, "story": story}))
            if len(shown) % _MOST_AT_ONCE == 0:
                await asyncio.sleep(0)  # others are served meanwhile
        text = f'{{"sessions": [{", ".join(shown)}]}}'
        return web.Response(text=text, content_type="application/json")

    async def advance(self, request: web.Request) -> web.Response:
        """POST /emulator/advance: move the time, `{"duration": "30m"}`; answers the new time."""
        value = await _json(request)
        if not isinstance(value, dict) or set(value) != {"duration"}:
            raise invalid("The body must be an object whose only field is duration.")
        try:
            now = self.clock.step(read_duration(value["duration"]))
        except ValueError as error:
            raise invalid(f"duration: {error}") from None
        except RuntimeError as error:
            raise ServiceError(409, CONFLICT, str(error)) from None
        return web.json_response({"now": date_time(now)})


def local(handler: Handler) -> Handler:
    """Return a handler that serves this machine alone.

    A peer from elsewhere gets a 403, and so does a page from elsewhere in a browser here.
    """

    async def serve(request: web.Request) -> web.StreamResponse:
        await request.read()  # a connection can be kept only once its request is read
        if not (is_loopback(request.remote or "") and _is_from_here(request)):
            raise ServiceError(
                403,
                NOT_AUTHORISED,
                "The emulator is ruled from its own machine only, by its address.",
            )
        return await handler(request)

    return serve


def _is_from_here(request: web.Request) -> bool:
    """Return whether a request is from no web page, or from one of this machine.

    A page's own name may have been made to lead here, so that the Host must be an address,
    localhost or the name that the emulator listens on.
    """
    origin, host = request.headers.get("Origin"), request.headers.get("Host")
    try:
        origin_name = "localhost" if origin is None else urlsplit(origin).hostname or ""
        name = urlsplit(f"//{host or ''}").hostname or ""
    except ValueError:
        return False
    if host is not None and name != "localhost" and _address(name) is None:
        return name == request.app[HOST].lower() and is_loopback(origin_name)
    return is_loopback(origin_name)


async def _json(request: web.Request) -> object:
    body = await request.read()
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("The body is not valid JSON.") from None
