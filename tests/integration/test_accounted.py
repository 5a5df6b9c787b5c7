"""Whatever fails, each session that the service has is closed, or the error and the ledger name it
or say that there may be one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from attrs import frozen

from qsessions import (
    AsyncSessionClient,
    Conflict,
    ConnectionFailed,
    CreateOutcomeUnknown,
    IBMCloudAuth,
    InstanceNotFound,
    LedgerRecord,
    LocalLedger,
    QSessionsError,
    RecordState,
    ResponseError,
    ServiceCRN,
    SessionLeftOpen,
    TokenExchangeFailed,
)
from qsessions.api.operations import YOUNG_S
from qsessions.emulator import Emulator, Fault as EmulatorFault
from qsessions.reaper import reap
from tests.support.calls import (
    CLOSE,
    DRAIN,
    GET,
    REOPEN,
    SESSION,
    UPDATE,
    VERSIONS,
    WORKLOADS,
    Row,
    fault as own,
)
from tests.support.clients import client_of
from tests.support.fault_proxy import Broken, FaultProxy
from tests.support.fault_server import http
from tests.support.faults import (
    FAULTS,
    PROMPT,
    REFUSALS,
    REPEATED,
    Fault,
    each_fault,
    failure_of,
    within,
)
from tests.support.leaks import leaving_nothing
from tests.support.manual_clock import ManualClock
from tests.support.waiting import until

WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 600}
METHODS = {"drain": "PATCH", "close": "DELETE"}


@frozen
class Scene:
    """A client with a ledger, and a proxy between it and the service."""

    emulator: Emulator
    proxy: FaultProxy
    ledger: LocalLedger
    client: AsyncSessionClient

    @property
    def open(self) -> list[str]:
        """The ids of the sessions that cost or may cost."""
        return [session.id for session in self.emulator.open_sessions]

    async def recorded(self) -> list[tuple[RecordState, str | None]]:
        """List what the ledger has open, once everything is written."""
        await until(lambda: not self.client._recorder._writers)
        records: list[LedgerRecord] = [entry.record for entry in await self.ledger.entries()]
        return [(record.state, record.session_id) for record in records]


@pytest.fixture
async def scene(emulator: Emulator, time: ManualClock, tmp_path: Path) -> AsyncIterator[Scene]:
    """Give a scene whose client must leave nothing behind."""
    ledger = LocalLedger(tmp_path / "ledger")
    auth = [
        IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time.clock),
        ServiceCRN(emulator.crn),
    ]
    async with FaultProxy(emulator.url) as proxy:
        url = f"{proxy.url}/api"
        client = AsyncSessionClient(auth, base_url=url, clock=time.clock, ledger=ledger)
        async with leaving_nothing(client, proxy):
            yield Scene(emulator, proxy, ledger, client)
            # What nobody waits for.
            await until(lambda: not client._recorder._writers)
    await ledger.aclose()


async def enter(scene: Scene, **options: Any) -> None:
    """Open a session for a block that isn't reached."""
    async with scene.client.open(**WANTED, **options):
        raise AssertionError("the block was entered")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@each_fault()
async def test_a_create_that_meets_a_fault_is_accounted_for(
    *, fault: Fault, after: bool, scene: Scene, time: ManualClock
) -> None:
    """Whether or not the work was done, the outcome is unknown, is in the ledger as such, and a
    session that came of it is shown.
    """
    scene.proxy.broken["POST"] = Broken(fault.answer, after)
    with within(fault.timeout, time), pytest.raises(CreateOutcomeUnknown) as caught:
        await enter(scene, timeout=fault.timeout)
    assert len(scene.open) == after
    assert await scene.recorded() == [(RecordState.UNKNOWN, None)]
    if not fault.is_late:
        assert [candidate.id for candidate in caught.value.candidates or ()] == scene.open


UNKNOWN: list[tuple[int, object]] = [
    (303, own()),
    *((status, own()) for status in (502, 504, 520, 524)),
]
UNKNOWN += [
    (status, "<title>Oh no</title>") for status in range(500, 525) if status not in {503, 521, 522}
]


