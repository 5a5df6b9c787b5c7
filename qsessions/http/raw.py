"""The answer behind the result of a call, for `raw`."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar, Generic, TypeVar

from attrs import field, frozen

from qsessions.api.messages import Response
from qsessions.clock import Clock
from qsessions.errors import InvalidArgument
from qsessions.values import Value

T = TypeVar("T")

# What gateways and IBM Cloud call them.
_REQUEST_IDS = ("x-request-id", "x-correlation-id", "transaction-id")
_TRACE_IDS = ("x-trace-id", "x-b3-traceid")


@frozen(kw_only=True, eq=False, repr=False)
class Raw(Value, Generic[T]):
    """The result of a call with the answer that it was read from, from `raw`.

    Where a call makes several requests, it is the last answer.

    Attributes:
        value: What the call returns.
        status: The HTTP status of the answer.
        headers: Its headers by their names in lower case; repeated ones are joined by ", ".
        request_id: What X-Request-ID, X-Correlation-ID or Transaction-Id says, or None.
        trace_id: What X-Trace-ID or X-B3-TraceId says, or None.
        attempts: How many requests qsessions sent for this answer.
        seconds: How long the whole call took.
    """

    value: T
    status: int
    headers: Mapping[str, str] = field(repr=False, hash=False)
    request_id: str | None
    trace_id: str | None
    attempts: int
    seconds: float


class Recording:
    """Keeps the last answer of one call of `raw`.

    Attributes:
        is_used: Whether there was ever one in this process: else there is nothing to look for.
        answer: The answer, once there is one.
        attempts: How many requests it took.
    """

    is_used: ClassVar[bool] = False
    answer: Response | None = None
    attempts = 0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock.monotonic()

    def raw(self, value: T) -> Raw[T]:
        """Return a result with the answer."""
        answer = self.answer
        assert answer is not None  # noqa: S101 - a call that returned had one
        headers: dict[str, str] = {}
        for name, text in answer.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return Raw(
            value=value,
            status=answer.status,
            headers=headers,
            request_id=next(filter(None, map(headers.get, _REQUEST_IDS)), None),
            trace_id=next(filter(None, map(headers.get, _TRACE_IDS)), None),
            attempts=self.attempts,
            seconds=self._clock.monotonic() - self._started,
        )


# A task has the value of its maker, so that this holds for a create too, which runs in its own.
RECORDING: ContextVar[Recording | None] = ContextVar("qsessions_recording", default=None)


@contextmanager
def recording(clock: Clock) -> Iterator[Recording]:
    """Record the answers that calls within the block get."""
    Recording.is_used = True
    current = Recording(clock)
    token = RECORDING.set(current)
    try:
        yield current
    finally:
        RECORDING.reset(token)


# The calls that have one answer, by whose they are.
_OF_CLIENT = (
    "create",
    "get",
    "update",
    "drain",
    "close",
    "has_pending_jobs",
    "usage",
    "versions",
)
_OF_HANDLE = ("refresh", "drain", "close")


def check_recordable(call: object, client: object, handle: type[object]) -> None:
    """Check that `raw` can give the answer of a call.

    Args:
        call: What was passed.
        client: The client.
        handle: The class of its handles on sessions.

    Raises:
        InvalidArgument: It isn't a method of them that has one answer.
    """
    owner = getattr(call, "__self__", None)
    names = _OF_CLIENT if owner is client else _OF_HANDLE if isinstance(owner, handle) else ()
    if getattr(call, "__name__", None) in names:
        return
    shown = getattr(call, "__qualname__", None) or type(call).__name__
    if type(owner) is type(client) and owner is not client:
        shown += " of another client, which has a raw of its own"
    if isinstance(call, Coroutine):
        # Else Python warns that nobody awaited it.
        call.close()
        shown = f"{shown}(...)"
    raise InvalidArgument(
        f"raw takes a method of this client ({', '.join(_OF_CLIENT)}) or of a session's handle "
        f"({', '.join(_OF_HANDLE)}), not called yet, as in raw(client.get, session_id); "
        f"not {shown}."
    )
