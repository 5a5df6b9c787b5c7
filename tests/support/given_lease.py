"""A ledger with a lease whose state a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from qsessions import Lease, LeaseState, LeaseTerms, LedgerEntry, Liveness
from tests.support.given_ledger import GivenLedger


class GivenLease(GivenLedger):
    """A `GivenLedger` whose owner holds a lease.

    Attributes:
        terms: The lease's.
        lease: As it was set last.
        renewals: How often it was to be renewed.
        renew_failure: What that raises.
        waits: What `take_over` returns, one after the other, then 0.
        looks: How often it was called.
    """

    def __init__(self, *entries: LedgerEntry) -> None:
        super().__init__(*entries)
        self.terms = LeaseTerms()
        self.lease = Lease(living=1)
        self.renewals = 0
        self.renew_failure: Exception | None = None
        self.waits: list[float] = []
        self.looks = 0
        self._changed = asyncio.Event()

    async def set(self, state: LeaseState, *, living: int = 1) -> None:
        """Set the lease, and let whoever follows it see that."""
        reason = "" if state is LeaseState.HELD else "it could not be renewed"
        self.lease = Lease(state=state, reason=reason, living=living)
        self._changed.set()
        self._changed = asyncio.Event()
        for _ in range(3):
            await asyncio.sleep(0)

    async def renew(self) -> None:
        """Count it."""
        self.renewals += 1
        if self.renew_failure is not None:
            raise self.renew_failure

    async def next_lease(self, lease: Lease) -> Lease:
        """Wait until it was set."""
        while self.lease == lease:
            await self._changed.wait()
        return self.lease

    async def take_over(self) -> float:
        """Return what was given."""
        self.looks += 1
        return self.waits.pop(0) if self.waits else 0.0

    async def orphans(self) -> Sequence[LedgerEntry]:
        """Return the entries of dead owners."""
        return [entry for entry in await self.entries() if entry.owner.liveness is Liveness.DEAD]
