"""Cancellation, and closing, at every moment there is: what is done, when, and what must be left."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import pytest
from yarl import URL

from qsessions import (
    AsyncLiveSession,
    AsyncSessionClient,
    ClientClosed,
    IBMCloudAuth,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Owner,
    RecordState,
    Request,
    ServiceCRN,
    SessionLeftOpen,
)
from qsessions.emulator import Emulator
from qsessions.http.slots import Slots
from qsessions.testing import ManualClock
from tests.support.fault_server import FaultServer, hang
from tests.support.leaks import loop_steps, open_sessions, ours
from tests.support.tables import row_of_table
from tests.support.waiting import until

WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": "10m"}


class LoopLedger:
    """A ledger that takes three rounds of the event loop, and no thread, for each record: the same
    at each run.

    Attributes:
        records: The newest record of each key.
    """

    def __init__(self) -> None:
        self.records: dict[str, LedgerRecord] = {}

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record."""
        await loop_steps(3)
        self.records[record.key] = record

    async def entries(self) -> Sequence[LedgerEntry]:
        """Return what isn't ended."""
        await loop_steps(3)
        owner = Owner(host="here", pid=1, since=0.0, liveness=Liveness.ALIVE)
        return [
            LedgerEntry(record=record, owner=owner, source="memory")
            for record in self.records.values()
            if record.state is not RecordState.ENDED
        ]

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
        """Change nothing: the owner lives."""
        return [False] * len(changes)

    async def aclose(self) -> None:
        """Do nothing."""


