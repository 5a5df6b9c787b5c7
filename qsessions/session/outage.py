"""Outages that a wait bears: for how long, and what the log says of them."""

from __future__ import annotations

import logging

from qsessions.clock import Clock
from qsessions.errors import QSessionsError, one_line

# For how many seconds a wait without a timeout bears that it gets no answer: laptops sleep, and
# networks and services are away for a while.
PATIENCE_S = 600.0
# The command line prints its warnings.
_logger = logging.getLogger("qsessions.session")


class Outage:
    """The time in which what is waited for can't be read, for a reason that may pass.

    The log says when it begins and when it is over.

    Args:
        what: What can't be read.
        clock: The time.

    Attributes:
        error: What the last read ended with, or None where there is no outage.
    """

    def __init__(self, what: str, clock: Clock) -> None:
        self.error: QSessionsError | None = None
        self._what = what
        self._clock = clock
        self._since = 0.0

    def begin(self, error: Exception) -> None:
        """Begin with an error, or go on with it; one that doesn't pass is no outage."""
        if not (isinstance(error, QSessionsError) and error.retryable):
            return
        if self.error is None:
            self._since = self._clock.monotonic()
            _logger.warning(
                "%s can't be read, and the wait goes on: %s", self._what, one_line(error.message)
            )
        self.error = error

    def end(self) -> None:
        """End: it could be read."""
        if self.error is not None:
            seconds = self._clock.monotonic() - self._since
            _logger.warning("%s can be read again after %.0f s.", self._what, seconds)
            self.error = None


def ends_wait(error: QSessionsError, away_s: float, limit_s: float | None) -> bool:
    """Return whether a wait ends with an error.

    Args:
        error: The error.
        away_s: For how many seconds there was no answer.
        limit_s: The wait's timeout, until which it bears all that may pass; or None.
    """
    if error.retryable and limit_s is None and away_s >= PATIENCE_S:
        error.add_note("the wait has borne that for 10 minutes, as one without a timeout does.")
        return True
    return not error.retryable
