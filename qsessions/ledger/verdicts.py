"""What becomes of a session that a dead process may have left open: facts in, decision out. Nothing here sends or reads a clock.

Only sessions of dead owners are closed. One that drains ends by itself and is left alone, unless it has had nothing to do for so long
that the service can't be carrying the drain out. One that was made to outlive its maker is closed only when it is named. One whose id
nobody knows is closed only when a single session can be it, and only by whoever says so. Until then it is undecided, even where it was made
to outlive its maker: nobody was told that it is there.

A record ends only by a positive word: a session that is closed or listed as ended, or the service's own 404 for it. That a list lacks it
proves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import Enum

import attrs
from attrs import frozen

from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, YOUNG_S
from qsessions.ledger import LedgerEntry, LedgerRecord, Liveness, RecordState
from qsessions.models import Session, Workload

# How many seconds this machine's clock and the service's may be apart, and how long a new session may take to show in the list.
MARGIN_S = 60.0
# How many seconds after it was asked for a session may have been created, where the owner died before it knew.
LONGEST_CREATE_S = 120.0
# A session that drains without jobs is closed when its last job, else its drain, is so many seconds ago, or when it was found without jobs
# twice, so many seconds apart.
IDLE_S = 600.0
IDLE_APART_S = 300.0


class Verdict(Enum):
    """What to do about a record."""

    CLOSE = "close"
    LEAVE = "leave"
    UNDECIDED = "undecided"
    MARK_ENDED = "mark ended"
    """Nothing costs any more: the record can be put to `ENDED`."""


@frozen
class Decision:
    """What to do about a record, and why, in words for people.

    Attributes:
        verdict: What to do.
        why: The reason.
        session_id: The session to close, with `CLOSE`.
        candidates: Of an unknown outcome, the sessions that can be it.
        record: With `LEAVE`, the record to keep in place of the one there was, or None for no change.
    """

    verdict: Verdict
    why: str
    session_id: str | None = None
    candidates: tuple[Workload, ...] = ()
    record: LedgerRecord | None = None


def decide(
    entry: LedgerEntry,
    found: Session | None,
    *,
    now: float,
    named: bool = False,
    has_jobs: bool | None = None,
) -> Decision:
    """Decide about a session whose id is known.

    Args:
        entry: The record and its owner.
        found: The session as it is now, or None where the service has no such session.
        now: Seconds since 1970.
        named: Whether the caller named this very session.
        has_jobs: Of a session for which `needs_jobs`: whether any of its jobs is queued or running; None where that can't be read.
    """
    if entry.owner.liveness is Liveness.ALIVE:
        return _owner_lives(entry)
    if found is None:
        if is_young(entry.record, now=now):
            return Decision(
                Verdict.UNDECIDED,
                "created moments ago, and the service doesn't know it yet; run reap again in 2 minutes",
            )
        return Decision(Verdict.MARK_ENDED, "the service has no such session")
    if found.is_final:
        return Decision(Verdict.MARK_ENDED, "closed")
    if found.is_draining:
        return _draining(entry, found, now=now, named=named, has_jobs=has_jobs)
    if (kept := _kept_by_owner(entry, named=named)) is not None:
        return kept
    if found.accepting_jobs is None and not named:
        return Decision(Verdict.UNDECIDED, "the service doesn't say whether it takes jobs")
    return Decision(Verdict.CLOSE, _left_by(entry), session_id=found.id)


def is_young(record: LedgerRecord, *, now: float) -> bool:
    """Return whether a session may have been created so recently that the service may not know it yet."""
    known = record.session_id is not None and record.state in {
        RecordState.CREATED,
        RecordState.UNKNOWN,
    }
    since = record.changed_at if known else record.asked_at
    # A time that has yet to come is a clock's that was wrong.
    return -MARGIN_S <= now - since < YOUNG_S


def needs_jobs(entry: LedgerEntry, found: Session, *, named: bool = False) -> bool:
    """Return whether `decide` needs to know if the session has jobs."""
    is_dead = entry.owner.liveness is Liveness.DEAD
    return found.is_draining and is_dead and _kept_by_owner(entry, named=named) is None


def _draining(
    entry: LedgerEntry, found: Session, *, now: float, named: bool, has_jobs: bool | None
) -> Decision:
    if not needs_jobs(entry, found, named=named):
        return Decision(Verdict.LEAVE, "draining; it closes when its jobs are done")
    if has_jobs is None:
        return Decision(Verdict.LEAVE, "draining; its jobs can't be listed")
    record = entry.record
    if has_jobs:
        why = "draining; it closes when its jobs are done"
        return Decision(Verdict.LEAVE, why, record=attrs.evolve(record, idle_since=None))
    quiet_since = record.changed_at if record.state is RecordState.DRAINING else None
    if found.last_job_completed is not None:
        quiet_since = found.last_job_completed.timestamp()
    was_quiet = quiet_since is not None and now - quiet_since >= IDLE_S
    if was_quiet or (record.idle_since is not None and now - record.idle_since >= IDLE_APART_S):
        why = f"drained and without jobs, and the service doesn't close it; {_left_by(entry)}"
        return Decision(Verdict.CLOSE, why, session_id=found.id)
    return Decision(
        Verdict.LEAVE,
        "draining without jobs; reap closes it if that is still so in 5 minutes",
        record=record if record.idle_since is not None else attrs.evolve(record, idle_since=now),
    )


def decide_unread(entry: LedgerEntry, why: str, *, named: bool = False) -> Decision:
    """Decide about a session of which nothing can be read now: whose it is may be enough.

    Args:
        entry: The record and its owner.
        why: Why nothing can be read.
        named: Whether the caller named this very session.
    """
    if entry.owner.liveness is Liveness.ALIVE:
        return _owner_lives(entry)
    return _kept_by_owner(entry, named=named) or Decision(Verdict.UNDECIDED, why)


def decide_unknown(
    entry: LedgerEntry,
    candidates: Sequence[Workload] | None,
    *,
    now: float,
    named: bool = False,
    close_unique: bool = False,
    contested: Collection[str] = (),
    of_another_time: Sequence[Workload] = (),
) -> Decision:
    """Decide about a session whose id isn't known, and which may not exist.

    Args:
        entry: The record and its owner.
        candidates: What `candidates` gave, or None where the instance's workloads could not be read.
        now: When the workloads were read, in seconds since 1970.
        named: Whether the caller named this very record.
        close_unique: Whether the caller wants a single candidate closed.
        contested: The ids of candidates that may as well be those of other processes that live or may live, or belong to nobody.
        of_another_time: The sessions that would be candidates but for when they were created: the owner's clock may have been wrong.
    """
    if entry.owner.liveness is Liveness.ALIVE:
        return _owner_lives(entry)
    if candidates is None:
        return Decision(
            Verdict.UNDECIDED, "its id is unknown, and the instance's sessions can't be listed"
        )
    seen = tuple(candidates)
    if not seen:
        if now <= window(entry.record)[1]:
            return Decision(
                Verdict.UNDECIDED,
                "its id is unknown, and it may still appear; run reap again in 3 minutes",
            )
        if of_another_time:
            why = "no session was created at that time; if that machine's clock was wrong, it may be a candidate"
            return Decision(Verdict.UNDECIDED, why, candidates=tuple(of_another_time))
        return Decision(
            Verdict.UNDECIDED,
            "its id is unknown, and no session matches; if none was created: qsessions forget",
        )
    if (kept := _kept_by_owner(entry, named=named)) is not None:
        return Decision(kept.verdict, kept.why, candidates=seen)
    undecided = _undecided(entry, seen, named=named, close_unique=close_unique, contested=contested)
    if undecided is not None:
        return Decision(Verdict.UNDECIDED, undecided, candidates=seen)
    why = f"{_left_by(entry)}; the only session that matches"
    return Decision(Verdict.CLOSE, why, session_id=seen[0].id, candidates=seen)


def window(record: LedgerRecord) -> tuple[float, float]:
    """Give the times, in seconds since 1970, between which the service may say that a session was created whose id isn't known."""
    answered = (
        record.changed_at
        if record.changed_at > record.asked_at
        else record.asked_at + LONGEST_CREATE_S
    )
    return record.asked_at - MARGIN_S, answered + MARGIN_S


