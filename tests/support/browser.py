"""A real browser, spoken to over its own protocol: Chromium without a window."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

from tests.support.needs import need, path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run Chromium with a profile in an empty folder; return the address of its protocol."""
    need("chromium")
    command = (str(path("chromium")), *FLAGS, f"--user-data-dir={folder}", "about:blank")
    with subprocess.Popen(
        command,
        env=os.environ | {"HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not (found := re.search(r"DevTools listening on (ws://\S+)", said)):
                said = process.stderr.readline()
                assert said, "Chromium ended before it listened"
            # Nobody reads on, and a full pipe would stop it.
            rest = Thread(target=process.stderr.read, daemon=True)
            rest.start()
            yield found[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        rest.join()


class Tab:
    """A page in a profile of its own.

    Attributes:
        problems: What the page complained of: errors on its console and uncaught ones.
        requested: The URLs that it asked for, in order.
    """

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.problems: list[str] = []
        self.requested: list[str] = []
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: dict[str, str] = {}

    async def attach(self) -> None:
        """Open the page, and listen to it."""
        context = await self.send("Target.createBrowserContext", disposeOnDetach=True)
        target = await self.send("Target.createTarget", url="about:blank", **context)
        self._session = await self.send("Target.attachToTarget", flatten=True, **target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")

    async def read(self) -> None:
        """Read what the browser sends, until the connection ends."""
        async for frame in self._socket:
            message = frame.json()
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, event: str, message: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(message["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(str(message["exceptionDetails"]))
        elif (event == "Log.entryAdded" and message["entry"]["level"] in {"error", "warning"}) or (
            event == "Runtime.consoleAPICalled"
            and message["type"] in {"error", "warning", "assert"}
        ):
            self.problems.append(str(message))

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command; return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": number, "method": method, "params": params, **self._session}
        )
        message = await answer
        assert "error" not in message, message["error"]
        result: dict[str, Any] = message["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page; a promise is awaited."""
        message = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in message, message["exceptionDetails"]
        return message["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait for a JavaScript condition to hold in the page."""
        look = f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 20); look(); }})"
        try:
            async with asyncio.timeout(30):
                await self.evaluate(look)
        except TimeoutError:
            shown = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never came true: {condition}\n{shown}") from None

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = {"Enter": 13, "Tab": 9}.get(key, 0)
            await self.send(
                "Input.dispatchKeyEvent",
                type="keyDown",
                key=key,
                text=text,
                windowsVirtualKeyCode=code,
            )
            await self.send(
                "Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code
            )

    async def resize(self, width: int, height: int = 800) -> None:
        """Set the page's size in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def prefer(self, **features: str) -> None:
        """Set what the user prefers, such as `color_scheme="dark"`."""
        wanted = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        await self.send("Emulation.setEmulatedMedia", features=wanted)

    async def screenshot(self) -> bytes:
        """Return a picture of the whole page, as PNG."""
        shot = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def opened(browser: str, url: str) -> AsyncIterator[Tab]:
    """Open a URL in a page of its own; it is closed at the end."""
    async with ClientSession() as http, http.ws_connect(browser, max_msg_size=0) as socket:
        tab = Tab(socket)
        reading = asyncio.create_task(tab.read())
        try:
            await tab.attach()
            await tab.send("Page.navigate", url=url)
            yield tab
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
