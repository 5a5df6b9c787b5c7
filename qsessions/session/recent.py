"""The sessions that a client created of late, and calls about them: the service may not know a session yet that it has just created."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import attrs

from qsessions.api import operations
from qsessions.api.operations import YOUNG_S, Operation
from qsessions.caller import Caller, Timeout
from qsessions.clock import Clock
from qsessions.errors import CallTimeout, NotFound, QSessionsError, ResponseError

T = TypeVar("T")

# How many seconds to wait before looking again.
LOOK_AGAIN_S = 2.0
# How many sessions a client remembers: more than there can be new ones while a create is under way.
_REMEMBERED = 10_000


class RecentSessions:
    """Remembers which sessions one client created, by their ids, and makes calls about sessions."""

    def __init__(self, caller: Caller, clock: Clock) -> None:
        self._caller = caller
        self._clock = clock
        self._created: dict[str, float] = {}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids, the oldest first."""
        return iter(tuple(self._created))

    def add(self, session_id: str) -> None:
        """Remember a session that was created just now."""
        self._created[session_id] = self._clock.monotonic()
        if len(self._created) > _REMEMBERED:
            del self._created[next(iter(self._created))]

    def is_young(self, session_id: str | None) -> bool:
        """Return whether this client created the session so recently that the service may not know it yet."""
        created = self._created.get(session_id or "")
        return created is not None and self._clock.monotonic() - created < YOUNG_S

    async def call(self, operation: Operation[T], api_version: str | None, timeout: Timeout) -> T:
        """Carry out an operation on a session. A 404 about a young one is looked at again: by a GET after 2 s, then by the operation.

        Where that is a GET itself, one will do. Nor is a repeat that finds a young one gone taken for done.

        Raises:
            NotFound: The service knows no such session; of a young one it said so again.
            CallTimeout: It said so of a young one, and no time is left to look again.
            ResponseError: Of a young one it says both.
            QSessionsError: See errors.py.
        """
        if not self.is_young(operation.session_id):
            return await self._caller.call(operation, api_version, timeout)
        operation = attrs.evolve(operation, done_when_repeated=frozenset())
        started, seconds = self._clock.monotonic(), self._caller.seconds(timeout)
        try:
            return await self._caller.call(operation, api_version, seconds)
        except NotFound as error:
            refusal = error
        left = self._caller.left(seconds, started)
        if left is not None and left <= LOOK_AGAIN_S:
            raise CallTimeout(
                "the service doesn't know the session, which was created just now; no time was left to look again.",
                **_where(refusal),
            ) from refusal
        await self._clock.sleep(LOOK_AGAIN_S)
        left = self._caller.left(seconds, started)
        # The operation itself must have a chance, whatever becomes of the look.
        half = None if left is None else left / 2
        is_open = operation.method != "GET" and await self._is_open(operation, api_version, half)
        try:
            return await self._caller.call(
                operation, api_version, self._caller.left(seconds, started)
            )
        except NotFound as error:
            if not is_open:
                raise
            raise ResponseError(
                "the service knows the session and says that it doesn't, so it may be open.",
                status=error.status,
                retryable=True,
                **_where(error),
            ) from error

    async def _is_open(
        self, operation: Operation[T], api_version: str | None, left: float | None
    ) -> bool:
        """Return whether the service gives a session that may be open."""
        assert operation.session_id is not None  # noqa: S101 - only a session's own id is young
        look = operations.get(operation.session_id, ending=operation.ending)
        try:
            found = await self._caller.call(look, api_version, left)
        except NotFound:
            return False
        except QSessionsError:
            # Nobody can tell, so it may be.
            return True
        # An answer about another session, as a cache in between may give, says nothing about this one.
        return found.id != operation.session_id or not found.is_final


def _where(error: QSessionsError) -> dict[str, Any]:
    return {
        "operation": error.operation,
        "session_id": error.session_id,
        "method": error.method,
        "path": error.path,
        "attempts": error.attempts,
    }
