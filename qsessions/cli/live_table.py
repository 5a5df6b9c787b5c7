"""A table of sessions on a terminal, which is drawn again and again in its place."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from qsessions.cli.changes import Change
from qsessions.cli.session_table import Screen, draw
from qsessions.cli.terminal import Terminal

_UP = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))


class LiveTable:
    """Shows sessions on standard output, which is a terminal, within `shown`.

    Args:
        ids: Which sessions.
        wall: Returns the seconds since 1970. By it the times go on between two changes.
        is_whole: Whether to show all columns, whatever the terminal's width.
    """

    def __init__(self, ids: Sequence[str], wall: Callable[[], float], *, is_whole: bool) -> None:
        self._changes: dict[str, Change | None] = dict.fromkeys(ids)
        self._wall = wall
        self._is_whole = is_whole
        self._is_last = False
        # How many cells each line of the terminal has that was drawn, and how many it could have.
        self._drawn: list[int] = []
        self._width = 0
        self._console = Terminal()
        # What is printed on standard error meanwhile comes above the table.
        self._live = Live(
            self,
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),
            vertical_overflow="crop",
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it; the last one stays, with all sessions, even if it is longer than the screen."""
        self._live.start()
        # A process that is stopped or killed meanwhile would leave the terminal without one.
        self._console.show_cursor(True)
        try:
            self.draw()
            yield
        finally:
            self._is_last = True
            self._join_lines()
            self._live.stop()

    def draw(self, change: Change | None = None) -> None:
        """Draw the table as it is by now, after a change of a session or without one."""
        if change is not None:
            self._changes[change.id] = change
        self._join_lines()
        self._live.refresh()

    def _join_lines(self) -> None:
        """Remove the lines that came of it that the terminal is narrower by now."""
        width = self._console.width
        if width < self._width:
            more = sum(max(math.ceil(size / width), 1) - 1 for size in self._drawn)
            self._console.control(Control(*_UP * more))
        self._width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw it for the terminal as it is now."""
        height = None if self._is_last else console.height
        pieces = self._pieces(console, options, height)
        room = height or 0
        # On a narrow terminal what is said below the rows takes more lines, and with -v a row, too.
        while room > 0 and len(pieces) > console.height:
            room -= max((len(pieces) - console.height) // 3, 1)
            pieces = self._pieces(console, options, room)
        self._drawn = [piece.cell_len for piece in pieces][:height]
        yield from pieces

    def _pieces(self, console: Console, options: ConsoleOptions, height: int | None) -> list[Text]:
        """Return its lines as they are folded at the terminal's width."""
        screen = Screen(
            width=options.max_width,
            height=height,
            is_whole=self._is_whole,
            is_ascii=options.ascii_only,
        )
        return [
            piece
            for line in draw(self._changes, self._wall(), screen)
            for piece in line.wrap(console, options.max_width, overflow="fold")
        ]
