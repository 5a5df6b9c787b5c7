"""Runs programs in turn, each in a fork of this process, which has imported qsessions already.

Each line of standard input is a program in JSON: its source, its file name and its environment. Each
line of standard output is its exit code and all that it printed. There is no pytest for a program.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# What is imported here costs the programs nothing.
import qsessions.reaper
import qsessions.testing.clients  # noqa: F401

# As if it weren't installed.
sys.modules["pytest"] = None  # type: ignore[assignment]


def become(source: str, file: str, env: dict[str, str], output: int) -> None:
    """Run a program as a process does that has just been started for it."""
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [file]
    exec(compile(source, file, "exec"), {"__name__": "__main__", "__file__": file})  # noqa: S102 - that is what this is for


def main() -> None:
    """Answer until the input ends."""
    for line in iter(sys.stdin.readline, ""):
        program: dict[str, Any] = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            become(**program, output=writing)
            # The interpreter ends as it does for any program.
            return
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as printed:
            output = printed.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, output]), flush=True)


if __name__ == "__main__":
    main()
