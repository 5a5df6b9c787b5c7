"""When to send a request again: facts in, decision out, and what a client may spend on it. Nothing here sleeps, sends or reads a clock."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs
from attrs import field, frozen

from qsessions.api.codec import Fault, decode_fault
from qsessions.api.messages import Request, Response, http_date
from qsessions.errors import ConfigurationError, ConnectionFailed, ProtocolError, QSessionsError

# The statuses that the official client (0.51) repeats, and 429, which asks for it.
REPEATABLE_STATUSES = frozenset({429, 500, 502, 503, 504, 520, 521, 522, 524})

# Of these, the ones that say that the work was not done, so that even creating a session may be repeated: 429 and 503 turn the request
# away, 521 and 522 are the CDN's word that it could not reach the service at all.
NOT_CARRIED_OUT_STATUSES = frozenset({429, 503, 521, 522})

# 423 with this code: the backend is reserved. The service turns the request away as with 503, and it may be tried later.
LOCKED_STATUS = 423
BACKEND_RESERVED_CODE = "1233"

# A gateway got no proper answer from the service, so the work may have been done whatever the body says. Of the other 5xx, a body in the
# service's own error form is its word that it failed.
NO_PROPER_ANSWER_STATUSES = frozenset({502, 504, 520, 524})

# What a retry takes out of the budget, as in the standard mode of AWS's SDKs. No answer costs more: it held a connection all the while.
RETRY_COST = 5
UNANSWERED_RETRY_COST = 10
# What a success at the first attempt brings in; one after a retry brings back what that took.
SUCCESS_EARNS = 1


class Action(Enum):
    """What becomes of a call after an attempt that was no success."""

    RETRY = "retry"
    """Send it again after a delay."""
    FAIL = "fail"
    """Raise what happened."""
    UNKNOWN = "unknown"
    """It may have been carried out, and must not be sent again to find out."""


@frozen(kw_only=True)
class Facts:
    """What is known after an attempt that was no success.

    Attributes:
        attempt: How many attempts were made, this one included.
        repeatable: Whether carrying the request out twice does no harm.
        sent: Whether the request may have reached the service.
        status: The answer's status, or None where no answer came.
        own_error: Whether the body is the service's own error form.
        reserved: Whether the service says that the backend is reserved.
        transient: For failures without an answer: whether trying again may help at all.
        retry_after: How many seconds the answer asked to wait, or None.
        remaining: How many seconds are left until the call's deadline, or None for no deadline.
    """

    attempt: int
    repeatable: bool
    sent: bool = True
    status: int | None = None
    own_error: bool = False
    reserved: bool = False
    transient: bool = True
    retry_after: float | None = None
    remaining: float | None = None

    @property
    def failure(self) -> str:
        """What the attempt met, in words."""
        return "no answer" if self.status is None else f"status {self.status}"

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        if self.status is None:
            return self.transient
        return self.status in REPEATABLE_STATUSES or self.reserved


@frozen
class Decision:
    """What to do after an attempt that was no success.

    Attributes:
        action: What becomes of the call.
        note: Why the call isn't retried though it could be, or "".
        delay: After how many seconds to retry.
    """

    action: Action
    note: str = ""
    delay: float = 0.0


def _positive(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    # Infinity is refused too: infinity times a jitter of 0 is no number, and a wait without end is no wait.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= sys.float_info.max
    ):
        raise ConfigurationError(
            f"RetryPolicy: {attribute.name} must be a finite number above 0, not {value!r}."
        )


def _count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"RetryPolicy: {attribute.name} must be an int of at least 1, not {value!r}."
        )


def _count_or_none(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        _count(owner, attribute, value)


@frozen(kw_only=True)
class RetryPolicy:
    """How often and how long to try. Waits grow exponentially and are drawn at random from zero up to that ("full jitter").

    A request that creates a session is never repeated when it may have been carried out, whatever the policy.

    Args:
        max_attempts: How many requests a call may send; 1 turns retries off. (One fresh try after a 401 is always allowed.)
        base_delay: The upper bound of the first wait, in seconds; it doubles with each.
        max_delay: The upper bound of any wait, in seconds.
        max_retry_after: The longest Retry-After that is honoured, in seconds; a longer one ends the call at once.
        budget: How many tokens a client has for the retries of all its calls, so that an outage doesn't make it send several times as much
            as before; None for no limit. A retry takes 5, one after no answer 10; a success gives back what its last retry took, else 1.
            Without enough of them calls fail at their first failure, and a note says so; what ends a session is retried all the same.

    Raises:
        ConfigurationError: A number is out of range.
    """

    max_attempts: int = field(default=5, validator=_count)
    base_delay: float = field(default=0.5, validator=_positive)
    max_delay: float = field(default=8.0, validator=_positive)
    max_retry_after: float = field(default=60.0, validator=_positive)
    budget: int | None = field(default=500, validator=_count_or_none)

    def decide(self, facts: Facts, random: Callable[[], float]) -> Decision:
        """Say what becomes of a call.

        Args:
            facts: What is known.
            random: Gives a number from 0 up to 1; what jitter is drawn with.
        """
        if not facts.repeatable and may_be_carried_out(facts):
            return Decision(Action.UNKNOWN)
        if not facts.may_pass:
            return Decision(Action.FAIL)
        if facts.attempt >= self.max_attempts:
            return Decision(Action.FAIL, "gave up at the policy's limit")
        if facts.retry_after is not None and facts.retry_after > self.max_retry_after:
            return Decision(
                Action.FAIL,
                f"the service asks to wait {facts.retry_after:g} s, the policy's limit is {self.max_retry_after:g} s",
            )
        # Jitter comes on top of Retry-After: a thousand clients turned away together must not come back together.
        asked = facts.retry_after or 0.0
        delay = asked + random() * self._bound(facts.attempt)
        if facts.remaining is not None and delay >= facts.remaining:
            wait = (
                f"the service asks to wait {asked:.3g} s"
                if facts.retry_after is not None and asked >= facts.remaining
                else f"the next try would be in {delay:.3g} s"
            )
            return Decision(
                Action.FAIL,
                f"{wait}, the call's deadline is in {max(facts.remaining, 0.0):.3g} s",
            )
        return Decision(Action.RETRY, delay=delay)

    def _bound(self, attempt: int) -> float:
        # The exponent is bounded because 2.0**1024 overflows.
        return min(self.max_delay, self.base_delay * 2.0 ** min(attempt - 1, 60))


class RetryBudget:
    """What one client may still spend on retries, all its calls and token exchanges together: a bucket of tokens.

    Args:
        capacity: How many tokens it holds, and holds at first; None for no limit.
    """

    __slots__ = ("_capacity", "_tokens")

    def __init__(self, capacity: int | None) -> None:
        self._capacity = self._tokens = math.inf if capacity is None else capacity

    def pay(self, cost: int, *, whatever_is_left: bool = False) -> bool:
        """Take tokens and say whether there were enough. `whatever_is_left` makes do with fewer."""
        if self._tokens < cost and not whatever_is_left:
            return False
        self._tokens = max(self._tokens - cost, 0)
        return True

    def earn(self, tokens: int) -> None:
        """Put tokens back."""
        self._tokens = min(self._tokens + tokens, self._capacity)


def retry_cost(facts: Facts) -> int:
    """Say how many tokens another attempt takes after this one."""
    return UNANSWERED_RETRY_COST if facts.status is None else RETRY_COST


def may_be_carried_out(facts: Facts) -> bool:
    """Say whether the service may have done what was asked, though it didn't say so."""
    if facts.status is None:
        return facts.sent
    # 303 says: done, and the result is elsewhere.
    if facts.status == 303:
        return True
    if facts.status < 500 or facts.status in NOT_CARRIED_OUT_STATUSES:
        return False
    return facts.status in NO_PROPER_ANSWER_STATUSES or not facts.own_error


