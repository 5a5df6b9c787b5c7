"""What every test runs in: a loop that must not be blocked, and a home of its own."""

import os
import time
from pathlib import Path

import pytest
from blockbuster import BlockBuster, BlockingError


async def test_the_detector_can_be_turned_off(blockbuster: BlockBuster) -> None:
    """A test may allow itself to block the event loop."""
    blockbuster.deactivate()
    time.sleep(0)  # noqa: ASYNC251 - it is the case


@pytest.mark.parametrize("time_around", ["first", "second"])
async def test_what_blocks_the_loop_fails(time_around: str) -> None:
    """A call that blocks the event loop raises, in every test but the one that allowed it."""
    with pytest.raises(BlockingError):
        time.sleep(0)  # noqa: ASYNC251 - it is the case


@pytest.mark.parametrize("time_around", ["first", "second"])
def test_a_home_of_its_own(home: Path, time_around: str) -> None:
    """Every test finds an empty home folder, and nothing of what the developer has set."""
    assert Path.home() == home
    assert list(home.iterdir()) == []
    (home / "left.txt").write_text("by an earlier test", encoding="utf-8")
    assert not {"QISKIT_IBM_TOKEN", "IAM_URL", "XDG_STATE_HOME", "https_proxy"} & os.environ.keys()
