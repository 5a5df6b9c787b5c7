"""The client over real sockets: every operation, what goes over the wire, and the connections
below.
"""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.resolver import ThreadedResolver

from qsessions import (
    AsyncSessionClient,
    AuthProvider,
    BackendAuthentication,
    CallTimeout,
    ClientClosed,
    Clock,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    CreateOutcomeUnknown,
    CreateSession,
    ExternalServiceToken,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    InvalidArgument,
    Mode,
    NotFound,
    ProtocolError,
    QSessionsError,
    ResponseError,
    RetryPolicy,
    ServerError,
    ServiceCRN,
    SessionState,
    __version__,
)
from qsessions.emulator import Emulator, Fault
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
    Row,
    fault,
)
from tests.support.clients import CRN, Against, client_of, static_auth
from tests.support.event_loop import past_deadline
from tests.support.fault_server import Connection, FaultServer, hang, held, http
from tests.support.iam import grant
from tests.support.internals import attempts_of
from tests.support.leaks import loop_steps
from tests.support.manual_clock import settled
from tests.support.tables import table

CLOSED = http(200, SESSION | {"state": "closed"})
SUNSET = 1_798_761_600.0  # 2027-01-01T00:00:00Z
CREDENTIAL_HEADERS = ("authorization", "backend-authentication", "external-service-token")


@pytest.mark.smoke
async def test_a_session_is_created_read_drained_and_closed(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """A created session is open, becomes active with its first job, and a drained one closes when
    its last job ends.
    """
    session = await client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    assert (session.state, session.mode, session.max_ttl) == (
        SessionState.OPEN,
        Mode.DEDICATED,
        600,
    )
    live = client.attach(session.id)
    emulator.submit_job(session.id, seconds=30)
    assert (await live.wait_until("active")).backend_name == "ibm_fez"
    await live.drain()
    closed = await live.wait_until("closed")
    assert closed.is_final
    assert closed.elapsed_time == pytest.approx(30, abs=1)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("make", "header", "shown"),
    [
        (lambda e: IBMCloudAuth(e.api_key, e.iam_url), "authorization", "Bearer <token>"),
        (lambda e: IBMCloudAPIKey(e.api_key), "authorization", "apikey <api_key>"),
        (
            lambda e: BackendAuthentication(e.backend_token),
            "backend-authentication",
            "<backend_token>",
        ),
        (
            lambda e: ExternalServiceToken(e.service_token),
            "external-service-token",
            "<service_token>",
        ),
        (lambda _: None, "authorization", "Bearer <token>"),
    ],
    ids=[
        "IBMCloudAuth",
        "IBMCloudAPIKey",
        "BackendAuthentication",
        "ExternalServiceToken",
        "ServiceCRN",
    ],
)
async def test_every_operation_works_with_every_credential(
    emulator: Emulator,
    time: ManualClock,
    *,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Emulator], AuthProvider | None],
    header: str,
    shown: str,
) -> None:
    """Each operation succeeds with each credential, which travels in its own header and in no
    other, beside the CRN.
    """
    provider = make(emulator)
    if provider is None:  # a ServiceCRN alone: the key is the environment's
        monkeypatch.setenv("QISKIT_IBM_TOKEN", emulator.api_key)
        monkeypatch.setenv("IAM_URL", emulator.iam_url)
    auth = [*([provider] if provider else []), ServiceCRN(emulator.crn)]
    async with AsyncSessionClient(auth, base_url=emulator.url, clock=time) as client:
        session = await client.create(CreateSession("batch", max_ttl=timedelta(minutes=5)))
        assert (await client.get(session.id)).max_ttl == 300
        await client.update(session.id, accepting_jobs=True)
        assert [workload.id async for workload in client.workloads()] == [session.id]
        await client.drain(session.id)
        await client.close(session.id)
        assert (await client.get(session.id)).is_final
        assert "2026-04-15" in [version.version for version in await client.versions()]
    calls = [request for request in emulator.requests if request.path.startswith("/api/")]
    assert len(calls) == 10
    for request in calls:
        present = {
            name: request.headers[name] for name in CREDENTIAL_HEADERS if name in request.headers
        }
        if request.path == "/api/v1/versions":
            assert present == {}
            assert "service-crn" not in request.headers
        else:
            assert present == {header: shown}
            assert request.headers["service-crn"] == emulator.crn


@table("row", [*(row for row in ROWS if row is not VERSIONS)])
@table(("now", "version"), [(SUNSET - 1, "2025-01-01"), (SUNSET, "2026-04-15")])
async def test_the_default_version_changes_at_its_sunset(
    against: Against, row: Row, now: float, version: str
) -> None:
    """Every versioned request names the described default until its sunset and the covered version
    from then on.
    """
    server, client = await against(row.success, clock=ManualClock(now))
    await row(client)
    assert [request.headers["ibm-api-version"] for request in server.received] == [version]


@table("row", ROWS)
async def test_each_call_can_name_its_version(against: Against, row: Row) -> None:
    """A dated version that is passed with a call is sent as it is, in place of the client's."""
    server, client = await against(row.success, api_version="2026-03-15")
    await row(client, api_version="2024-01-01")
    assert server.received[-1].headers["ibm-api-version"] == "2024-01-01"
    await row(client)
    expected = None if row is VERSIONS else "2026-03-15"
    assert server.received[-1].headers.get("ibm-api-version") == expected


