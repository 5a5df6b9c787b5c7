"""Sessions of just now: the service may not know one yet, so a 404 about it is looked at again
before it counts as gone.
"""

from __future__ import annotations

from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    CreateOutcomeUnknown,
    NotFound,
    ResponseError,
    SessionLeftOpen,
)
from qsessions.api.operations import YOUNG_S
from qsessions.session.calls import LOOK_AGAIN_S
from qsessions.testing import ManualClock
from tests.support.calls import CLOSE, CREATE, DRAIN, GET, SESSION, UPDATE, Row, each, fault
from tests.support.clients import Against
from tests.support.fault_server import FaultServer, http, reset
from tests.support.faults import failure_of

GONE = http(404, fault("No such session."))
CLOSED = http(200, SESSION | {"state": "closed"})
ANOTHER = http(200, SESSION | {"id": "s2", "state": "closed"})


def methods(server: FaultServer) -> list[str]:
    """Return the methods of what was sent, in order."""
    return [request.method for request in server.received]


@each(CLOSE, DRAIN, UPDATE)
async def test_a_new_session_is_looked_at_again(
    against: Against, time: ManualClock, row: Row
) -> None:
    """After a 404 about a session of just now comes a GET 2 s later, then the same again, which is
    then done.
    """
    server, client = await against(CREATE.success, GONE, GET.success, row.success)
    await CREATE(client)
    await row(client)
    assert methods(server) == ["POST", row.method, "GET", row.method]
    assert time.slept == [LOOK_AGAIN_S]


@each(CLOSE, DRAIN)
async def test_a_look_that_says_404_is_not_the_last_word(against: Against, row: Row) -> None:
    """Also where the look finds nothing, the ending is sent again."""
    server, client = await against(CREATE.success, GONE, GONE, row.success)
    await CREATE(client)
    await row(client)
    assert methods(server) == ["POST", row.method, "GET", row.method]


async def test_a_new_session_that_is_read_is_read_again(
    against: Against, time: ManualClock
) -> None:
    """Where the call is a GET, one more is enough."""
    server, client = await against(CREATE.success, GONE, GET.success)
    await CREATE(client)
    assert (await client.get("s1")).id == "s1"
    assert methods(server) == ["POST", "GET", "GET"]
    assert time.slept == [LOOK_AGAIN_S]


@each(GET, CLOSE, DRAIN)
async def test_a_new_session_that_stays_unknown_is_gone(against: Against, row: Row) -> None:
    """What the service doesn't know 2 s later either isn't there."""
    server, client = await against(CREATE.success, GONE)
    await CREATE(client)
    with pytest.raises(NotFound):
        await row(client)
    assert server.received[-1].method == row.method


@pytest.mark.parametrize(("last", "error"), [(CLOSE.success, None), (GONE, ResponseError)])
async def test_a_look_that_fails_does_not_keep_the_ending_from_going_out(
    against: Against, last: bytes, error: type[Exception] | None
) -> None:
    """Where the look tells nothing, the ending is sent again all the same; a second 404 then leaves
    a session that may be open.
    """
    server, client = await against(CREATE.success, GONE, http(403, fault()), last)
    await CREATE(client)
    caught = await failure_of(client.close("s1"))
    assert (type(caught) if caught else None) is error
    assert methods(server) == ["POST", "DELETE", "GET", "DELETE"]


@pytest.mark.parametrize(
    ("look", "kind"), [(GET.success, ResponseError), (ANOTHER, ResponseError), (CLOSED, NotFound)]
)
async def test_a_service_that_says_both_is_not_believed(
    against: Against, look: bytes, kind: type[ResponseError]
) -> None:
    """A session that can be read and not ended may be open, which is no `NotFound`; one that can be
    read as closed is gone.
    """
    server, client = await against(CREATE.success, GONE, look, GONE)
    await CREATE(client)
    with pytest.raises(ResponseError) as caught:
        await client.close("s1")
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.session_id) == (404, "s1")
    assert caught.value.retryable is (kind is ResponseError)
    assert methods(server) == ["POST", "DELETE", "GET", "DELETE"]


async def test_without_time_to_look_again_nothing_counts_as_gone(
    against: Against, time: ManualClock
) -> None:
    """A deadline that leaves no time for another look ends the call with an error that is no
    `NotFound`.
    """
    server, client = await against(CREATE.success, GONE)
    await CREATE(client)
    with pytest.raises(CallTimeout, match="no time was left to look again") as caught:
        await client.close("s1", timeout=LOOK_AGAIN_S)
    assert isinstance(caught.value.__cause__, NotFound)
    assert (caught.value.operation, caught.value.session_id, caught.value.sent) == (
        "close",
        "s1",
        True,
    )
    assert (methods(server), time.slept) == (["POST", "DELETE"], [])


