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


@frozen(kw_only=True, eq=False, repr=False)
class RequestFailed(_AttemptEvent):
    """An attempt ended without an answer after `seconds`; `reason` says why.

    `error` is the name of the error's class, such as "CallTimeout" or "CancelledError".
    """

    seconds: float
    error: str
    reason: str


@frozen(kw_only=True, eq=False, repr=False)
class RetryPlanned(Value):
    """The call goes on with another attempt after `delay` seconds; `reason` says why."""

    operation: str
    session_id: str | None
    attempt: int
    delay: float
    reason: str


@frozen(kw_only=True, eq=False, repr=False)
class TokenRenewed(Value):
    """IAM at `host` gave an access token that lives `expires_in` seconds."""

    host: str
    expires_in: float


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


@frozen(kw_only=True, eq=False, repr=False)
class CreateFailed(Value):
    """A create whose requests had begun gave no session; `reason` says why.

    It comes in the task of these requests. With `outcome_unknown` a session may exist, and
    `session_id` is its id, where it is known.
    """

    session_id: str | None
    outcome_unknown: bool
    reason: str


@frozen(kw_only=True, eq=False, repr=False)
class SessionDraining(Value):
    """The service accepted that a session takes no more jobs."""

    session_id: str


@frozen(kw_only=True, eq=False, repr=False)
class SessionClosed(Value):
    """The client closed a session."""

    session_id: str


@frozen(kw_only=True, eq=False, repr=False)
class MaxUsageReached(Value):
    """A session of `open(max_usage=)` has used that much, and is being closed.

    `usage_seconds` is what it was seen to have used; both are in seconds.
    """

    session_id: str
    max_usage: float
    usage_seconds: float


@frozen(kw_only=True, eq=False, repr=False)
class SessionEnded(Value):
    """A session was read and is over, whoever ended it: once for each such reading.

    `usage_seconds` is what it used, where the service says so.
    """

    session_id: str
    usage_seconds: float | None


@frozen(kw_only=True, eq=False, repr=False)
class CreateCancelled(Value):
    """A create was cancelled while its request was in flight.

    `session_id` is the session that came of it, where one is known; `closed` says whether it was
    closed. Without an id and with `closed` False the outcome is unknown; `detail` says why.
    """

    session_id: str | None
    closed: bool
    detail: str


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


@frozen(kw_only=True, eq=False, repr=False)
class LedgerFailed(Value):
    """The ledger could not keep a record, and `reason` says why; reported once for each client.

    Reported again when the client is closed, if sessions that may be open, and don't drain, are
    still not recorded; `unrecorded` then has their ids, or the keys of those without one.
    """

    reason: str
    unrecorded: tuple[str, ...] = ()


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


@frozen(kw_only=True, eq=False, repr=False)
class ClientStopped(Value):
    """The client of the service at `base_url` was closed.

    Of calls that were under way, or are made afterwards in vain, only requests may follow.
    """

    base_url: str


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
        level = _level(event)
        if logger.isEnabledFor(level):
            extra = {"qsessions_event": type(event).__name__} | {
                f"qsessions_{name}": value for name, value in attrs.asdict(event).items()
            }
            logger.log(level, "%s", one_line(_words(event)), extra=extra)
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


_LEVELS: dict[type[Event], int] = {
    LedgerFailed: logging.WARNING,
    OwnershipLost: logging.WARNING,
    MaxUsageReached: logging.WARNING,
    SessionCreated: logging.INFO,
    SessionDraining: logging.INFO,
    SessionClosed: logging.INFO,
    CreateCancelled: logging.INFO,
    RetryPlanned: logging.INFO,
}


def _level(event: Event) -> int:
    match event:
        case CreateCancelled(closed=False) | EndingFailed(again=False):
            return logging.ERROR
    return _LEVELS.get(type(event), logging.DEBUG)


def _words(event: Event) -> str:
    """Return a line for people who look at a session's life, or for a search in the log."""
    match event:
        case SessionCreated():
            where = f" on {event.backend}" if event.backend else ""
            limit = f"max_ttl {event.max_ttl} s" if event.max_ttl else "no max_ttl"
            return f"session {event.session_id} created: {event.mode}{where}, {limit}"
        case SessionDraining():
            return f"session {event.session_id} draining"
        case SessionClosed():
            return f"session {event.session_id} closed"
        case MaxUsageReached():
            used = f"{event.usage_seconds:.0f} s of its max_usage of {event.max_usage:.0f} s"
            return f"session {event.session_id} has used {used}, and is being closed"
        case EndingFailed():
            return f"session {event.session_id} left open: {event.detail}"
        case LedgerFailed(unrecorded=()):
            return f"the ledger doesn't record sessions: {event.reason}"
        case LedgerFailed():
            return f"the ledger never recorded {', '.join(event.unrecorded)}: {event.reason}"
        case CreateCancelled(closed=True):
            return f"session {event.session_id} closed, since its create was cancelled"
        case CreateCancelled():
            return event.detail
    return _words_of_detail(event)


def _words_of_detail(
    event: RequestSent
    | ResponseReceived
    | RequestFailed
    | RetryPlanned
    | TokenRenewed
    | CreateFailed
    | SessionEnded
    | OwnershipLost
    | ClientStopped,
) -> str:
    match event:
        case TokenRenewed():
            return f"{event.host} gave an access token for {event.expires_in:.0f} s"
        case RetryPlanned():
            whose = f" of session {event.session_id}" if event.session_id else ""
            again = f"again in {event.delay:.3f} s, after attempt {event.attempt}"
            return f"{event.operation}{whose} {again}: {event.reason}"
        case CreateFailed():
            unknown = ", and a session may have been created" if event.outcome_unknown else ""
            return f"create failed{unknown}: {event.reason}"
        case SessionEnded():
            usage = "" if event.usage_seconds is None else f", used {event.usage_seconds:.1f} s"
            return f"session {event.session_id} is over{usage}"
        case OwnershipLost():
            count = len(event.session_ids)
            whose = f"{count} session{'' if count == 1 else 's'} of this process"
            return f"ownership of {whose} is lost: {event.reason}"
        case ClientStopped():
            return f"the client of {event.base_url} has stopped"
    return _words_of_attempt(event)


def _words_of_attempt(event: RequestSent | ResponseReceived | RequestFailed) -> str:
    attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
    words = f"{event.method} {event.path} ({event.operation}{attempt})"
    match event:
        case ResponseReceived():
            return f"{words}: {event.status} after {event.seconds:.3f} s"
        case RequestFailed():
            return f"{words}: no answer after {event.seconds:.3f} s: {event.reason}"
    return words
