"""A client's deadlines and waits pass by its clock alone: here the event loop's own time stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    IBMCloudAuth,
    LedgerFailed,
    RetryPlanned,
    ServiceCRN,
    reap,
)
from qsessions.errors import LedgerUnavailable
from qsessions.events import Event
from tests.support.calls import CREATE, DRAIN, GET
from tests.support.clients import CRN, Against
from tests.support.fault_server import FaultServer, hang, http
from tests.support.given_ledger import GivenLedger
from tests.support.iam import grant
from tests.support.internals import transport_of
from tests.support.leaks import loop_steps
from tests.support.manual_clock import Stepped
from tests.support.tables import table
from tests.support.waiting import until

T = TypeVar("T")


@pytest.fixture(autouse=True)
async def standing_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the time of the event loop, so that no timer of its own ever fires."""
    loop = asyncio.get_running_loop()
    stopped = loop.time()
    monkeypatch.setattr(loop, "time", lambda: stopped)


async def ends_after(seconds: float, waiting: Awaitable[T], stepped: Stepped) -> asyncio.Future[T]:
    """Check that something ends when the clock has been moved so far, and not before; return it.

    Args:
        seconds: How far.
        waiting: What waits.
        stepped: The clock.
    """
    before = set(stepped.timers)
    task = asyncio.ensure_future(waiting)
    await until(lambda: set(stepped.timers) - before)
    await stepped.step(seconds - 1)
    await loop_steps(50)
    assert not task.done()
    await stepped.step(1)
    await asyncio.wait({task})
    return task


async def last(stream: AsyncIterator[T]) -> T:
    """Return the last item of a stream."""
    return [item async for item in stream][-1]


async def test_the_deadline_of_a_call(stepped: Stepped, against: Against) -> None:
    """A call without an answer ends with the client's timeout."""
    _, client = await against(hang, clock=stepped)
    got = await ends_after(60, client.get("s1"), stepped)
    assert isinstance(got.exception(), CallTimeout)


async def test_a_call_waits_for_its_retry(stepped: Stepped, against: Against) -> None:
    """A retry is sent once the clock has gone on."""
    planned = asyncio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, RetryPlanned):
            planned.set()

    server, client = await against(http(503), GET.success, clock=stepped, observers=[observe])
    getting = asyncio.ensure_future(client.get("s1"))
    await planned.wait()
    await loop_steps(50)
    assert len(server.received) == 1
    await stepped.step(1)
    assert (await getting).id == "s1"


async def test_the_deadline_of_a_wait_for_credentials(stepped: Stepped, against: Against) -> None:
    """A provider that never answers holds a call up until its timeout."""

    class Slow:
        async def headers(self, transport: object) -> dict[str, str]:
            await asyncio.Event().wait()
            raise AssertionError

        def invalidate(self, refused: object) -> bool:
            raise AssertionError

    server, client = await against(hang, auth=[Slow()], clock=stepped)
    got = await ends_after(60, client.get("s1"), stepped)
    with pytest.raises(CallTimeout, match="waiting for credentials"):
        got.result()
    assert server.received == []


async def test_the_life_of_a_token(stepped: Stepped, against: Against) -> None:
    """A provider without a clock of its own counts a token's life by the client's."""
    async with FaultServer(grant("t1", 3600), grant("t2", 3600)) as iam:
        auth = [IBMCloudAuth("key", iam.url), ServiceCRN(CRN)]
        _, client = await against(GET.success, auth=auth, clock=stepped)
        for hours, exchanges in ((0, 1), (0.75, 1), (1, 2)):
            await stepped.step(3600 * hours)
            await client.get("s1")
            assert len(iam.received) == exchanges


WAITS: list[Callable[[AsyncSessionClient], Coroutine[Any, Any, object]]] = [
    lambda client: client.attach("s1").wait_until("closed", timeout=60),
    lambda client: last(client.attach("s1").watch(timeout=60)),
    lambda client: last(client.watch(["s1"], timeout=60)),
]


@table("wait", WAITS)
async def test_the_timeout_of_a_wait_for_a_session(
    stepped: Stepped, against: Against, wait: Callable[..., Coroutine[Any, Any, object]]
) -> None:
    """Waiting for a session ends with its timeout, however long a reading takes."""
    _, client = await against(GET.success, hang, clock=stepped, timeout=None)
    waited = await ends_after(60, wait(client), stepped)
    assert isinstance(waited.exception(), CallTimeout)
    # The reading goes on.
    await client.aclose()


@table("wait", WAITS)
async def test_the_pause_between_two_looks_at_a_session(
    stepped: Stepped, against: Against, wait: Callable[..., Coroutine[Any, Any, object]]
) -> None:
    """A session that is waited for is read again once the clock has gone on."""
    server, client = await against(GET.success, clock=stepped)
    waiting = asyncio.ensure_future(wait(client))
    await server.arrival()
    await loop_steps(200)
    assert len(server.received) == 1
    while len(server.received) == 1:
        await stepped.step(0.5)
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_the_grace_of_a_create(stepped: Stepped, against: Against) -> None:
    """A create that is cancelled in flight is given up after 30 s."""
    server, client = await against(hang, clock=stepped, timeout=None)
    creating = asyncio.ensure_future(CREATE(client))
    await server.arrival()
    await stepped.step(1000)
    creating.cancel()
    cancelled = await ends_after(30, creating, stepped)
    with pytest.raises(asyncio.CancelledError) as caught:
        cancelled.result()
    assert "given up while it was in flight" in caught.value.__notes__[0]


async def test_the_patience_with_a_ledger(stepped: Stepped, against: Against) -> None:
    """A ledger that hangs holds a create up for 5 s, and the client's end for another 5 s."""
    ledger, events = GivenLedger(), list[Event]()
    ledger.gate.clear()
    server, client = await against(
        CREATE.success, ledger=ledger, clock=stepped, observers=[events.append]
    )
    created = await ends_after(5, CREATE(client), stepped)
    assert (created.result().id, len(server.received)) == ("s1", 1)
    assert [type(event) for event in events].count(LedgerFailed) == 1
    await ends_after(5, client.aclose(), stepped)
    ledger.gate.set()


async def test_the_patience_of_reap_with_a_ledger(stepped: Stepped, against: Against) -> None:
    """A ledger that can't be read ends `reap` after 60 s of its client's time."""

    class Hanging(GivenLedger):
        async def entries(self) -> Any:
            await asyncio.Event().wait()

    _, client = await against(hang, clock=stepped)
    reaped = await ends_after(60, reap(client, Hanging()), stepped)
    assert isinstance(reaped.exception(), LedgerUnavailable)


async def test_the_look_for_drained_sessions(stepped: Stepped, against: Against) -> None:
    """At its end a client looks for the sessions that it drained, for 5 s at most."""
    _, client = await against(
        CREATE.success, DRAIN.success, hang, ledger=GivenLedger(), clock=stepped
    )
    await CREATE(client)
    await DRAIN(client)
    await ends_after(5, client.aclose(), stepped)


async def test_the_end_of_a_client(stepped: Stepped, against: Against) -> None:
    """A task that ignores its cancellation holds up the end of its client for 5 s."""
    _, client = await against(hang, clock=stepped)
    released = asyncio.Event()

    async def ignore() -> None:
        try:
            await released.wait()
        finally:
            await released.wait()

    ignoring = transport_of(client).spawn(ignore())
    await loop_steps(1)
    await ends_after(5, client.aclose(), stepped)
    released.set()
    await asyncio.wait({ignoring})
