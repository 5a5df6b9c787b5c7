"""Each operation of the API as a value: what to send and how to read the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Generic, TypeAlias, TypeVar, get_args
from urllib.parse import quote, urlencode

from attrs import field, frozen
from yarl import URL

from qsessions.api import codec
from qsessions.api.messages import Progress, Request, Response, SecretHeaders, http_date
from qsessions.arguments import check_choice, check_session_id, check_text, is_number
from qsessions.errors import CreateOutcomeUnknown, InvalidArgument, ProtocolError
from qsessions.models import (
    ApiVersion,
    CreateSession,
    Mode,
    Session,
    UpdateSession,
    WorkloadMode,
    WorkloadStatus,
)

T = TypeVar("T")
VersionT = TypeVar("VersionT", bound=str | None)

# Query parameters, in order; a name may come more than once.
Query: TypeAlias = tuple[tuple[str, str], ...]

WORKLOAD_MODES: tuple[WorkloadMode, ...] = get_args(WorkloadMode)
WORKLOAD_STATUSES: tuple[WorkloadStatus, ...] = get_args(WorkloadStatus)
# Of sessions that cost or may cost, and of those that are over.
OPEN_STATUSES, ENDED_STATUSES = WORKLOAD_STATUSES[:2], WORKLOAD_STATUSES[2:]
# What the list calls a session's mode.
LISTED_AS: dict[Mode, WorkloadMode] = {Mode.DEDICATED: "session", Mode.BATCH: "batch"}
# What a greater `limit` gets isn't public.
MAX_PAGE = 50


# The API description's own default, and the day from which it is no longer served.
DESCRIBED_VERSION = "2025-01-01"
DESCRIBED_VERSION_SUNSET = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
# The newest version that our tests cover.
COVERED_VERSION = "2026-04-15"
LATEST = "latest"

# For so many seconds after a session's creation the service has been seen to answer 404 about it.
YOUNG_S = 120.0


def default_version(now: float) -> str:
    """Return the API version to ask for at a time in seconds since 1970."""
    return DESCRIBED_VERSION if now < DESCRIBED_VERSION_SUNSET else COVERED_VERSION


def checked_version(version: VersionT, *, latest: bool = True) -> VersionT:
    """Return an API version, "YYYY-MM-DD" or, with `latest`, "latest", if it can be one; or None.

    Raises:
        InvalidArgument: It is neither.
    """
    # An untyped caller may pass anything.
    value: object = version
    is_date = isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value)
    if not (value is None or is_date or (latest and value == LATEST)):
        raise InvalidArgument(
            f'api_version must be a date such as "2026-04-15", or "latest", not {version!r}.'
        )
    return version


def newest_live(versions: list[ApiVersion]) -> str:
    """Return the newest version that is live.

    Raises:
        ProtocolError: There is none.
    """
    live = [version.version for version in versions if version.status == "live"]
    if not live:
        raise ProtocolError(
            "the service lists no live API version.",
            operation="versions",
            method="GET",
            path="/v1/versions",
        )
    return max(live)


@frozen(eq=False, repr=False)
class Operation(Generic[T]):
    """One operation, ready to be sent.

    Attributes:
        name: What errors and events call it.
        method: The HTTP method.
        path: The path after the base URL, encoded, with its query.
        read: Reads the answer of a success.
        body: The body's bytes, or None.
        session_id: The session it is about, or None.
        repeatable: Whether carrying it out twice does no harm.
        done_when_repeated: Statuses that mean success once an earlier attempt may have been carried
            out.
        ending: Whether it is part of ending a session.
    """

    name: str
    method: str
    path: str
    read: Callable[[Response], T]
    body: bytes | None = field(default=None, kw_only=True)
    session_id: str | None = field(default=None, kw_only=True)
    repeatable: bool = field(default=True, kw_only=True)
    done_when_repeated: frozenset[int] = field(default=frozenset(), kw_only=True)
    ending: bool = field(default=False, kw_only=True)

    def request(
        self, base_url: str, headers: Mapping[str, str], progress: Progress | None = None
    ) -> Request:
        """Return the request, without credentials; `progress` follows it."""
        if self.body is not None:
            headers = SecretHeaders(headers, **{"Content-Type": "application/json"})
        return Request(
            self.name,
            self.method,
            URL(base_url + self.path, encoded=True),
            headers,
            self.body,
            self.session_id,
            self.repeatable,
            self.done_when_repeated,
            urgent=self.ending,
            progress=progress or Progress(),
        )


def create(request: CreateSession) -> Operation[Session]:
    """POST /v1/sessions. There is no idempotency key: a repeated POST is a second session."""
    return _create(request) if not request.extra else _create.__wrapped__(request)


# Those who create many sessions mostly ask for the same.
@lru_cache(128)
def _create(request: CreateSession) -> Operation[Session]:
    return Operation(
        "create",
        "POST",
        "/v1/sessions",
        _read_created,
        body=codec.encode(request),
        repeatable=False,
    )


def get(session_id: str, *, ending: bool = False) -> Operation[Session]:
    """GET /v1/sessions/{id}."""
    if not isinstance(session_id, str):
        # It may not be one that a cache can look up.
        check_session_id(session_id)
    return _get(session_id, ending)


# Those who poll read the same sessions again and again.
@lru_cache(1024)
def _get(session_id: str, ending: bool) -> Operation[Session]:
    path = _path(session_id)
    return Operation("get", "GET", path, _read_session, session_id=session_id, ending=ending)


def update(session_id: str, request: UpdateSession, *, name: str = "update") -> Operation[None]:
    """PATCH /v1/sessions/{id}."""
    return Operation(
        name,
        "PATCH",
        _path(session_id),
        _nothing,
        body=codec.encode(request),
        session_id=session_id,
        ending=not request.accepting_jobs,
    )


def is_reached(request: UpdateSession, session: Session) -> bool:
    """Return whether a session already is as an update wants it."""
    if request.accepting_jobs:
        return session.accepting_jobs is True and not session.is_final
    return session.accepting_jobs is False or session.is_final


def close(session_id: str) -> Operation[None]:
    """DELETE /v1/sessions/{id}/close. A retry may find the session gone: an earlier one did it."""
    return Operation(
        "close",
        "DELETE",
        f"{_path(session_id)}/close",
        _nothing,
        session_id=session_id,
        done_when_repeated=frozenset({404}),
        ending=True,
    )


def has_pending_jobs(session_id: str) -> Operation[bool]:
    """GET /v1/jobs: whether a session has jobs that are queued or running."""
    check_session_id(session_id)
    return Operation(
        "has_pending_jobs",
        "GET",
        f"/v1/jobs?{urlencode({'pending': 'true', 'session_id': session_id, 'limit': 1})}",
        lambda answer: codec.decode_has_jobs(answer.body),
        session_id=session_id,
    )


def versions() -> Operation[list[ApiVersion]]:
    """GET /v1/versions."""
    return Operation(
        "versions", "GET", "/v1/versions", lambda answer: codec.decode_versions(answer.body)
    )


def workloads(
    query: Query, cursor: str | None, *, ending: bool = False
) -> Operation[codec.WorkloadPage]:
    """GET /v1/workloads: one page, the first or the one that a cursor names."""
    parameters = query if cursor is None else (*query, ("next", cursor))
    return Operation(
        "workloads",
        "GET",
        f"/v1/workloads?{urlencode(parameters)}",
        lambda answer: codec.decode_workloads(answer.body)._replace(
            served_at=http_date(answer.header("Date"))
        ),
        ending=ending,
    )


def workloads_query(
    *,
    mode: str,
    status: tuple[str, ...] = (),
    backend: str | None = None,
    search: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    newest_first: bool = False,
    page_size: int = MAX_PAGE,
) -> Query:
    """Check the filters of a list of workloads and return them as query parameters.

    Raises:
        InvalidArgument: One can't be right.
    """
    check_choice('mode ("session": dedicated ones)', mode, WORKLOAD_MODES)
    for item in status:
        check_choice('status ("pending", "in_progress": open ones)', item, WORKLOAD_STATUSES)
    if not is_number(page_size, int) or not 1 <= page_size <= MAX_PAGE:
        raise InvalidArgument(
            f"page_size must be from 1 to {MAX_PAGE}, the service's limit, not {page_size!r}."
        )
    words = {"backend": backend, "search": search}
    for name, word in words.items():
        if word is not None:
            check_text(name, word)
    times = {"created_after": created_after, "created_before": created_before}
    return (
        ("limit", str(page_size)),
        ("sort", "-createdAt" if newest_first else "createdAt"),
        ("mode", mode),
        *(("status", item) for item in status),
        *((name, word) for name, word in words.items() if word is not None),
        *((name, _utc(name, time)) for name, time in times.items() if time is not None),
    )


def _path(session_id: str) -> str:
    """Return the path of a session.

    Its id is one segment, encoded exactly, so that it can't name another endpoint.
    """
    check_session_id(session_id)
    return "/v1/sessions/" + quote(session_id, safe="")


def session_ids(ids: Iterable[str]) -> list[str]:
    """Check the ids of many sessions and return each once, in order.

    Raises:
        InvalidArgument: One can't be right, or they are a single text.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidArgument(f"ids must be several session ids, such as a list, not {ids!r}.")
    listed = list(ids)
    for session_id in listed:
        check_session_id(session_id)
    return list(dict.fromkeys(listed))


