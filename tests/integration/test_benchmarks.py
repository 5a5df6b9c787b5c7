"""`python -m benchmarks` works. What it measures is judged by whoever runs it in full."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import plot, watch

ROOT = Path(__file__).parents[2]
# The figures that need no library but those that the tests have.
FIGURES = {
    "control",
    "bare",
    "people",
    "best",
    "loads",
    "decoding",
    "many-bare",
    "many-people",
    "cookies",
    "cookies-bare",
    "create",
    "create-fresh",
    "create-bare",
    "facade",
    "tls",
    "import",
    "import-client",
    "help",
    "workloads",
    "workloads-decoding",
    "cold-get",
    "cold-get-time",
    "second-client",
    "second-client-all",
    "cold-create",
    "cold-create-time",
    "stub-get",
    "stub-facade",
    "stub-answer",
}


PAGES = ("README.md", "benchmarks/README.md")
BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->\n"


def test_a_quick_run_measures_every_figure(tmp_path: Path) -> None:
    """The short form prints every figure that needs no other library with the rounds behind it, and
    writes the tables and the plot.
    """
    (tmp_path / "benchmarks").mkdir()
    for page in PAGES:
        (tmp_path / page).write_text(f"before\n{BEGIN}old\n{END}after\n", encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", "--write", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    rows = {row["key"]: row for row in found["rows"]}
    # A machine with one core has none to set free.
    assert rows.keys() - {"facade-free"} == FIGURES
    odd = {key: row for key, row in rows.items() if not math.isfinite(row["spread"]["median"])}
    assert odd == {}
    rounds = {
        f"{group}: {name}": samples
        for group, variants in found["groups"].items()
        for name, samples in variants.items()
    }
    assert {name for name, samples in rounds.items() if not len(samples["wall"]) > 0} == set()
    # The round trips are no matter of speed.
    counted = ("cold-get", "cold-create", "second-client", "second-client-all")
    assert [rows[key]["spread"]["median"] for key in counted] == [6, 6, 0, 3]
    short, long = ((tmp_path / page).read_text(encoding="utf-8") for page in PAGES)
    assert short.startswith(f"before\n{BEGIN}| ")
    assert short.endswith(f" |\n{END}after\n")
    assert {row["figure"] for row in rows.values() if f"| {row['figure']} |" not in long} == set()
    plot = (tmp_path / "benchmarks" / "get.svg").read_text(encoding="utf-8")
    assert plot.startswith("<svg ")
    assert plot.count("<rect ") == 5  # the background and four bars
    assert plot.endswith("</svg>\n")


MARKERS = [*((page, "benchmarks") for page in PAGES), ("benchmarks/README.md", "watch")]


@pytest.mark.parametrize(("page", "name"), MARKERS)
def test_there_is_a_place_for_the_results(page: str, name: str) -> None:
    """A page that the benchmarks write a table into has one pair of markers for it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    assert text.count(begin) == text.count(end) == 1
    assert text.index(begin) < text.index(end)


def test_what_watching_costs_is_drawn() -> None:
    """The table and the plot of `watch` have a figure for each size."""
    cost = watch.Cost(pages=1.0, reads=2.0, cpu=0.03, size=512, session_size=900, seen=[0.4, 9.0])
    costs = {100: cost, 10_000: cost}
    assert "| 20 ends were seen after | 0.4 to 9.0 s | 0.4 to 9.0 s |" in watch.table(costs)
    drawn = plot.svg(watch.panels(costs), "what it costs", one_scale=False)
    assert drawn.count("10,000 sessions") == 4
    assert drawn.count("<rect ") == 9  # the background and two bars for each of four titles
