"""The long form of the interruptions in tests/integration/test_sync_processes.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from qsessions.emulator import Emulator
from tests.programs import interrupted
from tests.support.stage import stage

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals and forks are those of POSIX"),
    pytest.mark.timeout(300),
]


async def test_ctrl_c_at_ten_moments() -> None:
    """Ctrl-C at ten moments of each call ends it, the client's loop goes on serving, and no session
    is left of a create.
    """
    with stage("-X", "dev", "-W", "error") as place:
        async with (
            Emulator() as emulator,
            place.playing(interrupted.ctrl_c, 10, env=emulator.env()) as program,
        ):
            code, output, errors = await program.outcome()
    assert (code, errors) == (0, "")
    assert json.loads(output) == {}


@pytest.mark.parametrize(("scenario", "least"), interrupted.STRIKES)
async def test_an_interruption_at_each_moment(scenario: Callable[[int], None], least: int) -> None:
    """Nothing is left open untold at whichever of its moments a signal strikes the facade's code."""
    with stage("-X", "dev", "-W", "error") as place:
        async with (
            Emulator() as emulator,
            place.playing(scenario, 1, env=emulator.env()) as program,
        ):
            code, output, errors = await program.outcome()
    assert (code, errors if scenario is not interrupted.make else "") == (0, ""), errors
    assert int(output) > least
