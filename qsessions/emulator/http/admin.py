"""Controlling the emulator over HTTP, beside the service: for tests not written in Python."""

import asyncio
import json
from collections.abc import Mapping

import attrs
from aiohttp import web

from qsessions.emulator.faults import FaultPlan, read_faults
from qsessions.emulator.http.access import guarded
from qsessions.emulator.http.leak_report import leak_report
from qsessions.emulator.http.middleware import ADMIN_PATH, Handler
from qsessions.emulator.http.recording import Recorder
from qsessions.emulator.service.bodies import date_time, session_body
from qsessions.emulator.service.clock import ServiceClock, read_duration
from qsessions.emulator.service.errors import CONFLICT, ServiceError, invalid
from qsessions.emulator.service.instances import Instance

_MOST_SHOWN = 1000
_MOST_AT_ONCE = 50


@attrs.frozen(kw_only=True)
class AdminRoutes:
    """The endpoints below `ADMIN_PATH`, for those whom `Access` lets in."""

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
            router.add_route(method, ADMIN_PATH + path, guarded(handler))

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


async def _json(request: web.Request) -> object:
    body = await request.read()
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("The body is not valid JSON.") from None
