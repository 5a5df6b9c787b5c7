"""Thousands of watched sessions: the list of workloads shows which have started and ended."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections import Counter
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

import pytest

from qsessions import AsyncSessionClient, ClientClosed, Mode, QSessionsError, Session
from qsessions.api.messages import Progress
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.clients import Against
from tests.support.fault_server import hang
from tests.support.fleet import AWAY, FIRST, ListedFleet, Watcher, all_of, ids
from tests.support.manual_clock import Stepped, settled

# How many seconds a sweep takes, and how soon a change of the list is seen.
SWEEP_S, SEEN_S = 13.0, 15.0
WORKLOADS = "/api/v1/workloads"


def open_fleet(stepped: Stepped, count: int, *, latency: float = 0.2) -> ListedFleet:
    """Return so many open sessions, which are listed and answer after a while."""
    fleet = ListedFleet(stepped, all_of(ids(count), ["open"]))
    fleet.latency = latency
    return fleet


async def test_a_sweep_over_ten_thousand_takes_two_hundred_requests(stepped: Stepped) -> None:
    """Pages of 50 show all sessions in 13 s, at the watch's rate and evenly, and the rest of the
    rate reads sessions.
    """
    fleet = open_fleet(stepped, 10_000)
    watcher = Watcher(fleet.watch(), stepped)
    await stepped.step(80)
    fleet.pages.clear()
    fleet.asked.clear()
    await stepped.step(4 * SWEEP_S)
    assert 190 <= len(fleet.pages) / 4 <= 210
    begun = fleet.begun()
    assert len(begun) == pytest.approx(20 * 4 * SWEEP_S, rel=0.01)
    assert min(after - before for before, after in pairwise(begun)) >= 1 / 20 - 1e-6
    assert fleet.most <= 20
    await watcher.leave()


async def test_ends_and_starts_are_seen_within_15_seconds(stepped: Stepped) -> None:
    """Of 10,000 sessions at 20 requests a second each end and each first start is seen within 15 s,
    whether the session was read before or not.
    """
    fleet = open_fleet(stepped, 10_000, latency=0.3)
    fleet.modes = dict.fromkeys(ids(10_000)[::3], "batch")
    watcher = Watcher(fleet.watch(), stepped)
    await stepped.step(100)
    chance = random.Random(3)  # noqa: S311 - no secret
    changed: dict[tuple[str, str], float] = {}
    for session_id in chance.sample(ids(10_000), 60):
        state = chance.choice(["active", "closed"])
        fleet.set(session_id, state)
        changed[session_id, state] = stepped.now
        await stepped.step(chance.random())
    await stepped.step(SEEN_S)
    late = {
        change: watcher.times.get(change)
        for change, at in changed.items()
        if not watcher.times.get(change, 1e9) - at <= SEEN_S
    }
    assert late == {}
    await watcher.leave()


async def test_each_session_is_read_in_its_turn(stepped: Stepped) -> None:
    """The rest of the rate reads all sessions one after another, so that activity and usage are
    seen too.
    """
    fleet = open_fleet(stepped, 200)
    watcher = Watcher(fleet.watch(rate=4), stepped)
    await stepped.step(200)
    fleet.set("s7", "active")
    await stepped.step(60)
    fleet.set("s7", "inactive")
    await stepped.step(60)
    assert {("s7", "active"), ("s7", "inactive")} <= watcher.times.keys()
    # 4 pages in 13 s leave 3.6 reads a second.
    longest = {
        session_id: max(after - before for before, after in pairwise(fleet.times(session_id)))
        for session_id in ids(200)
    }
    assert max(longest.values()) <= 200 / 3.6 + 2
    await watcher.leave()


async def test_turns_go_on_however_much_else_there_is_to_read(stepped: Stepped) -> None:
    """At least every eighth request reads the session that was unread for longest, even where the
    list has each session change all the time.
    """
    fleet = open_fleet(stepped, 100)
    fleet.listed_as = {"s99": "none"}
    watcher = Watcher(fleet.watch(rate=2), stepped)
    for number in range(150):
        status = ["pending", "in_progress"][number % 2]
        fleet.listed_as |= dict.fromkeys(ids(99), status)
        await stepped.step(6)
    # Only its turn reads it.
    assert len(fleet.times("s99")) >= 2
    assert max(after - before for before, after in pairwise(fleet.times("s99"))) <= 100 * 8 / 2
    await watcher.leave()


async def test_few_sessions_need_no_list(stepped: Stepped) -> None:
    """Fewer than 40 are only read one by one, also when there were more before."""
    few = open_fleet(stepped, 39)
    watcher = Watcher(few.watch(), stepped)
    await stepped.step(60)
    assert few.pages == []
    await watcher.leave()

    fleet = open_fleet(stepped, 41)
    watcher = Watcher(fleet.watch(), stepped)
    await stepped.step(60)
    assert len(fleet.pages) > 4
    for session_id in ids(2):
        fleet.set(session_id, "closed")
    await stepped.step(SEEN_S)
    fleet.pages.clear()
    await stepped.step(60)
    assert fleet.pages == []
    for session_id in ids(41):
        fleet.set(session_id, "closed")
    await stepped.step(60)
    await watcher.task
    assert Counter(state for _, state in watcher.seen) == {"open": 41, "closed": 41}


@pytest.mark.parametrize("failure", [AWAY, LookupError("no ticket")], ids=repr)
async def test_a_list_that_fails_ends_no_watch(stepped: Stepped, failure: Exception) -> None:
    """Without a list the sessions are read in turn; it is tried less and less often, and is used
    again once it works.
    """
    fleet = open_fleet(stepped, 200)
    fleet.list_error = failure
    watcher = Watcher(fleet.watch(rate=4), stepped)
    await stepped.step(400)
    assert len(fleet.pages) <= 16
    fleet.set("s5", "active")
    await stepped.step(60)
    assert ("s5", "active") in watcher.times
    fleet.list_error = None
    await stepped.step(600)
    fleet.list_error = failure
    await stepped.step(10)
    fleet.list_error = None
    fleet.set("s8", "closed")
    await stepped.step(20)
    fleet.set("s6", "closed")
    await stepped.step(SEEN_S)
    assert {("s6", "closed"), ("s8", "closed")} <= watcher.times.keys()
    await watcher.leave()


async def test_a_list_that_asks_to_wait_slows_down_all(stepped: Stepped) -> None:
    """A list that was refused with a wait holds up the reads too: the rate is the instance's."""
    fleet = open_fleet(stepped, 100)
    fleet.list_error = QSessionsError("too many")
    fleet.list_error.retry_after = 5.0  # type: ignore[attr-defined]
    watcher = Watcher(fleet.watch(), stepped)
    await stepped.step(4)
    assert len(fleet.begun()) <= 20 * 0.3
    await stepped.step(4)
    assert len(fleet.begun()) >= 20
    await watcher.leave()


