"""Lets a test's time pass: once all has run that can run by itself, and never before."""

from __future__ import annotations

import asyncio

from qsessions.testing import ManualClock
from tests.support.fault_server import Answer, Connection
from tests.support.leaks import loop_steps


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
