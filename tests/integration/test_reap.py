"""What dead processes left open, closed by the rules: a client and a ledger against an emulator."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import attrs
import pytest

from qsessions import (
    AsyncSessionClient,
    Forbidden,
    InstanceNotFound,
    InvalidArgument,
    LedgerEntry,
    LedgerUnavailable,
    Liveness,
    NotFound,
    RecordState,
    ResponseError,
    SessionClient,
    session_states,
)
from qsessions.api.operations import MAX_PAGE, YOUNG_S
from qsessions.clock import CLOCK_SKEW_S
from qsessions.emulator import Emulator, Fault
from qsessions.emulator.fault_kinds import Operation
from qsessions.ledger.verdicts import LONGEST_CREATE_S, Verdict
from qsessions.reaper import ANOTHER_INSTANCE, Reaped, forget, reap
from qsessions.testing import ManualClock
from tests.support.calls import SESSION, fault
from tests.support.clients import Against, client_of
from tests.support.fault_server import http
from tests.support.given_lease import GivenLease
from tests.support.given_ledger import GivenLedger, entry
from tests.support.leaks import loop_steps
from tests.support.loop_time import let_pass

START = 1_780_000_000.0
CLOSE, LEAVE, UNDECIDED, MARK = Verdict.CLOSE, Verdict.LEAVE, Verdict.UNDECIDED, Verdict.MARK_ENDED


class Place:
    """An instance with sessions, and a ledger about them."""

    def __init__(self, client: AsyncSessionClient, emulator: Emulator, time: ManualClock) -> None:
        self.client = client
        self.emulator = emulator
        self.time = time
        self.ledger: GivenLedger = GivenLedger()

    async def session(self) -> str:
        """Create a session and give its id."""
        return (await self.client.create(mode="dedicated", backend="ibm_fez", max_ttl="8h")).id

    def record(self, liveness: Liveness = Liveness.DEAD, **fields: Any) -> LedgerEntry:
        """Put a record of this instance into the ledger."""
        about: dict[str, Any] = {"base_url": self.emulator.url, "instance": self.emulator.crn}
        about |= {"asked_at": START, "changed_at": fields.get("asked_at", START)}
        about["key"] = f"k{len(self.ledger.given)}"
        one = entry(liveness, **(about | fields))
        self.ledger.given.append(one)
        return one

    async def reap(self, **options: Any) -> list[Reaped]:
        """Reap, on the test's time."""
        return await reap(self.client, self.ledger, wall=self.time.wall, **options)

    def still_open(self) -> list[str]:
        """Return the ids of the sessions that are open."""
        return [session.id for session in self.emulator.open_sessions]

    def ended(self) -> list[tuple[str, str | None]]:
        """Return the keys and session ids of the records that were put to ended."""
        assert all(record.state is RecordState.ENDED for record in self.ledger.amended)
        return [(record.key, record.session_id) for record in self.ledger.amended]


@pytest.fixture
async def place(client: AsyncSessionClient, emulator: Emulator, time: ManualClock) -> Place:
    """Return an instance and a ledger."""
    await client.__aenter__()
    return Place(client, emulator, time)


def verdicts(reaped: list[Reaped]) -> list[tuple[Verdict, bool]]:
    """Return what was decided of each record, and whether it was done."""
    return [(one.decision.verdict, one.done) for one in reaped]


@pytest.mark.parametrize(("given", "shown"), [("local", "'local'"), (None, "NoneType")])
async def test_what_is_no_ledger_is_refused(place: Place, given: Any, shown: str) -> None:
    """Where the client takes "local", reaping takes a ledger, and says so."""
    with pytest.raises(
        InvalidArgument, match=rf"^ledger must be a ledger, such as LocalLedger\(\), not {shown}\."
    ):
        await reap(place.client, given)


