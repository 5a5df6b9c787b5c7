"""The sessions that dead processes left open: looks at each record of a ledger, decides by the rules of reaping.py, and does it.

And `forget`, for the records that nobody can decide about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

import attrs
from attrs import define, frozen

from qsessions.client import AsyncSessionClient
from qsessions.closing import OPEN_STATUSES, each
from qsessions.errors import InvalidArgument, LedgerUnavailable, NotFound
from qsessions.ledger import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Owner,
    RecordState,
    answer_of,
    entries_of,
    place_of,
)
from qsessions.models import Session, Workload
from qsessions.operations import words
from qsessions.reaping import (
    Decision,
    Verdict,
    candidates,
    decide,
    decide_unknown,
    decide_unread,
    needs_jobs,
)

ANOTHER_INSTANCE = "another instance: these credentials don't serve the one that it was created in"


@frozen(kw_only=True)
class Reaped:
    """What `reap` or `forget` made of one record.

    Attributes:
        entry: The record and its owner.
        decision: What is to be done about it, and why.
        done: Whether its session was closed, or its record put to ended.
        error: What went wrong, in reading, closing or recording it, or None.
    """

    entry: LedgerEntry
    decision: Decision
    done: bool = False
    error: Exception | None = None


async def reap(
    client: AsyncSessionClient,
    ledger: Ledger,
    *,
    only: str | Collection[str] = (),
    dry_run: bool = False,
    close_unique: bool = False,
    wall: Callable[[], float] = time.time,
) -> list[Reaped]:
    """Close what dead owners left open, by the rules of reaping.py, and give what became of each record, oldest first.

    Records of other instances than the client's are undecided: its credentials go nowhere else. One that fails doesn't stop the others.

    Args:
        client: Of the instance; it must have been entered.
        ledger: Whose records.
        only: The keys or session ids of the records to look at, which then count as named; empty for all.
        dry_run: Whether to decide only.
        close_unique: Whether to close a session whose id isn't known, where a single one can be it.
        wall: Gives the seconds since 1970.

    Raises:
        InvalidArgument: `client` or `ledger` is none, or `only` has a name that it doesn't know; nothing was done.
        LedgerUnavailable: The ledger can't be read; nothing was done.
    """
    given: object = client
    if not isinstance(given, AsyncSessionClient):
        raise InvalidArgument(f"client must be an AsyncSessionClient, not {type(given).__name__}.")
    ledger = place_of(ledger, client.instance)
    known = await _read(ledger)
    entries, owners = _chosen(known, only), _living(known)
    mine = [entry for entry in entries if is_served(client, entry.record)]
    without_id = [
        entry
        for entry in mine
        if entry.record.session_id is None and entry.owner.liveness is not Liveness.ALIVE
    ]
    look = await _look(client, ledger, [entry.record for entry in without_id], wall)
    # One after the other, since a session that is one's is not another's.
    unknown = {
        entry.record.key: look.decide(entry, named=bool(only), close_unique=close_unique)
        for entry in without_id
    }

    async def one(entry: LedgerEntry) -> Reaped:
        decided = unknown.get(entry.record.key) or await _decided(
            client, entry, owners, wall, named=bool(only)
        )
        return decided if dry_run else await _carried_out(client, ledger, wall, decided)

    return await each(entries, one)


async def forget(
    ledger: Ledger, only: str | Collection[str], *, wall: Callable[[], float] = time.time
) -> list[Reaped]:
    """Put records of dead owners to ended unseen, and give what became of each. Nothing is sent; their sessions stay as they are.

    It is for those that nobody will ever decide about, as of an instance that is gone.

    Args:
        ledger: Whose records.
        only: Their keys or session ids.
        wall: Gives the seconds since 1970.

    Raises:
        InvalidArgument: `ledger` is none, or `only` has a name that it doesn't know, or none at all; nothing was done.
        LedgerUnavailable: The ledger can't be read; nothing was done.
    """
    if not only:
        raise InvalidArgument("a record to forget must be named.")
    entries = _chosen(await _read(ledger), only)

    async def one(entry: LedgerEntry) -> Reaped:
        if entry.owner.liveness is not Liveness.DEAD:
            why = "whether its owner lives can't be told from here"
            return Reaped(entry=entry, decision=decide_unread(entry, why, named=True))
        decision = Decision(Verdict.MARK_ENDED, "it was named, and nobody looked at its session")
        return await _ended(ledger, wall, Reaped(entry=entry, decision=decision))

    return await each(entries, one)


def is_served(client: AsyncSessionClient, record: LedgerRecord) -> bool:
    """Say whether a client's credentials are for the instance that a record is about."""
    if record.instance is not None:
        return record.instance == client.instance
    return record.base_url == client.base_url


