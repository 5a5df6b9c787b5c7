"""A command as a child process, where no signal of this process is needed to try it; the rest is in
test_cli_run.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

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
    loop = asyncio.get_running_loop()

    def receive() -> None:
        if one._forward is None:
            # The guard comes first.
            loop.call_soon(receive)
        else:
            one._receive(signal.SIGUSR1)

    # Runs as soon as that waits for the process.
    loop.call_soon(receive)
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


@pytest.mark.skipif(sys.platform != "linux", reason="descendants aren't known elsewhere")
async def test_keys_and_what_the_command_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blockbuster: BlockBuster
) -> None:
    """Of two keys a long time apart, what the command started in a group of its own gets none; when
    a key soon comes again, it is killed if it goes on after its grace, and the command goes on.
    """
    # /proc isn't on a disk.
    blockbuster.deactivate()
    monkeypatch.setattr("qsessions.cli.child._is_in_front", lambda: True)
    pipe = tmp_path / "pipe"
    await asyncio.to_thread(os.mkfifo, pipe)
    deaf = f"setsid sh -c 'trap \"\" INT; echo > {pipe}; exec sleep 1000'; exit 5"
    one = Child(grace=1, stop=lambda _: None, leave=lambda _: None)
    running = asyncio.ensure_future(one.run(["sh", "-c", deaf], dict(os.environ)))
    await asyncio.to_thread(pipe.read_text)
    one._receive(signal.SIGINT)
    one._key_at -= 2
    one._receive(signal.SIGINT)
    assert one._killing == {}
    # However long the look at the processes took.
    one._key_at += 60
    one._receive(signal.SIGINT)
    assert len(one._killing) == 1
    assert await running == 5


async def test_without_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no guard can be started the command runs all the same."""
    start = asyncio.create_subprocess_exec

    async def no_shell(program: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        if program == "/bin/sh":
            raise FileNotFoundError(program)
        return await start(program, *arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_shell)
    assert await child().run(["sh", "-c", "exit 3"], dict(os.environ)) == 3
