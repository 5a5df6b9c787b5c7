"""A proxy in front of a server whose answers it breaks, for what goes wrong after the work was
done. Port 0, 127.0.0.1.
"""

from __future__ import annotations

import asyncio

from attrs import frozen
from yarl import URL

from tests.support.fault_server import Answer, FaultServer, Received


@frozen
class Broken:
    """What comes in place of a server's answer, whether the server hears of the request, and
    whether this happens only once.
    """

    answer: Answer
    after: bool
    once: bool = False


class FaultProxy(FaultServer):
    """Carries requests to a server and its answers back, and breaks the answers to the methods that
    it is told.

    Args:
        server: The URL of the server behind it.

    Attributes:
        broken: What goes wrong, by method.
    """

    def __init__(self, server: str) -> None:
        super().__init__()
        self._behind = URL(server)
        self.broken: dict[str, Broken] = {}

    async def _answer_to(self, request: Received) -> Answer:
        broken = self.broken.get(request.method)
        if broken is None:
            return await self._carry(request)
        if broken.once:
            del self.broken[request.method]
        if broken.after:
            await self._carry(request)
        return broken.answer

    async def _carry(self, request: Received) -> bytes:
        reader, writer = await asyncio.open_connection(self._behind.host, self._behind.port)
        # The end of the connection is the end of the answer.
        headers = request.headers | {"connection": "close"}
        lines = [
            f"{request.method} {request.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode() + request.body)
        try:
            return await reader.read()
        finally:
            writer.close()
