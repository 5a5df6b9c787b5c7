"""What to say of a command line that can't be right: the mistakes that people make most."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnusedCliTokensError,
)

from qsessions.models import deadline_seconds

# What reads a value that may have spaces in it, by its name in help.
_SPACED = {"DURATION": lambda text: deadline_seconds(text, ""), "TIME": datetime.fromisoformat}
# What can only be a further part of a duration, such as 30m or 30min; no name is as short.
_PART = re.compile(r"[0-9]{1,4}[dhms][a-z]{0,6}")


def problem_before(app: App, argv: Sequence[str]) -> tuple[str, str] | None:
    """Return what is wrong and what to do if a value was given in parts, or None.

    Its further parts would be taken for something else: a record, or the command to run.
    """
    ours = [*argv[: argv.index("--")]] if "--" in argv else [*argv]
    spaced = {
        name: str(argument.parameter.metavar)
        for argument in app[argv[0]].assemble_argument_collection(parse_docstring=False)
        if argument.parameter.metavar in _SPACED
        for name in argument.names
    }
    for at, token in enumerate(ours):
        name, equals, value = token.partition("=")
        if name in spaced:
            parts = [value] * bool(equals) + ours[at + 1 :]
            if text := _joined(parts, spaced[name]):
                what = "a duration" if spaced[name] == "DURATION" else "a time"
                return (
                    f"{name} has {what} in parts, which a shell takes apart: {text}.",
                    f"Quote it: {name} {shlex.quote(text)}",
                )
    return None


def _joined(parts: Sequence[str], metavar: str) -> str | None:
    """Return the parts that are one value together, if there are several."""
    for number in range(min(len(parts), 8), 1, -1):
        with suppress(ValueError, OverflowError):
            text = " ".join(parts[:number])
            _SPACED[metavar](text)
            return text
    if metavar == "DURATION" and len(parts) > 1 and all(map(_PART.fullmatch, parts[:2])):
        return " ".join(parts[:2])
    return None


def problem_of_command(argv: Sequence[str], command: Sequence[str]) -> tuple[str, str] | None:
    """Return what is wrong if options after the command that `run` runs may be its own, or None.

    Args:
        argv: The arguments of `run`.
        command: The command as it was read: without what was taken for an option of `run`.
    """
    if "--" in argv or not command or [*argv[-len(command) :]] == [*command]:
        return None
    return (
        f"the options after {command[0]} may be its own or those of run.",
        f"Put -- before the command: qsessions run … -- {shlex.join(command[:1])} …",
    )


def problem_of_parsing(error: CycloptsError, argv: Sequence[str]) -> tuple[str, str]:
    """Return what is wrong, and what to do."""
    see = f"See: {' '.join(['qsessions', *(error.command_chain or ())])} --help"
    unused = error.unused_tokens or []
    if isinstance(error, UnknownCommandError):
        # The library would import all commands to name some.
        commands = [name for name in error.app or () if name[0] != "-"]
        if unused[0].startswith("-"):
            # Without its value, which may be a secret.
            option = unused[0].partition("=")[0]
            command = next((token for token in argv if token in commands), "COMMAND")
            return (
                f"{option} is no command.",
                f"Options come after it: qsessions {command} {option} …",
            )
        close = get_close_matches(unused[0], commands)
        meant = f' Did you mean "{close[0]}"?' if close else ""
        return f'there is no command "{unused[0]}".{meant}', see
    text = " ".join(str(error).split())
    if argv[:1] == ["run"] and "--" not in argv and unused and not unused[0].startswith("-"):
        return text, f"Put -- before the command: qsessions run … -- {shlex.join(unused)}"
    if isinstance(error, UnusedCliTokensError):
        return f"there is no place for {shlex.join(unused)}.", see
    # With unused ones it may be a typing error, for which the library has advice.
    if type(error) is not MissingArgumentError or error.argument is None:
        return text, see
    names = " or ".join(
        error.argument.names if error.argument.hint is bool else [error.argument.name]
    )
    if error.keyword is not None:
        problem = f"{error.keyword} has no value."
    elif unused:
        return text, see
    else:
        problem = f"{names} is missing."
    choices = error.argument.get_choices()
    if not choices:
        return problem, f"Add it. {see}" if error.argument.hint is bool else see
    *others, last = (f"{error.argument.name} {choice}" for choice in choices)
    return problem, f"Add {', '.join(others)} or {last}. {see}"
