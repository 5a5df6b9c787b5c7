"""The packages that let event loops be nested, as notebooks and frameworks of agents apply them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.needs import need

PROGRAM = Path(__file__).parents[1] / "programs" / "nested_loops.py"


@pytest.mark.parametrize("moment", ["before", "within", "late"])
@pytest.mark.parametrize("module", ["nest_asyncio", "nest_asyncio2"])
def test_the_facade_works_where_loops_are_nested(module: str, moment: str) -> None:
    """The facade's calls and blocks work as ever, whenever the nesting begins, and both kinds of
    clients leave no session open.
    """
    need(module)
    with ThreadedEmulator(Emulator()) as emulator:
        ended = subprocess.run(
            [sys.executable, PROGRAM, module, moment],
            env=os.environ | emulator.env(),
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert ended.stderr == ""
        cell = ["open", "closed", "closed"]
        nested = [] if moment == "late" else ["open"]
        assert ended.stdout.split() == [*cell, "1", *cell, "2", *nested, "end"]
        assert {session.state for session in emulator.sessions.values()} == {"closed"}