@table("row", ROWS)
async def test_each_call_can_have_its_own_deadline(
    against: Against, time: ManualClock, row: Row
) -> None:
    """A deadline that is passed with a call ends it in place of the client's."""
    server, client = await against(hang, timeout=60)
    with pytest.raises(CreateOutcomeUnknown if row is CREATE else CallTimeout):
        await past_deadline(row(client, timeout=5), server.arrival(), time, 5)


@table("timeout", [0, -1, float("nan"), "soon", True, []])
async def test_a_deadline_that_cannot_be_right_is_refused(against: Against, timeout: Any) -> None:
    """A timeout that is no time above 0 is refused before anything is sent, by the client and by
    each call.
    """
    server, client = await against(http(500))
    with pytest.raises(InvalidArgument, match="timeout must be"):
        AsyncSessionClient([], timeout=timeout)
    for row in ROWS:
        with pytest.raises(InvalidArgument, match="timeout must be"):
            await row(client, timeout=timeout)
    assert server.received == []


@table("version", ["", "2026-4-15", "newest", "2026-04-15\r\n", 20260415])
async def test_a_version_that_cannot_be_one_is_refused(against: Against, version: Any) -> None:
    """A version that is neither a date nor "latest" is refused before anything is sent."""
    server, client = await against(http(500))
    with pytest.raises(InvalidArgument, match="api_version must be"):
        AsyncSessionClient([], api_version=version)
    for row in ROWS:
        with pytest.raises(InvalidArgument, match="api_version must be"):
            await row(client, api_version=version)
    assert server.received == []


async def test_latest_is_asked_for_once(emulator: Emulator, time: ManualClock) -> None:
    """Any number of concurrent and later calls with "latest" cost one call of versions and name the
    newest live one.
    """
    auth = [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]
    async with AsyncSessionClient(
        auth, base_url=emulator.url, clock=time, api_version="latest"
    ) as client:
        session = await client.create(mode="batch")
        await asyncio.gather(*(client.get(session.id) for _ in range(20)))
    async with AsyncSessionClient(
        auth, base_url=emulator.url, clock=time, api_version="latest"
    ) as client:
        await asyncio.gather(*(client.get(session.id, timeout=None) for _ in range(20)))
    versions = [request for request in emulator.requests if request.path == "/api/v1/versions"]
    others = [request for request in emulator.requests if request.path != "/api/v1/versions"]
    assert len(versions) == 2
    assert {request.headers["ibm-api-version"] for request in others} == {"2026-04-15"}


async def test_a_caller_that_waits_for_the_latest_version_keeps_its_deadline(
    against: Against, time: ManualClock
) -> None:
    """A call whose deadline passes while another asks for the latest version says so, and nothing
    of its own was sent.
    """
    server, client = await against(hang, api_version="latest")
    asking = asyncio.create_task(client.get("s1", timeout=None))
    await server.arrival()
    with pytest.raises(CallTimeout, match="latest API version") as caught:
        await past_deadline(client.drain("s2"), settled(), time)
    assert (caught.value.operation, caught.value.session_id, caught.value.sent) == (
        "drain",
        "s2",
        False,
    )
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [request.target for request in server.received] == ["/v1/versions"]


async def test_a_deadline_that_passes_inside_versions_is_reported_as_such(
    against: Against, time: ManualClock
) -> None:
    """When the injected clock says that time is up, the error of asking for the versions goes
    through as it is.
    """

    async def oversleep(seconds: float) -> None:
        # Nobody else runs meanwhile.
        time.advance(60)

    clock = Clock(time.monotonic, time.wall, oversleep, time.random, time.call_later)
    _, client = await against(http(503), api_version="latest", clock=clock)
    with pytest.raises(CallTimeout, match="before the request was sent") as caught:
        await client.create(mode="batch")
    assert (caught.value.operation, caught.value.sent, caught.value.attempts) == (
        "versions",
        False,
        2,
    )


@table("listed", [[], [{"version": "2025-01-01", "status": "deprecated"}]])
async def test_latest_needs_a_live_version(against: Against, listed: list[object]) -> None:
    """Without a live version "latest" is a protocol error, and a create has sent nothing."""
    server, client = await against(http(200, {"versions": listed}), api_version="latest")
    with pytest.raises(ProtocolError, match="no live API version"):
        await client.create(mode="batch")
    assert [request.target for request in server.received] == ["/v1/versions"]


async def test_versions_needs_no_credentials(against: Against) -> None:
    """A client without any credentials can ask for the versions, and one with them doesn't send
    them.
    """
    for auth in ([], static_auth()):
        server, client = await against(VERSIONS.success, auth=auth)
        assert [version.version for version in await client.versions()] == ["2026-04-15"]
        assert not {*CREDENTIAL_HEADERS, "service-crn"} & server.received[0].headers.keys()


@table(("application", "ending"), [(None, ""), ("my-orchestrator/1.2", " my-orchestrator/1.2")])
async def test_the_user_agent_says_who_calls(
    against: Against, application: str | None, ending: str
) -> None:
    """The User-Agent names qsessions, Python and aiohttp with their versions, and the application
    where it is named.
    """
    server, client = await against(GET.success, application=application)
    await client.get("s1")
    agent = server.received[0].headers["user-agent"]
    assert agent.startswith(f"qsessions/{__version__} Python/3.")
    assert agent.endswith(f" aiohttp/{aiohttp.__version__}{ending}")