def candidates(
    record: LedgerRecord,
    workloads: Iterable[Workload],
    known: Collection[str],
    *,
    at_any_time: bool = False,
) -> tuple[Workload, ...]:
    """Give the sessions that may be the one whose id isn't known.

    Each was created in the `window`, with the mode, backend and instance that were asked for, and is open and accepting jobs: nobody knows
    of ours, so nobody drains it. What the service doesn't say counts as a match, except for when it was created.

    Args:
        record: The record.
        workloads: The instance's.
        known: The session ids that the ledger has for other records.
        at_any_time: Whether to pass over when it was created.
    """
    first, last = window(record)
    return tuple(
        workload
        for workload in workloads
        if workload.id not in known
        and workload.created is not None
        and (at_any_time or first <= workload.created.timestamp() <= last)
        and workload.mode == LISTED_AS.get(record.mode, str(record.mode))
        and _may_equal(workload.backend, record.backend)
        and _may_equal(workload.instance, record.instance)
        and workload.status not in ENDED_STATUSES
        and workload.accepting_jobs is not False
    )


def _may_equal(listed: str | None, asked: str | None) -> bool:
    return listed is None or asked is None or listed == asked


def whose(entry: LedgerEntry) -> str:
    """Say whose a session is, in words for people."""
    if entry.owner.liveness is Liveness.ALIVE:
        return _owner_lives(entry).why
    kept = _kept_by_owner(entry, named=False)
    return _left_by(entry) if kept is None else kept.why


def _owner_lives(entry: LedgerEntry) -> Decision:
    return Decision(Verdict.LEAVE, f"its process is alive ({_process(entry)})")


def _kept_by_owner(entry: LedgerEntry, *, named: bool) -> Decision | None:
    """Decide by whose it is, where that is enough."""
    if entry.record.detached:
        why = "created by `qsessions create`; name it to close it"
        # Where its maker died before it knew the id, nobody was given the session.
        return None if named or entry.record.session_id is None else Decision(Verdict.LEAVE, why)
    if entry.owner.liveness is Liveness.UNKNOWN:
        return Decision(
            Verdict.UNDECIDED,
            f"whether its process is alive can't be told from here ({_process(entry)})",
        )
    return None


def _undecided(
    entry: LedgerEntry,
    seen: Sequence[Workload],
    *,
    named: bool,
    close_unique: bool,
    contested: Collection[str],
) -> str | None:
    """Say why none of the sessions that can be it is closed, or None where the only one is."""
    if len(seen) > 1:
        return f"{len(seen)} sessions match; close the right one by its id"
    if seen[0].id in contested:
        return "one session matches, but it may be another process's"
    if not close_unique:
        return "one session matches; pass --close-unique to close it"
    if entry.record.detached and not named:
        return "one session matches; created by `qsessions create`, so name it to close it"
    return None


def _left_by(entry: LedgerEntry) -> str:
    return "named" if entry.record.detached else f"its process is gone ({_process(entry)})"


def _process(entry: LedgerEntry) -> str:
    owner = entry.owner
    return "not recorded which" if owner.host is None else f"{owner.pid} on {owner.host}"
