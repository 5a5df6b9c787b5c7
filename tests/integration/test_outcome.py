"""A create whose outcome nobody can tell: what the error says of it, and which sessions it finds
that may be the one.
"""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from qsessions import (
    AsyncSessionClient,
    CreateCancelled,
    CreateOutcomeUnknown,
    CreateSession,
    Event,
    LedgerEntry,
    Liveness,
    RetryPolicy,
    Transport,
)
from qsessions.testing import ManualClock
from tests.support.calls import NO_WORKLOADS, SESSION, WORKLOAD, fault
from tests.support.clients import Against
from tests.support.fault_server import Answer, Connection, FaultServer, hang, http, reset
from tests.support.given_ledger import GivenLedger, entry
from tests.support.leaks import loop_steps
from tests.support.loop_time import late, let_pass
from tests.support.tables import table

HINT = "Look through client.workloads() for a session that you don't know, and close it."


def moment(seconds: float) -> datetime:
    """Return a time as a datetime."""
    return datetime.fromtimestamp(seconds, UTC)


def listed(name: str, created: float | None, **fields: Any) -> dict[str, object]:
    """Write a workload as the service lists it."""
    text = None if created is None else moment(created).isoformat()
    return WORKLOAD | {"id": name, "created": text, "backend": "ibm_fez"} | fields


def page(
    *workloads: dict[str, object], date: float | None = None, following: str | None = None
) -> bytes:
    """Write a page of workloads, with a Date if there is one."""
    link = following and {"href": f"https://service.example/v1/workloads?next={following}"}
    body = {"workloads": list(workloads), "next": link}
    return http(
        200, body, headers=None if date is None else {"Date": formatdate(date, usegmt=True)}
    )


async def unknown(client: AsyncSessionClient, **options: Any) -> CreateOutcomeUnknown:
    """Create a session and give the error that it ends with, which survives the way to another
    process.
    """
    asked: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 600} | options
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await client.create(**asked)
    arrived = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - what is loaded was dumped here
    assert vars(arrived) == vars(caught.value)
    return caught.value


def found(error: CreateOutcomeUnknown) -> list[str] | None:
    """Return the ids of the candidates."""
    return None if error.candidates is None else [candidate.id for candidate in error.candidates]


def looks(server: FaultServer) -> list[dict[str, list[str]]]:
    """Return the queries of the looks through the workloads."""
    urls = [urlsplit(request.target) for request in server.received if request.method == "GET"]
    assert {url.path for url in urls} <= {"/v1/workloads"}
    return [parse_qs(url.query) for url in urls]


@pytest.mark.smoke
@pytest.mark.parametrize(
    "answer", [reset, http(502), http(500, "<html>")], ids=["lost", "502", "500"]
)
async def test_the_error_names_what_was_asked_when_and_what_may_have_come_of_it(
    against: Against, time: ManualClock, answer: Answer
) -> None:
    """The error holds the request, the time, and the sessions that appeared since then and fit the
    request, newest first.
    """
    server, client = await against(
        answer,
        page(
            listed("newest", time.now + 1),
            listed("elsewhere", time.now, backend="ibm_torino"),
            listed("nowhere yet", time.now, backend=None),
            listed("of the same second", time.now - 1),
            listed("older", time.now - 60),
            listed("never seen", time.now),
        ),
    )
    error = await unknown(client)
    assert error.request == CreateSession("dedicated", backend="ibm_fez", max_ttl=600)
    assert error.asked_at == moment(time.now)
    assert found(error) == ["newest", "nowhere yet", "of the same second"]
    assert error.solution == (
        "It may be 'newest', 'nowhere yet', 'of the same second': close what was created since and that you don't know."
    )
    assert looks(server) == [{"limit": ["50"], "sort": ["-createdAt"], "mode": ["session"]}]


async def test_what_is_over_or_the_clients_own_is_no_candidate(
    against: Against, time: ManualClock
) -> None:
    """Neither a session that is closed nor one that came of another create of this client may be
    the one.
    """
    workloads = (
        listed("it", time.now),
        listed("over", time.now, status="completed"),
        listed("s1", time.now),
    )
    _, client = await against(http(200, SESSION), reset, page(*workloads))
    assert (await client.create(mode="dedicated", backend="ibm_fez")).id == "s1"
    assert found(await unknown(client)) == ["it"]


async def test_without_a_backend_any_fits(against: Against, time: ManualClock) -> None:
    """A batch without a backend may be any batch of that time; a long list is cut in the message
    alone.
    """
    many = [listed(f"b{number}", time.now, backend=f"ibm_{number}") for number in range(7)]
    server, client = await against(reset, page(*many))
    error = await unknown(client, mode="batch", backend=None)
    assert found(error) == [f"b{number}" for number in range(7)]
    assert "'b0', 'b1', 'b2', 'b3', 'b4' and 2 more: close" in str(error)
    assert looks(server)[0]["mode"] == ["batch"]