@pytest.mark.smoke
async def test_a_synchronous_client_is_refused(place: Place) -> None:
    """What isn't an `AsyncSessionClient` is refused at once, and nothing is done."""
    place.record(session_id=await place.session())
    client: Any = SessionClient(auth=[], base_url=place.emulator.url)
    try:
        with pytest.raises(
            InvalidArgument, match="must be an AsyncSessionClient, not SessionClient"
        ):
            await reap(client, place.ledger)
    finally:
        await asyncio.to_thread(client.shutdown)
    assert len(place.still_open()) == 1


async def test_what_dead_owners_left_is_closed(place: Place) -> None:
    """A dead owner's session is closed and its record ended; a living owner's, a detached and a
    draining one stay open.
    """
    dead, alive, detached, draining, unknown = [await place.session() for _ in range(5)]
    place.emulator.submit_job(draining, seconds=1000)
    await place.client.drain(draining)
    place.record(session_id=dead)
    place.record(Liveness.ALIVE, session_id=alive)
    place.record(session_id=detached, detached=True)
    place.record(session_id=draining)
    place.record(Liveness.UNKNOWN, session_id=unknown)
    reaped = await place.reap()
    assert verdicts(reaped) == [
        (CLOSE, True), (LEAVE, False), (LEAVE, False), (LEAVE, False), (UNDECIDED, False),
    ]  # fmt: skip
    assert place.still_open() == [alive, detached, draining, unknown]
    assert place.ended() == [("k0", dead)]
    assert [one.error for one in reaped] == [None] * 5


async def test_what_is_over_is_put_to_ended(place: Place) -> None:
    """A session that is closed or unknown to the service costs nothing: its record ends, unless
    nobody can tell whether the owner lives.
    """
    closed = await place.session()
    await place.client.close(closed)
    place.record(session_id=closed)
    place.record(session_id="s-gone", asked_at=START - YOUNG_S)
    place.record(Liveness.UNKNOWN, session_id=closed)
    assert verdicts(await place.reap()) == [(MARK, True), (MARK, True), (MARK, False)]
    assert place.ended()[:2] == [("k0", closed), ("k1", "s-gone")]


async def test_a_404_about_a_session_of_just_now_ends_nothing(place: Place) -> None:
    """The service may not know a session yet that was just created: its record stays, whether the
    reading or the closing meets a 404.
    """
    place.record(session_id="s-new")
    (one,) = await place.reap()
    assert (one.decision.verdict, one.done, one.error) == (UNDECIDED, False, None)
    assert "moments ago" in one.decision.why
    place.ledger.given.clear()
    place.record(session_id=await place.session())
    async with client_of(place.emulator, place.time) as place.client:
        place.emulator.faults.add(Fault(kind="answer", status=404, operations=["close"]))
        (one,) = await place.reap()
        assert (one.decision.verdict, one.done, type(one.error)) == (CLOSE, False, NotFound)
        assert place.ended() == []
        place.time.advance(YOUNG_S)
        assert verdicts(await place.reap()) == [(CLOSE, True)]
    assert len(place.ended()) == 1


async def test_an_instance_that_is_not_found_ends_nothing(place: Place) -> None:
    """A 404 about the instance says nothing about a session: it is undecided or couldn't be closed,
    with the error; its record stays.
    """
    place.record(session_id=await place.session(), asked_at=START - YOUNG_S)
    body = fault(code=1279)
    steps: list[tuple[Operation, Verdict]] = [("get", UNDECIDED), ("close", CLOSE)]
    for operation, verdict in steps:
        place.emulator.faults.add(
            Fault(kind="answer", status=404, body=body, operations=[operation], times=1)
        )
        (one,) = await place.reap()
        assert (one.decision.verdict, one.done, type(one.error)) == (
            verdict,
            False,
            InstanceNotFound,
        )
    assert len(place.still_open()) == 1
    assert place.ended() == []


def jobs_page(*ids: str) -> bytes:
    """Return a page of GET /v1/jobs."""
    return http(200, {"jobs": [{"id": name} for name in ids], "count": len(ids)})


STUCK = http(200, SESSION | {"accepting_jobs": False})
BUSY, IDLE = jobs_page("j1"), jobs_page()


