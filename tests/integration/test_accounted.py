"""Whatever fails, each session that the service has is closed, or the error and the ledger name it
or say that there may be one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import cycle, product
from pathlib import Path
from typing import Any

import attrs
import pytest

from qsessions import (
    ConnectionFailed,
    CreateOutcomeUnknown,
    QSessionsError,
    RecordState,
    SessionLeftOpen,
    TokenExchangeFailed,
)
from qsessions.api.operations import YOUNG_S
from qsessions.emulator import Fault as EmulatorFault
from qsessions.reaper import reap
from tests.support.accounted import (
    CALL_FAULTS,
    CALL_MOMENTS,
    CHANGES,
    ENDING_FAULTS,
    ENDINGS,
    LIES,
    METHODS,
    NO_INSTANCE,
    NOT_THE_SERVICES_404,
    WANTED,
    Scene,
    check_calls,
    check_changes,
    check_create,
    check_ending,
    end_of_block,
    new_scene,
    row_id,
)
from tests.support.calls import CLOSE, DRAIN, SESSION, Row, fault as own
from tests.support.clients import client_of
from tests.support.fault_proxy import Broken
from tests.support.fault_server import http
from tests.support.faults import FAULT_SAMPLE, FAULTS, REFUSALS, SAMPLE
from tests.support.tables import row_of_table


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Return a scene whose client must leave nothing behind."""
    async with new_scene(tmp_path / "ledger") as scene:
        yield scene


async def test_a_create_that_meets_a_fault_is_accounted_for(tmp_path: Path) -> None:
    """Whether or not the work was done, the outcome is unknown, is in the ledger as such, and a
    session that came of it is shown.
    """
    for fault in FAULTS:
        await check_create(fault, after=True, directory=tmp_path / f"after {fault.name}")
    for fault in FAULT_SAMPLE:
        await check_create(fault, after=False, directory=tmp_path / f"before {fault.name}")


UNKNOWN: list[tuple[int, object]] = [
    (303, own()),
    *((status, own()) for status in (502, 504, 520, 524)),
]
UNKNOWN += [
    (status, "<title>Oh no</title>") for status in range(500, 525) if status not in {503, 521, 522}
]


async def test_a_failure_after_a_create_was_carried_out_is_accounted_for(tmp_path: Path) -> None:
    """A status that leaves open whether the work was done is unknown, and the session that came of
    it is shown.
    """
    for number, (status, body) in enumerate(UNKNOWN):
        with row_of_table(status, body):
            async with new_scene(tmp_path / str(number)) as scene:
                scene.proxy.broken["POST"] = Broken(http(status, body), after=True)
                with pytest.raises(CreateOutcomeUnknown) as caught:
                    await scene.enter()
                assert len(scene.open) == 1
                candidates = [candidate.id for candidate in caught.value.candidates or ()]
                assert candidates == scene.open
                assert await scene.recorded() == [(RecordState.UNKNOWN, None)]


DENIED = (400, 401, 403, 404, 407, 409, 413, 418, 425, 429, 500, 501, 503, 521, 522)


async def test_a_service_that_denies_what_it_did_is_believed(tmp_path: Path) -> None:
    """This can't be promised: a service that creates a session and says that it didn't leaves one
    that only `max_ttl` ends.
    """
    for status in DENIED:
        with row_of_table(status):
            async with new_scene(tmp_path / str(status)) as scene:
                scene.proxy.broken["POST"] = Broken(http(status, own()), after=True)
                with pytest.raises(QSessionsError) as caught:
                    await scene.enter()
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
        await scene.enter()
    assert caught.value.session_id == session_id
    assert await scene.recorded() == [(RecordState.UNKNOWN, session_id)]


async def test_a_create_whose_answer_has_a_wrong_field_is_recorded_with_its_id(
    scene: Scene,
) -> None:
    """What can be read of an answer that can't be used is enough to end its session."""
    scene.proxy.broken["POST"] = Broken(http(200, SESSION | {"max_ttl": "long"}), after=True)
    with pytest.raises(CreateOutcomeUnknown, match="max_ttl") as caught:
        await scene.enter()
    assert caught.value.session_id == "s1"
    assert await scene.recorded() == [(RecordState.UNKNOWN, "s1")]


async def test_a_create_that_is_reset_unheard_is_accounted_for(scene: Scene) -> None:
    """When connections are torn down before anything is read, a create that had begun to go out is
    in the ledger as unknown.
    """
    scene.proxy.deaf = True
    with pytest.raises((ConnectionFailed, CreateOutcomeUnknown)) as caught:
        await scene.enter()
    assert (scene.open, scene.proxy.received) == ([], [])
    is_unknown = isinstance(caught.value, CreateOutcomeUnknown)
    assert await scene.recorded() == ([(RecordState.UNKNOWN, None)] if is_unknown else [])


