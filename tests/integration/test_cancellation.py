"""A create that is cancelled leaves no session behind, whenever it happens, and the cancellation
always goes on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from yarl import URL

from qsessions import (
    AsyncSessionClient,
    ClientClosed,
    Clock,
    ConfigurationError,
    ConnectionFailed,
    CreateCancelled,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    LocalLedger,
    QSessionsError,
    Request,
    RequestSent,
    Response,
    ResponseReceived,
    RetryPolicy,
    ServiceCRN,
    Transport,
    Unauthorized,
)
from qsessions.emulator import Emulator
from qsessions.errors import one_line
from qsessions.http import transport as transport_module
from qsessions.session.create import ENDING_TIMEOUT
from qsessions.testing import ManualClock
from tests.support.calls import fault
from tests.support.clients import CRN, Against, client_of, static_auth
from tests.support.event_loop import TASK_FACTORIES
from tests.support.fault_server import Answer, Connection, FaultServer, hang, held, http, reset
from tests.support.leaks import loop_steps, open_sessions, ours
from tests.support.loop_time import late, let_pass
from tests.support.threaded import threaded
from tests.support.waiting import until

T = TypeVar("T")

CREATED = http(200, {"id": "s1", "mode": "dedicated", "state": "open"})
CLOSED = http(204)


def create(client: AsyncSessionClient) -> asyncio.Task[Any]:
    """Create a session in the background."""
    return asyncio.ensure_future(client.create(mode="dedicated", max_ttl=60))


async def ended(task: asyncio.Task[Any]) -> asyncio.CancelledError:
    """Return what a cancelled task ended with."""
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


async def end_of_all(
    emulator: Emulator, client: AsyncSessionClient, task: asyncio.Task[Any]
) -> None:
    """Check that nothing is left of a create that may have been cancelled, and that the client still
    works.
    """
    await asyncio.wait({task})
    if task.cancelled():
        await client._creates.wait_idle(client.clock.deadline(30))
        assert open_sessions(emulator) == []
    else:
        assert open_sessions(emulator) == [task.result().id]
        await client.close(task.result().id)
    session = await client.create(mode="dedicated", max_ttl=60)
    await client.close(session.id)
    await client.aclose()
    assert ours() == set()
    assert open_sessions(emulator) == []


@pytest.mark.smoke
@pytest.mark.parametrize("factory", TASK_FACTORIES)
@pytest.mark.parametrize(
    "way", ["token, session", "version, token, session", "401, token, session"]
)
async def test_a_create_may_be_cancelled_at_every_step(
    emulator: Emulator, time: ManualClock, way: str, factory: Any
) -> None:
    """After any number of rounds of the event loop, a cancelled create leaves no open session and
    no task.
    """
    asyncio.get_running_loop().set_task_factory(factory)
    rescued = 0
    for steps in range(2000):
        client = client_of(emulator, time)
        if way.startswith("version"):
            client._caller._api_version = "latest"
        elif way.startswith("401"):
            assert [workload async for workload in client.workloads(mode="job")] == []
            emulator.revoke_tokens()
        before = len(emulator.sessions)
        task = create(client)
        await loop_steps(steps)
        undisturbed = task.done()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() != undisturbed
        rescued += task.cancelled() and len(emulator.sessions) > before
        await end_of_all(emulator, client, task)
        if undisturbed:
            break
    else:
        pytest.fail("it was never done")
    # Some cancellations came too early for a session to be made, and some not.
    assert 0 < rescued < steps


@pytest.mark.parametrize("factory", TASK_FACTORIES)
@pytest.mark.parametrize("later", [1, 2, 3, 5, 8, 11])
async def test_a_create_may_be_cancelled_twice_at_every_step(
    emulator: Emulator, time: ManualClock, later: int, factory: Any
) -> None:
    """A second cancellation leaves at once, and what was begun is ended in the background, for
    which closing waits.
    """
    asyncio.get_running_loop().set_task_factory(factory)
    left_early = 0
    for steps in range(2000):
        async with client_of(emulator, time) as client:
            task = create(client)
            await loop_steps(steps)
            undisturbed = task.done()
            task.cancel()
            await loop_steps(later)
            if not task.done():
                task.cancel()
                await loop_steps(2)
                assert task.done()
                left_early += bool(client._creates._pending)
            await asyncio.wait({task})
            if not task.cancelled():
                await client.close(task.result().id)
        assert ours() == set()
        assert open_sessions(emulator) == []
        if undisturbed:
            break
    assert left_early > 0


async def test_a_client_may_be_closed_at_every_step_of_a_create(
    emulator: Emulator, time: ManualClock
) -> None:
    """Closing the client brings the create that is in flight to its end: it gives a session, or
    nothing was made.
    """
    for steps in range(2000):
        before = len(emulator.sessions)
        client = client_of(emulator, time)
        task = create(client)
        await loop_steps(steps)
        undisturbed = task.done()
        await client.aclose()
        await asyncio.wait({task})
        if task.exception() is not None:
            assert isinstance(task.exception(), ClientClosed)
            assert len(emulator.sessions) == before
        else:
            assert len(emulator.sessions) == before + 1
        assert ours() == set()
        if undisturbed:
            return
    pytest.fail("it was never done")


async def test_a_deadline_of_asyncio_is_kept(against: Against) -> None:
    """`asyncio.timeout` around a create ends in its TimeoutError, after the session was closed."""
    held = Held()
    server, client = await against(held, CLOSED)

    async def run_out(scope: asyncio.Timeout) -> None:
        # Not before the request is in flight, however slow the machine is.
        await held.asked.wait()
        scope.reschedule(asyncio.get_running_loop().time())
        await until(scope.expired)
        held.answer.set_result(CREATED)

    scope = asyncio.timeout(None)
    running_out = asyncio.create_task(run_out(scope))
    with pytest.raises(TimeoutError):
        async with scope:
            await client.create(mode="dedicated")
    await running_out
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    assert [request.method for request in server.received] == ["POST", "DELETE"]


async def test_a_task_group_that_fails_closes_what_its_creates_made(
    emulator: Emulator, client: AsyncSessionClient
) -> None:
    """When one task of a group fails, the creates beside it are cancelled, rescued, and the group's
    error is the first one.
    """

    async def fail() -> None:
        await until(lambda: len(emulator.sessions) > 2)
        raise LookupError("the first error")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(client.create(mode="dedicated"))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await work()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    finished = {
        request.path.rsplit("/", 2)[-2]
        for request in emulator.requests
        if request.method == "DELETE"
    }
    # Those that had been done before the failure are the caller's own.
    assert {
        session.id for session in emulator.sessions.values() if session.state == "closed"
    } == finished
    assert len(finished) >= 1
    assert client._creates._pending == {}


async def test_a_wait_for_a_token_that_is_cancelled_sends_nothing(time: ManualClock) -> None:
    """Before the credentials are there nothing was sent, and nothing is."""
    async with FaultServer(hang) as iam, FaultServer(CREATED) as api:
        auth = [IBMCloudAuth("key", iam.url), ServiceCRN(CRN)]
        async with AsyncSessionClient(auth, base_url=api.url, clock=time) as client:
            task = create(client)
            await until(lambda: iam.received)
            task.cancel()
            await ended(task)
        assert api.received == []


async def test_a_back_off_that_is_cancelled_sends_nothing(
    time: ManualClock, against: Against
) -> None:
    """Between two attempts nothing is in flight: the create ends at once."""
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    clock = Clock(time.monotonic, time.wall, sleep, time.random, time.call_later)
    server, client = await against(http(503), CREATED, clock=clock)
    task = create(client)
    await asleep.wait()
    task.cancel()
    error = await ended(task)
    assert [request.method for request in server.received] == ["POST"]
    assert not hasattr(error, "__notes__")


class Held:
    """Answers a request when told to, and what."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def __call__(self, connection: Connection) -> None:
        """Answer."""
        self.asked.set()
        answer = await self.answer
        if isinstance(answer, bytes):
            await connection.write(answer)
        else:
            await answer(connection)


