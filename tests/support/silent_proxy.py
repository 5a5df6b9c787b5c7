"""A proxy that carries bytes both ways, and that may go silent as a broken network does: connections
stay, new ones are taken, and nothing gets through until it speaks again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65_536


class SilentProxy:
    """A proxy in front of a port. Port 0, 127.0.0.1.

    Args:
        behind: The port.

    Attributes:
        port: Where it listens.
    """

    port: int

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all."""
        self._server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        for writer in self._writers:
            with suppress(OSError):
                await writer.wait_closed()

    def silence(self) -> None:
        """Let nothing get through."""
        self._speaks.clear()

    def speak(self) -> None:
        """Let all get through, what came meanwhile as well."""
        self._speaks.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine function: one that never came to run would close nothing.
        self._writers.add(writer)
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._speaks.wait()
        with suppress(OSError):
            behind, to = await asyncio.open_connection("127.0.0.1", self._behind)
            self._writers.add(to)
            await asyncio.gather(self._pass(reader, to), self._pass(behind, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._speaks.wait()
                writer.write(data)
                await writer.drain()
            await self._speaks.wait()
            writer.write_eof()
