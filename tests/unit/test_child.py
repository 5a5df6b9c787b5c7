"""A command as a child process, where no signal of this process is needed to try it; the rest is in
test_cli_run.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from qsessions.cli.child import Child, why_not_executable


def child() -> Child:
    """Return a child that nothing stops."""
    return Child(grace=60, stop=lambda _: None, leave=lambda _: None)


async def test_cancelling_kills_the_command(tmp_path: Path) -> None:
    """A command doesn't outlive whoever runs it."""
    pipe = tmp_path / "pipe"
    await asyncio.to_thread(os.mkfifo, pipe)
    program = f"import os, signal; open({str(pipe)!r}, 'w').write(str(os.getpid())); signal.pause()"
    running = asyncio.ensure_future(child().run([sys.executable, "-c", program], dict(os.environ)))
    pid = int(await asyncio.to_thread(pipe.read_text))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("program", "code"),
    [("exit 0", 0), ("exit 42", 42), (f"kill -{signal.SIGTERM} $$", 128 + signal.SIGTERM)],
)
async def test_exit_codes(program: str, code: int) -> None:
    """An exit code is the command's own, or 128 and the signal that killed it."""
    assert await child().run(["sh", "-c", program], dict(os.environ)) == code


async def test_signals_while_the_command_is_being_started() -> None:
    """A signal that comes before the command is there is passed on to it as soon as it is."""
    told: list[int] = []
    one = Child(grace=60, stop=told.append, leave=told.append)
    running = asyncio.ensure_future(one.run(["sleep", "60"], dict(os.environ)))
    # Runs as soon as that waits for the first time, which is for the process.
    asyncio.get_running_loop().call_soon(one._receive, signal.SIGUSR1)
    assert await running == 128 + signal.SIGUSR1
    assert told == []


def test_commands_that_cannot_be_used(tmp_path: Path) -> None:
    """A command is looked for as a shell does it: by its name on the PATH, or where its path says."""
    plain = tmp_path / "plain"
    plain.write_text("text")
    assert why_not_executable("sh") is None
    assert why_not_executable(sys.executable) is None
    assert why_not_executable("no-such-command") == 127
    assert why_not_executable(str(tmp_path / "none")) == 127
    assert why_not_executable(str(plain)) == 126
    assert why_not_executable(str(tmp_path)) == 126
    assert why_not_executable("") == 127
