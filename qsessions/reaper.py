"""Ends what dead processes left open.

`reap` looks at each record of a ledger, decides by the rules of ledger/verdicts.py, and does it.
`forget` is for records about which nothing can be decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
from attrs import frozen

from qsessions.api.operations import OPEN_STATUSES
from qsessions.arguments import texts
from qsessions.client import AsyncSessionClient
from qsessions.clock import SYSTEM_CLOCK, Clock, sleep_by
from qsessions.errors import InvalidArgument, LedgerUnavailable, NotFound, problem_of
from qsessions.jsonable import Jsonable
from qsessions.ledger.lease import LeasedLedger, orphans, take_over
from qsessions.ledger.local import place_of
from qsessions.ledger.records import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    Owner,
    RecordState,
    amend_entries,
    checked_labels,
    has_labels,
    read_entries,
)
from qsessions.ledger.verdicts import (
    ReapDecision,
    Verdict,
    decide,
    decide_unknown,
    is_young,
    needs_jobs,
    whose,
)
from qsessions.models import Workload
from qsessions.session.close_all import map_bounded
from qsessions.session_states import Progress, State, current_states
from qsessions.values import Value

# In a shared ledger each so many are looked up once more before they are closed.
_CLOSED_AT_ONCE = 100
ANOTHER_INSTANCE = "belongs to another instance than these credentials"


@frozen(kw_only=True, eq=False, repr=False)
class Reaped(Jsonable, Value):
    """What `reap` or `forget` did about one record.

    Attributes:
        entry: The record and its owner.
        decision: What to do about it, and why.
        done: Whether its session was closed, or its record set to ended.
        error: What went wrong in reading, closing or recording it, or None.
    """

    entry: LedgerEntry
    decision: ReapDecision
    done: bool = False
    error: Exception | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qsessions reap --json` prints it; `error` is text."""
        record, decision = self.entry.record, self.decision
        return {
            "record": record.session_id or record.key,
            "session_id": record.session_id or decision.session_id,
            "verdict": decision.verdict.value,
            "why": decision.why,
            "done": self.done,
            "error": self.error and problem_of(self.error),
            "candidates": [workload.id for workload in decision.candidates],
        }


async def reap(
    client: AsyncSessionClient,
    ledger: Ledger,
    *,
    only: str | Collection[str] = (),
    labels: Mapping[str, str] | None = None,
    all_instances: bool = False,
    dry_run: bool = False,
    close_unique: bool = False,
    unknown: bool | None = None,
    wall: Callable[[], float] | None = None,
    progress: Progress | None = None,
) -> list[Reaped]:
    """Close what dead owners left open, and return what was done about each record, oldest first.

    The rules are in ledger/verdicts.py. Only records of the client's own instance are acted on: its
    credentials are sent nowhere else. A failure doesn't stop the others. However many records there
    are, the ledger is read once (twice if ids are unknown), sessions are read in pages where that
    is quicker, 20 are closed at a time, and all changes to the ledger are written at once.

    Args:
        client: A client of the instance, already entered.
        ledger: The ledger with the records.
        only: The keys or session ids of the records to look at, which then count as named. Empty
            for all.
        labels: Only records that have all of these labels.
        all_instances: Whether to return records of other instances too. They are left as they are.
        dry_run: Whether to decide only.
        close_unique: Whether to close a session of unknown id if exactly one session matches.
        unknown: Whether to look only at records of unknown session ids, or only at the others; None
            for all. The former take a list of all open sessions, which may last minutes.
        wall: Returns the seconds since 1970; by default by the client's clock.
        progress: Called with the step, the number done and the total.

    Raises:
        InvalidArgument: `client` or `ledger` is of a wrong type, or `only` has an unknown name.
            Nothing was done.
        LedgerUnavailable: The ledger can't be read. Nothing was done.
        QSessionsError: The client's instance can't be looked up. Nothing was done.
    """
    if not isinstance(client, AsyncSessionClient):
        raise InvalidArgument(f"client must be an AsyncSessionClient, not {type(client).__name__}.")
    whole, wanted = all_instances or bool(only), checked_labels(labels)
    place = _checked(ledger)
    await client.resolve_instance()
    known = await _known(place, client, whole=whole, dry_run=dry_run)
    entries = [
        entry
        for entry in _chosen(known, only)
        if (whole or is_served(client, entry.record))
        and has_labels(entry.record, wanted)
        and unknown in {None, entry.record.session_id is None}
    ]
    may_live = [entry for entry in known if entry.owner.liveness is not Liveness.DEAD]
    may_live.sort(key=lambda entry: entry.owner.liveness is Liveness.ALIVE)
    reaper = _Reaper(
        client,
        ledger,
        client.clock.wall if wall is None else wall,
        {entry.record.session_id: entry.owner for entry in may_live},
        progress or (lambda *_: None),
        named=bool(only),
        close_unique=close_unique,
    )
    if dry_run:
        return await reaper.decide(entries)
    async with _looking(ledger, client.clock):
        return await reaper.carry_out(await reaper.decide(entries))