async def _read(ledger: object) -> Sequence[LedgerEntry]:
    if not isinstance(ledger, Ledger):
        shown = repr(ledger) if isinstance(ledger, str) else type(ledger).__name__
        raise InvalidArgument(f"ledger must be a ledger, such as LocalLedger(), not {shown}.")
    return await entries_of(ledger)


def _chosen(entries: Sequence[LedgerEntry], only: str | Collection[str]) -> list[LedgerEntry]:
    names = set(words("only", only))
    known = {name for entry in entries for name in (entry.record.key, entry.record.session_id)}
    if unknown := sorted(names - known):
        raise InvalidArgument(f"the ledger has no open record of {', '.join(map(repr, unknown))}.")
    return [entry for entry in entries if not names or names & {entry.record.key, entry.record.session_id}]


def _living(known: Sequence[LedgerEntry]) -> dict[str | None, Owner]:
    """Give the owners that live, or else may live, by the ids of their sessions."""
    owners: dict[str | None, Owner] = {}
    for liveness in (Liveness.UNKNOWN, Liveness.ALIVE):
        owners |= {
            entry.record.session_id: entry.owner for entry in known if entry.owner.liveness is liveness
        }
    return owners


async def _decided(
    client: AsyncSessionClient,
    entry: LedgerEntry,
    owners: Mapping[str | None, Owner],
    wall: Callable[[], float],
    *,
    named: bool,
) -> Reaped:
    unread = partial(decide_unread, entry, named=named)
    session_id = entry.record.session_id
    if entry.owner.liveness is Liveness.ALIVE or session_id is None or not is_served(client, entry.record):
        return Reaped(entry=entry, decision=unread(ANOTHER_INSTANCE))
    try:
        found = await client.get(session_id)
    except NotFound:
        if entry.record.instance is None:
            why = "there is no such session, but nobody knows which instance it was created in"
            return Reaped(entry=entry, decision=unread(why))
        return Reaped(entry=entry, decision=decide(entry, None, now=wall(), named=named))
    except Exception as error:  # noqa: BLE001 - whatever a user's provider raises, the others must be looked at
        decision = unread("its state can't be read")
        # What is left as it is anyway needed no look.
        needed = decision.verdict is not Verdict.LEAVE
        return Reaped(entry=entry, decision=decision, error=error.with_traceback(None) if needed else None)
    if found.id != session_id:
        # As a cache in between may give it: it says nothing about this one, and may be another process's.
        return Reaped(entry=entry, decision=unread("the answer was about another session"))
    has_jobs = await _has_jobs(client, found) if needs_jobs(entry, found, named=named) else None
    decision = decide(entry, found, now=wall(), named=named, has_jobs=has_jobs)
    if decision.verdict is Verdict.CLOSE and session_id in owners:
        # Several processes have recorded it.
        other = attrs.evolve(entry, owner=owners[session_id])
        decision = decide(other, found, now=wall(), named=named)
    return Reaped(entry=entry, decision=decision)


