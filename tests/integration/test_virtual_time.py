"""Clients that wait in an emulator's time: when it moves, how far, and when it must not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from blockbuster import BlockBuster

import qsessions.testing
from qsessions import AsyncSessionClient, CallTimeout, RetryPolicy, SessionClient
from qsessions.emulator import Emulator, Fault
from qsessions.sync.calls import run
from qsessions.testing import ThreadedEmulator, virtual_time
from qsessions.testing.clients import async_client, sync_client
from tests.support.waiting import until

WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "8h"}


@pytest.fixture
def emulator() -> Iterator[ThreadedEmulator]:
    """Run an emulator whose time stands still until something moves it."""
    with ThreadedEmulator(Emulator(speed=0)) as emulator:
        yield emulator


@pytest.fixture
def client(emulator: ThreadedEmulator) -> Iterator[AsyncSessionClient]:
    """Return a client that waits in the emulator's time."""
    with async_client(emulator, timeout="5m") as client:
        yield client


@pytest.fixture
def sync(emulator: ThreadedEmulator) -> Iterator[SessionClient]:
    """Return a client for code that doesn't await, which waits in the emulator's time."""
    with sync_client(emulator, timeout="5m") as client:
        yield client


async def later(client: SessionClient, callback: Callable[[], object]) -> None:
    """Have something called in 100 s, on the client's own event loop."""
    client._client.clock.call_later(100, callback)


async def waits(client: AsyncSessionClient, session_id: str, seconds: float) -> None:
    """Wait in vain for the end of a session."""
    with pytest.raises(CallTimeout):
        await client.attach(session_id).wait_until("closed", timeout=seconds)


async def test_the_first_of_several_waits_moves_time(
    emulator: ThreadedEmulator, client: AsyncSessionClient
) -> None:
    """Waits of different lengths at once end in their order, each at its own time."""
    session = await client.create(**WANTED)
    before, ended = emulator.now(), dict[int, float]()

    async def wait(seconds: int) -> None:
        await waits(client, session.id, seconds)
        ended[seconds] = emulator.now() - before

    await asyncio.gather(*map(wait, (300, 60, 120)))
    assert list(ended) == [60, 120, 300]
    assert [round(at / seconds, 2) for seconds, at in ended.items()] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["latency", "drip"])
async def test_an_answer_that_a_fault_holds_up(
    emulator: ThreadedEmulator, client: AsyncSessionClient, kind: Any
) -> None:
    """What a fault holds up takes its time in the emulator's time, and comes whole."""
    session = await client.create(**WANTED)
    emulator.faults.add(Fault(kind=kind, seconds=120, operations=["get"]))
    before = emulator.now()
    assert (await client.get(session.id)).id == session.id
    assert emulator.now() - before == 120


async def test_what_was_held_up_for_nobody_moves_no_time(
    emulator: ThreadedEmulator, client: AsyncSessionClient
) -> None:
    """A request whose caller has left is answered when its time comes, and nobody waits for that."""
    session = await client.create(**WANTED)
    emulator.faults.add(Fault(kind="latency", seconds=3600, operations=["get"], times=1))
    before = emulator.now()
    with pytest.raises(CallTimeout):
        await client.get(session.id, timeout=60)
    await client.get(session.id)
    assert emulator.now() - before == pytest.approx(60)
    emulator.advance("1h")
    await until(lambda: [one.operation for one in emulator.requests].count("get") == 2)


async def test_no_time_is_skipped_while_a_request_is_under_way(
    emulator: ThreadedEmulator, client: AsyncSessionClient
) -> None:
    """While other calls go to and fro, a wait doesn't run away with the time under them: each of
    them is answered, however long the wait is.
    """
    session = await client.create(**WANTED)
    emulator.submit_job(session.id, seconds="8h")
    waiting = asyncio.ensure_future(waits(client, session.id, 7200))
    for _ in range(50):
        # None of its own waits for anything.
        await client.get(session.id, timeout=0.001)
    await waiting


async def test_another_clients_request_is_held_up_in_real_time(
    emulator: ThreadedEmulator, client: AsyncSessionClient
) -> None:
    """A fault holds up a client in real time that doesn't wait in the emulator's."""
    emulator.faults.add(Fault(kind="latency", seconds=0.01, operations=["versions"]))
    before = emulator.now()
    async with AsyncSessionClient([], base_url=emulator.url) as other:
        await other.versions()
    assert emulator.now() == before
    await client.versions()
    assert emulator.now() - before == pytest.approx(0.01, abs=1e-4)


