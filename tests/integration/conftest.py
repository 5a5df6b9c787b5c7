"""What the tests of the command line have at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from qsessions.emulator import Emulator
from tests.support import shell as shell_module
from tests.support.shell import Shell


@pytest.fixture(scope="session", autouse=True)
def commands_may_block(detector: BlockBuster) -> None:
    """Allow the event loop of a command to block: it serves nobody but the command."""
    for function in detector.functions.values():
        function.can_block_in(shell_module.__file__, shell_module.run_here.__name__)


@pytest.fixture
async def service() -> AsyncIterator[Emulator]:
    """Yield a running emulator on real time."""
    async with Emulator() as service:
        yield service


@pytest.fixture
def shell(service: Emulator, tmp_path: Path) -> Shell:
    """Return a shell whose environment leads to the emulator."""
    return Shell(service.env(), tmp_path)
