"""The rules of leases, with more faults at a time than tests/unit has time for."""

from __future__ import annotations

import pytest

from tests.support.lease_model import BrokenInvariant, Faults, Model, Rules, search


@pytest.mark.parametrize(
    ("faults", "reapers"),
    [
        (Faults(pauses=1, outages=1), 1),
        (Faults(losses=1, outages=1), 1),
        (Faults(losses=2), 1),
        (Faults(losses=1, pauses=2), 1),
        (Faults(losses=1, deaths=1, reaper_pauses=1), 1),
        (Faults(pauses=1), 2),
        (Faults(pauses=1, reaper_pauses=1), 1),
        (Faults(deaths=1, outages=1), 2),
    ],
    ids=repr,
)
def test_no_order_of_more_faults_breaks_an_invariant(faults: Faults, reapers: int) -> None:
    """A session of a good lease is never ended by another, an orphan is ended in time, and nothing
    recorded is lost, whatever comes in whatever order.
    """
    assert search(Model(Rules()), faults, reapers=reapers) > 10_000


def test_an_outage_beside_a_slow_reaper_ends_nobodys_session() -> None:
    """A process that renews its lease whenever the database takes it keeps its session, though a
    reaper is paused during the outage.
    """
    model = Model(Rules(), is_on_schedule=True)
    assert search(model, Faults(outages=1, reaper_pauses=1)) > 10_000


@pytest.mark.parametrize("rules", [Rules(delay=1), Rules(pause_begins_anew=False)], ids=repr)
def test_what_a_slow_reaper_needs(rules: Rules) -> None:
    """If the delay is less than two heartbeats, or a pause doesn't count, an outage between two looks
    of a reaper can end the session of a process that renews its lease whenever the database takes it.
    """
    with pytest.raises(BrokenInvariant, match="did all it could"):
        search(Model(rules, is_on_schedule=True), Faults(outages=1, reaper_pauses=1))
