"""The table, and the places that it is written to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from benchmarks.rows import Bench, Goal, Row

HEADINGS = ("figure", "median", "quartiles", "must", "reach", "goal")
# The rows that README shows: how many times as fast as what.
SHORT: Mapping[str, str] = {
    "people": "`AsyncSessionClient`: aiohttp with `r.json()` and a cattrs converter",
    "httpx": "`AsyncSessionClient`: `httpx.AsyncClient`",
    "requests": "`SessionClient`: `requests`",
    "threads": "`SessionClient` in 16 threads: `requests`",
    "official": "`SessionClient`: the official client's `session_details`",
}


def cells(row: Row) -> tuple[str, ...]:
    """Return a line of the table."""

    def shown(value: float) -> str:
        return f"{value:.{row.decimals}f}{row.unit}"

    spread = row.spread
    width = "" if spread.low == spread.high else f"{shown(spread.low)} to {shown(spread.high)}"
    must, reach = ("", "") if row.goal is None else _limits(row.goal, row.unit)
    return (row.figure, shown(spread.median), width, must, reach, row.verdict)


def _limits(goal: Goal, unit: str) -> tuple[str, str]:
    sign = "≥" if goal.at_least else "≤"
    return f"{sign} {goal.must:g}{unit}", f"{sign} {goal.reach:g}{unit}"


def text_table(rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    lines = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]

    def aligned(line: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if column in {1, 2} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()

    return "\n".join(aligned(line) for line in lines)


def markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    head, *rows = (f"| {' | '.join(row)} |".replace("  ", " ") for row in (headings, *lines))
    return "\n".join([head, f"|{'---|' * len(headings)}", *rows])


def conditions(facts: Mapping[str, object], pinned: bool) -> str:
    """Return when and on what the figures were taken, in a sentence or two."""
    versions = facts["versions"]
    assert isinstance(versions, dict)
    cores = "client and stub on a core each" if pinned else "client and stub not pinned"
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{datetime.now(UTC).date()}: {facts['cores']} cores of {facts['processor']}, "
        f"{facts['system']}, {facts['python']}, {cores}, load {facts['load']} before. {listed}."
    )


def long_section(bench: Bench, about: str) -> str:
    """Return what benchmarks/README.md shows."""
    table = markdown_table(HEADINGS, [cells(row) for row in bench.rows])
    left_out = "".join(f"\n\nLeft out: {line}." for line in bench.left_out)
    plot = "![What one get takes, beside its peers](get.svg)"
    return f"{about}\n\n{plot}\n\n{table}{left_out}"


def short_section(bench: Bench) -> str:
    """Return what README.md shows."""
    found = {row.key: row.spread.median for row in bench.rows}
    if "people" in found:
        found["people"] = 1 / found["people"]
    lines = [(what, f"{found[key]:.1f}") for key, what in SHORT.items() if key in found]
    headings = ("`get` beside", "[times as fast](benchmarks/README.md)")
    return markdown_table(headings, lines)


def replace_section(page: Path, content: str, name: str = "benchmarks") -> None:
    """Replace what stands between the two markers of that name in a page.

    Raises:
        ValueError: The page has no such markers.
    """
    text = page.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(text):
        raise ValueError(f"{page} has no markers for the results.")
    replaced = marked.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text, count=1)
    page.write_text(replaced, encoding="utf-8")


def as_json(bench: Bench, facts: Mapping[str, object]) -> dict[str, object]:
    """Return everything that was measured, each round of it."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": dict(facts),
        "rows": [attrs.asdict(row) | {"verdict": row.verdict} for row in bench.rows],
        "groups": {
            group: {name: attrs.asdict(samples) for name, samples in variants.items()}
            for group, variants in bench.groups.items()
        },
        "left_out": bench.left_out,
    }
