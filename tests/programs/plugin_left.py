"""Tests of which some leave a session open, each on an emulator of its own."""

from __future__ import annotations

from typing import Any

import pytest

from qsessions import SessionClient
from qsessions.testing.threaded import ThreadedEmulator

WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}


def test_before(qsessions_sync_client: SessionClient) -> None:
    """Nothing is left."""


def test_left(qsessions_sync_client: SessionClient, qsessions_emulator: ThreadedEmulator) -> None:
    """An active session is left."""
    session = qsessions_sync_client.create(**WANTED)
    qsessions_emulator.submit_job(session.id, seconds=5)


def test_failed_and_left(qsessions_sync_client: SessionClient) -> None:
    """The test fails, and a session is left."""
    qsessions_sync_client.create(**WANTED)
    pytest.fail("it broke")


@pytest.mark.qsessions(allow_open=True)
def test_allowed(qsessions_sync_client: SessionClient) -> None:
    """A session is left on purpose."""
    qsessions_sync_client.create(**WANTED)
