"""A command that runs as a child process, and what signals do before, while and after it runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

# As shells have them.
NOT_EXECUTABLE = 126
NOT_FOUND = 127
BY_SIGNAL = 128

# What ends a process that doesn't listen, and what batch systems tell a program with besides.
_TO_STOP = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_TO_TELL = ("SIGUSR1", "SIGUSR2")
# What the keys of a terminal send, to everything that runs in front there.
_BY_KEY = frozenset({signal.SIGINT, getattr(signal, "SIGQUIT", None)})


def unusable(command: str) -> int | None:
    """Give the exit code of a shell for a command that isn't there or can't be executed, or None for one that can."""
    if shutil.which(command) is not None:
        return None
    return NOT_EXECUTABLE if os.sep in command and Path(command).exists() else NOT_FOUND


class Child:
    """One command, and the signals that this process gets.

    While the command runs, they are passed on to it, and once it was told to stop, it has `grace` seconds to do so before it is killed.
    Ctrl-C and Ctrl-\\ aren't passed on where this process runs in front at a terminal: that sends them to the command itself, and what
    they mean is the command's affair. Before and after the command, the first signal to stop calls `stop`, and a second one `leave`. A
    signal that was ignored from the start, as by nohup, goes on being ignored, by the command too.

    Args:
        grace: How many seconds the command has to end once it was told to.
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
        # Takes a signal, while there is a command or one is being started.
        self._take: Callable[[signal.Signals], None] | None = None
        self._killing: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        """Begin to listen to signals, until the event loop is closed. (On Windows, which has no such handlers, nothing happens.)"""
        loop = asyncio.get_running_loop()
        for name in (*_TO_STOP, *_TO_TELL):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                with suppress(NotImplementedError):
                    loop.add_signal_handler(number, self._receive, number)

    async def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run a command with the standard streams and open files that this process was given, and give its exit code as a shell does.

        Cancelling this kills the command.

        Raises:
            OSError: It can't be started.
        """
        waiting: list[signal.Signals] = []
        self._take = waiting.append
        try:
            # What this process was given open, such as a shell's <(…), is the command's; Python's own files are never inherited.
            process = await asyncio.create_subprocess_exec(*command, env=env, close_fds=False)
            self._take = partial(self._pass_on, process.pid)
            for number in waiting:
                self._take(number)
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                _send(process.pid, signal.SIGKILL)
                await process.wait()
                raise
        finally:
            self._take = None
            if self._killing is not None:
                self._killing.cancel()
        return code if code >= 0 else BY_SIGNAL - code

    def _receive(self, number: signal.Signals) -> None:
        if self._take is not None:
            self._take(number)
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
    """Say whether this process runs in front at a terminal, as what a shell waits for does."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
        try:
            return os.tcgetpgrp(terminal) == os.getpgrp()
        finally:
            os.close(terminal)
    except OSError:
        return False
