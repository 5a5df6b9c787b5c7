"""The `qsessions` command with a fixed environment: in this process, and in processes of its own."""

from __future__ import annotations

import asyncio
import importlib.resources
import json
import logging
import os
import pty
import random
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import jsonschema

from qsessions.cli import main
from qsessions.ledger.files import _this
from tests.support.clients import CRN
from tests.support.fault_server import FaultServer, http

QSESSIONS = str(Path(sys.executable).with_name("qsessions"))
PIPE = asyncio.subprocess.PIPE
SCHEMA: dict[str, Any] = json.loads(
    importlib.resources.files("qsessions.cli").joinpath("schema.json").read_text()
)
PROGRAMS = Path(__file__).parents[1] / "programs"
# What the emulator prints.
EXPORTS = ["QSESSIONS_BASE_URL", "IAM_URL", "QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE"]
GRANT = http(200, {"access_token": "token-of-the-test", "expires_in": 3600})

# Commands in this process share its environment and its standard streams.
_one_at_a_time = threading.Lock()


class Shell:
    """Runs `qsessions` with a fixed environment.

    Args:
        env: What is added to the environment of the tests.
        home: The home folder.
    """

    def __init__(self, env: Mapping[str, str], home: Path) -> None:
        # Neither the developer's account file nor a terminal's settings take part.
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in {"COLUMNS", "LINES", "NO_COLOR", "TERM", "PYTHONUNBUFFERED"}
        }
        self.env = kept | {"HOME": str(home)} | dict(env)

    async def __call__(
        self,
        *arguments: str,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, str, str]:
        """Run a command in this process; return its exit code, standard output and standard error.

        Streams that are file descriptors stay open, and what is written to them isn't returned.
        """
        streams = (stdin, stdout, stderr)
        return await asyncio.to_thread(
            run_here, arguments, self.env if env is None else env, streams
        )

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        """Start a command in a process of its own, for what a process alone can show."""
        streams: dict[str, Any] = {
            "stdin": asyncio.subprocess.DEVNULL,
            "stdout": PIPE,
            "stderr": PIPE,
        }
        streams |= {"env": self.env} | options
        return await asyncio.create_subprocess_exec(QSESSIONS, *arguments, **streams)

    async def script(self, script: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        """Run a bash script, in which $QSESSIONS is the command; return what `__call__` does."""
        streams: dict[str, Any] = {
            "stdin": asyncio.subprocess.DEVNULL,
            "stdout": PIPE,
            "stderr": PIPE,
            "env": self.env | {"QSESSIONS": QSESSIONS, "PYTHON": sys.executable},
        }
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", script, "bash", *arguments, **streams | options
        )
        return await outcome(process)

    async def data(self, *arguments: str) -> Any:
        """Run a command with --json that must succeed; return what it prints, which must fit the
        schema.
        """
        code, out, err = await self(*arguments, "--json")
        assert (code, err) == (0, "")
        value = json.loads(out)
        validate(value, "json", arguments[0])
        return value

    async def lines(self, *arguments: str) -> list[Any]:
        """Run a command with --jsonl that must succeed; return its lines, which must fit the
        schema.
        """
        code, out, err = await self(*arguments, "--jsonl")
        assert (code, err) == (0, "")
        values = [json.loads(line) for line in out.splitlines()]
        for value in values:
            validate(value, "jsonl", arguments[0])
        return values

    async def on_terminal(self, *arguments: str, **env: str) -> tuple[int, str]:
        """Run a command on a terminal of 140 columns; return its exit code and what it showed."""
        env = self.env | {"TERM": "xterm", "COLUMNS": "140"} | env
        async with terminal() as (slave, shown):
            code, _, err = await self(*arguments, stdout=slave, env=env)
        return code, await shown + err


def run_here(
    arguments: Sequence[str], env: Mapping[str, str], streams: Sequence[int | None]
) -> tuple[int, str, str]:
    """Run a command in this thread: see `Shell.__call__`."""
    with ExitStack() as files:
        # Where no stream is wanted: empty, and read afterwards.
        own = [files.enter_context(tempfile.TemporaryFile()) for _ in streams]
        descriptors = [
            file.fileno() if stream is None else stream
            for file, stream in zip(own, streams, strict=True)
        ]
        with _one_at_a_time:
            before = _lasting_state()
            with _environment(env), _standard_streams(descriptors):
                code = main(arguments)
            # Or the next command in this process would find something else than the first one.
            assert _lasting_state() == before
            _end_owner()
        for file in own:
            file.seek(0)
        _, out, err = (file.read().decode() for file in own)
        return code, out, err


