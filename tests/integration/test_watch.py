"""Many sessions in one stream: each change once, at a bounded rate, with a handful of tasks, and
nothing left behind.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    BadRequest,
    CallTimeout,
    ClientClosed,
    Forbidden,
    InstanceNotFound,
    InvalidArgument,
    NotFound,
    ProtocolError,
    QSessionsError,
    ResponseError,
    ServerError,
    Unauthorized,
    WatchIncomplete,
)
from qsessions.emulator import Emulator
from qsessions.errors import copy_error
from qsessions.session.outage import PATIENCE_S
from qsessions.testing import ManualClock
from tests.support.calls import SESSION, fault
from tests.support.clients import Against
from tests.support.errors import OUTAGE
from tests.support.event_loop import past_deadline
from tests.support.fault_server import hang, http
from tests.support.fleet import Fleet, Watcher, all_of, ids
from tests.support.manual_clock import Stepped, settled
from tests.support.tables import table


@pytest.mark.smoke
async def test_many_sessions_from_open_to_closed(
    emulator: Emulator, client: AsyncSessionClient, time: ManualClock
) -> None:
    """Each session's changes come in order, and the stream ends by itself when all are closed."""
    sessions = [(await client.create(mode="dedicated", max_ttl="10m")).id for _ in range(30)]
    seen: dict[str, list[str]] = {session_id: [] for session_id in sessions}
    async for session_id, snapshot in client.watch([*sessions, *sessions]):
        assert snapshot.id == session_id
        seen[session_id].append(f"{snapshot.state}")
        if seen[session_id] == ["open"]:
            emulator.submit_job(session_id, seconds=30)
        elif seen[session_id][-1] == "active":
            await client.drain(session_id)
    for states in seen.values():
        assert [state for state, after in pairwise([*states, ""]) if state != after] == [
            "open",
            "active",
            "closed",
        ]