async def test_both_clients_wait_together(
    emulator: ThreadedEmulator,
    client: AsyncSessionClient,
    sync: SessionClient,
    blockbuster: BlockBuster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call of the synchronous client, which blocks the event loop on which others wait, waits in
    the emulator's time too.
    """
    monkeypatch.setattr(virtual_time, "_BLOCKED_S", 0.01)
    session = await client.create(**WANTED)
    emulator.submit_job(session.id, seconds="8h")
    waiting = asyncio.ensure_future(waits(client, session.id, 3600))
    await asyncio.sleep(0)
    emulator.faults.add(
        Fault(kind="answer", status=429, retry_after=60, times=1, operations=["get"])
    )
    before = emulator.now()
    blockbuster.deactivate()
    sync.get(session.id)
    blockbuster.activate()
    assert emulator.now() - before >= 60
    await waiting


async def test_an_outage_is_waited_for(
    emulator: ThreadedEmulator, client: AsyncSessionClient
) -> None:
    """While nothing listens, the waits between the attempts take no real time."""
    session = await client.create(**WANTED)
    emulator.stop()
    before = emulator.now()
    await waits(client, session.id, 600)
    assert emulator.now() - before >= 600
    emulator.start()
    await client.get(session.id)


async def test_who_moves_the_time_ends_a_wait(
    emulator: ThreadedEmulator, client: AsyncSessionClient
) -> None:
    """Where a test moves the time, what is due then comes at once, and no sooner."""
    over, early = asyncio.Event(), asyncio.Event()
    client.clock.call_later(100, over.set)
    client.clock.call_later(99, early.set)
    emulator.advance(99.5)
    await early.wait()
    assert not over.is_set()
    emulator.advance(0.5)
    await over.wait()


async def test_tokens_expire(emulator: ThreadedEmulator, client: AsyncSessionClient) -> None:
    """The client's clock is the emulator's, so that a wait outlives an access token."""
    session = await client.create(**WANTED)
    emulator.submit_job(session.id, seconds="8h")
    await waits(client, session.id, 2 * 3600)
    tokens = [request for request in emulator.requests if request.operation == "token"]
    assert len(tokens) >= 2
    assert all(request.status != 401 for request in emulator.requests)


def test_what_is_public_has_no_other_names() -> None:
    """The package of test helpers has the names that it says, and an error for any other."""
    with pytest.raises(AttributeError, match="no attribute 'Clock'"):
        qsessions.testing.Clock  # noqa: B018


def test_an_event_loop_that_is_gone(
    emulator: ThreadedEmulator, client: AsyncSessionClient, sync: SessionClient
) -> None:
    """What waited on an event loop that ended holds up nobody."""

    async def leave() -> str:
        session = await client.create(**WANTED)
        waiting = asyncio.ensure_future(waits(client, session.id, 3600))
        await asyncio.sleep(0)
        waiting.cancel()
        return session.id

    session_id = asyncio.run(leave())
    before = emulator.now()
    with pytest.raises(CallTimeout):
        sync.attach(session_id).wait_until("closed", timeout="10m")
    assert emulator.now() - before >= 600


def test_time_that_passes_by_itself() -> None:
    """Where the emulator's time passes, deadlines come by its speed, also where nobody waits."""
    with (
        ThreadedEmulator(Emulator(speed=1000)) as emulator,
        sync_client(emulator, retry=RetryPolicy(max_attempts=1)) as client,
    ):
        session = client.create(**WANTED)
        over = threading.Event()
        run(client._thread, partial(later, client, over.set))
        over.wait()
        client.close(session.id)


def test_a_clock_of_ones_own_is_not_moved() -> None:
    """Where an emulator has a clock of the test's own, its clients wait in real time."""
    now = 1_780_000_000.0
    with (
        ThreadedEmulator(Emulator(clock=lambda: now)) as emulator,
        sync_client(emulator) as client,
    ):
        session = client.create(**WANTED)
        with pytest.raises(CallTimeout):
            client.attach(session.id).wait_until("closed", timeout=0.05)
        assert emulator.now() == now


def test_no_request_shows_how_time_is_kept(emulator: ThreadedEmulator, sync: SessionClient) -> None:
    """The emulator's record of requests has the headers that clients send in real time."""
    sync.versions()
    with sync_client(emulator, real_time=True) as real:
        real.versions()
    kept, of_real = [one for one in emulator.requests if one.operation == "versions"]
    assert kept.headers.keys() == of_real.headers.keys()
