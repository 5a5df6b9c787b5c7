"""Tests of code that waits for minutes, as a user writes them: sixty waits that take no time.

The code under test knows nothing of the emulator, of clocks or of tests.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from qsessions import AsyncSessionClient, CallTimeout, RetryPolicy, SessionClient
from qsessions.emulator import Fault
from qsessions.testing import ThreadedEmulator

WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "30m"}
BUSY = Fault(kind="answer", status=429, retry_after=60, operations=["create"], times=4)


def experiment(client: SessionClient) -> list[object]:
    """Open a session and look at it for some minutes."""
    seen: list[object] = []
    with client.open(**WANTED) as live:
        for minutes in (2, 1):
            try:
                live.wait_until("closed", timeout=60 * minutes)
            except CallTimeout:
                seen.append(live.refresh().state)
    return seen


async def survey(client: AsyncSessionClient, ids: list[str]) -> list[object]:
    """Wait for many sessions at once, each until the service closes it."""

    async def one(session_id: str) -> object:
        return (await client.attach(session_id).wait_until("closed")).state

    return await asyncio.gather(*map(one, ids))


@pytest.mark.qsessions(speed=0, timeout="10m")
def test_a_service_that_is_busy(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Four refusals of each of five creates, each with a minute to wait: twenty waits."""
    before = qsessions_emulator.now()
    for _ in range(5):
        qsessions_emulator.faults.add(BUSY)
        session = qsessions_sync_client.create(**WANTED)
        qsessions_sync_client.close(session.id)
    assert 1200 <= qsessions_emulator.now() - before < 1225


@pytest.mark.qsessions(speed=0)
def test_an_experiment(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Two waits, of two minutes and of one, in each of five experiments: ten waits."""
    before = qsessions_emulator.now()
    for _ in range(5):
        assert experiment(qsessions_sync_client) == ["open", "open"]
    assert 900 <= qsessions_emulator.now() - before < 925


@pytest.mark.qsessions(speed=0)
def test_a_survey(
    qsessions_client: AsyncSessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Ten waits of three minutes at once, until the maximal lifetime ends each session."""

    async def play() -> None:
        wanted = WANTED | {"max_ttl": "3m"}
        ids = [(await qsessions_client.create(**wanted)).id for _ in range(10)]
        for session_id in ids:
            qsessions_emulator.submit_job(session_id, seconds="10m")
        before = qsessions_emulator.now()
        assert await survey(qsessions_client, ids) == ["closed"] * 10
        assert 180 <= qsessions_emulator.now() - before < 200

    asyncio.run(play())


@pytest.mark.qsessions(
    speed=0,
    timeout="2m",
    faults=[Fault(kind="latency", seconds=90, operations=["get"], times=10)],
)
def test_an_answer_that_takes_its_time(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Ten answers that take a minute and a half each."""
    before = qsessions_emulator.now()
    session = qsessions_sync_client.create(**WANTED)
    for _ in range(10):
        qsessions_sync_client.get(session.id)
    assert qsessions_emulator.now() - before == 900
    qsessions_sync_client.close(session.id)


@pytest.mark.qsessions(
    speed=0,
    timeout="2m",
    retry=RetryPolicy(max_attempts=1),
    faults=[Fault(kind="latency", seconds=3600, operations=["get"], times=10)],
)
def test_an_answer_that_does_not_come(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Ten calls that end at their deadline after two minutes."""
    before = qsessions_emulator.now()
    session = qsessions_sync_client.create(**WANTED)
    for _ in range(10):
        with pytest.raises(CallTimeout):
            qsessions_sync_client.get(session.id)
    assert qsessions_emulator.now() - before == pytest.approx(1200)
    qsessions_sync_client.close(session.id)


@pytest.mark.qsessions(speed=0)
def test_two_threads(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """A wait of another thread ends when its time comes, in whichever client's wait that is."""
    session = qsessions_sync_client.create(**WANTED)
    ended: list[float] = []

    def wait() -> None:
        with pytest.raises(CallTimeout):
            qsessions_sync_client.attach(session.id).wait_until("closed", timeout="1m")
        ended.append(qsessions_emulator.now())

    before = qsessions_emulator.now()
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert 60 <= ended[0] - before < 61
    qsessions_sync_client.close(session.id)
