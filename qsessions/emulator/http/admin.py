"""What rules the emulator over HTTP, beside the service: for tests that are not written in Python."""

import asyncio
import ipaddress
import json
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import attrs
from aiohttp import web

from qsessions.emulator.faults import FaultPlan, read_faults
from qsessions.emulator.http.middleware import ADMIN_PATH, Handler
from qsessions.emulator.http.recording import Recorder
from qsessions.emulator.page.stories import stories
from qsessions.emulator.service.bodies import date_time, session_body
from qsessions.emulator.service.clock import ServiceClock, read_duration
from qsessions.emulator.service.errors import CONFLICT, NOT_AUTHORISED, Refusal, invalid
from qsessions.emulator.service.instances import Instance

_MOST_SHOWN = 1000
_MOST_AT_ONCE = 50
HOST = web.AppKey("host", str)
"""Where the emulator was told to listen."""


def is_loopback(address: str) -> bool:
    """Whether an address of a peer, or to listen on, belongs to this machine alone. A name other than localhost doesn't."""
    if address.lower() == "localhost":
        return True
    known = _address(address)
    # A socket for both families tells IPv4 peers as mapped ones.
    return known is not None and (getattr(known, "ipv4_mapped", None) or known).is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@attrs.frozen(kw_only=True)
class Admin:
    """Needs no token, and answers this machine only."""

    instances: Mapping[str, Instance]
    clock: ServiceClock
    recorder: Recorder
    faults: FaultPlan
    user_id: str

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the endpoints."""
        routes: list[tuple[str, str, Callable[[bytes], web.Response]]] = [
            ("GET", "/faults", self.list_faults),
            ("POST", "/faults", self.add_faults),
            ("DELETE", "/faults", self.clear_faults),
            ("GET", "/requests", self.list_requests),
            ("POST", "/advance", self.advance),
        ]
        for method, path, handler in routes:
            router.add_route(method, ADMIN_PATH + path, local(_answering(handler)))
        router.add_route("GET", f"{ADMIN_PATH}/sessions", local(self.list_open_sessions))

    def list_faults(self, _: bytes) -> web.Response:
        """GET /emulator/faults: the plan, with how many requests each fault matched and struck."""
        return web.json_response({"faults": self.faults.shown()})

    def add_faults(self, body: bytes) -> web.Response:
        """POST /emulator/faults: add to the plan; all of the faults or, if one makes no sense, none."""
        try:
            faults = read_faults(_json(body))
        except ValueError as error:
            raise invalid(str(error)) from None
        self.faults.add(*faults)
        return self.list_faults(b"")

    def clear_faults(self, _: bytes) -> web.Response:
        """DELETE /emulator/faults: let everything go well again."""
        self.faults.clear()
        return web.Response(status=204)

    def list_requests(self, _: bytes) -> web.Response:
        """GET /emulator/requests: the last thousand that the service received, oldest first, without secrets."""
        shown = [
            {**attrs.asdict(request, recurse=False), "headers": dict(request.headers)}
            for request in self.recorder.requests[-_MOST_SHOWN:]
        ]
        return web.json_response({"requests": shown})

    async def list_open_sessions(self, _: web.Request) -> web.Response:
        """GET /emulator/sessions: the sessions of all instances that are not closed, each with its story."""
        now = self.clock.now()
        shown: list[str] = []
        for session, story in stories(self.instances.values(), self.recorder.requests, now):
            body = session_body(session, now, self.user_id)
            shown.append(json.dumps({**body, "instance": session.instance, "story": story}))
            if len(shown) % _MOST_AT_ONCE == 0:
                await asyncio.sleep(0)  # others are served meanwhile
        return web.Response(
            text=f'{{"sessions": [{", ".join(shown)}]}}', content_type="application/json"
        )

    def advance(self, body: bytes) -> web.Response:
        """POST /emulator/advance: let time pass, `{"duration": "30m"}`; answers what time it then is."""
        value = _json(body)
        if not isinstance(value, dict) or set(value) != {"duration"}:
            raise invalid("The body must be an object whose only field is duration.")
        try:
            now = self.clock.step(read_duration(value["duration"]))
        except ValueError as error:
            raise invalid(f"duration: {error}") from None
        except RuntimeError as error:
            raise Refusal(409, CONFLICT, str(error)) from None
        return web.json_response({"now": date_time(now)})


def local(handler: Handler) -> Handler:
    """What serves this machine alone: a peer from elsewhere gets a 403, and so does a page from elsewhere in a browser here."""

    async def serve(request: web.Request) -> web.StreamResponse:
        await request.read()  # a connection can be kept only once its request is read
        if not (is_loopback(request.remote or "") and _is_of_here(request)):
            raise Refusal(
                403,
                NOT_AUTHORISED,
                "The emulator is ruled from its own machine only, by its address.",
            )
        return await handler(request)

    return serve


def _is_of_here(request: web.Request) -> bool:
    """Whether a request comes from no web page, or from one of this machine, and not by a name that somebody else has led here."""
    origin, host = request.headers.get("Origin"), request.headers.get("Host")
    if origin is not None and not is_loopback(_name(origin)):
        return False
    if host is None:
        return True
    name = _name(f"//{host}")
    return name == request.app[HOST].lower() or name == "localhost" or _address(name) is not None


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _answering(handler: Callable[[bytes], web.Response]) -> Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        return handler(await request.read())

    return serve


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("The body is not valid JSON.") from None
