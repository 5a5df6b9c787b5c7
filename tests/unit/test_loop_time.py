"""The timers of a test's clock."""

from __future__ import annotations

import asyncio
import time as real

from qsessions.testing import ManualClock
from tests.support.fault_server import FaultServer, hang, http
from tests.support.leaks import loop_steps
from tests.support.loop_time import late, let_pass


async def test_a_slow_machine_lets_no_deadline_pass(time: ManualClock) -> None:
    """However long something really takes, only the test's clock lets a deadline pass."""
    waiting = asyncio.ensure_future(time.deadline(1 / 64).wait({asyncio.Future()}))
    await loop_steps(1)
    began = real.monotonic()
    while real.monotonic() - began < 1 / 32:
        pass
    await let_pass(1 / 128, time)
    await loop_steps(30)
    assert not waiting.done()
    time.advance(1 / 128)
    await waiting


async def test_the_clock_goes_on_with_a_late_answer(time: ManualClock) -> None:
    """What is there of an answer arrives first, and then the time has passed."""
    for answer, expected in ((http(200), http(200)), (hang, b"")):
        started = time.now
        async with FaultServer(late(answer, 5, time)) as server:
            port = int(server.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            if expected:
                assert await reader.readexactly(len(expected)) == expected
                assert time.now == started
            await server.arrival()
            await loop_steps(100)
            assert time.now == started + 5
            writer.close()
            await server.idle()
