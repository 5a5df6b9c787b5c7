"""The error tree: facts, wording, pickling."""

import copy
import pickle
from typing import Any

import pytest

import qsessions
from qsessions import (
    BadRequest,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    CreateOutcomeUnknown,
    Forbidden,
    InstanceLookupFailed,
    InstanceNotFound,
    InvalidArgument,
    LeaseLost,
    LedgerUnavailable,
    NotFound,
    ProtocolError,
    QSessionsError,
    RateLimited,
    ResponseError,
    ServerError,
    SessionLeftOpen,
    StateUnreachable,
    TokenExchangeFailed,
    Unauthorized,
    WatchIncomplete,
)
from qsessions.api.error_body import ErrorBody
from qsessions.errors import copy_error
from qsessions.http.response_errors import response_error_class
from tests.support.tables import table

PLAIN: list[type[QSessionsError]] = [
    QSessionsError,
    ClientClosed,
    ConfigurationError,
    CreateOutcomeUnknown,
    InstanceLookupFailed,
    InvalidArgument,
    LeaseLost,
    LedgerUnavailable,
    ProtocolError,
    SessionLeftOpen,
    StateUnreachable,
    TokenExchangeFailed,
    WatchIncomplete,
]
SENDING: list[type[QSessionsError]] = [CallTimeout, ConnectionFailed]
ANSWERED: list[type[QSessionsError]] = [
    BadRequest,
    Conflict,
    Forbidden,
    InstanceNotFound,
    NotFound,
    RateLimited,
    ResponseError,
    ServerError,
    Unauthorized,
]
EVERY = PLAIN + SENDING + ANSWERED

FACTS: dict[str, Any] = {
    "operation": "update",
    "session_id": "s-1",
    "method": "PATCH",
    "path": "/api/v1/sessions/s-1",
    "status": 418,
    "code": "1234",
    "solution": "Do something else.",
    "argument": "auth",
    "trace_id": "t-1",
    "attempts": 3,
    "retryable": True,
}


def full(kind: type[QSessionsError]) -> QSessionsError:
    """An error of a class with every fact set, each different from its default."""
    own: dict[str, Any] = {}
    if kind in SENDING:
        own = {"sent": False}
    if kind in ANSWERED:
        own = {"retry_after": 2.5}
    error = kind("it broke", **FACTS, **own)
    error.add_note("first note")
    error.add_note("second note")
    return error


def fields(error: QSessionsError) -> dict[str, object]:
    """All that an error says."""
    return {**vars(error), "args": error.args, "str": str(error), "notes": error.__notes__}


