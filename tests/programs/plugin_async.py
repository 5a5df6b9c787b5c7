"""Asynchronous tests with the plugin's fixtures, for each asyncio plugin; two leave a session open.

ASYNC_MARK names the marker that the asyncio plugin needs, or is empty in its auto mode.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from qsessions import AsyncSessionClient, Session
from qsessions.testing.threaded import ThreadedEmulator

MARK = os.environ["ASYNC_MARK"]
pytestmark = [getattr(pytest.mark, MARK)] if MARK else []
fixture: Callable[..., Any] = pytest.fixture
if MARK == "asyncio":
    from pytest_asyncio import fixture
WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}


@fixture
async def session(qsessions_client: AsyncSessionClient) -> AsyncIterator[Session]:
    """Open a session, and close it after the test."""
    session = await qsessions_client.create(**WANTED)
    yield session
    await qsessions_client.close(session.id)


class TestOneForEach:
    """With an emulator for each test."""

    async def test_create(
        self, qsessions_client: AsyncSessionClient, qsessions_emulator: ThreadedEmulator
    ) -> None:
        """The client works, and the emulator can be asked without awaiting."""
        session = await qsessions_client.create(**WANTED)
        qsessions_emulator.advance("5m")
        await qsessions_client.close(session.id)
        assert qsessions_emulator.sessions[session.id].state == "closed"

    async def test_that_each_has_its_own(
        self, qsessions_client: AsyncSessionClient, qsessions_emulator: ThreadedEmulator
    ) -> None:
        """Nothing of other tests is seen."""
        assert [workload async for workload in qsessions_client.workloads()] == []
        assert len(qsessions_emulator.requests) == 3

    async def test_left(self, qsessions_client: AsyncSessionClient) -> None:
        """A session is left open."""
        await qsessions_client.create(**WANTED)

    async def test_open(
        self, qsessions_client: AsyncSessionClient, qsessions_emulator: ThreadedEmulator
    ) -> None:
        """`open` ends its session."""
        async with qsessions_client.open(**WANTED) as live:
            assert [session.id for session in qsessions_emulator.open_sessions] == [live.id]

    async def test_a_fixture_that_awaits(
        self, session: Session, qsessions_client: AsyncSessionClient
    ) -> None:
        """The client works in a fixture, too."""
        assert (await qsessions_client.get(session.id)).state == "open"


class TestShared:
    """With an emulator for the whole run."""

    async def test_create(self, qsessions_shared_client: AsyncSessionClient) -> None:
        """The client works."""
        session = await qsessions_shared_client.create(**WANTED)
        await qsessions_shared_client.close(session.id)

    async def test_left(self, qsessions_shared_client: AsyncSessionClient) -> None:
        """A session is left open."""
        await qsessions_shared_client.create(**WANTED)

    async def test_that_all_share(
        self,
        qsessions_shared_client: AsyncSessionClient,
        qsessions_shared_emulator: ThreadedEmulator,
    ) -> None:
        """What other tests did is seen."""
        live = qsessions_shared_client.attach(next(iter(qsessions_shared_emulator.sessions)))
        assert (await live.wait_until("closed", timeout="30s")).is_final
        assert len([workload async for workload in qsessions_shared_client.workloads()]) == 2
