"""A door to a server that is as far away as one on another continent."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial


class Delayed:
    """Passes connections on to a port of this machine, each direction half a round trip late.

    It counts connections and exchanges: what a client sends, and the answer that it waits for. A
    connection's own handshake is one round trip more; its first exchange waits for that here.

    Args:
        target: The port that is behind the door.
        round_trip_s: How long a question and its answer are on their way, in seconds.
    """

    def __init__(self, target: int, round_trip_s: float) -> None:
        self.port = 0
        self.counts: Counter[str] = Counter()
        self._target = target
        self.round_trip_s = round_trip_s

    async def start(self) -> None:
        """Listen on a port of the system's choice."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Near(self, self._target), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    def counted(self) -> dict[str, int]:
        """Return what was counted since the last call."""
        counts, self.counts = self.counts, Counter()
        return dict(counts)


class _Near(asyncio.Protocol):
    """The side of the client."""

    def __init__(self, door: Delayed, target: int) -> None:
        self._door = door
        self._target = target
        self._is_asking = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._door.counts["connections"] += 1
        self._loop = asyncio.get_running_loop()
        self._ready_at = self._loop.time() + self._door.round_trip_s
        self._far = asyncio.ensure_future(
            self._loop.create_connection(lambda: _Far(self), "127.0.0.1", self._target)
        )

    def data_received(self, data: bytes) -> None:
        """Pass on what the client sent, once it would have arrived."""
        self._is_asking = True
        sent_at = max(self._loop.time(), self._ready_at)
        self._loop.call_at(sent_at + self._door.round_trip_s / 2, partial(self._pass_on, data))

    def _pass_on(self, data: bytes) -> None:
        if self._far.done() and not self._far.exception():
            self._far.result()[0].write(data)

    def answer(self, data: bytes) -> None:
        """Pass on what the server sent, once it would have arrived."""
        self._loop.call_later(self._door.round_trip_s / 2, partial(self._hand_over, data))

    def _hand_over(self, data: bytes) -> None:
        if self._is_asking:
            self._door.counts["exchanges"] += 1
        self._is_asking = False
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the server too."""
        if self._far.done() and not self._far.exception():
            self._far.result()[0].close()


class _Far(asyncio.Protocol):
    """The side of the server."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def data_received(self, data: bytes) -> None:
        """Send it back to the client."""
        self._near.answer(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the client too."""
        self._near.transport.close()
