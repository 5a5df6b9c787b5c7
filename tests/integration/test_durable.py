"""The ledger has a session's id before anybody is told of the session, whatever happens while it is
being written.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    CreateOutcomeUnknown,
    Event,
    LedgerFailed,
    LedgerRecord,
    RecordState,
    SessionClient,
)
from qsessions.testing import ManualClock
from tests.support.calls import SESSION
from tests.support.clients import Against, static_auth
from tests.support.fault_server import FaultServer, http
from tests.support.given_ledger import GivenLedger
from tests.support.leaks import loop_steps
from tests.support.loop_time import let_pass
from tests.support.threaded import threaded
from tests.support.waiting import until

WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": "10m"}
CREATED, DONE = http(200, SESSION), http(204)
CALLS = ("create", "open")


class Gated(GivenLedger):
    """A ledger that keeps an id only when a test lets it.

    Args:
        wait: Waits for that.

    Attributes:
        kept: The newest record of each key.
        asked: Set when it is to keep an id.
        problem: What it raises instead, if that is set.
    """

    def __init__(self, wait: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self.kept: dict[str, LedgerRecord] = {}
        self.asked = threading.Event()
        self.problem: Exception | None = None
        self._wait = wait

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record."""
        if record.state in {RecordState.CREATED, RecordState.UNKNOWN}:
            self.asked.set()
            await self._wait()
            if self.problem is not None:
                raise self.problem
        self.kept[record.key] = record

    @property
    def states(self) -> list[tuple[RecordState, str | None]]:
        """List what it has."""
        return [(record.state, record.session_id) for record in self.kept.values()]


async def never() -> None:
    """Wait for ever."""
    await asyncio.get_running_loop().create_future()


async def begin(client: AsyncSessionClient, call: str, **options: Any) -> str:
    """Create a session; return its id."""
    if call == "create":
        return (await client.create(**WANTED, **options)).id
    return (await client.open(**WANTED, **options).__aenter__()).id


def begin_in_thread(client: SessionClient, call: str) -> str:
    """Create a session; return its id."""
    if call == "create":
        return client.create(**WANTED).id
    return client.open(**WANTED).__enter__().id


@pytest.fixture
def gate() -> asyncio.Event:
    """Return what lets the ledger keep an id."""
    return asyncio.Event()


@pytest.fixture
def ledger(gate: asyncio.Event) -> Gated:
    """Return the ledger."""
    return Gated(gate.wait)


@pytest.mark.smoke
@pytest.mark.parametrize("call", CALLS)
async def test_a_session_is_given_when_its_id_is_kept(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated
) -> None:
    """`create` and `open` return as soon as the ledger has the id, and not before."""
    _, client = await against(CREATED, DONE, ledger=ledger)
    task = asyncio.ensure_future(begin(client, call))
    await until(ledger.asked.is_set)
    await loop_steps(50)
    assert not task.done()
    assert ledger.states == [(RecordState.INTENT, None)]
    gate.set()
    assert await task == "s1"
    assert ledger.states == [(RecordState.CREATED, "s1")]


@pytest.mark.parametrize("call", CALLS)
async def test_an_unknown_outcome_is_told_when_its_id_is_kept(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated
) -> None:
    """An id that an answer gives which can't be used otherwise is in the ledger before the error
    comes.
    """
    _, client = await against(http(200, SESSION | {"max_ttl": "long"}), ledger=ledger)
    task = asyncio.ensure_future(begin(client, call))
    await until(ledger.asked.is_set)
    await loop_steps(50)
    assert not task.done()
    gate.set()
    with pytest.raises(CreateOutcomeUnknown):
        await task
    assert ledger.states == [(RecordState.UNKNOWN, "s1")]


@pytest.mark.parametrize("call", CALLS)
def test_a_session_is_given_to_a_thread_when_its_id_is_kept(call: str) -> None:
    """The same holds for code that doesn't await."""
    gate = threading.Event()
    ledger = Gated(partial(asyncio.to_thread, gate.wait))
    given: list[object] = []
    with (
        threaded(FaultServer(CREATED, DONE)) as service,
        SessionClient(static_auth(), base_url=service.server.url, ledger=ledger) as client,
    ):
        thread = threading.Thread(
            target=lambda: given.append((begin_in_thread(client, call), ledger.states))
        )
        thread.start()
        assert ledger.asked.wait(30)
        assert given == []
        gate.set()
        thread.join()
    assert given == [("s1", [(RecordState.CREATED, "s1")])]


@pytest.mark.parametrize("call", CALLS)
async def test_the_record_of_an_id_is_no_part_of_the_deadline(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated, time: ManualClock
) -> None:
    """A session whose id is kept after the call's deadline is given all the same: it is there."""
    _, client = await against(CREATED, DONE, ledger=ledger)
    task = asyncio.ensure_future(begin(client, call, timeout=5))
    await until(ledger.asked.is_set)
    time.advance(6)
    gate.set()
    assert await task == "s1"


