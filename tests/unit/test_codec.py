"""Bodies in, values out: what is read, what is refused and how it is told, and what is written."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from qsessions import (
    ApiVersion,
    CreateSession,
    Mode,
    ProtocolError,
    Session,
    SessionState,
    StateChange,
    UpdateSession,
    Workload,
)
from qsessions.api import error_body
from qsessions.api.codec import (
    Grant,
    WorkloadPage,
    decode_grant,
    decode_has_jobs,
    decode_session,
    decode_session_id,
    decode_versions,
    decode_workloads,
    encode,
)
from qsessions.api.error_body import ErrorBody, decode_error_body
from tests.support.json_values import JSON
from tests.support.tables import table

READERS = [decode_session, decode_versions, decode_workloads]
LONE_SURROGATE = b'"\\ud800"'

TEXT = st.text(min_size=1)
TIMES = st.datetimes(
    timezones=st.builds(
        timezone, st.integers(-14 * 60, 14 * 60).map(lambda minutes: timedelta(minutes=minutes))
    )
)
NAMES = {field.name for field in attrs.fields(Session)} - {"extra"}


def dumped(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()


def session_with(**fields: object) -> Session:
    """What is read from a session's body with these fields and an id."""
    return decode_session(dumped({"id": "s-1", **fields}))


@table(
    ("wire", "read"),
    [
        ({"backend_name": None}, {}),
        ({"backend_name": ""}, {}),
        ({"mode": None, "state": "", "state_reason": ""}, {}),
        ({"timestamps": None}, {}),
        ({"timestamps": []}, {}),
        ({"elapsed_time": None}, {}),
        ({"elapsed_time": 0}, {"elapsed_time": 0.0}),
        ({"active_ttl": 0, "accepting_jobs": False}, {"active_ttl": 0, "accepting_jobs": False}),
        ({"max_ttl": 600.0}, {"max_ttl": 600}),
        ({"state": "pending_closed"}, {"state": SessionState.PENDING_CLOSED}),
        ({"state": "something_new"}, {"state": SessionState("something_new")}),
        ({"mode": "shared"}, {"mode": Mode("shared")}),
        (
            {"started_at": "2026-05-04T12:00:00"},
            {"started_at": datetime(2026, 5, 4, 12, tzinfo=UTC)},
        ),
        (
            {"started_at": "2026-05-04T14:00:00.5+02:00"},
            {"started_at": datetime(2026, 5, 4, 12, 0, 0, 500_000, tzinfo=UTC)},
        ),
        ({"colour": None}, {"extra": {"colour": None}}),
        ({"extra": 5}, {"extra": {"extra": 5}}),
    ],
)
def test_sessions(wire: dict[str, object], read: dict[str, Any]) -> None:
    """null and "" are absent, 0 and false are not; unknown values live; a time without an offset is
    UTC.
    """
    assert session_with(**wire) == Session(id="s-1", **read)


def test_numbers_keep_their_types() -> None:
    """Seconds that a JSON writer spells 600.0 are read as an int, and a usage spelt 12 as a float."""
    session = session_with(max_ttl=600.0, elapsed_time=12)
    assert type(session.max_ttl) is int
    assert type(session.elapsed_time) is float