async def forget(
    ledger: Ledger, only: str | Collection[str], *, wall: Callable[[], float] = SYSTEM_CLOCK.wall
) -> list[Reaped]:
    """Set records of dead owners to ended without a look at their sessions.

    Nothing is sent, and the sessions stay as they are. It is for records that `reap` can never
    decide, for example of a deleted instance.

    Args:
        ledger: The ledger with the records.
        only: Their keys or session ids.
        wall: Returns the seconds since 1970.

    Returns:
        What was done about each record.

    Raises:
        InvalidArgument: `ledger` is of a wrong type, or `only` is empty or has an unknown name.
            Nothing was done.
        LedgerUnavailable: The ledger can't be read. Nothing was done.
    """
    if not only:
        raise InvalidArgument("a record to forget must be named.")
    end = ReapDecision(Verdict.MARK_ENDED, "forgotten without a look at its session")
    decided = [
        Reaped(
            entry=entry,
            decision=end
            if entry.owner.liveness is Liveness.DEAD
            else decide(
                entry,
                None,
                now=wall(),
                unread="whether its process is alive is unknown from here",
                named=True,
            ),
        )
        for entry in _chosen(await read_entries(_checked(ledger)), only)
    ]
    return await _recorded(ledger, SYSTEM_CLOCK, wall, decided)


def is_served(client: AsyncSessionClient, record: LedgerRecord) -> bool:
    """Return whether a client's credentials are for the instance that a record is about."""
    is_of_url = record.base_url == client.base_url
    return is_of_url if record.instance is None else record.instance == client.instance


async def _known(
    ledger: Ledger, client: AsyncSessionClient, *, whole: bool, dry_run: bool
) -> Sequence[LedgerEntry]:
    """Return the records that matter, once what is due of a shared ledger was taken over."""
    if isinstance(ledger, LeasedLedger) and not dry_run:
        await take_over(ledger, client.clock)
        if not whole:
            return await orphans(ledger, client.clock)
    return await read_entries(ledger if whole else place_of(ledger, client.instance), client.clock)


@asynccontextmanager
async def _looking(ledger: Ledger, clock: Clock) -> AsyncIterator[None]:
    """Look at a shared ledger's leases meanwhile: after a long pause, all that was seen is void."""

    async def look(leased: LeasedLedger) -> None:
        while True:
            await sleep_by(clock.call_later, leased.terms.heartbeat)
            with suppress(LedgerUnavailable):
                await take_over(leased, clock)

    if not isinstance(ledger, LeasedLedger):
        yield
        return
    looking = asyncio.ensure_future(look(ledger))
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait({looking})


def _checked(ledger: object) -> Ledger:
    if not isinstance(ledger, Ledger):
        shown = repr(ledger) if isinstance(ledger, str) else type(ledger).__name__
        raise InvalidArgument(f"ledger must be a ledger, such as LocalLedger(), not {shown}.")
    return ledger


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


