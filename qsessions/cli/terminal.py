"""The terminal: a console that respects NO_COLOR, questions, discarded output."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Literal, TextIO

from rich.console import Console


class Terminal(Console):
    """rich's console, without any escape sequence where NO_COLOR is set."""

    def __init__(self, *, soft_wrap: bool = False, stderr: bool = False) -> None:
        # rich keeps bold and dim with NO_COLOR; without a colour system it writes no escape at all.
        color_system: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        super().__init__(
            color_system=color_system, highlight=False, soft_wrap=soft_wrap, stderr=stderr
        )

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError; rich itself would end the process with 1."""
        raise BrokenPipeError


def can_ask() -> bool:
    """Return whether there is a terminal to ask at."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(lines: Iterable[str], question: str) -> bool:
    """Print lines and a question on standard error, and return whether the answer is yes."""
    for line in lines:
        print(line, file=sys.stderr)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def discard_output(stream: TextIO | None = None) -> None:
    """Discard what is still written to a stream; Python itself flushes it at exit."""
    # A stream that stands in for the process's own may have no file.
    with suppress(io.UnsupportedOperation):
        descriptor = (stream or sys.stdout).fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