@table(
    ("wire", "problem"),
    [
        ({"id": None}, "required field 'id' is missing @ $.id"),
        ({"id": ""}, "required field 'id' is missing @ $.id"),
        ({"id": 5}, "expected text, got a number @ $.id"),
        ({"mode": 5}, "expected text, got a number @ $.mode"),
        ({"state": ["open"]}, "expected text, got an array @ $.state"),
        ({"accepting_jobs": 1}, "expected true or false, got a number @ $.accepting_jobs"),
        ({"accepting_jobs": "true"}, "expected true or false, got text @ $.accepting_jobs"),
        ({"max_ttl": True}, "expected a whole number, got a boolean @ $.max_ttl"),
        ({"max_ttl": 1.5}, "expected a whole number, got a number @ $.max_ttl"),
        ({"max_ttl": "600"}, "expected a whole number, got text @ $.max_ttl"),
        ({"elapsed_time": False}, "expected a number, got a boolean @ $.elapsed_time"),
        ({"elapsed_time": "1"}, "expected a number, got text @ $.elapsed_time"),
        (
            {"elapsed_time": 10**400},
            "expected a number, got one that is too large @ $.elapsed_time",
        ),
        ({"closed_at": 5}, "expected text, got a number @ $.closed_at"),
        ({"closed_at": "yesterday"}, "expected an ISO 8601 time, got other text @ $.closed_at"),
        ({"timestamps": "open"}, "expected an array, got text @ $.timestamps"),
        ({"timestamps": {}}, "expected an array, got an object @ $.timestamps"),
        ({"timestamps": [None]}, "expected an object, got null @ $.timestamps[0]"),
        (
            {
                "timestamps": [
                    {"status": "open", "timestamp": "2026-05-04T12:00:00Z"},
                    {"status": "active"},
                ]
            },
            "required field 'timestamp' is missing @ $.timestamps[1].timestamp",
        ),
    ],
)
def test_sessions_refused(wire: dict[str, object], problem: str) -> None:
    """A field that can't be read is named by its path, with what was expected and what came."""
    with pytest.raises(ProtocolError) as caught:
        session_with(**wire)
    assert caught.value.message == f"The answer can't be read: {problem}."


@table(
    ("body", "problem"),
    [
        (b"", "it is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            b'{"id": "s-1"',
            "it is not valid JSON: Expecting ',' delimiter: line 1 column 13 (char 12)",
        ),
        (b'{"id": "s-1"}}', "it is not valid JSON: Extra data: line 1 column 14 (char 13)"),
        (b"<html></html>", "it is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"id": "s-1", "elapsed_time": NaN}', "it is not valid JSON: NaN is not a JSON value"),
        (
            b'{"id": "s-1", "elapsed_time": -Infinity}',
            "it is not valid JSON: -Infinity is not a JSON value",
        ),
        (
            b'{"id": "\xff"}',
            "it is not valid JSON: 'utf-8' codec can't decode byte 0xff in position 8: invalid start byte",
        ),
        (
            b"[" * 100_000,
            "it is not valid JSON: it is nested too deeply",
        ),
        (b"[]", "expected an object, got an array @ $"),
        (b'"s-1"', "expected an object, got text @ $"),
        (b"5", "expected an object, got a number @ $"),
        (b"true", "expected an object, got a boolean @ $"),
        (b"null", "expected an object, got null @ $"),
    ],
)
def test_bodies_that_are_no_object(body: bytes, problem: str) -> None:
    """What is no JSON, or JSON of another kind, is told as such, with the place."""
    for read in READERS:
        with pytest.raises(ProtocolError) as caught:
            read(body)
        assert caught.value.message == f"The answer can't be read: {problem}."


def test_numbers_too_long_to_read() -> None:
    """A number of more digits than Python reads is a body that can't be read, not a ValueError."""
    with pytest.raises(ProtocolError, match="The answer can't be read"):
        decode_session(b'{"id": "s-1", "max_ttl": ' + b"9" * 5000 + b"}")


def test_infinity_in_disguise() -> None:
    """A usage of 1e999, which JSON allows and Python reads as infinity, is refused."""
    with pytest.raises(ProtocolError, match="too large"):
        decode_session(b'{"id": "s-1", "elapsed_time": 1e999}')


def test_many_problems() -> None:
    """Of many problems three are told, so that the message stays readable."""
    with pytest.raises(ProtocolError) as caught:
        session_with(max_ttl="a", active_ttl="b", interactive_ttl="c", mode=5)
    assert caught.value.message.count(" @ $.") == 3


@given(JSON)
def test_any_json(value: Any) -> None:
    """Whatever JSON comes, it is read or a ProtocolError says why not."""
    survive(dumped(value))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(NAMES), JSON)))
def test_any_json_in_a_session(fields: dict[str, Any]) -> None:
    """Whatever stands in a session's fields, it is read or a ProtocolError says why not."""
    survive(dumped({"id": "s-1", **fields}))


@given(
    st.fixed_dictionaries(
        {}, optional={"next": JSON, "workloads": JSON, "versions": JSON, "errors": JSON}
    )
)
def test_any_json_in_a_list(fields: dict[str, Any]) -> None:
    """Whatever stands in a page's or a list's fields, it is read or a ProtocolError says why not."""
    survive(dumped(fields))


@given(st.binary())
def test_any_bytes(body: bytes) -> None:
    """Whatever bytes come, they are read or a ProtocolError says why not."""
    survive(body)


