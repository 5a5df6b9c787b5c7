"""Reading the queries of lists, and cutting pages out of them. Every reader here raises Refusal (400)."""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

import attrs

from qsessions.emulator.service.errors import invalid
from qsessions.emulator.service.values import JOB_WORKLOAD, Job, Session

_DATE_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
_CURSOR = re.compile(r"[0-9a-f]{16}")
_STATUSES = frozenset(JOB_WORKLOAD.values())
_MODES = frozenset({"job", "session", "batch"})
_ORDERS = frozenset({"createdAt", "-createdAt"})
_BOOLEANS = frozenset({"true", "false"})
_LONGEST_WORKLOAD_PAGE = 50
_LONGEST_JOB_PAGE = 200
_FARTHEST_OFFSET = 2**63 - 1


class Query(Protocol):
    """The part of a multi-valued query string that is read here."""

    def get(self, key: str, /) -> str | None:
        """The first value."""
        ...

    def getall(self, key: str, default: list[str], /) -> list[str]:
        """All values."""
        ...


@attrs.frozen
class Span:
    """A time span in unix seconds, with both ends: who asks for all since a moment means that moment too."""

    after: float = -math.inf
    before: float = math.inf

    def holds(self, created: float) -> bool:
        """Whether a moment lies in it. What is shown of one are whole milliseconds, and who asks for all up to these means it too."""
        return self.after <= created and round(created * 1e6) // 1000 / 1000 <= self.before


@attrs.frozen
class WorkloadQuery:
    """A checked query of GET /v1/workloads.

    `search` is looked for in ids and tags, in any case; of `tags`, a workload must have all. Parameters that the
    contract doesn't name are passed over.
    """

    limit: int
    newest_first: bool
    statuses: frozenset[str]
    mode: str | None
    backend: str | None
    search: str
    tags: frozenset[str]
    created: Span
    following: int | None
    preceding: int | None

    def takes(self, workload: Session | Job) -> bool:
        """Whether a workload belongs into the list."""
        return (
            (not self.statuses or workload.workload_status in self.statuses)
            and (self.mode is None or workload.workload_mode == self.mode)
            and (self.backend is None or workload.backend == self.backend)
            and self.created.holds(workload.created)
            and self.tags.issubset(workload.tags)
            and (
                not self.search
                or any(self.search in text.lower() for text in (workload.id, *workload.tags))
            )
        )


@attrs.frozen
class Page:
    """One page of workloads; the cursors are None where the list ends."""

    workloads: tuple[Session | Job, ...]
    total: int
    next: str | None
    previous: str | None


@attrs.frozen
class JobQuery:
    """A checked query of GET /v1/jobs."""

    limit: int
    offset: int
    newest_first: bool
    exclude_params: bool
    pending: bool | None
    session_id: str | None
    backend: str | None
    program: str | None
    tags: frozenset[str]
    created: Span

    def takes(self, job: Job) -> bool:
        """Whether a job belongs into the list."""
        return (
            (self.pending is None or self.pending == (job.ended is None))
            and (self.session_id is None or job.session_id == self.session_id)
            and (self.backend is None or job.backend == self.backend)
            and (self.program is None or job.program_id == self.program)
            and self.tags.issubset(job.tags)
            and self.created.holds(job.created)
        )


def read_workload_query(query: Query) -> WorkloadQuery:
    """The filters, the order and the place in the list that a query asks for."""
    statuses = frozenset(query.getall("status", []))
    if not statuses <= _STATUSES:
        raise invalid("status must be one of: pending, in_progress, failed, completed, canceled.")
    following, preceding = _cursor(query, "next"), _cursor(query, "previous")
    if following is not None and preceding is not None:
        raise invalid("next and previous exclude each other.")
    limit = _whole(query, "limit", 10)
    if not 1 <= limit <= _LONGEST_WORKLOAD_PAGE:
        raise invalid(f"limit must be a whole number from 1 to {_LONGEST_WORKLOAD_PAGE}.")
    _one_of(query, "user", frozenset({"me"}))  # there is nobody else
    return WorkloadQuery(
        limit=limit,
        newest_first=_one_of(query, "sort", _ORDERS) == "-createdAt",
        statuses=statuses,
        mode=_one_of(query, "mode", _MODES),
        backend=query.get("backend"),
        search=(query.get("search") or "").lower(),
        tags=frozenset(query.getall("tags", [])),
        created=_created(query),
        following=following,
        preceding=preceding,
    )


