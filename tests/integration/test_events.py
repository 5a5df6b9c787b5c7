"""Events of calls over real sockets, for observers and in the log."""

from __future__ import annotations

import logging

import attrs
import pytest

from qsessions import (
    AsyncSessionClient,
    ConnectionFailed,
    CreateOutcomeUnknown,
    Event,
    IBMCloudAuth,
    NotFound,
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
    SessionLeftOpen,
    TokenRenewed,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import CREATE, GET, ROWS, SESSION, UPDATE, Row, fault
from tests.support.clients import CRN, Against
from tests.support.fault_server import Answer, Connection, http, reset
from tests.support.tables import table


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
    _, client = await against(after_a_while, observers=[recorder])
    await row(client)
    sent = RequestSent(
        operation=row.name, session_id=row.session_id, method=row.method, path=row.path, attempt=1
    )
    answered = ResponseReceived(
        operation=row.name,
        session_id=row.session_id,
        method=row.method,
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
    _, client = await against(*script, observers=[recorder])
    await UPDATE(client)
    failed = recorder.events[1]
    assert isinstance(failed, RequestFailed)
    assert failed.reason.startswith("the connection was lost. ")
    about = {"operation": "update", "session_id": "s1"}
    where = about | {"method": "PATCH", "path": "/v1/sessions/s1"}
    assert [(type(event).__name__, attrs.asdict(event)) for event in recorder.events] == [
        ("RequestSent", where | {"attempt": 1}),
        ("RequestFailed", where | {"attempt": 1, "seconds": 2.0, "reason": failed.reason}),
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
    ]
    assert recorder.events[2] == TokenRenewed(host="127.0.0.1", expires_in=3600.0)


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
