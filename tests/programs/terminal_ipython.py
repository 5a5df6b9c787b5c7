"""Runs cells in a terminal's IPython, and prints what each ended with. Arguments: the cells."""

from __future__ import annotations

import sys

from IPython.terminal.interactiveshell import TerminalInteractiveShell

shell = TerminalInteractiveShell.instance()
for cell in sys.argv[1:]:
    error = shell.run_cell(cell).error_in_exec
    print("ended:", type(error).__name__, flush=True)
