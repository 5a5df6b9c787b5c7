"""What a command waits for, on standard error, while it takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from qsessions.cli import service
from qsessions.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.spinner import Spinner

    from qsessions.clock import Timer

# What is done sooner needs no progress.
DELAY_S = 1.0
_BAR = 30


class Progress:
    """Shows a line on a terminal's standard error while something takes longer than a second.

    The line goes at the end of its block, or once there is nothing to wait for. Elsewhere than on a
    terminal it does nothing.

    Args:
        what: What is waited for, from now on; see `show`.
    """

    def __init__(self, what: str | Callable[[], str] = "") -> None:
        console = Terminal(stderr=True)
        can_move = sys.stderr.isatty() and not console.is_dumb_terminal
        self._console = console if can_move else None
        self._what: Callable[[], str] = str
        self._done, self._total = 0, 0
        self._live: Live | None = None
        self._timer: Timer | None = None
        if what:
            self.show(what)

    def show(self, what: str | Callable[[], str]) -> None:
        """Show what is waited for: text, or what returns it whenever it is drawn."""
        self._what = what if callable(what) else lambda: what
        self._total = 0
        self._begin()

    def step(self, what: str, done: int, total: int) -> None:
        """Show how far a work of many steps is."""
        is_new = what != self._what()
        self._what, self._done, self._total = (lambda: what), done, total
        self._begin()
        if is_new and self._live is not None:
            self._live.refresh()

    def hide(self) -> None:
        """Show nothing more, until there is something to wait for again."""
        timer, live = self._timer, self._live
        self._timer = self._live = None
        if timer is not None:
            timer.cancel()
        if live is not None:
            live.stop()

    def _begin(self) -> None:
        if self._console is not None and self._timer is None:
            self._timer = service.CLOCK.call_later(DELAY_S, self._start)

    def _start(self) -> None:
        # Late: few commands take so long.
        from rich.live import Live
        from rich.spinner import Spinner

        assert self._console is not None  # noqa: S101 - else there is no timer
        spinner = Spinner("dots")
        # What is printed on standard error meanwhile comes above it. Data may go to the same
        # terminal, and must not go to another stream.
        self._live = Live(
            console=self._console,
            get_renderable=lambda: self._draw(spinner),
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
        )
        self._live.start(refresh=True)
        # A process that is stopped or killed meanwhile would leave the terminal without one.
        self._console.show_cursor(True)

    def _draw(self, spinner: Spinner) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        cells: list[RenderableType] = [
            spinner,
            Text(self._what(), no_wrap=True, overflow="ellipsis"),
        ]
        if self._total:
            bar = ProgressBar(total=self._total, completed=self._done, width=_BAR)
            cells += [bar, f"{self._done} of {self._total}"]
        grid = Table.grid(padding=(0, 1))
        grid.add_row(*cells)
        return grid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()