async def test_a_drain_that_is_not_carried_out_is_ended(
    against: Against, time: ManualClock
) -> None:
    """A dead owner's session that drains and has no jobs is closed when that is so for a second
    time, five minutes later.
    """
    server, client = await against(
        STUCK, BUSY, STUCK, IDLE, STUCK, IDLE, STUCK, IDLE, STUCK, IDLE, http(204)
    )
    ledger = GivenLedger(entry(session_id="s1", base_url=client.base_url, instance=client.instance))

    async def look(**options: Any) -> Reaped:
        (one,) = await reap(client, ledger, wall=time.wall, **options)
        if ledger.amended:
            ledger.given = [attrs.evolve(ledger.given[0], record=ledger.amended[-1])]
        return one

    assert "closes when its jobs are done" in (await look()).decision.why
    assert (await look(dry_run=True)).decision.verdict is LEAVE
    assert ledger.amended == []
    one = await look()
    assert (one.decision.verdict, one.done, one.error) == (LEAVE, False, None)
    assert "if that is still so in 5 minutes" in one.decision.why
    assert [record.idle_since for record in ledger.amended] == [time.now]
    time.advance(299)
    assert (await look()).decision.verdict is LEAVE
    assert len(ledger.amended) == 1
    time.advance(1)
    one = await look()
    assert (one.decision.verdict, one.done) == (CLOSE, True)
    assert "the service doesn't close it" in one.decision.why
    assert ledger.amended[-1].state is RecordState.ENDED
    assert server.received[1].target == "/v1/jobs?pending=true&session_id=s1&limit=1"
    assert server.received[-1].method == "DELETE"


async def test_a_drain_of_long_ago_that_is_not_carried_out_is_ended_at_once(
    against: Against, time: ManualClock
) -> None:
    """Where the last job or the recorded drain is ten minutes old, one look is enough; a dry run
    only says so.
    """
    server, client = await against(STUCK, IDLE, STUCK, IDLE, http(204))
    about: dict[str, Any] = {"base_url": client.base_url, "instance": client.instance}
    ledger = GivenLedger(
        entry(session_id="s1", state="draining", changed_at=time.now - 600, **about)
    )
    dry = await reap(client, ledger, wall=time.wall, dry_run=True)
    assert verdicts(dry) == [(CLOSE, False)]
    assert ledger.amended == []
    assert verdicts(await reap(client, ledger, wall=time.wall)) == [(CLOSE, True)]
    assert server.count("DELETE") == 1


async def test_a_drain_whose_jobs_cannot_be_listed_is_left(
    against: Against, time: ManualClock
) -> None:
    """Where nobody can tell whether a session has jobs, it is left, and the reason says so; what
    was seen before is kept.
    """
    server, client = await against(STUCK, http(403, fault()))
    about: dict[str, Any] = {"base_url": client.base_url, "instance": client.instance}
    ledger = GivenLedger(entry(session_id="s1", idle_since=time.now - 1000, **about))
    (one,) = await reap(client, ledger, wall=time.wall)
    assert (one.decision.verdict, one.error) == (LEAVE, None)
    assert one.decision.why.endswith("its jobs can't be listed")
    assert (ledger.amended, server.count("DELETE")) == ([], 0)


async def test_a_ledger_that_cannot_keep_what_was_seen(against: Against, time: ManualClock) -> None:
    """Where it can't be kept that a session had no jobs, the next look is the first, and nothing
    else comes of it.
    """
    _, client = await against(STUCK, IDLE)
    ledger = GivenLedger(entry(session_id="s1", base_url=client.base_url, instance=client.instance))
    ledger.amend_failure = LedgerUnavailable("it is read-only.")
    (one,) = await reap(client, ledger, wall=time.wall)
    assert (one.decision.verdict, one.done, one.error) == (LEAVE, False, None)


async def test_a_drain_that_another_process_recorded_is_its_own(
    against: Against, time: ManualClock
) -> None:
    """A session that drains for too long is left to another process that recorded it and lives."""
    server, client = await against(STUCK, IDLE)
    about: dict[str, Any] = {
        "session_id": "s1",
        "base_url": client.base_url,
        "instance": client.instance,
    }
    ledger = GivenLedger(
        entry(key="k", idle_since=time.now - 1000, **about), entry(Liveness.ALIVE, **about)
    )
    (one,) = await reap(client, ledger, wall=time.wall, only="k")
    assert one.decision.verdict is LEAVE
    assert server.count("DELETE") == 0


