"""Where output goes: a console that keeps to the environment's wishes, and an output that nobody reads any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

from rich.console import Console

# Fewer are done before anybody could see a bar.
_MANY = 50


class Terminal(Console):
    """rich's console, without any escape where NO_COLOR is set."""

    def __init__(self, *, soft_wrap: bool = False) -> None:
        # rich keeps bold and dim with NO_COLOR; without a colour system it writes no escape at all.
        color_system: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        super().__init__(color_system=color_system, highlight=False, soft_wrap=soft_wrap)

    def on_broken_pipe(self) -> None:
        """Tell that the reader is gone; rich itself would end the process with 1."""
        raise BrokenPipeError


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on standard error while something goes on, where that is a terminal; what is given takes how far it is."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.progress import Progress, TaskID

    bar, tasks = Progress(console=Console(stderr=True), transient=True), dict[str, TaskID]()

    def advance(what: str, done: int, total: int) -> None:
        if total >= _MANY:
            bar.start()
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

    try:
        yield advance
    finally:
        bar.stop()


def forget_output(stream: TextIO | None = None) -> None:
    """Send what is still written to a stream, by default standard output, nowhere; the interpreter flushes it once more at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, (stream or sys.stdout).fileno())
    os.close(nothing)
