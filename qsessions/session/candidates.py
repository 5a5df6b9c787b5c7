"""The sessions that may have come of a create whose outcome is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from qsessions.api.codec import WorkloadPage
from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, workloads_query
from qsessions.api.outcome import CreateOutcomeUnknown
from qsessions.clock import Clock, Deadline
from qsessions.models import CreateSession, Workload
from qsessions.session.calls import SessionCalls

# How many seconds the search may take: the caller has an error to handle.
_SEARCH_S = 10.0
# A workload's time is another machine's than the answer's; both may be cut to whole seconds.
_APART = timedelta(seconds=2)


class Moment:
    """When a create was asked for.

    Attributes:
        time: The service's time, or this machine's until the service has sent its own.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._at = clock.monotonic()
        self.time = datetime.fromtimestamp(clock.wall(), UTC)

    def correct(self, now: float) -> None:
        """Take over the service's time, `now` in seconds since 1970.

        Counted back on the monotonic clock, so that a wrong local time does no harm.
        """
        age = timedelta(seconds=self._monotonic() - self._at)
        self.time = datetime.fromtimestamp(now, UTC) - age


async def add_candidates(
    error: CreateOutcomeUnknown,
    request: CreateSession,
    asked: Moment,
    *,
    calls: SessionCalls,
    api_version: str | None,
    deadline: Deadline,
) -> None:
    """Add to an error what was asked for and when, and the sessions that may have come of it.

    It takes 10 s at most. A failure of the search changes nothing.

    Args:
        error: The error.
        request: What was asked for.
        asked: When.
        calls: Makes the calls, and remembers which sessions came of other creates.
        api_version: The API version for them.
        deadline: The create's deadline.
    """
    error.request, error.asked_at = request, asked.time
    remaining = deadline.remaining()
    if error.session_id is not None or (remaining is not None and remaining <= 0):
        return
    query = workloads_query(mode=LISTED_AS[request.mode], newest_first=True)
    listed = calls.caller.pages(query, api_version, deadline.within(_SEARCH_S))
    try:
        async with aclosing(listed) as pages:
            workloads = await _created_since(asked, pages)
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the outcome is what matters
        return
    others = set(calls.remembered)
    error.narrow(
        asked.time,
        tuple(
            workload
            for workload in workloads
            if request.backend is None or workload.backend in {None, request.backend}
            if workload.status not in ENDED_STATUSES and workload.id not in others
        ),
    )


async def _created_since(asked: Moment, pages: AsyncIterator[WorkloadPage]) -> list[Workload]:
    """Return the workloads that were created since a moment, from pages with the newest first."""
    workloads: list[Workload] = []
    is_first = True
    async for page in pages:
        if is_first and page.served_at is not None:
            asked.correct(page.served_at)
        is_first = False
        for workload in page.workloads:
            if workload.created is None or workload.created < asked.time - _APART:
                return workloads
            workloads.append(workload)
    return workloads
