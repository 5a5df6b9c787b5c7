"""What every test has at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from qsessions import AsyncSessionClient, Clock, IBMCloudAuth, ServiceCRN
from qsessions.emulator import Emulator
from tests.manual_clock import ManualClock


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail any test in which something blocks the event loop."""
    with blockbuster_ctx() as detector:
        yield detector


@pytest.fixture(autouse=True)
def _no_credentials_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QSESSIONS_BASE_URL", "QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE", "IAM_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def time() -> ManualClock:
    """Give the time of the test, which client and emulator share."""
    return ManualClock()


@pytest.fixture
async def emulator(time: ManualClock) -> AsyncIterator[Emulator]:
    """Give a running emulator on the test's time."""
    async with Emulator(clock=time.time, seed=1) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator: Emulator, time: ManualClock) -> AsyncIterator[AsyncSessionClient]:
    """Give a client of the emulator, on the test's time."""
    async with client_of(emulator, time.clock) as client:
        yield client


def client_of(emulator: Emulator, clock: Clock) -> AsyncSessionClient:
    """Make a client of an emulator."""
    auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=clock), ServiceCRN(emulator.crn)]
    return AsyncSessionClient(auth, base_url=emulator.url, clock=clock)
