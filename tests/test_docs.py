"""What docs/ says about tests is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FAILURES = (TESTS.parent / "docs" / "failures.md").read_text(encoding="utf-8")
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
