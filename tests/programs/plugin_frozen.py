"""Tests with the plugin's fixtures while freezegun or time-machine keeps the time, from before the
client is made, within a test, and across its calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import time_machine
from freezegun import freeze_time

from qsessions import AsyncSessionClient, BadRequest, CallTimeout, SessionClient
from qsessions.emulator import Fault
from qsessions.testing.threaded import ThreadedEmulator

Freezer = Callable[[], AbstractContextManager[Any]]
FREEZERS: dict[str, Freezer] = {
    "freezegun": partial(freeze_time, "2030-01-01"),
    "freezegun that ticks": partial(freeze_time, "2030-01-01", tick=True),
    "freezegun with real_asyncio": partial(freeze_time, "2001-01-01", real_asyncio=True),
    "time-machine": partial(time_machine.travel, "2030-01-01", tick=False),
}
WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}
FAILS_ONCE = Fault(kind="answer", status=503, operations=["create"], times=1)
HANGS_ONCE = Fault(kind="latency", seconds=600, operations=["get"], times=1)


@pytest.fixture(params=FREEZERS)
def frozen(request: pytest.FixtureRequest) -> Freezer:
    """Return what freezes the time."""
    return FREEZERS[str(request.param)]


@pytest.mark.qsessions(faults=[FAILS_ONCE, HANGS_ONCE], real_time=True)
def test_sync(
    frozen: Freezer, qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Where they are to come in real time, retries, timeouts and waits do; what is read doesn't
    depend on the frozen time, and the emulator's time goes on as before.
    """
    before = qsessions_emulator.now()
    with frozen():
        session = qsessions_sync_client.create(**WANTED)
        with pytest.raises(CallTimeout):
            qsessions_sync_client.get(session.id, timeout=0.1)
        live = qsessions_sync_client.attach(session.id)
        with pytest.raises(CallTimeout):
            live.wait_until("active", timeout=0.2)
        read = qsessions_sync_client.get(session.id)
    assert abs(qsessions_emulator.now() - before) < 100
    assert qsessions_sync_client.get(session.id) == read
    qsessions_sync_client.close(session.id)
    assert live.wait_until("closed", timeout=30).is_final


def test_made_in_it(frozen: Freezer, request: pytest.FixtureRequest) -> None:
    """An emulator and a client that are made meanwhile work then and afterwards."""
    with frozen():
        client: SessionClient = request.getfixturevalue("qsessions_sync_client")
        session = client.create(**WANTED)
    client.close(session.id)


@pytest.mark.qsessions(faults=[FAILS_ONCE, HANGS_ONCE])
def test_async(frozen: Freezer, qsessions_client: AsyncSessionClient) -> None:
    """In the emulator's time they come, too, on an event loop whose own time is frozen."""

    async def use() -> None:
        with frozen():
            session = await qsessions_client.create(**WANTED)
            with pytest.raises(CallTimeout):
                await qsessions_client.get(session.id, timeout=0.2)
            with pytest.raises(CallTimeout):
                await qsessions_client.attach(session.id).wait_until("active", timeout=0.2)
        await qsessions_client.close(session.id)

    asyncio.run(use())


@pytest.mark.qsessions(allow_open=True)
def test_a_handle_of_before(frozen: Freezer, qsessions_client: AsyncSessionClient) -> None:
    """So does a wait on a handle from before the time was frozen."""

    async def use() -> None:
        live = qsessions_client.attach((await qsessions_client.create(**WANTED)).id)
        with frozen(), pytest.raises(CallTimeout):
            await live.wait_until("active", timeout=0.2)

    asyncio.run(use())


def test_afterwards(frozen: Freezer, qsessions_client: AsyncSessionClient) -> None:
    """What began while the time was frozen is over in time when it no longer is."""

    async def use() -> None:
        with frozen():
            session = await qsessions_client.create(**WANTED)
            wait = qsessions_client.attach(session.id).wait_until("active", timeout=0.2)
            waiting = asyncio.ensure_future(wait)
            await asyncio.sleep(0)
        with pytest.raises(CallTimeout):
            await waiting
        await qsessions_client.close(session.id)

    asyncio.run(use())


@pytest.mark.qsessions(faults=[Fault(kind="answer", status=400, operations=["create"])])
def test_failures(frozen: Freezer, qsessions_sync_client: SessionClient) -> None:
    """An error is read as without it."""
    with frozen(), pytest.raises(BadRequest):
        qsessions_sync_client.create(**WANTED)
