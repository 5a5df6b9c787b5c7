"""What README and docs/ say about tests, files and commands is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FAILURES = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
PAGES = sorted(
    path for folder in (".", "docs", "benchmarks") for path in (ROOT / folder).glob("*.md")
)
TABLE_ROWS = [
    line
    for line in FAILURES.splitlines()
    if line.startswith("| ") and not line.startswith(("| fault |", "| when |"))
]
DEFINED = {
    name
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(
        r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
}


@pytest.mark.parametrize("row", TABLE_ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_promise_names_its_test(row: str) -> None:
    """Each row of the table of failures names at least one test, and each that it names is there."""
    named = set(re.findall(r"`(test_\w+)`", row.split("|")[-2]))
    assert named
    assert named <= DEFINED


def test_every_named_test_is_there() -> None:
    """What the text outside of the tables names is there as well, and there are tables."""
    assert set(re.findall(r"`(test_\w+)`", FAILURES)) <= DEFINED
    assert len(TABLE_ROWS) > 30


def anchors(page: Path) -> set[str]:
    """Return the names that links can use for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative link names a file that is there, and a heading in it."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_readme_is_a_page() -> None:
    """README has at most 120 lines."""
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("word", ["qsessions demo", "pytest"])
def test_the_gate_finds_its_commands(word: str) -> None:
    """README has one command for the demo and one for the tests, which the gate runs as they stand."""
    assert len(re.findall(rf"^python3 -m venv .*{word}", README, re.MULTILINE)) == 1