async def cancelled_with(
    against: Against, answer: Answer, *more: Answer, **options: Any
) -> tuple[FaultServer, asyncio.CancelledError, list[CreateCancelled]]:
    """Cancel a create in flight whose request is then answered so."""
    events: list[object] = []
    held = Held()
    server, client = await against(held, *more, hang, observers=[events.append], **options)
    task = create(client)
    await held.asked.wait()
    task.cancel()
    await loop_steps(5)
    assert not task.done()
    held.answer.set_result(answer)
    error = await ended(task)
    return server, error, [event for event in events if isinstance(event, CreateCancelled)]


async def test_a_create_that_waits_for_a_connection_is_not_sent_when_cancelled(
    against: Against,
) -> None:
    """Creates that are cancelled in the queue for a connection never go out, and only what was in
    flight is ended.
    """
    held = Held()
    server, client = await against(held, CLOSED, max_concurrency=1)
    tasks = [create(client) for _ in range(5)]
    await held.asked.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks[1:])
    held.answer.set_result(CREATED)
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert [request.method for request in server.received] == ["POST", "DELETE"]


async def test_the_session_is_closed_with_the_version_of_its_create(against: Against) -> None:
    """The API version that was given for a create holds for the close of its session too."""
    held = Held()
    server, client = await against(held, CLOSED)
    task = asyncio.ensure_future(client.create(mode="batch", api_version="2026-03-15"))
    await held.asked.wait()
    task.cancel()
    held.answer.set_result(CREATED)
    await ended(task)
    assert [request.headers["ibm-api-version"] for request in server.received] == ["2026-03-15"] * 2


