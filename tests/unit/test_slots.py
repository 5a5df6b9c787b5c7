"""How many requests there are at a time, and that no place is lost."""

from __future__ import annotations

import asyncio

from qsessions.http.slots import Slots
from tests.support.leaks import loop_steps
from tests.support.tables import table


async def hold(slots: Slots, order: list[int], number: int, end: asyncio.Event) -> None:
    """Hold a place until the end."""
    if not slots.take():
        await slots.wait()
    try:
        order.append(number)
        await end.wait()
    finally:
        slots.give_back()


async def test_places_are_given_in_order() -> None:
    """Whoever has waited longest gets the place that comes back, and a late comer never first."""
    slots, end, order = Slots(2), asyncio.Event(), list[int]()
    tasks = [asyncio.create_task(hold(slots, order, number, end)) for number in range(5)]
    await loop_steps(3)
    assert order == [0, 1]
    slots.give_back()
    assert not slots.take()
    await loop_steps(3)
    assert order == [0, 1, 2]
    end.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


@table("comes", ["before the place", "in the same moment", "before the place, unseen"])
async def test_no_place_is_lost_by_a_cancellation(comes: str) -> None:
    """A place that a cancelled task waited for, or was just given, goes to the next one."""
    slots, end, order = Slots(1), asyncio.Event(), list[int]()
    assert slots.take()
    first, second = (asyncio.create_task(hold(slots, order, n, end)) for n in (1, 2))
    await loop_steps(3)
    if comes == "in the same moment":
        slots.give_back()
    first.cancel()
    if comes == "before the place":
        await loop_steps(3)
    if comes != "in the same moment":
        slots.give_back()
    await loop_steps(3)
    assert order == [2]
    end.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert slots.take()
