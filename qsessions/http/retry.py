"""When to retry a request, and how many retries a client may spend. No sleep, no clock."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from attrs import frozen

from qsessions.api.error_body import ErrorBody, decode_error_body
from qsessions.api.messages import Request, Response, http_date
from qsessions.arguments import check_count, check_positive
from qsessions.errors import ConfigurationError, ConnectionFailed, ProtocolError, QSessionsError
from qsessions.values import Value

# The statuses that the official client (0.51) repeats, and 429, which asks for it.
REPEATABLE_STATUSES = frozenset({429, 500, 502, 503, 504, 520, 521, 522, 524})

# Of these, the ones that say that the work was not done, so that even creating a session may be
# repeated: 429 and 503 turn the request away, 521 and 522 are the CDN's word that it could not
# reach the service at all.
NOT_CARRIED_OUT_STATUSES = frozenset({429, 503, 521, 522})

# 423 with this code: the backend is reserved. The service turns the request away as with 503, and
# it may be tried later.
LOCKED_STATUS = 423
BACKEND_RESERVED_CODE = "1233"

# A gateway got no proper answer from the service, so the work may have been done regardless of the
# body. Of the other 5xx, a body in the service's own error form is its word that it failed.
NO_PROPER_ANSWER_STATUSES = frozenset({502, 504, 520, 524})

# What a retry takes out of the budget, as in the standard mode of AWS's SDKs. No answer costs more:
# it held a connection all the while.
RETRY_COST = 5
UNANSWERED_RETRY_COST = 10
# What a success at the first attempt brings in; one after a retry brings back what that took.
SUCCESS_EARNS = 1


class Action(Enum):
    """What becomes of a call after an attempt that was not a success.

    Attributes:
        RETRY: It is sent again after a delay.
        FAIL: The failure is raised.
        UNKNOWN: It may have been carried out, and must not be sent again to find out.
    """

    RETRY = "retry"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Facts(NamedTuple):
    """What is known after an attempt that was not a success.

    Attributes:
        attempt: How many attempts were made, this one included.
        repeatable: Whether carrying the request out twice does no harm.
        sent: Whether the request may have reached the service.
        status: The answer's status, or None where no answer came.
        is_service_error: Whether the body is the service's own error form.
        reserved: Whether the service says that the backend is reserved.
        transient: For failures without an answer: whether trying again may help at all.
        retry_after: How many seconds the answer asked to wait, or None.
        remaining: How many seconds are left until the call's deadline, or None for no deadline.
    """

    attempt: int
    repeatable: bool
    sent: bool = True
    status: int | None = None
    is_service_error: bool = False
    reserved: bool = False
    transient: bool = True
    retry_after: float | None = None
    remaining: float | None = None


class Decision(NamedTuple):
    """What to do after an attempt that was not a success.

    Attributes:
        action: What becomes of the call.
        note: Why the call isn't retried though it could be, or "".
        delay: After how many seconds to retry.
    """

    action: Action
    note: str = ""
    delay: float = 0.0


@frozen(kw_only=True, eq=False, repr=False)
class RetryPolicy(Value):
    """How often and how long to try, with exponential back-off and full jitter.

    A request that creates a session is never repeated when it may have been carried out, whatever
    the policy.

    Args:
        max_attempts: How many requests a call may send; 1 turns retries off. (One fresh try after a
            401 is always allowed.)
        base_delay: The upper bound of the first wait, in seconds; it doubles with each.
        max_delay: The upper bound of any wait, in seconds.
        max_retry_after: The longest Retry-After that is honoured, in seconds; a longer one ends the
            call at once.
        budget: How many tokens a client has for the retries of all its calls, so that an outage
            doesn't make it send several times as much as before; None for no limit. A retry takes
            5, one after no answer 10; a success gives back what its last retry took, else 1.
            Without enough of them calls fail at their first failure, and a note says so; what ends
            a session is retried all the same.

    Raises:
        ConfigurationError: A number is out of range.
    """

    max_attempts: int = 5
    base_delay: float = 0.5
    max_delay: float = 8.0
    max_retry_after: float = 60.0
    budget: int | None = 500

    def __attrs_post_init__(self) -> None:
        check_count("RetryPolicy: max_attempts", self.max_attempts)
        if self.budget is not None:
            check_count("RetryPolicy: budget", self.budget)
        for name in ("base_delay", "max_delay", "max_retry_after"):
            # Infinity times a jitter of 0 is no number, and a wait must end.
            check_positive(f"RetryPolicy: {name}", getattr(self, name), ConfigurationError)

    def decide(self, facts: Facts, random: Callable[[], float]) -> Decision:
        """Return what becomes of a call.

        Args:
            facts: What is known.
            random: Gives a number from 0 up to 1; what jitter is drawn with.
        """
        if not facts.repeatable and may_be_carried_out(facts):
            return Decision(Action.UNKNOWN)
        may_pass = facts.reserved or facts.status in REPEATABLE_STATUSES
        if not (facts.transient if facts.status is None else may_pass):
            return Decision(Action.FAIL)
        if facts.attempt >= self.max_attempts:
            return Decision(Action.FAIL, "retry limit reached")
        if facts.retry_after is not None and facts.retry_after > self.max_retry_after:
            return Decision(
                Action.FAIL,
                f"the service asks to wait {facts.retry_after:g} s, "
                f"the policy's limit is {self.max_retry_after:g} s",
            )
        # Jitter comes on top of Retry-After: a thousand clients turned away together must not come
        # back together.
        asked = facts.retry_after or 0.0
        # The exponent is bounded because 2.0**1024 overflows.
        delay = asked + random() * min(
            self.max_delay, self.base_delay * 2.0 ** min(facts.attempt - 1, 60)
        )
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


class RetryBudget:
    """A bucket of tokens for the retries of one client's calls and token exchanges.

    Args:
        capacity: How many tokens it holds, and holds at first; None for no limit.

    Attributes:
        urgent: How many urgent calls are under way.
    """

    def __init__(self, capacity: int | None) -> None:
        self.urgent = 0
        self._capacity = self._tokens = math.inf if capacity is None else capacity

    def pay(self, cost: int, *, whatever_is_left: bool = False) -> bool:
        """Take tokens and return whether there were enough. `whatever_is_left` accepts fewer."""
        if self._tokens < cost and not whatever_is_left:
            return False
        self._tokens = max(self._tokens - cost, 0)
        return True

    def earn(self, tokens: int) -> None:
        """Put tokens back."""
        if self._tokens < self._capacity:
            self._tokens = min(self._tokens + tokens, self._capacity)


def retry_cost(facts: Facts) -> int:
    """Return how many tokens a retry after this attempt takes."""
    return UNANSWERED_RETRY_COST if facts.status is None else RETRY_COST


def may_be_carried_out(facts: Facts) -> bool:
    """Return whether the service may have carried out the request without saying so."""
    if facts.status is None:
        return facts.sent
    # 303 says: done, and the result is elsewhere.
    if facts.status == 303:
        return True
    if facts.status < 500 or facts.status in NOT_CARRIED_OUT_STATUSES:
        return False
    return facts.status in NO_PROPER_ANSWER_STATUSES or not facts.is_service_error


def facts_of(
    request: Request,
    result: Response | QSessionsError,
    *,
    attempt: int,
    remaining: float | None,
    now: float,
) -> Facts:
    """Return what is known after an attempt that was not a success.

    Args:
        request: What was sent.
        result: The answer, or the error that stands for none.
        attempt: How many attempts were made, this one included.
        remaining: How many seconds are left until the call's deadline, or None for no deadline.
        now: The local wall clock, in seconds since 1970.
    """
    if not isinstance(result, Response):
        return Facts(
            attempt=attempt,
            repeatable=request.repeatable,
            sent=getattr(result, "sent", isinstance(result, ProtocolError)),
            # Else time is up, nothing was sent at all, or it isn't the service that answers: a
            # retry would not help.
            transient=isinstance(result, ConnectionFailed) and result.retryable,
            remaining=remaining,
        )
    status = result.status
    # Only of these the body makes a difference.
    is_read = status >= 500 or status == LOCKED_STATUS
    parsed = decode_error_body(result.body) if is_read else ErrorBody(is_service_error=False)
    return Facts(
        attempt=attempt,
        repeatable=request.repeatable,
        status=status,
        is_service_error=parsed.is_service_error,
        reserved=is_reserved(status, parsed),
        retry_after=retry_after_of(result, now),
        remaining=remaining,
    )


def is_reserved(status: int, parsed: ErrorBody) -> bool:
    """Return whether the service answered that the backend is reserved, which may pass."""
    return (
        status == LOCKED_STATUS
        and parsed.is_service_error
        and BACKEND_RESERVED_CODE in parsed.codes
    )


def retry_after_of(response: Response, now: float) -> float | None:
    """Return how many seconds an answer asks to wait, or None where it doesn't or is unreadable.

    Args:
        response: The answer. An HTTP date in its Retry-After is taken relative to its Date, so that
            a wrong local clock does no harm.
        now: The local wall clock, in seconds since 1970, for answers without a Date.
    """
    text = (response.header("Retry-After") or "").strip()
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        return max(0.0, float(text))
    until, since = http_date(text), http_date(response.header("Date"))
    return None if until is None else max(0.0, until - (now if since is None else since))
