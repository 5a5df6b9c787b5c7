"""What commands print on standard output: tables on a terminal, aligned plain text elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import attrs
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsessions.cli.failures import one_line
from qsessions.cli.options import Options
from qsessions.cli.terminal import Terminal
from qsessions.errors import InvalidArgument

# An object as it is printed in JSON.
Row: TypeAlias = Mapping[str, Any]

_STYLES = {
    "open": "cyan",
    "active": "bold green",
    "inactive": "yellow",
    "closed": "magenta",
    "ok": "green",
    "failed": "bold red",
}


def row(value: attrs.AttrsInstance) -> dict[str, Any]:
    """Give a model as it is printed: all its fields by their names."""
    return attrs.asdict(value)


def _time(value: datetime) -> str:
    # Times are the only thing in a row that JSON has no form for.
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Output:
    """Prints rows in the form that the options ask for.

    Raises:
        InvalidArgument: The options ask for two forms.
    """

    def __init__(self, options: Options) -> None:
        if options.json and options.jsonl:
            raise InvalidArgument("--json and --jsonl exclude each other.")
        self._json = options.json
        self.lines = options.jsonl
        # What the service says may have characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # it is a TextIOWrapper

    @property
    def as_json(self) -> bool:
        """Whether to print JSON of either form."""
        return self._json or self.lines

    def record(self, fields: Row) -> None:
        """Print one object; as a table or text, a field a line, without those that are empty."""
        if self.as_json:
            self._print_json(fields)
            return
        filled = {name: value for name, value in fields.items() if value not in (None, [], (), {})}
        if not sys.stdout.isatty():
            _write(_aligned([(name, _cell(value)) for name, value in filled.items()]))
            return
        table = Table(show_header=False, box=None)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in filled.items():
            table.add_row(name, _styled(value))
        _show(table)

    async def rows(self, name: str, rows: AsyncIterator[Row], columns: Sequence[str]) -> None:
        """Print a list: with --jsonl each row as it comes, with --json one object with the list by its name."""
        if self.lines:
            async for item in rows:
                self._print_json(item)
            return
        items = [item async for item in rows]
        if self.as_json:
            self._print_json({name: items})
        elif sys.stdout.isatty():
            table = Table(box=SIMPLE_HEAD)
            for column in columns:
                table.add_column(column.replace("_", " "), no_wrap=column == "id", overflow="fold")
            for item in items:
                table.add_row(*(_styled(item[column]) for column in columns))
            _show(table)
        else:
            _write(
                _aligned([tuple(columns), *(tuple(_cell(item[name]) for name in columns) for item in items)])
            )

    def line(self, cells: Sequence[str]) -> None:
        """Print one line of text, in colours on a terminal."""
        if sys.stdout.isatty():
            _show(Text("  ").join(_styled(cell) for cell in cells))
        else:
            _write("  ".join(map(_cell, cells)).rstrip() + "\n")

    def _print_json(self, value: Row) -> None:
        _write(json.dumps(value, indent=None if self.lines else 2, default=_time) + "\n")


def _write(text: str) -> None:
    # All at once, so that a reader who wants only the first line has it before the pipe can break.
    sys.stdout.write(text)
    sys.stdout.flush()


def _show(renderable: Table | Text) -> None:
    Terminal(soft_wrap=isinstance(renderable, Text)).print(renderable)
    sys.stdout.flush()


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    )
    return "".join(f"{line}\n" for line in lines)


def _styled(value: object) -> Text:
    text = _cell(value)
    return Text(text, _STYLES.get(text.strip(), ""))


def _cell(value: object) -> str:
    """Write a value for people: one line, nothing that a terminal would obey."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case list() | tuple():
            return ", ".join(map(_cell, value))
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        case {"status": status, "timestamp": timestamp}:
            return f"{_cell(status)} {_cell(timestamp)}"
        case dict():
            return json.dumps(value)
        case _:
            return one_line(str(value))
