"""Faults over real sockets: what a client sees, and what the service did."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Response

from qsessions import AsyncSessionClient, IBMCloudAPIKey, QSessionsError, ServiceCRN
from qsessions.emulator import Fault
from qsessions.emulator.fault_kinds import Operation
from qsessions.emulator.http.fault_injection import reset_connection, respond
from tests.support.caller import Caller, Clock, calling, connect, first_code, speak
from tests.support.tables import table


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    """Start an emulator, and a client of it."""
    async with calling(clock=Clock()) as call:
        yield call


CREATE = ("POST", "/v1/sessions", {"mode": "batch"})

ANSWERS: list[tuple[dict[str, Any], str, str]] = [
    ({"body": "slow down"}, "text/plain; charset=utf-8", "slow down"),
    ({"body": ""}, "text/plain; charset=utf-8", ""),
    ({"body": " <html>"}, "text/html; charset=utf-8", " <html>"),
    ({"body": {"a": [1]}}, "application/json; charset=utf-8", '{"a": [1]}'),
    ({"body": "x", "headers": {"content-type": "image/png"}}, "image/png", "x"),
]


@table(("fields", "content_type", "body"), ANSWERS)
async def test_any_answer(fields: dict[str, Any], content_type: str, body: str) -> None:
    """An answer has the status, the body and the headers that the plan gives it, and no work is
    done.
    """
    fault = Fault(kind="answer", status=520, retry_after=3, times=1, **fields)
    async with calling(clock=Clock(), faults=[fault]) as call:
        status, headers, text = await call.full(*CREATE)
        assert (status, headers.getall("Content-Type"), text) == (520, [content_type], body)  # type: ignore[attr-defined]
        assert headers["Retry-After"] == "3"
        assert not call.emulator.sessions
        assert (await call(*CREATE))[0] == 200


@table(
    ("status", "code"),
    [(400, 9400), (401, 1201), (403, 1200), (429, 1202), (500, 1000), (503, 1000)],
)
async def test_an_answer_without_a_body_is_the_services_error(
    call: Caller, status: int, code: int
) -> None:
    """The default body has the form of the service's errors, with the code that goes with the
    status.
    """
    call.emulator.faults.clear()
    call.emulator.faults.add(Fault(kind="answer", status=status))
    answered, answer = await call(*CREATE)
    assert (answered, first_code(answer)) == (status, code)


@table(
    ("operation", "expected"),
    [
        ("drain", {"drain", "update(accepting_jobs=False)"}),
        ("update", {"drain", "update(accepting_jobs=False)", "update(accepting_jobs=True)"}),
        ("has_pending_jobs", {"has_pending_jobs"}),
        ("list_jobs", {"has_pending_jobs", "list of jobs"}),
    ],
)
async def test_the_clients_words(operation: Operation, expected: set[str]) -> None:
    """A fault on a word of the client's strikes the requests that this call makes, whoever makes
    them; one on the operation strikes these too. A request is recorded as its operation.
    """
    fault = Fault(kind="answer", status=418, operations=[operation])
    async with calling(speed=0, faults=[fault]) as call:
        emulator, session = call.emulator, await call.create()
        auth = [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]
        async with AsyncSessionClient(auth, base_url=emulator.url) as client:
            calls = {
                "update(accepting_jobs=True)": client.update(session, accepting_jobs=True),
                "update(accepting_jobs=False)": client.update(session, accepting_jobs=False),
                "drain": client.drain(session),
                "has_pending_jobs": client.has_pending_jobs(session),
                "list of jobs": call("GET", "/v1/jobs"),
            }
            for answer in calls.values():
                with suppress(QSessionsError):
                    await answer
        # A call that reopens a session reads it afterwards.
        made = [one for one in emulator.requests if one.operation not in {"create", "get"}]
        assert [one.operation for one in made] == ["update"] * 3 + ["list_jobs"] * 2
        struck = [name for name, one in zip(calls, made, strict=True) if one.status == 418]
        assert set(struck) == expected
        # What is no update isn't struck as a drain either, and is refused as ever.
        status, _ = await call("PATCH", f"/v1/sessions/{session}", {"accepting_jobs": "no"})
        assert status == (418 if operation == "update" else 400)


async def test_an_answer_after_the_work(call: Caller) -> None:
    """The session exists though the client is told otherwise, and the record says which it was."""
    call.emulator.faults.add(
        Fault(kind="answer", status=504, body="", after=True, operations=["create"])
    )
    assert (await call.full(*CREATE))[0] == 504
    (session_id,) = call.emulator.sessions
    (request,) = call.emulator.requests
    assert (request.status, request.operation, request.session_id, request.faults) == (
        504,
        "create",
        session_id,
        ("answer",),
    )


async def test_a_fault_takes_the_place_of_a_refusal(call: Caller) -> None:
    """What comes after the work comes after a refusal too."""
    call.emulator.faults.add(Fault(kind="answer", status=502, after=True))
    assert (await call("GET", "/v1/sessions/none"))[0] == 502


@pytest.mark.parametrize(("after", "sessions"), [(False, 0), (True, 1)])
async def test_a_reset(call: Caller, after: bool, sessions: int) -> None:
    """The TCP connection is really reset, before or after the work, and no status is made up for
    it.
    """
    call.emulator.faults.add(Fault(kind="reset", after=after, times=1))
    head = "".join(f"{name}: {value}\r\n" for name, value in call.good().items())
    reader, writer = await connect(call.emulator)
    body = '{"mode": "batch"}'
    writer.write(
        f"POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n{body}".encode()
    )
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert len(call.emulator.sessions) == sessions
    assert [request.status for request in call.emulator.requests] == [None]
    assert (await call(*CREATE))[0] == 200


async def test_a_body_that_ends_too_early(call: Caller) -> None:
    """The promised length is the whole body's, and the connection ends with the part."""
    call.emulator.faults.add(Fault(kind="truncate", keep_bytes=5), Fault(kind="drip", seconds=0))
    with pytest.raises(ClientPayloadError):
        await call(*CREATE)
    call.emulator.faults.clear()
    call.emulator.faults.add(Fault(kind="truncate"))
    with pytest.raises(ClientPayloadError):
        await call("GET", "/v1/workloads")


