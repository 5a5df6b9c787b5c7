"""The rules of leases, in every order of what owners, reapers, the database and the service do.

tests/exhaustive/test_lease_model.py has more faults at a time.
"""

from __future__ import annotations

import pytest

from tests.support.lease_model import BrokenInvariant, Faults, Model, Rules, search


@pytest.mark.parametrize(
    ("faults", "reapers"),
    [
        (Faults(deaths=1), 2),
        (Faults(deaths=1, outages=1), 1),
        (Faults(pauses=1, losses=1), 1),
        (Faults(deaths=1, jumps=1), 1),
    ],
    ids=repr,
)
def test_no_order_of_faults_breaks_an_invariant(faults: Faults, reapers: int) -> None:
    """A session of a good lease is never ended by another, an orphan is ended in time, and nothing
    recorded is lost, whatever comes in whatever order.
    """
    assert search(Model(Rules()), faults, reapers=reapers) > 1000


def test_the_clock_of_a_reaper_may_be_fast() -> None:
    """A reaper whose clock goes at twice the pace ends no session of a good lease."""
    assert search(Model(Rules(), pace=2), Faults(pauses=1, deaths=1)) > 1000


@pytest.mark.parametrize("faults", [Faults(outages=1), Faults(outages=1, jumps=1)], ids=repr)
def test_an_outage_ends_nobodys_session(faults: Faults) -> None:
    """A process that renews its lease whenever the database takes it keeps its session, however long
    nobody could, and whatever the reaper has seen of it.
    """
    assert search(Model(Rules(), is_on_schedule=True), faults) > 1000


TAKEN = "a lease is taken over of a process that did all it could"
GOOD = "a lease is taken over that is good"
ENDED = "a session is ended whose owner's lease is good"
UNDER_WAY = "a request is under way that was sent under a good lease"
LOST = "a recorded session is lost"
WAITS = "an orphan is not ended"


@pytest.mark.parametrize(
    ("model", "faults", "what"),
    [
        (Model(Rules(delay=0)), Faults(pauses=1), UNDER_WAY),
        (Model(Rules(takes_what_it_saw=False)), Faults(pauses=1), GOOD),
        (Model(Rules(write_comes_first=False), is_on_schedule=True), Faults(outages=1), TAKEN),
        (Model(Rules(failure_begins_anew=False), is_on_schedule=True), Faults(outages=1), TAKEN),
        (Model(Rules(seen_goes_on=False)), Faults(deaths=1), WAITS),
        (Model(Rules(sees_itself=False), is_on_schedule=True), Faults(jumps=1), TAKEN),
        (Model(Rules(sees_itself=False), is_on_schedule=True), Faults(outages=1), TAKEN),
        (Model(Rules(database_agrees=False), pace=2), Faults(pauses=1), UNDER_WAY),
        (Model(Rules(epoch_is_checked=False)), Faults(pauses=1), ENDED),
        (Model(Rules(late_records_are_kept=False)), Faults(pauses=1), LOST),
        (Model(Rules(lost_answers_count=False)), Faults(pauses=1, losses=1), ENDED),
        (Model(Rules(new_owner_shows_nothing=False)), Faults(pauses=1, losses=1), ENDED),
        (Model(Rules(newest_record_stays=False)), Faults(losses=1), LOST),
        (Model(Rules(id_is_compared=False)), Faults(pauses=1), LOST),
        (Model(Rules(session_goes_first=False)), Faults(deaths=1), LOST),
    ],
    ids=str,
)
def test_each_rule_is_needed(model: Model, faults: Faults, what: str) -> None:
    """Without any one of the rules there is an order in which an invariant breaks."""
    with pytest.raises(BrokenInvariant, match=what):
        search(model, faults)
