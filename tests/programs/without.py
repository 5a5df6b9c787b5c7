"""Runs the command line as if a library weren't installed. Argument: the library."""

from __future__ import annotations

import sys

from qsessions.cli import main

if __name__ == "__main__":
    sys.modules[sys.argv[1]] = None  # type: ignore[assignment]
    sys.exit(main(["--help"]))