async def test_a_session_that_the_list_does_not_have_is_read_in_its_turn(
    stepped: Stepped,
) -> None:
    """It is neither taken for ended nor read again and again."""
    fleet = open_fleet(stepped, 100)
    fleet.listed_as = {"s3": "none", "s4": "none"}
    watcher = Watcher(fleet.watch(rate=4), stepped)
    await stepped.step(200)
    assert len(fleet.times("s3")) <= 200 / (100 / 4) + 1
    fleet.set("s3", "closed")
    await stepped.step(40)
    assert ("s3", "closed") in watcher.times
    # Listed at last, it is as the others.
    fleet.listed_as = {}
    await stepped.step(20)
    fleet.set("s4", "closed")
    await stepped.step(SEEN_S)
    assert ("s4", "closed") in watcher.times
    await watcher.leave()


async def test_one_that_slips_through_between_two_pages_is_read_and_not_lost(
    stepped: Stepped,
) -> None:
    """A session that a sweep misses is read at once. It hasn't changed, and the next sweep has it."""
    fleet = open_fleet(stepped, 1000)
    watcher = Watcher(fleet.watch(rate=8), stepped)
    await stepped.step(160)
    fleet.asked.clear()
    fleet.listed_as = {"s700": "none"}
    await stepped.step(SEEN_S)
    assert len(fleet.times("s700")) >= 1
    fleet.listed_as = {}
    await stepped.step(2 * SWEEP_S)
    fleet.set("s700", "closed")
    await stepped.step(SEEN_S)
    assert ("s700", "closed") in watcher.times
    assert [state for name, state in watcher.seen if name == "s700"] == ["open", "closed"]
    assert len(fleet.times("s700")) <= 3
    await watcher.leave()


