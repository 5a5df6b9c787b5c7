"""Runs a notebook in a real kernel and prints the result of each cell that has one."""

from __future__ import annotations

import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.get("outputs", ()):
        print(output["data"]["text/plain"] if "data" in output else output)
