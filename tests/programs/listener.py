"""Prints which signals come. It ends with 0 at SIGTERM and at the end of its input, and not by
itself.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def show(number: int, _: FrameType | None) -> None:
    """Print the name of a signal."""
    os.write(1, f"{signal.Signals(number).name}\n".encode())
    if number == signal.SIGTERM:
        sys.exit(0)


for name in NAMES:
    if signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN:
        signal.signal(signal.Signals[name], show)
os.write(1, b"ready\n")
sys.stdin.read()
os.write(1, b"end\n")
