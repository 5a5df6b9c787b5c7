"""Events that the client reports to observers and to the logger "qsessions".

At INFO a session's life is a line each: created, draining, closed. Requests are at DEBUG. What
needs attention is at WARNING and above, so that a program without logging set up has it on standard
error. No event holds a credential, a header or a body.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import attrs
from attrs import field, frozen

from qsessions.errors import ConfigurationError, one_line
from qsessions.values import Value

logger = logging.getLogger("qsessions")

# W3C Trace Context.
_TRACE_HEADERS = ("traceparent", "tracestate")


@frozen(kw_only=True, eq=False, repr=False)
class _AttemptEvent(Value):
    operation: str
    session_id: str | None
    method: str
    origin: str
    path: str
    attempt: int

    def _logged(self) -> tuple[int, str]:
        attempt = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return logging.DEBUG, f"{self.method} {self.path} ({self.operation}{attempt})"


@frozen(kw_only=True, eq=False, repr=False)
class RequestSent(_AttemptEvent):
    """An attempt begins. `attempt` counts from 1 within its call.

    One `ResponseReceived` or `RequestFailed` follows in the same task. `origin` is the scheme, the
    host and the port that are asked; `path` comes without its query.
    """


@frozen(kw_only=True, eq=False, repr=False)
class ResponseReceived(_AttemptEvent):
    """An attempt was answered, with any status, after `seconds`."""

    status: int
    seconds: float

    def _logged(self) -> tuple[int, str]:
        level, line = super()._logged()
        return level, f"{line}: {self.status} after {self.seconds:.3f} s"


@frozen(kw_only=True, eq=False, repr=False)
class RequestFailed(_AttemptEvent):
    """An attempt ended without an answer after `seconds`; `reason` says why.

    `error` is the name of the error's class, such as "CallTimeout" or "CancelledError".
    """

    seconds: float
    error: str
    reason: str

    def _logged(self) -> tuple[int, str]:
        level, line = super()._logged()
        return level, f"{line}: no answer after {self.seconds:.3f} s: {self.reason}"


@frozen(kw_only=True, eq=False, repr=False)
class RetryPlanned(Value):
    """The call goes on with another attempt after `delay` seconds; `reason` says why."""

    operation: str
    session_id: str | None
    attempt: int
    delay: float
    reason: str

    def _logged(self) -> tuple[int, str]:
        whose = f" of session {self.session_id}" if self.session_id else ""
        again = f"again in {self.delay:.3f} s, after attempt {self.attempt}"
        return logging.INFO, f"{self.operation}{whose} {again}: {self.reason}"


@frozen(kw_only=True, eq=False, repr=False)
class TokenRenewed(Value):
    """IAM at `host` gave an access token that lives `expires_in` seconds."""

    host: str
    expires_in: float

    def _logged(self) -> tuple[int, str]:
        return logging.DEBUG, f"{self.host} gave an access token for {self.expires_in:.0f} s"


@frozen(kw_only=True, eq=False, repr=False)
class SessionCreated(Value):
    """The client created a session; `max_ttl` is in seconds, or None where none was asked for.

    It comes in the task of the create's requests. `labels` are those of the ledger, and not part of
    the hash.
    """

    session_id: str
    mode: str
    backend: str | None
    max_ttl: int | None
    labels: Mapping[str, str] = field(factory=dict, hash=False)

    def _logged(self) -> tuple[int, str]:
        where = f" on {self.backend}" if self.backend else ""
        limit = f"max_ttl {self.max_ttl} s" if self.max_ttl else "no max_ttl"
        return logging.INFO, f"session {self.session_id} created: {self.mode}{where}, {limit}"


@frozen(kw_only=True, eq=False, repr=False)
class CreateFailed(Value):
    """A create whose requests had begun gave no session; `reason` says why.

    It comes in the task of these requests. With `outcome_unknown` a session may exist, and
    `session_id` is its id, where it is known.
    """

    session_id: str | None
    outcome_unknown: bool
    reason: str

    def _logged(self) -> tuple[int, str]:
        unknown = ", and a session may have been created" if self.outcome_unknown else ""
        return logging.DEBUG, f"create failed{unknown}: {self.reason}"


@frozen(kw_only=True, eq=False, repr=False)
class SessionDraining(Value):
    """The service accepted that a session takes no more jobs."""

    session_id: str

    def _logged(self) -> tuple[int, str]:
        return logging.INFO, f"session {self.session_id} draining"


@frozen(kw_only=True, eq=False, repr=False)
class SessionClosed(Value):
    """The client closed a session."""

    session_id: str

    def _logged(self) -> tuple[int, str]:
        return logging.INFO, f"session {self.session_id} closed"


@frozen(kw_only=True, eq=False, repr=False)
class MaxUsageReached(Value):
    """A session of `open(max_usage=)` has used that much, and is being closed.

    `usage_seconds` is what it was seen to have used; both are in seconds.
    """

    session_id: str
    max_usage: float
    usage_seconds: float

    def _logged(self) -> tuple[int, str]:
        used = f"{self.usage_seconds:.0f} s of its max_usage of {self.max_usage:.0f} s"
        return logging.WARNING, f"session {self.session_id} has used {used}, and is being closed"


@frozen(kw_only=True, eq=False, repr=False)
class SessionEnded(Value):
    """A session was read and is over, whoever ended it: once for each such reading.

    `usage_seconds` is what it used, where the service says so.
    """

    session_id: str
    usage_seconds: float | None

    def _logged(self) -> tuple[int, str]:
        used = "" if self.usage_seconds is None else f", used {self.usage_seconds:.1f} s"
        return logging.DEBUG, f"session {self.session_id} is over{used}"


@frozen(kw_only=True, eq=False, repr=False)
class CreateCancelled(Value):
    """A create was cancelled while its request was in flight.

    `session_id` is the session that came of it, where one is known; `closed` says whether it was
    closed. Without an id and with `closed` False the outcome is unknown; `detail` says why.
    """

    session_id: str | None
    closed: bool
    detail: str

    def _logged(self) -> tuple[int, str]:
        if not self.closed:
            return logging.ERROR, self.detail
        return logging.INFO, f"session {self.session_id} closed, since its create was cancelled"


@frozen(kw_only=True, eq=False, repr=False)
class EndingFailed(Value):
    """A session that `open()` created could not be ended.

    `operation`, drain or close, failed, and `detail` says why.

    `again` is True when an earlier attempt was reported: closing the client tries once more.
    """

    session_id: str
    operation: str
    detail: str
    again: bool = False

    def _logged(self) -> tuple[int, str]:
        level = logging.DEBUG if self.again else logging.ERROR
        return level, f"session {self.session_id} left open: {self.detail}"


@frozen(kw_only=True, eq=False, repr=False)
class LedgerFailed(Value):
    """The ledger could not keep a record, and `reason` says why; reported once for each client.

    Reported again when the client is closed, if sessions that may be open, and don't drain, are
    still not recorded; `unrecorded` then has their ids, or the keys of those without one.
    """

    reason: str
    unrecorded: tuple[str, ...] = ()

    def _logged(self) -> tuple[int, str]:
        sessions = ", ".join(self.unrecorded)
        problem = f"never recorded {sessions}" if sessions else "doesn't record sessions"
        return logging.WARNING, f"the ledger {problem}: {self.reason}"


@frozen(kw_only=True, eq=False, repr=False)
class OwnershipLost(Value):
    """This process's lease in a shared ledger could not be renewed in time; `reason` says why.

    `session_ids` are the client's sessions that may be open. With `taken_over` another process ends
    them, and this client creates no more. Else another may do so, once it has seen that for long
    enough.
    """

    reason: str
    taken_over: bool
    session_ids: tuple[str, ...]

    def _logged(self) -> tuple[int, str]:
        count = len(self.session_ids)
        whose = f"{count} session{'' if count == 1 else 's'} of this process"
        return logging.WARNING, f"ownership of {whose} is lost: {self.reason}"


@frozen(kw_only=True, eq=False, repr=False)
class ClientStopped(Value):
    """The client of the service at `base_url` was closed.

    Of calls that were under way, or are made afterwards in vain, only requests may follow.
    """

    base_url: str

    def _logged(self) -> tuple[int, str]:
        return logging.DEBUG, f"the client of {self.base_url} has stopped"


Event: TypeAlias = (
    RequestSent
    | ResponseReceived
    | RequestFailed
    | RetryPlanned
    | TokenRenewed
    | SessionCreated
    | CreateFailed
    | SessionDraining
    | SessionClosed
    | MaxUsageReached
    | SessionEnded
    | CreateCancelled
    | EndingFailed
    | LedgerFailed
    | OwnershipLost
    | ClientStopped
)


class Observer(Protocol):
    """Anything that can be called with an event.

    It runs inside the call, on the event loop: it must be quick and not block. Its class may have a
    method `trace_headers` too: called with each `RequestSent`, it returns the `traceparent` and
    `tracestate` to send with that request. No other header is sent.
    """

    def __call__(self, event: Event, /) -> None:
        """Receive an event. What it raises is logged and goes no further."""
        ...


class Observers:
    """Passes events on to the log and to the observers that the client was given."""

    __slots__ = ("_observers", "_tracers")

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        if not isinstance(observers, Iterable):
            raise ConfigurationError(
                f"observers= must be an iterable of callables, not {observers!r}."
            )
        self._observers = tuple(observers)
        if not all(callable(observer) for observer in self._observers):
            raise ConfigurationError(
                f"observers= must hold callables only, not {self._observers!r}."
            )
        # The class is asked, since a mock has every attribute.
        self._tracers: list[Any] = [
            observer for observer in self._observers if hasattr(type(observer), "trace_headers")
        ]

    @property
    def listening(self) -> bool:
        """Whether events of requests have a receiver. Asked first, since making them takes time."""
        return bool(self._observers) or logger.isEnabledFor(logging.DEBUG)

    def notify(self, event: Event) -> None:
        """Pass an event on; the log gets its fields as `extra` named "qsessions_..."."""
        level, line = event._logged()  # noqa: SLF001 - it is for this log alone
        if logger.isEnabledFor(level):
            extra = {"qsessions_event": type(event).__name__} | {
                f"qsessions_{name}": value for name, value in attrs.asdict(event).items()
            }
            logger.log(level, "%s", one_line(line), extra=extra)
        for observer in self._observers:
            try:
                observer(event)
            except (Exception, CancelledError):
                # Nothing is awaited here, so a cancellation too is the observer's own error. A
                # session may depend on what follows.
                logger.warning("an observer failed on %s", type(event).__name__, exc_info=True)

    def trace_headers(self, sent: RequestSent) -> dict[str, str]:
        """Return the headers of its trace that a request is to have, where an observer has any."""
        headers: dict[str, str] = {}
        for tracer in self._tracers:
            try:
                given = tracer.trace_headers(sent)
                headers |= {name: given[name] for name in _TRACE_HEADERS if name in given}
            except (Exception, CancelledError):
                logger.warning("an observer failed to give trace headers", exc_info=True)
        return headers
