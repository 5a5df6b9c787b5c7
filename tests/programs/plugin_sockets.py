"""Tests with the plugin's fixtures beside pytest-socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qsessions import AsyncSessionClient, SessionClient

WANTED: Any = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}


def test_own(qsessions_sync_client: SessionClient) -> None:
    """Use an emulator of the test's own."""
    qsessions_sync_client.close(qsessions_sync_client.create(**WANTED).id)


def test_own_async(qsessions_client: AsyncSessionClient) -> None:
    """Use it on an event loop."""

    async def use() -> None:
        await qsessions_client.close((await qsessions_client.create(**WANTED)).id)

    asyncio.run(use())


@pytest.mark.enable_socket
def test_marked(qsessions_sync_client: SessionClient) -> None:
    """Use one where the test allows sockets."""
    test_own(qsessions_sync_client)


def test_fixture(socket_enabled: None, qsessions_sync_client: SessionClient) -> None:
    """Use one where a fixture allows sockets."""
    test_own(qsessions_sync_client)


@pytest.mark.enable_socket
def test_shared_first(qsessions_shared_sync_client: SessionClient) -> None:
    """Use the shared emulator where the test allows sockets."""
    test_own(qsessions_shared_sync_client)


def test_shared_next(qsessions_shared_sync_client: SessionClient) -> None:
    """Use it where nothing says so."""
    test_own(qsessions_shared_sync_client)


def test_without() -> None:
    """Use no emulator."""