async def test_no_session_is_nothing_to_watch(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """An empty set ends at once, without a request."""
    assert [change async for change in client.watch([])] == []
    assert emulator.requests == []


@table(
    "wrong", ["s1", b"s1", None, 7, [""], ["s1", "a/b"], ["s1", 7], [None], [["s1"]], ["x" * 501]]
)
async def test_ids_are_checked_up_front(
    client: AsyncSessionClient, emulator: Emulator, wrong: Any
) -> None:
    """What can be no id, and a single text in place of several, is refused by the call itself."""
    with pytest.raises(InvalidArgument):
        client.watch(wrong)
    assert emulator.requests == []


@table(
    "wrong",
    [
        *(
            {"rate": rate}
            for rate in (0, -1, True, "fast", None, float("nan"), float("inf"), 10_001)
        ),
        *({"timeout": timeout} for timeout in (0, -1, True, "soon")),
    ],
)
async def test_rate_and_timeout_are_checked_up_front(
    client: AsyncSessionClient, wrong: Any
) -> None:
    """A rate or a timeout that can't be right is refused by the call itself."""
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        client.watch(["s1"], **wrong)


async def test_only_changes_are_yielded(stepped: Stepped) -> None:
    """A session that is as it was is not yielded again, and one that is closed is read no more."""
    fleet = Fleet(
        stepped, {"one": ["open", "open", "active", "active", "closed"], "two": ["open", "closed"]}
    )
    watcher = Watcher(fleet.watch())
    await stepped.step(60)
    await watcher.task
    assert watcher.seen == [
        ("one", "open"),
        ("two", "open"),
        ("two", "closed"),
        ("one", "active"),
        ("one", "closed"),
    ]
    assert Counter(session_id for _, session_id in fleet.asked) == {"one": 5, "two": 2}


async def test_each_session_is_polled_less_and_less_often(stepped: Stepped) -> None:
    """The pauses of a session that stays as it is grow by half from 0.5 s to 15 s, as for a single
    one.
    """
    fleet = Fleet(stepped, {"one": [*["open"] * 12, "active"], "two": ["open"]})
    watcher = Watcher(fleet.watch())
    await stepped.step(120)
    pauses = [after - before for before, after in pairwise(fleet.times("one"))]
    grown = [0.5 * 1.5**step for step in range(9)]
    assert pauses[:14] == pytest.approx([*grown, 15, 15, 15, *grown[:2]], abs=0.06)
    await watcher.leave()


@table("rate", [0.5, 10.0, 100.0])
async def test_requests_are_spread_evenly_below_the_rate(stepped: Stepped, rate: float) -> None:
    """However many sessions are due at once, requests begin one by one, and each session gets its
    turn before any gets two more.
    """
    fleet = Fleet(stepped, all_of(ids(200), ["open"]))
    watcher = Watcher(fleet.watch(rate=rate))
    await stepped.step(1000 / rate)
    begun = fleet.begun()
    gaps = [after - before for before, after in pairwise(begun)]
    assert min(gaps) >= 1 / rate - 1e-6
    assert len(begun) == pytest.approx(1000, abs=10) if rate < 100 else len(begun) > 200
    if rate < 100:
        counts = Counter(session_id for _, session_id in fleet.asked)
        assert max(counts.values()) - min(counts.values()) <= 2
    await watcher.leave()


async def test_a_slow_service_is_asked_no_more_at_a_time_than_in_a_second(stepped: Stepped) -> None:
    """When answers fail to come, no more requests are under way than the rate has for one second."""
    fleet = Fleet(stepped, all_of(ids(50), ["closed"]))
    fleet.held = asyncio.Event()
    watcher = Watcher(fleet.watch(rate=5))
    await stepped.step(60)
    assert (len(fleet.tasks), len(fleet.asked)) == (5, 5)
    fleet.held.set()
    await stepped.step(60)
    await watcher.task
    assert len(watcher.seen) == 50
    assert fleet.most == 5


async def test_nothing_is_read_while_the_watcher_is_busy(stepped: Stepped) -> None:
    """Whoever takes long over a change is not run over: only what was under way goes on."""
    fleet = Fleet(stepped, all_of(ids(100), ["open"]))
    async with aclosing(fleet.watch().changes()) as changes:
        await anext(changes)
        await stepped.step(100)
        assert len(fleet.asked) <= 20
        assert fleet.tasks == set()


async def test_thousands_of_sessions_are_watched_with_a_handful_of_tasks(stepped: Stepped) -> None:
    """The number of tasks depends on the rate and not on the number of sessions, and all of them
    come to their end.
    """
    fleet = Fleet(stepped, {session_id: ["active", "closed"] for session_id in ids(2_000)})
    before = len(asyncio.all_tasks())
    counted: Counter[str] = Counter()
    most = 0

    async def collect() -> None:
        nonlocal most
        async for session_id, _ in fleet.watch(rate=1000).changes():
            counted[session_id] += 1
            most = max(most, len(asyncio.all_tasks()) - before)

    collecting = asyncio.ensure_future(collect())
    while not collecting.done():
        await stepped.step(1)
    await collecting
    assert len(counted) == 2_000
    assert set(counted.values()) == {2}
    assert most < 20
    assert len(fleet.asked) == 4_000


async def test_a_watcher_that_leaves_half_way_leaves_nothing(stepped: Stepped) -> None:
    """After breaking out, and after a cancellation, there is no task, no sleeper and no request any
    more.
    """
    fleet = Fleet(stepped, all_of(ids(30), ["open"]))
    fleet.held = asyncio.Event()
    before = asyncio.all_tasks()
    watcher = Watcher(fleet.watch())
    await stepped.step(1)
    assert len(fleet.tasks) > 1
    await watcher.leave()
    await settled()
    assert (fleet.tasks, stepped.timers, asyncio.all_tasks() - before) == (set(), [], set())
    fleet.held = None
    async for _ in fleet.watch().changes():
        break
    await settled()
    assert (fleet.tasks, stepped.timers, asyncio.all_tasks() - before) == (set(), [], set())
    asked = len(fleet.asked)
    await stepped.step(100)
    assert len(fleet.asked) == asked


async def test_an_unknown_session_leaves_the_others_watched(
    client: AsyncSessionClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that doesn't exist is named in the log at once, and in the error at the end, when all
    others are closed.
    """
    known = (await client.create(mode="dedicated", max_ttl="10m")).id
    changes = client.watch(["unknown", known])
    assert (await anext(changes))[1].state == "open"
    assert "'unknown' isn't watched any more" in caplog.text
    await client.close(known)
    assert (await anext(changes))[1].state == "closed"
    with pytest.raises(WatchIncomplete, match="1 of 2 sessions could not be watched") as caught:
        await anext(changes)
    assert caught.value.errors.keys() == {"unknown"}
    error = caught.value.errors["unknown"]
    assert (type(error), error.session_id) == (NotFound, "unknown")


async def test_sessions_that_are_left_are_told_at_a_timeout_too(stepped: Stepped) -> None:
    """What concerns one session ends no watch; of many that were left, the message names three, and
    a timeout says that too, and has them as its cause.
    """
    refusals: list[Exception] = [
        BadRequest("bad", status=400),
        Forbidden("not yours", status=403),
        NotFound("gone", status=404),
        ProtocolError("no JSON"),
    ]
    scripts: dict[str, list[str | Exception]] = {
        f"s{n}": [error] for n, error in enumerate(refusals)
    }
    fleet = Fleet(stepped, scripts | {"open": ["open"]})
    watcher = Watcher(fleet.watch(seconds=5))
    await stepped.step(5)
    with pytest.raises(CallTimeout) as caught:
        await watcher.task
    incomplete = caught.value.__cause__
    assert isinstance(incomplete, WatchIncomplete)
    assert caught.value.message == (
        f"1 of 5 sessions were not closed within 5 s; {incomplete.message}."
    )
    assert [*incomplete.errors.values()] == refusals
    assert incomplete.message == (
        "4 of 5 sessions could not be watched to their end: 's0': bad (status 400); "
        "'s1': not yours (status 403); 's2': gone (status 404); and 1 more"
    )
    assert [name for _, name in fleet.asked if name != "open"] == ids(4)


@table(
    "failure",
    [
        Unauthorized("no", status=401),
        InstanceNotFound("no instance", status=404),
        ResponseError("another server's", status=404),
        LookupError("no ticket"),
    ],
)
async def test_a_failure_that_concerns_all_ends_the_watch(
    stepped: Stepped, failure: Exception
) -> None:
    """What would come again for each session is raised at once, and nothing of the watch is left."""
    fleet = Fleet(stepped, all_of(ids(5), ["open"]) | {"s3": [failure]})
    watcher = Watcher(fleet.watch())
    await stepped.step(5)
    with pytest.raises(type(failure)):
        await watcher.task
    assert watcher.seen == [("s0", "open"), ("s1", "open"), ("s2", "open")]
    await settled()
    assert fleet.tasks == set()


@table("away", ["all", "one"])
async def test_without_a_timeout_an_outage_of_ten_minutes_is_borne(
    stepped: Stepped, caplog: pytest.LogCaptureFixture, away: str
) -> None:
    """Without a timeout a watch bears 10 minutes without an answer, about all sessions or about one,
    counted anew after each; then it raises what is wrong, with a note: about one, at the end.
    """
    caplog.clear()
    fleet = Fleet(stepped, all_of(ids(5), ["open"]))
    watcher = Watcher(fleet.watch())
    gone = ids(5) if away == "all" else ["s3"]
    await stepped.step(5)
    for outage in (599.0, PATIENCE_S):
        fleet.scripts |= {session_id: [copy_error(OUTAGE)] for session_id in gone}
        await stepped.step(outage)
        assert not watcher.task.done()
        if outage < PATIENCE_S:
            fleet.scripts |= {session_id: ["active"] for session_id in gone}
            await stepped.step(40)
    await stepped.step(40)
    assert watcher.task.done() is (away == "all")
    for session_id in {*ids(5)} - {*gone}:
        fleet.scripts[session_id] = ["closed"]
    await stepped.step(40)
    with pytest.raises(QSessionsError, match="the service is down") as caught:
        await watcher.task
    failure = (
        caught.value.errors["s3"] if isinstance(caught.value, WatchIncomplete) else caught.value
    )
    assert isinstance(failure, ServerError)
    assert failure.__notes__ == [
        "the wait has borne that for 10 minutes, as one without a timeout does."
    ]
    messages = [record.getMessage() for record in caplog.records]
    if away == "one":
        assert messages[3] == "'s3' isn't watched any more: the service is down (status 503)"
        assert messages[4].startswith("watched sessions can be read again after 6")
    began, over, again = messages[:3]
    assert (
        began
        == again
        == ("watched sessions can't be read, and the wait goes on: the service is down")
    )
    assert over.startswith("watched sessions can be read again after 6")


async def test_an_outage_of_a_large_watch_is_borne_no_longer(stepped: Stepped) -> None:
    """Where there are so many sessions that none is read twice in 10 minutes, that long without any
    answer ends the watch all the same.
    """
    fleet = Fleet(stepped, all_of(ids(2000), [copy_error(OUTAGE)]))
    watcher = Watcher(fleet.watch())
    await stepped.step(PATIENCE_S - 1)
    assert not watcher.task.done()
    await stepped.step(5)
    with pytest.raises(ServerError, match="the service is down"):
        await watcher.task
    assert max(Counter(session_id for _, session_id in fleet.asked).values()) == 1


async def test_several_failures_at_once_leave_no_trace(stepped: Stepped) -> None:
    """When many reads fail together, the first is raised, and none of the others is left unheard."""
    fleet = Fleet(stepped, {session_id: [LookupError(session_id)] for session_id in ids(10)})
    fleet.held = asyncio.Event()
    watcher = Watcher(fleet.watch())
    await stepped.step(1)
    fleet.held.set()
    with pytest.raises(LookupError):
        await watcher.task


async def test_an_outage_is_borne_until_the_timeout(stepped: Stepped) -> None:
    """With a timeout, failures that may pass are waited through, less and less often, and the
    stream goes on afterwards.
    """
    fleet = Fleet(stepped, {"one": ["open", *[OUTAGE] * 12, "closed"], "two": ["closed"]})
    watcher = Watcher(fleet.watch(seconds=3600))
    await stepped.step(200)
    await watcher.task
    assert watcher.seen == [("one", "open"), ("two", "closed"), ("one", "closed")]
    pauses = [after - before for before, after in pairwise(fleet.times("one"))]
    assert pauses[1:9] == pytest.approx([0.5 * 1.5**step for step in range(1, 9)])


async def test_a_timeout_borne_does_not_bear_everything(stepped: Stepped) -> None:
    """With a timeout too, what comes again each time ends the watch."""
    fleet = Fleet(stepped, {"one": [Unauthorized("no", status=401)]})
    with pytest.raises(Unauthorized):
        await anext(fleet.watch(seconds=3600).changes())


@table("away", [True, False])
async def test_a_timeout_says_how_many_are_left_and_whether_the_service_was_away(
    stepped: Stepped, *, away: bool
) -> None:
    """When time is up, the error counts the sessions that aren't closed, and names an outage that
    goes on.
    """
    fleet = Fleet(
        stepped,
        {
            "one": ["closed"],
            "two": ["open", OUTAGE] if away else ["open", OUTAGE, "open"],
            "three": ["closed"],
        },
    )
    watcher = Watcher(fleet.watch(seconds=5))
    await stepped.step(5)
    with pytest.raises(CallTimeout) as caught:
        await watcher.task
    outage = "; the service could not be read of late: the service is down" if away else ""
    assert caught.value.message == f"1 of 3 sessions were not closed within 5 s{outage}."
    assert (caught.value.operation, caught.value.sent) == ("watch", False)
    assert caught.value.__context__ is None


async def test_a_timeout_ends_a_read_that_hangs(against: Against, time: ManualClock) -> None:
    """A request without an answer doesn't hold up the timeout."""
    server, client = await against(hang)
    with pytest.raises(CallTimeout, match="1 of 1 sessions were not closed within 5 s"):
        await past_deadline(anext(client.watch(["s1"], timeout=5)), server.arrival(), time, 5)


async def test_the_time_of_the_watcher_counts(stepped: Stepped) -> None:
    """A watcher that asks for the next change after the timeout gets that error."""
    fleet = Fleet(stepped, {"one": ["open"]})
    changes = fleet.watch(seconds=5).changes()
    await anext(changes)
    await stepped.step(5)
    with pytest.raises(CallTimeout):
        await anext(changes)


@table("steps", range(0, 40, 3))
async def test_closing_the_client_ends_the_watch(against: Against, steps: int) -> None:
    """Whenever the client is closed, the watch ends with an error, and leaves no task."""
    _, client = await against(hang)
    before = asyncio.all_tasks()
    watching = asyncio.ensure_future(anext(client.watch(["s1", "s2"], rate=1000)))
    for _ in range(steps):
        await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ClientClosed):
        await watching
    await settled()
    assert asyncio.all_tasks() - before <= {watching}


async def test_a_live_session_shares_the_readings(against: Against) -> None:
    """A wait for one of the sessions gets what the watch has read."""
    server, client = await against(http(200, SESSION), http(200, SESSION | {"state": "closed"}))
    live = client.attach("s1")
    changes = client.watch(["s1"])
    assert (await anext(changes))[1].state == "open"
    assert (await live.wait_until("open")).state == "open"
    assert len(server.received) == 1
    assert (await anext(changes))[1].state == "closed"
    assert (await live.wait_until("closed")).state == "closed"
    assert len(server.received) == 2


async def test_an_outage_over_sockets(against: Against, time: ManualClock) -> None:
    """A service that is down for longer than the retry policy bears ends no watch that has a
    timeout.
    """
    down = [http(503, fault("Down."))] * 12
    server, client = await against(
        http(200, SESSION), *down, http(200, SESSION | {"state": "closed"})
    )
    states = [str(snapshot.state) async for _, snapshot in client.watch(["s1"], timeout="1h")]
    assert states == ["open", "closed"]
    assert len(server.received) == 14


async def test_any_iterable_of_ids_will_do(emulator: Emulator, client: AsyncSessionClient) -> None:
    """Ids may come out of a generator, a set or a mapping's keys."""
    session = await client.create(mode="dedicated", max_ttl="10m")
    await client.close(session.id)
    forms: list[Iterable[str]] = [
        (one for one in [session.id]),
        {session.id},
        {session.id: 1}.keys(),
        (session.id,),
    ]
    for form in forms:
        assert [session_id async for session_id, _ in client.watch(form)] == [session.id]


async def test_chaos_ends_well(stepped: Stepped) -> None:
    """Sessions of random lives, with failures in between, each yield their changes in order and
    nothing else.
    """
    chance = random.Random(7)  # noqa: S311 - no secret
    scripts: dict[str, list[str | Exception]] = {}
    expected: dict[str, list[str]] = {}
    for session_id in ids(300):
        life = [*chance.choices(["open", "active", "inactive"], k=chance.randrange(12)), "closed"]
        expected[session_id] = [
            state for state, before in zip(life, ["", *life], strict=False) if state != before
        ]
        scripts[session_id] = [
            step for state in life for step in ([OUTAGE] * chance.randrange(3) + [state])
        ]
    fleet = Fleet(stepped, scripts)
    watcher = Watcher(fleet.watch(rate=50, seconds=3600))
    while not watcher.task.done():
        await stepped.step(5)
    await watcher.task
    seen: dict[str, list[str]] = {session_id: [] for session_id in expected}
    for session_id, state in watcher.seen:
        seen[session_id].append(state)
    assert seen == expected
