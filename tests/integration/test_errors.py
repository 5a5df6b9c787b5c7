"""Errors have the class and the facts of what the service, a proxy or the network did."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
import re
import socket
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from qsessions import (
    AsyncSessionClient,
    BadRequest,
    Conflict,
    ConnectionFailed,
    CreateOutcomeUnknown,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    InstanceNotFound,
    NotFound,
    ProtocolError,
    QSessionsError,
    RateLimited,
    ResponseError,
    RetryPolicy,
    ServerError,
    ServiceCRN,
    Unauthorized,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import (
    CLOSE,
    CREATE,
    DRAIN,
    GET,
    ROWS,
    SESSION,
    UPDATE,
    VERSIONS,
    WORKLOADS,
    Row,
    fault,
)
from tests.support.clients import CRN, Against, static_auth
from tests.support.fault_server import (
    Answer,
    Connection,
    FaultServer,
    cut,
    endless,
    http,
    reset,
    stall,
)
from tests.support.tables import table

ONCE = RetryPolicy(max_attempts=1)
MIB = 1024 * 1024
HTML = "<!DOCTYPE html><html><head><title>\n Bad  gateway </title></head><body>nginx</body></html>"


@pytest.mark.smoke
@table(
    ("status", "expected", "retryable"),
    [
        (400, BadRequest, False),
        (401, Unauthorized, False),
        (403, Forbidden, False),
        (404, NotFound, False),
        (409, Conflict, False),
        (429, RateLimited, True),
        (500, ServerError, True),
        (503, ServerError, True),
        (504, ServerError, True),
        (524, ServerError, True),
    ],
)
@table(("code", "read"), [(1234, "1234"), ("BX12", "BX12")])
async def test_each_status_has_its_class_with_all_facts(
    against: Against,
    *,
    status: int,
    expected: type[ResponseError],
    retryable: bool,
    code: object,
    read: str,
) -> None:
    """A refusal has the class of its status and every fact that the answer held, the code always as
    text.
    """
    body = fault("No way.", code=code, solution="Ask again.", trace="trace-7")
    server, client = await against(http(status, body, headers={"Retry-After": "7"}), retry=ONCE)
    advice = "Ask again."
    if status == 404:
        advice += f" Check the base URL, {server.url}, which normally ends in /api."
    with pytest.raises(expected) as caught:
        await client.close("s1")
    error = caught.value
    assert type(error) is expected
    assert (error.operation, error.session_id, error.method, error.path) == (
        "close",
        "s1",
        "DELETE",
        "/v1/sessions/s1/close",
    )
    assert (error.status, error.code, error.message, error.solution, error.trace_id) == (
        status,
        read,
        "No way.",
        advice,
        "trace-7",
    )
    assert (error.attempts, error.retryable, error.retry_after) == (1, retryable, 7.0)
    text = f"close of session 's1': No way (status {status}, code {read}, trace trace-7). {advice}"
    assert str(error) == text
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert vars(copied) == vars(error)
    assert str(copied) == text


@table("status", [402, 405, 406, 410, 413, 418, 422, 451, 499, 304, 300, 501, 505, 520, 599])
async def test_other_statuses_are_response_errors(against: Against, status: int) -> None:
    """A status without a class of its own is a ResponseError, or a ServerError from 500 on."""
    _, client = await against(http(status, b"" if status == 304 else fault()), retry=ONCE)
    with pytest.raises(ResponseError) as caught:
        await client.get("s1")
    assert type(caught.value) is (ServerError if status >= 500 else ResponseError)
    assert caught.value.status == status
    assert caught.value.retryable == (status == 520)


@pytest.mark.smoke
@table("row", [GET, CLOSE, UPDATE])
async def test_an_unknown_session_is_not_found(
    client: AsyncSessionClient, emulator: Emulator, row: Row
) -> None:
    """What is asked of a session that the instance doesn't have is NotFound, in the service's
    words.
    """
    with pytest.raises(NotFound, match="Session not found") as caught:
        await row(client)
    assert (caught.value.operation, caught.value.status, caught.value.attempts) == (
        row.name,
        404,
        1,
    )
    assert caught.value.path == f"/api{row.path}"
    assert caught.value.code is not None
    assert caught.value.trace_id is not None


@pytest.mark.smoke
async def test_a_base_url_without_its_path_is_what_a_404_says_to_check(
    emulator: Emulator, time: ManualClock
) -> None:
    """A 404 under a base URL that doesn't end as the service's says to check it, after the
    service's own advice.
    """
    root = emulator.url.removesuffix("/api")
    check = f"Check the base URL, {root}, which normally ends in /api."
    async with AsyncSessionClient(static_auth(), base_url=root, clock=time) as client:
        with pytest.raises(NotFound, match="Path not found") as caught:
            await client.versions()
    link = "https://quantum.cloud.ibm.com/docs/errors#9404"
    assert caught.value.solution == f"Check the path against the API reference. {link}. {check}"


@table(
    ("path", "call", "advice"),
    [
        ("", VERSIONS, "Check the base URL, {}, which normally ends in /api."),
        (
            "",
            GET,
            "Check the id, and that the session belongs to this instance. Check the base URL, {}, which normally ends in /api.",
        ),
        ("/api", GET, "Check the id, and that the session belongs to this instance."),
    ],
)
async def test_a_404_advises_on_what_may_be_wrong(
    time: ManualClock, path: str, call: Row, advice: str
) -> None:
    """Our own advice on a 404 is about the id only where there is one, and about the base URL only
    where that is unusual.
    """
    async with FaultServer(http(404, fault("No.", solution=None))) as server:
        base_url = server.url + path
        async with AsyncSessionClient(static_auth(), base_url=base_url, clock=time) as client:
            with pytest.raises(NotFound) as caught:
                await call(client)
    assert caught.value.solution == advice.format(base_url)


async def test_a_404_of_something_else_says_so(against: Against) -> None:
    """A 404 that isn't the service's own says nothing about the session, and what to check."""
    server, client = await against(http(404, "<html>default backend - 404</html>"))
    with pytest.raises(ResponseError) as caught:
        await client.get("s1")
    assert (type(caught.value), caught.value.status) == (ResponseError, 404)
    assert caught.value.solution == (
        f"Something else than the service answered: check the base URL, {server.url}, which normally ends in /api, and any proxy."
    )


@pytest.mark.smoke
async def test_the_emulator_s_refusals_have_their_classes(
    emulator: Emulator, time: ManualClock
) -> None:
    """Wrong bodies, credentials, instances and ids get their classes from a service that says so."""
    good, crn = static_auth()[0], static_auth()[1]
    async with AsyncSessionClient([good, crn], base_url=emulator.url, clock=time) as client:
        with pytest.raises(Unauthorized) as unauthorized:
            await client.get("s1")
    assert (unauthorized.value.code, unauthorized.value.attempts) == ("1201", 1)
    key = type(good)(emulator.api_key)
    async with AsyncSessionClient([key, crn], base_url=emulator.url, clock=time) as client:
        with pytest.raises(InstanceNotFound) as elsewhere:
            await client.get("s1")
    assert elsewhere.value.code == "1279"
    assert emulator.crn != CRN
    own = type(crn)(emulator.crn)
    async with AsyncSessionClient([key, own], base_url=emulator.url, clock=time) as client:
        with pytest.raises(BadRequest) as bad:
            await client.create(mode="dedicated", backend="ibm_nowhere")
        assert bad.value.code == "1007"
        with pytest.raises(NotFound) as unknown:
            await client.get("s1")
        assert unknown.value.code == "9404"


@table(
    ("body", "message", "code", "trace"),
    [
        (HTML, "Bad gateway", None, None),
        ("<HTML><body>x</body></HTML>", "an HTML page without a title", None, None),
        (b"upstream  connect\n error", "upstream connect error", None, None),
        (b"", "the service gave no reason", None, None),
        (b"   \n", "the service gave no reason", None, None),
        (b"x" * 300, "x" * 200 + "…", None, None),
        (b"\xff\xfe\x00", "\ufffd\ufffd", None, None),
        (b'{"errors": [{"code": 1000, "mess', '{"errors": [{"code": 1000, "mess', None, None),
        ({"errors": []}, "the service gave no reason", None, None),
        ({"errors": {}, "trace": "t1"}, "the service gave no reason", None, "t1"),
        ({"errors": [{"code": 7}], "trace": 5}, "the service gave no reason", "7", "5"),
        ({"errors": [{"message": "Hm."}]}, "Hm.", None, None),
        ({"errors": ["text"]}, "the service gave no reason", None, None),
        ({"message": "Gateway says no."}, "Gateway says no.", None, None),
        (["a"], "the service gave no reason", None, None),
        ("null", "the service gave no reason", None, None),
        (b"[" * 100_000, "[" * 200 + "…", None, None),
    ],
)
@table(("status", "expected"), [(400, BadRequest), (502, ServerError)])
async def test_error_bodies_of_any_form_give_what_they_hold(
    against: Against,
    *,
    status: int,
    expected: type[ResponseError],
    body: object,
    message: str,
    code: str | None,
    trace: str | None,
) -> None:
    """HTML, plain text, empty, cut and foreign bodies give the right class and what they say."""
    _, client = await against(http(status, body), retry=ONCE)
    with pytest.raises(expected) as caught:
        await client.get("s1")
    assert (caught.value.status, caught.value.message) == (status, message)
    assert (caught.value.code, caught.value.trace_id) == (code, trace)


@table(
    ("body", "message", "code", "solution", "trace"),
    [
        (
            {
                "errors": [{"code": 1, "message": "One."}, {"code": 2, "message": "Two"}],
                "trace": "t",
            },
            "One. Two",
            "1",
            None,
            "t",
        ),
        (
            {"errors": [{"message": "m", "solution": "Wait", "more_info": "https://x"}]},
            "m",
            None,
            "Wait. https://x",
            None,
        ),
        ({"error": {"status": 400, "message": "bad", "code": 7}}, "bad", "7", None, None),
        (
            {
                "incidentID": "i",
                "code": "E",
                "description": "d",
                "type": "error",
                "more_info": "https://x",
            },
            "d",
            "E",
            "https://x",
            "i",
        ),
        (
            {"statusCode": 400, "message": ["a", "b"], "error": "Bad Request"},
            "a. b",
            None,
            None,
            None,
        ),
    ],
)
async def test_the_other_forms_of_an_error_are_read(
    against: Against,
    *,
    body: object,
    message: str,
    code: str | None,
    solution: str | None,
    trace: str | None,
) -> None:
    """Message, code, advice and trace are read wherever one of the known forms has them; of several
    errors all messages are kept.
    """
    _, client = await against(http(400, body))
    with pytest.raises(BadRequest) as caught:
        await client.get("s1")
    error = caught.value
    assert (error.message, error.code, error.solution, error.trace_id) == (
        message,
        code,
        solution,
        trace,
    )


@table("row", ROWS)
async def test_a_missing_instance_is_no_missing_session(against: Against, row: Row) -> None:
    """A 404 with code 1279 is of a class of its own, says what to check, and doesn't count as the
    end of anything.
    """
    body = fault("Instance not found.", code=1279, solution="Ask support.")
    server, client = await against(http(404, body))
    with pytest.raises(InstanceNotFound) as caught:
        await row(client)
    error = caught.value
    assert not isinstance(error, NotFound)
    assert (error.status, error.code, error.retryable, len(server.received)) == (
        404,
        "1279",
        False,
        1,
    )
    assert error.solution is not None
    assert error.solution.startswith("Check the instance's CRN and its region")
    assert error.solution.endswith("Ask support.")


@table(
    ("body", "message"),
    [
        (b"half a sen", "half a sen"),
        (b"", "the service gave no reason"),
        (json.dumps(fault("Whole.")).encode(), "Whole."),
    ],
)
async def test_an_error_body_that_is_cut_off_keeps_its_status(
    against: Against, body: bytes, message: str
) -> None:
    """When the connection is lost within the body of a refusal, the class is that of the status and
    what came is in the message.
    """
    head = f"HTTP/1.1 409 No\r\nContent-Length: {len(body) + 100}\r\n\r\n".encode()
    _, client = await against(cut(head + body))
    with pytest.raises(Conflict) as caught:
        await client.get("s1")
    assert caught.value.message == message


@table("status", [404, 500])
@table("packed", [False, True])
async def test_an_error_body_without_end_keeps_its_status(
    against: Against, status: int, packed: bool
) -> None:
    """A refusal with far too large a body has the class of its status, and nothing of it gets into
    the next answer.
    """
    body = b"y" * (2 * MIB)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    answer = http(status, gzip.compress(body) if packed else body, headers=headers)
    _, client = await against(answer, retry=ONCE)
    for _ in range(2):
        with pytest.raises(ResponseError) as caught:
            await client.get("s1")
        assert (caught.value.status, caught.value.message) == (status, "y" * 200 + "…")


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.smoke
@table("row", ROWS)
async def test_a_service_that_refuses_connections_is_a_connection_failure(
    time: ManualClock, row: Row
) -> None:
    """When nobody listens, each operation says so; nothing was sent, and the same call may work
    later.
    """
    url = f"http://127.0.0.1:{_unused_port()}"
    async with AsyncSessionClient(static_auth(), base_url=url, clock=time, retry=ONCE) as client:
        with pytest.raises(ConnectionFailed, match="can't be reached") as caught:
            await row(client)
    error = caught.value
    assert (error.operation, error.method, error.path) == (row.name, row.method, row.path)
    assert (error.sent, error.retryable, error.attempts, error.status) == (False, True, 1, None)
    assert error.__cause__ is None
    assert error.__context__ is None


@table("row", [GET, UPDATE, CLOSE, VERSIONS, WORKLOADS])
async def test_a_connection_that_is_torn_down_is_a_connection_failure(
    against: Against, row: Row
) -> None:
    """When the service tears the connection down, the request may have been carried out."""
    _, client = await against(reset, retry=ONCE)
    with pytest.raises(ConnectionFailed, match="connection was lost") as caught:
        await row(client)
    assert (caught.value.sent, caught.value.retryable, caught.value.attempts) == (True, True, 1)


@table(
    ("host", "message", "retryable"),
    [
        ("service.invalid", "can't be reached", True),
        ("a..example", "can't be", False),
        (f"{'a' * 64}.example", "can't be", False),
    ],
)
async def test_a_name_that_cannot_be_found_is_a_connection_failure(
    time: ManualClock, host: str, message: str, retryable: bool
) -> None:
    """A host name that the name service doesn't know, or that can't be one, is a connection failure."""
    async with AsyncSessionClient(
        static_auth(), base_url=f"https://{host}", clock=time, retry=ONCE
    ) as client:
        with pytest.raises(ConnectionFailed, match=message) as caught:
            await client.create(mode="batch")
    assert not caught.value.sent
    assert caught.value.retryable is retryable


def test_a_call_while_the_event_loop_shuts_down_works() -> None:
    """When the loop's own threads are gone, a host's name can be looked up all the same."""

    async def call_late() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()
        async with FaultServer(CREATE.success) as server:
            url = server.url.replace("127.0.0.1", "localhost")
            async with AsyncSessionClient(static_auth(), base_url=url) as client:
                await client.create(mode="batch")

    asyncio.run(call_late())


async def test_a_server_that_speaks_no_tls_is_a_connection_failure(time: ManualClock) -> None:
    """An https URL of a server that speaks plain http is a failure to agree on TLS, without a second try."""

    async def garbage(connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 400 No\r\n\r\n")
        connection.writer.close()

    async with await asyncio.start_server(
        lambda reader, writer: garbage(Connection(reader, writer)), "127.0.0.1", 0
    ) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncSessionClient(static_auth(), base_url=url, clock=time) as client:
            with pytest.raises(ConnectionFailed, match="TLS could not be agreed on") as caught:
                await client.create(mode="batch")
    assert (caught.value.sent, caught.value.retryable, caught.value.attempts) == (False, False, 1)


@table("status", [407, 403, 502])
async def test_a_proxy_that_refuses_is_told_with_its_status(
    against: Against, time: ManualClock, status: int
) -> None:
    """When a proxy refuses to connect, the error says that it was the proxy; nothing was sent to
    the service.
    """
    proxy, _ = await against(http(status))
    async with AsyncSessionClient(
        static_auth(), base_url="https://service.invalid", proxy=proxy.url, clock=time
    ) as client:
        with pytest.raises(ConnectionFailed, match=f"proxy refused with status {status}") as caught:
            await client.create(mode="batch")
    assert (caught.value.sent, caught.value.status, caught.value.retryable) == (False, None, False)
    (asked,) = proxy.received
    assert (asked.method, asked.target) == ("CONNECT", "service.invalid:443")
    assert "authorization" not in asked.headers


@table(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 100_000,
        reset,
    ],
)
async def test_a_proxy_that_answers_nonsense(
    against: Against, time: ManualClock, answer: Answer
) -> None:
    """What a proxy says instead of letting a create through is no answer of the service: nothing
    was sent, as the error says.
    """
    proxy, _ = await against(answer)
    async with AsyncSessionClient(
        static_auth(),
        base_url="https://service.invalid",
        proxy=proxy.url,
        clock=time,
        retry=ONCE,
    ) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.create(mode="batch")
        if answer is not reset:
            with pytest.raises(ConnectionFailed, match="the proxy's answer is not valid HTTP"):
                await client.get("s1")
    assert caught.value.sent is False
    assert proxy.url not in str(caught.value)
    assert {request.method for request in proxy.received} == {"CONNECT"}


async def test_a_proxy_that_is_not_there_is_a_connection_failure(time: ManualClock) -> None:
    """When the proxy refuses connections, nothing was sent."""
    proxy = f"http://127.0.0.1:{_unused_port()}"
    async with AsyncSessionClient(
        static_auth(), base_url="https://service.invalid", proxy=proxy, clock=time, retry=ONCE
    ) as client:
        with pytest.raises(ConnectionFailed, match="can't be reached") as caught:
            await client.create(mode="batch")
    assert not caught.value.sent


def _padded(size: int) -> bytes:
    """Return a session's JSON of exactly this size."""
    whole = json.dumps(SESSION | {"padding": ""}).encode()
    return json.dumps(SESSION | {"padding": " " * (size - len(whole))}).encode()


