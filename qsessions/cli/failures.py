"""What is told when a command ends otherwise than well: two lines on standard error and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from enum import IntEnum

from qsessions.api.outcome import CreateOutcomeUnknown
from qsessions.cli.terminal import forget_output
from qsessions.errors import (
    CallTimeout,
    ConfigurationError,
    ConnectionFailed,
    InvalidArgument,
    ProtocolError,
    QSessionsError,
    one_line,
)

LOOK_FOR_IT = (
    "Look for a session that you don't know: qsessions workloads --status pending --status in_progress --newest-first; "
    "end it: qsessions close ID"
)

# How many ids a line names.
_LISTED = 5

# Errors speak Python; here they speak to a shell. What the command line has as an option is called so: an argument that the sentence is
# about, a keyword, a TTL wherever it stands. What it has no option for is put in other words.
_OPTION = re.compile(
    r"^[a-z_]+(?= must )|(?<!\S)(?:account|account_file|base_url)=|(?<!\S)(?:interactive|active|max)_ttl\b"
)
_IN_A_SHELL = (
    ("auth= was not given; ", ""),
    ("a token must live for at least", "--token-seconds must be at least"),
    ("Pass auth=[IBMCloudAuth(api_key), ServiceCRN(crn)], or set", "Set"),
    (
        " auth=[] makes a client without credentials, enough for versions().",
        " Name an account with --account.",
    ),
    ("; credentials go into auth=", ""),
    ("pass ssl=ssl.create_default_context(cafile=...)", "name its file in SSL_CERT_FILE"),
    (
        "Pass ssl=ssl.create_default_context(cafile=...) with",
        "Take that line out, and name in SSL_CERT_FILE",
    ),
    (", or pass allow_insecure=True", ""),
    ("Pass proxy= with the URL of a proxy", "Take that out, and name in HTTPS_PROXY a proxy"),
    (", or pass proxy=", ""),
    (", pass proxy=", ""),
    ("must be text such as", "must be seconds or text such as"),
    (", or None,", ", or 'none',"),
    ("get()", "qsessions get"),
)


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    REFUSED = 1
    WRONG_USE = 2
    UNREACHABLE = 3
    TIMEOUT = 4
    INTERRUPTED = 130


def complain(command: str, what: str, advice: str) -> None:
    """Say on standard error what happened and what to do, a line each."""
    tell(f"qsessions {command}: {one_line(what)}\n{one_line(advice)}")


def tell(text: str) -> None:
    """Print lines on standard error, of printable text. Where nobody reads that any more, the exit code has to say it all."""
    try:
        print("\n".join(map(one_line, text.split("\n"))), file=sys.stderr)
    except OSError:
        forget_output(sys.stderr)


def exit_code(error: QSessionsError) -> Exit:
    """Give the exit code that fits an error."""
    match error:
        case ConfigurationError() | InvalidArgument():
            return Exit.WRONG_USE
        case CallTimeout():
            return Exit.TIMEOUT
        # What answers but isn't the service is as good as no answer.
        case ConnectionFailed() | CreateOutcomeUnknown() | ProtocolError():
            return Exit.UNREACHABLE
        case _:
            return Exit.REFUSED


def what_happened(error: QSessionsError, command: str) -> str:
    """Give an error's text without its advice, and without the name of the command, which is told already."""
    text = str(error).removesuffix(error.solution or "").strip()
    text = text.removeprefix(f"{command}: ").removeprefix(f"{command} of ")
    # What was answered has words of its own.
    return in_a_shell(text) if isinstance(error, ConfigurationError | InvalidArgument) else text


def what_to_do(error: QSessionsError, command: str) -> str:
    """Give the advice that fits an error, in the words of the command line."""
    match error:
        case CreateOutcomeUnknown():
            return _end_it(error)
        case CallTimeout():
            return "Run it again, or give it more time with --timeout."
        case _:
            return in_a_shell(error.solution or f"See: qsessions {command} --help")


def count(number: int, thing: str) -> str:
    """Give a number of things in words: 1 record, 2 records."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def few(ids: Sequence[str]) -> str:
    """Give ids in a row; of a long list the first ones, and how many more there are."""
    more = f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else ""
    return ", ".join(ids[:_LISTED]) + more


def _end_it(error: CreateOutcomeUnknown) -> str:
    if error.session_id:
        return f"End it: qsessions close {error.session_id}"
    match [candidate.id for candidate in error.candidates or ()]:
        case []:
            return LOOK_FOR_IT
        case [only]:
            return f"It may be session {only}: if you don't know it, end it: qsessions close {only}"
        case ids:
            return (
                f"It may be one of {few(ids)}: end the one that you don't know: qsessions close ID"
            )


def in_a_shell(text: str) -> str:
    """Put what speaks of Python into the words of the command line."""
    text = _OPTION.sub(lambda name: "--" + name[0].removesuffix("=").replace("_", "-"), text)
    for python, shell in _IN_A_SHELL:
        text = text.replace(python, shell)
    return text
