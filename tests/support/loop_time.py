"""The timers of the running event loop on a test's clock, so that a deadline passes when a test
says so, and never because a machine is slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.fault_server import Answer, Connection
from tests.support.leaks import loop_steps
from tests.support.manual_clock import ManualClock


@contextmanager
def timers_on(time: ManualClock) -> Iterator[None]:
    """Have the event loop's timers wait for a test's clock, which moves only when it is told to."""
    loop = asyncio.get_running_loop()
    usual, base, started = loop.time, loop.time(), time.now
    loop.time = lambda: base + (time.now - started)  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.time = usual  # type: ignore[method-assign]


async def let_pass(seconds: float, time: ManualClock) -> None:
    """Let everything run that can run by itself, then move the clock on."""
    await loop_steps(30)
    time.advance(seconds)


def late(answer: Answer, seconds: float, time: ManualClock) -> Answer:
    """Answer like this, and move the clock on once the client has had what there is of it."""

    async def play(connection: Connection) -> None:
        passing = asyncio.ensure_future(let_pass(seconds, time))
        if isinstance(answer, bytes):
            await connection.write(answer)
        else:
            await answer(connection)
        await passing

    return play