async def test_the_session_of_a_cancelled_create_is_closed(
    against: Against, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is brought to its end, the session closed, and the log says so as a warning."""
    server, error, events = await cancelled_with(against, CREATED, CLOSED)
    assert [f"{request.method} {request.target}" for request in server.received] == [
        "POST /v1/sessions",
        "DELETE /v1/sessions/s1/close",
    ]
    assert events == [
        CreateCancelled(session_id="s1", closed=True, detail="closed after a cancelled create")
    ]
    assert not hasattr(error, "__notes__")
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "answer",
    [
        http(400, fault()),
        http(401, fault()),
        http(403, fault()),
        http(404),
        http(429),
        http(503),
        http(521),
        http(500, fault()),
        http(302),
    ],
    ids=["400", "401", "403", "404", "429", "503", "521", "500", "302"],
)
async def test_a_refused_create_that_was_cancelled_leaves_nothing_to_end(
    against: Against, answer: bytes
) -> None:
    """Where the answer says that nothing was made, nothing follows, not even another try."""
    server, error, events = await cancelled_with(against, answer)
    assert [request.method for request in server.received] == ["POST"]
    assert not hasattr(error, "__notes__")
    assert events == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (http(500, "<html>"), "status 500"),
        (http(502), "status 502"),
        (http(504, fault()), "status 504"),
        (reset, "the connection was lost"),
        (b"HTTP/9 what\r\n\r\n", "not valid HTTP"),
    ],
    ids=["HTML 500", "502", "504", "reset", "no HTTP"],
)
async def test_an_unknown_outcome_is_told_by_note_event_and_log(
    against: Against, answer: Answer, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a session may have been made and nobody can tell, the cancellation carries a note, and
    the log an error.
    """
    server, error, (event,) = await cancelled_with(against, answer)
    (note,) = error.__notes__
    assert note.startswith("create was cancelled, and its outcome is unknown: ")
    assert told in note
    assert event == CreateCancelled(session_id=None, closed=False, detail=note)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, one_line(note))
    ]
    assert [request.method for request in server.received] == ["POST"]


async def test_a_success_without_an_id_is_told(against: Against) -> None:
    """A session that was made, and whose id can't be read, can't be closed: the cancellation says
    so.
    """
    _, error, (event,) = await cancelled_with(against, http(200, "<html>"))
    (note,) = error.__notes__
    assert (
        "its outcome is unknown: status 200: the service created a session, but its answer" in note
    )
    assert (event.session_id, event.closed, event.detail) == (None, False, error.__notes__[0])


async def test_a_success_that_can_not_be_read_but_for_its_id_is_closed(against: Against) -> None:
    """An id is enough to close a session."""
    server, error, (event,) = await cancelled_with(
        against, http(200, {"id": "s/1", "max_ttl": "x"}), CLOSED
    )
    assert len(server.received) == 1
    assert "is a path of its own" in error.__notes__[0]
    server, error, (event,) = await cancelled_with(
        against, http(200, {"id": "s1", "max_ttl": "x"}), CLOSED
    )
    assert (event.session_id, event.closed, len(server.received)) == ("s1", True, 2)
    assert not hasattr(error, "__notes__")


