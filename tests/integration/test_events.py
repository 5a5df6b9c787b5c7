"""Events of calls over real sockets, for observers and in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

import attrs
import pytest

from qsessions import (
    AsyncSessionClient,
    ConfigurationError,
    ConnectionFailed,
    CreateFailed,
    CreateOutcomeUnknown,
    Event,
    IBMCloudAuth,
    NotFound,
    QSessionsError,
    RequestFailed,
    RequestSent,
    ResponseReceived,
    RetryPlanned,
    RetryPolicy,
    ServerError,
    ServiceCRN,
    SessionClosed,
    SessionCreated,
    SessionDraining,
    SessionEnded,
    SessionLeftOpen,
    TokenRenewed,
    Transport,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import CREATE, GET, NO_WORKLOADS, ROWS, SESSION, UPDATE, Row, fault
from tests.support.clients import CRN, Against
from tests.support.fault_server import Answer, Connection, hang, http, reset
from tests.support.tables import table


class Unready:
    """An auth provider without credentials."""

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Raise an error."""
        raise ConfigurationError("there is nothing yet.")

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Return that nothing is better now."""
        return False


class Recorder:
    """An observer that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        """Keep it."""
        self.events.append(event)


@table("row", ROWS)
async def test_a_call_has_events_from_sending_to_answer(
    against: Against, time: ManualClock, row: Row
) -> None:
    """Each operation has events of its request, of the answer with its status and its seconds, of
    what became of a session, and no others.
    """

    async def after_a_while(connection: Connection) -> None:
        time.advance(1.5)
        await connection.write(row.success)

    recorder = Recorder()
    server, client = await against(after_a_while, observers=[recorder])
    await row(client)
    sent = RequestSent(
        operation=row.name,
        session_id=row.session_id,
        method=row.method,
        origin=server.url,
        path=row.path,
        attempt=1,
    )
    answered = ResponseReceived(
        operation=row.name,
        session_id=row.session_id,
        method=row.method,
        origin=server.url,
        path=row.path,
        attempt=1,
        status=int(row.success[9:12]),
        seconds=1.5,
    )
    life: dict[str, list[Event]] = {
        "create": [
            SessionCreated(session_id="s1", mode="dedicated", backend="ibm_fez", max_ttl=600)
        ],
        "update": [SessionDraining(session_id="s1")],
        "drain": [SessionDraining(session_id="s1")],
        "close": [SessionClosed(session_id="s1")],
    }
    assert recorder.events == [sent, answered, *life.get(row.name, [])]


async def test_failures_and_retries_have_events_in_order(
    against: Against, time: ManualClock
) -> None:
    """A failed attempt, the planned retry with its wait and its reason, and the attempts that
    follow have events, in order.
    """

    async def slow_reset(connection: Connection) -> None:
        time.advance(2)
        connection.reset()

    recorder = Recorder()
    script: list[Answer] = [slow_reset, http(503, fault(), headers={"Retry-After": "3"}), http(204)]
    server, client = await against(*script, observers=[recorder])
    await UPDATE(client)
    failed = recorder.events[1]
    assert isinstance(failed, RequestFailed)
    assert failed.reason.startswith("the connection was lost. ")
    about = {"operation": "update", "session_id": "s1"}
    where = about | {"method": "PATCH", "origin": server.url, "path": "/v1/sessions/s1"}
    assert [(type(event).__name__, attrs.asdict(event)) for event in recorder.events] == [
        ("RequestSent", where | {"attempt": 1}),
        (
            "RequestFailed",
            where
            | {
                "attempt": 1,
                "seconds": 2.0,
                "error": "ConnectionFailed",
                "reason": failed.reason,
            },
        ),
        ("RetryPlanned", about | {"attempt": 1, "delay": 0.25, "reason": "no answer"}),
        ("RequestSent", where | {"attempt": 2}),
        ("ResponseReceived", where | {"attempt": 2, "status": 503, "seconds": 0.0}),
        ("RetryPlanned", about | {"attempt": 2, "delay": 3.5, "reason": "status 503"}),
        ("RequestSent", where | {"attempt": 3}),
        ("ResponseReceived", where | {"attempt": 3, "status": 204, "seconds": 0.0}),
        ("SessionDraining", {"session_id": "s1"}),
    ]


