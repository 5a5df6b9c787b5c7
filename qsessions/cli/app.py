"""The table of commands. Each is imported when it is used, so that help stays fast."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from qsessions._version import __version__
from qsessions.cli.failures import Exit, print_error, print_lines
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
    "doctor": ("doctor:doctor", "Check credentials, network, the service, clock and ledger."),
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
    "watch": ("watch:watch", "Watch sessions until all are closed."),
    "workloads": ("workloads:workloads", "List the instance's sessions and batches, oldest first."),
}
# What people type first. They aren't in the list of all.
_ALIASES = {"list": "workloads", "ls": "workloads", "sessions": "workloads"}
# The library calls the arguments of these ARGS.
_USAGE = {
    "forget": "[OPTIONS] [RECORD...]",
    "ledger": "[OPTIONS] [ACTION]",
    "reap": "[OPTIONS] [RECORD...]",
    "run": "[OPTIONS] -- COMMAND [ARGUMENT...]",
    "watch": "[OPTIONS] [ID...]",
}
_EMULATOR = "qsessions.emulator"
_INSTALL_EMULATOR = "pip install 'qsessions[emulator]'"


def make_app() -> App:
    """Return the command line, with each command to be imported on use."""
    app = App(
        name="qsessions",
        help="IBM Quantum sessions from the shell. The API key comes from QISKIT_IBM_TOKEN, or "
        "from the account that qiskit-ibm-runtime saved; `qsessions doctor` says what is missing.",
        version=__version__,
        version_flags=("--version", "-V"),
        help_format="plaintext",
    )
    for name, (function, line) in COMMANDS.items():
        usage = f"Usage: qsessions {name} {_USAGE[name]}" if name in _USAGE else None
        app.command(f"qsessions.cli.{function}", name=name, help=line, usage=usage)
    app.register_install_completion_command(
        help="Install completion for this shell, or for --shell bash, zsh, fish or powershell."
    )
    return app


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """Return a command line with the command's own name, and `help` after it, as its option."""
    first, *rest = argv or [""]
    if first in {"help", "--help", "-h"}:
        return [*(_spelled_out(rest) if rest else []), "--help"]
    return [_ALIASES.get(first, first), *rest] if first else []


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code; print what goes wrong on standard error.

    Raises:
        LeaveAtOnce: It was interrupted twice.
    """
    argv = _spelled_out(argv)
    try:
        return _run(argv)
    except CycloptsError as error:
        from qsessions.cli.wrong_use import problem_of_parsing

        return _refuse(" ".join(error.command_chain or ()), problem_of_parsing(error, argv))
    except ImportError as error:
        # The library of the command line wraps it.
        if not (isinstance(error.__cause__, ImportError) and error.__cause__.name == _EMULATOR):
            raise
        return _refuse(argv[0], ("the emulator needs PyJWT.", f"Run: {_INSTALL_EMULATOR}"))
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


def _run(argv: Sequence[str]) -> int:
    app = make_app()
    if argv and argv[0] in COMMANDS:
        # Its own page of help has all of its docstring.
        app[argv[0]].help = None
        from qsessions.cli.wrong_use import problem_before

        if problem := problem_before(app, argv):
            return _refuse(argv[0], problem)
    command, bound, _ = app.parse_args(
        argv, console=Terminal(), exit_on_error=False, print_error=False
    )
    # Not for its help.
    if command.__name__ == "run":
        from qsessions.cli.wrong_use import problem_of_command

        if problem := problem_of_command(argv, bound.args):
            return _refuse("run", problem)
    result = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        from qsessions.cli.service import run_async

        result = run_async(argv[0], result)
    return int(result or Exit.DONE)


def _refuse(command: str, problem: tuple[str, str]) -> Exit:
    """Print what is wrong with the use of a command, or of all, and what to do."""
    print_error(command, *problem)
    return Exit.WRONG_USE
