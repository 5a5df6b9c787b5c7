"""The long form of tests/integration/test_kill_sweep.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.exhaustive.kills import many
from tests.support.scenes import STATES, scene

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="kills and forks are those of POSIX"
)

# The callbacks of its event loop after which a process is killed, counted from when its first
# record was kept. A life takes about 75.
CALLBACKS = range(0, 400, 2)
KILLS = 400


@pytest.mark.timeout(300)
async def test_whatever_a_killed_process_left_is_reaped_and_nothing_else(tmp_path: Path) -> None:
    """After SIGKILL at 200 moments of a loop nothing of the dead goes on unlisted, and all of the
    living does, until it dies too.
    """
    async with scene(tmp_path, backend="ibm_torino") as (place, living):
        for count in CALLBACKS:
            await place.kill(count)
            # A single session can be decided about; of several nobody can tell which is which.
            assert len(await place.reap()) != 1, count
        assert place.states.total() == len(CALLBACKS)
        assert min(place.states[state] for state in STATES) >= 5, place.states
        assert min(place.lives[life] for life in (1, 2, 3)) >= 5, place.lives

        await living.kill()
        place.kept = {}
        assert len(await place.reap()) == 2
        # Those that drain end by themselves.
        await place.emulator.advance("2h")
        assert await place.reap() == set()
        assert place.emulator.open_sessions == []
        assert [
            entry for entry in await place.ledger.entries() if entry.record.session_id is not None
        ] == []


@pytest.mark.timeout(600)
async def test_a_session_that_was_given_is_in_the_ledger_at_any_size(tmp_path: Path) -> None:
    """However many are under way when a process dies, each session is in the ledger, or its request
    was in flight and a record names it.
    """
    figures = await many(KILLS, tmp_path)
    assert figures.problems == []
    assert figures.deaths.total() == KILLS
    assert figures.given > KILLS
    assert figures.in_flight > 0
