"""Each operation: what is sent, and how the answer is read."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given, strategies as st
from yarl import URL

from qsessions import (
    ApiVersion,
    CreateOutcomeUnknown,
    CreateSession,
    InvalidArgument,
    ProtocolError,
    Response,
    Session,
    UpdateSession,
    Workload,
)
from qsessions.api import operations as ops
from qsessions.api.codec import WorkloadPage
from qsessions.api.pages import next_cursor
from tests.support.tables import table

BASE = "https://quantum.cloud.ibm.com/api"
SUNSET = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
OPERATIONS: list[tuple[ops.Operation[Any], tuple[Any, ...]]] = [
    (
        ops.create(CreateSession("batch", max_ttl=60)),
        ("create", "POST", "/v1/sessions", {"mode": "batch", "max_ttl": 60}, None, False, set()),
    ),
    (ops.get("s-1"), ("get", "GET", "/v1/sessions/s-1", None, "s-1", True, set())),
    (
        ops.update("s-1", UpdateSession(accepting_jobs=True)),
        ("update", "PATCH", "/v1/sessions/s-1", {"accepting_jobs": True}, "s-1", True, set()),
    ),
    (
        ops.update("s-1", UpdateSession(accepting_jobs=False), name="drain"),
        ("drain", "PATCH", "/v1/sessions/s-1", {"accepting_jobs": False}, "s-1", True, set()),
    ),
    (ops.close("s-1"), ("close", "DELETE", "/v1/sessions/s-1/close", None, "s-1", True, {404})),
    (
        ops.has_pending_jobs("s&1"),
        (
            "has_pending_jobs",
            "GET",
            "/v1/jobs?pending=true&session_id=s%261&limit=1",
            None,
            "s&1",
            True,
            set(),
        ),
    ),
    (ops.versions(), ("versions", "GET", "/v1/versions", None, None, True, set())),
    (
        ops.workloads((("limit", "5"), ("mode", "batch")), None),
        ("workloads", "GET", "/v1/workloads?limit=5&mode=batch", None, None, True, set()),
    ),
    (
        ops.workloads((("limit", "5"),), "a&b=c d+é"),
        (
            "workloads",
            "GET",
            "/v1/workloads?limit=5&next=a%26b%3Dc+d%2B%C3%A9",
            None,
            None,
            True,
            set(),
        ),
    ),
]


@pytest.mark.smoke
@table(("operation", "sent"), OPERATIONS)
def test_requests(operation: ops.Operation[Any], sent: tuple[Any, ...]) -> None:
    """Each operation sends what the contract says, with a content type exactly when there is a
    body.
    """
    request = operation.request(BASE, {"X-Mine": "1"})
    body = None if request.body is None else json.loads(request.body)
    path = str(request.url).removeprefix(BASE)
    assert (
        request.operation,
        request.method,
        path,
        body,
        request.session_id,
        request.repeatable,
        set(request.done_when_repeated),
    ) == sent
    content_type = {} if body is None else {"Content-Type": "application/json"}
    assert request.headers == {"X-Mine": "1", **content_type}


def test_headers_are_not_changed() -> None:
    """The headers that an operation is given stay as they are, since calls share them."""
    headers = {"X-Mine": "1"}
    ops.create(CreateSession("batch")).request(BASE, headers)
    assert headers == {"X-Mine": "1"}


@table(
    ("operation", "body", "value"),
    [
        (ops.create(CreateSession("batch")), b'{"id": "s-1"}', Session(id="s-1")),
        (ops.get("s-1"), b'{"id": "s-1"}', Session(id="s-1")),
        (ops.update("s-1", UpdateSession(accepting_jobs=True)), b"", None),
        (ops.update("s-1", UpdateSession(accepting_jobs=True)), b"{}", None),
        (ops.close("s-1"), b"", None),
        (ops.has_pending_jobs("s-1"), b'{"jobs": [{"id": "j"}]}', True),
        (
            ops.versions(),
            b'{"versions": [{"version": "2025-01-01"}]}',
            [ApiVersion(version="2025-01-01")],
        ),
        (
            ops.workloads((), None),
            b'{"workloads": [{"id": "w"}]}',
            WorkloadPage(workloads=(Workload(id="w"),)),
        ),
    ],
)
def test_answers(operation: ops.Operation[Any], body: bytes, value: object) -> None:
    """Each operation reads its own answer; where none is due, one that comes all the same changes
    nothing.
    """
    assert operation.read(Response(200, {}, body)) == value


@table(
    ("body", "session_id", "solution"),
    [
        (b"", None, CreateOutcomeUnknown.hint),
        (b"<html>", None, CreateOutcomeUnknown.hint),
        (b'{"mode": "batch"}', None, CreateOutcomeUnknown.hint),
        (b'{"id": "s-1", "max_ttl": "x"}', "s-1", "Close session 's-1'."),
    ],
)
def test_created_but_unreadable(body: bytes, session_id: str | None, solution: str) -> None:
    """A success of create that can't be read means a session that nobody knows, and its id is saved
    where there is one.
    """
    with pytest.raises(CreateOutcomeUnknown, match="its answer can't be used") as caught:
        ops.create(CreateSession("batch")).read(Response(200, {}, body))
    error = caught.value
    assert (error.status, error.session_id, error.solution) == (200, session_id, solution)
    assert not error.retryable


@table(
    ("session_id", "segment"),
    [
        ("s-1", "s-1"),
        ("%2e%2e", "%252e%252e"),
        ("%2F", "%252F"),
        ("x?y", "x%3Fy"),
        ("x#y", "x%23y"),
        ("x y", "x%20y"),
        ("x+y", "x%2By"),
        ("x;y&z=1", "x%3By%26z%3D1"),
        ("é", "%C3%A9"),
        ("...", "..."),
        ("x" * 500, "x" * 500),
        ("é" * 500, "%C3%A9" * 500),
    ],
)
def test_session_ids(session_id: str, segment: str) -> None:
    """A session id is encoded exactly, as one segment of the path."""
    assert str(ops.get(session_id).request(BASE, {}).url) == f"{BASE}/v1/sessions/{segment}"
    assert str(ops.close(session_id).request(BASE, {}).url) == f"{BASE}/v1/sessions/{segment}/close"


@table(
    ("session_id", "problem"),
    [
        ("", "the session id '' is empty."),
        ("x" * 501, f"the session id '{'x' * 40}' has 501 characters; the service's limit is 500."),
        *(
            (
                path,
                f"the session id {path!r} is a path of its own, and servers or proxies may resolve it to another endpoint.",
            )
            for path in (".", "..", "a/b", "/", "../versions", "a\\b")
        ),
        *(
            (
                text,
                f"the session id {text!r} has characters that can't be printed, such as a line end.",
            )
            for text in ("a\nb", "a\r", "\0", "a\tb", "\ud800", "\u202e", "\x7f")
        ),
        (None, "a session id is text, such as session.id, not NoneType."),
        (5, "a session id is text, such as session.id, not int."),
        (b"s-1", "a session id is text, such as session.id, not bytes."),
    ],
)
def test_session_ids_refused(session_id: Any, problem: str) -> None:
    """An id that servers on the way may read as another path is refused by every operation before
    anything is sent.
    """
    change = UpdateSession(accepting_jobs=True)
    for make in (ops.get, ops.close, lambda value: ops.update(value, change)):
        with pytest.raises(InvalidArgument) as caught:
            make(session_id)
        assert caught.value.message == problem


@given(
    st.text()
    | st.text("./\\%2eEfF?#&;:@ é\n", max_size=12)
    | st.text("x", min_size=499, max_size=502)
)
def test_any_session_id(session_id: str) -> None:
    """Any id is exactly one segment of the path that decodes to it, or refused; no other endpoint
    is ever reached.
    """
    try:
        closing = ops.close(session_id)
    except InvalidArgument:
        return
    url = closing.request(BASE, {}).url
    root, api, version, kind, segment, close = url.raw_path.split("/")
    assert (root, api, version, kind, close) == ("", "api", "v1", "sessions", "close")
    assert unquote(segment, errors="strict") == session_id
    assert segment not in {"", ".", ".."}
    assert not set(segment) & set("/\\?#")
    assert (url.raw_query_string, url.raw_fragment) == ("", "")


@table(
    ("now", "version"),
    [
        (0.0, "2025-01-01"),
        (SUNSET - 0.001, "2025-01-01"),
        (SUNSET, "2026-04-15"),
        (SUNSET + 1e9, "2026-04-15"),
    ],
)
def test_default_version(now: float, version: str) -> None:
    """The API description's default is asked for until the day it is no longer served, then the
    newest that is tested.
    """
    assert ops.default_version(now) == version


@table("version", ["2025-01-01", "1999-12-31", "latest", None])
def test_versions_accepted(version: str | None) -> None:
    """Any date is passed on as it is: which versions there are is the service's to know. None, of
    a call that names no version, stays None.
    """
    assert ops.checked_version(version) == version


@table(
    "version",
    ["", "newest", "LATEST", "2025-1-1", "2025-01-01\n", " 2025-01-01", "٢٠٢٥-01-01", 2025],
)
def test_versions_refused(version: Any) -> None:
    """What is neither a date nor "latest" is refused, so that nothing odd becomes a header."""
    with pytest.raises(
        InvalidArgument,
        match=r'^api_version must be a date such as "2026-04-15", or "latest", not ',
    ):
        ops.checked_version(version)


def versions(*pairs: tuple[str, str | None]) -> list[ApiVersion]:
    """Versions with their status."""
    return [ApiVersion(version=version, status=status) for version, status in pairs]


def test_newest_live() -> None:
    """The newest version that is live is taken, wherever it stands in the list, and no deprecated
    or unknown kind of one.
    """
    listed = versions(
        ("2026-03-15", "live"),
        ("2026-04-15", "live"),
        ("2026-02-01", "live"),
        ("2027-01-01", "preview"),
    )
    assert ops.newest_live(listed) == "2026-04-15"


@table("listed", [[], versions(("2026-04-15", "deprecated"), ("2027-01-01", None))])
def test_none_live(listed: list[ApiVersion]) -> None:
    """Without a live version there is no latest, and the error says where that was seen."""
    with pytest.raises(ProtocolError, match="the service lists no live API version") as caught:
        ops.newest_live(listed)
    assert (caught.value.operation, caught.value.path) == ("versions", "/v1/versions")


QUERY: dict[str, Any] = {
    "mode": "session",
    "status": (),
    "backend": None,
    "search": None,
    "created_after": None,
    "created_before": None,
    "newest_first": False,
    "page_size": 50,
}
PLAIN = (("limit", "50"), ("sort", "createdAt"), ("mode", "session"))


@table(
    ("filters", "query"),
    [
        ({}, PLAIN),
        ({"newest_first": True}, (("limit", "50"), ("sort", "-createdAt"), ("mode", "session"))),
        ({"page_size": 1, "mode": "job"}, (("limit", "1"), ("sort", "createdAt"), ("mode", "job"))),
        (
            {"page_size": 49, "mode": "batch"},
            (("limit", "49"), ("sort", "createdAt"), ("mode", "batch")),
        ),
        (
            {"status": ("pending", "in_progress")},
            (*PLAIN, ("status", "pending"), ("status", "in_progress")),
        ),
        (
            {"backend": "ibm_fez", "search": "é & x"},
            (*PLAIN, ("backend", "ibm_fez"), ("search", "é & x")),
        ),
        (
            {
                "created_after": datetime(2026, 5, 4, 12, tzinfo=UTC),
                "created_before": datetime(
                    2026, 5, 4, 12, 0, 0, 500_000, timezone(timedelta(hours=2))
                ),
            },
            (
                *PLAIN,
                ("created_after", "2026-05-04T12:00:00Z"),
                ("created_before", "2026-05-04T10:00:00.500000Z"),
            ),
        ),
    ],
)
def test_workloads_query(filters: dict[str, Any], query: ops.Query) -> None:
    """Filters become the service's parameters, times are sent as UTC, and what wasn't asked for
    isn't sent.
    """
    assert ops.workloads_query(**{**QUERY, **filters}) == query
    sent = ops.workloads(query, None).request(BASE, {}).url.raw_query_string
    assert tuple(parse_qsl(sent, strict_parsing=True)) == query


@table(
    ("filters", "problem"),
    [
        (
            {"mode": "dedicated"},
            'mode ("session": dedicated ones) must be "job", "session" or "batch", not \'dedicated\'.',
        ),
        (
            {"mode": ["job"]},
            'mode ("session": dedicated ones) must be "job", "session" or "batch", not [\'job\'].',
        ),
        (
            {"status": ("pending", "running")},
            (
                'status ("pending", "in_progress": open ones) must be "pending", "in_progress", "failed", '
                '"completed" or "canceled", not \'running\'.'
            ),
        ),
        ({"page_size": 0}, "page_size must be from 1 to 50, the service's limit, not 0."),
        ({"page_size": 51}, "page_size must be from 1 to 50, the service's limit, not 51."),
        ({"page_size": True}, "page_size must be from 1 to 50, the service's limit, not True."),
        ({"page_size": 5.0}, "page_size must be from 1 to 50, the service's limit, not 5.0."),
        ({"backend": ""}, "backend must be non-empty, printable text, not ''."),
        ({"backend": 5}, "backend must be non-empty, printable text, not 5."),
        ({"search": "\ud800"}, "search must be non-empty, printable text, not '\\ud800'."),
        ({"search": "a\nb"}, "search must be non-empty, printable text, not 'a\\nb'."),
        ({"created_after": "yesterday"}, "created_after must be a datetime, not 'yesterday'."),
        ({"created_before": 5}, "created_before must be a datetime, not 5."),
        (
            {"created_before": datetime(2026, 5, 4)},  # noqa: DTZ001 - a time without an offset is the case
            (
                "created_before must be a datetime with an offset, such as datetime.now(UTC), "
                "not datetime.datetime(2026, 5, 4, 0, 0) without one."
            ),
        ),
        (
            {"created_after": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))},
            (
                "created_after must be a time that UTC has, not "
                "datetime.datetime(1, 1, 1, 0, 0, tzinfo=datetime.timezone(datetime.timedelta(seconds=3600)))."
            ),
        ),
    ],
)
def test_workloads_query_refused(filters: dict[str, Any], problem: str) -> None:
    """A filter that can't be right is refused with a sentence that names it."""
    with pytest.raises(InvalidArgument) as caught:
        ops.workloads_query(**{**QUERY, **filters})
    assert caught.value.message == problem


