"""The model of leases, run on the ledger itself with a database in memory, in virtual time; and that
database.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from qsessions.ledger.database import Database
from tests.support.database_checks import DatabaseChecks, Time
from tests.support.lease_machine import LeaseMachine
from tests.support.lease_world import World
from tests.support.memory_database import MemoryDatabase


class MemoryLeaseMachine(LeaseMachine):
    """The actions on a database in memory."""

    def database(self, world: World) -> Database:
        """Return the database, by the world's time."""
        return MemoryDatabase(lambda: world.now)


MemoryLeaseMachine.TestCase.settings = settings(
    deadline=None, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
TestLeases = MemoryLeaseMachine.TestCase


class TestMemoryDatabase(DatabaseChecks):
    """The database in memory does what that in PostgreSQL does."""

    @pytest.fixture
    def make(self) -> Callable[[Time], Database]:
        """Return what makes a database."""
        return MemoryDatabase
