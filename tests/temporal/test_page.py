"""What docs/how-to/temporal.md shows is so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

from tests.support.pages import ROOT, snippets

LINES, TEST = snippets("docs/how-to/temporal.md", "python")


def test_the_lines_of_the_page() -> None:
    """They are those of the example, which runs in test_workers.py."""
    assert indent(LINES, "    ") in (ROOT / "examples/temporal_worker.py").read_text(
        encoding="utf-8"
    )


def test_the_test_of_the_page(tmp_path: Path) -> None:
    """It passes as it stands, with pytest-asyncio in its auto mode."""
    (tmp_path / "test_page.py").write_text(TEST, encoding="utf-8")
    options = ("asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-Werror"),
            *(argument for option in options for argument in ("-o", option)),
            tmp_path,
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "examples")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "1 passed" in done.stdout, done.stdout
