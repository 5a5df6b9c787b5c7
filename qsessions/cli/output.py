"""What commands print on standard output: tables on a terminal, aligned plain text elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import accumulate, count
from typing import Any, TypeAlias

import attrs
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from qsessions.cli.failures import tell
from qsessions.cli.options import Options
from qsessions.cli.terminal import Terminal
from qsessions.errors import InvalidArgument, one_line

# An object as it is printed in JSON.
Row: TypeAlias = Mapping[str, Any]

_GAP = "  "
# Names are cut to no fewer characters, and a column to no fewer cells.
SHORT_NAME = 8
_LEAST_CUT = 20
_STYLES = {
    "open": "cyan",
    "active": "bold green",
    "inactive": "yellow",
    "closed": "magenta",
    "ok": "green",
    "failed": "bold red",
}


def row(value: attrs.AttrsInstance) -> dict[str, Any]:
    """Give a model as it is printed: all its fields by their names. What the service added is left as it is, however deep."""
    # Not attrs.asdict: it goes as deep as the service likes.
    fields = attrs.asdict(value, recurse=False)
    return {name: _plain(item) for name, item in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [row(item) if attrs.has(type(item)) else item for item in value]
    return value


def _time(value: datetime, timespec: str = "auto") -> str:
    # Times are the only thing in a row that JSON has no form for.
    # In UTC it may be before the year 1 or after 9999.
    with suppress(OverflowError):
        value = value.astimezone(UTC)
    return value.isoformat(timespec=timespec).replace("+00:00", "Z")


def _json(value: object, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, default=_time)
    except RecursionError:
        return _deep_json(value)


def _deep_json(value: object) -> str:
    """Write JSON on one line, whatever its depth."""
    parts: list[str] = []
    # Texts, and values that are still to be written, the next one last.
    todo: list[str | tuple[object]] = [(value,)]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        match item[0]:
            case dict() as fields:
                inside = [(f"{json.dumps(name)}: ", (held,)) for name, held in fields.items()]
                todo += _enclosed("{", inside, "}")
            case list() | tuple() as items:
                todo += _enclosed("[", [("", (held,)) for held in items], "]")
            case scalar:
                parts.append(json.dumps(scalar, default=_time))
    return "".join(parts)


def _enclosed(
    start: str, inside: Sequence[tuple[str, tuple[object]]], end: str
) -> list[str | tuple[object]]:
    """Give the pieces of an object or an array, the last one first."""
    pieces: list[str | tuple[object]] = [start]
    for number, (name, value) in enumerate(inside):
        pieces += [f"{', ' * (number > 0)}{name}", value]
    return [*pieces, end][::-1]


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
        # What the service says may have characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # it is a TextIOWrapper

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
        _print([[Text(name.ljust(width), "dim"), _styled(value)] for name, value in filled.items()])

    async def rows(
        self,
        name: str,
        rows: AsyncIterator[Row],
        columns: Sequence[str],
        nothing: str | None = None,
        *,
        brief: bool = False,
    ) -> None:
        """Print a list: with --jsonl each row as it comes, with --json one object with the list by its name.

        On a terminal, without --verbose, it has the columns that there is room for. `brief` cuts there the names in the first column,
        where that leaves them different, and the column that there is too little room for, and shortens ages. `nothing` is told on
        standard error in place of a table without rows.
        """
        if self.lines:
            async for item in rows:
                self._print_json(item)
            return
        items = [item async for item in rows]
        if self.as_json:
            self._print_json({name: items})
        elif nothing is not None and not items:
            tell(nothing)
        else:
            self._table(items, columns, brief=brief)

    def _table(self, items: Sequence[Row], columns: Sequence[str], *, brief: bool) -> None:
        table = [list(columns), *([cell(item[name]) for name in columns] for item in items)]
        if not sys.stdout.isatty():
            _print([list(map(Text, cells)) for cells in _padded(table)])
        elif self._verbose:
            _print_table(_padded(table), Terminal().width * 1000)
        elif brief:
            _print_table(_cut(_shortened(table, items), Terminal().width), Terminal().width)
        else:
            _print_table(_padded(table), Terminal().width)

    def line(self, cells: Sequence[str]) -> None:
        """Print one line of text, in colours on a terminal."""
        _print([list(map(_styled, cells))])

    def _print_json(self, value: Row) -> None:
        _write(_json(value, None if self.lines else 2) + "\n")


def _write(text: str) -> None:
    # All at once, so that a reader who wants only the first line has it before the pipe can break.
    sys.stdout.write(text)
    sys.stdout.flush()


def _print(lines: Sequence[Sequence[Text]]) -> None:
    """Print lines of cells, none of them cut or broken: a terminal wraps what is too long for it, and it can be copied."""
    joined = [Text(_GAP).join(cells) for cells in lines]
    for line in joined:
        line.rstrip()
    if sys.stdout.isatty():
        Terminal(soft_wrap=True).print(Text("\n").join(joined))
    else:
        _write("".join(f"{line.plain}\n" for line in joined))


def _print_table(rows: Sequence[Sequence[str]], width: int) -> None:
    """Print a header and rows of padded cells on a terminal: as many columns as there is room for, and the names of the others."""
    header, *rows = rows
    ends = [end - len(_GAP) for end in accumulate(cell_len(name) + len(_GAP) for name in header)]
    shown = max(1, sum(end <= width for end in ends))
    lines = [[Text(name, "bold") for name in header[:shown]], [Text("-" * ends[shown - 1], "dim")]]
    lines += [list(map(_styled, cells[:shown])) for cells in rows]
    if hidden := [name.strip() for name in header[shown:]]:
        lines.append([Text(f"no room for {', '.join(hidden)}; -v shows all", "dim")])
    _print(lines)


def _shortened(table: Sequence[Sequence[str]], items: Sequence[Row]) -> list[list[str]]:
    """Return a table with the names in its first column cut, where that leaves them different, and with short ages."""
    header, *rows = table
    names = {cells[0] for cells in rows}
    length = next(n for n in count(SHORT_NAME) if len({name[:n] for name in names}) == len(names))
    short = [["age" if name == "age_seconds" else name for name in header]]
    for item, cells in zip(items, rows, strict=True):
        ages = [
            _age(item[name]) if name == "age_seconds" else text
            for name, text in zip(header, cells, strict=True)
        ]
        short.append([ages[0][:length], *ages[1:]])
    return short


def _cut(table: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Fill cells to the width of their columns, and cut the column at the edge of the terminal, if enough of it is left."""
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    left = width
    for number, wanted in enumerate(widths):
        if left < wanted and left >= _LEAST_CUT:
            widths[number] = left
        left -= widths[number] + len(_GAP)
    return [
        [
            set_cell_size(text, size)
            if cell_len(text) <= size
            else set_cell_size(text, size - 1) + "…"
            for text, size in zip(cells, widths, strict=True)
        ]
        for cells in table
    ]


def _age(seconds: float) -> str:
    """Write how long ago something was, in its largest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _padded(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Fill cells with spaces to the width of their columns."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        [set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True)]
        for cells in rows
    ]


def _styled(value: object) -> Text:
    text = cell(value)
    return Text(text, _STYLES.get(text.strip(), ""))


def cell(value: object) -> str:
    """Write a value for people: one line, nothing that a terminal would obey."""
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
            return _time(value, "seconds")
        case {"status": str() as status, "timestamp": datetime() as timestamp}:
            return f"{cell(status)} {cell(timestamp)}"
        case dict():
            return _json(value) if value else "-"
        case _:
            return one_line(str(value))
