"""What can go wrong with one request, as a table: the answer, and what each kind of operation makes
of it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time as real
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from attrs import frozen

from qsessions import (
    BadRequest,
    CallTimeout,
    Conflict,
    ConnectionFailed,
    CreateOutcomeUnknown,
    Forbidden,
    NotFound,
    ProtocolError,
    QSessionsError,
    RateLimited,
    ResponseError,
    ServerError,
    Unauthorized,
)
from qsessions.testing import ManualClock
from tests.support.calls import CREATE, GET, SESSION, VERSIONS, WORKLOADS, Row, fault as own
from tests.support.fault_server import Answer, Connection, cut, endless, hang, http, reset, stall
from tests.support.loop_time import late

MIB = 1024 * 1024

# The deadline of a call whose answer never comes, and of any other.
SHORT_S = 2.0
LONG_S = 60.0

# What comes of a create, of a read, and of what needs no answer but a yes. None is success.
Outcome = tuple[type[QSessionsError], type[QSessionsError], type[QSessionsError] | None]
LOST: Outcome = (CreateOutcomeUnknown, ConnectionFailed, ConnectionFailed)
LATE: Outcome = (CreateOutcomeUnknown, CallTimeout, CallTimeout)
UNREADABLE: Outcome = (CreateOutcomeUnknown, ProtocolError, ProtocolError)
# Whoever only waits for a yes has got it.
EMPTY: Outcome = (CreateOutcomeUnknown, ProtocolError, None)


@frozen
class Fault:
    """One thing that goes wrong with an answer, for as long as anybody asks."""

    name: str
    answer: Answer
    outcome: Outcome

    def error(self, row: Row) -> type[QSessionsError] | None:
        """Return the class of what an operation raises, or None where it is a success all the same."""
        if row is CREATE:
            return self.outcome[0]
        return self.outcome[1 if row in {GET, VERSIONS, WORKLOADS} else 2]

    @property
    def is_late(self) -> bool:
        """Whether only the deadline ends it."""
        return self.outcome is LATE

    @property
    def timeout(self) -> float:
        """The deadline of a call that meets it, in seconds."""
        return SHORT_S if self.is_late else LONG_S

    def answer_on(self, time: ManualClock) -> Answer:
        """Return the answer, which moves the clock on to the deadline where only that ends it."""
        return late(self.answer, SHORT_S, time) if self.is_late else self.answer


def _with_length(length: object) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()


async def _interim(connection: Connection) -> None:
    while True:
        await connection.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 10)
        # What is written at once costs the client seconds to read.
        await asyncio.sleep(0)


_BODY = json.dumps(SESSION).encode()
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_PACKED = {"Content-Encoding": "gzip"}
# The beginning of a stream, which goes on in blocks that hold nothing.
_UNENDING = (
    _with_length(100 * MIB)[:-2] + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10]
)

FAULTS = (
    Fault("reset", reset, LOST),
    Fault("end without a word", cut(b""), LOST),
    Fault("half a status line", cut(b"HTTP/1.1 20"), LOST),
    Fault("half a header", cut(b"HTTP/1.1 200 OK\r\nContent-Ty"), LOST),
    Fault("half the headers", cut(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"), LOST),
    Fault("no body", cut(_with_length(len(_BODY))), LOST),
    Fault("half a body", cut(_with_length(len(_BODY)) + _BODY[:20]), LOST),
    Fault("half a chunk", cut(_CHUNKED + b"64\r\n" + _BODY[:20]), LOST),
    Fault("no last chunk", cut(_CHUNKED + b"%x\r\n%s\r\n" % (len(_BODY), _BODY)), LOST),
    Fault("too great a length", cut(_with_length(len(_BODY) + 1) + _BODY), LOST),
    Fault("silence", hang, LATE),
    Fault("slow status line", stall(b"HTTP/1.1 20"), LATE),
    Fault("slow header", stall(b"HTTP/1.1 200 OK\r\nContent-Ty"), LATE),
    Fault("slow body", stall(_with_length(len(_BODY)) + _BODY[:20]), LATE),
    Fault("interim answers without end", _interim, LATE),
    Fault("headers without end", endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100), UNREADABLE),
    Fault("a header without end", endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 1000), UNREADABLE),
    Fault("no HTTP", b"SSH-2.0-x\r\n\r\n", UNREADABLE),
    Fault("a status that is none", b"HTTP/1.1 abc OK\r\n\r\n", UNREADABLE),
    Fault("a length that is none", _with_length("many"), UNREADABLE),
    Fault("a length below zero", _with_length(-1), UNREADABLE),
    Fault("two lengths", http(200, SESSION, headers={"Content-length": "7"}), UNREADABLE),
    Fault("too small a length", _with_length(len(_BODY) - 9) + _BODY, UNREADABLE),
    Fault(
        "101", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", UNREADABLE
    ),
    Fault("204 with a body", http(204, SESSION), UNREADABLE),
    Fault("204", http(204), EMPTY),
    Fault("200 without a body", http(200), EMPTY),
    Fault("100 MB", endless(_with_length(100 * MIB), b" " * MIB), UNREADABLE),
    Fault(
        "chunks without end", endless(_CHUNKED, b"10000\r\n" + b" " * 65_536 + b"\r\n"), UNREADABLE
    ),
    Fault("gzip bomb", http(200, gzip.compress(b" " * (100 * MIB)), headers=_PACKED), UNREADABLE),
    Fault(
        "gzip of nothing without end", endless(_UNENDING, b"\0\0\0\xff\xff" * 10_000), UNREADABLE
    ),
    Fault("packed wrongly", http(200, b"plain", headers=_PACKED), UNREADABLE),
    Fault("HTML", http(200, "<!DOCTYPE html><title>Please log in</title>"), UNREADABLE),
    Fault("no JSON", http(200, b'{"id": "s1", "mo'), UNREADABLE),
    Fault("no UTF-8", http(200, b'{"id": "s1", "user_id": "\xff"}'), UNREADABLE),
    Fault("NaN", http(200, b'{"id": "s1", "elapsed_time": NaN}'), UNREADABLE),
    Fault(
        "a number of 5000 digits",
        http(200, b'{"id": "s1", "max_ttl": %s}' % (b"9" * 5000)),
        UNREADABLE,
    ),
    Fault("100,000 deep", http(200, b'{"id": "s1", "extra": ' + b"[" * 100_000), UNREADABLE),
    Fault("an array", http(200, [SESSION]), UNREADABLE),
    Fault("null", http(200, b"null"), UNREADABLE),
    Fault("an empty object", http(200, {}), EMPTY),
)


async def failure_of(call: Awaitable[object]) -> QSessionsError | None:
    """Wait for a call; return what it raises, or None."""
    try:
        await call
    except QSessionsError as error:
        return error
    return None


@contextmanager
def within(seconds: float, time: ManualClock) -> Iterator[None]:
    """Check that what is done meanwhile ends in time on the test's clock, and doesn't really take
    long either.
    """
    started, began = time.now, real.monotonic()
    yield
    assert time.now - started <= seconds
    assert real.monotonic() - began < LONG_S


# The classes of the API's own refusals; every other status has none.
_CLASSES: dict[int, type[ResponseError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}
STATUSES = (*range(400, 411), 413, 418, 425, 429, 431, 451, *range(500, 525))


def class_of(status: int) -> type[ResponseError]:
    """Return the class of an error status."""
    return _CLASSES.get(status, ServerError if status >= 500 else ResponseError)


REFUSALS = {
    status: Fault(str(status), http(status, own()), (class_of(status),) * 3) for status in STATUSES
}
# After these a request that may be repeated is; after a 401 with a fresh token.
REPEATED = {REFUSALS[status] for status in (401, 429, 500, 502, 503, 504, 520, 521, 522, 524)}
REPEATED |= {fault for fault in FAULTS if fault.outcome is LOST}
# One of each class, and of each class of refusals that is treated otherwise.
FAULT_SAMPLE = tuple(
    fault
    for fault in FAULTS
    if fault.name in {"reset", "silence", "no HTTP"} or fault.outcome is EMPTY
)
SAMPLE = (
    *FAULT_SAMPLE,
    *(REFUSALS[status] for status in (400, 401, 403, 404, 409, 429, 500, 501, 502, 503)),
)
