"""Tests that don't await, with the plugin's fixtures."""

from __future__ import annotations

import asyncio
from typing import Any

from qsessions import AsyncSessionClient, SessionClient
from qsessions.testing.threaded import ThreadedEmulator

WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}


def test_sync(qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator) -> None:
    """The synchronous client works, and time can be moved."""
    session = qsessions_sync_client.create(**WANTED)
    job = qsessions_emulator.submit_job(session.id, seconds=60)
    qsessions_emulator.advance("1m")
    assert qsessions_emulator.jobs[job].status == "Completed"
    qsessions_sync_client.drain(session.id)
    qsessions_emulator.assert_no_open_sessions()


def test_shared(qsessions_shared_sync_client: SessionClient) -> None:
    """So does the one that all tests share."""
    session = qsessions_shared_sync_client.create(**WANTED)
    qsessions_shared_sync_client.close(session.id)


def test_loops_of_the_test(qsessions_client: AsyncSessionClient) -> None:
    """The asynchronous client works on each event loop that a test runs."""

    async def once() -> None:
        session = await qsessions_client.create(**WANTED)
        await qsessions_client.close(session.id)

    asyncio.run(once())
    asyncio.run(once())
