"""When a request is sent again: one table for the contract, and properties for what a table can't
hold.
"""

import math
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qsessions import ConfigurationError, Response, RetryPolicy
from qsessions.http.retry import (
    Action,
    Decision,
    Facts,
    RetryBudget,
    may_be_carried_out,
    retry_after_of,
    retry_cost,
)
from tests.support.tables import table

RETRY, FAIL, UNKNOWN = Action.RETRY, Action.FAIL, Action.UNKNOWN
NOW = 1_780_000_000.0
POLICY = RetryPolicy()


def decide(policy: RetryPolicy = POLICY, chance: float = 0.5, **facts: Any) -> Decision:
    """A decision after the first attempt, unless told otherwise."""
    return policy.decide(Facts(**{"attempt": 1, "repeatable": True, **facts}), lambda: chance)


# What came of an attempt: (facts, for a request that may be repeated, for creating a session).
CONTRACT: list[tuple[dict[str, Any], Action, Action]] = [
    # No answer: only a request that can't have reached the service is safe to send again whatever
    # it asks.
    ({"sent": False}, RETRY, RETRY),
    ({"sent": True}, RETRY, UNKNOWN),
    ({"sent": False, "transient": False}, FAIL, FAIL),
    ({"sent": True, "transient": False}, FAIL, UNKNOWN),
    # The service turns the request away.
    ({"status": 429}, RETRY, RETRY),
    ({"status": 429, "is_service_error": True}, RETRY, RETRY),
    ({"status": 503}, RETRY, RETRY),
    ({"status": 503, "is_service_error": True}, RETRY, RETRY),
    # The CDN could not reach the service.
    ({"status": 521}, RETRY, RETRY),
    ({"status": 522}, RETRY, RETRY),
    # The service's word that it failed, and an HTML page, which is nobody's word.
    ({"status": 500, "is_service_error": True}, RETRY, RETRY),
    ({"status": 500, "is_service_error": False}, RETRY, UNKNOWN),
    # A gateway got no proper answer: the body's form says nothing about the service behind it.
    ({"status": 502}, RETRY, UNKNOWN),
    ({"status": 502, "is_service_error": True}, RETRY, UNKNOWN),
    ({"status": 504}, RETRY, UNKNOWN),
    ({"status": 504, "is_service_error": True}, RETRY, UNKNOWN),
    ({"status": 520}, RETRY, UNKNOWN),
    ({"status": 520, "is_service_error": True}, RETRY, UNKNOWN),
    ({"status": 524}, RETRY, UNKNOWN),
    ({"status": 524, "is_service_error": True}, RETRY, UNKNOWN),
    # Statuses that trying again doesn't mend.
    ({"status": 501, "is_service_error": True}, FAIL, FAIL),
    ({"status": 501}, FAIL, UNKNOWN),
    ({"status": 523}, FAIL, UNKNOWN),
    ({"status": 599}, FAIL, UNKNOWN),
    # The answer that says that it was done.
    ({"status": 303}, FAIL, UNKNOWN),
    # Answers that say that nothing was done.
    ({"status": 302}, FAIL, FAIL),
    ({"status": 400, "is_service_error": True}, FAIL, FAIL),
    ({"status": 401, "is_service_error": True}, FAIL, FAIL),
    ({"status": 403}, FAIL, FAIL),
    ({"status": 404}, FAIL, FAIL),
    ({"status": 408}, FAIL, FAIL),
    ({"status": 409}, FAIL, FAIL),
    ({"status": 413}, FAIL, FAIL),
    ({"status": 499}, FAIL, FAIL),
]


@pytest.mark.smoke
@table(("facts", "repeatable", "creating"), CONTRACT)
def test_contract(facts: dict[str, Any], repeatable: Action, creating: Action) -> None:
    """A request is repeated where that may help and can do no harm; a create that may have been
    carried out never is.
    """
    assert decide(**facts, repeatable=True).action is repeatable
    assert decide(**facts, repeatable=False).action is creating


