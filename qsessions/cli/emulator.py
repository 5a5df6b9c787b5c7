"""The emulator as a process."""

from __future__ import annotations

import asyncio
import errno
import logging
import shlex
import signal
import socket
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue

from qsessions.cli.failures import Exit, complain
from qsessions.cli.terminal import forget_output
from qsessions.emulator import Emulator, Fault
from qsessions.emulator.faults import read_faults
from qsessions.emulator.http.admin import is_loopback
from qsessions.emulator.http.recording import request_log


def load_faults(path: Path) -> list[Fault]:
    """Read a fault plan. Raises ValueError that names the file and the place in it."""
    try:
        return read_faults(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # TOML's and the text's own errors are such too
        raise ValueError(f"{path}: {error}") from None


def serve(emulator: Emulator, host: str, log: str | None) -> int:
    """Serve until SIGINT or SIGTERM, and give the exit code.

    Every request is logged to the file `log`, or to standard error for "-".
    """
    try:
        handler = None if log is None else _log_handler(log)
    except OSError as error:
        complain(
            "emulator",
            f"can't write the log {log}: {error.strerror}.",
            "Give --log a file in a folder that is there and can be written, or - for standard error.",
        )
        return Exit.WRONG_USE
    with nullcontext() if handler is None else _logging_to(handler):
        return asyncio.run(_serve(emulator, host))


def _log_handler(log: str) -> logging.Handler:
    return logging.StreamHandler() if log == "-" else logging.FileHandler(log, encoding="utf-8")


@contextmanager
def _logging_to(handler: logging.Handler) -> Iterator[None]:
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    # A disk can be slow: lines are written by a thread of their own.
    listener = QueueListener(lines, handler)
    request_log.addHandler(QueueHandler(lines))
    request_log.setLevel(logging.INFO)
    request_log.propagate = False
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        handler.close()


async def _serve(emulator: Emulator, host: str) -> int:
    """Serve until a signal.

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
    except (OSError, UnicodeError) as error:  # what can't be a host's name is the latter
        reason = getattr(error, "strerror", None) or error
        complain("emulator", f"can't listen at {host!r}: {reason}.", _to_listen(error))
        return Exit.WRONG_USE
    if not is_loopback(host):
        complain(
            "emulator",
            f"WARNING: {host} can be reached from other machines.",
            "The emulator speaks plain HTTP, and its credentials protect nothing.",
        )
    try:
        for name, value in emulator.env().items():
            print(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        if sys.stdout.isatty():
            print(
                f"# Serving, with a live view at {emulator.iam_url}/ (Ctrl-C stops it)",
                file=sys.stderr,
            )
        else:
            # Whoever reads the pipe must see its end; the descriptor stays valid for what may still print.
            forget_output()
        await stop.wait()
    finally:
        await emulator.stop()
    return 0


def _to_listen(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        return "Give --host an address of this machine, such as 127.0.0.1."
    return "Try --port 0, which takes a free port."
