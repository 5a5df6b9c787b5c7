"""A proxy that makes a server of this machine as far away as one on another continent."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial


class DelayProxy:
    """Passes connections on to a port of this machine, each direction half a round trip late.

    It counts connections and exchanges: what a client sends, and the answer that it waits for. A
    connection's own handshake is one round trip more; its first exchange waits for that here.

    Args:
        target: The port to connect to.
        round_trip_s: How long a question and its answer are on their way, in seconds.
    """

    def __init__(self, target: int, round_trip_s: float) -> None:
        self.target = target
        self.round_trip_s = round_trip_s
        self.port = 0
        self.counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen on a port of the system's choice."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _ClientSide(self), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    def counted(self) -> dict[str, int]:
        """Return what was counted since the last call."""
        counts, self.counts = self.counts, Counter()
        return dict(counts)


class _ClientSide(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, proxy: DelayProxy) -> None:
        self._proxy = proxy
        self._is_asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._proxy.counts["connections"] += 1
        self._loop = asyncio.get_running_loop()
        self._connected_at = self._loop.time() + self._proxy.round_trip_s
        self._server = asyncio.ensure_future(
            self._loop.create_connection(lambda: _ServerSide(self), "127.0.0.1", self._proxy.target)
        )

    def data_received(self, data: bytes) -> None:
        """Pass on what the client sent, once it would have arrived."""
        self._is_asking = True
        sent_at = max(self._loop.time(), self._connected_at)
        arrives_at = sent_at + self._proxy.round_trip_s / 2
        self._loop.call_at(arrives_at, partial(self._send_to_server, data))

    def _send_to_server(self, data: bytes) -> None:
        if self._server.done() and not self._server.exception():
            self._server.result()[0].write(data)

    def answer(self, data: bytes) -> None:
        """Pass on what the server sent, once it would have arrived."""
        self._loop.call_later(self._proxy.round_trip_s / 2, partial(self._send_to_client, data))

    def _send_to_client(self, data: bytes) -> None:
        if self._is_asking:
            self._proxy.counts["exchanges"] += 1
        self._is_asking = False
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the connection to the server too."""
        if self._server.done() and not self._server.exception():
            self._server.result()[0].close()


class _ServerSide(asyncio.Protocol):
    """The connection to the server."""

    def __init__(self, client: _ClientSide) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        """Send it back to the client."""
        self._client.answer(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the client's connection too."""
        self._client.transport.close()
