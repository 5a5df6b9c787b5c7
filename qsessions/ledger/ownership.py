"""What a client does about its process's lease in a shared ledger, and when that is lost."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, TypeAlias

from qsessions.errors import LeaseLost, LedgerUnavailable, QSessionsError
from qsessions.events import LedgerFailed, Observers, OwnershipLost, logger
from qsessions.ledger.lease import Lease, LeasedLedger, LeaseState
from qsessions.ledger.recorder import SessionRecorder, Spawn
from qsessions.ledger.records import reason

OnLost: TypeAlias = Literal["continue", "end"]


class Ownership:
    """Holds a lease from a client's first record on, and tells when it is lost.

    Args:
        ledger: The ledger.
        recorder: Records the client's sessions in it.
        observers: Get `OwnershipLost`.
        spawn: Runs a coroutine as a task that the client owns.
        on_lost: What becomes of the sessions: see `AsyncSessionClient`.
        end: Ends the client's sessions.
    """

    def __init__(
        self,
        ledger: LeasedLedger,
        recorder: SessionRecorder,
        observers: Observers,
        spawn: Spawn,
        *,
        on_lost: OnLost,
        end: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._observers = observers
        self._spawn = spawn
        self._on_lost = on_lost
        self._end = end
        self._has_begun = False

    @property
    def living(self) -> int:
        """How many processes hold a lease, this one included."""
        return self._ledger.lease.living

    def begin(self) -> None:
        """Hold a lease from now on, and follow what becomes of it."""
        if not self._has_begun:
            self._has_begun = True
            self._start(self._follow())

    def check(self, done: str) -> None:
        """Raise if no session may be created or taken over.

        Args:
            done: Which of these it is, as a message has it.

        Raises:
            LeaseLost: Another process has taken this one's sessions over, or may do so and they
                are being ended.
        """
        lease = self._ledger.lease
        is_refused = lease.state is LeaseState.TAKEN or self._on_lost == "end"
        if lease.state is not LeaseState.HELD and is_refused:
            raise LeaseLost(f"nothing was {done}: {lease.reason}.")

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        # A client that was closed begins nothing.
        with suppress(QSessionsError):
            self._spawn(work)

    async def _follow(self) -> None:
        with suppress(Exception):
            # It goes on trying. The first record tells why it can't.
            await self._ledger.renew()
        lease = Lease()
        try:
            # Until it is closed. A process whose sessions are over goes on as a new owner.
            while True:
                before, lease = lease, self._ledger.lease
                if lease == before:
                    lease = await self._ledger.next_lease(before)
                if lease.state is LeaseState.HELD and before.state is not LeaseState.HELD:
                    logger.info("this process's lease in the ledger is renewed again")
                elif lease.state is not before.state:
                    self._lost(lease.reason, taken_over=lease.state is LeaseState.TAKEN)
        except LedgerUnavailable:
            return
        except Exception as error:  # noqa: BLE001 - a user's own ledger may raise anything
            self._observers.notify(LedgerFailed(reason=reason(error)))

    def _lost(self, reason: str, *, taken_over: bool) -> None:
        ids = tuple(self._recorder.open_sessions())
        self._observers.notify(OwnershipLost(reason=reason, taken_over=taken_over, session_ids=ids))
        if self._on_lost == "end":
            # A task of its own: an ending takes a cancellation as the cause to try again.
            self._start(self._end())
