"""What a worker process is told to do in the tests, in place of running circuits.

The one thing that a request's `pubs` hold says it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def run(body: bytes, seed: int) -> bytes:
    """Do what the request says, and return what came of it as JSON."""
    (wish,) = json.loads(body)["params"]["pubs"]
    return json.dumps(WISHES[wish](seed)).encode()


def never_end(_: int) -> None:
    """Wait for ever."""
    threading.Event().wait()


def take_memory(_: int) -> int:
    """Fill more memory than there may be."""
    return len(bytearray(3 * 2**30))


def end(_: int) -> None:
    """End the process without a word."""
    os._exit(7)


def fail(_: int) -> None:
    """Raise an error."""
    raise LookupError("no such gate")


def print_text(seed: int) -> int:
    """Print, and return the seed."""
    print("this is no answer", flush=True)
    return seed


def environment(_: int) -> dict[str, str]:
    """Return the environment."""
    return dict(os.environ)


def process_id(_: int) -> int:
    """Return which process this is."""
    return os.getpid()


def break_out(_: int) -> dict[str, str]:
    """Try what a program may not do, and return what each attempt raised."""
    attempts: dict[str, Callable[[], object]] = {
        "socket": socket.socket,
        "name": lambda: socket.getaddrinfo("localhost", 80),
        "process": lambda: subprocess.run([sys.executable], check=False),
        "shell": lambda: os.system("true"),  # noqa: S605, S607 - it is refused
        "file": lambda: Path("written").write_text("", encoding="utf-8"),
        "folder": lambda: Path("made").mkdir(),
    }
    raised: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # noqa: BLE001 - the test says what it expects
            raised[name] = type(error).__name__
    return raised


WISHES: dict[str, Callable[[int], object]] = {
    "break out": break_out,
    "end": end,
    "environment": environment,
    "fail": fail,
    "never end": never_end,
    "print": print_text,
    "process": process_id,
    "take memory": take_memory,
}
