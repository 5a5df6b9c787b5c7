"""A process that is killed at any moment leaves nothing open that the reaper doesn't find, and the
reaper touches nobody who lives.

The long form is in tests/exhaustive.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from tests.programs.killed import WAYS, Death
from tests.support.kills import kills, see_gaps
from tests.support.scenes import kill_beside_the_living
from tests.support.stage import Stage, stage

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="kills and forks are those of POSIX"
)

# The callbacks of its event loop after which a process is killed, counted from when its first
# record was kept.
FIRST_CREATE = (0, 10, 20, *range(28, 46), 60)

# Each way, with the calls in turn; then a little later than at the very return.
CALLS = ("create", "open")
MOMENTS = [
    *(Death(way=way, call=call) for way, call in zip(WAYS, cycle(CALLS), strict=False)),
    *(
        Death(way=way, client="sync", call=call)
        for way, call in zip(WAYS, cycle(reversed(CALLS)), strict=False)
    ),
    Death(way="kill at once", turns=1),
    Death(way="os._exit", instructions=10),
    Death(way="os._exit", client="sync", instructions=50),
]
# With others under way, in a child of a process that has a session of its own.
IN_CHILDREN = [
    Death(way="kill at once", under_way=20, nth=1, is_forked=False),
    Death(way="os._exit", client="sync", under_way=20, nth=10),
]


@pytest.fixture(scope="module")
def processes() -> Iterator[Stage]:
    """Return what starts processes."""
    with stage(is_measured=False) as processes:
        yield processes


async def test_a_session_that_was_given_is_in_the_ledger(processes: Stage, tmp_path: Path) -> None:
    """However a process dies once `create` or `open` has returned, the ledger has the id; what is
    in flight is in a record without one.
    """
    problems: list[str] = []
    async with kills(processes, tmp_path) as place:
        for death in MOMENTS:
            problems += (await place.see(death)).problems()
        for death in IN_CHILDREN:
            problems += (await place.see(death, by_owner=True)).problems()
    assert problems == []


async def test_the_sweep_finds_a_gap_of_one_turn(processes: Stage, tmp_path: Path) -> None:
    """Where the id is written from one turn of the event loop after the return on, each way of
    dying shows it.
    """
    await see_gaps(processes, tmp_path, under_way=1)


async def test_what_may_be_a_session_of_the_living_is_left_to_it(
    processes: Stage, tmp_path: Path
) -> None:
    """Where a living process is creating just such a session, those that the dead may have created
    are listed, and none is closed.
    """
    listed, states = await kill_beside_the_living(processes, tmp_path, FIRST_CREATE)
    assert listed == states["intent", "open"] >= 2, states
