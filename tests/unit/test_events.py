"""Events: who hears of them, how they are logged, and that nobody who listens can break a call."""

import logging
from asyncio import CancelledError
from typing import Any

import attrs
import pytest

from qsessions import (
    ClientStopped,
    CreateCancelled,
    CreateFailed,
    EndingFailed,
    Event,
    LedgerFailed,
    MaxUsageReached,
    OwnershipLost,
    RequestFailed,
    RequestSent,
    ResponseReceived,
    RetryPlanned,
    SessionClosed,
    SessionCreated,
    SessionDraining,
    SessionEnded,
    TokenRenewed,
)
from qsessions.events import Observers
from tests.support.tables import table

SENT = RequestSent(
    operation="get",
    session_id="s-1",
    method="GET",
    origin="https://q",
    path="/v1/sessions/s-1",
    attempt=1,
)
EVENTS: list[tuple[Event, int, str]] = [
    (
        SENT,
        logging.DEBUG,
        "GET /v1/sessions/s-1 (get)",
    ),
    (
        RequestSent(
            operation="create",
            session_id=None,
            method="POST",
            origin="https://q",
            path="/v1/sessions",
            attempt=1,
        ),
        logging.DEBUG,
        "POST /v1/sessions (create)",
    ),
    (
        ResponseReceived(
            operation="get",
            session_id="s-1",
            method="GET",
            origin="https://q",
            path="/x",
            attempt=2,
            status=200,
            seconds=0.5,
        ),
        logging.DEBUG,
        "GET /x (get, attempt 2): 200 after 0.500 s",
    ),
    (
        RequestFailed(
            operation="get",
            session_id="s-1",
            method="GET",
            origin="https://q",
            path="/x",
            attempt=2,
            seconds=0.5,
            error="ConnectionFailed",
            reason="lost",
        ),
        logging.DEBUG,
        "GET /x (get, attempt 2): no answer after 0.500 s: lost",
    ),
    (
        RetryPlanned(operation="get", session_id="s-1", attempt=2, delay=0.0, reason="status 503"),
        logging.INFO,
        "get of session s-1 again in 0.000 s, after attempt 2: status 503",
    ),
    (
        TokenRenewed(host="iam.cloud.ibm.com", expires_in=3600.0),
        logging.DEBUG,
        "iam.cloud.ibm.com gave an access token for 3600 s",
    ),
    (
        CreateCancelled(session_id="s-1", closed=True, detail="closed after a cancelled create"),
        logging.INFO,
        "session s-1 closed, since its create was cancelled",
    ),
    (
        CreateCancelled(session_id=None, closed=False, detail="nobody knows"),
        logging.ERROR,
        "nobody knows",
    ),
    (
        EndingFailed(session_id="s-1", operation="close", detail="it said no"),
        logging.ERROR,
        "session s-1 left open: it said no",
    ),
    (
        EndingFailed(session_id="s-1", operation="close", detail="it said no", again=True),
        logging.DEBUG,
        "session s-1 left open: it said no",
    ),
    (
        LedgerFailed(reason="the disk is full", unrecorded=("s-1", "s-2")),
        logging.WARNING,
        "the ledger never recorded s-1, s-2: the disk is full",
    ),
    (
        LedgerFailed(reason="the disk is full"),
        logging.WARNING,
        "the ledger doesn't record sessions: the disk is full",
    ),
    (
        SessionCreated(session_id="s-1", mode="dedicated", backend="ibm_fez", max_ttl=600),
        logging.INFO,
        "session s-1 created: dedicated on ibm_fez, max_ttl 600 s",
    ),
    (
        SessionCreated(session_id="s-1", mode="batch", backend=None, max_ttl=None),
        logging.INFO,
        "session s-1 created: batch, no max_ttl",
    ),
    (
        MaxUsageReached(session_id="s-1", max_usage=300.0, usage_seconds=307.4),
        logging.WARNING,
        "session s-1 has used 307 s of its max_usage of 300 s, and is being closed",
    ),
    (SessionDraining(session_id="s-1"), logging.INFO, "session s-1 draining"),
    (SessionClosed(session_id="s-1"), logging.INFO, "session s-1 closed"),
    (
        CreateFailed(session_id=None, outcome_unknown=False, reason="it said no"),
        logging.DEBUG,
        "create failed: it said no",
    ),
    (
        SessionEnded(session_id="s-1", usage_seconds=2.5),
        logging.DEBUG,
        "session s-1 is over, used 2.5 s",
    ),
    (
        OwnershipLost(reason="no renewal", taken_over=False, session_ids=("s-1",)),
        logging.WARNING,
        "ownership of 1 session of this process is lost: no renewal",
    ),
    (
        OwnershipLost(reason="taken", taken_over=True, session_ids=()),
        logging.WARNING,
        "ownership of 0 sessions of this process is lost: taken",
    ),
    (
        ClientStopped(base_url="https://q/api"),
        logging.DEBUG,
        "the client of https://q/api has stopped",
    ),
]


