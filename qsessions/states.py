"""The present states of many sessions: through the list of workloads in pages where they are many, the rest one by one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeAlias

from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, MAX_PAGE, OPEN_STATUSES
from qsessions.client import AsyncSessionClient
from qsessions.ledger import LedgerRecord
from qsessions.models import Session, SessionState, Workload
from qsessions.session.close_all import map_bounded

# A session as it is, or why it can't be read; NotFound where the service knows no such session.
State: TypeAlias = Session | Exception
# Called with what is being done, how many are done and how many there are.
Progress: TypeAlias = Callable[[str, int, int], None]

# So few are read one by one.
_FEW = 20
# The list may be full of other people's sessions: it is given up after so many pages in a row without one of these, or a tenth of the
# requests that reading them one by one takes, if that is more.
_VAIN_PAGES = 20
_VAIN_SHARE = 10
# How far the clock of whoever recorded them and the service's may be apart.
_MARGIN_S = 120.0
# The last second that a time can tell.
_LATEST = 253_402_300_799.0


async def current_states(
    client: AsyncSessionClient, records: Sequence[LedgerRecord], progress: Progress
) -> Mapping[str, State]:
    """Return the states of sessions by their ids.

    A state from the list says only whether the session is closed, drains or takes jobs.

    Args:
        client: Of the instance.
        records: Of the sessions; those without an id are passed over.
        progress: Called as they are found.
    """
    wanted = {record.session_id: record for record in records if record.session_id is not None}
    states: dict[str, State] = {}
    if len(wanted) > _FEW:
        for mode, listed_as in LISTED_AS.items():
            of_mode = {
                session_id: record for session_id, record in wanted.items() if record.mode == mode
            }
            # What can't be listed is read one by one, and each then has an error of its own.
            with suppress(Exception):
                async for session in _listed(client, listed_as, of_mode):
                    states[session.id] = session
                    progress("reading", len(states), len(wanted))

    async def read(session_id: str) -> None:
        states[session_id] = await _read(client, session_id)
        progress("reading", len(states), len(wanted))

    await map_bounded([session_id for session_id in wanted if session_id not in states], read)
    return states


def _utc(seconds: float) -> datetime:
    """Return seconds since 1970 as a time; one that a clock far off gave is the nearest that there is."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST), UTC)


async def _listed(
    client: AsyncSessionClient, mode: str, wanted: Mapping[str, LedgerRecord]
) -> AsyncGenerator[Session, None]:
    """List what the workloads of a mode say of sessions, until all are found or too many pages in a row had none of them."""
    left = set(wanted)
    in_vain = 0
    if left:
        since = _utc(min(record.asked_at for record in wanted.values()) - _MARGIN_S)
        async for workload in client.workloads(mode=mode, created_after=since):
            in_vain = 0 if workload.id in left else in_vain + 1
            left.discard(workload.id)
            if workload.id in wanted and (session := _state_of(workload)) is not None:
                yield session
            if not left or in_vain >= MAX_PAGE * max(_VAIN_PAGES, len(left) // _VAIN_SHARE):
                return


def _state_of(workload: Workload) -> Session | None:
    """Return what the list says positively of a session, or None where it has to be read."""
    if workload.status in ENDED_STATUSES:
        return Session(id=workload.id, state=SessionState.CLOSED)
    if workload.status in OPEN_STATUSES and workload.accepting_jobs:
        # In progress it is active or inactive, which the list doesn't tell apart.
        state = SessionState.OPEN if workload.status == "pending" else None
        return Session(id=workload.id, state=state, accepting_jobs=True)
    return None


async def _read(client: AsyncSessionClient, session_id: str) -> State:
    try:
        return await client.get(session_id)
    except Exception as error:  # noqa: BLE001 - whatever a user's provider raises, the others must be looked at
        return error.with_traceback(None)