async def test_dry_run(place: Place) -> None:
    """A dry run decides the same, with an unknown id too, and does nothing."""
    place.record(session_id=await place.session())
    place.record()
    await place.session()
    assert verdicts(await place.reap(dry_run=True, close_unique=True)) == [
        (CLOSE, False),
        (CLOSE, False),
    ]
    assert len(place.still_open()) == 2
    assert place.ended() == []


async def test_named_ones(place: Place) -> None:
    """Only the records that are named, by key or session id, are looked at, and a detached session
    is then closed.
    """
    first, second, third = [await place.session() for _ in range(3)]
    place.record(session_id=first, detached=True)
    place.record(session_id=second)
    place.record(session_id=third, detached=True)
    assert verdicts(await place.reap(only=[first, "k2"])) == [(CLOSE, True), (CLOSE, True)]
    assert place.still_open() == [second]
    (one,) = await place.reap(only="k1", dry_run=True)
    assert one.entry.record.session_id == second
    with pytest.raises(InvalidArgument, match="no open record of 's-1', 's-2'"):
        await place.reap(only=["s-2", second, "s-1"])
    assert place.still_open() == [second]


@pytest.mark.parametrize(
    "fields",
    [{"instance": "crn:other"}, {"instance": None, "base_url": "https://elsewhere.example/api"}],
)
async def test_another_instance(place: Place, fields: dict[str, Any]) -> None:
    """Another instance's records are passed over, or listed and left; one that is named is
    undecided. Nothing is sent for them.
    """
    session_id = await place.session()
    before = len(place.emulator.requests)
    place.record(session_id=session_id, **fields)
    place.record(**fields)
    place.record(Liveness.ALIVE, session_id=session_id, **fields)
    place.record(session_id=session_id, detached=True, **fields)
    assert await place.reap(close_unique=True) == []
    reaped = await place.reap(close_unique=True, all_instances=True)
    assert verdicts(reaped) == [(LEAVE, False)] * 4
    assert {one.decision.why for one in reaped} == {ANOTHER_INSTANCE}
    (named,) = await place.reap(only="k1")
    assert (named.decision.verdict, named.decision.why) == (UNDECIDED, ANOTHER_INSTANCE)
    assert len(place.emulator.requests) == before


@pytest.mark.parametrize(
    "fields", [{"base_url": "https://elsewhere.example/api"}, {"instance": None}]
)
async def test_whose_a_record_is_says_the_crn(place: Place, fields: dict[str, Any]) -> None:
    """A record belongs to its CRN's instance, whatever address that was reached at; one without a
    CRN to its base URL.
    """
    place.record(session_id=await place.session(), **fields)
    assert verdicts(await place.reap()) == [(CLOSE, True)]
    assert place.still_open() == []


async def test_an_instance_that_nobody_knows(
    place: Place, emulator: Emulator, time: ManualClock
) -> None:
    """Where the record doesn't say which instance it is about, a session that isn't found may be in
    another one.
    """

    class Own:
        """A provider of the user's own."""

        async def headers(self, transport: object) -> dict[str, str]:
            return {"Authorization": f"apikey {emulator.api_key}", "Service-CRN": emulator.crn}

        def invalidate(self, refused: object) -> bool:
            return False

    session_id = await place.session()
    place.record(session_id=session_id, instance=None)
    place.record(session_id="s-gone", instance=None)
    async with AsyncSessionClient(Own(), base_url=emulator.url, clock=time) as client:
        place.client = client
        reaped = await place.reap()
    assert verdicts(reaped) == [(CLOSE, True), (UNDECIDED, False)]
    assert reaped[1].decision.why.endswith("its instance isn't recorded")