@table(("event", "level", "message"), EVENTS)
def test_log(event: Event, level: int, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each event is one record of the logger "qsessions": a readable line, and every field as
    structured extra.
    """
    caplog.set_level(logging.DEBUG, "qsessions")
    caplog.clear()
    Observers().notify(event)
    [record] = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("qsessions", level, message)
    extra = {name: value for name, value in vars(record).items() if name.startswith("qsessions_")}
    fields = {f"qsessions_{name}": value for name, value in attrs.asdict(event).items()}
    assert extra == {"qsessions_event": type(event).__name__, **fields}


@table(("event", "level", "message"), EVENTS)
def test_quiet_log(
    event: Event, level: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Below the level that the application set, nothing is written."""
    caplog.set_level(level + 1, "qsessions")
    caplog.clear()
    Observers().notify(event)
    assert caplog.records == []


def test_a_log_line_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is in a field, a log line has no line end and nothing that a terminal would obey;
    the structured extra has it as it is.
    """
    reason = "\x1b[31mred\r\nCRITICAL forged\u202e\u2028"
    Observers().notify(LedgerFailed(reason=reason, unrecorded=()))
    [record] = caplog.records
    assert record.getMessage() == "the ledger doesn't record sessions:  [31mred  CRITICAL forged  "
    assert vars(record)["qsessions_reason"] == reason


def test_the_kinds_here_are_all() -> None:
    """The table of this file has every kind of event, so that a new one is tested too."""
    assert {type(event) for event, _, _ in EVENTS} == set(Event.__args__)


@table(("event", "level", "message"), EVENTS)
def test_events_are_values(event: Event, level: int, message: str) -> None:
    """Events can be kept, compared and hashed, and no observer can change one for the next."""
    assert attrs.evolve(event) == event
    assert hash(attrs.evolve(event)) == hash(event)
    name = attrs.fields(type(event))[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(event, name, "other")


def test_observers_hear_in_order() -> None:
    """Every observer hears every event, in the order in which observers were given."""
    heard: list[tuple[str, Event]] = []
    observers = Observers(
        [
            lambda event: heard.append(("first", event)),
            lambda event: heard.append(("second", event)),
        ]
    )
    observers.notify(SENT)
    assert heard == [("first", SENT), ("second", SENT)]


@table("kind", [RuntimeError, CancelledError])
def test_a_failing_observer(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """What an observer raises is logged with its traceback and disturbs neither the call nor the
    next observer.
    """
    caplog.clear()
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise kind("the observer's own fault")

    Observers([broken, heard.append]).notify(SENT)
    assert heard == [SENT]
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "an observer failed on RequestSent",
    )
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the observer's own fault"


def test_an_interrupted_observer() -> None:
    """What must stop a program passes through an observer."""

    def stopped(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers([stopped]).notify(SENT)


@table(
    ("observers", "level", "listening"),
    [
        ([], logging.INFO, False),
        ([], logging.WARNING, False),
        ([], logging.DEBUG, True),
        ([lambda _: None], logging.CRITICAL, True),
    ],
)
def test_listening(
    observers: list[Any], level: int, listening: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody listens when there is an observer or the log takes debug records; otherwise no event
    need be made.
    """
    caplog.set_level(level, "qsessions")
    assert Observers(observers).listening is listening


def test_an_application_without_logging() -> None:
    """The logger has no handler of its own, so that Python's last resort writes warnings to
    standard error.
    """
    assert logging.getLogger("qsessions").handlers == []
