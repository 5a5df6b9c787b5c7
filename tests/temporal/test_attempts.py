"""What an attempt does as Temporal's server says that it is the current one, or isn't, or nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.activity import ActivityCancellationDetails
from temporalio.client import AsyncActivityCancelledError
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from qsessions import AsyncSessionClient, ConfigurationError, CreateSession, Event, SessionDraining
from qsessions.emulator import Emulator
from qsessions.integrations import temporal
from qsessions.integrations.temporal import owned_session
from qsessions.testing import ManualClock
from tests.support.clients import client_of
from tests.support.waiting import until

WANTED = CreateSession("dedicated", backend="ibm_fez", max_ttl="10m")
NOT_FOUND = RPCError("no such activity", RPCStatusCode.NOT_FOUND, b"")
AWAY = RPCError("try again", RPCStatusCode.UNAVAILABLE, b"")


class Server:
    """What a client of Temporal is asked for.

    Attributes:
        heartbeats: The details of each heartbeat.
        says: What it answers to a heartbeat: an error to raise, or None.
        is_pending: Whether it lists the activity, or an error to raise.
        gate: Waited for before a heartbeat is answered.
    """

    def __init__(self) -> None:
        self.heartbeats: list[tuple[Any, ...]] = []
        self.says: Exception | None = None
        self.is_pending: bool | Exception = True
        self.gate = asyncio.Event()
        self.gate.set()

    def get_async_activity_handle(self, *, task_token: bytes) -> Server:
        """Return the activity."""
        assert task_token
        return self

    def get_workflow_handle(self, workflow_id: str, *, run_id: str) -> Server:
        """Return the workflow."""
        assert (workflow_id, run_id) == ("test", "test-run")
        return self

    async def heartbeat(self, *details: Any) -> None:
        """Take a heartbeat."""
        self.heartbeats.append(details)
        await self.gate.wait()
        if self.says is not None:
            raise self.says

    async def describe(self) -> Any:
        """Describe the workflow."""
        if isinstance(self.is_pending, Exception):
            raise self.is_pending
        pending = [SimpleNamespace(activity_id="test")] if self.is_pending else []
        raw = SimpleNamespace(pending_activities=pending)
        return SimpleNamespace(raw_description=raw, close_time=None)


@pytest.fixture
async def events() -> list[Event]:
    """Return the client's events."""
    return []


@pytest.fixture
async def client(
    emulator: Emulator, time: ManualClock, events: list[Event]
) -> AsyncIterator[AsyncSessionClient]:
    """Return a client of a worker."""
    async with client_of(emulator, time, observers=[events.append]) as client:
        yield client


@pytest.fixture
async def server() -> Server:
    """Return a server."""
    return Server()


def environment(server: Server | None, **fields: Any) -> ActivityEnvironment:
    """Return an activity's surroundings, in which it can beat ten times a second."""
    environment = ActivityEnvironment(client=server)  # type: ignore[arg-type, unused-ignore]
    about = {"heartbeat_timeout": timedelta(seconds=0.3)} | fields
    environment.info = dataclasses.replace(environment.info, **about)
    return environment


def owning(client: AsyncSessionClient, block: Any = None) -> Callable[[], Awaitable[str]]:
    """Return an activity that owns a session while it calls a function."""

    async def activity() -> str:
        async with owned_session(client, WANTED) as live:
            if block is not None:
                await block(live)
            return live.id

    return activity


def operations(emulator: Emulator) -> list[str | None]:
    """Return what was asked for, in order, without reads and tokens."""
    asked = [request.operation for request in emulator.requests]
    return [operation for operation in asked if operation not in {"token", "get"}]


def accepting(emulator: Emulator) -> list[str]:
    """Return the sessions that take jobs."""
    return [session.id for session in emulator.open_sessions if session.accepting_jobs]


@pytest.mark.parametrize(
    "fields", [{"heartbeat_timeout": None}, {"is_local": True}, {"workflow_id": None}]
)
async def test_what_can_be_retried_too_late_owns_nothing(
    client: AsyncSessionClient, emulator: Emulator, fields: dict[str, Any]
) -> None:
    """Without heartbeats, and outside an activity, nothing is created."""
    with pytest.raises(ConfigurationError, match="heartbeat_timeout"):
        await environment(None, **fields).run(owning(client))
    with pytest.raises(ConfigurationError, match="heartbeat_timeout"):
        await owning(client)()
    assert operations(emulator) == []


async def test_a_test_without_a_server(client: AsyncSessionClient, emulator: Emulator) -> None:
    """An activity in the environment of its own tests is the current one, and sends heartbeats."""
    stage = environment(None)
    beats: list[tuple[Any, ...]] = []
    stage.on_heartbeat = lambda *details: beats.append(details)

    async def wait(_: Any) -> None:
        await until(lambda: len(beats) > 2)

    session = await stage.run(owning(client, wait))
    assert beats[:3] == [(session,)] * 3
    assert operations(emulator) == ["create", "update"]


async def test_the_id_is_with_the_server_before_the_block_begins(
    client: AsyncSessionClient, server: Server
) -> None:
    """So a worker that is killed in the block leaves it to the retry."""
    known: list[tuple[Any, ...]] = []

    async def block(_: Any) -> None:
        known.extend(server.heartbeats)

    session = await environment(server).run(owning(client, block))
    assert known == [(session,)]