async def test_unknown_ids(place: Place) -> None:
    """A session whose id isn't known is closed only as the single candidate, by whoever says so;
    its record ends with the id.
    """
    session_id = await place.session()
    place.record()
    (reaped,) = await place.reap()
    assert reaped.decision.verdict is UNDECIDED
    assert [workload.id for workload in reaped.decision.candidates] == [session_id]
    assert verdicts(await place.reap(close_unique=True)) == [(CLOSE, True)]
    assert place.still_open() == []
    assert place.ended() == [("k0", session_id)]


async def test_one_session_is_not_two_records(place: Place) -> None:
    """A session that is closed for one record is not another one's too: that may still appear, and
    later is for somebody to forget.
    """
    await place.session()
    place.record()
    place.record()
    first, second = await place.reap(close_unique=True, dry_run=True)
    assert (first.decision.verdict, second.decision.verdict) == (CLOSE, UNDECIDED)
    assert "may still appear" in second.decision.why
    place.time.advance(LONGEST_CREATE_S + CLOCK_SKEW_S + 1)
    first, second = await place.reap(close_unique=True)
    assert (first.done, second.decision.verdict, second.done) == (True, UNDECIDED, False)
    assert second.decision.why.endswith("qsessions forget")
    assert [key for key, _ in place.ended()] == ["k0"]


@pytest.mark.parametrize(
    ("liveness", "fields"),
    [(Liveness.ALIVE, {}), (Liveness.UNKNOWN, {}), (Liveness.DEAD, {"detached": True})],
)
async def test_what_may_be_another_processs_is_not_closed(
    place: Place, liveness: Liveness, fields: dict[str, Any]
) -> None:
    """A candidate that may as well be the one that a living process is just creating, or one that
    is nobody's, is not closed.
    """
    session_id = await place.session()
    place.record()
    place.record(liveness, **fields)
    reaped = await place.reap(close_unique=True)
    assert (reaped[0].decision.verdict, reaped[0].done) == (UNDECIDED, False)
    assert "another process's" in reaped[0].decision.why
    assert place.still_open() == [session_id]


async def test_what_another_record_knows_is_no_candidate(place: Place) -> None:
    """A session whose id another record has is not the one whose id isn't known."""
    place.record(Liveness.ALIVE, session_id=await place.session())
    place.record()
    assert verdicts(await place.reap(close_unique=True))[1] == (UNDECIDED, False)
    assert len(place.still_open()) == 1


async def test_a_record_of_a_clock_far_off(place: Place) -> None:
    """A record from a clock that was thousands of years ahead or far behind doesn't keep the others
    from being reaped.
    """
    place.record(asked_at=9e11, changed_at=9e11)
    place.record(asked_at=-9e11, changed_at=-9e11)
    place.record(session_id=await place.session())
    assert verdicts(await place.reap()) == [(UNDECIDED, False), (UNDECIDED, False), (CLOSE, True)]


@pytest.mark.parametrize("off", [-3600.0, -300.0, 300.0, 3600.0])
async def test_a_record_of_a_wrong_clock_is_kept_while_its_session_may_be_open(
    off: float, place: Place, time: ManualClock
) -> None:
    """When the owner's clock was wrong, its session was created at another time than recorded: it
    is shown, and the record is kept.
    """
    session_id = await place.session()
    place.record(asked_at=time.now + off, changed_at=time.now + off)

    def later() -> float:
        return time.now + 10_000

    (reaped,) = await reap(place.client, place.ledger, wall=later, close_unique=True)
    assert (reaped.decision.verdict, reaped.done) == (UNDECIDED, False)
    assert [one.id for one in reaped.decision.candidates] == [session_id]
    assert place.still_open() == [session_id]
    await place.client.close(session_id)
    (reaped,) = await reap(place.client, place.ledger, wall=later)
    assert (reaped.decision.verdict, reaped.decision.candidates) == (UNDECIDED, ())


