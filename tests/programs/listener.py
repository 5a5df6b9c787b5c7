"""Prints which signals come. It ends with 0 at SIGTERM and at the end of its input, and not by
itself. With an argument it reads no input: "setsid" and "setpgrp" leave the process group first,
"parent" starts another one that does, and "stay" does neither.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


child: subprocess.Popen[bytes] | None = None


def show(number: int, _: FrameType | None) -> None:
    """Print the name of a signal."""
    os.write(1, f"{signal.Signals(number).name}\n".encode())
    if number == signal.SIGTERM:
        if child is not None:
            child.kill()
        sys.exit(0)


for name in NAMES:
    if signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN:
        signal.signal(signal.Signals[name], show)
role = sys.argv[1] if sys.argv[1:] else None
if role == "setsid":
    os.setsid()
elif role == "setpgrp":
    os.setpgrp()
elif role == "parent":
    child = subprocess.Popen([sys.executable, "-IS", __file__, "setsid"])
os.write(1, b"ready\n")
while role is not None:
    signal.pause()
sys.stdin.read()
os.write(1, b"end\n")