@frozen
class _Reaper:
    """One run of `reap`.

    Attributes:
        owners: The owners that live or may live, by session id.
        named: Whether the caller named the records.
        close_unique: Whether to close a session of unknown id if exactly one session matches.
    """

    client: AsyncSessionClient
    ledger: Ledger
    wall: Callable[[], float]
    owners: Mapping[str | None, Owner]
    progress: Progress
    named: bool = attrs.field(kw_only=True)
    close_unique: bool = attrs.field(kw_only=True)

    async def decide(self, entries: Sequence[LedgerEntry]) -> list[Reaped]:
        """Decide about each record. Nothing is changed."""
        to_read = [
            entry
            for entry in entries
            if entry.owner.liveness is not Liveness.ALIVE and is_served(self.client, entry.record)
        ]
        unknown = await self._decide_unknown(
            [entry for entry in to_read if entry.record.session_id is None]
        )
        states = await current_states(
            self.client, [entry.record for entry in to_read], self.progress
        )

        async def work(entry: LedgerEntry) -> Reaped:
            decided = unknown.get(entry.record.key)
            return decided or await self._decide(entry, states.get(entry.record.session_id or ""))

        return await map_bounded(entries, work)

    async def carry_out(self, decided: Sequence[Reaped]) -> list[Reaped]:
        """Close and record what was decided."""
        to_close = sum(reaped.decision.session_id is not None for reaped in decided)
        closed = 0

        async def work(reaped: Reaped) -> Reaped:
            nonlocal closed
            if reaped.decision.session_id is None:
                return reaped
            error = None
            try:
                await self.client.close(reaped.decision.session_id)
            except Exception as failure:  # noqa: BLE001 - the others go on whatever it is
                # A session that is gone has ended, unless the service may not know it yet.
                if not isinstance(failure, NotFound) or is_young(
                    reaped.entry.record, now=self.wall()
                ):
                    error = failure.with_traceback(None)
            closed += 1
            self.progress("closing", closed, to_close)
            return attrs.evolve(reaped, done=error is None, error=error)

        results: list[Reaped] = []
        for first in range(0, len(decided), _CLOSED_AT_ONCE):
            due = await self._still_due(decided[first : first + _CLOSED_AT_ONCE])
            results += await map_bounded(due, work)
        return await _recorded(self.ledger, self.client.clock, self.wall, results)

    async def _still_due(self, decided: Sequence[Reaped]) -> Sequence[Reaped]:
        """Return decisions as they are now: another process may have taken a session over."""
        if not isinstance(self.ledger, LeasedLedger) or not any(
            item.decision.session_id for item in decided
        ):
            return decided
        try:
            entries = await orphans(self.ledger, self.client.clock)
        except LedgerUnavailable as error:
            failure = error.with_traceback(None)
            unread = ReapDecision(Verdict.UNDECIDED, "the ledger could not be read again")
            return [
                attrs.evolve(item, decision=unread, error=failure)
                if item.decision.session_id
                else item
                for item in decided
            ]
        owned = {
            entry.record.session_id: entry
            for entry in entries
            if entry.owner.liveness is not Liveness.DEAD
        }
        return [
            attrs.evolve(item, decision=ReapDecision(Verdict.LEAVE, whose(owned[session_id])))
            if (session_id := item.decision.session_id) in owned
            else item
            for item in decided
        ]

    async def _decide(self, entry: LedgerEntry, state: State | None) -> Reaped:
        """Decide by the state that a session has now; None if it was not read."""
        if not self.named and not is_served(self.client, entry.record):
            return Reaped(entry=entry, decision=ReapDecision(Verdict.LEAVE, ANOTHER_INSTANCE))
        unread, error, session, has_jobs = None, None, None, None
        if state is None:
            unread = ANOTHER_INSTANCE
        elif isinstance(state, NotFound):
            if entry.record.instance is None:
                unread = "there is no such session here, and its instance isn't recorded"
        elif isinstance(state, Exception):
            unread, error = "its state can't be read", state
        elif state.id != entry.record.session_id:
            # A cache in between may do that. That session may be another process's.
            unread = "the answer was about another session"
        else:
            session = state
            if needs_jobs(entry, session, named=self.named):
                # If a user's provider fails here, the session is left.
                with suppress(Exception):
                    has_jobs = await self.client.has_pending_jobs(session.id)
        decision = decide(
            entry, session, now=self.wall(), unread=unread, named=self.named, has_jobs=has_jobs
        )
        if decision.verdict is Verdict.CLOSE and decision.session_id in self.owners:
            # Another process has recorded it, too.
            other = attrs.evolve(entry, owner=self.owners[decision.session_id])
            decision = decide(other, session, now=self.wall(), named=self.named)
        return Reaped(
            entry=entry,
            decision=decision,
            # If the session is left anyway, reading it was unnecessary.
            error=None if decision.verdict is Verdict.LEAVE else error,
        )

    async def _decide_unknown(self, entries: Sequence[LedgerEntry]) -> dict[str, Reaped]:
        """Decide about records without an id, and return the results by key."""
        if not entries:
            return {}
        listed: list[Workload] | None = None
        recorded: Sequence[LedgerEntry] = ()
        error = None
        try:
            # Of any creation time: the clock of a record's owner may have been wrong.
            listed = [each async for each in self.client.workloads(status=OPEN_STATUSES)]
        except Exception as failure:  # noqa: BLE001 - the others go on whatever it is
            error = failure.with_traceback(None)
        now = self.wall()
        if listed is not None:
            # Read the ledger again: what is listed by now was recorded before it was created.
            recorded = await read_entries(
                place_of(self.ledger, self.client.instance), self.client.clock
            )
        known = {entry.record.session_id for entry in recorded} - {None}
        others = [
            entry.record
            for entry in recorded
            if entry.record.session_id is None
            and (entry.record.detached or entry.owner.liveness is not Liveness.DEAD)
        ]
        decided: dict[str, Reaped] = {}
        # One after the other: a session that is closed for one record can't be another's.
        for entry in entries:
            decision = decide_unknown(
                entry,
                listed,
                now=now,
                named=self.named,
                close_unique=self.close_unique,
                known=known,
                others=others,
            )
            known.add(decision.session_id)
            decided[entry.record.key] = Reaped(entry=entry, decision=decision, error=error)
        return decided


