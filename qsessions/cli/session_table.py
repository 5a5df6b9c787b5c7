"""The table of `watch`: a row for each session, with bars for what is left and what is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from attrs import frozen
from rich.text import Text

from qsessions.cli.changes import Change, state_of
from qsessions.cli.failures import count
from qsessions.cli.output import GAP, STYLES, age, cell, styled
from qsessions.display import span
from qsessions.models import Mode, Session, SessionState

# From left to right, and which go last where there is no room for all. The last change is cut at
# the edge, but to no fewer cells than this.
_COLUMNS = ("id", "state", "time left", "used", "mode", "backend", "last change")
_BY_IMPORTANCE = ("id", "state", "time left", "used", "last change", "mode", "backend")
_LEAST = {"state": len("inactive"), "last change": len("12s inactive"), "mode": len("dedicated")}
# Where a state has no room beside a whole id, the id is cut to this many cells, or more.
_LEAST_ID = 17
# A bar, and the time beside it, such as 59m58s.
_BAR, _SPAN = 8, 6
# The lines beside the rows: the names, the rule, the summary, the last change, what has no room.
_OTHER_LINES = 5
_ASCII = str.maketrans("━─…", "#.~")


@frozen(kw_only=True)
class Screen:
    """What there is room for.

    Attributes:
        width: How many cells a line has.
        height: How many lines there are, or None for any number.
        is_whole: Whether to show all columns, whatever the width.
        is_ascii: Whether there are only the characters of ASCII.
    """

    width: int
    height: int | None = None
    is_whole: bool = False
    is_ascii: bool = False


def draw(changes: Mapping[str, Change | None], now: float, screen: Screen) -> list[Text]:
    """Return the lines of a table.

    Args:
        changes: The sessions by their ids, each as its last change was; None if it wasn't read yet.
        now: The seconds since 1970.
        screen: What there is room for.
    """
    lines = _Table(changes, now, screen).lines(_chosen(changes, screen))
    if screen.is_ascii:
        # In place of escapes, which would make the line longer than the screen is wide.
        for line in lines:
            line.plain = line.plain.translate(_ASCII).encode("ascii", "replace").decode()
    return lines


def _chosen(changes: Mapping[str, Change | None], screen: Screen) -> list[str]:
    """Return the sessions to show: where there is no room for all, the open ones that have changed
    last.
    """
    room = len(changes) if screen.height is None else max(screen.height - _OTHER_LINES, 1)

    def rank(session_id: str) -> tuple[bool, float]:
        change = changes[session_id]
        if change is None:
            return False, 0.0
        return change.session.is_final, -change.seen_at if change.before else 0.0

    first = set(sorted(changes, key=rank)[:room])
    return [session_id for session_id in changes if session_id in first]


@frozen
class _Table:
    changes: Mapping[str, Change | None]
    now: float
    screen: Screen

    def lines(self, shown: list[str]) -> list[Text]:
        """Return the table with these sessions, and what is to be said of all."""
        bar = _BAR
        names, rows, widths = self._columns(shown, bar)
        if "used" not in names:
            # The numbers matter more than the bars.
            names, rows, widths = self._columns(shown, 0)
        header = [Text(name, "bold") for name in names]
        lines = [self._line(cells, widths) for cells in [header, *rows]]
        rule = Text("-" * min(max(line.cell_len for line in lines), self.screen.width), "dim")
        lines.insert(1, rule)
        lines.append(self._summary(len(self.changes) - len(shown)))
        latest = self._latest()
        if latest is not None and not ("last change" in names and latest.id in shown):
            ago = age(self.now - latest.happened_at)
            lines.append(Text(f"{ago} ago: {cell(latest.id)} {cell(latest.news)}"))
        if hidden := [name for name in _COLUMNS if name not in names]:
            lines.append(Text(f"no room for {', '.join(hidden)}; -v shows all", "dim"))
        return lines

    def _columns(self, shown: list[str], bar: int) -> tuple[list[str], list[list[Text]], list[int]]:
        """Return the columns that there is room for: their names, the rows and the widths."""
        rows = [self._row(session_id, bar) for session_id in shown]
        widths = {
            name: max(_LEAST.get(name, 0), len(name), *(row[name].cell_len for row in rows))
            for name in _COLUMNS
        }
        longest = widths["id"]
        if not self.screen.is_whole:
            widths["last change"] = _LEAST["last change"]
            if longest + len(GAP) + widths["state"] > self.screen.width:
                widths["id"] = min(longest, _LEAST_ID, self.screen.width)
        used, chosen = -len(GAP), set[str]()
        for name in _BY_IMPORTANCE:
            used += len(GAP) + widths[name]
            if chosen and used > self.screen.width and not self.screen.is_whole:
                used -= len(GAP) + widths[name]
                break
            chosen.add(name)
        room = max(self.screen.width - used, 0)
        widths["last change"] += room
        if not self.screen.is_whole:
            widths["id"] = min(widths["id"] + room, longest)
            for row in rows:
                row["id"].plain = _cut(row["id"].plain, widths["id"])
        names = [name for name in _COLUMNS if name in chosen]
        return (
            names,
            [[row[name] for name in names] for row in rows],
            [widths[name] for name in names],
        )

    def _line(self, cells: Iterable[Text], widths: list[int]) -> Text:
        line = Text()
        for text, width in zip(cells, widths, strict=True):
            text.truncate(max(width, 1), overflow="ellipsis", pad=True)
            line.append_text(text).append(GAP)
        line.rstrip()
        return line

    def _row(self, session_id: str, bar: int) -> dict[str, Text]:
        change = self.changes[session_id]
        session = Session(id=session_id) if change is None else change.session
        return {
            "id": Text(cell(session_id), "dim" if session.is_final else ""),
            "state": styled(state_of(session)),
            "time left": self._time_left(session, bar),
            "used": self._used(change, bar),
            "mode": Text(cell(session.mode)),
            "backend": Text(cell(session.backend_name)),
            "last change": Text("-")
            if change is None
            else Text(f"{age(self.now - change.happened_at):>3} {cell(change.news)}"),
        }

    def _time_left(self, session: Session, bar: int) -> Text:
        """Return how long it is until `max_ttl` closes the session."""
        if session.max_ttl is None or session.is_final:
            return Text("-".rjust(bar + bool(bar) + _SPAN))
        if session.started_at is None:
            # It counts from the first job's start.
            return self._meter(session.max_ttl, 1.0, "dim", bar)
        left = max(session.started_at.timestamp() + session.max_ttl - self.now, 0.0)
        share = left / session.max_ttl
        return self._meter(left, share, _urgency(share), bar)

    def _used(self, change: Change | None, bar: int) -> Text:
        """Return what the session has used, as a share of what it may use if that is known."""
        seconds = None if change is None else used_by(change, self.now)
        most = None if change is None else _most_usage(change.session)
        if seconds is None or most is None:
            shown = "-" if seconds is None else span(seconds)
            return Text(shown.rjust(bar + bool(bar) + _SPAN))
        share = min(seconds / most, 1.0) if most else 1.0
        return self._meter(seconds, share, _urgency(1 - share), bar)

    def _meter(self, seconds: float, share: float, style: str, bar: int) -> Text:
        # As long as something is left there is something to see.
        number = max(round(share * bar), min(bar, 1) if share else 0)
        return Text.assemble(
            ("━" * number, style),
            ("─" * (bar - number), "dim"),
            " " * bool(bar),
            (span(seconds).rjust(_SPAN), "dim" if style == "dim" else ""),
        )

    def _summary(self, hidden: int) -> Text:
        known = [change for change in self.changes.values() if change is not None]
        states = Counter(state_of(change.session) for change in known)
        order = [*STYLES, *sorted(states)]
        parts = [
            Text(f"{states[state]} {cell(state)}", STYLES.get(state, ""))
            for state in sorted(states, key=order.index)
        ]
        if unread := len(self.changes) - len(known):
            parts.append(Text(f"{unread} not read"))
        line = Text(f"{count(len(self.changes), 'session')}: ").append_text(Text(", ").join(parts))
        used = [seconds for change in known if (seconds := used_by(change, self.now)) is not None]
        if used:
            line.append(f"; {span(sum(used))} used")
        if hidden:
            line.append(f"; {hidden} not shown")
        return line

    def _latest(self) -> Change | None:
        """Return the latest change that was seen."""
        seen = [change for change in self.changes.values() if change and change.before]
        return max(seen, key=lambda change: change.seen_at, default=None)


def used_by(change: Change, now: float) -> float | None:
    """Return what a session has used by now, in seconds, as far as it is known.

    A dedicated session is billed by the clock while it is active.
    """
    session = change.session
    is_dedicated = session.mode == Mode.DEDICATED
    if session.elapsed_time is not None:
        goes_on = is_dedicated and session.state == SessionState.ACTIVE
        return session.elapsed_time + (max(now - change.seen_at, 0.0) if goes_on else 0.0)
    if not is_dedicated or not session.timestamps:
        return None
    times = [(entry.status, entry.timestamp.timestamp()) for entry in session.timestamps]
    return sum(
        max(until - since, 0.0)
        for (state, since), (_, until) in pairwise([*times, (None, now)])
        if state == SessionState.ACTIVE
    )


def _most_usage(session: Session) -> float | None:
    """Return what a session can use at most, in seconds, unless nothing tells, as of a batch."""
    if session.mode != Mode.DEDICATED or session.is_final:
        return None
    if session.active_ttl is not None and session.elapsed_time is not None:
        return session.elapsed_time + session.active_ttl
    return session.max_ttl


def _cut(text: str, size: int) -> str:
    """Return an id without its middle if it is too long: ids can begin alike, or end alike."""
    if len(text) <= size:
        return text
    end = size // 2
    return f"{text[: size - end - 1]}…{text[-end:]}"


def _urgency(left: float) -> str:
    """Return the colour of a bar, by the share that is left."""
    if left > 0.25:
        return "green"
    return "yellow" if left > 0.1 else "red"
