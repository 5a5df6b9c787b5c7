"""A server that answers with raw bytes, or not at all, for what no well-formed server does. Port 0,
127.0.0.1.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeAlias

from attrs import field, frozen


@frozen
class Received:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


class Connection:
    """What a scripted answer can do with a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Tear the connection down at once."""
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Send nothing until the client goes away."""
        await self.reader.read()


# Raw bytes, or what to do; both get one request each, the last one all that follow.
Answer: TypeAlias = bytes | Callable[[Connection], Awaitable[None]]


def http(
    status: int, body: bytes | str | object = b"", *, headers: dict[str, str] | None = None
) -> bytes:
    """Write an HTTP answer; a body that is neither bytes nor text is sent as JSON."""
    if isinstance(body, bytes):
        content, kind = body, "text/plain"
    elif isinstance(body, str):
        content, kind = body.encode(), "text/html"
    else:
        content, kind = json.dumps(body).encode(), "application/json"
    lines = {"Content-Type": kind, "Content-Length": str(len(content))} | (headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Told\r\n{head}\r\n".encode() + content


async def reset(connection: Connection) -> None:
    """Answer by tearing the connection down."""
    connection.reset()


async def hang(connection: Connection) -> None:
    """Answer by saying nothing."""
    await connection.hang()


def cut(data: bytes) -> Answer:
    """Answer with these bytes, then end the connection."""

    async def answer(connection: Connection) -> None:
        await connection.write(data)
        connection.writer.close()

    return answer


def stall(data: bytes) -> Answer:
    """Answer with these bytes, then say nothing more."""

    async def answer(connection: Connection) -> None:
        await connection.write(data)
        await connection.hang()

    return answer


def held(until: asyncio.Event, answer: bytes) -> Answer:
    """Answer with these bytes when the test says so."""

    async def wait(connection: Connection) -> None:
        await until.wait()
        await connection.write(answer)

    return wait


def endless(head: bytes, piece: bytes) -> Answer:
    """Answer with the head, then with the piece again and again for as long as somebody listens."""

    async def answer(connection: Connection) -> None:
        await connection.write(head)
        while True:
            await connection.write(piece)

    return answer


class FaultServer:
    """Answers request after request from a script.

    Args:
        answers: What to answer, in order; the last goes on being used.
        tls: The TLS settings, or None for plain HTTP.
        deaf: Whether it tears every connection down before it has read anything.

    Attributes:
        deaf: The same; may be changed.
        received: Every request, in order.
        connections: How many connections there were in all.
    """

    def __init__(
        self, *answers: Answer, tls: ssl.SSLContext | None = None, deaf: bool = False
    ) -> None:
        self._tls = tls
        self.deaf = deaf
        self.answers = list(answers)
        self.received: list[Received] = []
        self.connections = 0
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL."""
        assert self._server is not None
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def count(self, method: str) -> int:
        """Return how many requests with a method there were."""
        return sum(request.method == method for request in self.received)

    async def arrival(self, count: int = 1) -> None:
        """Wait until so many requests have arrived."""
        while len(self.received) < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def idle(self) -> None:
        """Wait until there is no connection."""
        while self._open:
            self._left.clear()
            await self._left.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Tear every connection down and listen no more."""
        assert self._server is not None
        # asyncio leaves a connection open that it has accepted when the server closes.
        for _ in range(5):
            await asyncio.sleep(0)
        self._server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        await self._server.wait_closed()
        # Their ends are still to be noticed, and nobody else gives them the time.
        for _ in range(100):
            if self._open:
                await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        connection = Connection(reader, writer)
        try:
            if self.deaf:
                connection.reset()
            while (request := await self._read(reader)) is not None:
                self.received.append(request)
                self._arrived.set()
                answer = await self._answer_to(request)
                if isinstance(answer, bytes):
                    await connection.write(answer)
                else:
                    await answer(connection)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            self._left.set()
            writer.close()

    async def _answer_to(self, request: Received) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def _read(self, reader: asyncio.StreamReader) -> Received | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Received(method, target, headers, body)