async def test_no_candidate_is_told_too(against: Against) -> None:
    """When nothing was listed, that is known, and the advice stays."""
    _, client = await against(reset, http(200, NO_WORKLOADS))
    error = await unknown(client)
    assert error.candidates == ()
    assert error.solution == f"None was listed just after. {HINT}"


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0, 86400.0 * 365])
async def test_a_wrong_local_clock_does_no_harm(
    against: Against, time: ManualClock, skew: float
) -> None:
    """The window is counted back from the service's own Date, however far this machine's clock is
    off.
    """
    begun = time.now + skew

    async def slow(connection: Connection) -> None:
        time.advance(20)
        await connection.write(http(504))

    _, client = await against(
        slow,
        page(
            listed("late", begun + 19),
            listed("early", begun + 1),
            listed("before", begun - 4),
            date=begun + 20,
        ),
    )
    error = await unknown(client)
    assert found(error) == ["late", "early"]
    assert error.asked_at == moment(begun)


@table("fraction", [0.0, 0.4, 0.999])
async def test_where_the_services_time_is_known_what_is_older_is_left_out(
    against: Against, time: ManualClock, *, fraction: float
) -> None:
    """With the service's Date a session that was created before the call is no candidate, also in
    the two seconds before it; one that was created as it began is one, though the list and the Date
    cut their times to seconds or milliseconds.
    """
    time.advance(math.ceil(time.now) + fraction - time.now)
    whole = math.floor(time.now)
    _, client = await against(
        reset,
        page(
            listed("later", time.now + 3),
            listed("at once", time.now + 0.000_9),
            listed("at once, in milliseconds", math.floor(time.now * 1000) / 1000),
            listed("at once, in seconds", whole),
            listed("the second before", whole - 1),
            listed("the one before that", whole - 2),
            date=whole,
        ),
    )
    error = await unknown(client)
    assert found(error) == ["later", "at once", "at once, in milliseconds", "at once, in seconds"]
    assert error.asked_at == moment(whole)


async def test_a_slow_call_keeps_what_was_created_as_it_began(
    against: Against, time: ManualClock
) -> None:
    """However long the answers take and whatever their Date says of their seconds, a session of the
    call's very beginning is a candidate.
    """
    for fraction in (0.0, 0.3, 0.6, 0.95):
        time.advance(math.ceil(time.now) + fraction - time.now)
        begun = time.now

        async def slow(connection: Connection) -> None:
            time.advance(3.7)
            await connection.write(http(504))

        async def slow_page(connection: Connection, begun: float = begun) -> None:
            time.advance(1.6)
            answer = page(
                listed("at once", begun), listed("before", begun - 2.51), date=math.floor(time.now)
            )
            # It is on its way for a while.
            time.advance(0.8)
            await connection.write(answer)

        _, client = await against(slow, slow_page)
        assert found(await unknown(client)) == ["at once"], fraction


async def test_what_the_ledger_has_for_another_create_is_no_candidate(
    against: Against, time: ManualClock
) -> None:
    """A session that the ledger has, of whichever process, came of another create; one of which it
    knows the create alone may be this one.
    """
    ledger = GivenLedger(
        entry(session_id="theirs", liveness=Liveness.ALIVE),
        entry(session_id="of one who died"),
        entry(),
    )
    names = ("theirs", "it", "of one who died", "unrecorded")
    workloads = [listed(name, time.now) for name in names]
    _, client = await against(reset, page(*workloads), ledger=ledger)
    error = await unknown(client)
    assert found(error) == ["it", "unrecorded"]
    assert error.solution is not None
    assert "theirs" not in error.solution


async def test_a_ledger_that_fails_leaves_out_nothing(against: Against, time: ManualClock) -> None:
    """Where the ledger can't be read, or not in time, every session that fits is a candidate."""
    ledger = GivenLedger(entry(session_id="theirs"))
    ledger.failure = OSError("no disk")
    _, client = await against(
        reset, page(listed("theirs", time.now), listed("it", time.now)), ledger=ledger
    )
    assert found(await unknown(client)) == ["theirs", "it"]


async def test_a_ledger_that_hangs_leaves_out_nothing(against: Against, time: ManualClock) -> None:
    """The ledger has what is left of the ten seconds of the search."""
    reading = asyncio.Event()

    class Hangs(GivenLedger):
        async def entries(self) -> Sequence[LedgerEntry]:
            reading.set()
            await asyncio.Event().wait()
            return []

    _, client = await against(reset, page(listed("it", time.now)), ledger=Hangs())
    asking = asyncio.create_task(unknown(client))
    await reading.wait()
    await let_pass(10, time)
    assert found(await asking) == ["it"]


async def test_all_pages_back_to_the_begin_are_read_and_none_more(
    against: Against, time: ManualClock
) -> None:
    """The look ends at the first session that is older than the create; a later page's Date moves
    nothing.
    """
    server, client = await against(
        reset,
        page(listed("one", time.now), date=time.now, following="2"),
        page(
            listed("two", time.now), listed("old", time.now - 9), date=time.now + 90, following="3"
        ),
    )
    error = await unknown(client)
    assert found(error) == ["one", "two"]
    assert error.asked_at == moment(time.now)
    assert [query.get("next") for query in looks(server)] == [None, ["2"]]


