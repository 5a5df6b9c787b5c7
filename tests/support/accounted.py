"""A client with a ledger, and a proxy between it and the service that breaks answers: whatever
fails, each session is closed, or the error and the ledger name it or say that there may be one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from qsessions import (
    AsyncSessionClient,
    Conflict,
    CreateOutcomeUnknown,
    IBMCloudAuth,
    InstanceNotFound,
    LedgerRecord,
    LocalLedger,
    RecordState,
    ResponseError,
    RetryPolicy,
    ServiceCRN,
    SessionLeftOpen,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import CLOSE, DRAIN, GET, REOPEN, UPDATE, VERSIONS, WORKLOADS, Row, fault
from tests.support.fault_proxy import Broken, FaultProxy
from tests.support.fault_server import http
from tests.support.faults import FAULTS, REFUSALS, REPEATED, Fault, failure_of, within
from tests.support.leaks import leaving_nothing
from tests.support.tables import row_of_table
from tests.support.waiting import until

WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 600}
METHODS = {"drain": "PATCH", "close": "DELETE"}
ENDINGS = tuple((option, how) for option in ("on_exit", "on_error") for how in METHODS)

REFUSED = (400, 401, 403, 407, 413, 418, 425, 429, 500, 502, 503, 504, 520, 521, 522, 524)
# What an ending can meet, but for a success that says nothing.
ENDING_FAULTS = (
    *(fault for fault in FAULTS if fault.outcome[2] is not None),
    *(REFUSALS[status] for status in REFUSED),
)
NOT_THE_SERVICES_404 = Fault(
    "404 of a proxy", http(404, "<title>Oh no</title>"), (ResponseError,) * 3
)
NO_INSTANCE = Fault("404 of the instance", http(404, fault(code=1279)), (InstanceNotFound,) * 3)
CALL_FAULTS = (
    *FAULTS,
    *(REFUSALS[status] for status in (*REFUSED, 404, 409)),
    NOT_THE_SERVICES_404,
    NO_INSTANCE,
)
# Each call, and whether its answer is lost before or after the work. A reading has no work.
CALL_MOMENTS = (
    *((row, False) for row in (GET, REOPEN, UPDATE, DRAIN, CLOSE, VERSIONS, WORKLOADS)),
    *((row, True) for row in (REOPEN, UPDATE, DRAIN, CLOSE)),
)
# Each change, and whether the session has a job.
CHANGES = (
    (REOPEN, True),
    *((row, busy) for row in (UPDATE, DRAIN) for busy in (True, False)),
    (CLOSE, True),
)
# A service that answers a close so, and didn't close the session, lies. A 404 of a new session
# isn't taken for one.
LIES = ("204", "200 without a body", "an empty object")


def row_id(value: object) -> str:
    """Return the name of an operation for the name of a case, and anything else as text."""
    return value.name if isinstance(value, Row) else str(value)


@frozen
class Scene:
    """A client with a ledger, and a proxy between it and the service, all on one clock."""

    emulator: Emulator
    proxy: FaultProxy
    ledger: LocalLedger
    client: AsyncSessionClient
    time: ManualClock

    @property
    def open(self) -> list[str]:
        """The ids of the sessions that cost or may cost."""
        return [session.id for session in self.emulator.open_sessions]

    async def recorded(self) -> list[tuple[RecordState, str | None]]:
        """List what the ledger has open, once everything is written."""
        await until(lambda: not self.client._recorder._writers)
        records: list[LedgerRecord] = [entry.record for entry in await self.ledger.entries()]
        return [(record.state, record.session_id) for record in records]

    def break_answers(self, method: str, fault: Fault, *, after: bool, once: bool = False) -> None:
        """Have requests with a method meet a fault."""
        self.proxy.broken[method] = Broken(fault.answer_on(self.time), after=after, once=once)

    async def enter(self, **options: Any) -> None:
        """Open a session for a block that isn't reached."""
        async with self.client.open(**WANTED, **options):
            raise AssertionError("the block was entered")


@asynccontextmanager
async def new_scene(directory: Path) -> AsyncIterator[Scene]:
    """Return a scene whose client must leave nothing behind.

    Args:
        directory: Where the ledger is to be.
    """
    time, ledger = ManualClock(), LocalLedger(directory)
    async with (
        Emulator(clock=time.wall, seed=1) as emulator,
        FaultProxy(emulator.url) as proxy,
    ):
        client = AsyncSessionClient(
            [
                IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time),
                ServiceCRN(emulator.crn),
            ],
            base_url=f"{proxy.url}/api",
            clock=time,
            ledger=ledger,
            # Of many faults in a row the last one is retried like the first.
            retry=RetryPolicy(budget=None),
        )
        async with leaving_nothing(client, proxy):
            yield Scene(emulator, proxy, ledger, client, time)
            # What nobody waits for.
            await until(lambda: not client._recorder._writers)
    await ledger.aclose()


