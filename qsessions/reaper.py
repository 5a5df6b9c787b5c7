"""The sessions that dead processes left open: looks at each record of a ledger, decides by the rules of reaping.py, and does it.

And `forget`, for the records that nobody can decide about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

import attrs
from attrs import define, frozen

from qsessions.api.operations import OPEN_STATUSES
from qsessions.arguments import texts
from qsessions.client import AsyncSessionClient
from qsessions.errors import InvalidArgument, LedgerUnavailable, NotFound
from qsessions.ledger import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Owner,
    RecordState,
    amend_entries,
    checked_labels,
    has_labels,
    place_of,
    read_entries,
)
from qsessions.ledger.verdicts import (
    Decision,
    Verdict,
    candidates,
    decide,
    decide_unknown,
    decide_unread,
    is_young,
    needs_jobs,
)
from qsessions.models import Session, Workload
from qsessions.session.close_all import map_bounded
from qsessions.states import Progress, State, current_states

ANOTHER_INSTANCE = "belongs to another instance than these credentials"


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
    labels: Mapping[str, str] | None = None,
    all_instances: bool = False,
    dry_run: bool = False,
    close_unique: bool = False,
    wall: Callable[[], float] = time.time,
    progress: Progress | None = None,
) -> list[Reaped]:
    """Close what dead owners left open, by the rules of reaping.py, and return what became of each record, oldest first.

    It is about the records of the client's own instance: its credentials go nowhere else. One that fails doesn't stop the others. However
    many there are, the ledger is read once (and once more where ids aren't known), sessions are looked up in pages where that is quicker,
    20 are closed at a time, and what has ended is written at once.

    Args:
        client: Of the instance; it must have been entered.
        ledger: Whose records.
        only: The keys or session ids of the records to look at, which then count as named; empty for all.
        labels: Only records that have all of these.
        all_instances: Whether to return the records of other instances too, which are left as they are.
        dry_run: Whether to decide only.
        close_unique: Whether to close a session whose id isn't known, where a single one can be it.
        wall: Returns the seconds since 1970.
        progress: Called as the work goes on.

    Raises:
        InvalidArgument: `client` or `ledger` is none, or `only` has a name that it doesn't know; nothing was done.
        LedgerUnavailable: The ledger can't be read; nothing was done.
    """
    given: object = client
    if not isinstance(given, AsyncSessionClient):
        raise InvalidArgument(f"client must be an AsyncSessionClient, not {type(given).__name__}.")
    whole, wanted = all_instances or bool(only), checked_labels(labels)
    known = await _read(ledger, None if whole else client)
    entries = [
        entry
        for entry in _chosen(known, only)
        if (whole or is_served(client, entry.record)) and has_labels(entry.record, wanted)
    ]
    reaper = _Reaper(client, ledger, wall, _living(known), progress or _silent, named=bool(only))
    decided = await reaper.decide(entries, close_unique=close_unique)
    return decided if dry_run else await reaper.carry_out(decided)


async def forget(
    ledger: Ledger, only: str | Collection[str], *, wall: Callable[[], float] = time.time
) -> list[Reaped]:
    """Put records of dead owners to ended unseen, and return what became of each. Nothing is sent; their sessions stay as they are.

    It is for those that nobody will ever decide about, as of an instance that is gone.

    Args:
        ledger: Whose records.
        only: Their keys or session ids.
        wall: Returns the seconds since 1970.

    Raises:
        InvalidArgument: `ledger` is none, or `only` has a name that it doesn't know, or none at all; nothing was done.
        LedgerUnavailable: The ledger can't be read; nothing was done.
    """
    if not only:
        raise InvalidArgument("a record to forget must be named.")
    why = "whether its process is alive can't be told from here"
    forgotten = [
        Reaped(
            entry=entry,
            decision=Decision(Verdict.MARK_ENDED, "forgotten; nobody looked at its session"),
        )
        if entry.owner.liveness is Liveness.DEAD
        else Reaped(entry=entry, decision=decide_unread(entry, why, named=True))
        for entry in _chosen(await _read(ledger, None), only)
    ]
    return await _recorded(ledger, wall, forgotten)


def is_served(client: AsyncSessionClient, record: LedgerRecord) -> bool:
    """Return whether a client's credentials are for the instance that a record is about."""
    if record.instance is not None:
        return record.instance == client.instance
    return record.base_url == client.base_url


def _silent(what: str, done: int, total: int) -> None:
    """Show nobody how far the work is."""


async def _read(ledger: object, client: AsyncSessionClient | None) -> Sequence[LedgerEntry]:
    if not isinstance(ledger, Ledger):
        shown = repr(ledger) if isinstance(ledger, str) else type(ledger).__name__
        raise InvalidArgument(f"ledger must be a ledger, such as LocalLedger(), not {shown}.")
    return await read_entries(ledger if client is None else place_of(ledger, client.instance))


def _chosen(entries: Sequence[LedgerEntry], only: str | Collection[str]) -> list[LedgerEntry]:
    names = set(texts("only", only))
    known = {name for entry in entries for name in (entry.record.key, entry.record.session_id)}
    if unknown := sorted(names - known):
        raise InvalidArgument(f"the ledger has no open record of {', '.join(map(repr, unknown))}.")
    return [
        entry
        for entry in entries
        if not names or names & {entry.record.key, entry.record.session_id}
    ]


def _living(known: Sequence[LedgerEntry]) -> dict[str | None, Owner]:
    """Return the owners that live, or else may live, by the ids of their sessions."""
    owners: dict[str | None, Owner] = {}
    for liveness in (Liveness.UNKNOWN, Liveness.ALIVE):
        owners |= {
            entry.record.session_id: entry.owner
            for entry in known
            if entry.owner.liveness is liveness
        }
    return owners


@frozen
class _Reaper:
    """One run of `reap`.

    Attributes:
        owners: The owners that live or may live, by the ids of their sessions.
        named: Whether the caller named the records.
    """

    client: AsyncSessionClient
    ledger: Ledger
    wall: Callable[[], float]
    owners: Mapping[str | None, Owner]
    progress: Progress
    named: bool = attrs.field(kw_only=True)

    async def decide(self, entries: Sequence[LedgerEntry], *, close_unique: bool) -> list[Reaped]:
        """Decide about each record. Nothing is changed."""
        mine = [entry for entry in entries if self._is_to_be_read(entry)]
        without_id = [entry for entry in mine if entry.record.session_id is None]
        look = await _look(
            self.client, self.ledger, [entry.record for entry in without_id], self.wall
        )
        # One after the other, since a session that is one's is not another's.
        unknown = {
            entry.record.key: look.decide(entry, named=self.named, close_unique=close_unique)
            for entry in without_id
        }
        states = await current_states(self.client, [entry.record for entry in mine], self.progress)

        async def one(entry: LedgerEntry) -> Reaped:
            decided = unknown.get(entry.record.key)
            return decided or await self._decided(entry, states.get(entry.record.session_id or ""))

        return await map_bounded(entries, one)

    async def carry_out(self, decided: Sequence[Reaped]) -> list[Reaped]:
        """Close and record what was decided."""
        to_close = sum(one.decision.session_id is not None for one in decided)
        closed = 0

        async def one(reaped: Reaped) -> Reaped:
            nonlocal closed
            if reaped.decision.session_id is None:
                return reaped
            reaped = await self._closed(reaped, reaped.decision.session_id)
            closed += 1
            self.progress("closing", closed, to_close)
            return reaped

        return await _recorded(self.ledger, self.wall, await map_bounded(decided, one))

    def _is_to_be_read(self, entry: LedgerEntry) -> bool:
        return entry.owner.liveness is not Liveness.ALIVE and is_served(self.client, entry.record)

    async def _decided(self, entry: LedgerEntry, state: State | None) -> Reaped:
        if not is_served(self.client, entry.record) and not self.named:
            return Reaped(entry=entry, decision=Decision(Verdict.LEAVE, ANOTHER_INSTANCE))
        if state is None:
            return Reaped(
                entry=entry, decision=decide_unread(entry, ANOTHER_INSTANCE, named=self.named)
            )
        if isinstance(state, NotFound):
            return Reaped(entry=entry, decision=self._decide_missing(entry))
        if isinstance(state, Exception):
            decision = decide_unread(entry, "its state can't be read", named=self.named)
            # What is left as it is anyway needed no look.
            needed = decision.verdict is not Verdict.LEAVE
            return Reaped(entry=entry, decision=decision, error=state if needed else None)
        if state.id != entry.record.session_id:
            # As a cache in between may give it: it says nothing about this one, and may be another process's.
            why = "the answer was about another session"
            return Reaped(entry=entry, decision=decide_unread(entry, why, named=self.named))
        has_jobs = (
            await self._has_jobs(state) if needs_jobs(entry, state, named=self.named) else None
        )
        decision = decide(entry, state, now=self.wall(), named=self.named, has_jobs=has_jobs)
        if decision.verdict is Verdict.CLOSE and state.id in self.owners:
            # Several processes have recorded it.
            other = attrs.evolve(entry, owner=self.owners[state.id])
            decision = decide(other, state, now=self.wall(), named=self.named)
        return Reaped(entry=entry, decision=decision)

    def _decide_missing(self, entry: LedgerEntry) -> Decision:
        if entry.record.instance is None:
            why = "there is no such session here, and its instance isn't recorded"
            return decide_unread(entry, why, named=self.named)
        return decide(entry, None, now=self.wall(), named=self.named)

    async def _has_jobs(self, session: Session) -> bool | None:
        try:
            return await self.client.has_pending_jobs(session.id)
        except Exception:  # noqa: BLE001 - whatever a user's provider raises: it can't be told, and the session is left
            return None

    async def _closed(self, reaped: Reaped, session_id: str) -> Reaped:
        try:
            await self.client.close(session_id)
        except Exception as error:  # noqa: BLE001 - whatever a user's provider raises, the others must be closed
            # One that is gone was ended by somebody, unless the service may not know it yet.
            if not isinstance(error, NotFound) or is_young(reaped.entry.record, now=self.wall()):
                return attrs.evolve(reaped, error=error.with_traceback(None))
        return attrs.evolve(reaped, done=True)


async def _recorded(
    ledger: Ledger, wall: Callable[[], float], decided: Sequence[Reaped]
) -> list[Reaped]:
    """Write what was found and done into the ledger, at once, and return what then became of each record."""
    changes = {
        index: (one.entry, record)
        for index, one in enumerate(decided)
        if one.error is None and (record := _record_after(one, wall())) != one.entry.record
    }
    results = list(decided)
    if not changes:
        return results
    try:
        amended = await amend_entries(ledger, list(changes.values()))
    except LedgerUnavailable as error:
        failure = error.with_traceback(None)
        for index in changes:
            # What was seen of one that is left needn't be kept: the next look is then the first.
            if results[index].decision.verdict is not Verdict.LEAVE:
                results[index] = attrs.evolve(results[index], error=failure)
        return results
    for index, is_amended in zip(changes, amended, strict=True):
        # Who can't tell whether the owner lives can't change its record; nothing costs all the same.
        if is_amended and results[index].decision.verdict is Verdict.MARK_ENDED:
            results[index] = attrs.evolve(results[index], done=True)
    return results


def _record_after(reaped: Reaped, now: float) -> LedgerRecord:
    record, decision = reaped.entry.record, reaped.decision
    if reaped.done or decision.verdict is Verdict.MARK_ENDED:
        return record.becomes(RecordState.ENDED, now=now, session_id=decision.session_id)
    return decision.record or record


@define
class _Look:
    """What was seen of the sessions that may be those whose ids aren't known.

    Attributes:
        workloads: The open ones of the instance, or None where they could not be read.
        error: Why they could not be read.
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
            of_another_time=()
            if seen
            else candidates(entry.record, listed, self.taken, at_any_time=True),
        )
        if decision.session_id is not None:
            self.taken.add(decision.session_id)
        return Reaped(entry=entry, decision=decision, error=self.error)


async def _look(
    client: AsyncSessionClient,
    ledger: Ledger,
    records: Sequence[LedgerRecord],
    wall: Callable[[], float],
) -> _Look:
    if not records:
        return _Look(())
    # Of any time: a record has its owner's, whose clock may have been wrong.
    listed = client.workloads(status=OPEN_STATUSES)
    try:
        workloads = [workload async for workload in listed]
    except Exception as error:  # noqa: BLE001 - whatever a user's provider raises, the others must be looked at
        return _Look(None, error=error.with_traceback(None))
    now = wall()
    # Read again: whoever created what is listed by now had recorded it before.
    entries = await _read(ledger, client)
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
