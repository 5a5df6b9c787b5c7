"""Reading the queries of lists, and cutting pages out of lists.

A query maps each name to its values; every reader raises ServiceError (400) for a bad one.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import attrs

from qsessions.emulator.service.errors import invalid
from qsessions.emulator.service.values import JOB_WORKLOAD, Job, Session

Query = Mapping[str, Sequence[str]]
_Workload = TypeVar("_Workload", bound=Session | Job)
_Flag = TypeVar("_Flag", bool, None)

_DATE_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
_CURSOR = re.compile(r"[0-9a-f]{16}")
_LONGEST_WORKLOAD_PAGE = 50
_LONGEST_JOB_PAGE = 200
_FARTHEST_OFFSET = 2**63 - 1
# What both lists take. The official client asks for mock backends, of which there are none.
_PARAMETERS = frozenset(
    {"limit", "sort", "backend", "tags", "created_after", "created_before", "include_mocks"}
)
_WORKLOAD_PARAMETERS = _PARAMETERS | {"user", "next", "previous", "search", "status", "mode"}
_JOB_PARAMETERS = _PARAMETERS | {"offset", "program", "exclude_params", "pending", "session_id"}


@attrs.frozen(kw_only=True)
class _ListQuery:
    """What both lists can be asked for. A workload must have all of the `tags`.

    The time span includes both ends: times are shown in whole milliseconds, and a caller who asks
    for everything up to such a time means it too.
    """

    limit: int
    newest_first: bool = False
    backend: str | None = None
    tags: frozenset[str] = frozenset()
    created_after: float = -math.inf
    created_before: float = math.inf

    def matches(self, workload: Session | Job) -> bool:
        """Return whether a workload belongs in the list."""
        return (
            (self.backend is None or workload.backend == self.backend)
            and self.tags.issubset(workload.tags)
            and self.created_after <= workload.created
            and round(workload.created * 1e6) // 1000 / 1000 <= self.created_before
        )

    def select(self, workloads: Iterable[_Workload]) -> list[_Workload]:
        """Return the matching workloads in the order asked for, out of all, oldest first."""
        matching = [workload for workload in workloads if self.matches(workload)]
        return matching[::-1] if self.newest_first else matching


@attrs.frozen(kw_only=True)
class WorkloadQuery(_ListQuery):
    """A checked query of GET /v1/workloads.

    `search` is a part of an id or a tag, in lower case. `following` and `preceding` are the serial
    number that the page follows or precedes.
    """

    statuses: frozenset[str] = frozenset()
    mode: str | None = None
    search: str = ""
    following: int | None = None
    preceding: int | None = None

    def matches(self, workload: Session | Job) -> bool:
        """Return whether a workload belongs in the list."""
        return (
            super().matches(workload)
            and (not self.statuses or workload.workload_status in self.statuses)
            and (self.mode is None or workload.workload_mode == self.mode)
            and (
                not self.search
                or any(self.search in text.lower() for text in (workload.id, *workload.tags))
            )
        )


@attrs.frozen(kw_only=True)
class JobQuery(_ListQuery):
    """A checked query of GET /v1/jobs."""

    offset: int
    exclude_params: bool
    pending: bool | None
    session_id: str | None
    program: str | None

    def matches(self, workload: Session | Job) -> bool:
        """Return whether a job belongs in the list."""
        return (
            isinstance(workload, Job)
            and super().matches(workload)
            and (self.pending is None or self.pending == (workload.ended is None))
            and (self.session_id is None or workload.session_id == self.session_id)
            and (self.program is None or workload.program_id == self.program)
        )


@attrs.frozen
class Page:
    """One page of workloads; the cursors are None where the list ends."""

    workloads: Sequence[Session | Job]
    total: int
    next: str | None
    previous: str | None


def read_workload_query(query: Query) -> WorkloadQuery:
    """Read the filters, the order and the place in the list."""
    _refuse_unknown(query, _WORKLOAD_PARAMETERS)
    statuses = frozenset(query.get("status", ()))
    if not statuses.issubset(JOB_WORKLOAD.values()):
        raise invalid("status must be one of: pending, in_progress, failed, completed, canceled.")
    following, preceding = _cursor(query, "next"), _cursor(query, "previous")
    if following is not None and preceding is not None:
        raise invalid("next and previous exclude each other.")
    limit = read_whole(query, "limit", 10)
    if not 1 <= limit <= _LONGEST_WORKLOAD_PAGE:
        raise invalid(f"limit must be a whole number from 1 to {_LONGEST_WORKLOAD_PAGE}.")
    _choice(query, "user", "me")  # there is only one user
    return WorkloadQuery(
        limit=limit,
        newest_first=_choice(query, "sort", "-createdAt", "createdAt") == "-createdAt",
        statuses=statuses,
        mode=_choice(query, "mode", "batch", "job", "session"),
        backend=_first(query, "backend"),
        search=(_first(query, "search") or "").lower(),
        tags=frozenset(query.get("tags", ())),
        created_after=_moment(query, "created_after", -math.inf),
        created_before=_moment(query, "created_before", math.inf),
        following=following,
        preceding=preceding,
    )


def read_job_query(query: Query) -> JobQuery:
    """Read the filters, the order and the place in the list; out of range means the default."""
    _refuse_unknown(query, _JOB_PARAMETERS)
    limit, offset = read_whole(query, "limit", _LONGEST_JOB_PAGE), read_whole(query, "offset", 0)
    return JobQuery(
        limit=limit if 1 <= limit <= _LONGEST_JOB_PAGE else _LONGEST_JOB_PAGE,
        offset=offset if 0 <= offset <= _FARTHEST_OFFSET else 0,
        newest_first=_choice(query, "sort", "ASC", "DESC") != "ASC",
        exclude_params=read_flag(query, "exclude_params", default=True),
        pending=read_flag(query, "pending", default=None),
        session_id=_first(query, "session_id"),
        backend=_first(query, "backend"),
        program=_first(query, "program"),
        tags=frozenset(query.get("tags", ())),
        created_after=_moment(query, "created_after", -math.inf),
        created_before=_moment(query, "created_before", math.inf),
    )


def read_flag(query: Query, name: str, *, default: _Flag) -> bool | _Flag:
    """Return a parameter that is true or false."""
    text = _choice(query, name, "false", "true")
    return default if text is None else text == "true"


def cut_page(workloads: Iterable[Session | Job], query: WorkloadQuery) -> Page:
    """Return the page that a query asks for, out of all workloads, oldest first.

    A cursor names a place, not a count. What was created or changed since the page before moves
    nothing, so no workload is shown twice and every one that still matches is shown.
    """
    matching = query.select(workloads)
    sign = -1 if query.newest_first else 1
    places = [sign * workload.serial for workload in matching]
    first, last = 0, len(matching)
    if query.following is not None:
        first = bisect_right(places, sign * query.following)
    if query.preceding is not None:
        last = bisect_left(places, sign * query.preceding)
        first = max(0, last - query.limit)
    page = matching[first : min(last, first + query.limit)]
    return Page(
        workloads=page,
        total=len(matching),
        next=f"{page[-1].serial:016x}" if page and page[-1] is not matching[-1] else None,
        previous=f"{page[0].serial:016x}" if page and first > 0 else None,
    )


def _refuse_unknown(query: Query, known: frozenset[str]) -> None:
    """Refuse what isn't served: an answer would look as if a filter had been applied."""
    if unknown := sorted(query.keys() - known):
        raise invalid(f"The emulator doesn't know {', '.join(unknown)} here.")


