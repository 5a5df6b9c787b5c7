"""Prints the help of each command that is an argument, and of all, and then which libraries of the
client that has loaded.
"""

from __future__ import annotations

import sys

from qsessions.cli import main

if __name__ == "__main__":
    for argv in (["--help"], *([command, "--help"] for command in sys.argv[1:])):
        code = main(argv)
        loaded = sorted({"aiohttp", "cattrs", "jwt", "yarl"} & sys.modules.keys())
        print("loaded:", *argv, code, loaded)