def facts_of(
    request: Request,
    result: Response | QSessionsError,
    *,
    attempt: int = 1,
    remaining: float | None = None,
    now: float = 0.0,
) -> Facts:
    """Tell what is known after an attempt that was no success.

    Args:
        request: What was sent.
        result: The answer, or the error that stands for none.
        attempt: How many attempts were made, this one included.
        remaining: How many seconds are left until the call's deadline, or None for no deadline.
        now: The local wall clock, in seconds since 1970.
    """
    common: dict[str, Any] = {
        "attempt": attempt,
        "repeatable": request.repeatable,
        "remaining": remaining,
    }
    if isinstance(result, Response):
        # Only of these the body makes a difference.
        fault = (
            decode_fault(result.body)
            if result.status >= 500 or result.status == LOCKED_STATUS
            else None
        )
        return Facts(
            status=result.status,
            own_error=fault is not None and fault.own,
            reserved=fault is not None and is_reserved(result.status, fault),
            retry_after=retry_after_of(result, now),
            **common,
        )
    # Time is up, nothing was sent at all, or what answers is no service: trying again would not help.
    transient = isinstance(result, ConnectionFailed) and result.retryable
    sent = getattr(result, "sent", isinstance(result, ProtocolError))
    return Facts(sent=sent, transient=transient, **common)


def is_reserved(status: int, fault: Fault) -> bool:
    """Return whether the service answered that the backend is reserved, which may pass."""
    return status == LOCKED_STATUS and fault.own and BACKEND_RESERVED_CODE in fault.codes


def retry_after_of(response: Response, now: float) -> float | None:
    """Give how many seconds an answer asks to wait, or None. `now` is the local wall clock, in seconds since 1970."""
    return parse_retry_after(response.header("Retry-After"), date=response.header("Date"), now=now)


def parse_retry_after(value: str | None, *, date: str | None, now: float) -> float | None:
    """Read a Retry-After header as seconds from now, at least 0; None where there is none or it can't be read.

    Args:
        value: The header: whole seconds or an HTTP date.
        date: The answer's Date header. An HTTP date is taken relative to it, so that a wrong local clock does no harm.
        now: The local wall clock, in seconds since 1970, for answers without a Date.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        return max(0.0, float(text))
    until = http_date(text)
    if until is None:
        return None
    since = http_date(date)
    return max(0.0, until - (now if since is None else since))
