"""What a call that is over must not leave behind: tasks and connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from qsessions import AsyncSessionClient
from qsessions.emulator import Emulator
from tests.support.fault_server import FaultServer
from tests.support.internals import transport_of
from tests.support.waiting import PATIENCE_S


def ours() -> set[asyncio.Task[Any]]:
    """Return the tasks that run, apart from the test's and those of servers."""
    servers = ("RequestHandler.", "FaultServer.")
    return {
        task
        for task in asyncio.all_tasks()
        if task is not asyncio.current_task()
        and not getattr(task.get_coro(), "__qualname__", "").startswith(servers)
    }


async def loop_steps(count: int) -> None:
    """Let the event loop go round so often."""
    for _ in range(count):
        await asyncio.sleep(0)


def in_use(client: AsyncSessionClient) -> int:
    """Count the connections that a client's calls hold, apart from those that it keeps for later
    calls.
    """
    pools = [http.connector for http in transport_of(client).pool.sessions.values()]
    return sum(len(pool._acquired) for pool in pools if pool is not None)


@asynccontextmanager
async def leaving_nothing(
    client: AsyncSessionClient, *servers: FaultServer, exchanges: int = 0
) -> AsyncIterator[AsyncSessionClient]:
    """Enter a client. Before it is closed, which would tidy up, check that its calls left no task and
    no connection in use, but for so many
    exchanges for a token, which belong to no call; and afterwards that there is no task and no
    connection at all.
    """
    async with client:
        yield client
        await loop_steps(10)
        assert (len(ours()), in_use(client)) == (exchanges, exchanges), ours()
    assert ours() == set()
    async with asyncio.timeout(PATIENCE_S):
        for server in servers:
            await server.idle()


def open_sessions(emulator: Emulator) -> list[str]:
    """List the sessions that cost or may cost."""
    return [session.id for session in emulator.sessions.values() if session.state != "closed"]
