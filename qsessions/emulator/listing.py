"""Reading the queries of lists, and cutting pages out of them. Every reader here raises Refusal (400)."""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

import attrs

from qsessions.emulator.refusals import invalid
from qsessions.emulator.values import JOB_WORKLOAD, Job, Session

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_CURSOR = re.compile(r"[0-9a-f]{16}")
_STATUSES = frozenset(JOB_WORKLOAD.values())
_MODES = frozenset({"job", "session", "batch"})
_ORDERS = frozenset({"createdAt", "-createdAt"})


class Query(Protocol):
    """The part of a multi-valued query string that is read here."""

    def get(self, key: str, /) -> str | None:
        """The first value."""
        ...

    def getall(self, key: str, default: list[str], /) -> list[str]:
        """All values."""
        ...


@attrs.frozen
class WorkloadQuery:
    """A checked query of GET /v1/workloads.

    `after` and `before` are unix seconds, both inclusive: who asks for all since a moment means that moment
    too. `search` is looked for in ids and backend names, in any case. Parameters that the contract doesn't
    name are passed over.
    """

    limit: int
    newest_first: bool
    statuses: frozenset[str]
    mode: str | None
    backend: str | None
    search: str
    after: float
    before: float
    following: int | None
    preceding: int | None

    def takes(self, workload: Session | Job) -> bool:
        """Whether a workload belongs into the list."""
        return (
            (not self.statuses or workload.workload_status in self.statuses)
            and (self.mode is None or workload.workload_mode == self.mode)
            and (self.backend is None or workload.backend == self.backend)
            and self.after <= workload.created <= self.before
            and (not self.search or self.search in f"{workload.id}\n{workload.backend}".lower())
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
    pending: bool | None
    session_id: str | None
    backend: str | None

    def takes(self, job: Job) -> bool:
        """Whether a job belongs into the list."""
        return (
            (self.pending is None or self.pending == (job.ended is None))
            and (self.session_id is None or job.session_id == self.session_id)
            and (self.backend is None or job.backend == self.backend)
        )


def read_workload_query(query: Query) -> WorkloadQuery:
    """The filters, the order and the place in the list that a query asks for."""
    statuses = frozenset(query.getall("status", []))
    if not statuses <= _STATUSES:
        raise invalid("status must be one of: pending, in_progress, failed, completed, canceled.")
    following, preceding = _cursor(query, "next"), _cursor(query, "previous")
    if following is not None and preceding is not None:
        raise invalid("next and previous exclude each other.")
    return WorkloadQuery(
        limit=_whole(query, "limit", 10, 1, 200),
        newest_first=_one_of(query, "sort", _ORDERS) == "-createdAt",
        statuses=statuses,
        mode=_one_of(query, "mode", _MODES),
        backend=query.get("backend"),
        search=(query.get("search") or "").lower(),
        after=_moment(query, "created_after", -math.inf),
        before=_moment(query, "created_before", math.inf),
        following=following,
        preceding=preceding,
    )


def read_job_query(query: Query) -> JobQuery:
    """The filters and the place in the list that a query asks for."""
    pending = _one_of(query, "pending", frozenset({"true", "false"}))
    return JobQuery(
        limit=_whole(query, "limit", 200, 1, 200),
        offset=_whole(query, "offset", 0, 0, 2**63 - 1),
        pending=None if pending is None else pending == "true",
        session_id=query.get("session_id"),
        backend=query.get("backend"),
    )


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


def _whole(query: Query, name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    # Twenty digits hold every number allowed here; a longer one needs no conversion to be refused.
    number = int(text) if re.fullmatch(r"[0-9]{1,20}", text) else -1
    if not least <= number <= most:
        raise invalid(f"{name} must be a whole number from {least} to {most}.")
    return number


def _one_of(query: Query, name: str, choices: frozenset[str]) -> str | None:
    text = query.get(name)
    if text is not None and text not in choices:
        raise invalid(f"{name} must be one of: {', '.join(sorted(choices))}.")
    return text


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
