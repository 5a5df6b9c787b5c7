"""Tests whose markers set options of the emulator, some of which make no sense."""

from __future__ import annotations

import pytest

from qsessions import BadRequest, RateLimited, SessionClient
from qsessions.emulator import Emulator, Fault
from qsessions.testing.threaded import ThreadedEmulator

pytestmark = pytest.mark.qsessions(speed=0, seed=3)
THROTTLED = Fault(kind="answer", status=429, nth=1, operations=["get"], retry_after=900)


@pytest.mark.qsessions(plan="open", seed=4)
def test_options_of_both_markers(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """The options of both markers hold, and the nearest comes first."""
    before = qsessions_emulator.now()
    with pytest.raises(BadRequest):
        qsessions_sync_client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    assert qsessions_emulator.now() == before
    assert qsessions_emulator.advance(60) == before + 60
    assert qsessions_emulator.api_key == Emulator(seed=4).api_key


@pytest.mark.qsessions(partner=True, faults=[THROTTLED])
def test_faults(qsessions_sync_client: SessionClient) -> None:
    """Faults, and a partner's time limits, are options as well."""
    session = qsessions_sync_client.create(
        mode="batch", backend="ibm_fez", interactive_ttl=60, active_ttl=60, max_ttl=60
    )
    with pytest.raises(RateLimited):
        qsessions_sync_client.get(session.id)
    qsessions_sync_client.close(session.id)


@pytest.mark.qsessions(sped=2)
def test_no_such_option(qsessions_emulator: ThreadedEmulator) -> None:
    """There is no such option."""


@pytest.mark.qsessions(plan="free")
def test_no_such_plan(qsessions_emulator: ThreadedEmulator) -> None:
    """The option has no such value."""


@pytest.mark.qsessions("open")
def test_no_name(qsessions_emulator: ThreadedEmulator) -> None:
    """The option has no name."""


def test_too_late(qsessions_shared_emulator: ThreadedEmulator) -> None:
    """The emulator runs already."""


def test_of_both(
    qsessions_shared_emulator: ThreadedEmulator, qsessions_emulator: ThreadedEmulator
) -> None:
    """The options are for the test's own emulator, beside the one that all share."""
