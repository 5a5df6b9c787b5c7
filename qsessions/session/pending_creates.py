"""The creates that are under way, for what must stop them or wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from qsessions.clock import Deadline
from qsessions.errors import ClientClosed


class PendingCreates:
    """The creates of one client that are under way.

    Attributes:
        refusal: Why none may begin just now, or None.
        is_closed: Whether none may begin any more.
    """

    def __init__(self) -> None:
        self.refusal: ClientClosed | None = None
        self.is_closed = False
        # How to stop each, by what stands for it.
        self._pending: dict[object, Callable[[ClientClosed], None]] = {}
        # Set when there are none any more.
        self._idle = asyncio.Event()

    def refuse(self, reason: ClientClosed | None, *, for_good: bool = False) -> None:
        """Let no create begin; None lets them begin again. It may be called in any thread.

        After one `for_good` nothing changes any more.
        """
        if not self.is_closed:
            self.refusal, self.is_closed = reason, for_good

    def stop_unsent(self) -> None:
        """Stop the creates of which nothing was sent, if they are refused."""
        if (refusal := self.refusal) is None:
            return
        for stop in set(self._pending.values()):
            stop(refusal)

    async def wait_idle(self, deadline: Deadline) -> None:
        """Wait until every create has ended and its caller has the answer, or the deadline."""
        with suppress(TimeoutError), deadline.timeout():
            while self._pending:
                self._idle.clear()
                await self._idle.wait()

    def add(self, pending: object, stop: Callable[[ClientClosed], None]) -> None:
        """Count a create as under way until it is removed; `stop` stops it if it is refused."""
        self._pending[pending] = stop

    def remove(self, pending: object) -> None:
        """Count a create as over: its caller goes on with the answer."""
        del self._pending[pending]
        if not self._pending:
            self._idle.set()
