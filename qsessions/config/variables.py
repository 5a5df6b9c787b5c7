"""Variables of the environment that stand in for arguments, and the one that turns the log on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TypeVar

import attrs
from attrs import frozen

from qsessions.errors import ConfigurationError, InvalidArgument, copy_error
from qsessions.events import logger
from qsessions.models import (
    DURATION_TEXT,
    MAX_SECONDS,
    CreateSession,
    Mode,
    deadline_seconds,
    whole_seconds,
)

T = TypeVar("T")

TIMEOUT = "QSESSIONS_TIMEOUT"
MAX_TTL = "QSESSIONS_MAX_TTL"
BACKEND = "QSESSIONS_BACKEND"
LOG = "QSESSIONS_LOG"
LEDGER = "QSESSIONS_LEDGER"

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO}
_lock = Lock()

DEFAULT_TIMEOUT_S: float = 60
"""How many seconds a call may take where nothing says otherwise."""


@frozen(eq=False, repr=False)
class Defaults:
    """What counts where an argument is missing.

    Attributes:
        timeout: A call's timeout in seconds, or None for none.
        max_ttl: A new session's `max_ttl` in seconds, or None for the service's, or why it can't be
            right, which is the business of creates that leave it out alone.
        backend: A new session's backend, or None for the service's choice; or the same.
        ledger: The ledger's name or URL, which isn't checked, or None for none.
    """

    timeout: float | None
    max_ttl: int | ConfigurationError | None
    backend: str | ConfigurationError | None
    # It may hold a password.
    ledger: str | None

    def complete(self, request: CreateSession) -> CreateSession:
        """Return a request with what it leaves out.

        Raises:
            InvalidArgument: The default `max_ttl` is shorter than a TTL of the request.
            ConfigurationError: A variable that it needs can't be right.
        """
        if self.max_ttl is None and self.backend is None:
            return request
        try:
            return attrs.evolve(
                request,
                max_ttl=request.max_ttl or _usable(self.max_ttl),
                backend=request.backend or _usable(self.backend),
            )
        except InvalidArgument as error:
            raise InvalidArgument(
                error.message, solution=f"Pass max_ttl, which is {MAX_TTL} now."
            ) from None


def read_defaults(environ: Mapping[str, str] = os.environ) -> Defaults:
    """Return the defaults that the environment sets, and ours for the rest.

    Raises:
        ConfigurationError: The timeout can't be right; the message names its variable.
    """
    default: float | None = DEFAULT_TIMEOUT_S
    timeout = f"seconds above 0, {DURATION_TEXT}, or none"
    ttl = f"from 1 to {MAX_SECONDS} seconds, or {DURATION_TEXT}"
    return Defaults(
        _read(
            environ,
            TIMEOUT,
            lambda text: deadline_seconds(None if text == "none" else text, TIMEOUT),
            timeout,
            default,
        ),
        _read_for_creates(environ, MAX_TTL, lambda text: whole_seconds(text, MAX_TTL), ttl),
        _read_for_creates(
            environ,
            BACKEND,
            lambda text: CreateSession(Mode.BATCH, backend=text).backend,
            "a backend's name",
        ),
        environ.get(LEDGER) or None,
    )


def log_as_asked(environ: Mapping[str, str] = os.environ) -> bool:
    """Have "qsessions" log as QSESSIONS_LOG says, and return whether it says anything.

    The lines go to standard error, or where the program's own handlers take them, if it has any. A
    level that the program has set stays.

    Raises:
        ConfigurationError: The variable is neither debug nor info.
    """
    level = _read(environ, LOG, lambda text: _LEVELS[text.lower()], "debug or info", None)
    if level is None:
        return False
    if logger.level == logging.NOTSET:
        logger.setLevel(level)
    # Two threads may make the first clients.
    with _lock:
        if not logger.hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter(_LINE))
            logger.addHandler(handler)
    return True


def _read(
    environ: Mapping[str, str], name: str, read: Callable[[str], T], forms: str, default: T
) -> T:
    """Return what a variable says, or the default where it is unset or empty."""
    text = environ.get(name)
    if not text:
        return default
    try:
        return read(text)
    except (ValueError, KeyError):
        # It isn't repeated: it may be the key, in the wrong place.
        raise ConfigurationError(
            f"{name} must be {forms}.", solution=f"Correct or unset {name}."
        ) from None


def _read_for_creates(
    environ: Mapping[str, str], name: str, read: Callable[[str], T | None], forms: str
) -> T | ConfigurationError | None:
    """Return what a variable says, or what is wrong with it, which is no matter to other calls."""
    try:
        return _read(environ, name, read, forms, None)
    except ConfigurationError as error:
        return error.with_traceback(None)


def _usable(value: T | ConfigurationError) -> T:
    if isinstance(value, ConfigurationError):
        raise copy_error(value)
    return value
