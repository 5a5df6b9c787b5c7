"""A process that is killed at any moment leaves nothing open that the reaper doesn't find, and the
reaper touches nobody who lives.

The long form is in tests/exhaustive.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.programs.killed import WAYS, Death
from tests.support.kills import kills
from tests.support.scenes import scene

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="kills and forks are those of POSIX"
)

# The callbacks of its event loop after which a process is killed, counted from when its first
# record was kept.
FIRST_CREATE = range(60)

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


async def test_a_session_that_was_given_is_in_the_ledger(tmp_path: Path) -> None:
    """However a process dies once `create` or `open` has returned, the ledger has the id; what is
    in flight is in a record without one.
    """
    problems: list[str] = []
    async with kills(tmp_path) as place:
        for death in MOMENTS:
            problems += (await place.see(death)).problems()
        for death in IN_CHILDREN:
            problems += (await place.see(death, by_owner=True)).problems()
    assert problems == []


@pytest.mark.parametrize("under_way", [1, 20])
async def test_the_sweep_finds_a_gap_of_one_turn(tmp_path: Path, under_way: int) -> None:
    """Where the id is written from one turn of the event loop after the return on, each way of
    dying shows it.
    """
    async with kills(tmp_path) as place:
        for way in WAYS:
            left = await place.see(Death(way=way, under_way=under_way, is_late=True))
            assert len(left.unrecorded) == 1
            assert left.problems()


async def test_what_may_be_a_session_of_the_living_is_left_to_it(tmp_path: Path) -> None:
    """Where a living process is creating just such a session, those that the dead may have created
    are listed, and none is closed.
    """
    async with scene(tmp_path, backend="ibm_fez") as (place, _):
        listed = 0
        for count in FIRST_CREATE:
            await place.kill(count)
            listed += len(await place.reap())
        assert listed == place.states["intent", "open"] >= 5, place.states
