"""Tests of which some leave a session open on the emulator that they share.

A run deselects all but one of those whose name begins with `test_last`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qsessions import SessionClient

WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}


@pytest.fixture(scope="module")
def lasting(qsessions_shared_sync_client: SessionClient) -> Iterator[None]:
    """Keep a session open for the tests of this module."""
    session = qsessions_shared_sync_client.create(**WANTED)
    yield
    qsessions_shared_sync_client.close(session.id)


@pytest.fixture
def failing() -> Iterator[None]:
    """Fail after the test."""
    yield
    raise ValueError("it broke")


@pytest.fixture
def own(qsessions_shared_sync_client: SessionClient) -> Iterator[None]:
    """Keep a session open for one test."""
    session = qsessions_shared_sync_client.create(**WANTED)
    yield
    qsessions_shared_sync_client.close(session.id)


@pytest.fixture(scope="session")
def forgotten(qsessions_shared_sync_client: SessionClient) -> None:
    """Open a session and never close it."""
    qsessions_shared_sync_client.create(**WANTED)


@pytest.mark.usefixtures("lasting", "own")
def test_a_lasting_one_is_not_left() -> None:
    """What the fixtures opened, they close."""


def test_left(qsessions_shared_sync_client: SessionClient) -> None:
    """A session is left."""
    qsessions_shared_sync_client.create(**WANTED)


@pytest.mark.qsessions(allow_open=True)
def test_allowed(qsessions_shared_sync_client: SessionClient) -> None:
    """A session is left on purpose."""
    qsessions_shared_sync_client.create(**WANTED)


@pytest.mark.usefixtures("lasting")
def test_after() -> None:
    """Nothing is left."""


@pytest.mark.usefixtures("failing")
def test_left_beside_another_error(qsessions_shared_sync_client: SessionClient) -> None:
    """A session is left, and a fixture fails."""
    qsessions_shared_sync_client.create(**WANTED)


def test_without_the_fixtures() -> None:
    """Nothing of the plugin is used."""


def test_last_left(qsessions_shared_sync_client: SessionClient) -> None:
    """The last test leaves a session."""
    qsessions_shared_sync_client.create(**WANTED)


@pytest.mark.qsessions(allow_open=True)
def test_last_allowed(qsessions_shared_sync_client: SessionClient) -> None:
    """The last test leaves a session on purpose."""
    qsessions_shared_sync_client.create(**WANTED)


@pytest.mark.qsessions(allow_open=True)
@pytest.mark.usefixtures("forgotten")
def test_last_forgotten() -> None:
    """A fixture leaves a session, which the last test's marker doesn't allow."""