async def _recorded(
    ledger: Ledger, clock: Clock, wall: Callable[[], float], decided: Sequence[Reaped]
) -> list[Reaped]:
    """Write the changes into the ledger at once, and return the results with what failed."""
    changes = {
        index: (reaped.entry, record)
        for index, reaped in enumerate(decided)
        if reaped.error is None and (record := _record_after(reaped, wall())) != reaped.entry.record
    }
    results, failure, amended = list(decided), None, [False] * len(changes)
    try:
        if changes:
            amended = list(await amend_entries(ledger, list(changes.values()), clock))
    except LedgerUnavailable as error:
        failure = error.with_traceback(None)
    for index, is_amended in zip(changes, amended, strict=True):
        verdict = results[index].decision.verdict
        # A change to a session that is left may get lost: the next run starts over.
        if failure is not None and verdict is not Verdict.LEAVE:
            results[index] = attrs.evolve(results[index], error=failure)
        # The ledger refuses it if the owner may live. The session costs nothing all the same.
        elif is_amended and verdict is Verdict.MARK_ENDED:
            results[index] = attrs.evolve(results[index], done=True)
    return results


def _record_after(reaped: Reaped, now: float) -> LedgerRecord:
    record, decision = reaped.entry.record, reaped.decision
    if reaped.done or decision.verdict is Verdict.MARK_ENDED:
        return record.becomes(RecordState.ENDED, now=now, session_id=decision.session_id)
    return decision.record or record