@table(
    ("facts", "decision"),
    [
        ({"status": 503}, Decision(RETRY, delay=0.25)),
        ({"sent": False}, Decision(RETRY, delay=0.25)),
        ({"status": 404}, Decision(FAIL)),
        ({"sent": False, "transient": False}, Decision(FAIL)),
        (
            {"status": 502, "repeatable": False},
            Decision(UNKNOWN),
        ),
        ({"repeatable": False}, Decision(UNKNOWN)),
        (
            {"status": 503, "attempt": 5},
            Decision(FAIL, "retry limit reached"),
        ),
        (
            {"status": 429, "retry_after": 61.0},
            Decision(FAIL, "the service asks to wait 61 s, the policy's limit is 60 s"),
        ),
        (
            {"status": 429, "retry_after": math.inf},
            Decision(FAIL, "the service asks to wait inf s, the policy's limit is 60 s"),
        ),
        (
            {"status": 503, "remaining": 0.25},
            Decision(
                FAIL,
                "the next try would be in 0.25 s, the call's deadline is in 0.25 s",
            ),
        ),
        (
            {"status": 503, "retry_after": 30.0, "remaining": 12.5},
            Decision(FAIL, "the service asks to wait 30 s, the call's deadline is in 12.5 s"),
        ),
        (
            {"status": 503, "retry_after": 30.0, "remaining": 30.1},
            Decision(
                FAIL,
                "the next try would be in 30.2 s, the call's deadline is in 30.1 s",
            ),
        ),
        (
            {"status": 503, "remaining": -3.0},
            Decision(FAIL, "the next try would be in 0.25 s, the call's deadline is in 0 s"),
        ),
    ],
)
def test_reasons(facts: dict[str, Any], decision: Decision) -> None:
    """Each decision says why, except where the failure says all."""
    assert decide(**facts) == decision


@table(
    ("attempt", "bound"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (10_000, 8.0)],
)
def test_growth(attempt: int, bound: float) -> None:
    """The upper bound of the wait doubles with each attempt up to its limit, and the wait is drawn
    from zero up to it.
    """
    policy = RetryPolicy(max_attempts=100_000)
    for chance in (0.0, 0.25, 0.999):
        assert decide(policy, chance, status=503, attempt=attempt).delay == chance * bound


@table(
    ("retry_after", "chance", "delay"),
    [(0.0, 0.5, 0.25), (2.0, 0.0, 2.0), (2.0, 0.5, 2.25), (60.0, 0.5, 60.25)],
)
def test_retry_after(retry_after: float, chance: float, delay: float) -> None:
    """The service's wish is a lower bound, jitter comes on top, and a wish up to the limit is
    honoured.
    """
    assert decide(chance=chance, status=429, retry_after=retry_after) == Decision(
        RETRY, delay=delay
    )


def test_one_attempt() -> None:
    """A policy of one attempt repeats nothing."""
    once = RetryPolicy(max_attempts=1)
    for facts, _, _ in CONTRACT:
        assert decide(once, **facts).action is FAIL


def test_deadline_leaves_room() -> None:
    """A try that begins before the deadline is made; one at the deadline or after is not."""
    assert decide(status=503, remaining=0.26).action is RETRY
    assert decide(status=503, remaining=0.25).action is FAIL
    assert decide(status=503, remaining=-1.0).action is FAIL


SECONDS = st.floats(0, 1e6)
FACTS = st.builds(
    Facts,
    attempt=st.integers(1, 2000),
    repeatable=st.booleans(),
    sent=st.booleans(),
    status=st.none()
    | st.sampled_from([303, 400, 401, 404, 429, *range(500, 528)])
    | st.integers(300, 599),
    is_service_error=st.booleans(),
    transient=st.booleans(),
    retry_after=st.none() | SECONDS,
    remaining=st.none() | st.floats(-10, 1e6),
)
POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 2000),
    base_delay=st.floats(1e-6, 1e6),
    max_delay=st.floats(1e-6, 1e6),
    max_retry_after=st.floats(1e-6, 1e6),
)
CHANCES = st.floats(0, 1, exclude_max=True)


