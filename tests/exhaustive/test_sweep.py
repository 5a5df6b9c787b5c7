"""The long form of tests/integration/test_sweep.py."""

from __future__ import annotations

import pytest

from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.sweeps import BLOCKS, close_at, sweep_of

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
async def test_a_block_may_be_cancelled_at_every_step(*, block: str, recorded: bool) -> None:
    """At whatever suspension and round of the event loop, a cancelled block leaves nothing open, no
    task, and a client that works.
    """
    async with sweep_of(block) as sweep:
        await sweep.cancel_once(every=1, recorded=recorded)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
async def test_a_block_may_be_cancelled_twice_at_every_step(*, block: str, recorded: bool) -> None:
    """A second cancellation, at each suspension that is left, changes nothing of that."""
    async with sweep_of(block) as sweep:
        await sweep.cancel_twice(every=2, recorded=recorded)


@pytest.mark.parametrize("stride", [1, 7])
async def test_a_client_may_be_closed_at_every_step(
    stride: int, emulator: Emulator, time: ManualClock
) -> None:
    """Closed at any moment while tasks open one session after the other, a client leaves none open
    and no create in the ledger.
    """
    await close_at(range(0, 60 * stride, stride), emulator, time)
