"""Clients that nobody closed: they warn in our words, and the HTTP library doesn't."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from qsessions.emulator import Emulator
from tests.support.shell import PROGRAMS
from tests.support.tables import table

ASYNC = (
    "ResourceWarning: an AsyncSessionClient was not closed: use `async with AsyncSessionClient() as "
    "client:`, or call `await client.aclose()` at the end."
)
SYNC = (
    "ResourceWarning: a SessionClient was not shut down: use `with SessionClient() as client:`, or "
    "call `client.shutdown()` at the end."
)


@table(
    ("scene", "warning"),
    [
        ("forgotten_in_main", ASYNC),
        ("dropped", ASYNC),
        ("dropped_in_a_cycle", ASYNC),
        ("dropped_in_another_thread", ASYNC),
        ("dropped_after_the_loop", ASYNC),
        ("dropped_between_runs", ASYNC),
        ("dropped_before_the_loop_is_closed", ASYNC),
        ("kept_until_the_end", ASYNC),
        ("left_within_a_block", ASYNC),
        ("dropped_while_it_is_used", ASYNC),
        ("forked", None),
        ("closed", None),
        ("unused", None),
        ("shut_down", None),
        ("sync_dropped", SYNC),
        ("sync_kept_until_the_end", SYNC),
    ],
)
async def test_a_client_that_nobody_closed(
    service: Emulator, home: Path, *, scene: str, warning: str | None
) -> None:
    """A client of either kind that nobody closed warns once, with its class and what to write,
    wherever it is let go of, and the HTTP library doesn't warn of its own sessions as well. A call
    under way goes on. One that was closed or never used doesn't warn, nor does a child that was
    forked from its process.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", PROGRAMS / "unclosed.py", scene),
        env=os.environ | service.env() | {"HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    told = err.decode()
    assert (process.returncode, out.decode()) == (0, "end\n"), told
    assert told.count("Client was not") == (warning is not None), told
    assert warning is None or warning in told
    assert "Unclosed" not in told
    assert "Traceback" not in told
    assert "never" not in told
