"""What the pages and examples show for other tools works as it stands: for curl, jq and Node, for
a notebook and for the official client.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.needs import need
from tests.support.pages import KILL_AT_END, ROOT, bash, snippets


@pytest.fixture
def service() -> Iterator[ThreadedEmulator]:
    """Run an emulator on real time, for programs of their own."""
    with ThreadedEmulator(Emulator()) as service:
        yield service


def python(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with arguments; return its exit code, output and errors."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False
    )


def test_notebook(service: ThreadedEmulator) -> None:
    """Every cell of the notebook runs in a real kernel, where an event loop runs already."""
    need("ipykernel", "nbclient")
    notebook = str(ROOT / "examples/notebook.ipynb")
    done = python(str(ROOT / "tests/programs/notebook.py"), notebook, env=service.env())
    assert done.returncode == 0, done.stderr
    one, other = service.sessions.values()
    assert done.stdout.splitlines() == [
        "<SessionState.OPEN: 'open'>",
        f"<Session '{one.id}' closed, dedicated on ibm_fez, max_ttl=600, elapsed_time=0.0>",
        f"<Session '{other.id}' open, dedicated on ibm_fez, max_ttl=600, elapsed_time=0.0>",
        "<SessionState.CLOSED: 'closed'>",
        f"[<Workload '{one.id}' completed, session on ibm_fez, usage_seconds=0.0>,",
        f" <Workload '{other.id}' completed, session on ibm_fez, usage_seconds=0.0>]",
        "[]",
    ]
    assert (one.state, other.state) == ("closed", "closed")


def test_a_kernel_that_resets_ctrl_c_is_told(service: ThreadedEmulator, tmp_path: Path) -> None:
    """A kernel resets the handler of Ctrl-C at each cell: the first call in a later cell than
    `open(handle_signals=True)` warns of it, and no other.
    """
    need("ipykernel", "nbclient")
    cells = (
        """from qsessions import SessionClient
client = SessionClient()
block = client.open(mode="batch", max_ttl=600, handle_signals=True)
live = block.__enter__()
live.refresh().state""",
        "live.refresh().state",
        "live.refresh().state",
        "block.__exit__(None, None, None)\nclient.shutdown()",
    )
    cell: dict[str, Any] = {
        "cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []
    }  # fmt: skip
    notebook = {
        "cells": [cell | {"id": f"cell-{n}", "source": source} for n, source in enumerate(cells)],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    file = tmp_path / "notebook.ipynb"
    file.write_text(json.dumps(notebook), encoding="utf-8")
    done = python(str(ROOT / "tests/programs/notebook.py"), str(file), env=service.env())
    assert done.returncode == 0, done.stderr
    first, warning, *rest = done.stdout.splitlines()
    assert first == "<SessionState.OPEN: 'open'>"
    assert "SIGINT no longer closes the open sessions first" in warning
    assert rest == [first] * 2


def test_shell_script(service: ThreadedEmulator, tmp_path: Path) -> None:
    """The shell script creates, reads and drains a session with --json and jq."""
    need("jq")
    done = bash(str(ROOT / "examples/session.sh"), folder=tmp_path, env=service.env())
    (session,) = service.sessions.values()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{session.id} is open on ibm_fez, at most 600 s",
        f"may cost: {session.id}, session, pending",
        f"{session.id}: drain",
    ]
    assert session.state == "closed"


# What the commands of docs/emulator.md print, a pattern for each line.
LINES = [
    r'\["open",true\]',
    r'\["closed","session_closed_by_drain"\]',
    r"Running",
    r"\d{4}-.*Z",
    r"Completed",
    r'\[2,"ndarray"\]',
    r'\{"faults":\[\{"kind":"answer",.*\}\]\}',
    r"429",
    r"200",
    r'\["get",200,"Bearer .*"\]',
    r".*: batch on ibm_fez, active, takes jobs; .*",
    r"    created at .* by POST /api/v1/sessions from curl/.*",
    *[r"    \+.*"] * 5,
    r"    left alone it closes in .*",
    r"true",
    r"open",
]


def test_the_page_for_other_languages(tmp_path: Path) -> None:
    """The commands of docs/emulator.md run in their order as they stand, and its program runs under
    Node.
    """
    need("curl", "jq", "node")
    (program,) = snippets("docs/emulator.md", "js")
    (tmp_path / "session.mjs").write_text(program, encoding="utf-8")
    commands = "\n".join([KILL_AT_END, *snippets("docs/emulator.md", "sh")])
    done = bash("-c", commands, folder=tmp_path, env={})
    throttled = "curl: (22) The requested URL returned error: 429\n"
    assert (done.returncode, done.stderr) == (0, throttled), done.stdout
    printed = done.stdout.splitlines()
    assert len(printed) == len(LINES), done.stdout
    for line, pattern in zip(printed, LINES, strict=True):
        assert re.fullmatch(pattern, line), done.stdout


def test_the_commands_of_the_page_about_faults(service: ThreadedEmulator, tmp_path: Path) -> None:
    """The commands of docs/faults.md add a fault, list the plan and empty it."""
    need("curl")
    (commands,) = snippets("docs/faults.md", "sh")
    done = bash("-c", commands, folder=tmp_path, env=service.env())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"kind": "iam_down"') == 2, done.stdout
    assert service.faults.shown() == []