async def test_an_answer_that_never_comes_is_waited_for_so_long(
    against: Against, time: ManualClock
) -> None:
    """The end of a cancelled create is bounded, even where the call itself has no deadline."""
    server, error, (event,) = await cancelled_with(
        against, late(hang, ENDING_TIMEOUT, time), timeout=None
    )
    assert (
        "the session may have been created: the request was given up while it was in flight."
        in error.__notes__[0]
    )
    assert not event.closed
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([http(403, fault("No."))], "No (status 403"),
        ([http(500, fault("It broke."))] * 5, "It broke (status 500"),
        ([reset] * 12, "the connection was lost"),
        (
            [http(404, fault("No such instance.", code=1279))],
            "No such instance (status 404, code 1279",
        ),
        ([http(404, fault()), CREATED, http(404, fault())], "so it may be open (status 404"),
    ],
    ids=["refused", "broken", "lost", "no instance", "both"],
)
async def test_a_session_that_can_not_be_closed_is_named(
    against: Against, answers: list[Answer], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """When closing fails too, the cancellation goes on with a note that names the session, an event
    and an ERROR line.
    """
    _, error, (event,) = await cancelled_with(
        against, CREATED, *answers, retry=RetryPolicy(base_delay=0.01)
    )
    (note,) = error.__notes__
    assert note.startswith(
        "create was cancelled in flight; session 's1' was created and could not be closed: "
    )
    assert told in note
    assert event == CreateCancelled(session_id="s1", closed=False, detail=note)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.__dict__["qsessions_session_id"] for record in errors] == ["s1"]


async def test_a_close_that_never_comes_back_is_bounded(
    against: Against, time: ManualClock
) -> None:
    """Closing the session has a deadline of its own."""
    _, error, (event,) = await cancelled_with(
        against, CREATED, late(hang, ENDING_TIMEOUT, time), timeout=None
    )
    assert (
        "could not be closed: close of session 's1': the call's deadline passed"
        in error.__notes__[0]
    )
    assert (event.session_id, event.closed) == ("s1", False)


async def test_a_session_that_is_gone_counts_as_closed(against: Against) -> None:
    """The HTTP library may have sent the DELETE twice, so a 404 that stays is no failure of an
    ending.
    """
    gone = http(404, fault())
    server, error, (event,) = await cancelled_with(against, CREATED, gone, gone, gone)
    assert event.closed
    assert [request.method for request in server.received] == ["POST", "DELETE", "GET", "DELETE"]
    assert not hasattr(error, "__notes__")


