"""The current states of sessions: by the list of workloads if they are many, else one by one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeAlias

from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, MAX_PAGE, OPEN_STATUSES
from qsessions.client import AsyncSessionClient
from qsessions.clock import CLOCK_SKEW_S
from qsessions.ledger.records import LedgerRecord
from qsessions.models import Session, SessionState, Workload, WorkloadMode
from qsessions.session.close_all import map_bounded

# A session as it is, or why it can't be read. NotFound: the service has no such session.
State: TypeAlias = Session | Exception
# Called with the step, the number done and the total.
Progress: TypeAlias = Callable[[str, int, int], None]

# Up to this many are read one by one.
_FEW = 20
# The list may be full of other people's sessions. Its pages come one after the other, each in the
# time of this many reads, which are made at once. Give up when so many pages have cost more time
# than they saved.
_READS_A_PAGE = 20
_VAIN_PAGES = 10
# The last second of the year 9999, the latest time that `datetime` has.
_LATEST = 253_402_300_799.0


async def current_states(
    client: AsyncSessionClient, records: Sequence[LedgerRecord], progress: Progress
) -> Mapping[str, State]:
    """Return the states of sessions by id.

    A state from the list says only whether the session is closed, drains or accepts jobs.

    Args:
        client: A client of the instance.
        records: The sessions' records. Those without an id are skipped.
        progress: Called as the sessions are read.
    """
    wanted = {record.session_id: record for record in records if record.session_id is not None}
    states: dict[str, State] = {}
    for mode, listed_as in LISTED_AS.items() if len(wanted) > _FEW else ():
        of_mode = {key: record for key, record in wanted.items() if record.mode == mode}
        # What can't be listed is read one by one, where each session has its own error.
        with suppress(Exception):
            async for session in _listed(client, listed_as, of_mode):
                states[session.id] = session
                progress("reading", len(states), len(wanted))

    async def read(session_id: str) -> None:
        try:
            states[session_id] = await client.get(session_id)
        except Exception as error:  # noqa: BLE001 - a user's provider may raise anything
            states[session_id] = error.with_traceback(None)
        progress("reading", len(states), len(wanted))

    await map_bounded([session_id for session_id in wanted if session_id not in states], read)
    return states


async def _listed(
    client: AsyncSessionClient, mode: WorkloadMode, wanted: Mapping[str, LedgerRecord]
) -> AsyncGenerator[Session, None]:
    """Yield sessions by the list of a mode's workloads, until all are found or it seems useless."""
    left = set(wanted)
    in_vain = 0.0
    if left:
        # A wrong clock may have given a time that `datetime` doesn't have.
        since = min(record.asked_at for record in wanted.values()) - CLOCK_SKEW_S
        created_after = datetime.fromtimestamp(min(max(since, 0.0), _LATEST), UTC)
        async for workload in client.workloads(mode=mode, created_after=created_after):
            saved = MAX_PAGE / _READS_A_PAGE if workload.id in left else 0.0
            in_vain = max(0.0, in_vain + 1 - saved)
            left.discard(workload.id)
            if workload.id in wanted and (session := _state_of(workload)) is not None:
                yield session
            if not left or in_vain >= MAX_PAGE * _VAIN_PAGES:
                return


def _state_of(workload: Workload) -> Session | None:
    """Return a session if the list says enough about it, or None if it has to be read."""
    if workload.status in ENDED_STATUSES:
        return Session(id=workload.id, state=SessionState.CLOSED)
    if workload.status in OPEN_STATUSES and workload.accepting_jobs:
        # In progress means active or inactive: the list doesn't say which.
        return Session(
            id=workload.id,
            state=SessionState.OPEN if workload.status == "pending" else None,
            accepting_jobs=True,
        )
    return None
