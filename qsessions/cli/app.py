"""The table of commands. Each is imported when it is used, so that help stays fast."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from qsessions._version import __version__
from qsessions.cli.failures import Exit, print_lines
from qsessions.cli.terminal import Terminal, discard_output

# Where each command is, and its line in the list of all; a test compares that with its docstring.
COMMANDS = {
    "close": ("sessions:close", "Close a session now: queued jobs never run, running jobs finish."),
    "close-all": (
        "close_all:close_all",
        "End all open sessions of the instance, after showing them and asking.",
    ),
    "create": ("create:create", "Create a session and print it."),
    "demo": ("demo:demo", "Run one session from create to closed against an emulator."),
    "doctor": ("doctor:doctor", "Check credentials, network, IAM, the service and the clock."),
    "drain": (
        "sessions:drain",
        "Let a session finish its jobs; it refuses new ones, and then closes.",
    ),
    "emulator": ("emulator:emulator", "Serve the sessions API on this machine until Ctrl-C."),
    "forget": (
        "reap:forget",
        "Remove records of dead processes from the ledger; sessions stay as they are.",
    ),
    "get": ("sessions:get", "Print a session."),
    "instances": (
        "instances:instances",
        "List the account's service instances, with plan, region, tags and CRN.",
    ),
    "ledger": (
        "ledger:ledger",
        "List the sessions that this user's processes created and that may be open.",
    ),
    "reap": ("reap:reap", "Close the sessions that dead processes left open, by the ledger."),
    "run": ("run:run", "Run a command inside a session, which ends with it."),
    "update": ("sessions:update", "Open or shut a session for new jobs."),
    "versions": ("workloads:versions", "List the API versions of the service, oldest first."),
    "wait": ("sessions:wait", "Wait until a session is in a state, and print it."),
    "workloads": ("workloads:workloads", "List the instance's sessions and batches, oldest first."),
}


def make_app() -> App:
    """Return the command line, with each command to be imported on use."""
    app = App(
        name="qsessions",
        help="IBM Quantum sessions from the shell.",
        version=__version__,
        help_format="plaintext",
    )
    for name, (function, line) in COMMANDS.items():
        app.command(f"qsessions.cli.{function}", name=name, help=line)
    return app


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code; print what goes wrong on standard error.

    Raises:
        LeaveAtOnce: It was interrupted twice.
    """
    app = make_app()
    try:
        if argv and argv[0] in COMMANDS:
            # Its own page of help has all of its docstring.
            app[argv[0]].help = None
        command, bound, _ = app.parse_args(
            argv, console=Terminal(), exit_on_error=False, print_error=False
        )
        result = command(*bound.args, **bound.kwargs)
        if inspect.iscoroutine(result):
            from qsessions.cli.service import run_async

            result = run_async(argv[0], result)
        return int(result or Exit.DONE)
    except CycloptsError as error:
        name = " ".join(["qsessions", *(error.command_chain or ())])
        print_lines(f"{name}: {' '.join(str(error).split())}", f"See: {name} --help")
        return Exit.WRONG_USE
    except BrokenPipeError:
        # The reader has closed the pipe.
        discard_output()
        return Exit.DONE
    except OSError as error:
        # Output that can't be written, or a file that a library reads while it is imported. Errors
        # of the network don't get here.
        discard_output()
        print_lines(
            f"qsessions: {error}.",
            "Check where the output goes, and the files that the environment names.",
        )
        return Exit.WRONG_USE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
