"""The `qsessions` command. Importing it costs nothing; the command line's libraries come with the `cli` extra."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code: 0 done, 2 wrong use, 130 interrupted."""
    try:
        from qsessions.cli.app import app

        sys.exit(app())
    except ModuleNotFoundError as error:
        if error.name != "cyclopts":
            raise
        sys.stderr.write(
            "qsessions: the command line's libraries aren't installed.\nRun: pip install 'qsessions[cli]'\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