class Once:
    """A provider that has headers for one request only."""

    def __init__(self) -> None:
        self.asked = 0

    async def headers(self, transport: object) -> Mapping[str, str]:
        """Return a ticket the first time."""
        self.asked += 1
        if self.asked > 1:
            raise LookupError("no ticket in the drawer")
        return {"X-Ticket": "one"}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Have no other."""
        return False


async def test_a_providers_error_while_closing_does_not_take_the_place_of_the_cancellation(
    against: Against,
) -> None:
    """What a custom provider raises while the session is being closed goes into the note."""
    _, error, (event,) = await cancelled_with(against, CREATED, auth=[Once(), ServiceCRN(CRN)])
    assert error.__notes__[0].endswith(
        "session 's1' was created and could not be closed: "
        "close of session 's1': the auth provider failed in Once.headers(). "
        "LookupError: no ticket in the drawer. "
        "Correct the provider in auth=, or what it depends on."
    )
    assert not event.closed


async def test_a_second_cancellation_leaves_at_once_and_the_ending_goes_on(
    against: Against,
) -> None:
    """The caller is free again, and the session is closed in the background; closing the client
    waits for that.
    """
    held, closing = Held(), Held()
    server, client = await against(held, closing)
    task = create(client)
    await held.asked.wait()
    task.cancel()
    held.answer.set_result(CREATED)
    await closing.asked.wait()
    assert not task.done()
    task.cancel()
    await ended(task)
    assert task.cancelling() == 2
    leaving = asyncio.ensure_future(client.aclose())
    await loop_steps(20)
    assert not leaving.done()
    closing.answer.set_result(CLOSED)
    await leaving
    assert [request.method for request in server.received] == ["POST", "DELETE"]
    assert ours() == set()


async def test_closing_the_client_waits_for_an_ending_so_long(
    against: Against, time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An ending that takes too long is given up, and the log names what is left open."""
    held = Held()
    server, client = await against(held, hang)
    task = create(client)
    await held.asked.wait()
    task.cancel()
    held.answer.set_result(CREATED)
    await server.arrival(2)
    closing = asyncio.ensure_future(client.aclose())
    await let_pass(ENDING_TIMEOUT - 1, time)
    await loop_steps(30)
    assert not closing.done()
    time.advance(1)
    await closing
    error = await ended(task)
    assert "session 's1' was created and could not be closed: " in error.__notes__[0]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_create_in_flight_when_the_client_gives_up_is_told(
    against: Against, time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled create whose answer the closing client doesn't wait for any longer has an unknown
    outcome, and says so.
    """
    server, client = await against(hang, timeout=None)
    task = create(client)
    await server.arrival()
    closing = asyncio.ensure_future(client.aclose())
    await let_pass(1, time)
    # From now on its answer is waited for as long as the client waits for its creates.
    task.cancel()
    await let_pass(ENDING_TIMEOUT - 1, time)
    await closing
    error = await ended(task)
    assert "may have been created: the client or the event loop was shut down" in error.__notes__[0]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_cancelling_the_close_of_a_client_closes_it_all_the_same(against: Against) -> None:
    """Whoever doesn't wait for `aclose` leaves no half-closed client: it goes on in the background,
    and can be waited for again.
    """
    held, closing = Held(), Held()
    _, client = await against(held, closing)
    task = create(client)
    await held.asked.wait()
    task.cancel()
    held.answer.set_result(CREATED)
    await closing.asked.wait()
    leaving = asyncio.ensure_future(client.aclose())
    await loop_steps(3)
    leaving.cancel()
    await ended(leaving)
    closing.answer.set_result(CLOSED)
    await client.aclose()
    await ended(task)
    assert client._transport.pool.sessions == {}
    assert ours() == set()
    await client.aclose()


@pytest.mark.parametrize("steps", range(6))
def test_an_event_loop_that_shuts_down_closes_the_session_or_tells(
    steps: int, caplog: pytest.LogCaptureFixture, time: ManualClock
) -> None:
    """When the whole loop ends, a DELETE is sent again, and a request that could not be saved is
    told in the log.
    """
    seen: list[str] = []

    async def main() -> None:
        held = Held()
        server = FaultServer(held, hang, CLOSED)
        await server.__aenter__()
        client = AsyncSessionClient(
            [IBMCloudAPIKey("key"), ServiceCRN(CRN)], base_url=server.url, clock=time
        )
        task = create(client)
        await held.asked.wait()
        task.cancel()
        if steps >= 3:
            held.answer.set_result(CREATED)
            await until(lambda: len(server.received) == 2)
        else:
            await loop_steps(steps)
        keep.extend([server, client, task])

    keep: list[Any] = []
    runner = asyncio.Runner()
    runner.run(main())
    loop = runner.get_loop()
    server, client, task = keep

    async def tidy_up() -> None:
        seen.extend(request.method for request in server.received)
        await client.aclose()
        await server.__aexit__(None, None, None)

    others = [task for task in asyncio.all_tasks(loop) if "FaultServer" not in repr(task)]
    for other in others:
        other.cancel()
    loop.run_until_complete(asyncio.gather(*others, return_exceptions=True))
    assert task.cancelled()
    runner.run(tidy_up())
    runner.close()
    if steps >= 3:
        assert seen == ["POST", "DELETE", "DELETE"]
        assert [
            record.levelno for record in caplog.records if record.levelno >= logging.WARNING
        ] == []
    else:
        assert seen == ["POST"]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "its outcome is unknown" in caplog.records[0].getMessage()


async def test_a_cancelled_get_leaves_the_pool_usable(against: Against) -> None:
    """A cancelled read ends at once, and the only connection of the pool is free again."""
    server, client = await against(hang, http(200, {"id": "s1"}), max_concurrency=1)
    for _ in range(3):
        task = asyncio.ensure_future(client.get("s1"))
        await until(lambda: server.received)
        task.cancel()
        error = await ended(task)
        assert not hasattr(error, "__notes__")
        assert (await client.get("s1", timeout=60)).id == "s1"
        server.received.clear()
        server.answers.insert(0, hang)


async def test_a_get_may_be_cancelled_at_every_step(
    emulator: Emulator, client: AsyncSessionClient
) -> None:
    """Whenever a read is cancelled, the next one works and no task is left."""
    session = await client.create(mode="dedicated", max_ttl=60)
    before = ours()
    for steps in range(2000):
        task = asyncio.ensure_future(client.get(session.id))
        await loop_steps(steps)
        undisturbed = task.done()
        task.cancel()
        await asyncio.wait({task})
        assert (await client.get(session.id)).id == session.id
        assert ours() == before
        if undisturbed:
            return
    pytest.fail("it was never done")


class Canned:
    """A transport of a few lines, whose answer comes when it is told to."""

    def __init__(self, outcome: BaseException | Response) -> None:
        self.outcome = outcome
        self.gate = asyncio.Event()
        self.refuse_after = 99

    async def send(self, request: Request) -> Response:
        """Return the outcome."""
        await self.gate.wait()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a task, unless closed."""
        self.refuse_after -= 1
        if self.refuse_after < 0:
            coroutine.close()
            raise ClientClosed("the client is closed.")
        return asyncio.ensure_future(coroutine)


def client_over(transport: Canned, events: list[object]) -> AsyncSessionClient:
    """Return a client whose requests a transport carries."""
    client = AsyncSessionClient(
        [], base_url="http://127.0.0.1", observers=[events.append], api_version="2026-04-15"
    )
    client._caller.spawn = client._calls.spawn = cast("Any", transport).spawn
    client._caller._attempts._transport = transport
    return client


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (
            RuntimeError("planted"),
            ["create was cancelled, and its outcome is unknown: RuntimeError"],
        ),
        (ConfigurationError("plain http"), []),
        (ClientClosed("closed"), []),
    ],
    ids=["foreign", "refused by the transport", "closed"],
)
async def test_what_a_transport_raises_does_not_take_the_place_of_the_cancellation(
    outcome: Exception, told: list[str]
) -> None:
    """A foreign error leaves the outcome unknown; one that the transport raises before it sends
    leaves nothing to tell.
    """
    transport, events = Canned(outcome), list[object]()
    task = asyncio.ensure_future(client_over(transport, events).create(mode="batch"))
    await loop_steps(3)
    task.cancel()
    await loop_steps(3)
    transport.gate.set()
    error = await ended(task)
    assert getattr(error, "__notes__", []) == told
    assert [event.detail for event in events if isinstance(event, CreateCancelled)] == told