async def test_a_body_that_cannot_be_read(call: Caller) -> None:
    """A malformed body is complete HTTP and no JSON; an answer without a body stays as it is."""
    session = await call.create()
    call.emulator.faults.add(Fault(kind="malformed"))
    status, headers, text = await call.full("GET", f"/v1/sessions/{session}")
    assert (status, headers["Content-Length"]) == (200, str(len(text)))
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    assert await call("DELETE", f"/v1/sessions/{session}/close") == (204, None)


async def test_a_slow_drip(call: Caller) -> None:
    """A dripping body comes whole, over the time that the plan gives it."""
    session = await call.create()
    call.emulator.faults.add(Fault(kind="drip", seconds=0.05))
    began = time.monotonic()
    status, answer = await call("GET", f"/v1/sessions/{session}")
    assert (status, answer["id"]) == (200, session)
    assert time.monotonic() - began >= 0.05


async def test_a_client_that_leaves_a_drip(call: Caller) -> None:
    """A client that goes away in the middle leaves an emulator that serves the next."""
    call.emulator.faults.add(Fault(kind="drip", seconds=0.2, times=1))
    reader, writer = await connect(call.emulator)
    writer.write(b"GET /api/v1/versions HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    assert (await call(*CREATE))[0] == 200


async def test_a_client_that_left_before_a_drip() -> None:
    """A connection that is gone when the first piece is ready is no error."""
    gone = Mock(write_headers=AsyncMock(side_effect=ConnectionResetError))
    request = make_mocked_request("GET", "/", writer=gone)
    answer = await respond(
        request, Response(body=b"{}"), [Fault(kind="drip", seconds=0)], 0, asyncio.sleep
    )
    assert answer.status == 200


@pytest.mark.parametrize("fault", [Fault(kind="drip", seconds=0), Fault(kind="truncate")])
async def test_an_answer_that_has_no_body_to_spoil(call: Caller, fault: Fault) -> None:
    """The answer to a HEAD request stays without a body."""
    call.emulator.faults.add(fault)
    answer = await speak(
        call.emulator, "HEAD /api/v1/versions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith("HTTP/1.1 405 ")
    assert answer.endswith("\r\n\r\n")


def test_a_reset_of_a_connection_that_is_gone() -> None:
    """A client that left before its connection is reset changes nothing."""
    request = make_mocked_request("GET", "/")
    request.protocol.transport = None
    assert isinstance(reset_connection(request), Response)


@pytest.mark.parametrize("after", [False, True])
async def test_latency_makes_a_client_wait_and_no_other(call: Caller, after: bool) -> None:
    """A request waits while others are served, and stopping the emulator does not wait for it."""
    call.emulator.faults.add(Fault(kind="latency", seconds=600, operations=["create"], after=after))
    waiting = asyncio.create_task(call.full(*CREATE))
    while not call.emulator.faults.shown()[0]["fired"]:  # noqa: ASYNC110 - the plan calls nobody
        await asyncio.sleep(0)
    assert (await call("GET", "/v1/workloads"))[0] == 200
    assert len(call.emulator.sessions) == after
    async with asyncio.timeout(30):
        await call.emulator.stop()
    with pytest.raises(ClientConnectionError):
        await waiting


async def test_revoked_tokens(call: Caller) -> None:
    """A token is refused from the fault on, and a new one is good."""
    headers = {"Authorization": f"Bearer {await call.token()}", "Service-CRN": call.emulator.crn}
    call.emulator.faults.add(Fault(kind="revoke_tokens", operations=["create"], nth=2))
    assert [(await call(*CREATE, headers=headers))[0] for _ in range(3)] == [200, 401, 401]
    fresh = {**headers, "Authorization": f"Bearer {await call.token()}"}
    assert (await call(*CREATE, headers=fresh))[0] == 200


async def test_iam_down(call: Caller) -> None:
    """The token endpoint answers 503 in its own form; the service goes on."""
    call.emulator.faults.add(Fault(kind="iam_down", times=1))
    status, answer = await call.exchange(apikey=call.emulator.api_key)
    assert (status, set(answer)) == (503, {"errorCode", "errorMessage", "context"})
    assert (await call(*CREATE))[0] == 200
    assert await call.token()


@pytest.mark.parametrize(
    ("seconds", "date"),
    [(90, "Fri, 15 Jan 2027 08:01:30 GMT"), (-90, "Fri, 15 Jan 2027 07:58:30 GMT")],
)
async def test_clock_skew(call: Caller, seconds: int, date: str) -> None:
    """The Date header is off, and nothing else."""
    call.emulator.faults.add(Fault(kind="clock_skew", seconds=seconds))
    status, headers, _ = await call.full(*CREATE)
    assert (status, headers["Date"]) == (200, date)


async def test_faults_act_in_the_order_of_the_plan() -> None:
    """An answer ends what would come before the work; what spoils answers spoils it too."""
    faults = [
        Fault(kind="revoke_tokens"),
        Fault(kind="answer", status=418, body="teapot"),
        Fault(kind="reset"),
        Fault(kind="malformed"),
    ]
    async with calling(faults=faults) as call:
        assert (await call.full(*CREATE))[::2] == (418, "tea")
        assert call.emulator.requests[0].faults == ("revoke_tokens", "answer", "reset", "malformed")


async def test_a_stuck_drain(call: Caller) -> None:
    """A drain is answered as a good one and shuts the session for jobs, which yet stays open until
    somebody closes it.
    """
    emulator, session = call.emulator, await call.create()
    emulator.faults.add(Fault(kind="stuck_drain", times=1))
    path = f"/v1/sessions/{session}"
    assert await call("PATCH", path, {"accepting_jobs": False}) == (204, None)
    assert await call("PATCH", path, {"accepting_jobs": False}) == (204, None)
    shown = (await call("GET", path))[1]
    assert (shown["state"], shown["accepting_jobs"]) == ("open", False)
    with pytest.raises(AssertionError, match="left alone it never closes: its draining is stuck"):
        emulator.assert_no_open_sessions()
    assert [request.faults for request in emulator.requests] == [(), ("stuck_drain",), (), ()]
    assert await call("DELETE", f"{path}/close") == (204, None)
    emulator.assert_no_open_sessions()


async def test_a_stuck_drain_of_a_reopening(call: Caller) -> None:
    """An update that opens the session for jobs is not stuck."""
    path = f"/v1/sessions/{await call.create()}"
    call.emulator.faults.add(Fault(kind="stuck_drain", nth=1))
    await call("PATCH", path, {"accepting_jobs": True})
    await call("PATCH", path, {"accepting_jobs": False})
    assert (await call("GET", path))[1]["state"] == "closed"


@table(("fields", "seconds"), [({}, 2.0), ({"seconds": 0.5}, 0.5), ({"seconds": 0}, 0.0)])
async def test_a_young_session_is_not_found(fields: dict[str, Any], seconds: float) -> None:
    """Until it is old enough, whoever reads, updates or closes a session gets the 404 of an unknown
    one, and nothing is done.
    """
    clock = Clock()
    async with calling(clock=clock, faults=[Fault(kind="young_404", **fields)]) as call:
        session = await call.create()
        path = f"/v1/sessions/{session}"
        requests = (
            ("GET", path),
            ("PATCH", path, {"accepting_jobs": False}),
            ("DELETE", f"{path}/close"),
        )
        clock.at += seconds / 2
        for request in requests if seconds else ():
            status, answer = await call(*request)
            assert (status, first_code(answer)) == (404, 9404)
        assert call.emulator.sessions[session].accepting_jobs
        clock.at += seconds / 2
        assert [(await call(*request))[0] for request in requests] == [200, 204, 204]
        assert (await call("GET", "/v1/sessions/none"))[0] == 404
