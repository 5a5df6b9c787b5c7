"""The sessions that a client drained: finds out which are over, so that their records can end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from contextvars import Context
from datetime import UTC, datetime, timedelta

from qsessions.api.operations import ENDED_STATUSES, LISTED_AS, workloads_query
from qsessions.caller import Caller
from qsessions.clock import CLOCK_SKEW_S, Clock
from qsessions.ledger.recorder import SessionRecorder
from qsessions.ledger.records import LedgerRecord

# A look is due when so many drained sessions wait for one, or the first has waited so long.
_WAITING = 50
_WAITED_S = 60.0
# How many seconds a look may take.
_LOOK_S = 5.0
# It is given up after so many other workloads in a row.
_MOST_OTHERS = 1000


class DrainingSessions:
    """Looks through the list of workloads for drained sessions that have ended.

    That takes the place of a GET after each drain.

    Args:
        recorder: Has the records. Without a ledger there are none, and no look is ever due.
        clock: The time.
    """

    def __init__(self, recorder: SessionRecorder, clock: Clock) -> None:
        # What makes the calls for each instance.
        self._callers: dict[str | None, Caller] = {}
        self._recorder = recorder
        self._clock = clock
        # How many sessions the last look found still draining, and when that was; before the
        # first look, when the first session was drained. On the monotonic clock.
        self._still_draining = 0
        self._since: float | None = None
        self._look: asyncio.Task[None] | None = None

    def look_if_due(self, caller: Caller) -> None:
        """Begin a look if it is time for one; to be called at each drain, by what made it.

        Raises:
            ClientClosed: The client is closed.
        """
        draining = len(self._recorder.draining)
        if not draining:
            self._since = None
            return
        self._callers[caller.instance] = caller
        now = self._clock.monotonic()
        if self._since is None:
            self._still_draining, self._since = 0, now
        self._still_draining = min(self._still_draining, draining)
        is_due = draining - self._still_draining >= _WAITING or now - self._since >= _WAITED_S
        if is_due and (self._look is None or self._look.done()):
            # It is no part of the call that it comes with.
            self._look = Context().run(caller.spawn, self.look())

    async def aclose(self) -> None:
        """Look for the last time."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait({self._look})
        if self._recorder.draining:
            await self.look()

    async def look(self) -> None:
        """Record which sessions have ended, within 5 s. Nothing is raised."""
        draining = self._recorder.draining.items()
        looks = [
            self._look_through(caller, listed_as, waiting)
            for instance, caller in self._callers.items()
            for mode, listed_as in LISTED_AS.items()
            if (
                waiting := {
                    key: record
                    for key, record in draining
                    if record.mode == mode and record.instance == instance
                }
            )
        ]
        try:
            # Whatever goes wrong, a user's own provider included, the next look may do better.
            with suppress(Exception), self._clock.timeout(_LOOK_S):
                await asyncio.gather(*looks, return_exceptions=True)
        finally:
            self._still_draining = len(self._recorder.draining)
            self._since = self._clock.monotonic()

    async def _look_through(
        self, caller: Caller, mode: str, waiting: dict[str, LedgerRecord]
    ) -> None:
        asked_at = min(record.asked_at for record in waiting.values())
        query = workloads_query(
            mode=mode,
            status=ENDED_STATUSES,
            created_after=datetime.fromtimestamp(asked_at, UTC) - timedelta(seconds=CLOCK_SKEW_S),
            # One that drains for long must not keep the others from being found.
            newest_first=True,
        )
        others = 0
        async with aclosing(caller.workloads(query, timeout=_LOOK_S, ending=True)) as workloads:
            async for workload in workloads:
                # The service's own filter isn't trusted: a workload in another status may be open.
                others += 1
                if workload.status in ENDED_STATUSES and waiting.pop(workload.id, None) is not None:
                    self._recorder.ended(workload.id)
                    others = 0
                if not waiting or others == _MOST_OTHERS:
                    return