async def test_a_cancellation_goes_on_even_where_no_task_can_be_made_any_more() -> None:
    """A client that was closed in between can't end anything: the cancellation says that the
    outcome is unknown.
    """
    transport, events = Canned(Response(200)), list[object]()
    task = asyncio.ensure_future(client_over(transport, events).create(mode="batch"))
    await loop_steps(3)
    transport.refuse_after = 0
    task.cancel()
    error = await ended(task)
    assert error.__notes__ == [
        "create was cancelled, and its outcome is unknown: the client is closed."
    ]
    transport.gate.set()
    await loop_steps(3)


class Fickle(IBMCloudAPIKey):
    """Credentials that may always be better the next time; each request for them is counted."""

    asked = 0

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return them."""
        self.asked += 1
        return await super().headers(transport)

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Promise better ones."""
        return True


@pytest.mark.parametrize("refusal", [http(503), http(401, fault())], ids=["503", "401"])
async def test_a_create_that_was_refused_meanwhile_is_not_sent_again(
    against: Against, refusal: Answer
) -> None:
    """A create in flight when the client closes is not repeated: its session would be left open."""
    held = Held()
    server, client = await against(held, CREATED, auth=[Fickle("key"), ServiceCRN(CRN)])
    task = create(client)
    await held.asked.wait()
    closing = asyncio.create_task(client.aclose())
    await loop_steps(5)
    held.answer.set_result(refusal)
    await closing
    with pytest.raises(QSessionsError) as caught:
        await task
    assert isinstance(caught.value, ClientClosed | Unauthorized)
    assert caught.value.attempts == 1
    assert len(server.received) == 1


