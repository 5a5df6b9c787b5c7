"""Tests whose markers set options of the emulator, some of which make no sense."""

from __future__ import annotations

import pytest

from qsessions import (
    AsyncSessionClient,
    BadRequest,
    CallTimeout,
    RateLimited,
    RetryPolicy,
    ServerError,
    SessionClient,
)
from qsessions.emulator import Emulator, Fault
from qsessions.testing.threaded import ThreadedEmulator

pytestmark = pytest.mark.qsessions(speed=0, seed=3)
THROTTLED = Fault(kind="answer", status=429, nth=1, operations=["get"], retry_after=900)

BUSY = Fault(kind="answer", status=503, operations=["versions"])


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


@pytest.mark.qsessions(retry=RetryPolicy(max_attempts=1), faults=[BUSY], application="mine/1")
def test_options_of_the_client(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """Options of the client are the client's."""
    with pytest.raises(ServerError):
        qsessions_sync_client.versions()
    (request,) = qsessions_emulator.requests
    assert request.headers["user-agent"].endswith("mine/1")


@pytest.mark.qsessions(real_time=True, speed=1000)
def test_real_time(
    qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator
) -> None:
    """In real time a wait leaves the emulator's time alone, which goes on at its own speed."""
    session = qsessions_sync_client.create(mode="batch", backend="ibm_fez", max_ttl="8h")
    before = qsessions_emulator.now()
    with pytest.raises(CallTimeout):
        qsessions_sync_client.attach(session.id).wait_until("closed", timeout=0.1)
    assert qsessions_emulator.now() - before >= 100
    qsessions_sync_client.close(session.id)


@pytest.mark.qsessions(sped=2)
def test_no_such_option(qsessions_emulator: ThreadedEmulator) -> None:
    """There is no such option."""


@pytest.mark.qsessions(plan="free")
def test_no_such_plan(qsessions_emulator: ThreadedEmulator) -> None:
    """The option has no such value."""


@pytest.mark.qsessions(retry="often")
def test_no_such_value_for_a_client(qsessions_sync_client: SessionClient) -> None:
    """A client's option has no such value."""


@pytest.mark.qsessions(timeout=-1)
def test_no_such_value_for_an_asynchronous_client(qsessions_client: AsyncSessionClient) -> None:
    """An asynchronous client's option has no such value, which is told before it is used."""


@pytest.mark.qsessions(ledger="local")
def test_no_ledger(qsessions_client: AsyncSessionClient) -> None:
    """What a ledger writes takes real time."""


@pytest.mark.qsessions("open")
def test_no_name(qsessions_emulator: ThreadedEmulator) -> None:
    """The option has no name."""


def test_too_late(qsessions_shared_emulator: ThreadedEmulator) -> None:
    """The emulator runs already."""


def test_of_both(
    qsessions_shared_emulator: ThreadedEmulator, qsessions_emulator: ThreadedEmulator
) -> None:
    """The options are for the test's own emulator, beside the one that all share."""
