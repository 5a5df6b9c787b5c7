"""The statements on a real server in virtual time: each by itself, and under the model of leases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from qsessions.ledger.database import Database
from tests.support.database_checks import DatabaseChecks, Time
from tests.support.lease_machine import LeaseMachine
from tests.support.lease_world import World
from tests.support.virtual_postgres import VirtualPostgres


class TestPostgresDatabase(DatabaseChecks):
    """The database in PostgreSQL does what it should."""

    @pytest.fixture
    def make(self, url: str) -> Callable[[Time], Database]:
        """Return what makes a database."""
        return lambda time: VirtualPostgres(url, time)


def test_the_model_of_leases_on_postgresql(url: str) -> None:
    """No order of faults breaks an invariant on the real statements either."""

    class PostgresLeaseMachine(LeaseMachine):
        """The actions on a database in PostgreSQL."""

        def database(self, world: World) -> Database:
            """Return the database, by the world's time."""
            self.postgres = VirtualPostgres(url, lambda: world.now)
            return self.postgres

        def teardown(self) -> None:
            """Close the connection, too."""
            try:
                super().teardown()
            finally:
                self.postgres._writing.drop()

    run_state_machine_as_test(
        PostgresLeaseMachine,
        settings=settings(
            deadline=None,
            max_examples=20,
            stateful_step_count=20,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