async def test_a_cancelled_create_asks_for_no_credentials_any_more(against: Against) -> None:
    """Whatever refuses a create whose caller has left, no token is asked for and no retry
    announced.
    """
    auth = Fickle("key")
    server, _, events = await cancelled_with(
        against, http(401, fault()), auth=[auth, ServiceCRN(CRN)]
    )
    assert (len(server.received), auth.asked, events) == (1, 1, [])


async def test_closing_the_client_waits_no_longer_for_what_ignores_its_cancellation(
    against: Against, time: ManualClock
) -> None:
    """An auth provider that goes on when it is cancelled doesn't keep the client from closing."""
    released = asyncio.Event()

    class Stubborn(IBMCloudAPIKey):
        async def headers(self, transport: Transport) -> Mapping[str, str]:
            while not released.is_set():
                with suppress(asyncio.CancelledError):
                    await released.wait()
            return await super().headers(transport)

    server, client = await against(CREATED, auth=[Stubborn("key"), ServiceCRN(CRN)])
    task = create(client)
    await loop_steps(5)
    closing = asyncio.ensure_future(client.aclose())
    for seconds in (ENDING_TIMEOUT, transport_module._CLOSE_TIMEOUT_S):
        await let_pass(seconds, time)
    await closing
    released.set()
    with pytest.raises(ClientClosed):
        await task
    assert server.received == []


def test_an_event_loop_that_ends_with_a_create_in_flight_reports_nothing_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What became of the create is logged by us, and asyncio finds no error that nobody has
    fetched.
    """

    async def work(url: str) -> None:
        async with AsyncSessionClient(static_auth(), base_url=url) as client:
            await client.create(mode="batch")

    async def main(url: str) -> None:
        task = asyncio.create_task(work(url))
        await until(lambda: service.server.received)
        assert not task.done()

    with threaded(FaultServer(hang)) as service:
        asyncio.run(main(service.server.url))
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_an_exit_in_a_create_whose_caller_has_left_ends_the_program() -> None:
    """SystemExit from an observer isn't lost with a cancelled create, and its session is closed."""

    def leave(event: object) -> None:
        if isinstance(event, ResponseReceived) and event.operation == "create":
            raise SystemExit(3)

    async def main() -> None:
        async with AsyncSessionClient(
            static_auth(), base_url=service.server.url, observers=[leave]
        ) as client:
            task = create(client)
            await until(lambda: service.server.received)
            task.cancel()
            await loop_steps(5)
            service.loop.call_soon_threadsafe(answered.set)
            await asyncio.wait({task})

    answered = asyncio.Event()
    # In a thread, since the event loop that ends here would leave its connections open.
    with threaded(FaultServer(held(answered, CREATED), CLOSED)) as service:
        with pytest.raises(SystemExit):
            asyncio.run(main())
        assert [request.method for request in service.server.received] == ["POST", "DELETE"]


async def test_a_post_whose_connection_goes_with_the_client_may_have_been_carried_out(
    against: Against,
) -> None:
    """Closing the transport under a request that can't be repeated leaves its outcome unknown."""
    server, _ = await against(hang)
    transport = transport_module.AiohttpTransport(Clock())
    request = Request(
        "create", "POST", URL(server.url + "/v1/sessions"), {}, b"{}", repeatable=False
    )
    sending = asyncio.ensure_future(transport.send(request))
    await server.arrival(1)
    await transport.aclose()
    with pytest.raises(ConnectionFailed, match="closed during the call"):
        await sending


def test_an_exit_before_anything_is_sent_leaves_no_record(tmp_path: Path) -> None:
    """What an observer raises before the request goes out is the caller's, and nothing was created."""
    ledger = LocalLedger(tmp_path)

    def leave(event: object) -> None:
        if isinstance(event, RequestSent):
            raise SystemExit(3)

    async def main() -> None:
        async with AsyncSessionClient(
            static_auth(), base_url="http://127.0.0.1", ledger=ledger, observers=[leave]
        ) as client:
            await client.create(mode="batch", max_ttl=600)

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert asyncio.run(ledger.entries()) == []


async def test_a_failed_create_leaves_no_cycle(against: Against) -> None:
    """The frames of a failed create go with its error, without the garbage collector."""
    _, client = await against(http(403, fault()))
    gc.disable()
    try:
        with pytest.raises(Forbidden) as caught:
            await client.create(mode="batch")
        error = weakref.ref(caught.value)
        del caught
        await loop_steps(2)
        assert error() is None
    finally:
        gc.enable()
