"""Pages of workloads, followed while sessions come and go."""

from __future__ import annotations

from random import Random

import attrs
from hypothesis import given, strategies as st

from qsessions.emulator.service.listing import WorkloadQuery, cut_page
from qsessions.emulator.service.state import ServiceState
from qsessions.emulator.service.values import Ttls

TTLS = Ttls(600, 60, 600)
events = st.lists(st.one_of(st.just("create"), st.integers(0, 30)), max_size=12)


@given(
    count=st.integers(0, 15),
    limit=st.integers(1, 5),
    newest_first=st.booleans(),
    between=st.lists(events, max_size=8),
)
def test_following_pages_misses_nothing(
    count: int, limit: int, newest_first: bool, between: list[list[str | int]]
) -> None:
    """Whatever is made and closed between two pages, what matches all the time is shown once, and
    in order.
    """
    machine = ServiceState(random=Random(1), backends=["b"])  # noqa: S311 - nothing here is secret
    made = [
        machine.create_session(0, mode="batch", backend=None, ttls=TTLS).id for _ in range(count)
    ]
    lasting = set(made)
    query = WorkloadQuery(limit=limit, newest_first=newest_first, statuses=frozenset({"pending"}))
    seen: list[int] = []
    shown: set[str] = set()
    steps = iter(between)
    while True:
        page = cut_page(machine.workloads(0), query)
        assert len(page.workloads) <= limit
        assert page.total == sum(
            session.state == "open" for session in machine.sessions(0).values()
        )
        seen += [workload.serial for workload in page.workloads]
        shown |= {workload.id for workload in page.workloads}
        if page.next is None:
            break
        query = attrs.evolve(query, following=int(page.next, 16))
        for step in next(steps, []):
            if step == "create":
                made.append(machine.create_session(0, mode="batch", backend=None, ttls=TTLS).id)
            elif int(step) < len(made):
                machine.close_session(0, made[int(step)])
                lasting.discard(made[int(step)])
    assert seen == sorted(set(seen), reverse=newest_first)
    assert lasting <= shown
