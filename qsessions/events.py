"""What the client tells observers while it works. Logging is the first of them, on the logger "qsessions".

No event holds a credential, a header or a body.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Iterable
from typing import Protocol, TypeAlias

import attrs
from attrs import frozen

from qsessions.errors import ConfigurationError

logger = logging.getLogger("qsessions")
logger.addHandler(logging.NullHandler())


@frozen(kw_only=True)
class RequestSent:
    """An attempt begins. `attempt` counts from 1 within its call."""

    operation: str
    session_id: str | None
    method: str
    path: str
    attempt: int


@frozen(kw_only=True)
class ResponseReceived:
    """An attempt was answered, whatever the status, after `seconds`."""

    operation: str
    session_id: str | None
    method: str
    path: str
    attempt: int
    status: int
    seconds: float


@frozen(kw_only=True)
class RequestFailed:
    """An attempt ended without an answer after `seconds`; `reason` says why."""

    operation: str
    session_id: str | None
    method: str
    path: str
    attempt: int
    seconds: float
    reason: str


@frozen(kw_only=True)
class RetryPlanned:
    """The call goes on with another attempt after `delay` seconds; `reason` says why."""

    operation: str
    session_id: str | None
    attempt: int
    delay: float
    reason: str


@frozen(kw_only=True)
class TokenRenewed:
    """IAM at `host` gave an access token that lives `expires_in` seconds."""

    host: str
    expires_in: float


@frozen(kw_only=True)
class CreateCancelled:
    """A create was cancelled while its request was in flight.

    `session_id` is the session that came of it, where one is known; `closed` says whether it was closed. Without an id and with
    `closed` False the outcome is unknown; `detail` says why.
    """

    session_id: str | None
    closed: bool
    detail: str


@frozen(kw_only=True)
class EndingFailed:
    """A session that `open()` created could not be ended: `operation`, drain or close, failed, and `detail` says why."""

    session_id: str
    operation: str
    detail: str


@frozen(kw_only=True)
class LedgerFailed:
    """The ledger could not keep a record, and `reason` says why; told once for each client.

    Told again when the client is closed, if sessions that may be open, and don't drain, are still not recorded; `unrecorded` then has their
    ids, or the keys of those without one.
    """

    reason: str
    unrecorded: tuple[str, ...] = ()


Event: TypeAlias = (
    RequestSent
    | ResponseReceived
    | RequestFailed
    | RetryPlanned
    | TokenRenewed
    | CreateCancelled
    | EndingFailed
    | LedgerFailed
)


class Observer(Protocol):
    """Anything that can be called with an event. It runs inside the call, on the event loop: be quick, don't block."""

    def __call__(self, event: Event, /) -> None:
        """Take note of an event. What it raises is logged and goes no further."""
        ...


class Observers:
    """Passes events on to the log and to the observers that the client was given."""

    __slots__ = ("_observers",)

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        if not isinstance(observers, Iterable):
            raise ConfigurationError(f"observers= must be an iterable of callables, not {observers!r}.")
        self._observers = tuple(observers)
        if not all(callable(observer) for observer in self._observers):
            raise ConfigurationError(f"observers= must hold callables only, not {self._observers!r}.")

    @property
    def listening(self) -> bool:
        """Whether anybody wants the events of each request; asked first, so that nobody pays for events that nobody hears."""
        return bool(self._observers) or logger.isEnabledFor(logging.DEBUG)

    def notify(self, event: Event) -> None:
        """Tell everybody."""
        log_event(event)
        for observer in self._observers:
            try:
                observer(event)
            except (Exception, CancelledError):
                # Nobody cancels in here, where nothing is awaited: it is the observer's own error, and a session may hang on what follows.
                logger.warning("an observer failed on %s", type(event).__name__, exc_info=True)


def log_event(event: Event) -> None:
    """Write an event to the logger "qsessions", its fields as `extra` under names that start with "qsessions_"."""
    level = _level(event)
    if logger.isEnabledFor(level):
        fields = attrs.asdict(event)
        words = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        extra = {"qsessions_event": type(event).__name__} | {
            f"qsessions_{name}": value for name, value in fields.items()
        }
        logger.log(level, "%s %s", type(event).__name__, words, extra=extra)


def _level(event: Event) -> int:
    if isinstance(event, CreateCancelled):
        return logging.WARNING if event.closed else logging.ERROR
    if isinstance(event, EndingFailed):
        return logging.ERROR
    if isinstance(event, LedgerFailed):
        return logging.WARNING
    return logging.INFO if isinstance(event, RetryPlanned) else logging.DEBUG