def _first(query: Query, name: str) -> str | None:
    return next(iter(query.get(name, ())), None)


def _cursor(query: Query, name: str) -> int | None:
    text = _first(query, name)
    if text is not None and _CURSOR.fullmatch(text) is None:
        raise invalid(f"{name} is no cursor of this list.")
    return None if text is None else int(text, 16)


def read_whole(query: Query, name: str, default: int) -> int:
    """Return a parameter that is a whole number."""
    text = _first(query, name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]+", text):
        raise invalid(f"{name} must be a whole number.")
    # Twenty digits hold every number with a meaning here; Python refuses to read very long ones.
    return int(text) if len(text) <= 20 else -1


def _choice(query: Query, name: str, *choices: str) -> str | None:
    text = _first(query, name)
    if text is not None and text not in choices:
        raise invalid(f"{name} must be one of: {', '.join(choices)}.")
    return text


def _moment(query: Query, name: str, default: float) -> float:
    """Return the unix seconds of a date-time parameter; one without an offset is UTC."""
    text = _first(query, name)
    if text is None:
        return default
    try:
        moment = datetime.fromisoformat(text.upper() if _DATE_TIME.fullmatch(text) else "")
    except ValueError:
        raise invalid(f"{name} must be a date and time such as 2026-01-31T12:00:00Z.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
