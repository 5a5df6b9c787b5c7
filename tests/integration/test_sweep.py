"""Cancellation of each call and each phase of a block, once and twice, and of what is around it.

tests/exhaustive/test_sweep.py does it at every moment that there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from qsessions import AsyncLiveSession, AsyncSessionClient, RecordState
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import SESSION
from tests.support.clients import Against
from tests.support.fault_server import held, http
from tests.support.leaks import loop_steps, open_sessions
from tests.support.sweeps import BLOCKS, WANTED, LoopLedger, auth_of, close_at, sweep_of
from tests.support.waiting import until


@pytest.mark.smoke
@pytest.mark.parametrize("block", BLOCKS)
async def test_a_block_may_be_cancelled(block: str) -> None:
    """At whatever suspension, and every third round of the event loop in it, a cancelled block
    leaves nothing open, no task, and a client that works.
    """
    async with sweep_of(block) as sweep:
        await sweep.cancel_once(every=3, recorded=True)


@pytest.mark.parametrize("block", ["live close", "an error", "no free slot", "watch"])
async def test_a_block_may_be_cancelled_twice(block: str) -> None:
    """A second cancellation, at whatever suspension is left, changes nothing of that, nor does it
    matter that there is no ledger.
    """
    async with sweep_of(block) as sweep:
        await sweep.cancel_twice(every=6, recorded=False)


async def test_timeouts_and_task_groups_keep_their_meaning(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """`asyncio.timeout` around the block raises TimeoutError, a failing TaskGroup its group, and no
    session is left.
    """
    loop = asyncio.get_running_loop()

    async def too_long() -> None:
        async with asyncio.timeout(None) as scope, client.open(**WANTED):
            scope.reschedule(loop.time())
            await loop.create_future()

    with pytest.raises(TimeoutError):
        await too_long()
    inside = asyncio.Event()

    async def work() -> None:
        async with client.open(**WANTED):
            inside.set()
            await loop.create_future()

    async def fail() -> None:
        await inside.wait()
        raise KeyError("x")

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await together()
    assert isinstance(caught.value.exceptions[0], KeyError)
    assert open_sessions(emulator) == []


async def _group(blocks: list[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for block in blocks:
            group.create_task(block)


async def _gather(blocks: list[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*blocks, return_exceptions=True)


async def _wait_for(blocks: list[Coroutine[Any, Any, None]]) -> None:
    await asyncio.wait_for(_group(blocks), 60)


async def _timeout(blocks: list[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.timeout(60):
        await _group(blocks)


@pytest.mark.parametrize("parent", [_group, _gather, _wait_for, _timeout])
async def test_a_cancelled_parent_goes_on_when_its_blocks_have_ended(
    parent: Callable[[list[Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]],
    client: AsyncSessionClient,
    emulator: Emulator,
) -> None:
    """Cancelling a task whose children are in blocks ends as asyncio has it, and not before their
    sessions are closed.
    """
    inside = [asyncio.Event() for _ in range(3)]

    async def work(entered: asyncio.Event) -> None:
        async with client.open(**WANTED):
            entered.set()
            await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(parent([work(entered) for entered in inside]))
    for entered in inside:
        await entered.wait()
    assert len(open_sessions(emulator)) == 3
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert task.cancelling() == 1
    assert open_sessions(emulator) == []


async def test_a_timeout_that_passes_while_a_block_is_ended_keeps_its_meaning(
    against: Against,
) -> None:
    """The session is ended first, then it is a TimeoutError, and no cancellation is left over."""
    released = asyncio.Event()
    server, client = await against(http(200, SESSION), held(released, http(204)))

    async def run_out(scope: asyncio.Timeout) -> None:
        await server.arrival(2)
        scope.reschedule(asyncio.get_running_loop().time())
        await until(scope.expired)
        released.set()

    scope = asyncio.timeout(None)
    running_out = asyncio.create_task(run_out(scope))
    with pytest.raises(TimeoutError):
        async with scope, client.open(**WANTED):
            pass
    await running_out
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    assert [request.method for request in server.received] == ["POST", "PATCH"]


async def test_a_timeout_within_a_block_is_the_blocks_own_business(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """A timeout that is handled in the block cancels a call in it, and the block still ends as a
    clean one.
    """

    async def too_long(live: AsyncLiveSession) -> None:
        async with asyncio.timeout(0):
            await live.refresh()

    async with client.open(**WANTED) as live:
        with pytest.raises(TimeoutError):
            await too_long(live)
        assert open_sessions(emulator) == [live.id]
    assert emulator.requests[-1].method == "PATCH"
    assert open_sessions(emulator) == []


@pytest.mark.parametrize("steps", [range(0, 60, 8), range(3, 420, 60)], ids=["early", "later"])
async def test_a_client_may_be_closed(steps: range, emulator: Emulator, time: ManualClock) -> None:
    """Closed while tasks open one session after the other, a client leaves none open and no create
    in the ledger.
    """
    await close_at(steps, emulator, time)


async def test_a_create_that_is_answered_while_the_client_is_closed_is_recorded(
    emulator: Emulator, time: ManualClock
) -> None:
    """Closed at any moment, a client has recorded each create that gives a session, with its id,
    and none that gives an error.
    """
    auth = auth_of(emulator, time)
    for steps in range(60):
        ledger = LoopLedger()
        client = AsyncSessionClient(auth, base_url=emulator.url, clock=time, ledger=ledger)
        creating = [
            asyncio.ensure_future(client.create(mode="batch", max_ttl=60)) for _ in range(3)
        ]
        await loop_steps(steps)
        await client.aclose()
        results = await asyncio.gather(*creating, return_exceptions=True)
        ids = {result.id for result in results if not isinstance(result, BaseException)}
        recorded = {
            (entry.record.state, entry.record.session_id) for entry in await ledger.entries()
        }
        assert recorded == {(RecordState.CREATED, session_id) for session_id in ids}, steps