@table(
    ("href", "cursor"),
    [
        (None, None),
        ("https://quantum.cloud.ibm.com/api/v1/workloads?next=abc&limit=10", "abc"),
        ("/v1/workloads?limit=10&next=abc", "abc"),
        ("?next=abc", "abc"),
        ("https://evil.example/steal?next=abc", "abc"),
        ("?next=a%26b%3Dc+d%2B%C3%A9", "a&b=c d+é"),
    ],
)
def test_cursor(href: str | None, cursor: str | None) -> None:
    """Only the cursor of a link is used, decoded, wherever the link leads."""
    assert next_cursor(WorkloadPage(workloads=(), next_href=href)) == cursor


@table(
    "href",
    [
        "",
        "abc",
        "/v1/workloads",
        "?next=",
        "?previous=abc",
        "http://[",
        "http://[]@?next=c",
        "http://h:x/",
    ],
)
def test_no_cursor(href: str) -> None:
    """A link without a cursor is an error, since taking it for the last page would hide sessions
    that cost.
    """
    with pytest.raises(
        ProtocolError, match="has no cursor, so the list can't be read to its end"
    ) as caught:
        next_cursor(WorkloadPage(workloads=(), next_href=href))
    assert (caught.value.operation, caught.value.path) == ("workloads", "/v1/workloads")