@pytest.mark.parametrize("status", ["in_progress", "none", "completed"])
async def test_a_list_that_never_agrees_is_not_believed_for_long(
    stepped: Stepped, status: str
) -> None:
    """Where list and session disagree, the session is read three times for it, then in its turn."""
    fleet = open_fleet(stepped, 200)
    watcher = Watcher(fleet.watch(rate=4), stepped)
    await stepped.step(100)
    fleet.asked.clear()
    fleet.listed_as = {"s1": status}
    await stepped.step(12 * SWEEP_S)
    turns = 12 * SWEEP_S / (200 / 3.6)
    assert 3 + turns - 2 <= len(fleet.times("s1")) <= 3 + turns + 1
    await watcher.leave()


async def test_a_drain_shows_in_the_list(stepped: Stepped) -> None:
    """A session that takes no more jobs, or takes them again, is read soon."""
    fleet = open_fleet(stepped, 400)
    watcher = Watcher(fleet.watch(rate=8), stepped)
    await stepped.step(60)
    for draining, count in (({"s100"}, 2), (set[str](), 3)):
        fleet.draining = draining
        await stepped.step(SEEN_S)
        assert [state for name, state in watcher.seen if name == "s100"] == ["open"] * count
    await watcher.leave()


async def test_what_is_being_read_is_read_again(stepped: Stepped) -> None:
    """Where a page shows a change of a session whose read began before, another read follows."""
    fleet = open_fleet(stepped, 500, latency=0.9)
    watcher = Watcher(fleet.watch(), stepped)
    await stepped.step(30)
    under_way = {name for at, name in fleet.asked if at > stepped.now - 0.9}
    assert len(under_way) > 10
    for name in under_way:
        fleet.set(name, "closed")
    await stepped.step(SEEN_S + 1)
    assert {(name, "closed") for name in under_way} <= watcher.times.keys()
    await watcher.leave()


async def test_the_cost_follows_the_watched_open_sessions(stepped: Stepped) -> None:
    """Neither thousands of ended sessions nor those of others that are older or newer cost a
    page, once the watched ones were found.
    """
    fleet = open_fleet(stepped, 6000)
    names = ids(6000)
    for name in names[:1000]:
        fleet.set(name, "active")
    for name in names[1000:3000]:
        fleet.set(name, "closed")
    watched = names[3000:3100]
    watcher = Watcher(fleet.watch(names=watched, rate=10), stepped)
    for number in range(3000):
        name = f"new{number}"
        fleet.scripts[name] = ["open"]
        fleet.created[name] = FIRST + timedelta(seconds=6500 + number)
    for name in names[3100:]:
        fleet.set(name, "closed")
    await stepped.step(30)
    fleet.pages.clear()
    await stepped.step(4 * SWEEP_S)
    # The batches are looked for now and then.
    assert len(fleet.pages) <= 4 * 3 + 2
    fleet.set(watched[0], "closed")
    await stepped.step(SEEN_S)
    assert (watched[0], "closed") in watcher.times
    await watcher.leave()


async def test_a_list_that_is_full_of_others_is_not_followed_to_its_end(stepped: Stepped) -> None:
    """The first sweep for 60 sessions is cut short after 60 pages. Those beyond are read in their
    turn.
    """
    fleet = open_fleet(stepped, 5000)
    names = ids(5000)
    watched = [*names[:30], *names[-30:]]
    watcher = Watcher(fleet.watch(names=watched, rate=10), stepped)
    await stepped.step(30)
    assert 60 <= len(fleet.pages) <= 68
    fleet.pages.clear()
    await stepped.step(4 * SWEEP_S)
    assert len(fleet.pages) <= 4 * 2 + 2
    fleet.set(names[0], "closed")
    fleet.set(names[-1], "closed")
    await stepped.step(20)
    assert {(names[0], "closed"), (names[-1], "closed")} <= watcher.times.keys()
    await watcher.leave()


