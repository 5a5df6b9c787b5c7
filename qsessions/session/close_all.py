"""Ending all open sessions of an instance: which they are, whose they are, what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from attrs import frozen

from qsessions.api.operations import YOUNG_S
from qsessions.arguments import texts
from qsessions.errors import InvalidArgument, NotFound, problem_of
from qsessions.jsonable import Jsonable, jsonable
from qsessions.ledger.records import LedgerEntry, Liveness, Owner, has_labels
from qsessions.ledger.verdicts import candidates
from qsessions.models import SessionKind, Workload
from qsessions.session.calls import How
from qsessions.values import Value

T = TypeVar("T")
R = TypeVar("R")

# Quick for hundreds of sessions, and nothing that a service would call a flood.
_AT_ONCE = 20


@frozen(kw_only=True, eq=False, repr=False)
class Ending(Jsonable, Value):
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

    def to_dict(self) -> dict[str, Any]:
        """Return it as `qsessions close-all --json` prints it; `error` is text."""
        workload, owner = self.workload, self.owner
        return {
            "id": workload.id,
            "done": self.done,
            "mode": workload.mode,
            "backend": workload.backend,
            "created": jsonable(workload.created),
            "owner": owner and owner.liveness.value,
            "owner_host": owner and owner.host,
            "owner_pid": owner and owner.pid,
            "error": self.error and problem_of(self.error),
        }


def session_modes(mode: SessionKind | Iterable[SessionKind]) -> tuple[SessionKind, ...]:
    """Return the modes to look for, in the words of the list of workloads.

    Raises:
        InvalidArgument: There is none, or one that isn't a session's.
    """
    modes: tuple[SessionKind, ...] = texts("mode", mode)
    if not modes or not set(modes) <= {"session", "batch"}:
        raise InvalidArgument(
            f'mode must be "session" (dedicated ones), "batch" or both, not {mode!r}.'
        )
    return modes


async def find(
    workloads: AsyncIterator[Workload],
    read_entries: Callable[[], Awaitable[Sequence[LedgerEntry]]],
    *,
    labels: Mapping[str, str],
    include_owned: bool,
) -> list[Ending]:
    """Return the sessions to end, and those to leave to their owners, in the order of the list.

    Args:
        workloads: The open ones.
        read_entries: Reads the ledger; called only where owners or labels matter.
        labels: Only sessions that the ledger has with all of these.
        include_owned: Whether to leave none to its owner.

    Raises:
        QSessionsError: The list or the ledger can't be read.
    """
    listed = [workload async for workload in workloads]
    entries: Sequence[LedgerEntry] = ()
    if labels or not include_owned:
        # The ledger comes second: what is listed by now was recorded before it was created.
        entries = await read_entries()
    owners = {} if include_owned else _owners(entries, listed)
    if labels:
        labelled = {
            entry.record.session_id for entry in entries if has_labels(entry.record, labels)
        }
        listed = [workload for workload in listed if workload.id in labelled]
    return [Ending(workload=workload, owner=owners.get(workload.id)) for workload in listed]


async def end(
    sessions: Iterable[Ending],
    how: How,
    call: Callable[[str], Awaitable[None]],
    wall: Callable[[], float],
) -> list[Ending]:
    """End sessions, some at a time, and return what became of each.

    Nothing is raised: one that fails doesn't stop the others.

    Args:
        sessions: The sessions that `find` returned.
        how: How `call` ends them.
        call: Ends the session with an id.
        wall: Returns the seconds since 1970.
    """

    async def end_one(session: Ending) -> Ending:
        if session.owner is not None:
            return session
        try:
            await call(session.workload.id)
        except Exception as error:  # noqa: BLE001 - the others go on whatever it is
            # One that is gone has ended, unless the service may not know it yet.
            is_gone = isinstance(error, NotFound)
            if not is_gone or _is_young(session.workload, wall()):
                return attrs.evolve(session, error=error.with_traceback(None))
        return attrs.evolve(session, done=how)

    return await map_bounded(sessions, end_one)


def _is_young(workload: Workload, now: float) -> bool:
    return workload.created is not None and now - workload.created.timestamp() < YOUNG_S


async def map_bounded(items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Run `work`, which must not raise, on 20 items at a time; return the results in order."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def bounded(item: T) -> R:
        async with limit:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(bounded(item)) for item in items]
    return [task.result() for task in tasks]


def _owners(entries: Sequence[LedgerEntry], listed: Sequence[Workload]) -> dict[str, Owner]:
    """Return the owners that live or may live, by the ids of sessions that are or may be theirs."""
    recorded = {entry.record.session_id for entry in entries if entry.record.session_id is not None}
    owners: dict[str, Owner] = {}
    for entry in entries:
        liveness = entry.owner.liveness
        if liveness is Liveness.DEAD or (liveness is Liveness.UNKNOWN and entry.record.detached):
            continue
        if entry.record.session_id is not None:
            owners[entry.record.session_id] = entry.owner
        else:
            # One that is just being created, for example.
            owners |= {
                workload.id: entry.owner for workload in candidates(entry.record, listed, recorded)
            }
    return owners
