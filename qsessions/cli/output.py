"""What commands print on standard output: tables on a terminal, aligned text elsewhere, or JSON."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from qsessions.cli.failures import print_lines
from qsessions.cli.options import Options
from qsessions.cli.terminal import Terminal
from qsessions.display import span
from qsessions.errors import InvalidArgument, one_line
from qsessions.jsonable import time_text

# An object as JSON has it.
Row: TypeAlias = Mapping[str, Any]

GAP = "  "
# What people don't need of a time.
_FRACTION = re.compile(r"(?<=\dT\d\d:\d\d:\d\d)\.\d+(?=Z$)")
# Columns of text that may be cut on a terminal, and to no fewer cells; in others the end may be
# what tells two rows apart.
_PROSE = frozenset({"why", "error"})
_LEAST_CUT = 16
# What a terminal calls a column.
_SHORT = {"age_seconds": "age", "created": "age", "usage_seconds": "used", "live_state": "state"}
STYLES = {
    "open": "cyan",
    "active": "bold green",
    "inactive": "yellow",
    "draining": "blue",
    "closed": "magenta",
    "ok": "green",
    "failed": "bold red",
}


def _json(value: object, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent)
    except RecursionError:
        # Without an indent it can be nested as deeply as the service's answer, and a bit more.
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(2 * limit)
        try:
            return json.dumps(value)
        finally:
            sys.setrecursionlimit(limit)


class Output:
    """Prints rows in the form that the options ask for.

    Raises:
        InvalidArgument: The options ask for two forms.
    """

    def __init__(self, options: Options) -> None:
        if options.json and options.jsonl:
            raise InvalidArgument("--json and --jsonl exclude each other.")
        self._json = options.json
        self._verbose = options.verbose
        self.lines = options.jsonl
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What the service says may have characters that the terminal's encoding lacks.
            sys.stdout.reconfigure(errors="backslashreplace")

    @property
    def as_json(self) -> bool:
        """Whether to print JSON of either form."""
        return self._json or self.lines

    def record(self, fields: Row) -> None:
        """Print one object; as text, a field a line, without those that are empty."""
        if self.as_json:
            self._print_json(fields)
            return
        filled = {name: value for name, value in fields.items() if value not in (None, [], (), {})}
        width = max(map(len, filled))
        _print([[Text(name.ljust(width), "dim"), styled(value)] for name, value in filled.items()])

    async def rows(
        self,
        name: str,
        rows: AsyncIterator[Row] | Iterable[Row],
        columns: Sequence[str],
        nothing: str | None = None,
        *,
        needed: int = 0,
    ) -> None:
        """Print a list: with --jsonl each row as it comes, with --json one object.

        Args:
            name: The name of the list in the object.
            rows: The rows.
            columns: The columns of a table, the most important first. On a terminal, without
                --verbose, a table has as many as there is room for, of those that aren't empty.
            nothing: What to print on standard error in place of a table without rows.
            needed: How many columns a table must have on a terminal; where there is no room for
                them, each row is printed as an object.
        """
        items: list[Row] = []
        async for item in rows if isinstance(rows, AsyncIterator) else _iterate(rows):
            if self.lines:
                self._print_json(item)
            else:
                items.append(item)
        if self.lines:
            return
        if self.as_json:
            self._print_json({name: items})
        elif nothing is not None and not items:
            print_lines(nothing)
        else:
            self._table(items, columns, needed)

    def _table(self, items: Sequence[Row], columns: Sequence[str], needed: int) -> None:
        table = [list(columns), *([cell(item[name]) for name in columns] for item in items)]
        if not sys.stdout.isatty():
            _print([list(map(Text, cells)) for cells in fit(table)])
        elif self._verbose:
            _print_table(fit(table), sys.maxsize)
        else:
            width, shown = Terminal().width, _shorten(table, items)
            if items and any(end > width for end in _ends(fit(shown)[0])[:needed]):
                self._records(items, columns)
            else:
                _print_table(fit(shown, width), width)

    def _records(self, items: Sequence[Row], columns: Sequence[str]) -> None:
        for number, item in enumerate(items):
            if number:
                _print([[]])
            self.record({name: item[name] for name in columns})

    def line(self, cells: Sequence[str]) -> None:
        """Print one line of text, in colours on a terminal."""
        _print([list(map(styled, cells))])

    def _print_json(self, value: Row) -> None:
        _write(_json(value, None if self.lines else 2) + "\n")


async def _iterate(rows: Iterable[Row]) -> AsyncIterator[Row]:
    for item in rows:
        yield item


def _write(text: str) -> None:
    # All at once, so that a reader who wants only the first line has it before the pipe can break.
    sys.stdout.write(text)
    sys.stdout.flush()


def _print(lines: Sequence[Sequence[Text]]) -> None:
    """Print lines of cells, uncut: a terminal wraps long lines so that they can be copied."""
    joined = [Text(GAP).join(cells) for cells in lines]
    for line in joined:
        line.rstrip()
    if sys.stdout.isatty():
        Terminal(soft_wrap=True).print(Text("\n").join(joined))
    else:
        _write("".join(f"{line.plain}\n" for line in joined))


def _print_table(rows: Sequence[Sequence[str]], width: int) -> None:
    """Print a table on a terminal, and the names of columns that are left out or cut."""
    header, *rows = rows
    ends = _ends(header)
    shown = max(1, sum(end <= width for end in ends))
    lines = [[Text(name, "bold") for name in header[:shown]], [Text("-" * ends[shown - 1], "dim")]]
    lines += [list(map(styled, cells[:shown])) for cells in rows]
    if hidden := [name.strip() for name in header[shown:]]:
        lines.append([Text(f"no room for {', '.join(hidden)}; -v shows all", "dim")])
    elif cut := [
        name.strip()
        for name, *cells in zip(header, *rows, strict=True)
        if any(text.endswith("…") for text in cells)
    ]:
        lines.append([Text(f"cut: {', '.join(cut)}; -v shows all", "dim")])
    _print(lines)


def _ends(header: Sequence[str]) -> list[int]:
    """Return where each column ends, in cells from the left."""
    return [end - len(GAP) for end in accumulate(cell_len(name) + len(GAP) for name in header)]


def _shorten(table: Sequence[Sequence[str]], items: Sequence[Row]) -> list[list[str]]:
    """Return a table with short ages and names, without columns in which there is nothing."""
    columns = []
    for name, *cells in zip(*table, strict=True):
        if not cells or set(cells) - {"-", ""}:
            read = _SHORTLY.get(name)
            shown = [cell(read(item[name])) for item in items] if read else cells
            columns.append([_SHORT.get(name, name), *shown])
    return [list(cells) for cells in zip(*columns, strict=True)]


def fit(table: Sequence[Sequence[str]], width: int = sys.maxsize) -> list[list[str]]:
    """Pad cells to the width of their columns; cut prose at the edge, if enough remains."""
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    room = width
    for number, wanted in enumerate(widths):
        if _LEAST_CUT <= room < wanted and table[0][number] in _PROSE:
            widths[number] = room
        room -= widths[number] + len(GAP)
    return [
        [
            set_cell_size(text, size)
            if cell_len(text) <= size
            else set_cell_size(text, size - 1) + "…"
            for text, size in zip(cells, widths, strict=True)
        ]
        for cells in table
    ]


def age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _age_since(created: str | None) -> str | None:
    return created and span(max(0, time.time() - datetime.fromisoformat(created).timestamp()))


# How a terminal shows the values of a column.
_SHORTLY: Mapping[str, Callable[[Any], str | None]] = {
    "age_seconds": age,
    "created": _age_since,
    "usage_seconds": lambda seconds: None if seconds is None else span(seconds),
}


def styled(value: object) -> Text:
    """Return a value as text for people, in the colour of its state."""
    text = cell(value)
    return Text(text, STYLES.get(text.strip(), ""))


def cell(value: object) -> str:
    """Return a value as text for people: one line, without control characters."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case list() | tuple():
            return ", ".join(
                _json(item) if isinstance(item, list) else cell(item) for item in value
            )
        case datetime():
            return cell(time_text(value))
        case {"status": str() as status, "timestamp": str() as timestamp}:
            return f"{cell(status)} {cell(timestamp)}"
        case dict():
            return _json(value) if value else "-"
        case _:
            return one_line(_FRACTION.sub("", str(value)))