async def test_stretches_of_the_list_end_with_their_sessions(stepped: Stepped) -> None:
    """When all sessions of a time are closed, that part of the list is looked at no more."""
    fleet = open_fleet(stepped, 4000)
    watcher = Watcher(fleet.watch(rate=60), stepped)
    await stepped.step(30)
    for name in ids(4000)[100:3900]:
        fleet.set(name, "closed")
    await stepped.step(100)
    assert sum(state == "closed" for _, state in watcher.seen) == 3800
    fleet.pages.clear()
    await stepped.step(4 * SWEEP_S)
    assert len(fleet.pages) <= 4 * 8
    for name in ids(4000):
        fleet.set(name, "closed")
    await stepped.step(60)
    await watcher.task


async def test_sessions_of_one_moment_are_one_stretch(stepped: Stepped) -> None:
    """Where all were created in the same millisecond, the list can't be cut, and all are seen."""
    fleet = open_fleet(stepped, 3000)
    fleet.created = dict.fromkeys(ids(3000), FIRST)
    watcher = Watcher(fleet.watch(rate=10), stepped)
    await stepped.step(40)
    fleet.set("s10", "closed")
    await stepped.step(60 * 0.2 + SEEN_S)
    assert ("s10", "closed") in watcher.times
    await watcher.leave()


async def test_each_session_takes_less_than_2_kb(time: ManualClock) -> None:
    """Beside the `Session` itself, a watched session takes less than 2 KB, after all were read and
    listed, and at any moment before.
    """
    fleet = ListedFleet(cast("Any", time), all_of(ids(10_000), ["open"]))
    sessions = {name: fleet.session(name, "open") for name in ids(10_000)}

    async def get(session_id: str, progress: Progress) -> Session:
        await asyncio.sleep(0)
        return sessions[session_id]

    fleet.get = get  # type: ignore[method-assign]
    gc.collect()
    tracemalloc.start()
    try:
        async with aclosing(fleet.watch(rate=800).changes()) as changes:
            for _ in range(10_000):
                await anext(changes)
            assert len(fleet.pages) > 200
            fleet.pages.clear()
            fleet.queries.clear()
            gc.collect()
            used, peak = (number / 10_000 for number in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert (used < 1000, peak < 2048) == (True, True), (used, peak)


async def test_a_watcher_that_leaves_in_a_sweep_leaves_nothing(stepped: Stepped) -> None:
    """Neither a page nor a read is under way afterwards."""
    fleet = open_fleet(stepped, 500, latency=1.0)
    before = asyncio.all_tasks()
    watcher = Watcher(fleet.watch(), stepped)
    await stepped.step(0.5)
    assert fleet.pages
    await watcher.leave()
    await settled()
    assert (fleet.tasks, stepped.timers, asyncio.all_tasks() - before) == (set(), [], set())


async def test_closing_the_client_ends_a_watch_that_waits_for_a_page(against: Against) -> None:
    """A page that is cancelled with the client ends the watch, as a read does."""
    _, client = await against(hang)
    watching = asyncio.ensure_future(anext(client.watch(ids(100), rate=1)))
    await settled()
    await client.aclose()
    with pytest.raises(ClientClosed):
        await watching


async def test_many_sessions_of_the_emulator(
    emulator: Emulator, client: AsyncSessionClient, time: ManualClock
) -> None:
    """Sessions and batches are followed from open to closed with the list's help."""
    sessions = []
    for number in range(120):
        mode = Mode.BATCH if number % 2 else Mode.DEDICATED
        sessions.append((await client.create(mode=mode, max_ttl="10m")).id)
        time.advance(0.1)
    states: dict[str, list[str]] = {session_id: [] for session_id in sessions}
    async for session_id, snapshot in client.watch(sessions):
        states[session_id].append(str(snapshot.state))
        if states[session_id] == ["open"]:
            emulator.submit_job(session_id, seconds=30)
        elif states[session_id][-1] == "active":
            await client.drain(session_id)
    for seen in states.values():
        assert (seen[0], seen[-1]) == ("open", "closed")
    pages = [request for request in emulator.requests if request.path == WORKLOADS]
    assert pages
    assert all(request.status == 200 for request in pages)
