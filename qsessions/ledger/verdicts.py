"""The rules of reaping: what to do about a session that a dead process may have left open.

These are pure functions: they send nothing and read no clock.

Only sessions of dead owners are closed. A draining session ends without help and is left alone,
unless it has had no jobs for so long that the service doesn't seem to carry the drain out. A
detached session (`qsessions create`) is closed only if it is named. A session whose id is unknown
is closed only if exactly one session matches and the caller asked for that. Until then it is
undecided, even if it was to be detached: its id was never printed.

A record ends only by positive evidence: the session is closed, or listed as ended, or the service's
own 404 names it. Absence from a list proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum

import attrs
from attrs import frozen

from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, YOUNG_S
from qsessions.clock import CLOCK_SKEW_S
from qsessions.ledger.records import LedgerEntry, LedgerRecord, Liveness, RecordState
from qsessions.models import Session, Workload
from qsessions.values import Value

# The seconds after the request in which a session may be created, if its owner died meanwhile.
LONGEST_CREATE_S = 120.0
# A session that drains without jobs is closed if its last job, else its drain, is IDLE_S seconds
# ago, or if it was seen without jobs twice, IDLE_APART_S seconds apart.
IDLE_S = 600.0
IDLE_APART_S = 300.0


class Verdict(Enum):
    """What to do about a record."""

    CLOSE = "close"
    LEAVE = "leave"
    UNDECIDED = "undecided"
    MARK_ENDED = "mark ended"
    """The session costs nothing any more: the record can be set to `ENDED`."""


@frozen(eq=False, repr=False)
class ReapDecision(Value):
    """What to do about a record, and why.

    Attributes:
        verdict: What to do.
        why: The reason, for people.
        session_id: With `CLOSE`, the session to close.
        candidates: If the session's id is unknown, the sessions that match.
        record: With `LEAVE`, the record to write in place of the old one, or None for no change.
    """

    verdict: Verdict
    why: str
    session_id: str | None = None
    candidates: tuple[Workload, ...] = ()
    record: LedgerRecord | None = None


def decide(
    entry: LedgerEntry,
    session: Session | None,
    *,
    now: float,
    unread: str | None = None,
    named: bool = False,
    has_jobs: bool | None = None,
) -> ReapDecision:
    """Decide about a session whose id is known.

    Args:
        entry: The record and its owner.
        session: The session as it is now, or None if the service has no such session.
        now: Seconds since 1970.
        unread: Why the session can't be read now, or None. Its owner may be enough to decide.
        named: Whether the caller named this session.
        has_jobs: If `needs_jobs`: whether any of its jobs is queued or running; None if unknown.
    """
    if entry.owner.liveness is Liveness.ALIVE:
        return ReapDecision(Verdict.LEAVE, whose(entry))
    if unread is not None:
        return _kept_by_owner(entry, named=named) or ReapDecision(Verdict.UNDECIDED, unread)
    if session is None:
        if is_young(entry.record, now=now):
            return ReapDecision(
                Verdict.UNDECIDED,
                "created moments ago, and the service doesn't know it yet; "
                "run reap again in 2 minutes",
            )
        return ReapDecision(Verdict.MARK_ENDED, "the service has no such session")
    if session.is_final:
        return ReapDecision(Verdict.MARK_ENDED, "closed")
    if session.is_draining:
        if needs_jobs(entry, session, named=named):
            return _decide_idle(entry, session, now=now, has_jobs=has_jobs)
        return ReapDecision(Verdict.LEAVE, "draining; it closes when its jobs are done")
    if (kept := _kept_by_owner(entry, named=named)) is not None:
        return kept
    if session.accepting_jobs is None and not named:
        return ReapDecision(Verdict.UNDECIDED, "the service doesn't say whether it takes jobs")
    return ReapDecision(Verdict.CLOSE, whose(entry, named=named), session_id=session.id)


def is_young(record: LedgerRecord, *, now: float) -> bool:
    """Return whether a session may be so new that the service doesn't know it yet."""
    since = (
        record.changed_at
        if record.session_id is not None
        and record.state in {RecordState.CREATED, RecordState.UNKNOWN}
        else record.asked_at
    )
    # A time in the future comes from a wrong clock.
    return -CLOCK_SKEW_S <= now - since < YOUNG_S


def needs_jobs(entry: LedgerEntry, session: Session, *, named: bool = False) -> bool:
    """Return whether `decide` needs to know if the session has jobs."""
    return (
        session.is_draining
        and entry.owner.liveness is Liveness.DEAD
        and _kept_by_owner(entry, named=named) is None
    )


def _decide_idle(
    entry: LedgerEntry, session: Session, *, now: float, has_jobs: bool | None
) -> ReapDecision:
    """Decide about a draining session whose drain the service may not carry out."""
    record = entry.record
    if has_jobs is None:
        return ReapDecision(Verdict.LEAVE, "draining; its jobs can't be listed")
    if has_jobs:
        return ReapDecision(
            Verdict.LEAVE,
            "draining; it closes when its jobs are done",
            record=attrs.evolve(record, idle_since=None),
        )
    quiet_since = record.changed_at if record.state is RecordState.DRAINING else None
    if session.last_job_completed is not None:
        quiet_since = session.last_job_completed.timestamp()
    is_quiet = quiet_since is not None and now - quiet_since >= IDLE_S
    if is_quiet or (record.idle_since is not None and now - record.idle_since >= IDLE_APART_S):
        return ReapDecision(
            Verdict.CLOSE,
            "drained and without jobs, and the service doesn't close it; "
            f"{whose(entry, named=True)}",
            session_id=session.id,
        )
    return ReapDecision(
        Verdict.LEAVE,
        "draining without jobs; reap closes it if that is still so in 5 minutes",
        record=attrs.evolve(record, idle_since=record.idle_since or now),
    )