@table("packed", [False, True])
async def test_a_body_up_to_the_cap_is_read(against: Against, packed: bool) -> None:
    """An answer of exactly 1 MiB is read, counted after decompression."""
    body = _padded(MIB)
    assert len(body) == MIB
    headers = {"Content-Encoding": "gzip"} if packed else {}
    server, client = await against(
        http(200, gzip.compress(body) if packed else body, headers=headers)
    )
    assert (await client.get("s1")).id == "s1"
    assert (await client.get("s1")).id == "s1"
    assert server.connections == 1
    assert server.received[0].headers["accept-encoding"] == "identity"


@table(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("identity", bytes),
    ],
)
async def test_a_packed_answer_is_unpacked(
    against: Against, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    """An answer that a proxy packed though nobody asked for it is read, in as many pieces as it
    comes.
    """
    body = pack(json.dumps(SESSION).encode())

    async def in_pieces(connection: Connection) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
        await connection.write(head.encode())
        for byte in body:
            await connection.write(bytes([byte]))

    _, client = await against(in_pieces)
    assert (await client.get("s1")).max_ttl == 600


@table("status", [200, 403])
async def test_an_answer_that_cannot_be_unpacked_is_an_error(against: Against, status: int) -> None:
    """A body that isn't packed as it says is a protocol error, and a refusal keeps its status."""
    server, client = await against(http(status, b"plain", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(Forbidden if status == 403 else ProtocolError) as caught:
        await client.get("s1")
    assert ("decompressing" in caught.value.message) == (status == 200)
    assert len(server.received) == 1


@table("packed", [False, True])
async def test_a_body_over_the_cap_is_refused(against: Against, packed: bool) -> None:
    """An answer of one byte more than 1 MiB is a protocol error, and nothing of it gets into the
    next answer.
    """
    body = _padded(MIB + 1)
    headers = {"Content-Encoding": "gzip"} if packed else {}
    _, client = await against(http(200, gzip.compress(body) if packed else body, headers=headers))
    for _ in range(2):
        with pytest.raises(ProtocolError, match="larger than 1048576 bytes") as caught:
            await client.get("s1")
        assert (caught.value.status, caught.value.attempts) == (200, 1)


@table("more", [b"garbage", gzip.compress(b"more")])
@table("pieces", [1, 10_000])
async def test_what_follows_a_compressed_answer_is_not_read(
    against: Against, more: bytes, pieces: int
) -> None:
    """An answer is read up to the end of its stream, at once, however much follows; that connection
    is used no more.
    """
    packed = gzip.compress(json.dumps(SESSION).encode())
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {10**9}\r\n\r\n".encode()
    answer = endless(head + packed, more * pieces) if pieces > 1 else stall(head + packed + more)
    server, client = await against(answer)
    for _ in range(2):
        assert (await client.get("s1")).id == "s1"
    assert server.connections == 2


async def test_a_compressed_answer_leaves_its_connection(against: Against) -> None:
    """After a compressed answer that ends where it should, the connection is used for the next
    call.
    """
    server, client = await against(
        http(200, gzip.compress(json.dumps(SESSION).encode()), headers={"Content-Encoding": "gzip"})
    )
    for _ in range(2):
        assert (await client.get("s1")).id == "s1"
    assert server.connections == 1


async def test_a_compressed_bomb_takes_no_memory(against: Against) -> None:
    """An answer that unpacks to 60 MiB is refused without being unpacked."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b" " * MIB) for _ in range(60)) + packer.flush()
    _, client = await against(http(200, bomb, headers={"Content-Encoding": "gzip"}))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="larger than"):
            await client.get("s1")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * MIB


@table(
    ("answer", "message"),
    [
        (http(200, b"{"), "(char 1)"),
        (http(200, HTML), "(char 0)"),
        (http(200, b""), "(char 0)"),
        (http(204), "(char 0)"),
        (http(200, b'{"id": "\xff"}'), "position 8: invalid start byte"),
        (http(200, b'{"id": "s1", "elapsed_time": NaN}'), "NaN is not a JSON value"),
        (http(200, b"[" * 100_000), "it is nested too deeply"),
        (http(200, {}), r"required field 'id' is missing @ \$\.id"),
        (http(200, {"id": None}), r"required field 'id' is missing @ \$\.id"),
        (http(200, {"id": ""}), r"required field 'id' is missing @ \$\.id"),
        (http(200, {"id": 5}), r"expected text, got a number @ \$\.id"),
        (http(200, []), "expected an object, got an array"),
        (http(200, b"null"), "expected an object, got null"),
        (
            http(200, SESSION | {"timestamps": [{"status": "open", "timestamp": "noon"}]}),
            r"expected an ISO 8601 time, got other text @ \$\.timestamps\[0\]\.timestamp",
        ),
    ],
)
async def test_an_answer_that_cannot_be_read_is_a_protocol_error(
    against: Against, answer: bytes, message: str
) -> None:
    """A success whose body is none is a protocol error that says what is wrong and where, and it
    isn't asked for again.
    """
    server, client = await against(answer)
    with pytest.raises(ProtocolError, match=message) as caught:
        await client.get("s1")
    error = caught.value
    assert (error.operation, error.session_id, error.attempts, error.retryable) == (
        "get",
        "s1",
        1,
        False,
    )
    assert (error.method, error.path) == ("GET", "/v1/sessions/s1")
    assert len(server.received) == 1


@table("answer", [http(200), http(202, {"id": "s1"}), http(204)])
@table("row", [UPDATE, CLOSE])
async def test_a_success_without_content_needs_no_body(
    against: Against, answer: bytes, row: Row
) -> None:
    """Where a success has nothing to say, a body that comes all the same changes nothing, for the
    next call neither.
    """
    _, client = await against(answer, answer, GET.success)
    assert await row(client) is None
    assert await row(client) is None
    assert (await client.get("s1")).id == "s1"


@table("body", [b"junk", "<html>please log in</html>", [1]])
@table("row", [UPDATE, DRAIN, CLOSE])
async def test_a_success_that_is_not_the_services_is_none(
    against: Against, body: object, row: Row
) -> None:
    """A proxy's page with status 200 doesn't pass for a session that was updated or closed."""
    server, client = await against(http(200, body))
    with pytest.raises(ProtocolError, match="not the service's") as caught:
        await row(client)
    assert (caught.value.status, caught.value.operation) == (200, row.name)
    assert len(server.received) == 1


@table("row", [UPDATE, CLOSE])
async def test_what_follows_a_204_gets_into_no_other_answer(against: Against, row: Row) -> None:
    """HTTP allows no body after 204: one that comes at once makes the answer unreadable, one that
    comes late is dropped.
    """

    answered = asyncio.Event()

    async def late(connection: Connection) -> None:
        await connection.write(http(204))
        await answered.wait()
        await connection.write(b"junk")

    _, client = await against(http(204, b"junk"), late, GET.success)
    with pytest.raises(ProtocolError, match="not valid HTTP"):
        await row(client)
    assert await row(client) is None
    answered.set()
    for _ in range(20):  # time for it to arrive
        await asyncio.sleep(0)
    assert (await client.get("s1")).id == "s1"


@table(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header at all\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_protocol_error(against: Against, answer: bytes) -> None:
    """An answer that isn't HTTP is a protocol error."""
    _, client = await against(answer, retry=ONCE)
    with pytest.raises(ProtocolError, match="not valid HTTP") as caught:
        await client.get("s1")
    assert caught.value.attempts == 1


@table("row", [GET, UPDATE, CLOSE, VERSIONS, WORKLOADS, CREATE])
async def test_every_error_is_caught_by_the_root(against: Against, row: Row) -> None:
    """Each operation's refusal is a QSessionsError that says which operation it was."""
    _, client = await against(http(400, fault("Told so.")))
    with pytest.raises(QSessionsError, match="Told so") as caught:
        await row(client)
    error = caught.value
    assert (error.operation, error.method, error.path, error.session_id) == (
        row.name,
        row.method,
        row.path,
        row.session_id,
    )


@table("row", [CREATE, GET])
async def test_a_change_of_protocol_is_refused(against: Against, row: Row) -> None:
    """A server that wants to speak another protocol is an error, as one that doesn't speak this one."""
    _, client = await against(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    )
    with pytest.raises(
        CreateOutcomeUnknown if row is CREATE else ProtocolError, match="another protocol"
    ):
        await row(client)


async def test_a_redirect_does_nothing_to_a_terminal(against: Against) -> None:
    """Where a redirect leads is shown without control characters, and cut."""
    location = "http://x.example/\x9b31m" + "y" * 5000
    _, client = await against(
        f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    with pytest.raises(ResponseError, match=r"redirect to http://x\.example/ 31my") as caught:
        await client.get("s1")
    assert len(caught.value.message) < 1200


async def failure_of(answer: Answer, key: str, call: str = "get") -> QSessionsError:
    """Return the error of a call with this key, to a service and an IAM that answer the same."""
    async with FaultServer(answer) as server:
        auth = IBMCloudAuth(key, server.url) if call == "exchange" else IBMCloudAPIKey(key)
        async with AsyncSessionClient(
            [auth, ServiceCRN(CRN)], base_url=server.url, retry=ONCE, clock=ManualClock()
        ) as client:
            with pytest.raises(QSessionsError) as caught:
                await client.get("s1")
        error = caught.value
        # Each server has a port of its own.
        error.solution = (error.solution or "").replace(server.url, "URL")
        return error


def seen_in(error: QSessionsError) -> tuple[object, ...]:
    """Return all that a user reads of an error."""
    texts = (error.message, error.solution, error.operation, error.path, error.code, error.trace_id)
    return (*texts, str(error), error.args)


@table("call", ["get", "exchange"])
@table(
    "answer",
    [
        http(401),
        http(302),
        http(302, headers={"Location": "/x"}),
        http(403, "<html><title>No</title></html>"),
        http(404, "<html><title>No</title></html>"),
        http(429, fault("No way.", code="BX12", solution="Ask.", trace="trace-7")),
        http(200, b"nope"),
        http(200, {"id": "s1", "closed_at": "noon"}),
        http(500),
        http(101),
    ],
)
async def test_our_own_words_are_never_masked(answer: bytes, call: str) -> None:
    """What qsessions itself says of a failure is the same whatever the key is: also where the key is
    one of those words, or a part of the path or of the name of the operation.
    """
    usual = await failure_of(answer, "an-unusual-key", call)
    words = set(re.findall(r"[A-Za-z0-9_'/-]+", f"{usual} {usual.path}"))
    for key in sorted(word for word in words if len(word) >= 8 and "-7" not in word):
        assert seen_in(await failure_of(answer, key, call)) == seen_in(usual), key


@table("key", ["e", "id", "Provide", "API key"])
@table("call", ["get", "exchange"])
async def test_a_short_key_masks_nothing(key: str, call: str) -> None:
    """A key of fewer than 8 characters is searched for nowhere: it would be found everywhere."""
    body = fault("Provided API key could not be found", code="BXNIM0415E", solution="Provide it.")
    error = await failure_of(http(401, body), key, call)
    assert "Provided API key could not be found" in error.message
    assert "*" not in str(error)


@table("call", ["get", "exchange"])
async def test_a_key_of_eight_characters_is_masked_in_what_the_server_says(call: str) -> None:
    """A key of 8 characters is masked wherever the answer repeats it, and only there."""
    key = "Provided"
    body = fault(f"{key} is wrong", code=f"x{key}", solution=f"No {key}", trace=f"t{key}")
    error = await failure_of(http(401, body), key, call)
    assert "*** is wrong" in error.message
    assert (error.code, error.trace_id) == ("x***", "t***")
    assert key not in " ".join(map(str, seen_in(error)))
    redirected = await failure_of(http(302, headers={"Location": f"/{key}?a={key}"}), key)
    assert "a redirect to /***?a=***, " in redirected.message