@pytest.mark.parametrize("end", ["none", "close", "drain"])
async def test_a_retry(
    client: AsyncSessionClient, server: Server, emulator: Emulator, end: str
) -> None:
    """It takes the session of the attempt before over if that takes jobs, else it has its own."""
    before = (await client.create(WANTED)).id
    emulator.submit_job(before, seconds=1000)
    if end != "none":
        await getattr(client, end)(before)
    session = await environment(server, heartbeat_details=[before]).run(owning(client))
    assert (session == before) == (end == "none")
    assert accepting(emulator) == []


@pytest.mark.parametrize("details", [[{"circuits": 4}], [""], ["00000000-no-such-session"]])
async def test_details_of_somebody_else(
    client: AsyncSessionClient, server: Server, emulator: Emulator, details: list[Any]
) -> None:
    """What is no session's id is passed over."""
    await environment(server, heartbeat_details=details).run(owning(client))
    assert operations(emulator) == ["create", "update"]


async def test_a_new_session_of_a_stale_attempt(
    client: AsyncSessionClient, server: Server, emulator: Emulator
) -> None:
    """Another attempt began while it was being created: nobody else knows of it, so it is closed."""
    server.says = NOT_FOUND
    with pytest.raises(CancelledError, match="another attempt"):
        await environment(server).run(owning(client))
    assert operations(emulator) == ["create", "close"]


async def test_a_taken_over_session_of_a_stale_attempt(
    client: AsyncSessionClient, server: Server, emulator: Emulator
) -> None:
    """It is another attempt's by now, and left alone until the activity is over."""
    before = (await client.create(WANTED)).id
    server.says = NOT_FOUND
    with pytest.raises(CancelledError, match="another attempt"):
        await environment(server, heartbeat_details=[before]).run(owning(client))
    assert accepting(emulator) == [before]
    server.is_pending = False
    await until(lambda: operations(emulator) == ["create", "close"])


async def test_an_attempt_that_is_asked_to_stop(
    client: AsyncSessionClient, server: Server, emulator: Emulator
) -> None:
    """It is still the current one, and ends its session."""
    server.says = AsyncActivityCancelledError(ActivityCancellationDetails(cancel_requested=True))
    await environment(server).run(owning(client))
    assert operations(emulator) == ["create", "update"]


async def test_another_attempt_that_ends_the_session(
    client: AsyncSessionClient, server: Server, emulator: Emulator, events: list[Event]
) -> None:
    """A stale attempt sends nothing while the other one goes on. When that drains the session it is
    recorded, and its jobs go on.
    """

    async def block(live: Any) -> None:
        emulator.submit_job(live.id, seconds=1000)
        server.says = NOT_FOUND

    session = await environment(server).run(owning(client, block))
    assert accepting(emulator) == [session]
    assert operations(emulator) == ["create"]
    async with client_of(emulator, client.clock) as other:
        await other.drain(session)
    server.is_pending = False
    await until(lambda: SessionDraining(session_id=session) in events)
    assert "close" not in operations(emulator)
    assert emulator.jobs != {}


async def test_a_session_that_is_over_is_watched_no_more(
    client: AsyncSessionClient, server: Server
) -> None:
    """Once it is closed or the client is, nobody asks Temporal any more."""

    async def block(_: Any) -> None:
        server.says = NOT_FOUND

    session = await environment(server).run(owning(client, block))
    await until(lambda: len(temporal._keepers) == 1)
    await client.close(session)
    await until(lambda: not temporal._keepers)
    server.says = None
    await environment(server).run(owning(client, block))
    await until(lambda: len(temporal._keepers) == 1)
    await client.aclose()
    await until(lambda: not temporal._keepers)


@pytest.mark.parametrize("answer", ["error", "none"])
async def test_a_server_that_does_not_answer(
    client: AsyncSessionClient,
    server: Server,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    """The session is left alone, since another attempt may have begun, until the server says that
    the activity is over. Then it ends as its block did.
    """
    monkeypatch.setattr(temporal, "_ANSWER_S", 0.05)

    async def block(_: Any) -> None:
        server.says = AWAY
        if answer == "none":
            server.gate.clear()

    server.is_pending = AWAY
    session = await environment(server).run(owning(client, block))
    assert accepting(emulator) == [session]
    server.is_pending = NOT_FOUND
    await until(lambda: operations(emulator) == ["create", "update"])


async def test_a_cancellation_while_temporal_is_asked(
    client: AsyncSessionClient, server: Server, emulator: Emulator
) -> None:
    """The session ends all the same, and then the cancellation goes on."""

    async def block(_: Any) -> None:
        server.gate.clear()

    running = asyncio.ensure_future(environment(server).run(owning(client, block)))
    await until(lambda: len(server.heartbeats) == 2)
    running.cancel()
    await asyncio.sleep(0)
    server.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert operations(emulator) == ["create", "update"]


async def test_a_cancellation_before_the_block(
    client: AsyncSessionClient, server: Server, emulator: Emulator
) -> None:
    """While the id is told to Temporal, it closes the session."""
    server.gate.clear()
    running = asyncio.ensure_future(environment(server).run(owning(client)))
    await until(lambda: server.heartbeats)
    running.cancel()
    await until(lambda: len(server.heartbeats) == 2)
    server.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert operations(emulator) == ["create", "close"]


async def test_a_worker_that_shuts_down_without_a_shared_ledger(
    client: AsyncSessionClient, server: Server, emulator: Emulator
) -> None:
    """Nothing would end the session if no retry came, so it is closed."""
    stage = environment(server)

    async def block(_: Any) -> None:
        stage.cancel(ActivityCancellationDetails(worker_shutdown=True))
        await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await stage.run(owning(client, block))
    assert operations(emulator) == ["create", "close"]
