"""What becomes of a session that a dead process may have left open: the rules as one table, and
what they hold for anything.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
from hypothesis import given, strategies as st

from qsessions import (
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Mode,
    Owner,
    RecordState,
    Session,
    Workload,
)
from qsessions.api.operations import YOUNG_S
from qsessions.clock import CLOCK_SKEW_S
from qsessions.ledger.verdicts import (
    IDLE_APART_S,
    IDLE_S,
    LONGEST_CREATE_S,
    Verdict,
    candidates,
    decide,
    decide_unknown,
    needs_jobs,
    window,
)
from tests.support.tables import table

CLOSE, LEAVE, UNDECIDED, MARK = Verdict.CLOSE, Verdict.LEAVE, Verdict.UNDECIDED, Verdict.MARK_ENDED
NOW = 1_780_000_000.0
LONG_AFTER = NOW + 86_400.0


def entry(liveness: Liveness = Liveness.DEAD, **fields: Any) -> LedgerEntry:
    """Return the entry of a created session, of a dead owner unless told otherwise."""
    about: dict[str, Any] = {
        "key": "k",
        "base_url": "https://quantum.example/api",
        "instance": "crn",
        "mode": Mode.DEDICATED,
        "backend": "ibm_fez",
        "asked_at": NOW,
        "changed_at": NOW,
    }
    owner = Owner(host="node7", pid=42, since=NOW, liveness=liveness)
    return LedgerEntry(record=LedgerRecord(**about | fields), owner=owner, source="f")


def workload(**fields: Any) -> Workload:
    """Return a workload that can be the session of `entry`."""
    about: dict[str, Any] = {
        "id": "s-1",
        "created": datetime.fromtimestamp(NOW + 1, UTC),
        "mode": "session",
        "backend": "ibm_fez",
        "instance": "crn",
        "status": "pending",
        "accepting_jobs": True,
    }
    return Workload(**about | fields)


LIVE = Session(id="s-1", state="active", accepting_jobs=True)  # type: ignore[arg-type]  # its text compares equal
DRAINING = Session(id="s-1", accepting_jobs=False)
SILENT = Session(id="s-1")
PENDING_CLOSED = Session(id="s-1", state="pending_closed", accepting_jobs=None)  # type: ignore[arg-type]
CLOSED = Session(id="s-1", state="closed", accepting_jobs=False)  # type: ignore[arg-type]
DETACHED = {"detached": True}

# (owner, record, live session, verdict, verdict when named)
RULES: list[tuple[Liveness, dict[str, Any], Session | None, Verdict, Verdict]] = [
    (Liveness.DEAD, {}, LIVE, CLOSE, CLOSE),
    (Liveness.DEAD, {"state": "draining"}, LIVE, CLOSE, CLOSE),
    (Liveness.DEAD, {}, DRAINING, LEAVE, LEAVE),
    (Liveness.DEAD, {}, PENDING_CLOSED, LEAVE, LEAVE),
    (Liveness.DEAD, {}, SILENT, UNDECIDED, CLOSE),
    (Liveness.DEAD, {}, CLOSED, MARK, MARK),
    (Liveness.DEAD, {}, None, MARK, MARK),
    (Liveness.DEAD, DETACHED, LIVE, LEAVE, CLOSE),
    (Liveness.DEAD, DETACHED, DRAINING, LEAVE, LEAVE),
    (Liveness.DEAD, DETACHED, CLOSED, MARK, MARK),
    (Liveness.ALIVE, {}, LIVE, LEAVE, LEAVE),
    (Liveness.ALIVE, {}, CLOSED, LEAVE, LEAVE),
    (Liveness.ALIVE, DETACHED, LIVE, LEAVE, LEAVE),
    (Liveness.UNKNOWN, {}, LIVE, UNDECIDED, UNDECIDED),
    (Liveness.UNKNOWN, {}, None, MARK, MARK),
    (Liveness.UNKNOWN, DETACHED, LIVE, LEAVE, CLOSE),
]


@table(("liveness", "fields", "found", "verdict", "when_named"), RULES)
def test_known_sessions(
    liveness: Liveness,
    fields: dict[str, Any],
    found: Session | None,
    verdict: Verdict,
    when_named: Verdict,
) -> None:
    """A session is closed only where its owner is dead, it doesn't drain, and it wasn't made to
    outlive its maker or is named.
    """
    one = entry(liveness, session_id="s-1", **fields)
    decision = decide(one, found, now=LONG_AFTER)
    assert decision.verdict is verdict
    assert decide(one, found, now=LONG_AFTER, named=True).verdict is when_named
    assert decision.why
    assert decision.session_id == ("s-1" if verdict is CLOSE else None)


@table("liveness", [Liveness.DEAD, Liveness.UNKNOWN])
def test_a_record_of_just_now_does_not_end_by_a_404(liveness: Liveness) -> None:
    """The service may not know a session yet that it has just created; one that it gives as closed
    is over all the same.
    """
    one = entry(liveness, session_id="s-1")
    assert decide(one, None, now=NOW + YOUNG_S - 1).verdict is UNDECIDED
    assert decide(one, None, now=NOW + YOUNG_S).verdict is MARK
    assert decide(one, CLOSED, now=NOW + 1).verdict is MARK


DONE_AT_NOW = attrs.evolve(DRAINING, last_job_completed=datetime.fromtimestamp(NOW, UTC))


@table(
    ("fields", "found", "has_jobs", "after", "verdict", "idle_since"),
    [
        # Twice without jobs, five minutes apart.
        ({}, DRAINING, False, 0.0, LEAVE, NOW),
        ({"idle_since": NOW}, DRAINING, False, IDLE_APART_S - 1, LEAVE, NOW),
        ({"idle_since": NOW}, DRAINING, False, IDLE_APART_S, CLOSE, None),
        ({"idle_since": NOW}, DRAINING, True, IDLE_APART_S, LEAVE, None),
        ({"idle_since": NOW}, DRAINING, None, LONG_AFTER, LEAVE, None),
        # Or once, where the last job, else the drain, is ten minutes ago.
        ({"state": "draining"}, DRAINING, False, IDLE_S - 1, LEAVE, NOW + IDLE_S - 1),
        ({"state": "draining"}, DRAINING, False, IDLE_S, CLOSE, None),
        ({}, DONE_AT_NOW, False, IDLE_S, CLOSE, None),
        (
            {"state": "draining", "changed_at": NOW - IDLE_S},
            DONE_AT_NOW,
            False,
            1.0,
            LEAVE,
            NOW + 1.0,
        ),
        ({"state": "draining"}, DRAINING, True, LONG_AFTER, LEAVE, None),
        ({}, PENDING_CLOSED, False, 0.0, LEAVE, NOW),
    ],
)
def test_a_drain_that_is_not_carried_out(
    *,
    fields: dict[str, Any],
    found: Session,
    has_jobs: bool | None,
    after: float,
    verdict: Verdict,
    idle_since: float | None,
) -> None:
    """A dead owner's session that drains is closed once it has had nothing to do for long enough,
    and what was seen of that is kept.
    """
    one = entry(session_id="s-1", **fields)
    assert needs_jobs(one, found)
    decision = decide(one, found, now=NOW + after, has_jobs=has_jobs)
    assert (decision.verdict, decision.record and decision.record.idle_since) == (
        verdict,
        idle_since,
    )
    assert decision.session_id == ("s-1" if verdict is CLOSE else None)


@table(
    ("liveness", "fields", "found", "named"),
    [
        (Liveness.DEAD, {}, LIVE, True),
        (Liveness.DEAD, {}, CLOSED, True),
        (Liveness.DEAD, DETACHED, DRAINING, False),
        (Liveness.UNKNOWN, {}, DRAINING, True),
        (Liveness.UNKNOWN, DETACHED, DRAINING, True),
        (Liveness.ALIVE, {}, DRAINING, True),
    ],
)
def test_other_drains_are_nobodys_business(
    *, liveness: Liveness, fields: dict[str, Any], found: Session, named: bool
) -> None:
    """Only of a dead owner's session that drains, or a detached one that is named, do the jobs
    matter; what was seen of others stays.
    """
    one = entry(liveness, session_id="s-1", idle_since=NOW, **fields)
    assert not needs_jobs(one, found, named=named)
    decision = decide(one, found, now=LONG_AFTER, named=named)
    if found is DRAINING:
        assert (decision.verdict, decision.record) == (LEAVE, None)


def test_a_detached_one_that_drains_for_ever_is_closed_when_named() -> None:
    """What is seen of a detached session at two times that it was named counts, whatever is decided
    in between.
    """
    one = entry(session_id="s-1", detached=True, idle_since=NOW)
    assert decide(one, None, now=LONG_AFTER, unread="the network is down").record is None
    assert decide(one, DRAINING, now=LONG_AFTER).record is None
    assert decide(one, DRAINING, now=LONG_AFTER, named=True, has_jobs=False).verdict is CLOSE


def test_reasons_name_the_process() -> None:
    """Whoever reads a decision learns which process it is about, as far as the file tells."""
    dead = decide(entry(session_id="s-1"), LIVE, now=LONG_AFTER)
    assert dead.why == "its process is gone (42 on node7)"
    nobody = attrs.evolve(
        entry(session_id="s-1"),
        owner=Owner(host=None, pid=None, since=None, liveness=Liveness.UNKNOWN),
    )
    assert decide(nobody, LIVE, now=LONG_AFTER).why.endswith("(not recorded which)")


@table(
    ("liveness", "why"),
    [
        (Liveness.ALIVE, "its lease was renewed 12 s ago (42 on node7)"),
        (Liveness.UNKNOWN, "its lease was renewed 12 s ago (42 on node7)"),
        (Liveness.DEAD, "its lease is over (42 on node7)"),
    ],
)
def test_reasons_say_what_is_known_of_a_lease(liveness: Liveness, why: str) -> None:
    """Of an owner that holds a lease nobody else knows whether its process is alive, which no reason
    claims.
    """
    one = entry(liveness, session_id="s-1")
    one = attrs.evolve(one, owner=attrs.evolve(one.owner, lease_age=12.3))
    assert decide(one, LIVE, now=LONG_AFTER).why == why


ONE, TWO = [workload()], [workload(), workload(id="s-2")]


@table(
    ("one", "seen", "verdict", "when_told"),
    [
        (entry(), ONE, UNDECIDED, CLOSE),
        (entry(), TWO, UNDECIDED, UNDECIDED),
        (entry(), [], UNDECIDED, UNDECIDED),
        (entry(), None, UNDECIDED, UNDECIDED),
        (entry(Liveness.ALIVE), ONE, LEAVE, LEAVE),
        (entry(Liveness.UNKNOWN), ONE, UNDECIDED, UNDECIDED),
        (entry(detached=True), ONE, UNDECIDED, UNDECIDED),
        (entry(detached=True), TWO, UNDECIDED, UNDECIDED),
        (entry(detached=True), [], UNDECIDED, UNDECIDED),
        (entry(detached=True), None, UNDECIDED, UNDECIDED),
        (entry(Liveness.UNKNOWN, detached=True), ONE, UNDECIDED, UNDECIDED),
        (entry(Liveness.ALIVE, detached=True), ONE, LEAVE, LEAVE),
    ],
)
def test_unknown_outcomes(
    one: LedgerEntry, seen: list[Workload] | None, verdict: Verdict, when_told: Verdict
) -> None:
    """A session whose id isn't known is closed only if a single one can be it and somebody said so;
    what can be it is shown.
    """
    decision = decide_unknown(one, seen, now=LONG_AFTER)
    assert decision.verdict is verdict
    told = decide_unknown(one, seen, now=LONG_AFTER, close_unique=True)
    assert told.verdict is when_told
    assert told.session_id == ("s-1" if when_told is CLOSE else None)
    if seen and one.owner.liveness is not Liveness.ALIVE:
        assert decision.candidates == tuple(seen)


def test_a_detached_unknown_one_is_closed_when_named_and_told() -> None:
    """One that was made to outlive its maker needs both: its name, and the word to close the only
    one that can be it.
    """
    one = entry(detached=True)
    assert decide_unknown(one, ONE, now=LONG_AFTER, close_unique=True).why.startswith(
        "one session matches; name it to close it"
    )
    assert decide_unknown(one, ONE, now=LONG_AFTER, named=True).verdict is UNDECIDED
    assert decide_unknown(one, ONE, now=LONG_AFTER, named=True, close_unique=True).verdict is CLOSE


def test_it_may_still_appear() -> None:
    """That the list lacks a session proves nothing: it may still appear, and later the record is
    kept until somebody forgets it.
    """
    end = NOW + LONGEST_CREATE_S + CLOCK_SKEW_S
    early, late = (decide_unknown(entry(), [], now=now) for now in (end, end + 1))
    assert (early.verdict, late.verdict) == (UNDECIDED, UNDECIDED)
    assert "may still appear" in early.why
    assert late.why.endswith("qsessions forget")


def test_window() -> None:
    """The window ends with the answer where one came, and with the longest create where the owner
    died waiting; clocks may differ.
    """
    assert window(entry().record) == (NOW - CLOCK_SKEW_S, NOW + LONGEST_CREATE_S + CLOCK_SKEW_S)
    unknown = entry().record.becomes(RecordState.UNKNOWN, now=NOW + 5)
    assert window(unknown) == (NOW - CLOCK_SKEW_S, NOW + 5 + CLOCK_SKEW_S)


@table(
    ("fields", "matches"),
    [
        ({}, True),
        ({"created": datetime.fromtimestamp(NOW - CLOCK_SKEW_S, UTC)}, True),
        ({"created": datetime.fromtimestamp(NOW - CLOCK_SKEW_S - 1, UTC)}, False),
        ({"created": datetime.fromtimestamp(NOW + LONGEST_CREATE_S + CLOCK_SKEW_S, UTC)}, True),
        (
            {"created": datetime.fromtimestamp(NOW + LONGEST_CREATE_S + CLOCK_SKEW_S + 1, UTC)},
            False,
        ),
        ({"created": None}, False),
        ({"mode": "batch"}, False),
        ({"mode": "job"}, False),
        ({"backend": "ibm_kyiv"}, False),
        ({"backend": None}, True),
        ({"instance": "other"}, False),
        ({"instance": None}, True),
        ({"status": "in_progress"}, True),
        ({"status": "completed"}, False),
        ({"status": "canceled"}, False),
        ({"status": "failed"}, False),
        ({"status": "something_new"}, True),
        ({"accepting_jobs": False}, False),
        ({"accepting_jobs": None}, True),
        ({"id": "s-known"}, False),
    ],
)
def test_candidates(fields: dict[str, Any], matches: bool) -> None:
    """Only an open session of the same mode, backend and instance, created in the window and not
    known, can be it.
    """
    one = workload(**fields)
    assert candidates(entry().record, [one], {"s-known"}) == ((one,) if matches else ())


def test_candidates_of_what_was_left_open() -> None:
    """A backend or instance that nobody asked for matches any; a batch is listed as one, and a mode
    of a later version as itself.
    """
    anything = entry(backend=None, instance=None).record
    assert candidates(anything, ONE, ())
    assert candidates(entry(mode="batch").record, [workload(mode="batch")], ())
    assert candidates(entry(mode="odd").record, [workload(mode="odd")], ())


@given(
    liveness=st.sampled_from(Liveness),
    state=st.sampled_from(RecordState),
    detached=st.booleans(),
    live=st.sampled_from(["open", "active", "inactive", "pending_closed", "closed", "new", None]),
    accepting=st.sampled_from([True, False, None]),
    named=st.booleans(),
    has_jobs=st.sampled_from([True, False, None]),
    idle=st.none() | st.floats(0, 2 * IDLE_S),
)
def test_never(
    *,
    liveness: Liveness,
    state: RecordState,
    detached: bool,
    live: Any,
    accepting: bool | None,
    named: bool,
    has_jobs: bool | None,
    idle: float | None,
) -> None:
    """Whatever the facts are: a living owner's session, one that drains its jobs, and a detached
    one that isn't named are never closed.
    """
    idle_since = None if idle is None else LONG_AFTER - idle
    one = entry(liveness, session_id="s-1", state=state, detached=detached, idle_since=idle_since)
    found = Session(id="s-1", state=live, accepting_jobs=accepting)
    closes = decide(one, found, now=LONG_AFTER, named=named, has_jobs=has_jobs).verdict is CLOSE
    assert not (closes and liveness is Liveness.ALIVE)
    assert not (closes and found.is_draining and has_jobs is not False)
    assert not (closes and detached and not named)
    assert not (closes and liveness is Liveness.UNKNOWN and not detached)


@table(
    ("liveness", "fields", "verdict", "when_named"),
    [
        (Liveness.DEAD, {}, UNDECIDED, UNDECIDED),
        (Liveness.DEAD, DETACHED, LEAVE, UNDECIDED),
        (Liveness.UNKNOWN, {}, UNDECIDED, UNDECIDED),
        (Liveness.ALIVE, {}, LEAVE, LEAVE),
        (Liveness.ALIVE, DETACHED, LEAVE, LEAVE),
    ],
)
def test_sessions_that_cannot_be_read(
    liveness: Liveness, fields: dict[str, Any], verdict: Verdict, when_named: Verdict
) -> None:
    """Of what can't be read, only what is nobody's business to close is decided: a living owner's,
    and what outlives its maker.
    """
    one = entry(liveness, session_id="s-1", **fields)
    assert decide(one, None, now=LONG_AFTER, unread="the network is down").verdict is verdict
    assert (
        decide(one, None, now=LONG_AFTER, unread="the network is down", named=True).verdict
        is when_named
    )
    for nobodys in (entry(), entry(detached=True)):
        unknown = decide(nobodys, None, now=LONG_AFTER, unread="the network is down")
        assert (unknown.verdict, unknown.why) == (UNDECIDED, "the network is down")


def test_a_candidate_that_may_be_anothers_is_not_closed() -> None:
    """The only session that can be it is left alone where it can be that of a process that may
    live.
    """
    seen = [workload()]
    other = entry(key="other").record
    decision = decide_unknown(entry(), seen, now=LONG_AFTER, close_unique=True, others=[other])
    assert (decision.verdict, decision.session_id) == (UNDECIDED, None)
    assert decision.candidates == tuple(seen)
    for elsewhere in (entry().record, entry(key="other", mode="batch").record):
        decision = decide_unknown(
            entry(), seen, now=LONG_AFTER, close_unique=True, others=[elsewhere]
        )
        assert decision.verdict is CLOSE