@pytest.mark.parametrize("call", CALLS)
async def test_an_id_that_can_not_be_kept_is_told(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated
) -> None:
    """Where the ledger fails, the session is given, and the failure told."""
    told: list[Event] = []
    _, client = await against(CREATED, DONE, ledger=ledger, observers=[told.append])
    ledger.problem = OSError("the disk is full")
    gate.set()
    assert await begin(client, call) == "s1"
    assert [event for event in told if isinstance(event, LedgerFailed)] == [
        LedgerFailed(reason="OSError: the disk is full")
    ]
    ledger.problem = None


@pytest.mark.parametrize("call", CALLS)
async def test_a_ledger_that_hangs_holds_nobody_up(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated, time: ManualClock
) -> None:
    """Where the ledger doesn't answer within its 5 s, the session is given, and that is told."""
    told = asyncio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, LedgerFailed):
            told.set()

    _, client = await against(CREATED, DONE, ledger=ledger, observers=[observe])
    beginning = asyncio.ensure_future(begin(client, call))
    await until(ledger.asked.is_set)
    await let_pass(4, time)
    await loop_steps(30)
    assert not beginning.done()
    time.advance(1)
    assert await beginning == "s1"
    await told.wait()
    assert ledger.states == [(RecordState.INTENT, None)]
    gate.set()
    await client.aclose()
    assert ledger.kept
    assert (RecordState.INTENT, None) not in ledger.states


@pytest.mark.parametrize("call", CALLS)
async def test_a_cancellation_while_the_id_is_written_closes_the_session(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated
) -> None:
    """Cancelled at that moment, the call closes its session, then the cancellation goes on."""
    server, client = await against(CREATED, DONE, ledger=ledger)
    task = asyncio.ensure_future(begin(client, call))
    await until(ledger.asked.is_set)
    task.cancel()
    await loop_steps(20)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert not hasattr(caught.value, "__notes__")
    assert [request.method for request in server.received] == ["POST", "DELETE"]
    await until(lambda: ledger.states == [(RecordState.ENDED, "s1")])


@pytest.mark.parametrize("call", CALLS)
async def test_a_second_cancellation_while_the_id_is_written_waits_no_longer(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated
) -> None:
    """The second cancellation goes on at once, and the session is closed in the background."""
    server, client = await against(CREATED, DONE, ledger=ledger)
    task = asyncio.ensure_future(begin(client, call))
    await until(ledger.asked.is_set)
    task.cancel()
    await loop_steps(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.count("DELETE") == 0
    gate.set()
    await server.arrival(2)
    assert server.count("DELETE") == 1
    await until(lambda: ledger.states == [(RecordState.ENDED, "s1")])


@pytest.mark.parametrize("call", CALLS)
def test_an_event_loop_that_shuts_down_while_the_id_is_written_closes_the_session(
    call: str,
) -> None:
    """A program that ends at that moment has its session closed, though the loop cancels every task
    of it.
    """
    ledger = Gated(never)

    async def main(url: str) -> None:
        async def work() -> None:
            async with AsyncSessionClient(static_auth(), base_url=url, ledger=ledger) as client:
                await begin(client, call)

        working = asyncio.ensure_future(work())
        await until(ledger.asked.is_set)
        assert not working.done()

    with threaded(FaultServer(CREATED, DONE)) as service:
        asyncio.run(main(service.server.url))
        methods = service.ask(lambda server: [request.method for request in server.received])
    assert methods == ["POST", "DELETE"]


@pytest.mark.parametrize(("call", "methods"), [("create", ["POST"]), ("open", ["POST", "PATCH"])])
async def test_a_client_that_is_closed_while_the_id_is_written_waits(
    call: str, methods: list[str], against: Against, gate: asyncio.Event, ledger: Gated
) -> None:
    """`aclose` at that moment waits: what `create` made is given and stays open, what `open` made
    is ended first.
    """
    server, client = await against(CREATED, DONE, ledger=ledger)
    task = asyncio.ensure_future(begin(client, call))
    await until(ledger.asked.is_set)
    closing = asyncio.ensure_future(client.aclose())
    await loop_steps(20)
    assert not closing.done()
    gate.set()
    await closing
    assert await task == "s1"
    assert [request.method for request in server.received][: len(methods)] == methods


@pytest.mark.parametrize("call", CALLS)
async def test_whoever_does_not_wait_is_given_the_session_at_once(
    call: str, against: Against, gate: asyncio.Event, ledger: Gated
) -> None:
    """With `ledger_wait=False` the id is written while the session is in use."""
    _, client = await against(CREATED, DONE, ledger=ledger, ledger_wait=False)
    assert await begin(client, call) == "s1"
    assert ledger.states == [(RecordState.INTENT, None)]
    gate.set()
    await until(lambda: ledger.states == [(RecordState.CREATED, "s1")])
