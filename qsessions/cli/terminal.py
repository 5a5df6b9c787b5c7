"""Where output goes: a console that keeps to the environment's wishes, and an output that nobody reads any more."""

from __future__ import annotations

import os
import sys
from typing import Literal, TextIO

from rich.console import Console


class Terminal(Console):
    """rich's console, without any escape where NO_COLOR is set."""

    def __init__(self, *, soft_wrap: bool = False) -> None:
        # rich keeps bold and dim with NO_COLOR; without a colour system it writes no escape at all.
        color_system: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        super().__init__(color_system=color_system, highlight=False, soft_wrap=soft_wrap)

    def on_broken_pipe(self) -> None:
        """Tell that the reader is gone; rich itself would end the process with 1."""
        raise BrokenPipeError


def forget_output(stream: TextIO | None = None) -> None:
    """Send what is still written to a stream, by default standard output, nowhere; the interpreter flushes it once more at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, (stream or sys.stdout).fileno())
    os.close(nothing)