class Walk:
    """Takes a coroutine from one suspension to the next, and counts them.

    Attributes:
        suspensions: How often it was suspended so far.
        cancelled_at: The numbers of those at which it was cancelled.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.suspensions = 0
        self.cancelled_at: list[int] = []
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, None]:
        resume = partial(self._coroutine.send, None)
        while True:
            try:
                awaited = resume()
            except StopIteration:
                return
            self.suspensions += 1
            try:
                value = yield awaited
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                if isinstance(error, asyncio.CancelledError):
                    self.cancelled_at.append(self.suspensions)
                resume = partial(self._coroutine.throw, error)
            else:
                resume = partial(self._coroutine.send, value)

    async def end(self) -> None:
        """Go on to the end."""
        await self


class Moment(NamedTuple):
    """So many rounds of the event loop after the n-th suspension began."""

    suspension: int = 1
    rounds: int = 0


class Run(NamedTuple):
    """What came of one run.

    Attributes:
        cancelled: At which moments the block was cancelled, each counted from the one before.
        suspensions: How often it was suspended in all.
        created: How many sessions it had created.
    """

    cancelled: list[Moment]
    suspensions: int
    created: int


class Place:
    """Where one run of a sweep takes place: a client with one slot of each kind, and a server that
    never answers.
    """

    def __init__(self, client: AsyncSessionClient, emulator: Emulator, mute: FaultServer) -> None:
        self.client = client
        self.emulator = emulator
        self._mute = mute

    @contextmanager
    def full(self) -> Iterator[None]:
        """Hold the only slot for usual calls by one that hangs."""
        transport = self.client._transport
        call = Request("get", "GET", URL(self._mute.url), {})
        hanging = transport.spawn(transport.send(call))
        try:
            yield
            assert not hanging.done()
        finally:
            hanging.cancel()

    async def use_every_slot(self) -> None:
        """Make a call of each kind: a create, a usual one, and while that kind is full, one that
        ends a session.
        """
        client, transport = self.client, self.client._transport
        session = await client.create(mode="batch", max_ttl=60)
        await client.get(session.id)
        with self.full():
            await until(lambda: not transport._slots._free)
            await client.close(session.id)
        assert (await client.get(session.id)).is_final
        for slots in (transport._slots, transport._fresh_slots, transport._urgent_slots):
            assert slots._free


async def _first(items: AsyncIterator[object]) -> None:
    async with aclosing(items):  # type: ignore[type-var]  # an asynchronous generator
        await anext(items)


async def _block(client: AsyncSessionClient) -> None:
    async with client.open(**WANTED):
        pass


# Each call that a block may be in when it is cancelled.
CALLS: dict[str, Callable[[AsyncSessionClient, AsyncLiveSession], Awaitable[object]]] = {
    "get": lambda client, live: client.get(live.id),
    "update": lambda client, live: client.update(live.id, accepting_jobs=True),
    "drain": lambda client, live: client.drain(live.id),
    "close": lambda client, live: client.close(live.id),
    "close_all": lambda client, live: client.close_all(),
    "versions": lambda client, live: client.versions(),
    "workloads": lambda client, live: _first(client.workloads()),
    "watch many": lambda client, live: _first(client.watch([live.id])),
    "refresh": lambda client, live: live.refresh(),
    "live drain": lambda client, live: live.drain(),
    "live close": lambda client, live: live.close(),
    "watch": lambda client, live: _first(live.watch()),
    "wait_until": lambda client, live: live.wait_until("open", "closed"),
    "another block": lambda client, live: _block(client),
    "nothing": lambda client, live: loop_steps(3),
}


def _calling(call: str) -> Callable[[Place], Coroutine[Any, Any, None]]:
    async def block(place: Place) -> None:
        async with place.client.open(**WANTED) as live:
            await CALLS[call](place.client, live)

    return block


async def _failing(place: Place, **options: Any) -> None:
    with suppress(KeyError):
        async with place.client.open(**WANTED, **options) as live:
            await live.refresh()
            raise KeyError("x")


async def _closing(place: Place) -> None:
    async with place.client.open(**WANTED, on_exit="close") as live:
        await live.refresh()


async def _leaving(place: Place) -> None:
    async with place.client.open(**WANTED):
        await place.client.aclose()


async def _renewing(place: Place) -> None:
    place.emulator.revoke_tokens()
    await _block(place.client)


async def _crowded(place: Place) -> None:
    # Its own call that ends the session may be cancelled in the slot that the block's ending then
    # needs.
    with place.full():
        async with place.client.open(**WANTED) as live:
            await live.close()


async def _grouped(place: Place) -> None:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(_block(place.client))


# What is swept: each call within a block, and blocks that begin, end or are held together
# otherwise.
BLOCKS: dict[str, Callable[[Place], Coroutine[Any, Any, None]]] = {
    **{call: _calling(call) for call in CALLS},
    "an error": _failing,
    "an error, on_error=drain": partial(_failing, on_error="drain"),
    "on_exit=close": _closing,
    "aclose within": _leaving,
    "a token that was revoked": _renewing,
    "no free slot": _crowded,
    "parent of a task group": _grouped,
}


class Sweep:
    """Runs a block again and again, each time on a client of its own, and looks at what a
    cancellation leaves.
    """

    def __init__(
        self, block: str, emulator: Emulator, time: ManualClock, mute: FaultServer
    ) -> None:
        self._name = block
        self._block = BLOCKS[block]
        self._emulator = emulator
        self._clock = time
        self._mute = mute
        self._auth = auth_of(emulator, time)

    async def run(self, *moments: Moment, recorded: bool) -> Run:
        """Cancel the block at these moments, each counted from the one before, as far as they come;
        check that nothing is left.
        """
        with row_of_table(self._name, f"recorded={recorded}", *moments):
            return await self._run(moments, recorded=recorded)

    async def cancel_once(self, *, every: int, recorded: bool) -> None:
        """Cancel the block at each of its suspensions: at once, and after each `every` rounds of
        the event loop.
        """
        moment, hit, rescued = Moment(), set[int](), 0
        while (run := await self.run(moment, recorded=recorded)).cancelled:
            (moment,) = run.cancelled
            hit.add(moment.suspension)
            rescued += run.created > 0
            moment = Moment(moment.suspension, moment.rounds + every)
        # The last run was undisturbed, so it has every suspension that there is.
        assert hit >= set(range(1, run.suspensions + 1))
        assert rescued > 5 // every

    async def cancel_twice(self, *, every: int, recorded: bool) -> None:
        """Cancel the block at each of its suspensions, at once and after each `every` rounds, and
        a second time at each suspension that is left and 0, 1, 3, 7 and so on rounds into it.
        """
        first, twice = Moment(), 0
        while (run := await self.run(first, Moment(), recorded=recorded)).cancelled:
            following = Moment(run.cancelled[0].suspension, run.cancelled[0].rounds + every)
            while len(run.cancelled) == 2:
                twice += 1
                second = Moment(run.cancelled[1].suspension, run.cancelled[1].rounds * 2 + 1)
                run = await self.run(first, second, recorded=recorded)
            first = following
        assert twice > 20 // every

    async def _run(self, moments: Sequence[Moment], *, recorded: bool) -> Run:
        ledger = LoopLedger() if recorded else None
        client = AsyncSessionClient(
            self._auth,
            base_url=self._emulator.url,
            clock=self._clock,
            max_concurrency=1,
            timeout=5,
            ledger=ledger,
        )
        # Of these there are a hundred and more: one that were lost would not be missed.
        client._transport._urgent_slots = Slots(1)
        before = len(self._emulator.sessions)
        place = Place(client, self._emulator, self._mute)
        walk = Walk(self._block(place))
        cancelled = await _cancel(moments, walk)
        created = len(self._emulator.sessions) - before
        await self._see_that_nothing_is_left(place, ledger)
        return Run(cancelled, walk.suspensions, created)

    async def _see_that_nothing_is_left(self, place: Place, ledger: LoopLedger | None) -> None:
        client = place.client
        # A second cancellation in create leaves its ending to the background, and so does one in
        # aclose.
        await until(lambda: not ours())
        assert open_sessions(self._emulator) == []
        if client._closing is None:
            await place.use_every_slot()
        else:
            with pytest.raises(ClientClosed):
                await client.create(**WANTED)
        await client.aclose()
        assert ours() == set()
        assert open_sessions(self._emulator) == []
        # One that was drained is recorded until it is seen closed.
        left = set() if ledger is None else {entry.record.state for entry in await ledger.entries()}
        assert left <= {RecordState.DRAINING}


async def _cancel(moments: Sequence[Moment], walk: Walk) -> list[Moment]:
    """Cancel a task at these moments, each counted from the one before, until it is done; return the
    moments that it came to.
    """
    task = asyncio.ensure_future(walk.end())
    reached: list[Moment] = []
    after = 0
    for wanted in moments:
        moment = await _reach(wanted, walk, task, after)
        if moment is None:
            break
        task.cancel()
        reached.append(moment)
        after += moment.suspension
        # Two within one round would be one to the task.
        await until(lambda: len(walk.cancelled_at) == len(reached) or task.done())
    await asyncio.wait({task})
    if not reached:
        task.result()
    assert task.cancelled() == bool(reached)
    assert walk.cancelled_at == list(accumulate(moment.suspension for moment in reached))
    return reached


async def _reach(moment: Moment, walk: Walk, task: asyncio.Task[None], after: int) -> Moment | None:
    """Go on to a moment, or to the next suspension where that comes first; return which it is, or
    None if the task is done before.
    """
    suspension = after + moment.suspension
    await until(lambda: walk.suspensions >= suspension or task.done())
    for _ in range(moment.rounds):
        if walk.suspensions > suspension or task.done():
            break
        await loop_steps(1)
    if task.done():
        return None
    return moment if walk.suspensions == suspension else Moment(walk.suspensions - after)


def auth_of(emulator: Emulator, time: ManualClock) -> list[IBMCloudAuth | ServiceCRN]:
    """Return credentials whose token is exchanged once for all clients."""
    iam = IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time)
    return [iam, ServiceCRN(emulator.crn)]


@asynccontextmanager
async def sweep_of(block: str) -> AsyncIterator[Sweep]:
    """Return what runs a block, with an emulator of its own."""
    time = ManualClock()
    async with Emulator(clock=time.wall, seed=1) as emulator, FaultServer(hang) as mute:
        yield Sweep(block, emulator, time, mute)


async def close_at(steps: Iterable[int], emulator: Emulator, time: ManualClock) -> None:
    """Close a client after so many rounds of the event loop, each time a new one, while tasks open
    one session after the other; check that none is left open, nor a create in the ledger.
    """
    auth = auth_of(emulator, time)
    for count in steps:
        with row_of_table(f"{count} steps"):
            await _close_after(count, auth, emulator, time)
    assert len(emulator.sessions) > 8


async def _close_after(
    steps: int, auth: list[IBMCloudAuth | ServiceCRN], emulator: Emulator, time: ManualClock
) -> None:
    ledger = LoopLedger()
    client = AsyncSessionClient(auth, base_url=emulator.url, clock=time, ledger=ledger)

    async def work() -> None:
        with suppress(ClientClosed, SessionLeftOpen):
            while True:
                async with client.open(**WANTED):
                    await loop_steps(2)

    workers = [asyncio.ensure_future(work()) for _ in range(8)]
    await loop_steps(steps)
    await client.aclose()
    drained = [request.method for request in emulator.requests].count("PATCH")
    await asyncio.gather(*workers)
    assert [request.method for request in emulator.requests].count("PATCH") == drained
    assert open_sessions(emulator) == []
    left = {entry.record.state for entry in await ledger.entries()}
    assert left <= {RecordState.DRAINING}
    assert ours() == set()
