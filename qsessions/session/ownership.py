"""What a client does when the lease of its process, in a shared ledger, can't be renewed."""

from __future__ import annotations

from contextlib import suppress

from qsessions.errors import LedgerUnavailable
from qsessions.events import OwnershipLost, logger
from qsessions.ledger.lease import Lease, LeasedLedger, LeaseState
from qsessions.session.open import OpenSessions


async def follow_lease(open_sessions: OpenSessions, ledger: LeasedLedger) -> None:
    """Hold a lease, tell the observers when it is lost, and end the sessions then if asked to.

    Args:
        open_sessions: The client's sessions.
        ledger: Its ledger.
    """
    with suppress(LedgerUnavailable):
        # It goes on trying. The first record tells why it can't.
        await ledger.renew()
    with suppress(LedgerUnavailable):
        # Until it is closed. A process whose sessions are over goes on as a new owner.
        lease = ledger.lease
        while True:
            before, lease = lease, await ledger.next_lease(lease)
            if lease.state is not before.state:
                await _tell(open_sessions, lease)


async def _tell(open_sessions: OpenSessions, lease: Lease) -> None:
    recorder = open_sessions.calls.recorder
    if lease.state is LeaseState.HELD:
        logger.info("this process's lease in the ledger is renewed again")
        return
    open_sessions.calls.observers.notify(
        OwnershipLost(
            reason=lease.reason,
            taken_over=lease.state is LeaseState.TAKEN,
            session_ids=tuple(recorder.open_sessions()),
        )
    )
    if recorder.on_lost == "end":
        await open_sessions.end_for_lost_lease()
