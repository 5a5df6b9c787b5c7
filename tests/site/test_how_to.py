"""What the tutorial and the how-to pages say to type works, in their order, as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.pages import KILL_AT_END, ROOT, bash, snippets

FILE = re.compile(r"^Save this as `(\S+)`:\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def service() -> Iterator[ThreadedEmulator]:
    """Run an emulator on real time, for programs of their own."""
    with ThreadedEmulator(Emulator()) as service:
        yield service


def test_the_tutorial(tmp_path: Path) -> None:
    """Its commands and programs run in their order, in an empty folder, and print what it says."""
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    programs = FILE.findall(page)
    assert [text for _, text in programs] == snippets("docs/tutorial.md", "python")
    for name, text in programs:
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = "\n".join([KILL_AT_END, *snippets("docs/tutorial.md", "sh")])
    done = bash("-c", commands, folder=tmp_path, env={})
    assert done.returncode == 0, done.stderr
    for said in (
        r"^http://127\.0\.0\.1:\d+$",
        r"^(\S{36}) open\n\1 closed\nit failed, as it should$",
        r"^killed\n.*\n(\S{36}) +open +dead .*\n.*\n\1 +close +yes ",
        r"^1 passed",
    ):
        assert re.search(said, done.stdout, re.MULTILINE), done.stdout
    assert "ValueError: the experiment failed" in done.stderr


def test_the_commands_for_what_was_left_open(service: ThreadedEmulator, tmp_path: Path) -> None:
    """The commands of the page end what is recorded, and show the rest without ending it."""
    create = "python -c \"from qsessions import SessionClient as C; C({}).create(mode='batch')\""
    commands = [create.format("ledger='local'"), create.format("")]
    commands += snippets("docs/how-to/left-open.md", "sh")
    done = bash("-c", "\n".join(commands), folder=tmp_path, env=service.env())
    assert done.returncode == 0, done.stderr
    recorded, other = service.sessions.values()
    assert (recorded.state, other.state) == ("closed", "open")
    # It is listed, shown and closed.
    assert done.stdout.count(recorded.id) == 3


@pytest.mark.parametrize("page", ["scripts", "clusters"])
def test_the_commands_of_how_to_pages(service: ThreadedEmulator, tmp_path: Path, page: str) -> None:
    """The commands of a how-to page run as they stand, and leave nothing open."""
    (tmp_path / "experiment.py").write_text("print('ran')\n", encoding="utf-8")
    commands = "\n".join(snippets(f"docs/how-to/{page}.md", "sh"))
    env = service.env() | {"SLURM_JOB_ID": "42"}
    done = bash("-c", commands, folder=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert len(service.sessions) == 1
    assert service.open_sessions == []
