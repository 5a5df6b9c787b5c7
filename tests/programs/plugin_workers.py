"""Tests for several workers of xdist. Each writes its worker and the instance of its emulator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qsessions import SessionClient
from qsessions.testing.threaded import ThreadedEmulator

WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}


@pytest.mark.parametrize("number", range(8))
def test_alone(
    number: int,
    qsessions_shared_sync_client: SessionClient,
    qsessions_shared_emulator: ThreadedEmulator,
) -> None:
    """No worker sees the sessions of another."""
    session = qsessions_shared_sync_client.create(**WANTED)
    assert [other.id for other in qsessions_shared_emulator.open_sessions] == [session.id]
    qsessions_shared_sync_client.close(session.id)
    seen = f"{os.environ['PYTEST_XDIST_WORKER']} {qsessions_shared_emulator.crn}"
    Path(f"seen-{number}").write_text(seen, encoding="utf-8")


def test_left(qsessions_shared_sync_client: SessionClient) -> None:
    """A session is left open."""
    qsessions_shared_sync_client.create(**WANTED)