@table("application", ["", "a\r\nb", " a", "ü"])
def test_an_application_that_no_header_can_hold_is_refused(application: str) -> None:
    """An application name that can't be part of a header is refused when the client is made."""
    with pytest.raises(ConfigurationError, match="application="):
        AsyncSessionClient([], application=application)


async def test_extra_headers_go_to_the_service_and_never_to_iam(
    emulator: Emulator, time: ManualClock
) -> None:
    """Extra headers come with every request to the service, versions included, and with none to
    IAM.
    """
    auth = [
        IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time),
        ServiceCRN(emulator.crn),
    ]
    async with AsyncSessionClient(
        auth, base_url=emulator.url, clock=time, headers={"X-Tenant": "blue"}
    ) as client:
        await client.create(mode="batch")
        await client.versions()
    tenants = {request.path: request.headers.get("x-tenant") for request in emulator.requests}
    assert tenants == {
        "/identity/token": None,
        "/api/v1/sessions": "blue",
        "/api/v1/versions": "blue",
    }


@table(
    "name",
    [
        "Authorization",
        "backend-authentication",
        "External-Service-Token",
        "service-crn",
        "IBM-API-Version",
        "User-Agent",
        "Cookie",
        "host",
        "Connection",
        "Content-Length",
        "Content-Type",
        "Content-Encoding",
        "Transfer-Encoding",
        "Accept",
        "Accept-Encoding",
    ],
)
def test_headers_that_qsessions_sets_are_refused(name: str) -> None:
    """A header that has an argument of its own or that the framing rests on can't be set by
    headers=.
    """
    with pytest.raises(ConfigurationError, match=f"headers= can't set {name}"):
        AsyncSessionClient([], headers={name: "x"})