async def test_what_has_no_time_ends_the_look(against: Against, time: ManualClock) -> None:
    """A workload without a time of creation can't be said to be new."""
    _, client = await against(reset, page(listed("new", time.now), listed("timeless", None)))
    assert found(await unknown(client)) == ["new"]


@pytest.mark.parametrize(
    "answer",
    [http(503), http(403, fault()), http(200, "<html>"), http(200, {"workloads": 7}), reset, hang],
    ids=["503", "403", "HTML", "wrong form", "lost", "hang"],
)
async def test_a_look_that_fails_hides_nothing(
    against: Against, time: ManualClock, answer: Answer
) -> None:
    """When the workloads can't be read, the error is the create's own, and says that nobody could
    look.
    """
    started = time.now
    if answer is hang:
        answer = late(hang, 10, time)
    _, client = await against(http(502, fault("Bad luck.")), answer)
    error = await unknown(client)
    assert (error.status, error.attempts, error.candidates) == (502, 1, None)
    assert error.message == "the session may have been created: Bad luck."
    assert error.solution == HINT
    assert error.request is not None
    assert time.now - started <= 10


async def test_a_provider_that_fails_in_the_look_hides_nothing(against: Against) -> None:
    """What a user's own provider raises the second time doesn't take the place of the outcome."""

    class Once:
        given = False

        async def headers(self, transport: Transport) -> Mapping[str, str]:
            if self.given:
                raise LookupError("no second ticket")
            self.given = True
            return {"Authorization": "once"}

        def invalidate(self, refused: Mapping[str, str]) -> bool:
            return False

    _, client = await against(reset, auth=Once())
    assert (await unknown(client)).candidates is None


@pytest.mark.parametrize("timeout", [20, 20.5, "20s"])
async def test_a_look_needs_time_that_is_left(
    against: Against, time: ManualClock, timeout: float | str
) -> None:
    """The look is a part of the call: it has what is left of the deadline, and isn't begun when
    that is nothing.
    """

    async def slow(connection: Connection) -> None:
        time.advance(20)
        await connection.write(http(504))

    started = time.now
    server, client = await against(slow, http(503, headers={"Retry-After": "1"}))
    error = await unknown(client, timeout=timeout)
    assert error.candidates is None
    assert len(looks(server)) == (1 if timeout == 20.5 else 0)
    assert time.now - started == 20


async def test_a_look_never_takes_long(against: Against, time: ManualClock) -> None:
    """However much time the call has, the look ends within 10 s, all pages and retries together."""
    started = time.now

    async def slow(connection: Connection) -> None:
        time.advance(4)
        await connection.write(page(listed("s1", time.now), following=str(time.now)))

    server, client = await against(reset, slow, retry=RetryPolicy(max_attempts=1))
    assert (await unknown(client, timeout=None)).candidates is None
    assert len(looks(server)) <= 4
    assert time.now - started <= 16


async def test_a_known_id_needs_no_look(against: Against, time: ManualClock) -> None:
    """When the answer can't be read but for the id, that is the session."""
    server, client = await against(http(200, SESSION | {"max_ttl": "long"}))
    error = await unknown(client)
    assert (error.session_id, error.candidates, error.asked_at) == ("s1", None, moment(time.now))
    assert error.request is not None
    assert looks(server) == []


async def test_a_cancelled_look_still_tells(against: Against) -> None:
    """Who cancels while the look is under way learns from a note and an event that the outcome is
    unknown.
    """
    heard: list[Event] = []
    server, client = await against(reset, hang, observers=[heard.append])
    creating = asyncio.create_task(client.create(mode="batch"))
    await server.arrival(2)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await creating
    (note,) = caught.value.__notes__
    assert (
        "create was cancelled, and its outcome is unknown: the session may have been created"
        in note
    )
    assert [event for event in heard if isinstance(event, CreateCancelled)] == [
        CreateCancelled(session_id=None, closed=False, detail=note)
    ]


async def test_closing_the_client_waits_for_the_look(against: Against, time: ManualClock) -> None:
    """A client that is closed while the look is under way waits for it, 10 s at most, and leaves
    the error as it is.
    """
    server, client = await against(reset, hang)
    creating = asyncio.create_task(unknown(client))
    await server.arrival(2)
    closing = asyncio.create_task(client.aclose())
    await let_pass(9, time)
    await loop_steps(30)
    assert not closing.done()
    time.advance(1)
    await closing
    assert (await creating).candidates is None


def test_defaults() -> None:
    """An error of which nothing more is known says so."""
    error = CreateOutcomeUnknown("it broke")
    assert (error.request, error.asked_at, error.candidates, error.solution) == (
        None,
        None,
        None,
        HINT,
    )
    error.set_candidates(moment(0) + timedelta(seconds=1), ())
    assert error.asked_at == moment(1)
