"""The live view for people: one page, and the stream of events that keeps it up to date."""

import asyncio
import json
import logging
import re
from base64 import b64encode
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from aiohttp import web

from qsessions.emulator.http.access import guarded
from qsessions.emulator.http.middleware import ADMIN_PATH, PAGE_PATH
from qsessions.emulator.page.dashboard import Dashboard, Snapshot

_FILE = Path(__file__).with_name("page.html")
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_TICK_SECONDS = 0.25

_log = logging.getLogger("qsessions.emulator")


class LiveView:
    """Serves the page and its events, as `Access` allows. Computes nothing without a viewer."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._stopping = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Add both paths. The events end when the application is shut down."""
        app.router.add_get(PAGE_PATH, guarded(self.show))
        app.router.add_route("GET", f"{ADMIN_PATH}/events", guarded(self.stream))
        app.on_shutdown.append(self._stop)

    async def show(self, _: web.Request) -> web.StreamResponse:
        """GET /: the page, which may run and load only what its own file holds."""
        text = await asyncio.to_thread(_FILE.read_text, encoding="utf-8")
        headers = {
            "Content-Security-Policy": _policy(text),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /emulator/events: all that the page shows, then what changes, four times a second."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        # Before the answer begins, so that an error still becomes a 500.
        now, snapshot = self._dashboard.snapshot()
        await response.prepare(request)
        try:
            await response.write(_event("all", now, snapshot, Snapshot()))
            while not await self._stopped():
                previous = snapshot
                now, snapshot = self._dashboard.snapshot()
                await response.write(_event("change", now, snapshot, previous))
        except ConnectionError:
            pass  # the page was closed
        except Exception as error:  # noqa: BLE001 - an injected clock may fail, too late for a 500
            _log.error("the page's events failed: %s", type(error).__name__)
        return response

    async def _stopped(self) -> bool:
        """Wait for the next tick, and return whether the emulator stops instead."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), _TICK_SECONDS)
        return self._stopping.is_set()

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()


def _event(name: str, now: float, snapshot: Snapshot, previous: Snapshot) -> bytes:
    data = json.dumps({"now": now, **snapshot.since(previous)})
    return f"event: {name}\ndata: {data}\n\n".encode()


def _policy(text: str) -> str:
    """Return the page's security policy: its style and script by hash, and its host's events."""
    hashes = {
        kind: b64encode(sha256(inline.encode()).digest()).decode()
        for kind, inline in _INLINE.findall(text)
    }
    return (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; "
        f"style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'"
    )