@pytest.mark.parametrize(
    ("status", "body"), UNKNOWN, ids=[f"{status}-{type(body).__name__}" for status, body in UNKNOWN]
)
async def test_a_failure_after_a_create_was_carried_out_is_accounted_for(
    status: int, body: object, scene: Scene
) -> None:
    """A status that leaves open whether the work was done is unknown, and the session that came of
    it is shown.
    """
    scene.proxy.broken["POST"] = Broken(http(status, body), after=True)
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await enter(scene)
    assert len(scene.open) == 1
    assert [candidate.id for candidate in caught.value.candidates or ()] == scene.open
    assert await scene.recorded() == [(RecordState.UNKNOWN, None)]


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 407, 409, 413, 418, 425, 429, 500, 501, 503, 521, 522]
)
async def test_a_service_that_denies_what_it_did_is_believed(status: int, scene: Scene) -> None:
    """This can't be promised: a service that creates a session and says that it didn't leaves one
    that only `max_ttl` ends.
    """
    scene.proxy.broken["POST"] = Broken(http(status, own()), after=True)
    with pytest.raises(QSessionsError) as caught:
        await enter(scene)
    assert caught.value.status == status
    assert len(scene.open) == caught.value.attempts
    assert {session.ttls.maximum for session in scene.emulator.open_sessions} == {600}
    assert await scene.recorded() == []


@pytest.mark.parametrize("session_id", ["a/b", "..", "x" * 501, "line\nend", "\ud800"], ids=ascii)
async def test_an_id_that_no_call_can_name_is_told(session_id: str, scene: Scene) -> None:
    """A session whose id can't be sent back can't be ended, so that nobody may believe to have
    opened it.
    """
    scene.proxy.broken["POST"] = Broken(http(200, SESSION | {"id": session_id}), after=True)
    with pytest.raises(CreateOutcomeUnknown, match="the session id") as caught:
        await enter(scene)
    assert caught.value.session_id == session_id
    assert await scene.recorded() == [(RecordState.UNKNOWN, session_id)]


async def test_a_create_whose_answer_has_a_wrong_field_is_recorded_with_its_id(
    scene: Scene,
) -> None:
    """What can be read of an answer that can't be used is enough to end its session."""
    scene.proxy.broken["POST"] = Broken(http(200, SESSION | {"max_ttl": "long"}), after=True)
    with pytest.raises(CreateOutcomeUnknown, match="max_ttl") as caught:
        await enter(scene)
    assert caught.value.session_id == "s1"
    assert await scene.recorded() == [(RecordState.UNKNOWN, "s1")]


async def test_a_create_that_is_reset_unheard_is_accounted_for(scene: Scene) -> None:
    """When connections are torn down before anything is read, a create that had begun to go out is
    in the ledger as unknown.
    """
    scene.proxy.deaf = True
    with pytest.raises((ConnectionFailed, CreateOutcomeUnknown)) as caught:
        await enter(scene)
    assert (scene.open, scene.proxy.received) == ([], [])
    is_unknown = isinstance(caught.value, CreateOutcomeUnknown)
    assert await scene.recorded() == ([(RecordState.UNKNOWN, None)] if is_unknown else [])


async def test_a_create_that_was_never_sent_leaves_no_record(scene: Scene) -> None:
    """When the service can't be reached, nothing was created, and the ledger has nothing to look
    into.
    """
    await scene.proxy.stop()
    with pytest.raises(ConnectionFailed):
        await enter(scene)
    assert (scene.open, await scene.recorded()) == ([], [])


