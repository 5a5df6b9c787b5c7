"""What is sent again and when, checked for one operation and one answer."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from qsessions import RateLimited, ResponseError
from tests.support.calls import DRAIN, GET, Row, fault, scripted
from tests.support.fault_server import http
from tests.support.tables import row_of_table

OWN = fault("Internal error.")
HTML = "<html><title>Oops</title></html>"
REPEATED_STATUSES = (429, 500, 502, 503, 504, 520, 521, 522, 524)
FINAL_STATUSES = (400, 403, 404, 409, 410, 501, 505, 523, 525)


async def check_repeated(row: Row, status: int, body: object) -> None:
    """Check that a call is sent again after an answer that is worth it."""
    with row_of_table(row.name, status, body):
        async with scripted(http(status, body), row.success) as (server, client, time):
            await row(client)
        sent = [(request.method, request.target.partition("?")[0]) for request in server.received]
        assert sent == [(row.method, row.path)] * 2
        assert time.slept == [0.25]


async def check_not_repeated(row: Row, status: int, body: object) -> None:
    """Check that an answer which would come again ends a call at the first attempt."""
    script = [http(status, body), GET.success] if row is DRAIN else [http(status, body)]
    with row_of_table(row.name, status, body):
        async with scripted(*script) as (server, client, time):
            with pytest.raises(ResponseError) as caught:
                await row(client)
        error = caught.value
        assert (error.attempts, error.status, error.retryable) == (1, status, False)
        assert server.count(row.method) == 1
        assert time.slept == []


NOON = 1_780_000_000.0
# The headers, and the seconds that they ask for.
RETRY_AFTER: tuple[tuple[dict[str, str], float], ...] = (
    ({"Retry-After": "7"}, 7.0),
    ({"retry-after": " 7 "}, 7.0),
    ({"Retry-After": "0"}, 0.0),
    ({"Retry-After": "-5"}, 0.0),
    ({"Retry-After": "1.5"}, 1.5),
    ({"Retry-After": "59"}, 59.0),
    ({"Retry-After": formatdate(NOON + 9, usegmt=True)}, 9.0),
    ({"Retry-After": formatdate(NOON - 9, usegmt=True)}, 0.0),
    (
        {
            "Retry-After": formatdate(NOON + 5000, usegmt=True),
            "Date": formatdate(NOON + 4990, usegmt=True),
        },
        10.0,
    ),
    ({"Retry-After": "soon"}, 0.0),
    ({"Retry-After": ""}, 0.0),
    ({"Retry-After": "Thu, 99 Foo 2026 99:00:00 GMT"}, 0.0),
    ({"Retry-After": "1e3"}, 0.0),
)
TOO_LONG = ("61", "86400", "9" * 400, formatdate(NOON + 61, usegmt=True))


async def check_retry_after(row: Row, status: int, headers: dict[str, str], asked: float) -> None:
    """Check that a call is sent again after the time that the service asks for, and some more."""
    with row_of_table(row.name, status, headers):
        async with scripted(http(status, OWN, headers=headers), row.success) as script:
            await row(script.client)
        assert script.time.slept == [pytest.approx(asked + 0.25)]
        assert len(script.server.received) == 2


async def check_too_long(row: Row, asked: str) -> None:
    """Check that a call ends at once when the service asks for more time than the policy's limit."""
    with row_of_table(row.name, asked[:30]):
        async with scripted(http(429, OWN, headers={"Retry-After": asked})) as script:
            with pytest.raises(RateLimited) as caught:
                await row(script.client, timeout=None)
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 61
        assert "the service asks to wait" in caught.value.__notes__[0]
        assert "limit is 60 s" in caught.value.__notes__[0]
        assert (len(script.server.received), script.time.slept) == (1, [])
