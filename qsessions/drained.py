"""The sessions that a client drained: which of them are over by now, so that the ledger can let go of their records."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from qsessions.attempts import Clock
from qsessions.caller import Caller
from qsessions.codec import WorkloadPage
from qsessions.ledger import Book, LedgerRecord
from qsessions.operations import ENDED_STATUSES, LISTED_AS, Query, workloads, workloads_query
from qsessions.paging import pages

# A look is due when so many drained sessions wait for one, or when the first has waited for so many seconds.
_WAITING = 50
_WAITED_S = 60.0
# How many seconds a look may take.
_LOOK_S = 5.0
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
        # What the last look left, and when it was, in seconds since 1970.
        self._left = 0
        self._looked_at = 0.0
        self._is_looking = False

    @property
    def is_due(self) -> bool:
        """Whether it is time for a look."""
        draining = self._book.draining
        if not draining or self._is_looking:
            return False
        since = max(self._looked_at, next(iter(draining.values())).changed_at)
        return len(draining) - self._left >= _WAITING or self._clock.wall() - since >= _WAITED_S

    async def look(self) -> None:
        """Record which sessions have ended, within 5 s; those that it doesn't find stay recorded as draining. It raises nothing."""
        waiting = dict(self._book.draining)
        self._is_looking = True
        try:
            # Whatever goes wrong, a user's own provider included, the next look may do better.
            with suppress(Exception):
                async with asyncio.timeout(_LOOK_S):
                    for mode, listed_as in LISTED_AS.items():
                        of_mode = {key: record for key, record in waiting.items() if record.mode == mode}
                        if of_mode:
                            await self._look_through(listed_as, of_mode)
        finally:
            self._is_looking = False
            self._left, self._looked_at = len(self._book.draining), self._clock.wall()

    async def _look_through(self, mode: str, waiting: dict[str, LedgerRecord]) -> None:
        asked_at = min(record.asked_at for record in waiting.values())
        query = workloads_query(
            mode=mode,
            status=tuple(sorted(ENDED_STATUSES)),
            created_after=datetime.fromtimestamp(asked_at, UTC) - _MARGIN,
        )
        async with aclosing(pages(partial(self._fetch, query))) as listed:
            async for workload in listed:
                # The service's own filter isn't believed: what it lists in another status may be open.
                if workload.status in ENDED_STATUSES and waiting.pop(workload.id, None) is not None:
                    self._book.ended(workload.id)
                    if not waiting:
                        return

    async def _fetch(self, query: Query, cursor: str | None) -> WorkloadPage:
        return await self._caller.call(workloads(query, cursor, ending=True), None, _LOOK_S)