async def end_of_block(
    scene: Scene, option: str, how: str, **options: Any
) -> tuple[str, SessionLeftOpen | KeyError | None]:
    """Open a session and leave its block, for `on_error` by an error; return its id and what came
    out of the block.
    """
    ids: list[str] = []
    how_to_end: dict[str, Any] = {option: how}
    try:
        async with scene.client.open(**WANTED, **how_to_end, **options) as live:
            ids.append(live.id)
            if option == "on_error":
                raise KeyError("planted")
    except (SessionLeftOpen, KeyError) as error:
        return ids[0], error
    return ids[0], None


async def check_create(fault: Fault, *, after: bool, directory: Path) -> None:
    """Check that a create which meets a fault is unknown, in the ledger as such, and that a session
    which came of it is shown.
    """
    with row_of_table(fault.name, f"after={after}"):
        async with new_scene(directory) as scene:
            scene.break_answers("POST", fault, after=after)
            with within(fault.timeout, scene.time), pytest.raises(CreateOutcomeUnknown) as caught:
                await scene.enter(timeout=fault.timeout)
            assert len(scene.open) == after
            assert await scene.recorded() == [(RecordState.UNKNOWN, None)]
            if not fault.is_late:
                candidates = [candidate.id for candidate in caught.value.candidates or ()]
                assert candidates == scene.open


async def check_ending(
    fault: Fault, option: str, how: str, *, after: bool, directory: Path
) -> None:
    """Check that a session which can't be ended is named by the error and the ledger, and ended
    once the fault has passed.
    """
    with row_of_table(fault.name, option, how, f"after={after}"):
        async with new_scene(directory) as scene:
            scene.break_answers(METHODS[how], fault, after=after)
            with within(fault.timeout, scene.time):
                session_id, error = await end_of_block(
                    scene, option, how, ending_timeout=fault.timeout
                )
            assert error is not None
            if isinstance(error, SessionLeftOpen):
                assert (error.session_id, option) == (session_id, "on_exit")
            else:
                (note,) = error.__notes__
                assert note.startswith(f"session {session_id!r} is left open")
            assert await scene.recorded() == [(RecordState.CREATED, session_id)]
            assert scene.open == ([] if after else [session_id])
            scene.proxy.broken.clear()
            await scene.client.aclose()
            assert scene.open == []
            # The look at the client's end finds that what was drained is closed.
            assert await scene.recorded() == []


async def check_calls(
    row: Row, faults: Iterable[Fault], *, after: bool, directory: Path
) -> list[str]:
    """Check that a session is closed or in the ledger whatever comes in place of a call's answer;
    return the names of the faults with which it is neither.
    """
    missing = []
    async with new_scene(directory) as scene:
        for fault in faults:
            with row_of_table(row.name, fault.name, f"after={after}"):
                session = await scene.client.create(**WANTED)
                scene.emulator.submit_job(session.id, seconds=60)
                scene.break_answers(row.method, fault, after=after)
                with within(fault.timeout, scene.time):
                    await failure_of(row(scene.client, session.id, timeout=fault.timeout))
                recorded = [session_id for _, session_id in await scene.recorded()]
                if session.id in scene.open and session.id not in recorded:
                    missing.append(fault.name)
                scene.proxy.broken.clear()
                await scene.client.close(session.id)
                assert (scene.open, await scene.recorded()) == ([], [])
    return missing


async def check_changes(row: Row, faults: Iterable[Fault], *, busy: bool, directory: Path) -> None:
    """Check that a change whose first answer goes wrong is sent again where that helps, else raises
    its class, and that the caller may repeat it.
    """
    async with new_scene(directory) as scene:
        for fault in faults:
            with row_of_table(row.name, fault.name, f"busy={busy}"):
                await _check_change(row, fault, scene, busy=busy)


async def _check_change(row: Row, fault: Fault, scene: Scene, *, busy: bool) -> None:
    closes = row is CLOSE or not busy
    session = await scene.client.create(**WANTED)
    if busy:
        scene.emulator.submit_job(session.id, seconds=60)
    if row is REOPEN:
        await scene.client.update(session.id, accepting_jobs=False)
    scene.break_answers(row.method, fault, after=True, once=True)
    scene.proxy.received.clear()
    with within(fault.timeout, scene.time):
        error = await failure_of(row(scene.client, session.id, timeout=fault.timeout))
    # A 404 about a session of just now is looked at again.
    again = fault in REPEATED or fault is REFUSALS[404]
    expected = None if again else fault.error(row)
    if row is DRAIN and expected is Conflict:
        # Whoever did it, it is done.
        expected = None
    assert (error and type(error), scene.proxy.count(row.method)) == (expected, 1 + again)
    assert await failure_of(row(scene.client, session.id)) is None
    assert scene.open == ([] if closes else [session.id])
    assert scene.emulator.sessions[session.id].accepting_jobs is (row is REOPEN)
    await scene.client.get(session.id)
    state = RecordState.CREATED if row is REOPEN else RecordState.DRAINING
    assert await scene.recorded() == ([] if closes else [(state, session.id)])
    await scene.client.close(session.id)