@pytest.mark.smoke
@table("kind", EVERY)
@table("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(kind: type[QSessionsError], protocol: int) -> None:
    """An error that crosses a process border arrives with its class, its fields and its notes."""
    error = full(kind)
    arrived = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - what is loaded was dumped here
    assert type(arrived) is kind
    assert fields(arrived) == fields(error)


def test_the_errors_of_a_watch_arrive_too() -> None:
    """What a watch says of each session crosses a process border with it."""
    error = WatchIncomplete("it broke", errors={"s-1": full(NotFound)})
    assert error.to_dict()["errors"] == {"s-1": full(NotFound).to_dict()}
    arrived: WatchIncomplete = pickle.loads(pickle.dumps(error))  # noqa: S301 - as above
    assert fields(arrived.errors["s-1"]) == fields(error.errors["s-1"])


@table("kind", EVERY)
def test_deepcopy(kind: type[QSessionsError]) -> None:
    """A deep copy says the same, and a note on it leaves the original alone."""
    error = full(kind)
    duplicate = copy.deepcopy(error)
    assert type(duplicate) is kind
    assert fields(duplicate) == fields(error)
    duplicate.add_note("third note")
    assert error.__notes__ == ["first note", "second note"]


@table("kind", EVERY)
def test_facts(kind: type[QSessionsError]) -> None:
    """What an error is made with can be read from it, field by field, and its message is the one
    argument of the exception.
    """
    error = full(kind)
    assert {name: getattr(error, name) for name in FACTS} == FACTS
    assert error.message == "it broke"
    assert error.args == ("it broke",)


@table("kind", EVERY)
def test_defaults(kind: type[QSessionsError]) -> None:
    """What isn't known is None, not a made-up value; only the advice of the class stands in for the
    service's.
    """
    error = kind("it broke")
    unknown = ("operation", "session_id", "method", "path", "status", "code", "trace_id")
    assert {name: getattr(error, name) for name in unknown} == dict.fromkeys(unknown)
    assert error.attempts == 0
    assert error.solution == kind.hint
    # Without an answer trying again may help; for the rest, whoever raises says so.
    assert error.retryable is (kind in SENDING)


@table("kind", [ConnectionFailed, CallTimeout])
def test_sent_unless_said(kind: type[ConnectionFailed | CallTimeout]) -> None:
    """A request counts as sent unless it is known that it wasn't, because only that is safe to
    repeat.
    """
    assert kind("it broke").sent is True
    assert kind("it broke", sent=False).sent is False


@table("kind", ANSWERED)
def test_answered(kind: type[QSessionsError]) -> None:
    """Every class for an answer is a ResponseError with `retry_after`, None where the service asked
    for no wait.
    """
    error = kind("it broke")
    assert isinstance(error, ResponseError)
    assert error.retry_after is None


def test_every_public_error_is_here() -> None:
    """The lists of this file leave out no public error class, so that a new one is tested too."""
    public = {
        value
        for name in dir(qsessions)
        if isinstance(value := getattr(qsessions, name), type) and issubclass(value, BaseException)
    }
    assert public == set(EVERY)


@table("kind", EVERY)
def test_one_root(kind: type[QSessionsError]) -> None:
    """One except clause catches everything, and no error is a BaseException that would slip through
    `except Exception`.
    """
    assert issubclass(kind, QSessionsError)
    assert issubclass(kind, Exception)


@table(
    ("kind", "builtin"),
    [(InvalidArgument, ValueError), (CallTimeout, TimeoutError)],
)
def test_builtin_kin(kind: type[QSessionsError], builtin: type[Exception]) -> None:
    """A bad argument is a ValueError and a passed deadline a TimeoutError, as callers of Python
    expect.
    """
    with pytest.raises(builtin, match="it broke"):
        raise kind("it broke")


@table(
    ("status", "kind"),
    [
        (300, ResponseError),
        (302, ResponseError),
        (400, BadRequest),
        (401, Unauthorized),
        (402, ResponseError),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, ResponseError),
        (429, RateLimited),
        (499, ResponseError),
        (500, ServerError),
        (503, ServerError),
        (524, ServerError),
        (599, ServerError),
    ],
)
def test_class_of_a_status(status: int, kind: type[ResponseError]) -> None:
    """Each status has the class that the documentation names, and one without a class of its own
    the nearest base.
    """
    assert response_error_class(status, ErrorBody(is_service_error=True)) is kind


def test_a_404_of_another_form_says_nothing_about_a_session() -> None:
    """A 404 that isn't the service's own is no NotFound: who took it for the end of a session would
    leave that open.
    """
    assert response_error_class(404, ErrorBody(is_service_error=False)) is ResponseError
    assert (
        response_error_class(404, ErrorBody(is_service_error=False, codes=("1279",)))
        is ResponseError
    )


@table(
    ("status", "codes", "kind"),
    [
        (404, ("1279",), InstanceNotFound),
        (404, ("1200", "1279"), InstanceNotFound),
        (404, ("1291",), NotFound),
        (403, ("1279",), Forbidden),
    ],
)
def test_a_404_about_the_instance(
    status: int, codes: tuple[str, ...], kind: type[ResponseError]
) -> None:
    """A 404 with the service's code for an instance that it doesn't find is a class of its own, and
    no NotFound.
    """
    assert response_error_class(status, ErrorBody(is_service_error=True, codes=codes)) is kind
    assert not issubclass(InstanceNotFound, NotFound)


@table(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, ResponseError),
        (403, ResponseError),
        (404, ResponseError),
        (503, ServerError),
    ],
)
def test_a_wall_of_html(status: int, kind: type[ResponseError]) -> None:
    """A page with 401 or 403 comes from a wall in between, and says nothing about the credentials."""
    assert response_error_class(status, ErrorBody(is_service_error=False, html=True)) is kind