async def test_what_cannot_be_read_or_closed(place: Place) -> None:
    """A session that can't be read is undecided, one that can't be closed keeps its record, each
    with its error; others are closed.
    """
    for _ in range(3):
        place.record(session_id=await place.session())
    place.emulator.faults.add(Fault(kind="answer", status=403, operations=["get"], nth=1))
    place.emulator.faults.add(Fault(kind="answer", status=403, operations=["close"], nth=1))
    reaped = await place.reap()
    assert sorted(str(one.decision.verdict.value) for one in reaped) == [
        "close",
        "close",
        "undecided",
    ]
    assert sum(one.done for one in reaped) == 1
    assert [type(one.error) for one in reaped if not one.done] == [Forbidden, Forbidden]
    assert len(place.still_open()) == 2
    assert len(place.ended()) == 1


async def test_what_is_left_anyway_needs_no_look(place: Place) -> None:
    """That a detached session can't be read is no error unless it is named; when it can be and is
    closed, its record ends.
    """
    session_id = await place.session()
    place.record(session_id=session_id, detached=True)
    place.emulator.faults.add(Fault(kind="answer", status=403, operations=["get"]))
    (left,) = await place.reap()
    assert (left.decision.verdict, left.error) == (LEAVE, None)
    (named,) = await place.reap(only=session_id)
    assert (named.decision.verdict, type(named.error)) == (UNDECIDED, Forbidden)
    place.emulator.faults.clear()
    await place.client.close(session_id)
    assert verdicts(await place.reap()) == [(MARK, True)]


async def test_a_create_that_died_belongs_to_who_finds_it(place: Place) -> None:
    """A detached session whose id nobody was told is undecided and shown, and closed only by its
    record's name and the word to.
    """
    session_id = await place.session()
    place.record(detached=True)
    for options in ({}, {"close_unique": True}, {"only": "k0"}):
        (one,) = await place.reap(**options)
        assert (one.decision.verdict, one.done) == (UNDECIDED, False)
        assert [workload.id for workload in one.decision.candidates] == [session_id]
    assert verdicts(await place.reap(only="k0", close_unique=True)) == [(CLOSE, True)]
    assert place.ended() == [("k0", session_id)]


async def test_workloads_that_cannot_be_listed(place: Place) -> None:
    """Where the workloads can't be read, sessions whose ids aren't known are undecided, and others
    are closed all the same.
    """
    place.record()
    place.record(session_id=await place.session())
    place.emulator.faults.add(Fault(kind="answer", status=403, operations=["workloads"]))
    first, second = await place.reap()
    assert (first.decision.verdict, type(first.error)) == (UNDECIDED, Forbidden)
    assert (second.decision.verdict, second.done) == (CLOSE, True)


async def test_a_session_that_is_gone_when_it_is_to_be_closed(place: Place) -> None:
    """Somebody else may have closed it meanwhile: that is what was wanted."""
    place.record(session_id=await place.session(), asked_at=START - YOUNG_S)
    place.time.advance(YOUNG_S)
    place.emulator.faults.add(Fault(kind="answer", status=404, operations=["close"]))
    assert verdicts(await place.reap()) == [(CLOSE, True)]
    assert len(place.ended()) == 1


async def test_another_sessions_answer_decides_nothing(place: Place) -> None:
    """Where the service answers about another session, as a cache in between may, neither that nor
    the record's own is closed.
    """
    mine, other = await place.session(), await place.session()
    place.record(session_id=mine)
    for state in ("open", "closed"):
        answer = {
            "id": other,
            "mode": "dedicated",
            "state": state,
            "accepting_jobs": state == "open",
        }
        place.emulator.faults.add(
            Fault(kind="answer", status=200, body=answer, operations=["get"], times=1)
        )
        assert verdicts(await place.reap()) == [(UNDECIDED, False)]
    assert place.still_open() == [mine, other]
    assert place.ended() == []


@pytest.mark.parametrize(
    ("liveness", "verdict"),
    [(Liveness.ALIVE, LEAVE), (Liveness.UNKNOWN, UNDECIDED), (Liveness.DEAD, CLOSE)],
)
async def test_a_session_that_two_processes_recorded(
    place: Place, liveness: Liveness, verdict: Verdict
) -> None:
    """A session that a dead and another process recorded is closed only when that one is dead too."""
    session_id = await place.session()
    dead = place.record(session_id=session_id)
    place.record(liveness, session_id=session_id)
    (one,) = await place.reap(only=dead.record.key)
    assert one.decision.verdict is verdict


