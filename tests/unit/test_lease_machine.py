"""The model of leases, run on the ledger itself with a database in memory, in virtual time."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from qsessions.ledger.database import Database
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