def decide_unknown(
    entry: LedgerEntry,
    listed: Sequence[Workload] | None,
    *,
    now: float,
    named: bool = False,
    close_unique: bool = False,
    known: Collection[str | None] = (),
    others: Iterable[LedgerRecord] = (),
) -> ReapDecision:
    """Decide about a session whose id is unknown, and which may not exist.

    Args:
        entry: The record and its owner.
        listed: The open workloads of the instance, or None if they can't be read.
        now: When they were read, in seconds since 1970.
        named: Whether the caller named this record.
        close_unique: Whether the caller wants a single candidate closed.
        known: The session ids of other records.
        others: The records without an id that are detached, or whose owners live or may live.
    """
    record, detached = entry.record, entry.record.detached
    seen = candidates(record, listed or (), known)
    if entry.owner.liveness is Liveness.ALIVE:
        return ReapDecision(Verdict.LEAVE, whose(entry))
    if listed is None:
        why = "its id is unknown, and the instance's sessions can't be listed"
    elif not seen and now <= window(record)[1]:
        why = "its id is unknown, and it may still appear; run reap again in 3 minutes"
    elif not seen:
        # The clock of the owner's machine may have been wrong.
        seen = candidates(record, listed, known, at_any_time=True)
        why = (
            "no session was created at that time; "
            "if that machine's clock was wrong, it may be a candidate"
            if seen
            else "its id is unknown, and no session matches; if none was created: qsessions forget"
        )
    elif entry.owner.liveness is Liveness.UNKNOWN and not detached:
        why = whose(entry)
    elif (count := len(seen)) > 1:
        why = f"{count} sessions match; close the right one by its id"
    elif any(candidates(other, seen, known) for other in others if other.key != record.key):
        why = "one session matches, but it may be another process's"
    elif not close_unique:
        why = "one session matches; pass --close-unique to close it"
    elif detached and not named:
        why = "one session matches; name it to close it: `qsessions create` created it"
    else:
        why = f"{whose(entry, named=True)}; the only session that matches"
        return ReapDecision(Verdict.CLOSE, why, session_id=seen[0].id, candidates=seen)
    return ReapDecision(Verdict.UNDECIDED, why, candidates=seen)


def window(record: LedgerRecord) -> tuple[float, float]:
    """Return the earliest and latest time at which a session of unknown id may have been created.

    Both are in seconds since 1970, by the service's clock.
    """
    answered = (
        record.changed_at
        if record.changed_at > record.asked_at
        else record.asked_at + LONGEST_CREATE_S
    )
    # A new session may take as long to show in the list.
    return record.asked_at - CLOCK_SKEW_S, answered + CLOCK_SKEW_S


def candidates(
    record: LedgerRecord,
    workloads: Iterable[Workload],
    known: Collection[str | None],
    *,
    at_any_time: bool = False,
) -> tuple[Workload, ...]:
    """Return the sessions that may be that of a record without an id.

    Each was created in the `window`, with the requested mode, backend and instance, and is open and
    accepting jobs: a session of unknown id is never drained. A missing attribute counts as a match,
    but for the creation time.

    Args:
        record: The record.
        workloads: The instance's workloads.
        known: The session ids of other records.
        at_any_time: Whether to ignore the creation time.
    """
    first, last = window(record)
    return tuple(
        workload
        for workload in workloads
        if workload.id not in known
        and workload.created is not None
        and (at_any_time or first <= workload.created.timestamp() <= last)
        and workload.mode == LISTED_AS.get(record.mode, str(record.mode))
        and (record.backend is None or workload.backend in {None, record.backend})
        and (record.instance is None or workload.instance in {None, record.instance})
        and workload.status not in ENDED_STATUSES
        and workload.accepting_jobs is not False
    )


def whose(entry: LedgerEntry, *, named: bool = False) -> str:
    """Return whose a session is, for people. `named`: whether the caller named it."""
    owner = entry.owner
    process = "not recorded which" if owner.host is None else f"{owner.pid} on {owner.host}"
    if entry.record.detached and owner.liveness is not Liveness.ALIVE:
        return "named" if named else "name it to close it: `qsessions create` created it"
    is_over = owner.liveness is Liveness.DEAD
    if owner.lease_age is not None:
        # No more is known: one that was killed just now still holds its lease.
        what = "is over" if is_over else f"was renewed {owner.lease_age:.0f} s ago"
        return f"its lease {what} ({process})"
    if owner.liveness is Liveness.UNKNOWN:
        return f"whether its process is alive is unknown from here ({process})"
    return f"its process is {'gone' if is_over else 'alive'} ({process})"


def _kept_by_owner(entry: LedgerEntry, *, named: bool) -> ReapDecision | None:
    """Decide by the owner alone, or return None if that is not enough."""
    if entry.record.detached:
        # If its creator died before it knew the id, the session was never given to anyone.
        is_kept = not named and entry.record.session_id is not None
        return ReapDecision(Verdict.LEAVE, whose(entry)) if is_kept else None
    if entry.owner.liveness is Liveness.UNKNOWN:
        return ReapDecision(Verdict.UNDECIDED, whose(entry))
    return None
