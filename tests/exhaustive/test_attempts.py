"""The long form of tests/integration/test_attempts.py: each operation with everything."""

from __future__ import annotations

from itertools import product

from tests.support.attempt_checks import (
    FINAL_STATUSES,
    HTML,
    OWN,
    REPEATED_STATUSES,
    RETRY_AFTER,
    TOO_LONG,
    check_not_repeated,
    check_repeated,
    check_retry_after,
    check_too_long,
)
from tests.support.calls import CREATE, ROWS, Row, each

each_other = each(*(row for row in ROWS if row is not CREATE))


@each_other
async def test_what_may_be_repeated_is_repeated(row: Row) -> None:
    """Every operation but create is sent again after each status that is worth it."""
    for status, body in product(REPEATED_STATUSES, (OWN, HTML, b"")):
        await check_repeated(row, status, body)


@each_other
async def test_what_would_fail_again_is_not_repeated(row: Row) -> None:
    """A status that would come again ends the call at the first attempt."""
    for status, body in product(FINAL_STATUSES, (OWN, HTML)):
        await check_not_repeated(row, status, body)


@each()
async def test_a_retry_after_is_kept_to(row: Row) -> None:
    """A Retry-After of any form is waited for, with jitter on top."""
    for status, (headers, asked) in product((429, 503, 500), RETRY_AFTER):
        await check_retry_after(row, status, headers, asked)


@each()
async def test_a_retry_after_over_the_limit_ends_the_call(row: Row) -> None:
    """A Retry-After above the policy's limit, of any form, ends the call at once."""
    for asked in TOO_LONG:
        await check_too_long(row, asked)