async def test_a_token_exchange_has_events(emulator: Emulator, time: ManualClock) -> None:
    """A token exchange has events of its requests like any call, and one of each token with its
    host and life.
    """
    recorder = Recorder()
    auth = [
        IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time),
        ServiceCRN(emulator.crn),
    ]
    async with AsyncSessionClient(
        auth, base_url=emulator.url, clock=time, observers=[recorder]
    ) as client:
        for _ in range(2):
            with pytest.raises(NotFound):
                await client.get("s1")
    names = [(type(event).__name__, getattr(event, "operation", None)) for event in recorder.events]
    assert names == [
        ("RequestSent", "token_exchange"),
        ("ResponseReceived", "token_exchange"),
        ("TokenRenewed", None),
        ("RequestSent", "get"),
        ("ResponseReceived", "get"),
        ("RequestSent", "get"),
        ("ResponseReceived", "get"),
        ("ClientStopped", None),
    ]
    assert recorder.events[2] == TokenRenewed(host="127.0.0.1", expires_in=3600.0)


async def test_a_request_that_is_cancelled_has_an_end(against: Against) -> None:
    """An attempt whose call is cancelled ends with an event too, which says so."""
    recorder = Recorder()
    server, client = await against(hang, observers=[recorder])
    task = asyncio.create_task(client.get("s1"))
    await server.arrival()
    task.cancel()
    await asyncio.wait({task})
    sent, failed = recorder.events
    assert isinstance(sent, RequestSent)
    assert isinstance(failed, RequestFailed)
    assert (failed.error, failed.reason) == ("CancelledError", "it was interrupted.")


@table(
    ("answer", "session_id", "outcome_unknown", "reason"),
    [
        (http(400, fault()), None, False, "It went wrong."),
        (http(200, {"mode": "dedicated"}), None, True, "the service created a session"),
        (http(200, SESSION | {"max_ttl": "soon"}), "s1", True, "the service created a session"),
        (reset, None, True, "the session may have been created"),
    ],
)
async def test_a_create_that_fails_has_an_end(
    against: Against,
    answer: Answer,
    session_id: str | None,
    *,
    outcome_unknown: bool,
    reason: str,
) -> None:
    """A create without a session has one event that says so, with what is known of a session that
    may exist.
    """
    recorder = Recorder()
    _, client = await against(answer, http(200, NO_WORKLOADS), observers=[recorder])
    with pytest.raises(QSessionsError):
        await CREATE(client, timeout=1)
    (failed,) = (event for event in recorder.events if isinstance(event, CreateFailed))
    assert (failed.session_id, failed.outcome_unknown) == (session_id, outcome_unknown)
    assert failed.reason.startswith(reason)


async def test_a_create_that_is_interrupted_has_an_end(against: Against) -> None:
    """A create that an observer ends, once its request may have been sent, has unknown outcome."""
    recorder = Recorder()

    def interrupt(event: Event) -> None:
        if isinstance(event, ResponseReceived):
            raise KeyboardInterrupt

    _, client = await against(http(502), observers=[recorder, interrupt])
    with pytest.raises(KeyboardInterrupt):
        await CREATE(client)
    assert recorder.events[2:] == [
        CreateFailed(session_id=None, outcome_unknown=True, reason="KeyboardInterrupt")
    ]


async def test_a_create_that_is_not_sent_has_no_events(against: Against) -> None:
    """A create that fails before its first request has no event."""
    recorder = Recorder()
    _, client = await against(observers=[recorder], auth=[Unready()])
    with pytest.raises(ConfigurationError):
        await CREATE(client)
    assert recorder.events == []


