"""The `qsessions` command. Importing it costs nothing; the command line's libraries come with the `cli` extra."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 refused, 2 wrong use, 3 unreachable, 4 timeout, 130 interrupted."""
    # A shell's `2>&-` and `>&-` leave none, and what would go there must not go elsewhere.
    if not sys.stderr:
        sys.stderr = io.StringIO()
    if not sys.stdout:
        sys.stderr.write(
            "qsessions: standard output is closed.\nSend it to /dev/null if nobody wants it.\n"
        )
        sys.exit(2)
    try:
        from cyclopts import CycloptsError

        import qsessions.cli.upkeep  # noqa: F401 - it adds its commands
        from qsessions.cli.app import app
        from qsessions.cli.failures import tell
        from qsessions.cli.terminal import forget_output
    except ModuleNotFoundError as error:
        if error.name != "cyclopts":
            raise
        sys.stderr.write(
            "qsessions: the command line's libraries aren't installed.\nRun: pip install 'qsessions[cli]'\n"
        )
        sys.exit(2)
    try:
        sys.exit(app(exit_on_error=False, print_error=False))
    except CycloptsError as error:
        command = " ".join(["qsessions", *(error.command_chain or ())])
        tell(f"{command}: {' '.join(str(error).split())}\nSee: {command} --help")
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read has had enough.
        forget_output()
        sys.exit(0)
    except OSError as error:
        # Output that can't be written, or a file that a library wants while it is imported; of the network's none gets here.
        forget_output()
        told = " ".join(str(error).split())
        tell(
            f"qsessions: {told}.\nCheck where the output goes, and the files that the environment names."
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
