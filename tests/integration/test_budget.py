"""What one `get` may cost, counted where time would depend on the machine.

A change that makes the way longer fails here and says by how much. Bare aiohttp is counted in the
same test, so that its own versions and those of Python matter little: the difference was the same
on 3.11, 3.12 and 3.13, although the profiler of 3.12 counts by other means and comprehensions are
no calls any more.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.programs import budget
from tests.support.clients import CRN
from tests.support.fault_server import FaultServer, http
from tests.support.stage import ROOT

# Function calls of a warm `get` over those of aiohttp's `get` and `read`: 67 now.
MOST_CALLS = 69
# The peak of memory during a `get` over that during aiohttp's, in bytes: 2,691 now. (Each has 256 KB
# besides, the event loop's buffer for what it reads.)
MOST_MEMORY = 3_000
# What measuring the coverage adds to that, for each frame that is entered.
TRACING = 1_600
# How much a thousand of them may leave behind, in bytes: less than one object for each.
MOST_GROWTH = 4_000

SAMPLE = Path(__file__).parents[1] / "contract" / "samples" / "session_active.json"
SESSION = json.loads(SAMPLE.read_text(encoding="utf-8"))


async def test_a_get_takes_few_steps_and_little_memory() -> None:
    """A warm `get` makes few more function calls than bare aiohttp and needs little more memory,
    and a thousand of them leave nothing behind.
    """
    async with FaultServer(http(200, SESSION)) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            budget.__name__,
            server.url,
            CRN,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    cost = json.loads(output)
    assert cost["calls"] <= MOST_CALLS, f"{cost['calls'] - MOST_CALLS} function calls too many"
    surplus = cost["memory"] - MOST_MEMORY - TRACING * cost["traced"]
    assert surplus <= 0, f"{surplus} bytes too many at the peak"
    assert cost["growth"] <= MOST_GROWTH, f"1,000 calls left {cost['growth']} bytes"