def survive(body: bytes) -> None:
    """Pass a body to every reader; only a ProtocolError may come of it."""
    for read in READERS:
        try:
            read(body)
        except ProtocolError as error:
            assert error.message.startswith("The answer can't be read: ")  # noqa: PT017 - it needn't be raised
    assert isinstance(decode_error_body(body), ErrorBody)
    assert isinstance(decode_grant(body), Grant | None)
    assert decode_session_id(body) != ""


@given(st.dictionaries(st.text().filter(lambda name: name not in NAMES), JSON, min_size=1))
def test_unknown_fields(unknown: dict[str, Any]) -> None:
    """Every unknown field is kept as decoded JSON, and only those."""
    extra = {
        name: value for name, value in unknown.items() if not has_constant(value)
    }  # NaN and infinities are no JSON
    assert session_with(max_ttl=5, **extra) == Session(id="s-1", max_ttl=5, extra=extra)
    assert decode_versions(
        dumped({"versions": [{"version": "v", **without(extra, ApiVersion)}]})
    ) == [ApiVersion(version="v", extra=without(extra, ApiVersion))]
    page = decode_workloads(dumped({"workloads": [{"id": "w", **without(extra, Workload)}]}))
    assert page.workloads == (Workload(id="w", extra=without(extra, Workload)),)


def without(unknown: dict[str, Any], model: type[ApiVersion | Workload]) -> dict[str, Any]:
    """The fields that are unknown to this model too."""
    known = {field.name for field in attrs.fields(model)} - {"extra"}
    return {name: value for name, value in unknown.items() if name not in known}


def has_constant(value: Any) -> bool:
    """Whether NaN or an infinity is in a value."""
    if isinstance(value, dict):
        return any(map(has_constant, value.values()))
    if isinstance(value, list):
        return any(map(has_constant, value))
    return isinstance(value, float) and not math.isfinite(value)


SESSIONS = st.builds(
    Session,
    id=TEXT,
    backend_name=st.none() | TEXT,
    mode=st.none() | TEXT.map(Mode) | st.sampled_from(Mode),
    state=st.none() | TEXT.map(SessionState) | st.sampled_from(SessionState),
    state_reason=st.none() | TEXT,
    accepting_jobs=st.none() | st.booleans(),
    started_at=st.none() | TIMES,
    activated_at=st.none() | TIMES,
    closed_at=st.none() | TIMES,
    last_job_started=st.none() | TIMES,
    last_job_completed=st.none() | TIMES,
    interactive_ttl=st.none() | st.integers(0, 2**53),
    max_ttl=st.none() | st.integers(0, 2**53),
    active_ttl=st.none() | st.integers(0, 2**53),
    timestamps=st.lists(
        st.builds(StateChange, st.sampled_from(SessionState) | TEXT.map(SessionState), TIMES),
        max_size=4,
    ).map(tuple),
    user_id=st.none() | TEXT,
    elapsed_time=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    extra=st.just({}),
)