async def test_a_session_that_is_over_has_its_usage(against: Against) -> None:
    """A read of a session that is over has an event with what it used."""
    recorder = Recorder()
    over = SESSION | {"state": "closed", "elapsed_time": 2.5}
    _, client = await against(http(200, over), observers=[recorder])
    await client.get("s1")
    assert recorder.events[2:] == [SessionEnded(session_id="s1", usage_seconds=2.5)]


class Tracer:
    """An observer with headers for each request."""

    def __init__(self, headers: dict[str, Any]) -> None:
        self.headers = headers

    def __call__(self, event: Event, /) -> None:
        """Do nothing."""

    def trace_headers(self, sent: RequestSent) -> dict[str, Any]:
        """Return the headers."""
        assert sent.attempt >= 1
        if not self.headers:
            raise ValueError("my mistake")
        return self.headers


async def test_an_observer_gives_the_headers_of_a_trace(
    emulator: Emulator, time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """`traceparent` and `tracestate` of an observer go with requests to the service, not to IAM. Of
    other headers, those that can't be sent, those of a mock and those that fail, none does.
    """
    auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time), ServiceCRN(emulator.crn)]
    given = {"traceparent": "00-1-2-01", "tracestate": "a=b", "Authorization": "mine"}
    for observer in (Tracer(given), Tracer({"traceparent": "a\r\nb: c"}), Tracer({}), Mock()):
        async with AsyncSessionClient(
            auth,
            base_url=emulator.url,
            clock=time,
            observers=[observer],
            # It isn't sent beside the observer's.
            headers={"Traceparent": "mine"} if observer.headers == given else None,
        ) as client:
            await client.create(mode="batch")
    token, *creates = emulator.requests
    traces = [
        {name: value for name, value in request.headers.items() if name.startswith("trace")}
        for request in creates
    ]
    assert "traceparent" not in token.headers
    assert traces == [{"traceparent": "00-1-2-01", "tracestate": "a=b"}, {}, {}, {}]
    assert {request.headers["authorization"][:7] for request in creates} == {"Bearer "}
    assert [record.getMessage() for record in caplog.records] == [
        "an observer failed to give trace headers"
    ]


async def test_an_observer_that_fails_is_logged_and_harms_nobody(
    against: Against, caplog: pytest.LogCaptureFixture
) -> None:
    """An observer that raises is logged with its error; the call goes on and the other observers
    get everything.
    """

    def broken(event: object) -> None:
        raise ValueError("my mistake")

    recorder = Recorder()
    _, client = await against(GET.success, observers=[broken, recorder])
    assert (await client.get("s1")).id == "s1"
    assert [type(event) for event in recorder.events] == [RequestSent, ResponseReceived]
    logged = [record for record in caplog.records if record.name == "qsessions"]
    assert [(record.levelname, record.getMessage()) for record in logged] == [
        ("WARNING", "an observer failed on RequestSent"),
        ("WARNING", "an observer failed on ResponseReceived"),
    ]
    for record in logged:
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], ValueError)