async def test_all_looks_share_one_deadline(against: Against, time: ManualClock) -> None:
    """What the looks take comes out of the call's own deadline, and without one there is none."""
    server, client = await against(CREATE.success, GONE, GET.success, http(503))
    await CREATE(client)
    with pytest.raises(ResponseError) as caught:
        await client.close("s1", timeout=LOOK_AGAIN_S + 0.1)
    assert caught.value.status == 503
    assert time.slept == [LOOK_AGAIN_S]
    server.answers = [GONE, GET.success, CLOSE.success]
    await client.close("s1", timeout=None)


async def test_an_old_session_is_gone_at_once(against: Against, time: ManualClock) -> None:
    """Two minutes after its creation a session that the service doesn't know is gone."""
    server, client = await against(CREATE.success, GONE)
    await CREATE(client)
    time.advance(YOUNG_S)
    with pytest.raises(NotFound):
        await client.close("s1")
    assert (methods(server), time.slept) == (["POST", "DELETE"], [])


async def test_anothers_session_is_gone_at_once(against: Against) -> None:
    """Of a session that another client created nobody here knows that it is new."""
    server, client = await against(CREATE.success, GONE)
    await CREATE(client)
    with pytest.raises(NotFound):
        await client.close("s2")
    assert methods(server) == ["POST", "DELETE"]


async def test_a_repeat_that_finds_a_new_session_gone_is_looked_at_again(against: Against) -> None:
    """That a first DELETE was lost doesn't make the 404 of the second one a yes."""
    server, client = await against(CREATE.success, reset, reset, GONE, GET.success, CLOSE.success)
    await CREATE(client)
    await client.close("s1")
    assert methods(server) == ["POST", "DELETE", "DELETE", "DELETE", "GET", "DELETE"]


async def test_the_session_of_an_unknown_outcome_is_new_too(against: Against) -> None:
    """A session whose id was read out of an answer that made no sense was created just now as well."""
    server, client = await against(
        http(200, SESSION | {"max_ttl": "long"}), GONE, GET.success, CLOSE.success
    )
    with pytest.raises(CreateOutcomeUnknown) as caught:
        await CREATE(client)
    assert caught.value.session_id == "s1"
    await client.close("s1")
    assert methods(server) == ["POST", "DELETE", "GET", "DELETE"]


async def test_a_reopened_session_is_looked_at_again(against: Against) -> None:
    """The look at a session that is to take jobs again is itself looked at again."""
    server, client = await against(CREATE.success, http(204), GONE, GET.success)
    await CREATE(client)
    await client.update("s1", accepting_jobs=True)
    assert methods(server) == ["POST", "PATCH", "GET", "GET"]


@pytest.mark.parametrize(
    ("answers", "timeout", "told"),
    [
        ((GONE, GET.success, GONE), 60, "so it may be open"),
        ((GONE,), 1, "no time was left to look again"),
        ((http(404, fault("No such instance.", code=1279)),), 60, "No such instance"),
    ],
    ids=["both", "no time", "instance"],
)
async def test_a_block_tells_a_session_that_may_be_open(
    against: Against, answers: tuple[bytes, ...], timeout: float, told: str
) -> None:
    """`open()` takes none of these for the end: a clean block raises `SessionLeftOpen`, and an
    error of the block has a note.
    """
    wanted: dict[str, Any] = {"mode": "dedicated", "max_ttl": 600, "ending_timeout": timeout}
    _, client = await against(CREATE.success, *answers)
    with pytest.raises(SessionLeftOpen, match=told):
        async with client.open(**wanted, on_exit="close"):
            pass
    _, client = await against(CREATE.success, *answers)
    with pytest.raises(KeyError) as caught:
        async with client.open(**wanted):
            raise KeyError("x")
    assert told in caught.value.__notes__[0]


async def test_a_block_ends_well_when_its_session_stays_unknown(against: Against) -> None:
    """A session that the service doesn't know, twice, needs no ending."""
    server, client = await against(CREATE.success, GONE)
    async with client.open(mode="dedicated", max_ttl=600):
        pass
    assert methods(server) == ["POST", "PATCH", "GET", "PATCH"]


def test_only_so_many_sessions_are_remembered(time: ManualClock) -> None:
    """A client that creates sessions without end forgets the oldest."""
    calls = AsyncSessionClient([], base_url="http://127.0.0.1", clock=time)._calls
    for number in range(10_001):
        calls.remember(f"s{number}")
    assert len(calls.created_at) == 10_000
    assert not calls.is_young("s0")
    assert calls.is_young("s1")
    assert calls.is_young("s10000")
