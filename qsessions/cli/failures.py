"""How a command that fails ends: two lines on standard error and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from enum import IntEnum

from qsessions.cli.terminal import discard_output
from qsessions.errors import (
    CallTimeout,
    ConfigurationError,
    ConnectionFailed,
    CreateOutcomeUnknown,
    InvalidArgument,
    ProtocolError,
    QSessionsError,
    WatchIncomplete,
    one_line,
)

LOOK_FOR_IT = (
    "Look for a session that you don't know: "
    "qsessions workloads --status open --newest-first; "
    "end it: qsessions close ID"
)

# What to do where the library's own advice is about an argument of the Python client.
_ADVICE = {
    "account": "Correct the account file, or name another account with --account or "
    "--account-file. Without these two, the environment is looked at first.",
    "allow_insecure": "Use https, or name the host and its port in QSESSIONS_INSECURE_HOSTS.",
    "auth": "Set QISKIT_IBM_TOKEN (an API key) and QISKIT_IBM_INSTANCE (the CRN), or save an "
    "account with the official client; --account names one, QISKIT_IBM_CHANNEL its channel.",
    "ledger": "Set one of them.",
    "base_url": "The service's own base URL goes into --base-url or QSESSIONS_BASE_URL.",
    "proxy": "Name a proxy with an http or https URL in HTTPS_PROXY and HTTP_PROXY instead, or the "
    "service's host in NO_PROXY.",
    "ssl": "Name a file with the CA that signed the server's certificate, and with the others that "
    "are needed, in SSL_CERT_FILE; and check the account and the URL.",
    "ssl.verify_flags": "Have the CA issue a certificate that conforms to RFC 5280, or install "
    "qsessions with Python 3.12, which doesn't insist on it.",
}

# How many ids a line names.
_MAX_IDS = 5


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    REFUSED = 1
    WRONG_USE = 2
    UNREACHABLE = 3
    TIMEOUT = 4
    INTERRUPTED = 130


class LeaveAtOnce(SystemExit):
    """A second interruption: the process ends without waiting for what is under way.

    It is a SystemExit, because only such an error leaves a running event loop.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def print_error(command: str, problem: str, advice: str) -> None:
    """Print what happened and what to do on standard error, a line each."""
    print_lines(f"{f'qsessions {command}'.rstrip()}: {problem}", advice)


def print_lines(*lines: str) -> None:
    """Print lines on standard error, as printable text. Its reader may be gone."""
    try:
        print("\n".join(map(one_line, lines)), file=sys.stderr)
    except OSError:
        discard_output(sys.stderr)


class StderrHandler(logging.Handler):
    """Prints each warning once on standard error."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning."""
        text = record.getMessage()
        if text not in self._printed:
            self._printed.add(text)
            print_lines(f"qsessions: {text}")


def exit_code(error: BaseException | None) -> Exit:
    """Return the exit code of an error."""
    match error:
        case ConfigurationError() | InvalidArgument():
            return Exit.WRONG_USE
        case CallTimeout():
            return Exit.TIMEOUT
        # Something that answers in place of the service is as good as no answer.
        case ConnectionFailed() | CreateOutcomeUnknown() | ProtocolError():
            return Exit.UNREACHABLE
        case _:
            return Exit.REFUSED


def advice_on(error: QSessionsError, command: str) -> str:
    """Return what to do about an error, in the words of the command line."""
    match error:
        case CreateOutcomeUnknown():
            if error.session_id:
                return f"End it: qsessions close {error.session_id}"
            return how_to_end([item.id for item in error.candidates or ()]) or LOOK_FOR_IT
        case CallTimeout():
            return "Run it again, give it more time with --timeout, or see: qsessions doctor"
        case WatchIncomplete():
            return "Check their ids, and whose they are: qsessions workloads --status open"
        case QSessionsError(argument=str(argument)) if argument in _ADVICE:
            return _ADVICE[argument]
        case _:
            return error.solution or f"See: qsessions {command} --help"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 record, 2 records."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shorten(ids: Sequence[str]) -> str:
    """Return ids in a row: the first five, and how many more there are."""
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    return ", ".join(ids[:_MAX_IDS]) + more


def how_to_end(ids: Sequence[str]) -> str | None:
    """Return how to end a session that is one of several, or None if there are none."""
    if not ids:
        return None
    if len(ids) > 1:
        return (
            f"It may be one of {shorten(ids)}; "
            "look whose they are, and to end one: qsessions close ID"
        )
    return f"It may be session {ids[0]}; look whose it is, and to end it: qsessions close {ids[0]}"
