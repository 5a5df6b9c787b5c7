"""Draw docs/demo.svg, README's picture: what a terminal shows of `qsessions demo`."""

from __future__ import annotations

import os
import pty
import re
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"
WIDTH = 92
COMMAND = ("qsessions", "demo")


def main() -> None:
    """Run the command at a terminal of its own, and draw what is left on it."""
    output = bytearray()

    def read(screen: int) -> bytes:
        data = os.read(screen, 1024)
        output.extend(data)
        return data

    os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    if status := pty.spawn(COMMAND, read):
        raise SystemExit(os.waitstatus_to_exitcode(status))
    # What the spinner drew was erased again, at the end from the line below.
    left = re.sub(r"[^\n]*(\n[^\n]*\x1b\[1A)?\x1b\[2K|\x1b\[\?25l|\r", "", output.decode())
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(Text(f"$ {' '.join(COMMAND)}", style="bold"))
    console.print(Text.from_ansi(left.strip()))
    # Its fonts would come from another host.
    drawn = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    console.save_svg(str(PICTURE), title="qsessions demo", code_format=drawn, unique_id="demo")


if __name__ == "__main__":
    main()
