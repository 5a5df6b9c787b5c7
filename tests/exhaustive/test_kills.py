"""The long form of tests/integration/test_kill_sweep.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.exhaustive.kills import many
from tests.programs.killed import WAYS, Death
from tests.support.kills import kills, see_gaps
from tests.support.scenes import STATES, kill_beside_the_living, scene
from tests.support.stage import Stage, stage

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="kills and forks are those of POSIX"
)

# The callbacks of its event loop after which a process is killed, counted from when its first
# record was kept. A life takes about 75.
CALLBACKS = range(0, 400, 2)
FIRST_CREATE = range(60)
KILLS = 400

CLIENTS = ("async", "sync")
CALLS = ("create", "open")
INSTRUCTIONS = (1, 2, 10, 50, 200)

# At the very return of `create`, and a little later.
MOMENTS = [
    *(
        Death(way=way, client=client, call=call)
        for way in WAYS
        for client in CLIENTS
        for call in CALLS
    ),
    *(Death(way="kill at once", call=call, turns=turns) for call in CALLS for turns in (1, 2, 3)),
    *(
        Death(way="os._exit", client=client, instructions=count)
        for client in CLIENTS
        for count in INSTRUCTIONS
    ),
    *(Death(way="kill at once", under_way=20, instructions=count) for count in (1, 100)),
]
# With others under way, in a child of a process that has a session of its own.
IN_CHILDREN = [
    *(Death(way=way, under_way=20, nth=1, is_forked=False) for way in WAYS),
    *(
        Death(way=way, client="sync", under_way=20, nth=10)
        for way in ("kill in a C call", "os._exit")
    ),
    Death(way="SIGSEGV", under_way=200, nth=20),
]


@pytest.fixture(scope="module")
def processes() -> Iterator[Stage]:
    """Return what starts processes."""
    with stage(is_measured=False) as processes:
        yield processes


async def test_a_session_that_was_given_is_in_the_ledger_at_any_moment(
    processes: Stage, tmp_path: Path
) -> None:
    """However a process dies at the return of `create` or `open`, or a little later, the ledger has
    the id; what is in flight is in a record without one.
    """
    problems: list[str] = []
    async with kills(processes, tmp_path) as place:
        for death in MOMENTS:
            problems += (await place.see(death)).problems()
        for death in IN_CHILDREN:
            problems += (await place.see(death, by_owner=True)).problems()
    assert problems == []


async def test_the_sweep_finds_a_gap_among_many(processes: Stage, tmp_path: Path) -> None:
    """Also with twenty sessions under way, each way of dying shows an id that is written one turn of
    the event loop late.
    """
    await see_gaps(processes, tmp_path, under_way=20)


async def test_what_may_be_a_session_of_the_living_is_left_to_it_at_any_moment(
    processes: Stage, tmp_path: Path
) -> None:
    """Where a living process is creating just such a session, those that the dead may have created
    are listed, and none is closed.
    """
    listed, states = await kill_beside_the_living(processes, tmp_path, FIRST_CREATE)
    assert listed == states["intent", "open"] >= 5, states


@pytest.mark.timeout(300)
async def test_whatever_a_killed_process_left_is_reaped_and_nothing_else(
    processes: Stage, tmp_path: Path
) -> None:
    """After SIGKILL at 200 moments of a loop nothing of the dead goes on unlisted, and all of the
    living does, until it dies too.
    """
    async with scene(processes, tmp_path, backend="ibm_torino") as (place, living):
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