async def test_a_404_that_is_not_the_services_ends_nothing(place: Place) -> None:
    """A proxy's 404 says nothing about a session: it is undecided, or could not be closed, and its
    record stays.
    """
    place.record(session_id=await place.session())
    steps: list[tuple[Operation, Verdict]] = [("get", UNDECIDED), ("close", CLOSE)]
    for operation, verdict in steps:
        place.emulator.faults.add(
            Fault(kind="answer", status=404, body="<html>", operations=[operation], times=1)
        )
        (one,) = await place.reap()
        assert (one.decision.verdict, one.done) == (verdict, False)
        assert isinstance(one.error, ResponseError)
    assert len(place.still_open()) == 1
    assert place.ended() == []


async def test_what_is_forgotten(place: Place) -> None:
    """A named record of a dead owner is put to ended and its session left alone; other records
    stay.
    """
    session_id = await place.session()
    place.record(session_id=session_id)
    place.record(Liveness.ALIVE, session_id="s-alive")
    place.record(Liveness.UNKNOWN, session_id="s-unknown", detached=True)
    place.record()
    requests = len(place.emulator.requests)
    names = [session_id, "s-alive", "s-unknown"]
    forgotten = await forget(place.ledger, names, wall=place.time.wall)
    assert verdicts(forgotten) == [(MARK, True), (LEAVE, False), (UNDECIDED, False)]
    assert place.ended() == [("k0", session_id)]
    assert place.still_open() == [session_id]
    assert len(place.emulator.requests) == requests
    place.ledger.amend_failure = OSError("no disk")
    (one,) = await forget(place.ledger, "k3")
    assert (one.done, type(one.error)) == (False, LedgerUnavailable)


@pytest.mark.parametrize(
    ("only", "problem"), [((), "must be named"), ("k9", "no open record of 'k9'")]
)
async def test_nothing_else_is_forgotten(place: Place, only: Any, problem: str) -> None:
    """Forgetting wants the names of records that there are."""
    place.record()
    with pytest.raises(InvalidArgument, match=problem):
        await forget(place.ledger, only)
    assert place.ended() == []


async def test_a_ledger_that_cannot_be_used(place: Place) -> None:
    """One that can't be read reaps nothing; one that can't be changed doesn't keep a session from
    being closed, and that is told.
    """
    place.record(session_id=await place.session())
    place.record(session_id="s-gone", asked_at=START - YOUNG_S)
    place.ledger.failure = OSError("no disk")
    with pytest.raises(LedgerUnavailable, match="OSError: no disk"):
        await place.reap()
    assert len(place.still_open()) == 1
    place.ledger.failure = None
    place.ledger.amend_failure = LedgerUnavailable("it is read-only.")
    reaped = await place.reap()
    assert verdicts(reaped) == [(CLOSE, True), (MARK, False)]
    assert [str(one.error) for one in reaped] == [str(place.ledger.amend_failure)] * 2
    assert place.still_open() == []


async def test_labels(place: Place) -> None:
    """Only records with all of the labels are looked at."""
    ids = [await place.session() for _ in range(3)]
    place.record(session_id=ids[0], labels={"run": "7", "who": "me"})
    place.record(session_id=ids[1], labels={"run": "7"})
    place.record(session_id=ids[2], labels={"run": "8"})
    assert verdicts(await place.reap(labels={"run": "7", "who": "me"})) == [(CLOSE, True)]
    assert place.still_open() == ids[1:]
    assert await place.reap(labels={"run": "9"}) == []
    with pytest.raises(InvalidArgument, match="labels must be"):
        await place.reap(labels="run")


