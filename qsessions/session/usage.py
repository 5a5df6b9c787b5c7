"""What sessions and their instance use, as far as it costs."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from qsessions.api.usage import usage
from qsessions.caller import Caller, Timeout
from qsessions.clock import Clock
from qsessions.errors import ClientClosed, NotFound, QSessionsError, one_line
from qsessions.models import Mode, SessionState
from qsessions.usage import InstanceUsage

if TYPE_CHECKING:
    from qsessions.session.calls import SessionCalls
    from qsessions.session.live import Poll

# For how many seconds an answer counts.
_RECENT_S = 300.0
_logger = logging.getLogger("qsessions.session")


class KnownUsage:
    """What the service last said of the instance's usage, for the creates that follow.

    It is asked by the user, and in the background for a session of `open(max_usage=)`. Other
    creates ask nothing: nobody is to find requests in a journal that they didn't make.

    Args:
        caller: Makes the calls.
        clock: The time.
    """

    def __init__(self, caller: Caller, clock: Clock) -> None:
        self._caller = caller
        self._clock = clock
        self._asked_at = -math.inf
        self._answered_at = -math.inf
        # Until it was told.
        self._is_spent = False

    async def fetch(
        self, caller: Caller, api_version: str | None = None, timeout: Timeout = ...
    ) -> InstanceUsage:
        """Ask for the usage by `caller`; see `AsyncSessionClient.usage`."""
        self._asked_at = self._clock.monotonic()
        answer = await caller.call(usage(), api_version, timeout)
        self._answered_at = self._clock.monotonic()
        self._is_spent = answer.usage_limit_reached is True
        return answer

    def fetch_soon(self) -> None:
        """Ask in the background, unless that was done in the last five minutes."""
        now = self._clock.monotonic()
        if now - self._asked_at >= _RECENT_S:
            # Others may come before the task begins.
            self._asked_at = now
            with suppress(ClientClosed):
                self._caller.spawn(self._fetch_and_warn())

    def warn_if_spent(self) -> None:
        """Warn if an answer of the last five minutes says that nothing is left, once for each."""
        if self._is_spent and self._clock.monotonic() - self._answered_at < _RECENT_S:
            self._is_spent = False
            _logger.warning(
                "the instance has reached its usage limit: jobs of new sessions may be refused"
            )

    async def _fetch_and_warn(self) -> None:
        # Nobody waits for it, and the log has its failure.
        with suppress(QSessionsError):
            await self.fetch(self._caller)
        self.warn_if_spent()


def known_usage(calls: SessionCalls) -> KnownUsage:
    """Return what a client knows of its instance's usage."""
    instance = calls.owner.instance
    if instance not in calls.usages:
        calls.usages[instance] = KnownUsage(calls.owner, calls.clock)
    return calls.usages[instance]


async def follow_usage(poll: Poll, limit: Callable[[float], Awaitable[None]]) -> None:
    """Call `limit` with what a session has used, at each read until it is closed."""
    try:
        known_usage(poll.calls).fetch_soon()
        async with aclosing(usage_of(poll)) as readings:
            async for used in readings:
                await limit(used)
    except Exception:
        _logger.exception(
            "session %r won't be closed at its max_usage: close it in time yourself",
            poll.session_id,
        )


async def usage_of(poll: Poll) -> AsyncGenerator[float, None]:
    """Yield what a session has used so far, in seconds, at each read until it is closed.

    The service may not say it while the session goes on. Of a dedicated session the time counts
    then that it was seen active; of a batch nothing.
    """
    clock = poll.calls.clock
    seen, active_s, active_since = poll.subscribe(), 0.0, math.inf
    has_warned = False
    while True:
        try:
            session = await poll.wait_newer(seen)
        except ClientClosed:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the limit must hold
            # The service has been seen not to know a session that it has just created.
            if isinstance(error, NotFound) and not poll.calls.is_young(poll.session_id):
                return
            # The next read comes by itself. The poll tells an outage.
            if not (has_warned or getattr(error, "retryable", False)):
                has_warned = True
                _logger.warning(
                    "the usage of %r can't be read: %s",
                    poll.session_id,
                    one_line(getattr(error, "message", repr(error))),
                )
            continue
        seen = poll.version
        if session.id != poll.session_id:
            # A cache in between gives another's answer.
            continue
        if session.is_final:
            return
        now = clock.monotonic()
        active_s += max(0.0, now - active_since)
        is_active = session.mode == Mode.DEDICATED and session.state == SessionState.ACTIVE
        active_since = now if is_active else math.inf
        yield active_s if session.elapsed_time is None else session.elapsed_time
