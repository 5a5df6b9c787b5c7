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


class Immortal(TestDatabaseLedger):
    """A ledger whose owners never die, and that nothing cuts off."""

    __test__ = False

    async def kill(self, ledger: DatabaseLedger) -> None:
        """Do nothing."""

    async def cut(self, ledger: DatabaseLedger) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_an_orphan_is_not_taken_over_early", "the owner was never taken over"),
        ("test_an_owner_that_is_cut_off_is_told_and_goes_on", "its lease never came to that"),
    ],
)
def test_what_never_comes_fails(name: str, message: str) -> None:
    """A test that waits for something that never comes ends, and says what that was."""
    immortal = Immortal()
    immortal.time = Stepped()
    immortal.world = World(lambda _: MemoryDatabase(immortal.now))
    with pytest.raises(AssertionError, match=message):
        getattr(immortal, name)()


async def test_what_a_ledger_of_ones_own_must_say() -> None:
    """Without how it is opened, killed or cut off, the tests for ledgers say so."""
    plain, leased = LedgerConformance(), LeasedLedgerConformance()
    for missing in (
        plain.open_ledger(),
        plain.kill(None),
        leased.open_ledger(),
        leased.cut(None),
        leased.mend(None),
    ):
        with pytest.raises(NotImplementedError):
            await missing