@table(
    ("name", "value"),
    [
        ("X-A", "a\r\nb"),
        ("X-A", "a\0"),
        ("X-A", ""),
        ("X A", "a"),
        ("", "a"),
        ("X-A:", "a"),
        ("X-A", 1),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(name: str, value: Any) -> None:
    """A header that can't be one is refused when the client is made."""
    with pytest.raises(ConfigurationError, match="in headers="):
        AsyncSessionClient([], headers={name: value})


@table(
    ("options", "message"),
    [
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": True}, "max_concurrency"),
        ({"max_concurrency": 1.5}, "max_concurrency"),
        ({"ssl": False}, "ssl="),
        ({"proxy": "ftp://proxy.example:3128"}, "proxy="),
        ({"proxy": "http://["}, "proxy="),
        ({"proxy": 3128}, "proxy="),
        ({"proxy": "socks5://proxy.example"}, "proxy="),
        ({"base_url": "ftp://service.example"}, "base_url"),
        ({"base_url": "https://service.example/api/v1"}, "before /v1"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    """An option that can't be right is refused when the client is made, with its name."""
    with pytest.raises(ConfigurationError, match=message):
        AsyncSessionClient([], **options)


async def test_no_more_connections_than_allowed(against: Against) -> None:
    """No more requests than max_concurrency are on their way at a time; the others wait and
    succeed.
    """
    running, peak, full = 0, 0, asyncio.Event()

    async def answer(connection: Connection) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if running == 3:
            full.set()
        await full.wait()
        for _ in range(20):  # time for a fourth to arrive
            await asyncio.sleep(0)
        running -= 1
        await connection.write(GET.success)

    server, client = await against(answer, max_concurrency=3)
    await asyncio.gather(*(client.get("s1") for _ in range(12)))
    assert (peak, server.connections, len(server.received)) == (3, 3, 12)


async def test_a_free_connection_is_not_lost(against: Against) -> None:
    """When the one who is to get a connection is cancelled just as it gets free, the next one who
    waits gets it.
    """
    released = asyncio.Event()
    server, client = await against(held(released, GET.success), max_concurrency=1)
    for steps in range(30):
        released.clear()
        arrived = len(server.received)
        calls = [asyncio.create_task(client.get("s1", timeout=None)) for _ in range(3)]
        await server.arrival(arrived + 1)
        released.set()
        # Whether it still waits, just got its turn, or is on its way.
        await loop_steps(steps)
        calls[1].cancel()
        assert (await calls[2]).id == "s1"
        await asyncio.wait(calls)


@table("row", [DRAIN, CLOSE])
async def test_an_ending_waits_for_no_other_call(row: Row) -> None:
    """Where calls that hang hold every connection, what ends a session goes out at once, the token
    that it needs too.
    """
    async with FaultServer(hang, hang, grant(), row.success) as server:
        auth = [IBMCloudAuth("the-api-key", server.url), ServiceCRN(CRN)]
        async with AsyncSessionClient(auth, base_url=server.url, max_concurrency=2) as client:
            hanging = [asyncio.create_task(client.versions(timeout=None)) for _ in range(2)]
            await server.arrival(2)
            await row(client)
            for task in hanging:
                task.cancel()
    assert [request.method for request in server.received[2:]] == ["POST", row.method]


async def test_a_create_that_waits_for_a_connection_has_sent_nothing(
    against: Against, time: ManualClock
) -> None:
    """When the deadline of a create passes while it waits for a free connection, that is a timeout
    and no unknown outcome.
    """
    released = asyncio.Event()

    async def late(connection: Connection) -> None:
        await released.wait()
        await connection.write(http(200, SESSION))

    server, client = await against(late, max_concurrency=1)
    blocking = asyncio.create_task(client.create(mode="dedicated"))
    await server.arrival()
    with pytest.raises(CallTimeout) as caught:
        await past_deadline(client.create(mode="batch", timeout=5), settled(), time, 5)
    assert not caught.value.sent
    released.set()
    assert (await blocking).id == "s1"
    assert [request.body for request in server.received] == [b'{"mode":"dedicated"}']


@table(
    "fields",
    [
        {},
        {"mode": None},
        {"mode": "fast"},
        {"mode": "job"},
        {"request": CreateSession("batch"), "mode": "batch"},
        {"request": CreateSession("batch"), "max_ttl": 60},
        {"request": {"mode": "batch"}},
        {"request": "batch"},
        {"max_ttl": 60},
        {"mode": "batch", "backend": ""},
        {"mode": "batch", "backend": 7},
        {"mode": "batch", "max_ttl": 0},
        {"mode": "batch", "max_ttl": True},
        {"mode": "batch", "max_ttl": 1.5},
        {"mode": "batch", "max_ttl": "1w"},
        {"mode": "batch", "max_ttl": 2**31},
        {"mode": "batch", "interactive_ttl": 10, "max_ttl": 5},
    ],
)
async def test_a_create_that_cannot_be_right_sends_nothing(
    against: Against, fields: dict[str, Any]
) -> None:
    """A create whose arguments can't be right is refused before anything is sent."""
    server, client = await against(CREATE.success)
    with pytest.raises(InvalidArgument):
        await client.create(**fields)
    assert server.received == []


async def test_an_update_takes_a_bool_only(against: Against) -> None:
    """An update with anything but a bool is refused before anything is sent."""
    server, client = await against(UPDATE.success)
    with pytest.raises(InvalidArgument, match="accepting_jobs must be True or False"):
        await client.update("s1", accepting_jobs="no")  # type: ignore[arg-type]
    assert server.received == []


@table(
    ("fields", "body"),
    [
        ({"mode": "batch"}, b'{"mode":"batch"}'),
        (
            {
                "mode": "dedicated",
                "backend": "ibm_fez",
                "max_ttl": "2h 30m",
                "interactive_ttl": 1,
                "active_ttl": timedelta(minutes=1),
            },
            b'{"mode":"dedicated","backend":"ibm_fez","max_ttl":9000,"interactive_ttl":1,"active_ttl":60}',
        ),
        ({"request": CreateSession("batch", max_ttl=1)}, b'{"mode":"batch","max_ttl":1}'),
    ],
)
async def test_a_create_sends_its_fields_and_nothing_else(
    against: Against, fields: dict[str, Any], body: bytes
) -> None:
    """The body of a create holds the fields that were passed, durations in seconds, with its length
    and its type.
    """
    server, client = await against(CREATE.success)
    assert (await client.create(**fields)).id == "s1"
    (request,) = server.received
    assert (request.method, request.target, request.body) == ("POST", "/v1/sessions", body)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in request.headers


async def test_draining_a_closed_session_is_a_success(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """A session that is closed already can be drained and closed again, whatever the service says
    to that; nothing reopens it.
    """
    session = await client.create(mode="batch")
    await client.close(session.id)
    await client.drain(session.id)
    await client.close(session.id)
    with pytest.raises(Conflict):
        await client.update(session.id, accepting_jobs=True)
    emulator.faults.add(Fault(kind="answer", status=409, operations=["update"]))
    await client.drain(session.id)


async def test_a_drain_that_meets_a_conflict_of_a_closed_session_is_done(against: Against) -> None:
    """A drain that meets a conflict because the session is closed already has nothing left to do;
    an update says that it didn't do it.
    """
    server, client = await against(http(409, fault("Closed.")), CLOSED)
    await client.drain("s1")
    assert [request.method for request in server.received] == ["PATCH", "GET"]
    server.answers = [http(409, fault("Closed."))]
    with pytest.raises(Conflict):
        await client.update("s1", accepting_jobs=False)


async def test_an_update_that_opens_a_session_reads_it_afterwards(against: Against) -> None:
    """One GET follows an update to take jobs again, and none the other one."""
    server, client = await against(http(204), GET.success)
    await client.update("s1", accepting_jobs=True, api_version="2026-03-15")
    assert [(request.method, request.target) for request in server.received] == [
        ("PATCH", "/v1/sessions/s1"),
        ("GET", "/v1/sessions/s1"),
    ]
    assert {request.headers["ibm-api-version"] for request in server.received} == {"2026-03-15"}
    server.answers = [http(204)]
    await client.update("s1", accepting_jobs=False)
    assert len(server.received) == 3


@table(
    ("look", "kind", "message"),
    [
        (CLOSED, Conflict, "the session is closed, and nothing reopens it."),
        (http(200, SESSION | {"id": "s2"}), ProtocolError, "is about another session"),
        (http(403, fault("Not yours.")), Forbidden, "Not yours."),
        (http(404, fault("No such session.")), NotFound, "No such session."),
    ],
)
async def test_an_update_that_opens_nothing_is_an_error(
    against: Against, look: bytes, kind: type[QSessionsError], message: str
) -> None:
    """The service accepts it for a closed session too, and reopens nothing: that is a conflict;
    what can't be read is reported as such.
    """
    _, client = await against(http(204), look)
    with pytest.raises(kind, match=message) as caught:
        await client.update("s1", accepting_jobs=True)
    assert (type(caught.value), caught.value.session_id) == (kind, "s1")
    # What the reading itself met has a note.
    read = caught.value.operation == "get"
    assert read is (kind in {Forbidden, NotFound})
    assert (
        any("the update was accepted" in note for note in getattr(caught.value, "__notes__", []))
        is read
    )


async def test_an_update_that_opens_a_session_has_one_deadline(
    against: Against, time: ManualClock
) -> None:
    """The reading afterwards has what is left of the update's deadline."""
    server, client = await against(http(503), http(204), http(503))
    with pytest.raises(ServerError):
        await client.update("s1", accepting_jobs=True, timeout=0.4)
    assert time.slept == [0.25]
    assert [request.method for request in server.received] == ["PATCH", "PATCH", "GET"]


@table(("jobs", "has"), [([], False), ([{"id": "j1", "status": "Running"}], True)])
async def test_whether_a_session_has_jobs(against: Against, jobs: list[object], has: bool) -> None:
    """The list of the jobs that are queued or running decides, of which no more than one is asked
    for.
    """
    server, client = await against(
        http(200, {"jobs": jobs, "count": len(jobs), "limit": 1, "offset": 0})
    )
    assert await client.has_pending_jobs("s1", api_version="2026-03-15", timeout=60) is has
    (request,) = server.received
    assert (request.method, request.target) == (
        "GET",
        "/v1/jobs?pending=true&session_id=s1&limit=1",
    )
    assert request.headers["ibm-api-version"] == "2026-03-15"
    with pytest.raises(InvalidArgument):
        await client.has_pending_jobs("../s1")


async def test_jobs_that_cannot_be_listed(against: Against) -> None:
    """What is no list of jobs, or none for these credentials, is an error about the session."""
    _, client = await against(http(200, {"jobs": None}), http(403, fault()))
    for kind in (ProtocolError, Forbidden):
        with pytest.raises(kind) as caught:
            await client.has_pending_jobs("s1")
        assert (caught.value.operation, caught.value.session_id) == ("has_pending_jobs", "s1")


@table(
    ("look", "expected", "operation"),
    [
        (http(200, SESSION), Conflict, "drain"),
        (http(200, SESSION | {"id": "another", "state": "closed"}), Conflict, "drain"),
        (http(200, {"id": "s1"}), Conflict, "drain"),
        (http(404, fault()), NotFound, "get"),
    ],
)
async def test_a_drain_that_meets_another_conflict_fails(
    against: Against, look: bytes, expected: type[ResponseError], operation: str
) -> None:
    """A drain that meets a conflict on a session that isn't closed is an error, and so is one whose
    session can't be read.
    """
    server, client = await against(
        http(409, fault("Not now.")), look, retry=RetryPolicy(max_attempts=1)
    )
    with pytest.raises(expected) as caught:
        await client.drain("s1", timeout=None)
    assert caught.value.operation == operation
    assert [request.method for request in server.received] == ["PATCH", "GET"]


WRONG_IDS: list[Any] = [
    *("", ".", "..", "a/b", "/", "../workloads", "a\\b", "a\r\nb", "a\0", "\ud800", "1" * 501),
    *(None, b"s1", 7),
]
CALLS_BY_ID: dict[Row, Callable[[AsyncSessionClient, Any], Any]] = {
    GET: lambda client, id_: client.get(id_),
    UPDATE: lambda client, id_: client.update(id_, accepting_jobs=False),
    DRAIN: lambda client, id_: client.drain(id_),
    CLOSE: lambda client, id_: client.close(id_),
}


@table("row", CALLS_BY_ID)
async def test_a_session_id_is_one_segment_of_the_path(against: Against, row: Row) -> None:
    """Whatever characters an id has, they arrive encoded exactly, as one segment of the endpoint's
    path.
    """
    ids = {
        "s1": "s1",
        "%2e%2e": "%252e%252e",
        "%2F": "%252F",
        "x?y": "x%3Fy",
        "x#y": "x%23y",
        "x&y=z;a+b": "x%26y%3Dz%3Ba%2Bb",
        "a b": "a%20b",
        "é": "%C3%A9",
        "...": "...",
        "~-_.": "~-_.",
        "@:": "%40%3A",
        "1" * 500: "1" * 500,
    }
    server, client = await against(row.success)
    for session_id in ids:
        await CALLS_BY_ID[row](client, session_id)
    assert [(request.method, request.target) for request in server.received] == [
        (row.method, row.path.replace("s1", encoded)) for encoded in ids.values()
    ]


@table("row", CALLS_BY_ID)
async def test_a_session_id_that_could_lead_elsewhere_is_refused(
    against: Against, row: Row
) -> None:
    """An id that could name another endpoint, or none at all, is refused and nothing is sent."""
    server, client = await against(row.success)

    @table("session_id", WRONG_IDS)
    async def check(session_id: Any) -> None:
        with pytest.raises(InvalidArgument, match="session id"):
            await CALLS_BY_ID[row](client, session_id)
        with pytest.raises(InvalidArgument, match="session id"):
            client.attach(session_id)

    await check()
    assert server.received == []


async def test_one_connection_serves_the_token_exchange_and_all_calls(against: Against) -> None:
    """Calls one after the other, and the token exchange before them, use one and the same
    connection, all but creates.
    """
    token, first, *rest = grant(), http(200, SESSION), http(204), http(200, SESSION)
    server, _ = await against(token, first, *rest)
    auth = [IBMCloudAuth("the-api-key", server.url), static_auth()[1]]
    async with AsyncSessionClient(auth, base_url=server.url) as client:
        await client.get("s1")
        await client.update("s1", accepting_jobs=False)
        for _ in range(10):
            await client.get("s1")
        assert server.connections == 1
        await client.create(mode="batch")
        await client.get("s1")
        assert server.connections == 2
    assert [request.target for request in server.received[:2]] == [
        "/identity/token",
        "/v1/sessions/s1",
    ]
    assert len(server.received) == 15
    assert "authorization" not in server.received[0].headers


async def test_cookies_are_never_sent_back(against: Against) -> None:
    """A cookie that the service sets is forgotten."""
    cookie = http(200, SESSION, headers={"Set-Cookie": "affinity=1; Path=/"})
    server, client = await against(cookie)
    for _ in range(3):
        await client.get("s1")
    assert [request.headers.get("cookie") for request in server.received] == [None] * 3


@table("status", [301, 302, 303, 307, 308])
@table("row", [CREATE, GET, CLOSE])
async def test_a_redirect_is_never_followed(against: Against, status: int, row: Row) -> None:
    """A redirect to another host is an error that says where it leads; neither request nor
    credentials go there.
    """
    elsewhere, _ = await against(row.success)
    server, client = await against(
        http(status, headers={"Location": f"{elsewhere.url}/v1/sessions"})
    )
    # 303 says that it was done, and what came of it is elsewhere: a session that nobody knows.
    kind = CreateOutcomeUnknown if (row, status) == (CREATE, 303) else ResponseError
    with pytest.raises(kind, match="redirects aren't followed") as caught:
        await row(client)
    assert caught.value.status == status
    assert elsewhere.url in caught.value.message
    assert (server.count(row.method), elsewhere.received) == (1, [])


@table("location", ["http://[", "//", "http://user:pw@host:99999/", "javascript:alert(1)"])
async def test_a_redirect_to_nowhere_is_the_same_error(against: Against, location: str) -> None:
    """A redirect whose target is no URL is reported like any other."""
    _, client = await against(http(302, headers={"Location": location}))
    with pytest.raises(ResponseError, match="redirects aren't followed"):
        await client.get("s1")


async def test_a_borrowed_pool_is_used_and_left_open(against: Against) -> None:
    """Of a session passed as http= the pool and the trace configs are used, nothing else, and both
    go on living.
    """
    traced: list[str] = []

    async def trace(
        _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestStartParams
    ) -> None:
        traced.append(params.method)

    config = aiohttp.TraceConfig()
    config.on_request_start.append(trace)
    server, _ = await against(GET.success, http(404, fault()), GET.success)
    async with aiohttp.ClientSession(
        raise_for_status=True,
        headers={"X-Own": "1", "Authorization": "Basic own", "User-Agent": "own"},
        cookies={"own": "1"},
        cookie_jar=aiohttp.CookieJar(unsafe=True),
        timeout=aiohttp.ClientTimeout(total=0.000001),
        trace_configs=[config],
    ) as pool:
        for _ in range(2):
            async with AsyncSessionClient(static_auth(), base_url=server.url, http=pool) as client:
                await client.get("s1")
                if len(server.received) == 1:
                    with pytest.raises(NotFound):
                        await client.get("s1")
            assert not pool.closed
    assert traced == ["GET"] * 3
    assert server.connections == 1
    for request in server.received:
        assert request.headers["authorization"] == "apikey the-api-key"
        assert request.headers["user-agent"].startswith("qsessions/")
        assert not {"x-own", "cookie"} & request.headers.keys()


async def test_a_trace_that_fails_is_reported_and_hides_no_outcome(against: Against) -> None:
    """When a trace config of a borrowed session raises, the call fails with its words, and a create
    that was sent is unknown.
    """

    async def broken(*_: object) -> None:
        raise LookupError("my mistake")

    config = aiohttp.TraceConfig()
    config.on_request_end.append(broken)
    server, _ = await against(CREATE.success)
    async with aiohttp.ClientSession(trace_configs=[config]) as pool:
        client = AsyncSessionClient(static_auth(), base_url=server.url, http=pool)
        with pytest.raises(ConnectionFailed, match="LookupError: my mistake") as caught:
            await client.get("s1")
        assert (caught.value.sent, caught.value.retryable) == (True, False)
        with pytest.raises(CreateOutcomeUnknown, match="LookupError: my mistake"):
            await client.create(mode="batch")
        await client.aclose()
    assert server.count("POST") == 1


class BrokenResolver(ThreadedResolver):
    """A resolver that a user wrote."""

    async def resolve(self, *_: object, **__: object) -> Any:
        """Fail."""
        raise LookupError("my mistake")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process no descriptor to open for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 50, hard))
        with suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


async def test_without_a_descriptor_nothing_is_sent(against: Against) -> None:
    """Where the process has no descriptor left, a call fails with an error of ours that says so, and
    works once there are some.
    """
    server, client = await against(GET.success)
    with no_descriptors(), pytest.raises(ConnectionFailed, match="Too many open files") as caught:
        await client.get("s1")
    assert caught.value.sent is False
    assert server.received == []
    assert (await client.get("s1")).id


async def test_what_fails_before_a_request_goes_out_sends_nothing(against: Against) -> None:
    """Where a borrowed session's own code raises before anything is sent, the error is ours, with
    its type and text, and says that nothing was sent.
    """

    async def broken(*_: object) -> None:
        raise LookupError("my mistake")

    def no_context(**_: object) -> None:
        raise LookupError("my mistake")

    server, _ = await against(CREATE.success)
    before, connecting = aiohttp.TraceConfig(), aiohttp.TraceConfig()
    before.on_request_start.append(broken)
    connecting.on_connection_create_start.append(broken)
    for options in (
        {"trace_configs": [aiohttp.TraceConfig(no_context)]},  # type: ignore[arg-type]
        {"trace_configs": [before]},
        {"trace_configs": [connecting]},
        {"connector": aiohttp.TCPConnector(resolver=BrokenResolver())},
    ):
        async with aiohttp.ClientSession(**options) as pool:
            base_url = server.url.replace("127.0.0.1", "localhost")
            client = AsyncSessionClient(static_auth(), base_url=base_url, http=pool)
            for row in (GET, CREATE, CLOSE):
                with pytest.raises(ConnectionFailed, match="LookupError: my mistake") as caught:
                    await row(client)
                assert (caught.value.sent, caught.value.retryable) == (False, False)
                assert "http=" in (caught.value.solution or "")
            await client.aclose()
    assert server.received == []


async def test_a_pool_that_cant_be_used_is_an_error_of_ours() -> None:
    """What is raised over a pool of another event loop, or one that is no pool, comes out as text."""

    async def make() -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector()

    loop = asyncio.new_event_loop()
    others = await asyncio.to_thread(loop.run_until_complete, make())
    for connector, message in (
        (others, "RuntimeError: .* loop"),
        (SimpleNamespace(closed=False), "AttributeError: "),
    ):
        async with aiohttp.ClientSession() as pool:
            whole = pool.connector
            vars(pool)["_connector"] = connector
            client = AsyncSessionClient([], base_url="http://127.0.0.1:1", http=pool)
            for row in (VERSIONS, CREATE):
                with pytest.raises(ConnectionFailed, match=message) as caught:
                    await row(client)
                assert (caught.value.sent, caught.value.retryable) == (False, False)
            await client.aclose()
            vars(pool)["_connector"] = whole
    loop.close()


def test_a_broken_aiodns_is_nobodys_business(tmp_path: Path) -> None:
    """A package that aiohttp would look names up with, and that can't, changes nothing."""
    (tmp_path / "aiodns.py").write_text(
        "class DNSResolver:\n"
        "    def __init__(self, *_, **__): raise RuntimeError('no file descriptors')\n"
        "    def getaddrinfo(self): ...\n"
    )
    program = (
        "import asyncio, aiohttp, qsessions\n"
        "assert aiohttp.DefaultResolver is aiohttp.AsyncResolver\n"
        "async def main():\n"
        "    client = qsessions.AsyncSessionClient([], base_url='http://localhost:1', retry=qsessions.RetryPolicy(max_attempts=1))\n"
        "    try: await client.versions()\n"
        "    except qsessions.ConnectionFailed as error: print(error.sent, error)\n"
        "    await client.aclose()\n"
        "asyncio.run(main())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.startswith("False versions: the server can't be reached.")


@pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning")
async def test_a_borrowed_pool_with_auth_of_its_own_is_refused() -> None:
    """A session with default auth would send that in place of ours, so it is refused when the
    client is made.
    """
    async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", "word")) as pool:
        with pytest.raises(ConfigurationError, match="default auth"):
            AsyncSessionClient([], http=pool)


async def test_a_borrowed_pool_that_is_closed_is_refused() -> None:
    """A session that is closed can carry nothing, which the first call says."""
    pool = aiohttp.ClientSession()
    await pool.close()
    async with AsyncSessionClient([], http=pool) as client:
        with pytest.raises(ConfigurationError, match="is closed"):
            await client.versions()


async def test_a_client_stays_on_its_event_loop(against: Against) -> None:
    """Used on a second event loop, a client says that its connections belong to another one and
    goes on working on its own.
    """
    server, client = await against(GET.success)
    await client.get("s1")
    with pytest.raises(ConfigurationError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, client.get("s1"))
    await client.get("s1")
    assert len(server.received) == 2


@table("row", ROWS)
async def test_a_closed_client_says_so(against: Against, row: Row) -> None:
    """After aclose, which may come twice, each call is refused."""
    server, client = await against(row.success)
    await row(client)
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientClosed) as caught:
        await row(client)
    assert (caught.value.operation, caught.value.method) == (row.name, row.method)
    with pytest.raises(ClientClosed, match="Make another one"):
        await client.__aenter__()
    assert len(server.received) == 1


@table("row", ROWS)
async def test_a_client_that_was_never_used_can_be_closed(row: Row) -> None:
    """A client that is closed before its first call has nothing to end, and refuses calls."""
    client = AsyncSessionClient(static_auth())
    await client.aclose()
    with pytest.raises(ClientClosed):
        await row(client)


async def test_closing_ends_calls_that_wait(against: Against) -> None:
    """A call that waits while its client is closed gets an error, and no task of it stays behind."""
    server, client = await against(hang)
    calls = [asyncio.create_task(client.get("s1")) for _ in range(3)]
    await server.arrival(3)
    await client.aclose()
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, ClientClosed | ConnectionFailed)


async def test_closing_twice_at_once_waits_for_the_same(against: Against) -> None:
    """Two that close a client at the same time both wait until a create in flight has ended, and
    its caller gets the session.
    """
    go = asyncio.Event()

    async def late(connection: Connection) -> None:
        await go.wait()
        await connection.write(CREATE.success)

    server, client = await against(late)
    creating = asyncio.create_task(client.create(mode="batch"))
    await server.arrival()
    closing = asyncio.gather(client.aclose(), client.aclose())
    await asyncio.sleep(0)
    go.set()
    await closing
    assert (await creating).id == "s1"


async def test_two_clients_share_a_provider(emulator: Emulator, time: ManualClock) -> None:
    """A provider that two clients share asks IAM once, though each has connections of its own."""
    async with client_of(emulator, time) as one:
        providers = attempts_of(one).providers
        async with AsyncSessionClient(providers, base_url=emulator.url, clock=time) as other:
            await asyncio.gather(one.create(mode="batch"), other.create(mode="batch"))
    assert [request.path for request in emulator.requests].count("/identity/token") == 1


async def test_a_proxy_carries_the_calls(against: Against) -> None:
    """With proxy= the request goes to the proxy, with the proxy's credentials, and names the
    service's whole URL.
    """
    proxy, _ = await against(GET.success)
    service, client = await against(
        http(500), proxy=proxy.url.replace("http://", "http://user:word@")
    )
    assert (await client.get("s1")).id == "s1"
    assert proxy.received[0].target == f"{service.url}/v1/sessions/s1"
    assert proxy.received[0].headers["proxy-authorization"].startswith("Basic ")
    assert service.received == []


@table(
    ("before", "credentials"),
    [
        ("user:p%40ss", "user:p@ss"),
        ("a-token", "a-token:"),
        (":word", ":word"),
        ("us%C3%A9r:w", "us\u00e9r:w"),
    ],
)
async def test_a_tunnel_is_asked_for_with_the_proxys_credentials(
    before: str, credentials: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """For https the proxy's credentials go with the request for the tunnel and not to the service."""

    async def tunnel(connection: Connection) -> None:
        host, _, port = proxy.received[-1].target.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await connection.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_carry(connection.reader, writer), _carry(reader, connection.writer))

    async with FaultServer(GET.success, tls=server_tls) as service, FaultServer(tunnel) as proxy:
        options: dict[str, Any] = {
            "proxy": proxy.url.replace("//", f"//{before}@"),
            "ssl": client_tls,
        }
        async with AsyncSessionClient(static_auth(), base_url=service.url, **options) as client:
            await client.get("s1")
            await client.get("s1")
        (asked,) = proxy.received
        assert asked.method == "CONNECT"
        assert (
            b64decode(asked.headers["proxy-authorization"].removeprefix("Basic ")).decode()
            == credentials
        )
        assert len(service.received) == 2
        assert not any("proxy-authorization" in request.headers for request in service.received)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


async def test_a_private_authority_is_trusted_with_its_certificate(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """With ssl= a certificate of a private authority is good."""
    async with (
        FaultServer(GET.success, tls=server_tls) as server,
        AsyncSessionClient(static_auth(), base_url=server.url, ssl=client_tls) as client,
    ):
        assert (await client.get("s1")).id == "s1"


async def test_plain_http_to_another_machine_is_refused(time: ManualClock) -> None:
    """Plain http to another machine is refused when the client is made, with the way out, and tried
    when that way is taken.
    """
    for url in ("http://service.invalid", "http://192.0.2.1", "http://[2001:db8::1]"):
        with pytest.raises(ConfigurationError, match="plain http") as caught:
            AsyncSessionClient(static_auth(), base_url=url, clock=time)
        assert caught.value.solution
    async with AsyncSessionClient(
        static_auth(), base_url="http://service.invalid", clock=time, allow_insecure=True
    ) as client:
        with pytest.raises(ConnectionFailed, match="can't be reached"):
            await client.get("s1")


async def test_the_repr_shows_where_a_client_calls() -> None:
    """The repr of a client holds its base URL and no credential."""
    client = AsyncSessionClient(static_auth(), base_url="https://service.example/api/")
    assert repr(client) == "AsyncSessionClient(base_url='https://service.example/api')"
