"""Processes that play a scenario of tests/programs: forks of one that has imported everything."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.programs.stage import MOST_BYTES

ROOT = Path(__file__).parents[2]


class Program:
    """A process that plays a scenario, reads lines and writes lines.

    Its methods block; `Played` has those that don't.

    Attributes:
        pid: Its number.
        returncode: How it ended, once that was asked: an exit code, or minus a signal.
    """

    def __init__(self, stage: Stage, pid: int, descriptors: list[int]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._stage = stage
        self._waiting = threading.Lock()
        self._stdin, stdout, stderr = descriptors
        # A line always has room in the pipe, and nothing in this process may wait for that.
        os.set_blocking(self._stdin, False)
        self._stdout, self._stderr = os.fdopen(stdout, "rb"), os.fdopen(stderr, "rb")

    def tell(self, line: object = "go on") -> None:
        """Write a line to it."""
        os.write(self._stdin, f"{line}\n".encode())

    def line(self) -> str:
        """Return the next line that it writes; at its end an empty one."""
        return self._stdout.readline().decode().rstrip("\n")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def lives(self) -> bool:
        """Return whether it has not ended."""
        return self._stage.ask(-self.pid) is None

    def wait(self) -> int:
        """Return how it ended, once it has."""
        with self._waiting:
            if self.returncode is None:
                self.returncode = self._stage.ask(self.pid)
            return self.returncode

    def outcome(self) -> tuple[int, str, str]:
        """Return how it ended, and what it wrote until then to standard output and error."""
        output, errors = self._stdout.read().decode(), self._stderr.read().decode()
        return self.wait(), output, errors

    def finish(self) -> None:
        """Let it end by itself, as most do when there is nothing more to read, within 10 s."""
        os.close(self._stdin)
        self._stdin = os.open(os.devnull, os.O_WRONLY)
        for _ in range(1000):
            if self.returncode is not None or not self.lives():
                break
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                self.send_signal(signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        """Kill it, and close what leads to it."""
        self.kill()
        os.close(self._stdin)
        self._stdout.close()
        self._stderr.close()


class Played:
    """A `Program` for the event loop."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pid = program.pid
        self.tell = program.tell
        self.send_signal = program.send_signal

    async def line(self) -> str:
        """Return the next line that it writes; at its end an empty one."""
        return await asyncio.to_thread(self.program.line)

    async def lives(self) -> bool:
        """Return whether it has not ended."""
        return await asyncio.to_thread(self.program.lives)

    async def wait(self) -> int:
        """Return how it ended, once it has."""
        return await asyncio.to_thread(self.program.wait)

    async def outcome(self) -> tuple[int, str, str]:
        """Return how it ended, and what it wrote until then to standard output and error."""
        return await asyncio.to_thread(self.program.outcome)

    async def kill(self) -> None:
        """Kill it, unless it has ended."""
        await asyncio.to_thread(self.program.kill)


class Stage:
    """Starts processes; it begins with the first. `stage` makes one.

    Args:
        options: Those of the interpreter.
        is_measured: Whether coverage may be measured in them. They must not be killed then while they
            end: a file that is half written can't be read.
    """

    def __init__(self, *options: str, is_measured: bool = True) -> None:
        self._options = options
        self._is_measured = is_measured
        self._socket: socket.socket | None = None
        self._asking = threading.Lock()
        self._stack = ExitStack()

    def ask(self, request: object, descriptors: list[int] | None = None) -> Any:
        """Send a request, and return the answer."""
        with self._asking:
            if self._socket is None:
                self._socket = self._begin()
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors or [])
            return json.loads(self._socket.recv(MOST_BYTES))

    def start(
        self, scenario: Callable[..., None], *arguments: object, env: dict[str, str] | None = None
    ) -> Program:
        """Start a process that plays a scenario, a function of tests/programs."""
        homes = ("HOME", "USERPROFILE")
        home = {name: os.environ[name] for name in homes if name in os.environ}
        request = {
            "scenario": f"{scenario.__module__}:{scenario.__name__}",
            "arguments": arguments,
            "env": home | (env or {}),
        }
        (its_in, our_in), (our_out, its_out), (our_err, its_err) = os.pipe(), os.pipe(), os.pipe()
        its = [its_in, its_out, its_err]
        try:
            return Program(self, self.ask(request, its), [our_in, our_out, our_err])
        finally:
            for descriptor in its:
                os.close(descriptor)

    @contextmanager
    def running(
        self, scenario: Callable[..., None], *arguments: object, env: dict[str, str] | None = None
    ) -> Iterator[Program]:
        """Run a process that plays a scenario; it is killed where it is left running."""
        program = self.start(scenario, *arguments, env=env)
        try:
            yield program
        finally:
            program.close()

    @asynccontextmanager
    async def playing(
        self, scenario: Callable[..., None], *arguments: object, env: dict[str, str] | None = None
    ) -> AsyncIterator[Played]:
        """Run a process that plays a scenario; it is killed where it is left running."""
        program = await asyncio.to_thread(self.start, scenario, *arguments, env=env)
        try:
            yield Played(program)
        finally:
            await asyncio.to_thread(program.close)

    def close(self) -> None:
        """End it."""
        self._stack.close()

    def _begin(self) -> socket.socket:
        env = {
            name: value
            for name, value in os.environ.items()
            if self._is_measured or not name.startswith("COVERAGE_")
        }
        ours, its = socket.socketpair()
        with its:
            process = subprocess.Popen(
                [sys.executable, *self._options, "-m", "tests.programs.stage", str(its.fileno())],
                cwd=ROOT,
                env=env,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
            )
        # It ends when nobody can ask any more.
        self._stack.enter_context(process)
        self._stack.enter_context(ours)
        return ours


@contextmanager
def stage(*options: str, is_measured: bool = True) -> Iterator[Stage]:
    """Return a `Stage`, which ends with the block."""
    one = Stage(*options, is_measured=is_measured)
    try:
        yield one
    finally:
        one.close()
