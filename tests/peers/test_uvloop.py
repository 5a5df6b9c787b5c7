"""The client on uvloop, an event loop that isn't asyncio's own."""

from __future__ import annotations

import asyncio
from importlib import import_module

import pytest

from qsessions import AsyncSessionClient, CallTimeout, IBMCloudAPIKey, ServiceCRN
from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.fault_server import FaultServer, hang
from tests.support.needs import need
from tests.support.threaded import threaded


def test_sessions_live_and_calls_time_out_on_uvloop() -> None:
    """A session is created, read, updated, closed and ended by its block, a create is cancelled before
    it is sent, and a call that gets no answer ends with its deadline.
    """
    need("uvloop")
    uvloop = import_module("uvloop")

    async def live(emulator: ThreadedEmulator) -> None:
        auth = [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]
        async with AsyncSessionClient(auth, base_url=emulator.url) as client:
            session = await client.create(mode="batch", backend="ibm_fez", max_ttl="10m")
            assert (await client.get(session.id)).accepting_jobs
            await client.update(session.id, accepting_jobs=False)
            assert (await client.get(session.id)).accepting_jobs is False
            async with client.open(mode="dedicated", backend="ibm_fez", max_ttl="10m") as opened:
                await client.close(opened.id)
            assert (await client.get(opened.id)).is_final
            creating = asyncio.ensure_future(client.create(mode="batch", max_ttl="10m"))
            await asyncio.sleep(0)
            creating.cancel()
            await asyncio.wait({creating})
            assert creating.cancelled()
            await client.close(session.id)
            assert [workload async for workload in client.workloads(status="in_progress")] == []

    async def wait_in_vain(url: str) -> None:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        async with AsyncSessionClient([], base_url=url) as client:
            with pytest.raises(CallTimeout):
                await client.get("a-session", timeout=0.05)

    with (
        ThreadedEmulator(Emulator()) as emulator,
        threaded(FaultServer(hang)) as service,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(live(emulator))
        runner.run(wait_in_vain(service.server.url))
