"""The sessions that may have come of a create whose outcome is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Set as AbstractSet
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from qsessions.api.codec import WorkloadPage
from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, workloads_query
from qsessions.clock import Deadline
from qsessions.errors import CreateOutcomeUnknown, LedgerUnavailable
from qsessions.models import CreateSession, Workload
from qsessions.session.calls import SessionCalls

# How many seconds the search may take: the caller has an error to handle.
_SEARCH_S = 10.0
# How far this machine's clock may be ahead of the service's, where no Date tells how far it is.
_APART = timedelta(seconds=2)


async def add_candidates(
    error: CreateOutcomeUnknown,
    request: CreateSession,
    *,
    began: float,
    calls: SessionCalls,
    api_version: str | None,
    deadline: Deadline,
) -> None:
    """Add to an error what was asked for and when, and the sessions that may have come of it.

    It takes 10 s at most. A failure of the search changes nothing.

    Args:
        error: The error.
        request: What was asked for.
        began: When, on the monotonic clock.
        calls: Makes the calls, and remembers which sessions came of other creates.
        api_version: The API version for them.
        deadline: The create's deadline.
    """

    def asked_at(now: float) -> datetime:
        """Return when it was asked for, by a clock that shows `now` seconds since 1970."""
        return datetime.fromtimestamp(now - (calls.clock.monotonic() - began), UTC)

    error.request, error.asked_at = request, asked_at(calls.clock.wall())
    remaining = deadline.remaining()
    if error.session_id is not None or (remaining is not None and remaining <= 0):
        return
    query = workloads_query(mode=LISTED_AS[request.mode], newest_first=True)
    deadline = deadline.within(_SEARCH_S)
    listed = calls.caller.pages(query, api_version, deadline)
    try:
        async with aclosing(listed) as pages:
            since, workloads = await _created_since(error.asked_at, asked_at, pages)
        others = await _recorded(calls, deadline) if workloads else frozenset()
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the outcome is what matters
        return
    error.set_candidates(
        since,
        tuple(
            workload
            for workload in workloads
            if request.backend is None or workload.backend in {None, request.backend}
            if workload.status not in ENDED_STATUSES
            and workload.id not in calls.created_at
            and workload.id not in others
        ),
    )


async def _recorded(calls: SessionCalls, deadline: Deadline) -> AbstractSet[str | None]:
    """Return the sessions that came of other creates, by the ledger, as far as it can be read."""
    try:
        with deadline.timeout():
            entries = await calls.recorder.entries(calls.caller.instance)
    except (LedgerUnavailable, TimeoutError):
        return frozenset()
    # The record of this create has no id yet.
    return {entry.record.session_id for entry in entries}


async def _created_since(
    since: datetime, asked_at: Callable[[float], datetime], pages: AsyncIterator[WorkloadPage]
) -> tuple[datetime, list[Workload]]:
    """Return when a create was asked for, and the workloads since, from pages with the newest
    first.

    Args:
        since: When it was, by this machine's clock.
        asked_at: Returns when it was, by the service's clock as it is now.
        pages: The pages.
    """
    workloads: list[Workload] = []
    earliest = since - _APART
    async for page in pages:
        if page.served_at is not None and not workloads:
            # From the first page, so that a wrong local time does no harm. A Date is the beginning
            # of its second, and it takes time to come, so this is never too late.
            since = earliest = asked_at(page.served_at)
        for workload in page.workloads:
            if workload.created is None or workload.created < _cut(earliest, workload.created):
                return since, workloads
            workloads.append(workload)
    return since, workloads


def _cut(time: datetime, like: datetime) -> datetime:
    """Return a time cut to whole seconds or milliseconds, as another one was."""
    if like.microsecond == 0:
        return time.replace(microsecond=0)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)
