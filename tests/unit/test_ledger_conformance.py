"""The ledgers of the package, and the one of the docs, under the tests that are there for anybody's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qsessions import LeaseTerms, LocalLedger
from qsessions.ledger.database import DatabaseLedger
from qsessions.testing.ledger import LeasedLedgerConformance, LedgerConformance
from tests.support.lease_world import Link, World
from tests.support.manual_clock import Stepped
from tests.support.memory_database import MemoryDatabase


class TestLocalLedger(LedgerConformance):
    """The files."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.place = tmp_path / "ledger"

    async def open_ledger(self) -> LocalLedger:
        """Return a ledger in the test's folder."""
        return LocalLedger(self.place)

    async def kill(self, ledger: LocalLedger) -> None:
        """Let go of the locks, as the end of a process does."""
        for place in ledger._places:
            if place._file is not None:
                place._file._release()


class TestDatabaseLedger(LeasedLedgerConformance):
    """The leases, with a database in memory, in virtual time."""

    @pytest.fixture(autouse=True)
    def _begin(self) -> None:
        self.time = Stepped()
        self.world = World(lambda _: MemoryDatabase(lambda: self.time.now))

    async def open_ledger(self) -> DatabaseLedger:
        """Return a ledger in the test's database."""
        return DatabaseLedger(Link(self.world), LeaseTerms(), self.time)

    async def kill(self, ledger: DatabaseLedger) -> None:
        """Have it write no more."""
        if ledger._writer is not None:
            ledger._writer.cancel()
            await asyncio.wait({ledger._writer})

    async def cut(self, ledger: DatabaseLedger) -> None:
        """Let nothing through."""
        self._link(ledger).is_cut = True

    async def mend(self, ledger: DatabaseLedger) -> None:
        """Let all through."""
        self._link(ledger).is_cut = False

    async def wait(self, seconds: float) -> None:
        """Move time."""
        await self.time.step(seconds)

    def now(self) -> float:
        """Return the test's time."""
        return self.time.now

    def _link(self, ledger: DatabaseLedger) -> Link:
        link = ledger._database
        assert isinstance(link, Link)
        return link