@given(FACTS, POLICIES, CHANCES)
def test_retry_is_bounded(facts: Facts, policy: RetryPolicy, chance: float) -> None:
    """A retry stays within the attempts, the waits, the Retry-After limit and the deadline that
    were set, and can do no harm.
    """
    decision = policy.decide(facts, lambda: chance)
    if decision.action is not RETRY:
        assert decision.delay == 0
        return
    asked = facts.retry_after or 0.0
    assert facts.attempt < policy.max_attempts
    assert asked <= policy.max_retry_after
    assert asked <= decision.delay <= asked + policy.max_delay
    assert decision.delay <= asked + policy.base_delay * 2.0 ** (
        facts.attempt - 1 if facts.attempt < 61 else 60
    )
    assert facts.remaining is None or decision.delay < facts.remaining
    assert facts.repeatable or not may_be_carried_out(facts)


@given(FACTS, POLICIES, CHANCES)
def test_unknown_is_for_creates(facts: Facts, policy: RetryPolicy, chance: float) -> None:
    """The outcome is unknown exactly when a request that must not be repeated may have been carried
    out, whatever the policy.
    """
    unknown = policy.decide(facts, lambda: chance).action is UNKNOWN
    assert unknown == (not facts.repeatable and may_be_carried_out(facts))


@given(FACTS)
def test_no_answer_that_was_sent_may_be_carried_out(facts: Facts) -> None:
    """Without an answer, what was sent may have been carried out; one below 500 says that it was
    not, but for 303, which says it was.
    """
    if facts.status is None:
        assert may_be_carried_out(facts) == facts.sent
    elif facts.status < 500:
        assert may_be_carried_out(facts) == (facts.status == 303)


@given(st.integers(1, 1000), st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 20))))
def test_budget_is_kept_to(capacity: int, steps: list[tuple[bool, bool, int]]) -> None:
    """What was paid is never more than the capacity and what was earned, save for what must not be
    refused, and it never holds more.
    """
    budget, left = RetryBudget(capacity), capacity
    for earning, needed, tokens in steps:
        if earning:
            budget.earn(tokens)
            left = min(left + tokens, capacity)
        else:
            assert budget.pay(tokens, whatever_is_left=needed) == (needed or tokens <= left)
            left = max(left - tokens, 0) if needed or tokens <= left else left
    assert not budget.pay(left + 1)
    assert budget.pay(left)


def test_a_budget_that_is_spent() -> None:
    """What there isn't enough for is refused, and takes nothing."""
    budget = RetryBudget(5)
    assert [budget.pay(cost) for cost in (3, 3, 2, 1)] == [True, False, True, False]


def test_no_budget_is_no_limit() -> None:
    """Without a capacity nothing is refused."""
    budget = RetryBudget(None)
    assert all(budget.pay(10**6) for _ in range(100))
    budget.earn(1)
    assert budget.pay(10**9)


def test_what_a_retry_costs() -> None:
    """A retry after an answer takes half of what one after none takes."""
    answered = Facts(attempt=1, repeatable=True, status=503)
    assert (retry_cost(answered), retry_cost(Facts(attempt=1, repeatable=True))) == (5, 10)


@table("value", [0, -1, 1.5, True, "5"])
def test_budget_refused(value: Any) -> None:
    """The budget is an int of at least 1, or None."""
    with pytest.raises(
        ConfigurationError, match=r"^RetryPolicy: budget must be an int of at least 1, not "
    ):
        RetryPolicy(budget=value)


@table("value", [0, -1, 1.5, 5.0, True, "5", None])
def test_max_attempts_refused(value: Any) -> None:
    """The number of attempts is an int of at least 1."""
    with pytest.raises(
        ConfigurationError, match=r"^RetryPolicy: max_attempts must be an int of at least 1, not "
    ):
        RetryPolicy(max_attempts=value)


