"""The command line as a whole: the demo, the emulator, help, and what isn't installed."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

from qsessions import Session, SessionState
from qsessions.cli.demo import _watch
from qsessions.cli.terminal import Terminal
from tests.support.shell import (
    EXPORTS,
    PIPE,
    PROGRAMS,
    Shell,
    error_lines,
    outcome,
    serving,
    terminal,
)


@pytest.fixture
def shell(home: Path) -> Shell:
    """Return a shell without credentials."""
    return Shell({}, home)


@pytest.mark.smoke
async def test_demo_tells_the_life_of_a_session(shell: Shell) -> None:
    """The demo shows open, active, draining, closed and the usage: in plain lines without a
    terminal, in colours on one, and there too without any escape sequence where NO_COLOR is set.
    """

    async def on_terminal(started: asyncio.Event, **env: str) -> str:
        async with terminal() as (inner, shown):
            env = shell.env | {"TERM": "xterm"} | env
            process = await shell.start("demo", stdout=inner, env=env)
            started.set()
            assert await outcome(process) == (0, "", "")
        return await shown

    async def here(*started: asyncio.Event) -> tuple[int, str, str]:
        # While asyncio starts a process, it changes the warning filters on Python 3.12 and newer.
        for event in started:
            await event.wait()
        return await shell("demo")

    # At the same time, because each of them takes seconds.
    one, other = asyncio.Event(), asyncio.Event()
    (code, out, err), colourful, colourless = await asyncio.gather(
        here(one, other), on_terminal(one), on_terminal(other, NO_COLOR="1")
    )
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    words = re.findall(r"^(\w+)", out, re.MULTILINE)
    assert (words[:3], words[-1]) == (["emulator", "create", "jobs"], "usage")
    # On a machine with much other work, a state may be over before it is read.
    states = re.findall(r"^state +[\d.]+ s  (.*)$", out, re.MULTILINE)
    life = ["open", "active", "active, draining", "closed"]
    assert [state for state in life if state in states] == states
    assert states[-1] == "closed"
    assert re.search(r"^usage    \d\.\d s", out, re.MULTILINE)
    assert "\x1b[1;35mclosed" in colourful
    assert "closed" in colourless
    assert "\x1b" not in colourless


async def test_demo_tells_each_state_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A change of what the demo doesn't show, such as a job's start, is no line."""
    draining = Session(id="s1", state=SessionState.ACTIVE, accepting_jobs=False)

    class Live:
        async def watch(self) -> AsyncIterator[Session]:
            yield Session(id="s1", state=SessionState.OPEN)
            yield draining
            yield attrs.evolve(draining, last_job_started=datetime.now(UTC))
            yield Session(id="s1", state=SessionState.CLOSED)

        async def drain(self) -> None:
            """Drain already."""

    live: Any = Live()
    await _watch(Terminal(), live)
    states = re.findall(r"^state +[\d.]+ s  (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert states == ["open", "active, draining", "closed"]


async def test_demo_can_be_interrupted(shell: Shell) -> None:
    """Ctrl-C ends the demo with 130 and no traceback."""
    process = await shell.start("demo")
    assert process.stdout is not None
    await process.stdout.readuntil(b"open\n")
    process.send_signal(signal.SIGINT)
    code, _, err = await outcome(process)
    assert (code, err) == (130, "")


async def test_emulator_says_on_a_terminal_how_to_stop_it(shell: Shell) -> None:
    """On a terminal, a line on standard error says where the page is and how to stop; it is no part
    of what a shell evals.
    """
    async with terminal() as (inner, shown):
        process = await shell.start("emulator", stdout=inner)
        assert process.stderr is not None
        line = (await process.stderr.readline()).decode()
        process.send_signal(signal.SIGINT)
        assert await outcome(process) == (0, "", "")
    assert re.fullmatch(
        r"# Serving, with a live view at http://127\.0\.0\.1:\d+/ \(Ctrl-C stops it\)\n", line
    )
    assert [line.split("=")[0] for line in (await shown).splitlines()] == [
        f"export {name}" for name in EXPORTS
    ]


async def test_an_emulator_in_the_background_ignores_ctrl_c() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and the emulator leaves it
    so.
    """
    async with serving(ignoring="INT") as (process, lines):
        assert len(lines) == len(EXPORTS)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert (await outcome(process))[0] == 0


async def test_a_shell_can_eval_what_the_emulator_prints(shell: Shell) -> None:
    """What the emulator prints is all that a program needs to use it."""
    script = (
        'eval "$("$QSESSIONS" emulator --port 0 2>/dev/null & echo "pid=$!")"; '
        '"$PYTHON" "$1"; code=$?; kill $pid; exit $code'
    )
    program = str(PROGRAMS / "create_batch.py")
    assert await shell.script(script, program) == (0, "open\n", "")


async def test_emulator_on_a_port_in_use_says_so(shell: Shell) -> None:
    """A port that is taken is reported in two lines, with exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, err = await shell("emulator", "--port", str(taken.getsockname()[1]))
    assert (code, out) == (2, "")
    assert "can't listen" in error_lines(err)[0]


async def test_wrong_use_is_exit_code_2(shell: Shell) -> None:
    """Wrong use ends with 2, says in two lines what and whose, and nothing on standard output."""
    for arguments, what in (
        (("emulator", "--speed", "-1"), "--speed"),
        (("emulator", "--plan", "free"), "--plan"),
        (("emulator", "--instance", "free"), "--instance"),
        (("emulator", "--port", "70000"), "port"),
        (("emulator", "--token-seconds", "0"), "--token-seconds"),
        (("nonsense",), "nonsense"),
        (("demo", "--x"), "--x"),
    ):
        code, out, err = await shell(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 2), arguments
        assert what in err.splitlines()[0], arguments


async def test_help_does_not_pay_for_the_client() -> None:
    """Help, of each command too, comes without loading aiohttp or cattrs."""
    commands = ("create", "workloads", "doctor")
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAMS / "help_imports.py", *commands, stdout=PIPE
    )
    code, out, _ = await outcome(process)
    assert code == 0
    assert re.findall(r"^loaded: .*$", out, re.MULTILINE) == [
        "loaded: --help 0 []",
        *(f"loaded: {command} --help 0 []" for command in commands),
    ]


async def test_a_missing_library_is_named() -> None:
    """Without its extra the command line says what to install; any other missing module is reported
    as it is.
    """
    for missing, expected, what in (
        ("cyclopts", 2, "pip install 'qsessions[cli]'"),
        ("rich", 1, "rich"),
    ):
        code, _, err = await without(missing, "--help")
        assert (code, what in err) == (expected, True), missing


async def test_the_emulator_without_its_library() -> None:
    """Without the emulator's extra, what needs it says in two lines what to install, help on it
    too, and all else works.
    """
    for arguments in (["emulator"], ["demo"], ["help", "demo"], ["emulator", "--help"]):
        code, out, err = await without("jwt", *arguments)
        assert (code, out) == (2, "")
        what, advice = error_lines(err)
        assert (
            what
            == f"qsessions {arguments[-2 if '--help' in arguments else -1]}: the emulator needs PyJWT."
        )
        assert advice == "Run: pip install 'qsessions[emulator]'"
    assert (await without("jwt", "help"))[::2] == (0, "")
    assert error_lines((await without("jwt", "nonsense"))[2])[1] == "See: qsessions --help"


async def without(missing: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command line as if a library weren't installed."""
    program = PROGRAMS / "without.py"
    return await outcome(
        await asyncio.create_subprocess_exec(
            sys.executable, program, missing, *arguments, stdout=PIPE, stderr=PIPE
        )
    )