async def test_many_are_looked_up_in_pages(place: Place) -> None:
    """Of many sessions the list says which are over and which take jobs; only those that it says
    nothing of are read one by one.
    """
    said: list[tuple[str, int, int]] = []
    ids = [await place.session() for _ in range(60)]
    for session_id in ids[:40]:
        await place.client.close(session_id)
    place.emulator.submit_job(ids[40], seconds=600)
    await place.client.drain(ids[40])
    for session_id in [*ids, "s-unknown"]:
        place.record(session_id=session_id)
    place.time.advance(YOUNG_S)
    before = len(place.emulator.requests)
    reaped = await place.reap(progress=lambda *done: said.append(done))
    asked = Counter(request.operation for request in place.emulator.requests[before:])
    assert asked == {"workloads": 2, "get": 2, "list_jobs": 1, "close": 19}
    assert verdicts(reaped) == [
        *[(MARK, True)] * 40,
        (LEAVE, False),
        *[(CLOSE, True)] * 19,
        (MARK, True),
    ]
    assert place.still_open() == [ids[40]]
    assert said[59:61] == [("reading", 60, 61), ("reading", 61, 61)]
    assert said[-1] == ("closing", 19, 19)


async def test_records_of_unknown_ids_can_be_left_for_later(place: Place) -> None:
    """What takes a list of all open sessions can have a round of its own, and the others one
    without.
    """
    place.record(session_id=await place.session())
    place.record()
    before = len(place.emulator.requests)
    assert verdicts(await place.reap(unknown=False)) == [(CLOSE, True)]
    asked = {request.operation for request in place.emulator.requests[before:]}
    assert asked == {"get", "close"}
    assert [one.entry.record.key for one in await place.reap(unknown=True)] == ["k1"]


async def test_leases_are_looked_at_all_the_while(place: Place) -> None:
    """While sessions of a shared ledger are ended, which may take long, leases are looked at at
    every heartbeat, also after a look that failed.
    """
    failures: list[Exception] = [LedgerUnavailable("it is away.")]

    class Slow(GivenLease):
        async def amend(self, changes: Any) -> Any:
            for _ in range(3):
                await let_pass(self.terms.heartbeat, place.time)
            await loop_steps(30)
            return await super().amend(changes)

        async def take_over(self) -> float:
            looked = await super().take_over()
            if self.looks == 2:
                raise failures.pop()
            return looked

    place.ledger = ledger = Slow()
    place.record(session_id=await place.session())
    assert verdicts(await place.reap()) == [(CLOSE, True)]
    assert (ledger.looks, failures) == (1 + 3, [])


async def test_a_list_that_is_full_of_others_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a list costs more time than it saves, the sessions are read one by one."""
    monkeypatch.setattr(session_states, "_VAIN_PAGES", 1)
    for _ in range(2 * MAX_PAGE):
        await place.session()
    ids = [await place.session() for _ in range(21)]
    for session_id in ids:
        place.record(session_id=session_id)
    before = len(place.emulator.requests)
    assert {one.done for one in await place.reap()} == {True}
    asked = Counter(request.operation for request in place.emulator.requests[before:])
    assert (asked["workloads"], asked["get"]) == (1, 21)


async def test_a_list_that_cannot_be_read_is_done_without(place: Place) -> None:
    """Where the list fails, many sessions are read one by one, and each has an answer of its own."""
    ids = [await place.session() for _ in range(21)]
    for session_id in ids:
        place.record(session_id=session_id)
    place.emulator.faults.add(Fault(kind="answer", operations=("workloads",), status=403))
    assert {one.done for one in await place.reap()} == {True}
    assert place.still_open() == []


@pytest.mark.parametrize("asked_at", [-9e11, 9e11])
async def test_a_clock_far_off_hides_no_other_record(place: Place, asked_at: float) -> None:
    """One record whose time can't be told keeps nobody from deciding about the others, of few and
    of many, with ids and without.
    """
    ids = [await place.session() for _ in range(21)]
    for session_id in ids:
        place.record(session_id=session_id)
    place.record(session_id="s-far", asked_at=asked_at)
    place.record(asked_at=asked_at)
    place.record()
    reaped = await place.reap()
    assert verdicts(reaped)[:21] == [(CLOSE, True)] * 21
    assert [one.error for one in reaped] == [None] * 24
    assert place.still_open() == []
