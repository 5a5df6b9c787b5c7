"""The sessions that a client drained: which of them are over by now, so that the ledger can let go of their records."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from qsessions.api.codec import WorkloadPage
from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, Query, workloads, workloads_query
from qsessions.api.pages import pages
from qsessions.caller import Caller
from qsessions.clock import Clock
from qsessions.ledger import Book, LedgerRecord

# A look is due when so many drained sessions wait for one, or when the first has waited for so many seconds.
_WAITING = 50
_WAITED_S = 60.0
# How many seconds a look may take.
_LOOK_S = 5.0
# It is given up after so many others in a row.
_IN_VAIN = 1000
# How far this machine's clock and the service's may be apart.
_MARGIN = timedelta(minutes=2)


class DrainedSessions:
    """Looks through the list of workloads for drained sessions that have ended, in place of a GET after each drain.

    Args:
        caller: Makes the calls.
        book: What the client recorded. Without a ledger that is nothing, and no look is ever due.
        clock: The time.
    """

    def __init__(self, caller: Caller, book: Book, clock: Clock) -> None:
        self._caller = caller
        self._book = book
        self._clock = clock
        # How many the last look left, and when it was, else when the first was drained, on the monotonic clock.
        self._left = 0
        self._since: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time for a look; to be asked at each drain."""
        draining = len(self._book.draining)
        if not draining:
            self._since = None
            return False
        now = self._clock.monotonic()
        if self._since is None:
            self._left, self._since = 0, now
        self._left = min(self._left, draining)
        return draining - self._left >= _WAITING or now - self._since >= _WAITED_S

    async def look(self) -> None:
        """Record which sessions have ended, within 5 s; those that it doesn't find stay recorded as draining. It raises nothing."""
        looks = [
            self._look_through(listed_as, of_mode)
            for mode, listed_as in LISTED_AS.items()
            if (
                of_mode := {
                    key: record
                    for key, record in self._book.draining.items()
                    if record.mode == mode
                }
            )
        ]
        try:
            # Whatever goes wrong, a user's own provider included, the next look may do better.
            with suppress(Exception):
                async with asyncio.timeout(_LOOK_S):
                    await asyncio.gather(*looks, return_exceptions=True)
        finally:
            self._left, self._since = len(self._book.draining), self._clock.monotonic()

    async def _look_through(self, mode: str, waiting: dict[str, LedgerRecord]) -> None:
        asked_at = min(record.asked_at for record in waiting.values())
        query = workloads_query(
            mode=mode,
            status=tuple(sorted(ENDED_STATUSES)),
            created_after=datetime.fromtimestamp(asked_at, UTC) - _MARGIN,
            # One that drains for long must not keep the others from being found.
            newest_first=True,
        )
        in_vain = 0
        async with aclosing(pages(partial(self._fetch, query))) as listed:
            async for workload in listed:
                # The service's own filter isn't believed: what it lists in another status may be open.
                in_vain += 1
                if workload.status in ENDED_STATUSES and waiting.pop(workload.id, None) is not None:
                    self._book.ended(workload.id)
                    in_vain = 0
                if not waiting or in_vain == _IN_VAIN:
                    return

    async def _fetch(self, query: Query, cursor: str | None) -> WorkloadPage:
        return await self._caller.call(workloads(query, cursor, ending=True), None, _LOOK_S)