async def _has_jobs(client: AsyncSessionClient, session: Session) -> bool | None:
    try:
        return await client.has_pending_jobs(session.id)
    except Exception:  # noqa: BLE001 - as above: it can't be told, and the session is left
        return None


async def _carried_out(
    client: AsyncSessionClient, ledger: Ledger, wall: Callable[[], float], decided: Reaped
) -> Reaped:
    decision, record = decided.decision, decided.entry.record
    if decision.verdict is Verdict.LEAVE and decision.idle_since != record.idle_since:
        with suppress(LedgerUnavailable):
            # For the next time; without it, that is the first.
            await answer_of(ledger.amend(decided.entry, attrs.evolve(record, idle_since=decision.idle_since)))
    if decision.verdict not in {Verdict.CLOSE, Verdict.MARK_ENDED}:
        return decided
    if decision.session_id is not None:
        try:
            with suppress(NotFound):
                await client.close(decision.session_id)
        except Exception as error:  # noqa: BLE001 - as above
            return attrs.evolve(decided, error=error.with_traceback(None))
        decided = attrs.evolve(decided, done=True)
    return await _ended(ledger, wall, decided)


async def _ended(ledger: Ledger, wall: Callable[[], float], decided: Reaped) -> Reaped:
    record = decided.entry.record.becomes(
        RecordState.ENDED, now=wall(), session_id=decided.decision.session_id
    )
    try:
        # Who can't tell whether the owner lives can't change its record; nothing costs all the same.
        (is_amended,) = await answer_of(ledger.amend([(decided.entry, record)]))
    except LedgerUnavailable as error:
        return attrs.evolve(decided, error=error.with_traceback(None))
    return attrs.evolve(decided, done=decided.done or is_amended)


@define
class _Look:
    """What was seen of the sessions that may be those whose ids aren't known.

    Attributes:
        workloads: The open ones of the instance, or None where they could not be read.
        error: Why not.
        now: When they were read, in seconds since 1970.
        taken: The ids of sessions that are some other record's.
        others: The entries without an id whose sessions are not to be closed in place of another's.
    """

    workloads: Sequence[Workload] | None
    error: Exception | None = None
    now: float = 0.0
    taken: set[str] = attrs.field(factory=set)
    others: Sequence[LedgerEntry] = ()

    def decide(self, entry: LedgerEntry, *, named: bool, close_unique: bool) -> Reaped:
        """Decide about one of them."""
        listed = self.workloads or ()
        seen = None if self.workloads is None else candidates(entry.record, listed, self.taken)
        contested = {
            workload.id
            for other in self.others
            if other.record.key != entry.record.key
            for workload in candidates(other.record, seen or (), self.taken)
        }
        decision = decide_unknown(
            entry,
            seen,
            now=self.now,
            named=named,
            close_unique=close_unique,
            contested=contested,
            of_another_time=candidates(entry.record, listed, self.taken, at_any_time=True),
        )
        if decision.session_id is not None:
            self.taken.add(decision.session_id)
        return Reaped(entry=entry, decision=decision, error=self.error)


async def _look(
    client: AsyncSessionClient, ledger: Ledger, records: Sequence[LedgerRecord], wall: Callable[[], float]
) -> _Look:
    if not records:
        return _Look(())
    # Of any time: a record has its owner's, whose clock may have been wrong.
    listed = client.workloads(status=OPEN_STATUSES)
    try:
        workloads = [workload async for workload in listed]
    except Exception as error:  # noqa: BLE001 - as above
        return _Look(None, error.with_traceback(None))
    now = wall()
    # Read again: whoever created what is listed by now had recorded it before.
    entries = await entries_of(ledger)
    return _Look(
        workloads,
        now=now,
        taken={entry.record.session_id for entry in entries if entry.record.session_id is not None},
        others=[
            entry
            for entry in entries
            if entry.record.session_id is None
            and (entry.record.detached or entry.owner.liveness is not Liveness.DEAD)
        ],
    )
