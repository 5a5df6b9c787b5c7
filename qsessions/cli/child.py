"""A command that runs as a child process, and what signals do before, during and after its run."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

# The exit codes of shells; the last one is a base that the number of the signal is added to.
NOT_EXECUTABLE = 126
NOT_FOUND = 127
BY_SIGNAL = 128

# Signals that end a process by default, and signals that batch systems notify a program with.
_TO_STOP = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_TO_NOTIFY = ("SIGUSR1", "SIGUSR2")
# A terminal sends these itself, to the process group in front.
_BY_KEY = frozenset({signal.SIGINT, getattr(signal, "SIGQUIT", None)})

_Kill: TypeAlias = Callable[[int, int], None]

# Kills a command once the process that started this guard is gone: its input then ends after the
# first line. A guard works on every POSIX system. Linux could do it by prctl(PR_SET_PDEATHSIG), but
# only from between fork and exec, where Python must not run beside threads.
_GUARD = 'read -r pid && ! read -r _ && kill -KILL "$pid"'


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
    `grace` seconds to end, and then it is killed. Where this process runs in front at a terminal,
    that sends Ctrl-C and Ctrl-\\ to the command itself, and they are passed on only to what left
    this process's group: at once to the command's own group, as the terminal would, and to those
    that its descendants made (on Linux) when the key comes again within `grace` seconds, since
    their parents may have heard the first one. Before and after the command, the first signal to
    stop calls `stop`, and a second one `leave`. Signals that were ignored from the start go on
    being ignored, by the command too.

    When this process is killed, so is the command, by a guard.

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
        # When a key was last pressed, on the event loop's clock.
        self._key_at = -math.inf
        # By the process, or the leader of the group, that will be killed.
        self._killing: dict[int, asyncio.TimerHandle] = {}

    def listen(self) -> None:
        """Receive signals from now on, until the event loop is closed."""
        handle_signals((*_TO_STOP, *_TO_NOTIFY), self._receive)

    async def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run a command and return its exit code as a shell does.

        It has this process's standard streams and open files. Cancelling this kills the command.

        Raises:
            OSError: It can't be started.
        """
        async with _guard() as guard:
            waiting: list[signal.Signals] = []
            self._forward = waiting.append
            try:
                # The command gets open files such as a shell's <(…), but never Python's own files.
                process = await asyncio.create_subprocess_exec(*command, env=env, close_fds=False)
                guard(process.pid)
                self._forward = partial(self._pass_on, process.pid)
                for number in waiting:
                    self._forward(number)
                code = await _wait(process)
            finally:
                self._forward = None
                for killing in self._killing.values():
                    killing.cancel()
        return code if code >= 0 else BY_SIGNAL - code

    def _receive(self, number: signal.Signals) -> None:
        if self._forward is not None:
            self._forward(number)
        elif number.name in _TO_STOP:
            act = self._leave if self._is_stopping else self._stop
            self._is_stopping = True
            act(number)

    def _pass_on(self, pid: int, number: signal.Signals) -> None:
        if number not in _BY_KEY or not _is_in_front():
            self._send(pid, number, os.kill, [pid])
            return
        now = asyncio.get_running_loop().time()
        insisting, self._key_at = now - self._key_at < self._grace, now
        leaders = _group_leaders(pid)
        self._send(pid, number, os.killpg, leaders if insisting else leaders & {pid})

    def _send(
        self, pid: int, number: signal.Signals, send: _Kill, targets: Collection[int]
    ) -> None:
        for target in targets:
            _try(send, target, number)
            if number.name in _TO_STOP and target not in self._killing:
                self._killing[target] = asyncio.get_running_loop().call_later(
                    self._grace, self._kill, pid, send, target
                )

    def _kill(self, pid: int, send: _Kill, target: int) -> None:
        # A descendant's number may belong to another process by now.
        if target == pid or target in _group_leaders(pid):
            _try(send, target, signal.SIGKILL)


def _try(send: _Kill, target: int, number: int) -> None:
    # It may have ended, or run as another user.
    with suppress(ProcessLookupError, PermissionError):
        send(target, number)


async def _wait(process: asyncio.subprocess.Process) -> int:
    """Return a process's exit code; cancelling this kills it."""
    try:
        return await process.wait()
    except asyncio.CancelledError:
        _try(os.kill, process.pid, signal.SIGKILL)
        await process.wait()
        raise


@asynccontextmanager
async def _guard() -> AsyncIterator[Callable[[int], None]]:
    """Start a guard; yield what tells it a command's id. It ends with the block."""
    try:
        # In a session of its own it gets neither the terminal's signals nor a group's.
        guard = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", _GUARD,
            stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError:
        # Windows, or a container without a shell.
        yield lambda _: None
        return
    pipe = guard.stdin
    assert pipe is not None  # noqa: S101 - PIPE
    try:
        yield lambda pid: pipe.write(b"%d\n" % pid)
    finally:
        pipe.write(b"done\n")
        pipe.close()
        await guard.wait()


def _group_leaders(pid: int) -> set[int]:
    """Return which of a process and its descendants lead a process group.

    Without /proc, as on macOS, the descendants aren't known.
    """
    parents, leaders = {}, set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in parentheses, may hold anything.
            _, parent, group, *_ = file.read_bytes().rpartition(b")")[2].split()
            number = int(file.parent.name)
            parents[number] = int(parent)
            if number == int(group):
                leaders.add(number)
    tree = {pid}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    with suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            leaders.add(pid)
    return tree & leaders


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
