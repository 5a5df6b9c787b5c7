"""What each operation makes of an answer that is wrong, unusual, or of IAM, checked one by one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
from attrs import frozen

from qsessions import (
    CallTimeout,
    ConnectionFailed,
    CreateOutcomeUnknown,
    IBMCloudAuth,
    ProtocolError,
    QSessionsError,
    ResponseError,
    ServiceCRN,
    TokenExchangeFailed,
)
from qsessions.testing import ManualClock
from tests.support.calls import (
    CREATE,
    GET,
    NO_WORKLOADS,
    SESSION,
    VERSIONS,
    WORKLOAD,
    WORKLOADS,
    Row,
    fault as own,
    scripted,
)
from tests.support.clients import CRN
from tests.support.fault_server import (
    Answer,
    Connection,
    FaultServer,
    cut,
    hang,
    http,
    reset,
    stall,
)
from tests.support.faults import LONG_S, SHORT_S, Fault, class_of, failure_of, within
from tests.support.loop_time import late
from tests.support.tables import row_of_table


async def check_fault(fault: Fault, row: Row) -> None:
    """Check that a call which meets a fault ends in time, as what happened, leaves nothing behind,
    and that the next one works.
    """
    expected = fault.error(row)
    with row_of_table(fault.name, row.name):
        async with scripted(max_concurrency=1) as (server, client, time):
            server.answers = [fault.answer_on(time)]
            with within(fault.timeout, time):
                error = await failure_of(row(client, timeout=fault.timeout))
            sent = server.count("POST")
            server.answers = [row.success]
            await row(client)
        assert (error and type(error)) is expected
        if error is None:
            return
        assert (error.operation, error.session_id) == (row.name, row.session_id)
        assert (error.method, error.path) == (row.method, row.path)
        assert (error.__cause__, error.__context__) == (None, None)
        if isinstance(error, CreateOutcomeUnknown):
            assert (error.attempts, sent) == (1, 1)
            # Nor is any time left to look for candidates.
            assert error.candidates is None or not fault.is_late


# Only these say of a create that nothing was done, whoever says it; of the rest from 500 on only
# the service itself can.
TURNED_AWAY = {503, 521, 522}
NO_PROPER_ANSWER = {502, 504, 520, 524}
BODIES = {"own": own(), "HTML": "<html><title>Oh no</title></html>", "empty": b""}


async def check_status(status: int, body: str, row: Row) -> None:
    """Check the class of a refusal with a status and one of the `BODIES`."""
    expected: type[QSessionsError] = class_of(status)
    if row is CREATE and status >= 500 and status not in TURNED_AWAY:
        own_word = body == "own" and status not in NO_PROPER_ANSWER
        expected = expected if own_word else CreateOutcomeUnknown
    if (status == 404 and body != "own") or (status in {401, 403} and body == "HTML"):
        expected = ResponseError
    with row_of_table(status, body, row.name):
        async with scripted(http(status, BODIES[body])) as (server, client, time):
            with within(LONG_S, time), pytest.raises(expected) as caught:
                await row(client)
        assert (type(caught.value), caught.value.status) == (expected, status)
        if expected is CreateOutcomeUnknown:
            assert server.count("POST") == 1


REDIRECTS = (300, 301, 302, 303, 307, 308)


async def check_redirect(status: int, row: Row) -> None:
    """Check that a redirect is an error, and that the server which it leads to hears nothing."""
    with row_of_table(status, row.name):
        async with FaultServer(row.success) as other:
            answer = http(status, headers={"Location": f"{other.url}{row.path}"})
            async with scripted(answer) as (server, client, _):
                with pytest.raises(QSessionsError, match="redirect") as caught:
                    await row(client)
            assert type(caught.value) is (
                CreateOutcomeUnknown if row is CREATE and status == 303 else ResponseError
            )
            assert (server.count(row.method), other.connections) == (1, 0)


def _split(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def _by_end(answer: bytes) -> Answer:
    first, body = _split(answer)
    return cut(first + b"\r\n\r\n" + body) if body else answer


def _in_chunks(answer: bytes) -> Answer:
    first, body = _split(answer)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-Trailer: x\r\n\r\n"
    return first + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks if body else answer


def _byte_by_byte(answer: bytes) -> Answer:
    async def drip(connection: Connection) -> None:
        for byte in answer:
            await connection.write(bytes([byte]))

    return drip


HARMLESS: dict[str, Callable[[bytes], Answer]] = {
    "wrong content type": lambda answer: answer.replace(
        b"application/json", b"text/html; charset=latin-1"
    ),
    "no content type": lambda answer: answer.replace(b"Content-Type", b"X-Nothing"),
    "interim answers": lambda answer: (
        b"".join(b"HTTP/1.1 %d Wait\r\nLink: x\r\n\r\n" % status for status in (100, 102, 103))
        + answer
    ),
    "no length": _by_end,
    "chunks of a byte": _in_chunks,
    "byte by byte": _byte_by_byte,
    "HTTP/1.0": lambda answer: answer.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "duplicate headers": lambda answer: answer.replace(
        b"\r\n\r\n", b"\r\nX-A: 1\r\nX-A: 2\r\n\r\n", 1
    ),
}


async def check_form(form: str, row: Row) -> None:
    """Check that an answer of an unusual form is read, twice."""
    with row_of_table(form, row.name):
        async with scripted(HARMLESS[form](row.success)) as (server, client, _):
            await row(client)
            await row(client)
        assert server.count(row.method) == 2


SESSION_FIELDS = (
    *(
        "id",
        "backend_name",
        "mode",
        "state",
        "state_reason",
        "accepting_jobs",
        "started_at",
        "activated_at",
    ),
    *(
        "closed_at",
        "last_job_started",
        "last_job_completed",
        "interactive_ttl",
        "max_ttl",
        "active_ttl",
    ),
    *("timestamps", "user_id", "elapsed_time"),
)
WORKLOAD_FIELDS = (
    *(
        "id",
        "created",
        "ended",
        "backend",
        "instance",
        "user_id",
        "accepting_jobs",
        "mode",
        "status",
    ),
    *("status_reason", "tags", "usage_seconds"),
)
VERSION = {"version": "2026-04-15", "status": "live"}
CHANGE = {"status": "open", "timestamp": "2026-05-01T12:00:00Z"}
# Whatever a field holds, one of these isn't it.
WRONG: tuple[object, ...] = ({}, {"a": 1}, [[]], [None], "no", -1.5, True)


@frozen
class Shape:
    """A field of an answer, and the answer that holds a value in it."""

    row: Row
    field: str
    answer: Callable[[object], object]


def _in(answer: dict[str, Any], field: str) -> Callable[[object], dict[str, Any]]:
    return lambda value: answer | {field: value}


def _within(
    name: str, item: dict[str, Any], field: str, answer: dict[str, Any] | None = None
) -> Callable[[object], dict[str, Any]]:
    return lambda value: (answer or {}) | {name: [item | {field: value}]}


SHAPES = (
    *(Shape(row, field, _in(SESSION, field)) for row in (CREATE, GET) for field in SESSION_FIELDS),
    *(
        Shape(row, f"[0].{field}", _within("timestamps", CHANGE, field, SESSION))
        for row in (CREATE, GET)
        for field in CHANGE
    ),
    *(
        Shape(row, "timestamps", lambda value: SESSION | {"timestamps": [value]})
        for row in (CREATE, GET)
    ),
    *(
        Shape(row, "'timestamp'", _within("timestamps", {"status": "open"}, "more", SESSION))
        for row in (CREATE, GET)
    ),
    Shape(WORKLOADS, "next", lambda value: NO_WORKLOADS | {"next": {"href": value}}),
    *(Shape(WORKLOADS, field, _within("workloads", WORKLOAD, field)) for field in WORKLOAD_FIELDS),
    *(Shape(WORKLOADS, field, _in(NO_WORKLOADS, field)) for field in NO_WORKLOADS),
    *(
        Shape(VERSIONS, field, _within("versions", VERSION, field))
        for field in (*VERSION, "sunset_date")
    ),
    Shape(VERSIONS, "versions", _in({}, "versions")),
)


async def check_shape(shape: Shape) -> None:
    """Check that a field which doesn't hold what it should is named, and that of a create the
    session's id is known all the same.
    """
    expected = CreateOutcomeUnknown if shape.row is CREATE else ProtocolError
    refused: list[QSessionsError] = []
    with row_of_table(shape.row.name, shape.field):
        async with scripted() as (server, client, _):
            for value in WRONG:
                server.answers, server.received = [http(200, shape.answer(value))], []
                if error := await failure_of(shape.row(client)):
                    refused.append(error)
                assert server.count(shape.row.method) == 1
        # Text and true are right for some.
        assert len(refused) >= len(WRONG) - 2
        assert {type(failure) for failure in refused} == {expected}
        assert all(shape.field in failure.message for failure in refused)
        if expected is CreateOutcomeUnknown:
            known = None if shape.field == "id" else "s1"
            assert {failure.session_id for failure in refused} == {known}


def bad_tls(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    """Return the TLS settings of servers that nobody should talk to, by what is wrong with them.

    Args:
        authority: One that the client trusts.
    """
    then = datetime(2020, 1, 1, tzinfo=UTC)
    certificates = {
        "unknown CA": trustme.CA().issue_cert("127.0.0.1"),
        "expired": authority.issue_cert(
            "127.0.0.1", not_before=then, not_after=then + timedelta(days=30)
        ),
        "wrong name": authority.issue_cert("elsewhere.example"),
    }
    settings = {}
    for name, certificate in certificates.items():
        settings[name] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(settings[name])
    return settings


async def check_certificate(
    row: Row, *, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Check that a server with a wrong certificate hears nothing, not even of a second try."""
    async with scripted(row.success, tls=server_tls, ssl=client_tls) as (server, client, _):
        with pytest.raises(ConnectionFailed, match="certificate can't be trusted") as caught:
            await row(client)
    error = caught.value
    assert (error.sent, error.retryable, error.attempts) == (False, False, 1)
    assert error.solution
    assert server.received == []


