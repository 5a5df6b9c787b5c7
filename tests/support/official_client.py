"""The official client, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsessions.testing.threaded import ThreadedEmulator

SCRIPT = Path(__file__).parents[1] / "programs" / "official_client.py"


class Raised(Exception):
    """What an expression raised in the client's process: the type's name and the message."""


class OfficialClient:
    """The process that has imported the client, and forks for each test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout

    def __call__(self, expression: str) -> Any:
        """Return an expression's value; raise Raised for what it raises. `(name := …)` keeps a value
        for later.
        """
        return self._ask(expression)

    @contextmanager
    def on(self, emulator: ThreadedEmulator | None, **variables: str) -> Iterator[OfficialClient]:
        """Use a new client, with the emulator's variables, if there is one, and those passed."""
        self._ask(os.environ | (emulator.env() if emulator else {}) | variables)
        try:
            yield self
        finally:
            self._ask(None)

    def _ask(self, value: object) -> Any:
        self._input.write(json.dumps(value) + "\n")
        self._input.flush()
        line = self._output.readline()
        assert line, "the client's process has ended"
        answer = json.loads(line)
        if "raised" in answer:
            raise Raised(f"{answer['raised']}: {answer['message']}")
        return answer["value"]


def discovery(emulator: ThreadedEmulator) -> dict[str, str]:
    """Return what leads the search for the account's instances to the emulator."""
    return {"GLOBAL_SEARCH_URL": emulator.iam_url, "GLOBAL_CATALOG_URL": emulator.iam_url}