def read_job_query(query: Query) -> JobQuery:
    """The filters, the order and the place in the list that a query asks for; a place out of range is the default."""
    limit, offset = _whole(query, "limit", _LONGEST_JOB_PAGE), _whole(query, "offset", 0)
    return JobQuery(
        limit=limit if 1 <= limit <= _LONGEST_JOB_PAGE else _LONGEST_JOB_PAGE,
        offset=offset if 0 <= offset <= _FARTHEST_OFFSET else 0,
        newest_first=_one_of(query, "sort", frozenset({"ASC", "DESC"})) != "ASC",
        exclude_params=read_exclude_params(query, default=True),
        pending=_truth(query, "pending"),
        session_id=query.get("session_id"),
        backend=query.get("backend"),
        program=query.get("program"),
        tags=frozenset(query.getall("tags", [])),
        created=_created(query),
    )


def read_exclude_params(query: Query, *, default: bool) -> bool:
    """Whether jobs are to be shown without their params."""
    wanted = _truth(query, "exclude_params")
    return default if wanted is None else wanted


def cut_page(workloads: Iterable[Session | Job], query: WorkloadQuery) -> Page:
    """The page that a query asks for, out of all workloads, oldest first.

    A cursor names a place, not a count: what was created or changed since the page before moves nothing, so
    no workload is shown twice and none that still matches is left out.
    """
    matching = [workload for workload in workloads if query.takes(workload)]
    total = len(matching)
    if query.newest_first:
        matching.reverse()
    sign = -1 if query.newest_first else 1
    first, last = 0, total
    if query.following is not None:
        place = sign * query.following
        first = sum(sign * workload.serial <= place for workload in matching)
        last = min(total, first + query.limit)
    elif query.preceding is not None:
        place = sign * query.preceding
        last = sum(sign * workload.serial < place for workload in matching)
        first = max(0, last - query.limit)
    else:
        last = min(total, query.limit)
    page = tuple(matching[first:last])
    return Page(
        workloads=page,
        total=total,
        next=_cursor_of(page[-1]) if page and last < total else None,
        previous=_cursor_of(page[0]) if page and first > 0 else None,
    )


def _cursor_of(workload: Session | Job) -> str:
    return f"{workload.serial:016x}"


def _cursor(query: Query, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if _CURSOR.fullmatch(text) is None:
        raise invalid(f"{name} is no cursor of this list.")
    return int(text, 16)


def _whole(query: Query, name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]+", text):
        raise invalid(f"{name} must be a whole number.")
    # Twenty digits hold every number that has a meaning here; Python refuses to read very long ones.
    return int(text) if len(text) <= 20 else -1


def _truth(query: Query, name: str) -> bool | None:
    text = _one_of(query, name, _BOOLEANS)
    return None if text is None else text == "true"


def _one_of(query: Query, name: str, choices: frozenset[str]) -> str | None:
    text = query.get(name)
    if text is not None and text not in choices:
        raise invalid(f"{name} must be one of: {', '.join(sorted(choices))}.")
    return text


def _created(query: Query) -> Span:
    return Span(
        _moment(query, "created_after", -math.inf), _moment(query, "created_before", math.inf)
    )


def _moment(query: Query, name: str, default: float) -> float:
    """Unix seconds of a date-time parameter; one without an offset is UTC."""
    text = query.get(name)
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text.upper()) if _DATE_TIME.fullmatch(text) else None
    except ValueError:
        moment = None
    if moment is None:
        raise invalid(f"{name} must be a date and time such as 2026-01-31T12:00:00Z.")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