def on_the_wire(value: Any) -> Any:
    """A model in the service's form, written apart from the codec."""
    if isinstance(value, Session | StateChange):
        fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        return {name: on_the_wire(item) for name, item in fields.items() if name != "extra"}
    if isinstance(value, tuple):
        return [on_the_wire(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


@given(SESSIONS)
def test_round_trip(session: Session) -> None:
    """Every session that the service can describe is read as it is."""
    assert decode_session(dumped(on_the_wire(session))) == session


@given(TIMES)
def test_times_are_aware(time: datetime) -> None:
    """Every time is read with its offset, and one without any as UTC."""
    naive = time.replace(tzinfo=None)
    assert session_with(started_at=naive.isoformat()).started_at == naive.replace(tzinfo=UTC)
    read = session_with(started_at=time.isoformat()).started_at
    assert read is not None
    assert read.utcoffset() == time.utcoffset()


@table(
    ("body", "session_id"),
    [
        (b'{"id": "s-1"}', "s-1"),
        (b'{"id": "s-1", "max_ttl": "unreadable"}', "s-1"),
        (b'{"id": ""}', None),
        (b'{"id": null}', None),
        (b'{"id": 5}', None),
        (b"{}", None),
        (b'["s-1"]', None),
        (b'"s-1"', None),
        (b'{"id": "s-1"', None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_session_id(body: bytes, session_id: str | None) -> None:
    """The id alone is found in a body that is otherwise unreadable, and never made up."""
    assert decode_session_id(body) == session_id


def test_versions() -> None:
    """The list of versions is read in the service's order, with what is optional left out."""
    body = {
        "versions": [
            {"version": "2025-01-01", "status": "live", "sunset_date": ""},
            {"version": "x"},
        ]
    }
    assert decode_versions(dumped(body)) == [
        ApiVersion(version="2025-01-01", status="live"),
        ApiVersion(version="x"),
    ]


@table(
    ("body", "problem"),
    [
        ({}, "required field 'versions' is missing @ $.versions"),
        ({"versions": None}, "required field 'versions' is missing @ $.versions"),
        ({"versions": {}}, "expected an array, got an object @ $.versions"),
        ({"versions": "2025-01-01"}, "expected an array, got text @ $.versions"),
        ({"versions": ["2025-01-01"]}, "expected an object, got text @ $.versions[0]"),
        (
            {"versions": [{"status": "live"}]},
            "required field 'version' is missing @ $.versions[0].version",
        ),
    ],
)
def test_versions_refused(body: object, problem: str) -> None:
    """A list of versions of another form is no empty list."""
    with pytest.raises(ProtocolError) as caught:
        decode_versions(dumped(body))
    assert caught.value.message == f"The answer can't be read: {problem}."


@table(
    ("link", "href"),
    [
        ({}, None),
        ({"next": None}, None),
        ({"next": ""}, None),
        ({"next": {}}, None),
        ({"next": {"href": None}}, None),
        ({"next": {"href": ""}}, None),
        ({"next": {"href": "/v1/workloads?next=c", "title": "more"}}, "/v1/workloads?next=c"),
    ],
)
def test_pages(link: dict[str, object], href: str | None) -> None:
    """A page has its workloads and the link to the next, None in every spelling of "there is none"."""
    page = decode_workloads(
        dumped({"total_count": 1, "workloads": [{"id": "w", "tags": ["a"]}], **link})
    )
    assert page == WorkloadPage(workloads=(Workload(id="w", tags=("a",)),), next_href=href)


@table(
    ("body", "problem"),
    [
        ({"next": None}, "required field 'workloads' is missing @ $.workloads"),
        ({"workloads": ""}, "required field 'workloads' is missing @ $.workloads"),
        ({"workloads": {}}, "expected an array, got an object @ $.workloads"),
        ({"workloads": 5}, "expected an array, got a number @ $.workloads"),
        ({"workloads": [{}]}, "required field 'id' is missing @ $.workloads[0].id"),
        (
            {"workloads": [{"id": "w", "tags": "ab"}]},
            "expected an array, got text @ $.workloads[0].tags",
        ),
        (
            {"workloads": [{"id": "w", "tags": [5]}]},
            "expected text, got a number @ $.workloads[0].tags[0]",
        ),
        ({"workloads": [], "next": "c"}, "expected an object, got text @ $.next"),
        ({"workloads": [], "next": ["c"]}, "expected an object, got an array @ $.next"),
        ({"workloads": [], "next": {"href": 5}}, "expected text, got a number @ $.next.href"),
    ],
)
def test_pages_refused(body: object, problem: str) -> None:
    """A page of another form is neither an empty nor the last one: that would hide sessions that
    cost.
    """
    with pytest.raises(ProtocolError) as caught:
        decode_workloads(dumped(body))
    assert caught.value.message == f"The answer can't be read: {problem}."


SERVICE_ERROR = {
    "code": "1202",
    "message": "Too many.",
    "solution": "Wait.",
    "more_info": "https://x",
}


@table(
    ("body", "parsed"),
    [
        (
            {"errors": [SERVICE_ERROR], "trace": "t-1"},
            ErrorBody(
                is_service_error=True,
                message="Too many.",
                codes=("1202",),
                solution="Wait. https://x",
                trace_id="t-1",
            ),
        ),
        (
            {"errors": [{"code": 1202, "message": "m"}]},
            ErrorBody(is_service_error=True, message="m", codes=("1202",)),
        ),
        ({"errors": [{"code": 0}]}, ErrorBody(is_service_error=True, codes=("0",))),
        ({"errors": [{"message": "m"}]}, ErrorBody(is_service_error=True, message="m")),
        (
            {"errors": [{"message": "m", "code": None}]},
            ErrorBody(is_service_error=True, message="m"),
        ),
        (
            {"errors": [{"message": "m", "more_info": "see there"}]},
            ErrorBody(is_service_error=True, message="m", solution="see there"),
        ),
        (
            {"errors": [{"message": "m", "solution": "", "more_info": "see there"}]},
            ErrorBody(is_service_error=True, message="m", solution="see there"),
        ),
        (
            {"errors": [{"message": "first"}, {"message": "second"}]},
            ErrorBody(is_service_error=True, message="first. second"),
        ),
        (
            {
                "errors": [
                    {"message": "One.", "code": 1},
                    "m",
                    {"message": "Two", "code": 2, "solution": "Wait"},
                ]
            },
            ErrorBody(is_service_error=True, message="One. Two", codes=("1", "2"), solution="Wait"),
        ),
        (
            {"errors": [{"message": "m"}, {"message": "m"}]},
            ErrorBody(is_service_error=True, message="m"),
        ),
        # Not the service's form, so not its word that it failed.
        ({"errors": [{"code": "", "message": ""}]}, ErrorBody(is_service_error=False)),
        ({"errors": [{"code": True, "message": ["m"]}]}, ErrorBody(is_service_error=False)),
        ({"errors": [{}]}, ErrorBody(is_service_error=False)),
        ({"errors": []}, ErrorBody(is_service_error=False)),
        ({"errors": "m"}, ErrorBody(is_service_error=False)),
        ({"errors": ["m"]}, ErrorBody(is_service_error=False)),
        ({"errors": {"0": SERVICE_ERROR}}, ErrorBody(is_service_error=False)),
        ({"errors": [], "trace": "t-1"}, ErrorBody(is_service_error=False, trace_id="t-1")),
        ({"message": "forbidden"}, ErrorBody(is_service_error=False, message="forbidden")),
        ({}, ErrorBody(is_service_error=False)),
        # IAM's form.
        (
            {
                "errorCode": "BXNIM0415E",
                "errorMessage": "Provided API key could not be found.",
                "context": {"requestId": "r-1"},
            },
            ErrorBody(
                is_service_error=False,
                message="Provided API key could not be found.",
                codes=("BXNIM0415E",),
                trace_id="r-1",
            ),
        ),
        (
            {"errorCode": 5, "errorMessage": "m", "context": "r-1"},
            ErrorBody(is_service_error=False, message="m", codes=("5",)),
        ),
        # Other forms that have been seen around the service.
        (
            {"error": {"status": 404, "message": "gone", "code": 7}, "trace": "t-1"},
            ErrorBody(is_service_error=False, message="gone", codes=("7",), trace_id="t-1"),
        ),
        ({"error": "Not Found"}, ErrorBody(is_service_error=False, message="Not Found")),
        (
            {
                "incidentID": "i-1",
                "code": "E",
                "description": "no route",
                "type": "error",
                "more_info": "https://x",
            },
            ErrorBody(
                is_service_error=False,
                message="no route",
                codes=("E",),
                solution="https://x",
                trace_id="i-1",
            ),
        ),
        (
            {"statusCode": 400, "message": ["too long", "no name"], "error": "Bad Request"},
            ErrorBody(is_service_error=False, message="too long. no name"),
        ),
        # JSON, but no object.
        (["m"], ErrorBody(is_service_error=False)),
        ("upstream gone", ErrorBody(is_service_error=False, message="upstream gone")),
        (502, ErrorBody(is_service_error=False, message="502")),
        (True, ErrorBody(is_service_error=False)),
        (None, ErrorBody(is_service_error=False)),
    ],
)
def test_json_faults(body: object, parsed: ErrorBody) -> None:
    """A JSON error body gives what the service or IAM says; only the service's own form counts as
    its word.
    """
    assert decode_error_body(dumped(body)) == parsed


@table(
    ("body", "message"),
    [
        (b"", None),
        (b"  \n ", None),
        (b"upstream connect error\n or  disconnect", "upstream connect error or disconnect"),
        (b'{"errors": [{"code": "1202", "mess', '{"errors": [{"code": "1202", "mess'),
        (
            b"<html><head><title>502 Bad\n Gateway</title></head><body>long</body></html>",
            "502 Bad Gateway",
        ),
        (b'<HTML><TITLE lang="en">Gone</TITLE>', "Gone"),
        (b"<html><title></title></html>", None),
        (b"\x1b[31mred\x07", "[31mred"),
        (b"<!DOCTYPE html><html><body>oops</body></html>", "an HTML page without a title"),
        (b"<html><body>oops</body></html>", "an HTML page without a title"),
        (b"\xff\xfe gone", "\ufffd\ufffd gone"),
        (b"x" * 200, "x" * 200),
        (b"x" * 201, "x" * 200 + "…"),
        (b"<title>" + b"x" * 500 + b"</title>", "x" * 200 + "…"),
        (b"[" * 100_000, "[" * 200 + "…"),
    ],
)
def test_faults_that_are_no_json(body: bytes, message: str | None) -> None:
    """Of what a proxy answers, a short readable piece is kept, and it never counts as the service's
    word.
    """
    parsed = decode_error_body(body)
    assert parsed == ErrorBody(is_service_error=False, message=message, html=parsed.html)


@table(
    ("body", "html"),
    [
        (b"<!DOCTYPE html><p>no</p>", True),
        (b"<HTML lang='en'>", True),
        (b"\n<head><title>Access denied</title></head>", True),
        (b"Unauthorized", False),
        (b"", False),
        (b'{"message": "<html>"}', False),
        (b'{"errors": [{"message": "<html>"}]}', False),
        (b"a <b>word</b>", False),
    ],
)
def test_an_html_page_is_told_from_other_bodies(body: bytes, html: bool) -> None:
    """Only an HTML page counts as one: neither text nor JSON that holds a tag."""
    assert decode_error_body(body).html is html


@table("text", ["<title>", "<title ", "<title>a</title ", "<html", "</title>"])
def test_what_a_page_costs(text: str) -> None:
    """Reading what a page says costs what its length does: with the square of it this would take
    hours.
    """
    assert error_body._excerpt(text * 200_000) is not None


def test_many_errors() -> None:
    """Of an error body with any number of errors the first twenty are read."""
    errors = [{"code": number, "message": f"m{number}"} for number in range(40_000)]
    parsed = decode_error_body(dumped({"errors": errors}))
    assert parsed.codes == tuple(map(str, range(20)))
    assert parsed.message is not None
    assert parsed.message.startswith("m0. m1. ")
    assert decode_error_body(
        dumped({"message": ["m"] * 10 + [f"n{number}" for number in range(40_000)]})
    ).message == ("m. n0. n1. n2. n3. n4. n5. n6. n7. n8. n9")


def test_many_wrong_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any number of fields that can't be read three are told, and no further one is looked at,
    since each costs much.
    """
    body = {"workloads": [{"id": "w"}, *({} for _ in range(100_000))]}
    with pytest.raises(ProtocolError) as caught:
        decode_workloads(dumped(body))
    for index in (1, 2, 3):
        assert f"required field 'id' is missing @ $.workloads[{index}]" in str(caught.value)
    assert "[4]" not in str(caught.value)
    wrong = {"id": "s", "timestamps": [{"status": 1, "timestamp": "2026-05-01"}] * 100_000}
    with pytest.raises(
        ProtocolError, match=r"expected text, got a number @ \$\.timestamps\[0\]\.status"
    ):
        decode_session(dumped(wrong))


def test_long_messages() -> None:
    """A message of any length is cut, so that no error is a page long."""
    parsed = decode_error_body(dumped({"errors": [{"message": "x" * 5000}]}))
    assert parsed.message is not None
    assert len(parsed.message) == 1000


@table("expires_in", [3600, 3600.0, 0, -1, 0.5])
def test_grants(expires_in: float) -> None:
    """A token and its lifetime are read, and the lifetime is a float; whether it makes sense the
    exchange judges.
    """
    grant = decode_grant(
        dumped({"access_token": "secret-token", "expires_in": expires_in, "scope": "x"})
    )
    assert grant == Grant("secret-token", float(expires_in))
    assert grant is not None
    assert type(grant.expires_in) is float


@table(("text", "seconds"), [("3600", 3600.0), (" 60.5 ", 60.5), ("0", 0.0)])
def test_a_lifetime_may_be_text(text: str, seconds: float) -> None:
    """A lifetime that a gateway gives as text is read as the number that it is."""
    assert decode_grant(dumped({"access_token": "t", "expires_in": text})) == Grant("t", seconds)


@table(
    ("fields", "seconds"),
    [
        ({"usage": {"qpu_charge_time_seconds": 12.5}}, 12.5),
        ({"usage": {"qpu_charge_time_seconds": 3}, "usage_seconds": None}, 3.0),
        ({"usage": {"qpu_charge_time_seconds": 3}, "usage_seconds": 4}, 4.0),
        ({"usage": {"qpu_charge_time_seconds": 3}, "usage_seconds": 0}, 0.0),
        ({"usage": {}}, None),
        ({"usage": None}, None),
        ({"usage": "much"}, None),
    ],
)
def test_the_usage_of_a_workload(fields: dict[str, object], seconds: float | None) -> None:
    """The seconds come from `usage` where `usage_seconds` is absent, and what the service sent
    stays in `extra`.
    """
    workload = decode_workloads(dumped({"workloads": [{"id": "w", **fields}]})).workloads[0]
    assert workload.usage_seconds == seconds
    assert workload.extra == {"usage": fields["usage"]}


@table(("body", "has"), [({"jobs": []}, False), ({"jobs": [{"id": "j"}], "count": 1}, True)])
def test_whether_there_are_jobs(body: object, has: bool) -> None:
    """A list of jobs says whether it holds any, whatever a job looks like."""
    assert decode_has_jobs(dumped(body)) is has


@table("body", [{}, [], {"jobs": None}, {"jobs": "none"}, {"jobs": 0}, None])
def test_what_is_not_a_list_of_jobs(body: object) -> None:
    """What isn't a list of jobs doesn't count as an empty one, by which a session would be closed."""
    with pytest.raises(ProtocolError):
        decode_has_jobs(dumped(body))


def test_grant_repr() -> None:
    """A grant's text doesn't show the token."""
    assert "secret-token" not in repr(Grant("secret-token", 3600.0))


@table(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'"secret-token"',
        b"{}",
        b'{"access_token": "t"}',
        b'{"expires_in": 3600}',
        b'{"access_token": "", "expires_in": 3600}',
        b'{"access_token": null, "expires_in": 3600}',
        b'{"access_token": 5, "expires_in": 3600}',
        b'{"access_token": "a\\nb", "expires_in": 3600}',
        b'{"access_token": "\\u00e9", "expires_in": 3600}',
        b'{"access_token": ' + LONE_SURROGATE + b', "expires_in": 3600}',
        b'{"access_token": "t", "expires_in": "an hour"}',
        b'{"access_token": "t", "expires_in": "-3600"}',
        b'{"access_token": "t", "expires_in": "1e999"}',
        b'{"access_token": "t", "expires_in": true}',
        b'{"access_token": "t", "expires_in": null}',
        b'{"access_token": "t", "expires_in": 1e999}',
        b'{"access_token": "t", "expires_in": -1e999}',
        b'{"access_token": "t", "expires_in": NaN}',
        b'{"access_token": "t", "expires_in": 1' + b"0" * 400 + b"}",
    ],
)
def test_no_grant(body: bytes) -> None:
    """A body without a token that fits into a header, or without a finite lifetime, grants nothing,
    and raises nothing.
    """
    assert decode_grant(body) is None


@table(
    ("request_", "written"),
    [
        (CreateSession("batch"), {"mode": "batch"}),
        (
            CreateSession("dedicated", backend="ibm_fez", max_ttl="10m"),
            {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 600},
        ),
        (
            CreateSession("dedicated", backend="é", max_ttl=3, active_ttl=2, interactive_ttl=1),
            {
                "mode": "dedicated",
                "backend": "é",
                "max_ttl": 3,
                "active_ttl": 2,
                "interactive_ttl": 1,
            },
        ),
        (UpdateSession(accepting_jobs=False), {"accepting_jobs": False}),
        (UpdateSession(accepting_jobs=True), {"accepting_jobs": True}),
    ],
)
def test_encode(request_: CreateSession | UpdateSession, written: dict[str, object]) -> None:
    """What is None is not sent, False is, and durations are whole seconds."""
    assert json.loads(encode(request_)) == written
