"""The code in README, docs/ and examples/, and ways to run it as it stands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
IN_TURN = ROOT / "tests" / "programs" / "in_turn.py"

# Takes a program's source and what its environment has besides; returns its exit code and output.
RunProgram = Callable[[str, Mapping[str, str]], tuple[int, str]]


def snippets(page: str, language: str) -> list[str]:
    """Return a page's code blocks in a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@contextmanager
def programs_in_turn() -> Iterator[RunProgram]:
    """Provide a way to run Python programs one after the other without starting an interpreter for
    each. A warning is an error for them, and there is no pytest.
    """
    # The programs have nothing to measure, and a measurement of forks would be a muddle.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    with subprocess.Popen(
        [sys.executable, "-W", "error", IN_TURN],
        env=plain | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        streams = process.stdin, process.stdout

        def run(source: str, env: Mapping[str, str]) -> tuple[int, str]:
            program = {"source": source, "file": "<page>", "env": os.environ | env}
            streams[0].write(json.dumps(program) + "\n")
            streams[0].flush()
            line = streams[1].readline()
            assert line, "the process that runs the programs has ended"
            code, output = json.loads(line)
            return code, output

        try:
            yield run
        finally:
            # A program that hangs must not outlive its test.
            os.killpg(process.pid, signal.SIGKILL)


# The emulator that commands start must not outlive them, wherever they end.
KILL_AT_END = "trap 'kill \"$pid\" 2>/dev/null || true' EXIT"


def bash(
    *arguments: str, folder: Path, env: Mapping[str, str], terminal: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run bash with our commands in its PATH; return its exit code, output and errors.

    A terminal, where there is one, is standard input and error.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["/usr/bin/env", "bash", "-euo", "pipefail", *arguments],
        cwd=folder,
        env=os.environ | env | {"PATH": path},
        stdin=terminal or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal or subprocess.PIPE,
        text=True,
        check=False,
    )