@table(
    ("error", "text"),
    [
        (QSessionsError("it broke"), "it broke"),
        (QSessionsError("it broke", operation="get"), "get: it broke"),
        (QSessionsError("it broke", session_id="s-1"), "session 's-1': it broke"),
        (
            QSessionsError("it broke", operation="get", session_id="s-1"),
            "get of session 's-1': it broke",
        ),
        (QSessionsError("it broke", status=500), "it broke (status 500)"),
        (
            QSessionsError("it broke", status=500, code="1", trace_id="t"),
            "it broke (status 500, code 1, trace t)",
        ),
        (QSessionsError("it broke", attempts=1), "it broke"),
        (QSessionsError("it broke", attempts=2), "it broke (2 attempts)"),
        (QSessionsError("it broke.", solution="Mend it."), "it broke. Mend it."),
        (
            QSessionsError(
                "it broke", operation="get", status=500, attempts=5, solution="Mend it."
            ),
            "get: it broke (status 500, 5 attempts). Mend it.",
        ),
        (
            RateLimited("slow down.", status=429),
            "slow down (status 429). Wait, and make fewer calls at a time.",
        ),
        (RateLimited("slow down.", solution="Wait a minute."), "slow down. Wait a minute."),
    ],
)
def test_text(error: QSessionsError, text: str) -> None:
    """The text says what was asked, what happened, which facts help support, and what to do next,
    each only where known.
    """
    assert str(error) == text


def test_context() -> None:
    """An error is told where it happened once: it is the same object, and a second telling changes
    nothing.
    """
    error = NotFound("no such session", status=404)
    here = error.with_context(
        operation="get", session_id="s-1", method="GET", path="/v1/sessions/s-1", attempts=2
    )
    there = error.with_context(
        operation="close", session_id="s-2", method="DELETE", path="/", attempts=9
    )
    assert here is error
    assert there is error
    assert fields_of_place(error) == ("get", "s-1", "GET", "/v1/sessions/s-1", 2)


def test_context_keeps_the_id() -> None:
    """An id that the error knows from the answer is kept when the request itself was about no
    session.
    """
    error = CreateOutcomeUnknown("it can't be read", session_id="s-1")
    error.with_context(
        operation="create", session_id=None, method="POST", path="/v1/sessions", attempts=1
    )
    assert fields_of_place(error) == ("create", "s-1", "POST", "/v1/sessions", 1)


def test_from_failure() -> None:
    """An error that takes another's place has its facts, but advice of its own."""
    failure = ServerError(
        "it broke", status=500, code="1", trace_id="t", solution="Wait.", retryable=True
    ).with_context(operation="close", session_id="s-1", method="DELETE", path="/p", attempts=2)
    error = SessionLeftOpen.from_failure(failure, "it goes on", session_id="s-2", retryable=False)
    assert fields_of_place(error) == ("close", "s-2", "DELETE", "/p", 2)
    assert (error.status, error.code, error.trace_id, error.retryable) == (500, "1", "t", False)
    assert (error.message, error.solution) == ("it goes on", SessionLeftOpen.hint)


def fields_of_place(error: QSessionsError) -> tuple[object, ...]:
    """Where an error happened."""
    return error.operation, error.session_id, error.method, error.path, error.attempts


@table("kind", EVERY)
def test_identity(kind: type[QSessionsError]) -> None:
    """Errors compare by identity and can be put into sets, as exceptions can."""
    assert kind("it broke") != kind("it broke")
    assert len({kind("it broke"), kind("it broke")}) == 2


def test_unknown_fact() -> None:
    """A fact that no error has is refused instead of being dropped in silence."""
    with pytest.raises(TypeError):
        NotFound("no such session", colour="red")


class Uncopyable(Exception):
    """A foreign error that can't be made from its arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@table("kind", EVERY)
def test_copy_error(kind: type[QSessionsError]) -> None:
    """Each of many who wait for the same gets an error of its own that says the same, cause
    included.
    """
    error = full(kind)
    error.__cause__ = OSError("the network")
    copied = copy_error(error)
    assert isinstance(copied, kind)
    assert copied is not error
    assert fields(copied) == fields(error)
    assert copied.__cause__ is error.__cause__
    copied.add_note("third note")
    assert error.__notes__ == ["first note", "second note"]


def test_copy_error_without_notes() -> None:
    """An error without notes gets none."""
    assert not hasattr(copy_error(NotFound("no such session")), "__notes__")


def test_copy_error_of_a_foreign_error() -> None:
    """A foreign error that can't be copied gets through as it is."""
    error = Uncopyable("one", "two")
    assert copy_error(error) is error
