"""The server of the benchmarks: fixed answers, in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import re
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks import payloads
from benchmarks.delay_proxy import DelayProxy
from benchmarks.machine import pin

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_END = b"\r\n\r\n"


def _answer(body: object, *, more: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{more}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


# What a CDN sets on every answer.
_COOKIES = "".join(
    f"Set-Cookie: {name}={'x' * 60}; path=/; expires=Mon, 04-May-37 08:30:00 GMT; HttpOnly\r\n"
    for name in ("__cf_bm", "_cfuvid")
)


def _answers() -> list[tuple[bytes, bytes]]:
    """Return the answers by the beginning of the request; the first that fits is sent."""
    return [
        (b"GET /v1/sessions/", _answer(payloads.SESSION)),
        (b"GET /cookies/v1/sessions/", _answer(payloads.SESSION, more=_COOKIES)),
        (b"GET /v1/workloads", _answer(payloads.WORKLOADS)),
        (b"POST /v1/sessions", _answer(payloads.SESSION | {"state": "open"})),
        (b"POST /identity/token", _answer(payloads.grant())),
    ]


class Answering(asyncio.Protocol):
    """Answers each request on a connection; about the server itself, with its CPU seconds and with
    what went through the delay proxies.
    """

    def __init__(self, answers: list[tuple[bytes, bytes]], proxies: list[DelayProxy]) -> None:
        self._answers = answers
        self._proxies = proxies
        self._read = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._read += data
        while _END in self._read:
            head, _, rest = self._read.partition(_END)
            size = 0
            if not head.startswith(b"GET "):
                length = _LENGTH.search(head)
                size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self._read = rest[size:]
            assert self._transport is not None
            self._transport.write(self._answer_to(head))

    def _answer_to(self, head: bytes) -> bytes:
        for beginning, answer in self._answers:
            if head.startswith(beginning):
                return answer
        if head.startswith(b"GET /cpu "):
            return _answer(time.process_time())
        if head.startswith(b"GET /delayed "):
            return _answer([proxy.counted() for proxy in self._proxies])
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@frozen
class Addresses:
    """Where the stub listens. What needs a certificate is None without trustme."""

    plain: str
    tls: str | None
    delayed_service: str | None
    delayed_iam: str | None


async def _serve(ready: Connection, folder: str | None, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    answers = _answers()
    proxies: list[DelayProxy] = []

    async def listen(context: ssl.SSLContext | None = None) -> int:
        server = await loop.create_server(
            lambda: Answering(answers, proxies), "127.0.0.1", 0, ssl=context, backlog=1024
        )
        return int(server.sockets[0].getsockname()[1])

    plain = f"http://127.0.0.1:{await listen()}"
    addresses = Addresses(plain, None, None, None)
    if folder is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(Path(folder) / "server.pem")
        port = await listen(context)
        for _ in range(2):
            proxy = DelayProxy(port, delay_s)
            await proxy.start()
            proxies.append(proxy)
        service, iam = (f"https://127.0.0.1:{proxy.port}" for proxy in proxies)
        addresses = Addresses(plain, f"https://127.0.0.1:{port}", service, iam)
    ready.send(addresses)
    await asyncio.Event().wait()


def serve(ready: Connection, core: int | None, folder: str | None, delay_s: float) -> None:
    """Run the stub in this process and send its addresses."""
    pin(core)
    asyncio.run(_serve(ready, folder, delay_s))


def make_certificates(folder: Path) -> bool:
    """Write the server's certificate and its authority's; return False without trustme."""
    try:
        import trustme
    except ImportError:
        return False
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        folder / "server.pem"
    )
    authority.cert_pem.write_to_path(folder / "authority.pem")
    return True


class Stub:
    """A running stub, as the clients see it.

    Attributes:
        addresses: Where it listens.
        delay_s: The round trip of the delay proxies, in seconds.
    """

    def __init__(self, addresses: Addresses, authority: Path | None, delay_s: float) -> None:
        self.addresses = addresses
        self.delay_s = delay_s
        self._authority = authority
        host = addresses.plain.removeprefix("http://")
        self._asking = http.client.HTTPConnection(host)

    @property
    def url(self) -> str:
        """The base URL without TLS."""
        return self.addresses.plain

    @property
    def named_url(self) -> str:
        """The same with a host name: cookie jars keep no cookies of an address."""
        return self.url.replace("127.0.0.1", "localhost")

    def client_tls(self) -> ssl.SSLContext:
        """Return the settings of a client that trusts the stub."""
        return ssl.create_default_context(cafile=self._authority)

    def cpu_seconds(self) -> float:
        """Return the CPU time that the stub has used."""
        return float(self._ask("/cpu"))

    def delayed(self) -> list[dict[str, int]]:
        """Return what went through the proxies to the service and to IAM since the last call."""
        return [dict(counts) for counts in self._ask("/delayed")]

    def _ask(self, path: str) -> Any:
        self._asking.request("GET", path)
        return json.loads(self._asking.getresponse().read())


@contextmanager
def running_stub(core: int | None = None, *, delay_s: float = 0.1) -> Iterator[Stub]:
    """Start a stub and end it.

    Args:
        core: The core to keep it on, or None.
        delay_s: The round trip of the delay proxies, in seconds.
    """
    # A process that shares nothing with this one.
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certified = make_certificates(folder)
        arguments = (theirs, core, name if certified else None, delay_s)
        process = spawning.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        try:
            yield Stub(ours.recv(), folder / "authority.pem" if certified else None, delay_s)
        finally:
            process.terminate()
            process.join()