@table("name", ["base_delay", "max_delay", "max_retry_after"])
@table("value", [0, -0.5, True, "1", None, math.nan, math.inf, 10**400])
def test_seconds_refused(name: str, value: Any) -> None:
    """Seconds are a finite number above 0: an endless wait times a jitter of 0 is no number at all."""
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(
        ConfigurationError, match=f"^RetryPolicy: {name} must be a finite number above 0, not "
    ):
        RetryPolicy(**wrong)


def parse_retry_after(value: str | None, *, date: str | None, now: float) -> float | None:
    """What is made of an answer's headers."""
    headers = {"Retry-After": value, "Date": date}
    present = {name: text for name, text in headers.items() if text is not None}
    return retry_after_of(Response(429, present), now)


def http_date(seconds: float) -> str:
    """A time as an HTTP date."""
    return formatdate(NOW + seconds, usegmt=True)


@table(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        # Seconds.
        ("0", None, 0.0),
        ("120", None, 120.0),
        (" 120 ", None, 120.0),
        ("+5", None, 5.0),
        ("1.5", None, 1.5),
        ("-5", None, 0.0),
        ("-0.5", None, 0.0),
        ("9" * 30, None, 1e30),
        ("9" * 400, None, math.inf),
        ("120", http_date(-500), 120.0),
        # HTTP dates, relative to the answer's Date where it has one, so that a wrong local clock
        # does no harm.
        (http_date(30), None, 30.0),
        (http_date(-30), None, 0.0),
        (http_date(0), None, 0.0),
        (http_date(30), http_date(0), 30.0),
        (http_date(3630), http_date(3600), 30.0),
        (http_date(-3570), http_date(-3600), 30.0),
        (http_date(30), http_date(60), 0.0),
        (http_date(30), "", 30.0),
        (http_date(30), "garbage", 30.0),
        ("Thu, 28 May 2026 20:27:10 -0000", None, 30.0),
        ("Thu, 28 May 2026 22:27:10 +0200", None, 30.0),
        ("Thursday, 28-May-26 20:27:10 GMT", None, 30.0),
        ("Thu May 28 20:27:10 2026", None, 30.0),
        # What can't be read asks for nothing.
        ("", None, None),
        ("soon", None, None),
        ("nan", None, None),
        ("inf", None, None),
        ("1e3", None, None),
        ("0x10", None, None),
        ("1,5", None, None),
        ("\u0663", None, None),
        ("5 seconds", None, None),
        ("Thu, 99 May 2026 20:27:10 GMT", None, None),
        ("Thu, 28 May 99999 20:27:10 GMT", None, None),
        ("Thu, 28 May 2026 20:27:10 +9999999999", None, None),
    ],
)
def test_parse_retry_after(value: str | None, date: str | None, seconds: float | None) -> None:
    """Both forms of Retry-After become seconds from now, never less than 0, and garbage becomes
    None.
    """
    assert parse_retry_after(value, date=date, now=NOW) == (
        seconds if seconds is None else pytest.approx(seconds)
    )


@given(st.text(), st.none() | st.text())
def test_parse_any_retry_after(value: str, date: str | None) -> None:
    """Whatever a server puts into the header, it is read or passed over, and never raises."""
    seconds = parse_retry_after(value, date=date, now=NOW)
    assert seconds is None or seconds >= 0


PIECES = st.sampled_from(
    [
        "Thu",
        ",",
        " ",
        "28",
        "May",
        "2026",
        "20:27:10",
        "GMT",
        "+0200",
        "-99999999",
        "0",
        ":",
        "99999999999",
        "(",
        ")",
    ]
)


@given(st.lists(PIECES).map("".join), st.lists(PIECES).map(" ".join))
def test_parse_almost_dates(value: str, date: str) -> None:
    """What looks like a date but is none is passed over too."""
    seconds = parse_retry_after(value, date=date, now=NOW)
    assert seconds is None or seconds >= 0