def _nothing(answer: Response) -> None:
    """Read the answer of an operation that has none: no body, or a JSON object that adds nothing.

    Anything else is not the service's, for example a proxy's login page, and a session that only
    seems closed goes on costing.
    """
    if answer.body and codec.decode_object(answer.body) is None:
        raise ProtocolError(
            "the answer is not the service's, so the session may be as it was.",
            solution="Read the session again, and check that no proxy answers in its place.",
        )


def _read_session(answer: Response) -> Session:
    return codec.decode_session(answer.body)


def _read_created(answer: Response) -> Session:
    try:
        session = codec.decode_session(answer.body)
        # A session that no call can name couldn't be ended.
        check_session_id(session.id)
        return session
    except (ProtocolError, InvalidArgument) as error:
        problem = error
    session_id = codec.decode_session_id(answer.body)
    solution = session_id and f"Close session {session_id!r}."
    if isinstance(problem, InvalidArgument):
        solution = (
            f"Close session {session_id!r} by other means, such as the cloud's own web pages."
        )
    raise CreateOutcomeUnknown(
        f"the service created a session, but its answer can't be used. {problem.message}",
        status=answer.status,
        session_id=session_id,
        solution=solution,
    )


def _utc(name: str, value: object) -> str:
    if not isinstance(value, datetime):
        raise InvalidArgument(f"{name} must be a datetime, not {value!r}.")
    if value.utcoffset() is None:
        # Its maker meant local time, the service would read UTC: hours apart, and sessions are
        # ended by it.
        raise InvalidArgument(
            f"{name} must be a datetime with an offset, such as datetime.now(UTC), "
            f"not {value!r} without one."
        )
    try:
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise InvalidArgument(f"{name} must be a time that UTC has, not {value!r}.") from None
