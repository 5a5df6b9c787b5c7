"""The ledger in PostgreSQL under the tests that are there for anybody's ledger."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qsessions import PostgresLedger
from qsessions.testing.ledger import LeasedLedgerConformance
from tests.fleet.conftest import kill
from tests.programs import fleet
from tests.support.postgres import Cluster
from tests.support.silent_proxy import SilentProxy
from tests.support.threaded import Threaded, threaded


class TestPostgresLedger(LeasedLedgerConformance):
    """Each of its ledgers has a proxy between it and the server."""

    @pytest.fixture(autouse=True)
    def _begin(self, server: Cluster, database: str) -> Any:
        self.server, self.database = server, database
        self.ways: dict[PostgresLedger, Threaded[SilentProxy]] = {}
        self.contexts: list[Any] = []
        yield
        for ledger in self.ways:
            asyncio.run(self.kill(ledger))
        for context in self.contexts:
            context.__exit__(None, None, None)

    async def open_ledger(self) -> PostgresLedger:
        """Return a ledger in the test's database."""
        context = threaded(SilentProxy(self.server.port))
        proxy = await asyncio.to_thread(context.__enter__)
        self.contexts.append(context)
        ledger = fleet.ledger_of(self.server.url(self.database, proxy.server.port))
        self.ways[ledger] = proxy
        return ledger

    async def kill(self, ledger: PostgresLedger) -> None:
        """End its thread."""
        await kill(ledger)

    async def cut(self, ledger: PostgresLedger) -> None:
        """Let nothing through."""
        await asyncio.to_thread(self.ways[ledger].ask, SilentProxy.silence)

    async def mend(self, ledger: PostgresLedger) -> None:
        """Let all through."""
        await asyncio.to_thread(self.ways[ledger].ask, SilentProxy.speak)