async def end_of_block(
    scene: Scene, option: str, how: str, **options: Any
) -> tuple[str, SessionLeftOpen | KeyError | None]:
    """Open a session and leave its block, for `on_error` by an error; give its id and what came out
    of the block.
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


REFUSED = (400, 401, 403, 407, 413, 418, 425, 429, 500, 502, 503, 504, 520, 521, 522, 524)
each_ending = pytest.mark.parametrize(
    ("option", "how"), [(option, how) for option in ("on_exit", "on_error") for how in METHODS]
)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@each_ending
@each_fault(
    *(fault for fault in FAULTS if fault.outcome[2] is not None),
    *(REFUSALS[status] for status in REFUSED),
)
async def test_an_ending_that_meets_a_fault_is_accounted_for(
    *, fault: Fault, option: str, how: str, after: bool, scene: Scene, time: ManualClock
) -> None:
    """A session that can't be ended is named by the error and the ledger, and ended once the fault
    has passed.
    """
    scene.proxy.broken[METHODS[how]] = Broken(fault.answer, after)
    with within(fault.timeout, time):
        session_id, error = await end_of_block(scene, option, how, ending_timeout=fault.timeout)
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


@each_ending
@each_fault(*(fault for fault in FAULTS if fault.outcome[2] is None))
async def test_an_ending_needs_no_more_than_a_yes(
    fault: Fault, option: str, how: str, scene: Scene
) -> None:
    """A success whose answer says nothing ends a session all the same."""
    scene.proxy.broken[METHODS[how]] = Broken(fault.answer, after=True)
    _, error = await end_of_block(scene, option, how)
    assert getattr(error, "__notes__", []) == []
    assert scene.open == []


NOT_THE_SERVICES_404 = Fault(
    "404 of a proxy", http(404, "<title>Oh no</title>"), (ResponseError,) * 3
)
NO_INSTANCE = Fault("404 of the instance", http(404, own(code=1279)), (InstanceNotFound,) * 3)
# A service that answers a close so, and didn't close the session, lies. A 404 of a new session
# isn't taken for one.
CLOSED = ("204", "200 without a body", "an empty object")


@pytest.mark.parametrize(
    ("row", "after"),
    [
        *((row, False) for row in (GET, REOPEN, UPDATE, DRAIN, CLOSE, VERSIONS, WORKLOADS)),
        *((row, True) for row in (REOPEN, UPDATE, DRAIN, CLOSE)),
    ],
    ids=lambda value: (
        value.name if isinstance(value, Row) else {False: "before", True: "after"}[value]
    ),
)
async def test_a_session_is_accounted_for_whatever_a_call_meets(
    *, row: Row, after: bool, scene: Scene, time: ManualClock
) -> None:
    """Whatever comes in place of a call's answer, the session is closed or is in the ledger, unless
    the service lies about a close.
    """
    missing = []
    refusals = [REFUSALS[status] for status in (*REFUSED, 404, 409)]
    for fault in (*PROMPT, *refusals, NOT_THE_SERVICES_404, NO_INSTANCE):
        session = await scene.client.create(**WANTED)
        scene.emulator.submit_job(session.id, seconds=60)
        scene.proxy.broken[row.method] = Broken(fault.answer, after)
        with within(fault.timeout, time):
            await failure_of(row(scene.client, session.id, timeout=fault.timeout))
        recorded = [session_id for _, session_id in await scene.recorded()]
        if session.id in scene.open and session.id not in recorded:
            missing.append(fault.name)
        scene.proxy.broken.clear()
        await scene.client.close(session.id)
        assert (scene.open, await scene.recorded()) == ([], [])
    assert missing == ([*CLOSED] if row is CLOSE and not after else [])


@pytest.mark.parametrize(
    ("row", "busy"),
    [(REOPEN, True), (UPDATE, True), (UPDATE, False), (DRAIN, True), (DRAIN, False), (CLOSE, True)],
    ids=lambda value: (
        value.name if isinstance(value, Row) else {False: "idle", True: "busy"}[value]
    ),
)
async def test_a_change_that_was_carried_out_unheard_is_repeated(
    *, row: Row, busy: bool, scene: Scene, time: ManualClock
) -> None:
    """A change whose first answer goes wrong is sent again where that helps, else raises its class;
    and the caller may repeat it.
    """
    closes = row is CLOSE or not busy
    for fault in (*PROMPT, *REFUSALS.values()):
        session = await scene.client.create(**WANTED)
        if busy:
            scene.emulator.submit_job(session.id, seconds=60)
        if row is REOPEN:
            await scene.client.update(session.id, accepting_jobs=False)
        scene.proxy.broken[row.method] = Broken(fault.answer, after=True, once=True)
        scene.proxy.received.clear()
        with within(fault.timeout, time):
            error = await failure_of(row(scene.client, session.id, timeout=fault.timeout))
        # A 404 about a session of just now is looked at again.
        again = fault in REPEATED or fault is REFUSALS[404]
        expected = None if again else fault.error(row)
        if row is DRAIN and expected is Conflict:
            # Whoever did it, it is done.
            expected = None
        told = (fault.name, None if error is None else type(error), scene.proxy.count(row.method))
        assert told == (fault.name, expected, 1 + again)
        assert await failure_of(row(scene.client, session.id)) is None
        assert scene.open == ([] if closes else [session.id])
        assert scene.emulator.sessions[session.id].accepting_jobs is (row is REOPEN)
        await scene.client.get(session.id)
        state = RecordState.CREATED if row is REOPEN else RecordState.DRAINING
        assert await scene.recorded() == ([] if closes else [(state, session.id)])
        await scene.client.close(session.id)


@pytest.mark.parametrize(
    ("answer", "age"),
    [(http(204), 0), (http(200), 0), (http(200, {}), 0), (http(404, own()), YOUNG_S)],
    ids=[*CLOSED, "404"],
)
async def test_a_service_that_claims_what_it_did_not_do_is_believed(
    answer: bytes, age: float, scene: Scene, time: ManualClock
) -> None:
    """This can't be promised: a service that says that a session is closed or gone, and it isn't,
    leaves one that only `max_ttl` ends.
    """
    scene.proxy.broken["DELETE"] = Broken(answer, after=False)
    async with scene.client.open(**WANTED, on_exit="close") as live:
        time.advance(age)
    assert (scene.open, await scene.recorded()) == ([live.id], [])


@pytest.mark.parametrize("raised", [None, KeyError("x")], ids=["clean", "error"])
async def test_a_server_that_is_gone_for_good_leaves_a_record(
    raised: Exception | None, scene: Scene
) -> None:
    """When the service vanishes within a block, the error or a note on the block's own says what is
    left, and so does the ledger.
    """
    ids = []

    async def work() -> None:
        async with scene.client.open(**WANTED) as live:
            ids.append(live.id)
            await scene.proxy.stop()
            if raised is not None:
                raise raised

    with pytest.raises(SessionLeftOpen if raised is None else KeyError) as caught:
        await work()
    if raised is None:
        assert isinstance(caught.value.__cause__, ConnectionFailed)
    else:
        assert caught.value.__notes__[0].startswith(f"session {ids[0]!r} is left open")
    await scene.client.aclose()
    assert scene.open == ids
    assert await scene.recorded() == [(RecordState.CREATED, ids[0])]


async def test_max_ttl_ends_what_a_vanished_host_left(scene: Scene, time: ManualClock) -> None:
    """This is all that can be promised then: what nobody is left to end is closed `max_ttl` after
    its first job began, and not before.
    """
    session = await scene.client.create(**WANTED)
    scene.emulator.submit_job(session.id, seconds=10_000)
    await scene.proxy.stop()
    time.advance(599)
    assert scene.open == [session.id]
    time.advance(1)
    assert scene.open == []


async def test_without_a_ledger_only_the_workloads_tell(scene: Scene, time: ManualClock) -> None:
    """What a client without a ledger left open isn't found by `reap`; the list of workloads has it,
    as one of the instance's.
    """
    async with client_of(scene.emulator, time.clock) as another:
        session = await another.create(**WANTED)
    assert await reap(scene.client, scene.ledger) == []
    assert (
        [workload.id async for workload in scene.client.workloads()] == scene.open == [session.id]
    )


async def test_an_iam_that_fails_meanwhile_leaves_a_record(scene: Scene) -> None:
    """When the token ends within a block and IAM gives no other, the session is named; with IAM
    back it is ended.
    """
    opened = scene.client.open(**WANTED)
    live = await opened.__aenter__()
    scene.emulator.revoke_tokens()
    scene.emulator.faults.add(EmulatorFault(kind="iam_down"))
    with pytest.raises(SessionLeftOpen) as caught:
        await opened.__aexit__(None, None, None)
    assert isinstance(caught.value.__cause__, TokenExchangeFailed)
    assert await scene.recorded() == [(RecordState.CREATED, live.id)]
    scene.emulator.faults.clear()
    await scene.client.aclose()
    assert scene.open == []


@pytest.mark.parametrize("how", METHODS)
async def test_a_token_that_is_revoked_in_mid_flight_costs_one_more_try(
    how: Any, scene: Scene
) -> None:
    """Each request that finds its token revoked gets a new one, is carried out once, and the
    session ends.
    """
    revoke = EmulatorFault(kind="revoke_tokens", nth=1)
    scene.emulator.faults.add(
        *(
            attrs.evolve(revoke, operations=[operation])
            for operation in ("create", "get", "update", "close")
        )
    )
    async with scene.client.open(**WANTED, on_exit=how) as live:
        await live.refresh()
    assert (len(scene.emulator.sessions), scene.open) == (1, [])


async def test_a_clock_that_jumps_an_hour_within_a_block(scene: Scene, time: ManualClock) -> None:
    """A jump of the clock, with the token past its life, keeps no session from being ended."""
    async with scene.client.open(**WANTED, on_exit="close"):
        time.advance(3600)
    assert (scene.open, await scene.recorded()) == ([], [])