TOKEN = {"access_token": "token", "expires_in": 3600}
IAM_FAULTS: dict[str, tuple[Answer, type[QSessionsError]]] = {
    "silence": (hang, CallTimeout),
    "slow body": (stall(http(200, TOKEN)[:-5]), CallTimeout),
    "reset": (reset, ConnectionFailed),
    "half a body": (cut(http(200, TOKEN)[:-5]), ConnectionFailed),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", ProtocolError),
    "HTML": (http(200, "<title>Please log in</title>"), TokenExchangeFailed),
    "503": (http(503), TokenExchangeFailed),
    "an HTML 502": (http(502, "<title>Bad gateway</title>"), TokenExchangeFailed),
    "wrong key": (
        http(400, {"errorCode": "BXNIM0415E", "errorMessage": "No such key."}),
        TokenExchangeFailed,
    ),
    "a token that has expired": (http(200, TOKEN | {"expires_in": 0}), TokenExchangeFailed),
    "a redirect": (http(307, headers={"Location": "http://127.0.0.1:1/"}), TokenExchangeFailed),
}


async def check_iam(wrong: str, row: Row) -> None:
    """Check that a call which needs a token fails within its deadline with one of the `IAM_FAULTS`,
    and that the service hears nothing of it.
    """
    answer, expected = IAM_FAULTS[wrong]
    time, is_late = ManualClock(), expected is CallTimeout
    with row_of_table(wrong, row.name):
        async with FaultServer(late(answer, SHORT_S, time) if is_late else answer) as iam:
            auth = [IBMCloudAuth("key", iam.url, clock=time), ServiceCRN(CRN)]
            # One that IAM doesn't answer goes on for whoever asks next, until its own deadline.
            left = int(is_late and row is not VERSIONS)
            async with scripted(row.success, time=time, auth=auth, exchanges=left) as script:
                server, client, _ = script
                timeout = SHORT_S if is_late else LONG_S
                if row is VERSIONS:  # which takes no credentials
                    await row(client, timeout=timeout)
                    return
                with within(timeout, time), pytest.raises(expected) as caught:
                    await row(client, timeout=timeout)
            await iam.idle()
        assert type(caught.value) is expected
        assert server.received == []
        assert "key" not in str(caught.value).replace("API key", "").replace("such key", "")
