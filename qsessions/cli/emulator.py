"""The emulator as a process."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from contextlib import suppress

from qsessions.emulator import Emulator


async def serve(emulator: Emulator) -> int:
    """Serve until SIGINT or SIGTERM, and give the exit code.

    What is printed is only what a shell can eval; standard output is closed after it, so that `eval "$(qsessions emulator &)"` goes on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no such handlers: Ctrl-C ends asyncio.run there.
        # A shell that starts it in the background has it ignore Ctrl-C, which is meant for what runs in front.
        if signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, stop.set)
    try:
        await emulator.start()
    except OSError as error:
        print(
            f"qsessions emulator: can't listen: {error}\nTry --port 0, which takes a free port.",
            file=sys.stderr,
        )
        return 2
    try:
        for name, value in emulator.env().items():
            print(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        if sys.stdout.isatty():
            print("# Serving. Stop with Ctrl-C.", file=sys.stderr)
        else:
            _close_stdout()
        await stop.wait()
    finally:
        await emulator.stop()
    return 0


def _close_stdout() -> None:
    # Whoever reads the pipe must see its end; the descriptor stays valid for what may still print.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
