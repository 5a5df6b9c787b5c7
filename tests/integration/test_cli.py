"""The command line, each command in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

QSESSIONS = str(Path(sys.executable).with_name("qsessions"))
PIPE = asyncio.subprocess.PIPE
EXPORTS = ["QSESSIONS_BASE_URL", "IAM_URL", "QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE"]


async def run(*command: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command; give its exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | (env or {}),
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def qsessions(*arguments: str) -> tuple[int, str, str]:
    """Run the command."""
    return await run(QSESSIONS, *arguments)


@asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """Run `qsessions emulator`; give the process and the lines that it printed, all of them."""
    process = await asyncio.create_subprocess_exec(
        QSESSIONS, "emulator", *arguments, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    try:
        # To the end of the output, which comes while the process goes on.
        yield process, (await process.stdout.read()).decode().splitlines()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.mark.smoke
async def test_demo_tells_the_life_of_a_session_in_plain_lines() -> None:
    """Without a terminal the demo prints plain lines: open, active, draining, closed, usage."""
    code, out, err = await qsessions("demo")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert re.findall(r"^(\w+)", out, re.MULTILINE) == [
        "emulator", "create", "jobs", "state", "state", "drain", "state", "state", "usage",
    ]  # fmt: skip
    assert re.findall(r"^state +[\d.]+ s  (.*)$", out, re.MULTILINE) == [
        "open",
        "active",
        "active, draining",
        "closed",
    ]
    assert re.search(r"^usage    2\.\d s", out, re.MULTILINE)


async def test_demo_shows_colours_on_a_terminal() -> None:
    """On a terminal the states have colours."""
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        QSESSIONS, "demo", stdout=slave, env=os.environ | {"TERM": "xterm"}
    )
    os.close(slave)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, master))
    assert await process.wait() == 0
    shown = await reading
    assert "\x1b[1;32mactive" in shown
    assert "\x1b[1;35mclosed" in shown


async def test_demo_without_colours_writes_no_escape() -> None:
    """With NO_COLOR the demo has neither colours nor a spinner on a terminal."""
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm", "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(QSESSIONS, "demo", stdout=slave, env=env)
    os.close(slave)
    shown = await asyncio.to_thread(_read_all, master)
    assert await process.wait() == 0
    assert "closed" in shown
    assert "\x1b" not in shown


def _read_all(descriptor: int) -> str:
    parts: list[bytes] = []
    # A terminal whose other end is gone reads as an error on Linux and as the end elsewhere.
    with suppress(OSError):
        while part := os.read(descriptor, 4096):
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode()


async def test_demo_can_be_interrupted() -> None:
    """Ctrl-C ends the demo with 130 and no traceback."""
    process = await asyncio.create_subprocess_exec(QSESSIONS, "demo", stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    await process.stdout.readuntil(b"open\n")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_emulator_prints_exports_and_stops_cleanly(number: signal.Signals) -> None:
    """The emulator prints the four variables and nothing else, and a signal stops it with exit code
    0.
    """
    async with serving("--port", "0") as (process, lines):
        assert [re.fullmatch(r"export (\w+)=\S+", line)[1] for line in lines] == EXPORTS  # type: ignore[index]
        process.send_signal(number)
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_emulator_says_on_a_terminal_how_to_stop_it() -> None:
    """On a terminal, a line on standard error says where the page is and how to stop; it is no part
    of what a shell evals.
    """
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(QSESSIONS, "emulator", stdout=slave, stderr=PIPE)
    os.close(slave)
    assert process.stderr is not None
    told = (await process.stderr.readline()).decode()
    assert re.fullmatch(
        r"# Serving, with a live view at http://127\.0\.0\.1:\d+/ \(Ctrl-C stops it\)\n", told
    )
    process.send_signal(signal.SIGINT)
    shown = await asyncio.to_thread(_read_all, master)
    await process.communicate()
    assert process.returncode == 0
    assert [line.split("=")[0] for line in shown.splitlines()] == [
        f"export {name}" for name in EXPORTS
    ]


async def test_an_emulator_in_the_background_ignores_ctrl_c() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and the emulator leaves it
    so.
    """
    command = 'trap "" INT; exec "$QSESSIONS" emulator'
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=PIPE, stderr=PIPE, env=os.environ | {"QSESSIONS": QSESSIONS}
    )
    assert process.stdout is not None
    assert len((await process.stdout.read()).splitlines()) == len(EXPORTS)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    await process.communicate()


async def test_a_shell_can_eval_what_the_emulator_prints() -> None:
    """What the emulator prints is all that a program needs to use it."""
    program = """
import asyncio, qsessions
async def main():
    async with qsessions.AsyncSessionClient() as client:
        print((await client.create(mode="batch", backend="ibm_fez")).state)
asyncio.run(main())
"""
    script = (
        'eval "$("$QSESSIONS" emulator --port 0 2>/dev/null & echo "pid=$!")"; "$PYTHON" -c "$PROGRAM"; code=$?; '
        "kill $pid; exit $code"
    )
    env = {"PROGRAM": program, "QSESSIONS": QSESSIONS, "PYTHON": sys.executable}
    assert await run("bash", "-c", script, env=env) == (0, "open\n", "")


async def test_emulator_on_a_port_in_use_says_so() -> None:
    """A port that is taken is told in two lines, with exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, err = await qsessions("emulator", "--port", str(taken.getsockname()[1]))
    assert (code, out) == (2, "")
    assert "can't listen" in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    "arguments",
    [("emulator", "--speed", "-1"), ("emulator", "--plan", "free"), ("nonsense",), ("demo", "--x")],
)
async def test_wrong_use_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    """Wrong use ends with 2, says in two lines what and whose, and nothing on standard output."""
    code, out, err = await qsessions(*arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 2)
    assert arguments[-2 if len(arguments) == 3 else -1] in err.splitlines()[0]


async def test_help_does_not_pay_for_the_client() -> None:
    """Help comes without loading aiohttp or cattrs."""
    program = (
        "import sys; sys.argv = ['qsessions', '--help']\n"
        "from qsessions.cli import main\n"
        "print(main(), sorted({'aiohttp', 'cattrs', 'jwt'} & sys.modules.keys()))\n"
    )
    code, out, _ = await run(sys.executable, "-c", program)
    assert (code, out.splitlines()[-1]) == (0, "0 []")


@pytest.mark.parametrize(
    ("missing", "code", "told"),
    [("cyclopts", 2, "pip install 'qsessions[cli]'"), ("rich", 1, "rich")],
)
async def test_a_missing_library_is_named(missing: str, code: int, told: str) -> None:
    """Without its extra the command line says what to install; any other missing module is told as
    it is.
    """
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from qsessions.cli import main; "
        "sys.exit(main())"
    )
    exit_code, _, err = await run(sys.executable, "-c", program)
    assert exit_code == code
    assert told in err
