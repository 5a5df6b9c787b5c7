"""Durations as text, and sessions and workloads as HTML, for notebooks.

Text keeps the notebook's own colour, and the others can be told from white and from black, so that
it is legible in light and dark. It has no scripts, and what the service says is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from typing import Any

from qsessions.clock import SYSTEM_CLOCK
from qsessions.errors import one_line
from qsessions.jsonable import time_text
from qsessions.models import Session, Workload, kind_of

_TRACK = "rgba(128,128,128,.35)"
_FILL = "#3b82c4"
_OVER = "#808080"
_DOTS = {
    **dict.fromkeys(("open", "pending"), "#3b82c4"),
    **dict.fromkeys(("active", "in_progress"), "#2e9e5b"),
    **dict.fromkeys(("inactive", "pending_inactive", "pending_closed"), "#c77d00"),
    "failed": "#d0453f",
}
# Characters of a text of the service's, and rows of a table, at most.
_LONGEST = 200
_ROWS = 100
# A long reason would push the columns after it out of sight.
_WRAPPED = "white-space:normal;overflow-wrap:break-word;width:max-content;max-width:15em"
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def span(seconds: float) -> str:
    """Return a duration in its two largest units, such as 12m03s."""
    if seconds >= 1e9:
        return f"{seconds:g}s"
    for (unit, size), (smaller, part) in pairwise(_UNITS):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}{seconds % size // part:02.0f}{smaller}"
    return f"{max(seconds, 0) // 1:.0f}s"


def html(value: object, now: float | None = None) -> str:
    """Return a session, a handle on one, a workload or a list of workloads as HTML.

    Args:
        value: It.
        now: When it is shown, in seconds since 1970; by default the machine's time.
    """
    now = SYSTEM_CLOCK.wall() if now is None else now
    if isinstance(value, Workload):
        return _table([value], now)
    if isinstance(value, list):
        return _table(value, now)
    if isinstance(value, Session):
        return _lines([_heading(value), *_details(value, now)])
    live: Any = value
    if live.snapshot is None:
        return _lines([_id(live.id), "not read yet"])
    ended = [f"ended by {_text(live.ended_by)}"] if live.ended_by else []
    heading = f"last seen {_heading(live.snapshot)}"
    return _lines([heading, *_details(live.snapshot, now), *ended])


def _heading(session: Session) -> str:
    state = f"{_dot(session.state)}<b>{_text(session.state or 'in no known state')}</b>"
    draining = ", draining" if session.is_draining else ""
    kind = _text(kind_of(session.mode, session.backend_name))
    return f"{state}{draining}{kind and ' · '}{kind}"


def _details(session: Session, now: float) -> Iterable[str]:
    yield _id(session.id)
    limit = session.max_ttl
    most = f" of at most {span(limit)}" if limit else ""
    end = session.closed_at.timestamp() if session.closed_at else now
    if session.started_at and (session.closed_at or not session.is_final):
        passed = max(0.0, end - session.started_at.timestamp())
        since = f"{span(passed)}{most} since {_time(session.started_at)}"
        as_of = "" if session.closed_at else f", as of {_time(datetime.fromtimestamp(now, UTC))}"
        yield f"{_bar(passed, limit)}{since}{as_of}"
    elif not session.is_final and limit:
        yield f"{_bar(0, limit)}{span(limit)} at most from its first job's start"
    if session.elapsed_time is not None:
        yield f"{_bar(session.elapsed_time, limit)}{span(session.elapsed_time)} used"
    closed = f"closed at {_time(session.closed_at)}" if session.closed_at else ""
    if end_and_reason := [text for text in (closed, _text(session.state_reason or "")) if text]:
        yield " · ".join(end_and_reason)


def _table(workloads: Sequence[Workload], now: float) -> str:
    shown = workloads[:_ROWS]
    times = [time.timestamp() for work in shown for time in (work.created, work.ended) if time]
    if any(work.created and not work.ended for work in shown):
        times.append(now)
    axis = (min(times), max(times)) if times else (now, now)
    most = max((work.usage_seconds or 0.0 for work in shown), default=0.0)
    rows = [_row(_cells(work, now, axis, most)) for work in shown]
    heading = _row(("workload", "mode", "created", "time", "usage"), "th")
    more = len(workloads) - len(shown)
    count = f"{len(workloads)} workload{'' if len(workloads) == 1 else 's'}"
    note = f"{count}, of which the first {_ROWS} are shown" if more else count
    body = f"<thead>{heading}</thead><tbody>{''.join(rows)}</tbody>"
    return f'<div style="overflow-x:auto"><table>{body}</table><div>{note}</div></div>'


def _cells(
    work: Workload, now: float, axis: tuple[float, float], most: float
) -> tuple[str, str, str, str, str]:
    time = usage = ""
    if work.created is not None:
        begin = work.created.timestamp()
        end = max(begin, work.ended.timestamp() if work.ended else now)
        time = f"{_bar(end - begin, axis[1] - axis[0], begin - axis[0])}{span(end - begin)}"
    if work.usage_seconds is not None:
        usage = f"{_bar(work.usage_seconds, most)}{span(work.usage_seconds)}"
    reason = f'<div style="{_WRAPPED}">{_text(work.status_reason or "")}</div>'
    return (
        f"{_dot(work.status)}{_text(work.status or '')}<br>{_id(work.id)}",
        f"{_text(kind_of(work.mode, work.backend))}{reason}",
        _time(work.created) if work.created else "",
        time,
        usage,
    )


def _row(cells: Iterable[str], tag: str = "td") -> str:
    begin = f'<{tag} style="text-align:left;white-space:nowrap">'
    return f"<tr>{''.join(f'{begin}{cell}</{tag}>' for cell in cells)}</tr>"


def _lines(lines: Iterable[str]) -> str:
    return f'<div style="line-height:1.7">{"".join(f"<div>{line}</div>" for line in lines)}</div>'


def _dot(state: str | None) -> str:
    colour = _DOTS.get(state or "", _OVER)
    return (
        '<span style="display:inline-block;width:.7em;height:.7em;border-radius:50%;'
        f'margin-right:.4em;background-color:{colour}"></span>'
    )


def _bar(length: float, whole: float | None, begin: float = 0.0) -> str:
    """Return a bar that is filled from `begin` on for a length; none where the whole is unknown."""
    if not whole:
        return ""
    offset = min(max(begin / whole, 0.0), 1.0) * 100
    # What is there at all is seen.
    width = min(max(length / whole * 100, 1.0 if length else 0.0), 100 - offset)
    return (
        '<span style="display:inline-block;width:9em;height:.7em;border-radius:.35em;'
        f'overflow:hidden;vertical-align:middle;margin-right:.6em;background-color:{_TRACK}">'
        f'<span style="display:block;height:100%;margin-left:{offset:.1f}%;width:{width:.1f}%;'
        f'background-color:{_FILL}"></span></span>'
    )


def _id(text: str) -> str:
    return f'<code style="white-space:nowrap">{_text(text)}</code>'


def _time(value: datetime) -> str:
    return time_text(value.replace(microsecond=0))


def _text(value: object) -> str:
    """Return text of the service's as HTML, on one line and cut where it is long."""
    text = str(value)
    return escape(one_line(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"))