def test_a_cursor_without_bound() -> None:
    """A cursor is sent back and kept, so it is no longer than 2,048 characters."""
    longest = "c" * 2048
    assert next_cursor(WorkloadPage(workloads=(), next_href=f"?next={longest}")) == longest
    with pytest.raises(ProtocolError, match="cursor of more than 2048 characters"):
        next_cursor(WorkloadPage(workloads=(), next_href=f"?next={longest}c"))


@given(st.text() | st.text("?&=%#/:[]nextED80a", max_size=20).map("?next={}".format))
def test_any_cursor(href: str) -> None:
    """Whatever stands in a link, the next request can be built from it or a ProtocolError says why
    not.
    """
    try:
        cursor = next_cursor(WorkloadPage(workloads=(), next_href=href))
    except ProtocolError:
        return
    assert cursor
    sent = ops.workloads((), cursor).request(BASE, {}).url
    assert sent.path == "/api/v1/workloads"
    assert parse_qsl(sent.raw_query_string, strict_parsing=True) == [("next", cursor)]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_cursor_round_trip(cursor: str) -> None:
    """A cursor goes back to the service as the service wrote it, whatever characters are in it."""
    href = str(URL("https://h/v1/workloads").with_query(next=cursor))
    assert next_cursor(WorkloadPage(workloads=(), next_href=href)) == cursor
    sent = ops.workloads((), cursor).request(BASE, {}).url
    assert parse_qsl(sent.raw_query_string, keep_blank_values=True) == [("next", cursor)]