async def test_nothing_is_built_when_nobody_listens(
    against: Against, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without observers, and with the log not at DEBUG, no event of a request is even constructed."""

    def never(**fields: object) -> None:
        raise AssertionError("an event was made for nobody")

    for name in ("RequestSent", "ResponseReceived", "RequestFailed"):
        monkeypatch.setattr(f"qsessions.http.attempts.{name}", never)
    assert not logging.getLogger("qsessions").isEnabledFor(logging.DEBUG)
    _, client = await against(http(503), reset, GET.success)
    assert (await client.get("s1")).id == "s1"


async def test_the_log_has_the_facts_as_fields(
    against: Against, time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The logger "qsessions" gets each event as a line and as fields, requests at DEBUG, retries
    and a session's life at INFO.
    """
    caplog.set_level(logging.DEBUG, logger="qsessions")
    _, client = await against(http(503), http(204))
    await UPDATE(client)
    records = [record for record in caplog.records if record.name == "qsessions"]
    assert [(record.levelname, record.__dict__["qsessions_event"]) for record in records] == [
        ("DEBUG", "RequestSent"),
        ("DEBUG", "ResponseReceived"),
        ("INFO", "RetryPlanned"),
        ("DEBUG", "RequestSent"),
        ("DEBUG", "ResponseReceived"),
        ("INFO", "SessionDraining"),
    ]
    assert records[1].getMessage() == ("PATCH /v1/sessions/s1 (update): 503 after 0.000 s")
    fields = {
        name: value for name, value in vars(records[2]).items() if name.startswith("qsessions_")
    }
    assert fields == {
        "qsessions_event": "RetryPlanned",
        "qsessions_operation": "update",
        "qsessions_session_id": "s1",
        "qsessions_attempt": 1,
        "qsessions_delay": 0.25,
        "qsessions_reason": "status 503",
    }


async def test_at_info_only_retries_are_logged(
    against: Against, caplog: pytest.LogCaptureFixture
) -> None:
    """With the log at INFO, a retry is logged though the requests are not."""
    caplog.set_level(logging.INFO, logger="qsessions")
    _, client = await against(http(503), GET.success)
    await client.get("s1")
    events = [
        record.__dict__["qsessions_event"]
        for record in caplog.records
        if record.name == "qsessions"
    ]
    assert events == ["RetryPlanned"]


@table(("answer", "expected"), [(reset, ConnectionFailed), (http(500, fault()), ServerError)])
async def test_a_call_that_fails_for_good_plans_no_retry(
    against: Against, answer: Answer, expected: type[Exception]
) -> None:
    """The last attempt of a call plans nothing."""
    recorder = Recorder()
    _, client = await against(answer, observers=[recorder], retry=RetryPolicy(max_attempts=1))
    with pytest.raises(expected):
        await UPDATE(client)
    assert not any(isinstance(event, RetryPlanned) for event in recorder.events)
    _, client = await against(reset, observers=[recorder])
    with pytest.raises(CreateOutcomeUnknown):
        await CREATE(client)
    planned = [event for event in recorder.events if isinstance(event, RetryPlanned)]
    # Those of the look for what came of it.
    assert {event.operation for event in planned} == {"workloads"}


async def test_events_hold_no_secret(against: Against) -> None:
    """What a server sends back in a broken answer reaches observers without the credential in
    it.
    """
    recorder = Recorder()
    echo = b"HTTP/1.1 200 OK\r\nyou sent apikey the-api-key\r\n\r\n"
    _, client = await against(
        echo, http(200, SESSION), observers=[recorder], retry=RetryPolicy(max_attempts=1)
    )
    with pytest.raises(Exception, match="not valid HTTP"):
        await client.get("s1")
    assert isinstance(recorder.events[-1], RequestFailed)
    assert "***" in recorder.events[-1].reason
    assert "the-api-key" not in repr(recorder.events)
    assert CRN not in repr(recorder.events)


async def test_a_life_in_the_log(against: Against, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO a session's life is a line for each thing that became of it, with its id."""
    caplog.set_level(logging.INFO, logger="qsessions")
    _, client = await against(CREATE.success, http(204), http(204))
    async with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as live:
        pass
    await live.close()
    assert [record.getMessage() for record in caplog.records] == [
        "session s1 created: batch on ibm_fez, max_ttl 600 s",
        "session s1 draining",
        "session s1 closed",
    ]
    caplog.clear()
    _, client = await against(CREATE.success, http(403))
    with pytest.raises(SessionLeftOpen):
        async with client.open(mode="batch", max_ttl="10m"):
            pass
    assert [record.getMessage()[:20] for record in caplog.records] == [
        "session s1 created: ",
        "session s1 left open",
    ]
