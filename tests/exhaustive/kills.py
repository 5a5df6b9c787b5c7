"""As many deaths as one wants, of every kind: `python -m tests.exhaustive.kills 2000`, which prints
what became of them.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random

from tests.programs.killed import WAYS, Death
from tests.support.kills import Figures, kills
from tests.support.stage import stage

SIZES = {1: 60, 20: 32, 200: 8}
_MOST_TURNS = 12
_MOST_INSTRUCTIONS = 400
# So many share a service and a ledger.
_TOGETHER = 100


def deaths(count: int) -> Iterator[tuple[Death, bool]]:
    """Return so many deaths, each with whether it is in a child of an owner; the same each time, and
    each way as often as the others.
    """
    random = Random(1)  # noqa: S311 - they are to be the same each time
    for _, way in zip(range(count), cycle(WAYS), strict=False):
        (under_way,) = random.choices(list(SIZES), list(SIZES.values()))
        client = random.choice(["async", "sync"])
        # A third at the very return, the others a little later.
        later = random.choice(["", "turns", "instructions"])
        death = Death(
            way=way,
            client=client,
            call=random.choice(["create", "open"]),
            under_way=under_way,
            nth=random.choice([1, under_way, random.randint(1, under_way)]),
            turns=random.randint(1, _MOST_TURNS) if (later, client) == ("turns", "async") else 0,
            instructions=random.randint(1, _MOST_INSTRUCTIONS) if later == "instructions" else 0,
            is_forked=random.random() < 0.5,
        )
        yield death, random.random() < 0.5


async def many(count: int, directory: Path) -> Figures:
    """Have so many processes die, and give what became of it."""
    figures = Figures()
    planned = list(deaths(count))
    with stage(is_measured=False) as processes:
        for first in range(0, count, _TOGETHER):
            async with kills(processes, directory / str(first)) as place:
                for death, by_owner in planned[first : first + _TOGETHER]:
                    figures.add(await place.see(death, by_owner=by_owner))
    return figures


def shown(figures: Figures) -> str:
    """Return the figures as text."""
    lines = (
        f"{way:<28}" + "".join(f"{figures.deaths[way, size]:>8}" for size in SIZES) for way in WAYS
    )
    return "\n".join(
        [
            f"{'':<28}" + "".join(f"{size:>8}" for size in SIZES) + "  under way",
            *lines,
            f"{figures.deaths.total()} deaths, {figures.made} sessions, of which {figures.given} had been given when their process died",
            f"open after reap: {figures.in_flight}, each of them of a request in flight; records without an id: {figures.intents}",
            f"problems: {len(figures.problems)}",
            *figures.problems,
        ]
    )


def main(count: int) -> None:
    """Print what became of so many deaths."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        figures = asyncio.run(many(count, Path(directory)))
    print(shown(figures))
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(bool(figures.problems))


if __name__ == "__main__":
    main(int(sys.argv[1]))
