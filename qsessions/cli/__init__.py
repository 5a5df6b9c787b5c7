"""The `qsessions` command. The libraries of the command line come with the `cli` extra."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    The codes are 0 done, 1 refused, 2 wrong use, 3 unreachable, 4 timeout, 130 interrupted.

    Args:
        argv: The arguments. Without them, this is the process of the command: its own arguments are
            taken, and a second Ctrl-C ends it at once.
    """
    # A shell's `2>&-` and `>&-` leave no stream, and its output must not go elsewhere.
    if not sys.stderr:
        sys.stderr = io.StringIO()
    if not sys.stdout:
        sys.stderr.write(
            "qsessions: standard output is closed.\nTo discard the output, send it to /dev/null.\n"
        )
        return 2
    try:
        from qsessions.cli.app import run
        from qsessions.cli.failures import LeaveAtOnce
    except ModuleNotFoundError as error:
        if error.name != "cyclopts":
            raise
        sys.stderr.write(
            "qsessions: the libraries of the command line aren't installed.\n"
            "Run: pip install 'qsessions[cli]'\n"
        )
        return 2
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except LeaveAtOnce as leaving:
        if argv is None:
            os._exit(leaving.exit_code)
        return leaving.exit_code
