"""Each fault of the network, of the service and of what stands between, with each operation."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
from attrs import frozen

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    Clock,
    ConnectionFailed,
    CreateOutcomeUnknown,
    IBMCloudAuth,
    ProtocolError,
    QSessionsError,
    ResponseError,
    RetryPolicy,
    ServerError,
    ServiceCRN,
    TokenExchangeFailed,
)
from tests.support.calls import (
    CREATE,
    GET,
    NO_WORKLOADS,
    SESSION,
    VERSIONS,
    WORKLOAD,
    WORKLOADS,
    Row,
    each,
    fault as own,
)
from tests.support.clients import CRN, static_auth
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
from tests.support.faults import (
    LONG_S,
    SHORT_S,
    STATUSES,
    Fault,
    class_of,
    each_fault,
    failure_of,
    within,
)
from tests.support.leaks import leaving_nothing
from tests.support.manual_clock import ManualClock


def client_of(
    server: FaultServer, *, exchanges: int = 0, **options: Any
) -> AbstractAsyncContextManager[AsyncSessionClient]:
    """Give a client of a server that must leave nothing behind but so many exchanges for a token."""
    options = {"auth": static_auth(), "base_url": server.url} | options
    return leaving_nothing(AsyncSessionClient(**options), server, exchanges=exchanges)


@each_fault()
@each()
async def test_each_fault_has_its_class(fault: Fault, row: Row, time: ManualClock) -> None:
    """Whatever comes in place of an answer, the call ends in time, as what happened, and leaves
    nothing behind; the next one works.
    """
    expected = fault.error(row)
    # What only the deadline ends is measured on a clock that goes on meanwhile.
    clock = Clock() if fault.is_late else time.clock
    async with (
        FaultServer(fault.answer) as server,
        client_of(server, clock=clock, max_concurrency=1) as client,
    ):
        with within(fault.timeout, time):
            error = await failure_of(row(client, timeout=fault.timeout))
        sent = server.count("POST")
        server.answers = [row.success]
        await row(client)
    if expected is None:
        assert error is None
        return
    assert error is not None
    assert type(error) is expected
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


@pytest.mark.parametrize("status", STATUSES)
@each()
async def test_each_status_has_its_class(status: int, row: Row, time: ManualClock) -> None:
    """A refusal has the class of its status, whoever wrote its body, but for three: a create that
    may have been carried out is unknown, a 404 of another form than the service's is no `NotFound`,
    and an HTML page with 401 or 403 says nothing about the credentials.
    """
    for name, body in BODIES.items():
        expected: type[QSessionsError] = class_of(status)
        if row is CREATE and status >= 500 and status not in TURNED_AWAY:
            own_word = name == "own" and status not in NO_PROPER_ANSWER
            expected = expected if own_word else CreateOutcomeUnknown
        if (status == 404 and name != "own") or (status in {401, 403} and name == "HTML"):
            expected = ResponseError
        async with (
            FaultServer(http(status, body)) as server,
            client_of(server, clock=time.clock) as client,
        ):
            with within(LONG_S, time), pytest.raises(expected) as caught:
                await row(client)
        assert (type(caught.value), caught.value.status) == (expected, status)
        if expected is CreateOutcomeUnknown:
            assert server.count("POST") == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@each()
async def test_credentials_never_travel_to_another_host(
    status: int, row: Row, time: ManualClock
) -> None:
    """A redirect is an error, and the server that it leads to hears nothing."""
    async with FaultServer(row.success) as other:
        answer = http(status, headers={"Location": f"{other.url}{row.path}"})
        async with FaultServer(answer) as server, client_of(server, clock=time.clock) as client:
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


@pytest.mark.parametrize("form", HARMLESS)
@each()
async def test_an_unusual_answer_is_read(form: str, row: Row, time: ManualClock) -> None:
    """What is strange about an answer, and takes nothing from what it says, does no harm."""
    async with (
        FaultServer(HARMLESS[form](row.success)) as server,
        client_of(server, clock=time.clock) as client,
    ):
        await row(client)
        await row(client)
    assert server.count(row.method) == 2


@each(CREATE, GET)
async def test_the_last_of_duplicate_keys_counts(row: Row, time: ManualClock) -> None:
    """JSON leaves open what a name that comes twice means; as nearly everywhere the last one
    counts.
    """
    body = http(200, b'{"id": "s0", "max_ttl": {}, "id": "s1", "max_ttl": 60}')
    async with FaultServer(body) as server, client_of(server, clock=time.clock) as client:
        session = await row(client)
    assert (session.id, session.max_ttl) == ("s1", 60)


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


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.row.name}-{shape.field}")
async def test_each_field_of_the_wrong_shape_is_named(shape: Shape, time: ManualClock) -> None:
    """A field that doesn't hold what it should is named; of a create, the session's id is told all
    the same.
    """
    expected = CreateOutcomeUnknown if shape.row is CREATE else ProtocolError
    refused: list[QSessionsError] = []
    for value in WRONG:
        answer = http(200, shape.answer(value))
        async with FaultServer(answer) as server, client_of(server, clock=time.clock) as client:
            try:
                await shape.row(client)
            except QSessionsError as error:
                refused.append(error)
        assert server.count(shape.row.method) == 1
    # Text and true are right for some.
    assert len(refused) >= len(WRONG) - 2
    assert {type(failure) for failure in refused} == {expected}
    assert all(shape.field in failure.message for failure in refused)
    if expected is CreateOutcomeUnknown:
        assert {failure.session_id for failure in refused} == {
            None if shape.field == "id" else "s1"
        }


@each()
async def test_a_connection_that_can_not_be_made_is_told(row: Row, time: ManualClock) -> None:
    """When nobody listens, or the host has no address, nothing was sent: even a create is tried
    again, and fails as itself.
    """
    async with FaultServer(row.success) as gone:
        nobody = gone.url
    for url, tried in ((nobody, 5), ("https://service.invalid", 1)):
        policy = RetryPolicy(max_attempts=tried)
        async with AsyncSessionClient(
            static_auth(), base_url=url, clock=time.clock, retry=policy
        ) as client:
            with pytest.raises(ConnectionFailed, match="can't be reached") as caught:
                await row(client)
        assert (caught.value.sent, caught.value.attempts) == (False, tried)


@each()
async def test_a_connection_that_is_reset_unheard(row: Row, time: ManualClock) -> None:
    """When the server tears connections down before it reads, a create is unknown exactly where its
    request had begun to go out.
    """
    async with (
        FaultServer(row.success, deaf=True) as server,
        client_of(server, clock=time.clock) as client,
    ):
        with pytest.raises((ConnectionFailed, CreateOutcomeUnknown)) as caught:
            await row(client)
    assert server.received == []
    if row is CREATE and isinstance(caught.value, ConnectionFailed):
        assert not caught.value.sent


@each()
async def test_a_server_that_is_gone_for_good(row: Row, time: ManualClock) -> None:
    """Once the server is gone, a call on a connection that is still kept tries again, within its
    deadline, and fails as itself.
    """
    async with FaultServer(GET.success) as server, client_of(server, clock=time.clock) as client:
        await GET(client)
        await server.stop()
        with within(LONG_S, time), pytest.raises(ConnectionFailed) as caught:
            await row(client)
    assert (caught.value.sent, caught.value.attempts) == (False, 5)
    assert server.count(row.method) == (row.method == "GET")


@pytest.fixture(scope="module")
def bad_servers(authority: trustme.CA) -> dict[str, ssl.SSLContext]:
    """Give the TLS settings of servers that nobody should talk to, of an authority that a client
    may trust.
    """
    then = datetime(2020, 1, 1, tzinfo=UTC)
    certificates = {
        "unknown CA": trustme.CA().issue_cert("127.0.0.1"),
        "expired": authority.issue_cert(
            "127.0.0.1", not_before=then, not_after=then + timedelta(days=30)
        ),
        "wrong name": authority.issue_cert("elsewhere.example"),
    }
    found = {}
    for name, certificate in certificates.items():
        found[name] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(found[name])
    return found


@pytest.mark.parametrize("wrong", ["unknown CA", "expired", "wrong name"])
@each()
async def test_a_certificate_that_is_not_right_ends_the_call(
    *,
    wrong: str,
    row: Row,
    bad_servers: dict[str, ssl.SSLContext],
    client_tls: ssl.SSLContext,
    time: ManualClock,
) -> None:
    """Who can't prove to be the service hears nothing, not even of a second try."""
    async with (
        FaultServer(row.success, tls=bad_servers[wrong]) as server,
        client_of(server, clock=time.clock, ssl=client_tls) as client,
    ):
        with pytest.raises(ConnectionFailed, match="certificate can't be trusted") as caught:
            await row(client)
    error = caught.value
    assert (error.sent, error.retryable, error.attempts) == (False, False, 1)
    assert "ssl=" in (error.solution or "")
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


