"""`python -m benchmarks.fleet`: a fleet in virtual time keeps what docs/fleet.md promises."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from benchmarks.fleet import __main__ as command
from benchmarks.fleet.fleet import Fleet, Outage
from benchmarks.fleet.simulation import simulate

ROOT = Path(__file__).parents[2]
FLEET = Fleet(workers=20, sessions=2, deaths=0.5, reapers=2, rate=1.0, seconds=180.0)
AWAY = Outage(begins=60.0, ends=120.0)


@pytest.mark.parametrize("outage", [None, AWAY])
def test_a_small_fleet(outage: Outage | None) -> None:
    """Each recorded session of a worker that died is ended in time, counted from the end of an outage
    of the database, and none of a worker that lives.
    """
    fleet = attrs.evolve(FLEET, outage=outage)
    result = simulate(fleet)
    assert (result.living_ended, result.overdue(fleet)) == (0, 0)
    assert len(result.orphans) > 30
    assert all(orphan.after is not None for orphan in result.orphans if orphan.is_recorded)
    # A heartbeat comes every 7.5 to 10 s.
    assert 20 / 10 < result.statements["heartbeats"] / fleet.seconds < 20 / 7 + 1


def test_what_the_command_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the figures, and writes them and the picture into the page about fleets."""
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "fleet.md"
    page.write_text("before\n<!-- fleet -->\nold\n<!-- /fleet -->\nafter\n", encoding="utf-8")
    command.main(["--workers", "20", "--deaths", "0.5", "--minutes", "3", "--write", str(tmp_path)])
    told = capsys.readouterr().out
    assert "| sessions of living owners ended | 0 | 0 |" in told
    assert page.read_text(encoding="utf-8") == (
        f"before\n<!-- fleet -->\n{told}<!-- /fleet -->\nafter\n"
    )
    drawn = (tmp_path / "docs" / "fleet.svg").read_text(encoding="utf-8")
    assert drawn.startswith("<svg ")
    assert drawn.endswith("</svg>\n")
    assert drawn.count("database away") == 2


@pytest.mark.parametrize("name", ["fleet", "fleet-check", "fleet-statements"])
def test_there_is_a_place_for_the_figures(name: str) -> None:
    """The page has one pair of markers for each table."""
    text = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    assert text.count(begin) == text.count(end) == 1
    assert text.index(begin) < text.index(end)
