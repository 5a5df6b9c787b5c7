"""The end of all open sessions of an instance: which they are, whose they are, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

import attrs
from attrs import frozen

from qsessions.api import operations
from qsessions.api.operations import YOUNG_S
from qsessions.errors import InvalidArgument, NotFound
from qsessions.ledger import LedgerEntry, Liveness, Owner, has_labels
from qsessions.ledger.verdicts import candidates
from qsessions.models import Workload

T = TypeVar("T")
R = TypeVar("R")

How: TypeAlias = Literal["drain", "close"]
_WAYS = ("drain", "close")
Entries: TypeAlias = Callable[[], Awaitable[Sequence[LedgerEntry]]]

# What the list of workloads calls a session that costs or may cost, and the modes that sessions have there.
OPEN_STATUSES = ("pending", "in_progress")
_SESSION_MODES = ("session", "batch")

# So many sessions at a time: quick for hundreds of them, and nothing that a service would call a flood.
_AT_ONCE = 20


@frozen(kw_only=True)
class Ending:
    """What `close_all` did about one session that was open.

    Attributes:
        workload: The session as the instance's list showed it; `workload.id` is its id.
        done: "close" or "drain" where that was done, None where the session was left as it was.
        owner: The process that it was left to, since that lives or may live, else None.
        error: Why it could not be ended, else None.
    """

    workload: Workload
    done: How | None = None
    owner: Owner | None = None
    error: Exception | None = None


def checked_way(name: str, how: object) -> None:
    """Check how to end a session.

    Raises:
        InvalidArgument: It is neither "drain" nor "close".
    """
    if how not in _WAYS:
        raise InvalidArgument(f'{name} must be "drain" or "close", not {how!r}.')


def session_modes(mode: str | Iterable[str]) -> tuple[str, ...]:
    """Give the modes to look for, in the words of the list of workloads.

    Raises:
        InvalidArgument: There is none, or one that isn't a session's.
    """
    modes = operations.words("mode", mode)
    if not modes or not set(modes) <= set(_SESSION_MODES):
        raise InvalidArgument(f'mode must be "session", "batch" or both, not {mode!r}.')
    return modes


async def find(
    workloads: AsyncIterator[Workload],
    entries: Entries,
    *,
    labels: Mapping[str, str],
    include_owned: bool,
) -> list[Ending]:
    """Return the sessions to end, and those to leave to their owners, in the order of the list. Nothing is ended yet.

    Args:
        workloads: The open ones.
        entries: Reads the ledger; not called where neither owners nor labels matter.
        labels: Only sessions that the ledger has with all of these.
        include_owned: Whether to leave none to its owner.

    Raises:
        QSessionsError: The list or the ledger can't be read.
    """
    listed = [workload async for workload in workloads]
    # The ledger comes second: what is listed by now was recorded before it was created.
    recorded = await entries() if labels or not include_owned else ()
    owners = {} if include_owned else _owners(recorded, listed)
    if labels:
        named = {entry.record.session_id for entry in recorded if has_labels(entry.record, labels)}
        listed = [workload for workload in listed if workload.id in named]
    return [Ending(workload=workload, owner=owners.get(workload.id)) for workload in listed]


async def end(
    found: Iterable[Ending],
    how: How,
    call: Callable[[str], Awaitable[None]],
    wall: Callable[[], float],
) -> list[Ending]:
    """End sessions, some at a time, and give what became of each. It raises nothing: one that fails doesn't stop the others.

    Args:
        found: What `find` gave.
        how: What `call` does.
        wall: Returns the seconds since 1970.
        call: Ends the session of an id.
    """

    async def one(session: Ending) -> Ending:
        if session.owner is not None:
            return session
        try:
            await call(session.workload.id)
        except Exception as error:  # noqa: BLE001 - whatever a user's provider raises, the others must be ended
            # One that is gone was ended by somebody, unless the service may not know it yet.
            if not isinstance(error, NotFound) or _is_young(session.workload, wall()):
                return attrs.evolve(session, error=error.with_traceback(None))
        return attrs.evolve(session, done=how)

    return await each(found, one)


def _is_young(workload: Workload, now: float) -> bool:
    return workload.created is not None and now - workload.created.timestamp() < YOUNG_S


async def each(items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Give what `work`, which doesn't raise, makes of each item, in their order, some at a time."""
    results: dict[int, R] = {}
    waiting = enumerate(items)

    async def work_on() -> None:
        for number, item in waiting:
            results[number] = await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work_on())
    return [results[number] for number in sorted(results)]


def _owners(entries: Sequence[LedgerEntry], listed: Sequence[Workload]) -> dict[str, Owner]:
    """Give the owners that live or may live, by the ids of their sessions, and of those that may be theirs."""
    kept = [entry for entry in entries if _is_kept(entry)]
    known = {entry.record.session_id for entry in entries if entry.record.session_id is not None}
    owners: dict[str, Owner] = {}
    for entry in kept:
        if entry.record.session_id is not None:
            owners[entry.record.session_id] = entry.owner
        else:
            # One that is just being created, for example.
            owners |= {
                workload.id: entry.owner for workload in candidates(entry.record, listed, known)
            }
    return owners


def _is_kept(entry: LedgerEntry) -> bool:
    alive = entry.owner.liveness is Liveness.ALIVE
    return alive or (entry.owner.liveness is Liveness.UNKNOWN and not entry.record.detached)
