"""A command that runs as a child process, and what signals do before, during and after its run."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

# The exit codes of shells; the last one is a base that the number of the signal is added to.
NOT_EXECUTABLE = 126
NOT_FOUND = 127
BY_SIGNAL = 128

# Signals that end a process by default, and signals that batch systems notify a program with.
_TO_STOP = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_TO_NOTIFY = ("SIGUSR1", "SIGUSR2")
# A terminal sends these itself, to all processes in front.
_BY_KEY = frozenset({signal.SIGINT, getattr(signal, "SIGQUIT", None)})


def handle_signals(names: Sequence[str], handler: Callable[[signal.Signals], None]) -> None:
    """Have the running event loop call `handler` with each signal, until it is closed.

    A signal that was ignored from the start, for example by nohup, goes on being ignored. On
    Windows, and outside of the main thread, nothing happens.
    """
    loop = asyncio.get_running_loop()
    for name in names:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            # NotImplementedError on Windows is a RuntimeError too.
            with suppress(RuntimeError):
                loop.add_signal_handler(number, handler, number)


def why_not_executable(command: str) -> int | None:
    """Return a shell's exit code for a command that is missing or can't be executed, else None."""
    if shutil.which(command) is not None:
        return None
    return NOT_EXECUTABLE if os.sep in command and Path(command).exists() else NOT_FOUND


class Child:
    """One command, and the signals that this process receives.

    While the command runs, signals are passed on to it. After the first signal to stop it has
    `grace` seconds to end, and then it is killed. Ctrl-C and Ctrl-\\ aren't passed on where this
    process runs in front at a terminal: the terminal sends them to the command itself. Before and
    after the command, the first signal to stop calls `stop`, and a second one `leave`. Signals that
    were ignored from the start go on being ignored, by the command too.

    Args:
        grace: The seconds that the command has to end.
        stop: Called with the signal.
        leave: Called with the signal.
    """

    def __init__(
        self, *, grace: float, stop: Callable[[int], None], leave: Callable[[int], None]
    ) -> None:
        self._grace = grace
        self._stop = stop
        self._leave = leave
        self._is_stopping = False
        # Takes the signals while there is a command, or while one is being started.
        self._forward: Callable[[signal.Signals], None] | None = None
        self._killing: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        """Receive signals from now on, until the event loop is closed."""
        handle_signals((*_TO_STOP, *_TO_NOTIFY), self._receive)

    async def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run a command and return its exit code as a shell does.

        It has this process's standard streams and open files. Cancelling this kills the command.

        Raises:
            OSError: It can't be started.
        """
        waiting: list[signal.Signals] = []
        self._forward = waiting.append
        try:
            # The command gets open files such as a shell's <(…), but never Python's own files.
            process = await asyncio.create_subprocess_exec(*command, env=env, close_fds=False)
            self._forward = partial(self._pass_on, process.pid)
            for number in waiting:
                self._forward(number)
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                _send(process.pid, signal.SIGKILL)
                await process.wait()
                raise
        finally:
            self._forward = None
            if self._killing is not None:
                self._killing.cancel()
        return code if code >= 0 else BY_SIGNAL - code

    def _receive(self, number: signal.Signals) -> None:
        if self._forward is not None:
            self._forward(number)
        elif number.name in _TO_STOP:
            act = self._leave if self._is_stopping else self._stop
            self._is_stopping = True
            act(number)

    def _pass_on(self, pid: int, number: signal.Signals) -> None:
        if number in _BY_KEY and _is_in_front():
            return
        _send(pid, number)
        if number.name in _TO_STOP and self._killing is None:
            self._killing = asyncio.get_running_loop().call_later(
                self._grace, _send, pid, signal.SIGKILL
            )


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_in_front() -> bool:
    """Return whether this process runs in front at a terminal, as a shell's command does."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    except OSError:
        return False
