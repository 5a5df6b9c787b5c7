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

from qsessions.emulator.http.admin import local
from qsessions.emulator.http.middleware import ADMIN_PATH, PAGE_PATH
from qsessions.emulator.page.board import Board, View

_FILE = Path(__file__).with_name("page.html")
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_TICK_SECONDS = 0.25

_log = logging.getLogger("qsessions.emulator")


class Page:
    """Serves the page and its events, to this machine only. Reckons nothing while nobody watches."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._stopping = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Add both paths; the events end when the application is shut down."""
        app.router.add_get(PAGE_PATH, local(self.show))
        app.router.add_route("GET", f"{ADMIN_PATH}/events", local(self.stream))
        app.on_shutdown.append(self._stop)

    async def show(self, _: web.Request) -> web.StreamResponse:
        """GET /: the page, which may run and load nothing but what its own file holds."""
        text = await asyncio.to_thread(_FILE.read_text, encoding="utf-8")
        headers = {
            "Content-Security-Policy": _policy(text),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """GET /emulator/events: first all that the page shows, then, four times a second, the time and what has changed."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        now, view = self._board.look()  # before the answer begins, so that an error is still one
        await response.prepare(request)
        try:
            await response.write(_event("all", now, view, View()))
            while not await self._stopped():
                seen = view
                now, view = self._board.look()
                await response.write(_event("change", now, view, seen))
        except ConnectionError:
            pass  # the page was closed
        except Exception as error:  # noqa: BLE001 - a clock that a test injected may fail; it is too late for a 500
            _log.error("the page's events failed: %s", type(error).__name__)
        return response

    async def _stopped(self) -> bool:
        """Wait for the next tick; says whether the emulator stops instead."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), _TICK_SECONDS)
        return self._stopping.is_set()

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()


def _event(name: str, now: float, view: View, seen: View) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'now': now, **view.since(seen)})}\n\n".encode()


def _policy(text: str) -> str:
    """The page's security policy: its own style and script by their hashes, its own host's events, and nothing else."""
    hashes = {
        kind: b64encode(sha256(inline.encode()).digest()).decode()
        for kind, inline in _INLINE.findall(text)
    }
    return (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'"
    )
