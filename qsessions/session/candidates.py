"""The look for what came of a create whose outcome is unknown: which sessions appeared since it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeAlias

from qsessions.api.codec import WorkloadPage
from qsessions.api.operations import (
    ENDED_STATUSES,
    LISTED_AS,
    Operation,
    dated_workloads,
    workloads_query,
)
from qsessions.api.outcome import CreateOutcomeUnknown
from qsessions.api.pages import pages
from qsessions.clock import Clock
from qsessions.errors import CallTimeout
from qsessions.events import CreateCancelled, Observers
from qsessions.models import CreateSession, Workload

# A page, and the service's time in seconds since 1970 where it told it.
DatedPage: TypeAlias = tuple[WorkloadPage, float | None]
Call: TypeAlias = Callable[[Operation[DatedPage], float], Awaitable[DatedPage]]

# Who has an error to handle doesn't want to wait long for more about it.
LOOKUP_TIMEOUT = 10.0
# The time of a workload is another machine's than that of the answer, and both may be cut to whole seconds.
_APART = timedelta(seconds=2)


class Lookup:
    """Finds the sessions that may have come of one create.

    Args:
        request: What was asked for.
        clock: The time; the create begins now.
        call: Fetches a page within so many seconds.
        observers: Told when somebody is cancelled who would have got the error.
        others: The ids of sessions that are known to have come of other creates, filled meanwhile.
    """

    def __init__(
        self,
        request: CreateSession,
        clock: Clock,
        call: Call,
        observers: Observers,
        others: Iterable[str] = (),
    ) -> None:
        self._request = request
        self._others = others
        self._clock = clock
        self._call = call
        self._observers = observers
        self._started = clock.monotonic()
        # By this machine's clock, until the service has told its own.
        self._asked_at = datetime.fromtimestamp(clock.wall(), UTC)

    async def tell(self, error: CreateOutcomeUnknown, seconds: float | None) -> None:
        """Tell in the error what was asked for and when, and what may have come of it. It stays the same error, whatever fails here.

        Args:
            error: The error.
            seconds: How long the create may take as a whole, this included, or None.
        """
        error.request, error.asked_at = self._request, self._asked_at
        left = LOOKUP_TIMEOUT if seconds is None else seconds - self._age()
        if error.session_id is not None or left <= 0:
            return
        try:
            found = await self._candidates(self._age() + min(left, LOOKUP_TIMEOUT))
        except Exception:  # noqa: BLE001 - whatever it is, even of a user's own provider, the outcome is what matters
            return
        except asyncio.CancelledError as cancelled:
            told = f"create was cancelled, and its outcome is unknown: {error.message}"
            self._observers.notify(CreateCancelled(session_id=None, closed=False, detail=told))
            cancelled.add_note(told)
            raise
        error.narrow(self._asked_at, found)

    async def _candidates(self, until: float) -> tuple[Workload, ...]:
        """Give what was created since, fits the request, is open and nobody's, newest first, before the create has the age `until`."""
        fetch = partial(self._fetch, until)
        found: list[Workload] = []
        async with aclosing(pages(fetch)) as workloads:
            async for workload in workloads:
                if workload.created is None or workload.created < self._asked_at - _APART:
                    break
                fits = self._request.backend is None or workload.backend in {
                    None,
                    self._request.backend,
                }
                if fits and workload.status not in ENDED_STATUSES:
                    found.append(workload)
        others = set(self._others)
        return tuple(workload for workload in found if workload.id not in others)

    async def _fetch(self, until: float, cursor: str | None) -> WorkloadPage:
        query = workloads_query(mode=LISTED_AS[self._request.mode], newest_first=True)
        left = until - self._age()
        if left <= 0:
            raise CallTimeout(
                "the workloads were not read in time.", operation="workloads", sent=False
            )
        page, now = await self._call(dated_workloads(query, cursor), left)
        if cursor is None and now is not None:
            # Counted back on the monotonic clock, so that a wrong local one does no harm.
            self._asked_at = datetime.fromtimestamp(now, UTC) - timedelta(seconds=self._age())
        return page

    def _age(self) -> float:
        return self._clock.monotonic() - self._started