async def test_a_create_that_was_never_sent_leaves_no_record(scene: Scene) -> None:
    """When the service can't be reached, nothing was created, and the ledger has nothing to look
    into.
    """
    await scene.proxy.stop()
    with pytest.raises(ConnectionFailed):
        await scene.enter()
    assert (scene.open, await scene.recorded()) == ([], [])


async def test_an_ending_that_meets_a_fault_is_accounted_for(tmp_path: Path) -> None:
    """A session that can't be ended is named by the error and the ledger, and ended once the fault
    has passed.

    Each fault meets one kind of ending at one moment, and one fault of each class meets every kind
    of ending at both.
    """
    kinds = list(product(ENDINGS, (False, True)))
    rows = dict.fromkeys(zip(ENDING_FAULTS, cycle(kinds), strict=False))
    rows |= dict.fromkeys(product([fault for fault in SAMPLE if fault in ENDING_FAULTS], kinds))
    for number, (fault, ((option, how), after)) in enumerate(rows):
        await check_ending(fault, option, how, after=after, directory=tmp_path / str(number))


async def test_an_ending_needs_no_more_than_a_yes(tmp_path: Path) -> None:
    """A success whose answer says nothing ends a session all the same."""
    silent = [fault for fault in FAULTS if fault.outcome[2] is None]
    assert len(silent) == 3
    for number, (fault, (option, how)) in enumerate(product(silent, ENDINGS)):
        with row_of_table(fault.name, option, how):
            async with new_scene(tmp_path / str(number)) as scene:
                scene.break_answers(METHODS[how], fault, after=True)
                _, error = await end_of_block(scene, option, how)
                assert getattr(error, "__notes__", []) == []
                assert scene.open == []


@pytest.mark.parametrize(("row", "after"), CALL_MOMENTS, ids=row_id)
async def test_a_session_is_accounted_for_whatever_a_call_meets(
    *, row: Row, after: bool, tmp_path: Path
) -> None:
    """Whatever comes in place of a call's answer, the session is closed or is in the ledger, unless
    the service lies about a close.

    A close that isn't carried out meets each fault, any other call one of each class.
    """
    is_worst = row is CLOSE and not after
    faults = CALL_FAULTS if is_worst else (*SAMPLE, NOT_THE_SERVICES_404, NO_INSTANCE)
    missing = await check_calls(row, faults, after=after, directory=tmp_path / "ledger")
    assert missing == ([*LIES] if is_worst else [])


@pytest.mark.parametrize(("row", "busy"), CHANGES, ids=row_id)
async def test_a_change_that_was_carried_out_unheard_is_repeated(
    *, row: Row, busy: bool, tmp_path: Path
) -> None:
    """A change whose first answer goes wrong is sent again where that helps, else raises its class;
    and the caller may repeat it.

    A drain of a session with jobs meets each fault, any other change one of each class.
    """
    faults = (*FAULTS, *REFUSALS.values()) if row is DRAIN and busy else SAMPLE
    await check_changes(row, faults, busy=busy, directory=tmp_path / "ledger")


@pytest.mark.parametrize(
    ("answer", "age"),
    [(http(204), 0), (http(200), 0), (http(200, {}), 0), (http(404, own()), YOUNG_S)],
    ids=[*LIES, "404"],
)
async def test_a_service_that_claims_what_it_did_not_do_is_believed(
    answer: bytes, age: float, scene: Scene
) -> None:
    """This can't be promised: a service that says that a session is closed or gone, and it isn't,
    leaves one that only `max_ttl` ends.
    """
    scene.proxy.broken["DELETE"] = Broken(answer, after=False)
    async with scene.client.open(**WANTED, on_exit="close") as live:
        scene.time.advance(age)
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


async def test_max_ttl_ends_what_a_vanished_host_left(scene: Scene) -> None:
    """This is all that can be promised then: what nobody is left to end is closed `max_ttl` after
    its first job began, and not before.
    """
    session = await scene.client.create(**WANTED)
    scene.emulator.submit_job(session.id, seconds=10_000)
    await scene.proxy.stop()
    scene.time.advance(599)
    assert scene.open == [session.id]
    scene.time.advance(1)
    assert scene.open == []


async def test_without_a_ledger_only_the_workloads_tell(scene: Scene) -> None:
    """What a client without a ledger left open isn't found by `reap`; the list of workloads has it,
    as one of the instance's.
    """
    async with client_of(scene.emulator, scene.time) as another:
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


async def test_a_clock_that_jumps_an_hour_within_a_block(scene: Scene) -> None:
    """A jump of the clock, with the token past its life, keeps no session from being ended."""
    async with scene.client.open(**WANTED, on_exit="close"):
        scene.time.advance(3600)
    assert (scene.open, await scene.recorded()) == ([], [])