@pytest.mark.parametrize("wrong", IAM_FAULTS)
@each()
async def test_without_a_token_nothing_is_sent(wrong: str, row: Row, time: ManualClock) -> None:
    """Whatever is wrong with IAM, a call that needs a token fails within its deadline, and the
    service hears nothing of it.
    """
    answer, expected = IAM_FAULTS[wrong]
    timeout = SHORT_S if expected is CallTimeout else LONG_S
    async with FaultServer(answer) as iam, FaultServer(row.success) as server:
        auth = [IBMCloudAuth("key", iam.url, clock=time.clock), ServiceCRN(CRN)]
        # One that IAM doesn't answer goes on for whoever asks next, until its own deadline.
        left = expected is CallTimeout and row is not VERSIONS
        async with client_of(server, exchanges=int(left), clock=time.clock, auth=auth) as client:
            if row is VERSIONS:  # which takes no credentials
                await row(client, timeout=timeout)
                return
            with within(timeout, time), pytest.raises(expected) as caught:
                await row(client, timeout=timeout)
        await iam.idle()
    assert type(caught.value) is expected
    assert server.received == []
    assert "key" not in str(caught.value).replace("API key", "").replace("such key", "")


@each()
async def test_an_iam_that_is_down(row: Row, time: ManualClock) -> None:
    """When IAM can't be reached at all, only what needs no token goes on."""
    async with FaultServer(hang) as iam:
        auth = [IBMCloudAuth("key", iam.url, clock=time.clock), ServiceCRN(CRN)]
    async with (
        FaultServer(row.success) as server,
        client_of(server, clock=time.clock, auth=auth) as client,
    ):
        if row is VERSIONS:
            await row(client)
            return
        with pytest.raises(ConnectionFailed) as caught:
            await row(client)
    assert (caught.value.operation, caught.value.sent) == ("token_exchange", False)
    assert str(caught.value).startswith(
        "the token exchange with IAM at 127.0.0.1: the server can't be reached. "
    )
    assert str(caught.value).endswith("Check the network, the proxy and IAM_URL.")
    assert server.received == []


@each()
async def test_a_clock_that_jumps_an_hour(row: Row, time: ManualClock) -> None:
    """An answer after the jump counts, a failure isn't repeated past the deadline, and the next
    call asks for a new token.
    """

    def after_an_hour(answer: bytes) -> Answer:
        async def jump(connection: Connection) -> None:
            time.advance(3600)
            await connection.write(answer)

        return jump

    async with FaultServer(http(200, TOKEN)) as iam:
        auth = [IBMCloudAuth("key", iam.url, clock=time.clock), ServiceCRN(CRN)]
        async with (
            FaultServer(
                after_an_hour(row.success), after_an_hour(http(503)), row.success
            ) as server,
            client_of(server, clock=time.clock, auth=auth) as client,
        ):
            await row(client)
            with pytest.raises(ServerError, match="503") as caught:
                await row(client)
            await row(client)
        assert len(server.received) == 3
        assert len(iam.received) == (0 if row is VERSIONS else 3)
    assert "deadline is in 0 s" in caught.value.__notes__[0]
