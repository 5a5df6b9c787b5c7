"""The main job over real sockets: one session from create to closed."""

from __future__ import annotations

import asyncio

import pytest

from qsessions import AsyncSessionClient, Conflict, InvalidArgument, Mode, NotFound, SessionState
from qsessions.emulator import Emulator


@pytest.mark.smoke
async def test_a_session_is_created_read_drained_and_closed(client: AsyncSessionClient, emulator: Emulator) -> None:
    """A created session is open, becomes active with its first job, and a drained one closes when its last job ends."""
    session = await client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    assert (session.state, session.mode, session.max_ttl) == (SessionState.OPEN, Mode.DEDICATED, 600)
    live = client.attach(session.id)
    emulator.submit_job(session.id, seconds=30)
    assert (await live.wait_until("active")).backend_name == "ibm_fez"
    await live.drain()
    closed = await live.wait_until("closed")
    assert closed.is_final
    assert closed.elapsed_time == pytest.approx(30, abs=1)