def _lasting_state() -> object:
    """Return what a command in this process may change for the next one."""
    loggers = [
        (name, logger.handlers[:], logger.level, logger.propagate)
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.startswith("qsessions")
    ]
    changed = [item for item in loggers if item[1:] != ([], logging.NOTSET, True)]
    signals = [signal.getsignal(number) for number in signal.valid_signals()]
    return changed, signals, warnings.filters[:], sys.getrecursionlimit(), Path.cwd()


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Make `env` the environment of this process."""
    changed = {
        name: os.environ.get(name)
        for name in os.environ.keys() | env.keys()
        if os.environ.get(name) != env.get(name)
    }
    _set({name: env.get(name) for name in changed})
    try:
        yield
    finally:
        _set(changed)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in variables:
        time.tzset()


@contextmanager
def _standard_streams(descriptors: Sequence[int]) -> Iterator[None]:
    """Replace the standard streams, for the processes that are started meanwhile too."""
    with ExitStack() as restoring:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            kept = os.dup(number)
            restoring.callback(os.close, kept)
            restoring.callback(os.dup2, kept, number)
            restoring.callback(setattr, sys, name, getattr(sys, name))
            os.dup2(descriptors[number], number)
            setattr(sys, name, _as_python_opens(number))
        yield
        # As Python does when it exits.
        sys.stdout.flush()
        sys.stderr.flush()


def _as_python_opens(number: int) -> IO[str]:
    is_error = number == 2
    return open(
        number,
        "w" if number else "r",
        buffering=1 if is_error else -1,
        encoding="utf-8",
        errors="backslashreplace" if is_error else "strict",
        closefd=False,
    )


def _end_owner() -> None:
    """Release the locks of ledgers that were closed with open records, as the end of the command's
    process does: their owner is dead now.
    """
    this = _this()
    with this.mutex:
        for file in this.retired.values():
            file._release()
        this.retired.clear()


@asynccontextmanager
async def terminal() -> AsyncIterator[tuple[int, asyncio.Future[str]]]:
    """Open a terminal. Yield its inner end, for a command, and what it will have shown once all
    that have it open have closed it.
    """
    outer, inner = pty.openpty()
    shown = asyncio.ensure_future(asyncio.to_thread(read_all, outer))
    try:
        yield inner, shown
    finally:
        os.close(inner)
        await asyncio.wait([shown])


def read_all(descriptor: int) -> str:
    """Read a terminal until its other end is gone, which reads as an error on Linux and as the end
    elsewhere; close it.
    """
    parts: list[bytes] = []
    with suppress(OSError):
        while part := os.read(descriptor, 4096):
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode().replace("\r\n", "\n")


async def outcome(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    """End a process's input and wait; return its exit code and the rest of what it writes."""
    if process.stdin is not None:
        process.stdin.close()
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), (err or b"").decode()


def draw_short_waits() -> None:
    """Make the next call in this process wait for 0.15 s in all before its four retries."""
    random.seed(168_042)


@asynccontextmanager
async def closed_pipe() -> AsyncIterator[int]:
    """Yield a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@asynccontextmanager
async def serving(
    *arguments: str, ignoring: str = ""
) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """Run `qsessions emulator` in a process; yield that and the lines that it prints, all of them.

    Args:
        arguments: Its options.
        ignoring: The signal that it is started with ignored, if any.
    """
    before = f'trap "" {ignoring};' if ignoring else ""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f'{before} exec "$0" emulator "$@"', QSESSIONS, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        # To the end of the output, which comes while the process goes on.
        yield process, (await process.stdout.read()).decode().splitlines()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def validate(value: object, form: str, command: str) -> None:
    """Check a value against the schema of a command's output."""
    schema = SCHEMA | {"$ref": f"#/$defs/{form}/{command}"}
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(
        value
    )


def error_lines(err: str) -> tuple[str, str]:
    """Return the two lines of an error: what happened and what to do."""
    assert "Traceback" not in err
    # The words are a shell's, not Python's: no keyword arguments, no calls, no None.
    assert re.findall(r"(?<!\S)[a-z_]+=|\w\(\)|\bNone\b", err) == []
    what, advice = err.splitlines()
    return what, advice


def shell_of(server: FaultServer, home: Path) -> Shell:
    """Return a shell whose environment leads to a scripted server, for IAM too."""
    env = {
        "QSESSIONS_BASE_URL": server.url,
        "IAM_URL": server.url,
        "QISKIT_IBM_TOKEN": "the-secret-key",
        "QISKIT_IBM_INSTANCE": CRN,
    }
    return Shell(env, home)
