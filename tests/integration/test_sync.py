"""The synchronous facade: its calls from scripts, threads and notebooks, and its end. Ctrl-C and
forks have a file of their own.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import pytest
from blockbuster import BlockBuster

from qsessions import (
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    CreateSession,
    Event,
    IBMCloudAuth,
    InvalidArgument,
    LiveSession,
    NotFound,
    QSessionsError,
    RequestSent,
    ServiceCRN,
    SessionClient,
    SessionLeftOpen,
    Transport,
)
from qsessions.emulator import Emulator
from qsessions.session import signals as signals_module
from qsessions.testing import ManualClock, ThreadedEmulator
from tests.support.calls import SESSION, fault
from tests.support.clients import static_auth
from tests.support.fault_server import FaultServer, hang, http
from tests.support.threaded import threaded


@pytest.fixture
def emulator(time: ManualClock) -> Iterator[ThreadedEmulator]:
    """Return an emulator in another thread, on the test's time."""
    with ThreadedEmulator(Emulator(clock=time.wall, seed=1)) as emulator:
        yield emulator


@pytest.fixture
def client(emulator: ThreadedEmulator, time: ManualClock) -> Iterator[SessionClient]:
    """Return a client of it."""
    with client_of(emulator, clock=time) as client:
        yield client


def client_of(emulator: ThreadedEmulator, **options: Any) -> SessionClient:
    """Make a client of an emulator."""
    auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
    return SessionClient(auth, base_url=emulator.url, **options)


@pytest.mark.smoke
def test_calls_do_what_the_asynchronous_ones_do(
    client: SessionClient, emulator: ThreadedEmulator
) -> None:
    """Create, get, update, drain, close, jobs, workloads and versions give the same values."""
    first = client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    second = client.create(CreateSession("batch", backend="ibm_fez"))
    assert client.get(first.id) == first
    client.update(first.id, accepting_jobs=True)
    assert not client.has_pending_jobs(first.id)
    assert [workload.id for workload in client.workloads()] == [first.id, second.id]
    client.drain(first.id)
    client.close(second.id)
    assert {session.state for session in emulator.sessions.values()} == {"closed"}
    assert "2026-04-15" in [version.version for version in client.versions()]


@pytest.mark.smoke
def test_a_live_session_is_watched_to_its_end(
    client: SessionClient, emulator: ThreadedEmulator
) -> None:
    """A handle refreshes, watches, waits, drains and closes as the asynchronous one does."""
    live = client.attach(client.create(mode="dedicated", backend="ibm_fez", max_ttl=600).id)
    assert isinstance(live, LiveSession)
    assert live.snapshot is None
    assert live.refresh() == live.snapshot
    assert repr(live) == f"<LiveSession {live.id!r} last seen open>"
    emulator.submit_job(live.id, seconds=30)
    assert live.wait_until("active", timeout="5m").state == "active"
    live.drain()
    assert [snapshot.state for snapshot in live.watch()][-1] == "closed"
    live.close()


def test_usage_and_jobs_are_read(client: SessionClient, emulator: ThreadedEmulator) -> None:
    """A session's jobs and the instance's usage are read, and a session ends with its share."""
    with client.open(mode="dedicated", max_ttl="1h", max_usage=30) as live:
        job = emulator.submit_job(live.id, seconds=60)
        assert [found.id for found in live.jobs()] == [job]
        live.wait_until("closed")
        assert live.ended_by == "max_usage"
    assert client.usage().usage_consumed_seconds >= 30


@pytest.mark.smoke
def test_many_sessions_are_watched_to_their_end(client: SessionClient) -> None:
    """The changes of several sessions come in one iterator, which ends with the last one."""
    sessions = [client.create(mode="batch", backend="ibm_fez").id for _ in range(3)]
    seen: list[tuple[str, str]] = []
    for session_id, snapshot in client.watch(sessions, timeout="1h"):
        seen.append((session_id, str(snapshot.state)))
        if snapshot.state == "open":
            client.close(session_id)
    assert sorted(seen) == sorted(
        (session_id, state) for session_id in sessions for state in ("closed", "open")
    )
    with pytest.raises(InvalidArgument):
        client.watch("s1")


@pytest.mark.smoke
def test_errors_reach_the_caller_as_they_are(client: SessionClient) -> None:
    """An error has its facts, and arguments are checked before anything is sent."""
    with pytest.raises(NotFound) as caught:
        client.get("no-such-session")
    assert (caught.value.operation, caught.value.session_id, caught.value.status) == (
        "get",
        "no-such-session",
        404,
    )
    with pytest.raises(InvalidArgument):
        client.workloads(mode="no such mode")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(InvalidArgument):
        client.attach("")
    with pytest.raises(InvalidArgument):
        client.create(mode="dedicated", max_ttl=0)


def test_repr_shows_where_it_calls() -> None:
    """The repr has the base URL and no credential."""
    with SessionClient(static_auth(), base_url="https://example.com/api") as client:
        assert repr(client) == "SessionClient(base_url='https://example.com/api')"


def test_it_tells_where_it_calls(client: SessionClient, emulator: ThreadedEmulator) -> None:
    """The base URL and the instance can be read."""
    assert (client.base_url, client.instance) == (emulator.url, emulator.crn)


def test_a_client_that_cannot_be_made_leaves_no_thread() -> None:
    """A wrong argument is refused before there is a thread, and its traceback shows no secret."""
    before = threading.active_count()
    with pytest.raises(ConfigurationError):
        SessionClient(static_auth(), base_url="no URL")
    assert threading.active_count() == before


def test_settings_that_cannot_be_found_end_the_client() -> None:
    """Where entering fails, the client is shut down."""
    client = SessionClient(account="missing")
    with pytest.raises(ConfigurationError):
        client.__enter__()
    with pytest.raises(ClientClosed):
        client.versions()


@pytest.mark.smoke
def test_many_threads_share_one_client(client: SessionClient, emulator: ThreadedEmulator) -> None:
    """32 threads call through one client at once, over one pool and with one token."""
    together = threading.Barrier(32)

    def work(_: int) -> str:
        together.wait()
        session = client.create(mode="batch", backend="ibm_fez")
        for _ in range(5):
            assert client.get(session.id).id == session.id
        client.close(session.id)
        return session.id

    with ThreadPoolExecutor(32) as pool:
        ids = list(pool.map(work, range(32)))
    assert len(set(ids)) == 32
    assert {session.state for session in emulator.sessions.values()} == {"closed"}
    paths = [request.path for request in emulator.requests]
    assert paths.count("/identity/token") == 1


def test_calls_work_inside_a_running_event_loop(
    client: SessionClient, blockbuster: BlockBuster
) -> None:
    """A notebook's cell, in whose thread a loop runs, makes calls as any other code."""
    blockbuster.deactivate()

    async def cell() -> str:
        session = client.create(mode="batch", backend="ibm_fez")
        client.close(session.id)
        return str(next(client.attach(session.id).watch()).state)

    assert asyncio.run(cell()) == "closed"


def test_a_call_tells_that_a_handler_was_reset(
    client: SessionClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the handler of Ctrl-C was reset within a block with `handle_signals`, as a notebook does
    it, the client's next call logs a warning, once.
    """
    monkeypatch.setattr(signals_module._process, "_has_warned", False)
    with client.open(mode="batch", max_ttl=600, handle_signals=True) as live:
        kept = signal.signal(signal.SIGINT, signal.default_int_handler)
        for _ in range(2):
            live.refresh()
            warnings = [one for one in caplog.records if "no longer closes" in one.message]
            assert len(warnings) == 1
        signal.signal(signal.SIGINT, kept)


def test_iterators_can_be_left_half_way(client: SessionClient, emulator: ThreadedEmulator) -> None:
    """A list or a watch that nobody goes on reading fetches nothing more, and its generator is
    closed.
    """
    ids = [client.create(mode="batch", backend="ibm_fez").id for _ in range(5)]
    live = client.attach(ids[0])
    assert next(client.workloads(mode="batch", page_size=2)).mode == "batch"
    assert next(live.watch()).state == "open"
    gc.collect()
    client.versions()
    pages = [request for request in emulator.requests if "workloads" in request.path]
    assert len(pages) == 1


def test_an_iterator_holds_its_client(emulator: ThreadedEmulator) -> None:
    """A client that only an iterator needs any more is not taken for one that nobody shut down."""
    client = client_of(emulator)
    client.create(mode="batch", backend="ibm_fez")
    listed = client.workloads()
    finish = client.shutdown
    del client
    gc.collect()
    assert len(list(listed)) == 1
    finish()


class Own:
    """An auth provider that does what a test wants."""

    def __init__(self, raised: BaseException) -> None:
        self.raised: BaseException | None = raised

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Raise, the first time."""
        raised, self.raised = self.raised, None
        if raised is not None:
            raise raised
        return {}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Return that nothing can be done."""
        return False


@pytest.mark.parametrize(
    "raised", [SystemExit("no more"), asyncio.CancelledError("no more")], ids=repr
)
def test_what_a_provider_raises_reaches_the_caller(raised: BaseException) -> None:
    """Whatever a provider raises is the caller's, and the loop goes on."""
    with (
        threaded(FaultServer(http(200, SESSION))) as server,
        SessionClient(Own(raised), base_url=server.server.url) as client,
    ):
        with pytest.raises(type(raised)):
            client.get("s1")
        assert client.get("s1").id == "s1"


def test_context_variables_reach_observers() -> None:
    """Observers run in the context of the call, so that tracing finds its span."""
    span: ContextVar[str] = ContextVar("span")
    seen: list[str] = []

    def observe(event: Event) -> None:
        seen.append(span.get("none"))

    with (
        threaded(FaultServer(http(200, SESSION))) as server,
        SessionClient(static_auth(), base_url=server.server.url, observers=[observe]) as client,
    ):
        span.set("the caller's")
        client.get("s1")
    assert set(seen) == {"the caller's"}


def test_a_call_from_its_own_thread_is_refused() -> None:
    """An observer that calls its client, or shuts it down, gets an error in place of a deadlock."""
    refused: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, RequestSent):
            for call in (lambda: ours.get("s2"), ours.shutdown):
                with pytest.raises(ConfigurationError) as caught:
                    call()
                refused.append(str(caught.value))

    with (
        threaded(FaultServer(http(200, SESSION))) as server,
        SessionClient(static_auth(), base_url=server.server.url, observers=[observe]) as ours,
    ):
        assert ours.get("s1").id == "s1"
    assert len(refused) == 2
    assert all("own thread" in told for told in refused)


def test_calls_after_shutdown_are_refused(client: SessionClient) -> None:
    """After `shutdown`, which may be called twice, every call says that the client is closed."""
    live = client.attach("s1")
    listed = client.workloads()
    client.shutdown()
    client.shutdown()
    for call in (client.versions, lambda: client.attach("s2"), live.refresh, lambda: next(listed)):
        with pytest.raises(ClientClosed, match="shut down"):
            call()


@pytest.mark.parametrize("operation", ["get", "wait_until"])
def test_shutdown_ends_calls_of_other_threads(operation: str) -> None:
    """A call that still waits when another thread shuts the client down gets an error at once."""
    raised: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(QSessionsError) as caught:
            ours.get("s1") if operation == "get" else ours.attach("s1").wait_until("closed")
        raised.append(caught.value)

    with (
        threaded(FaultServer(hang)) as server,
        SessionClient(static_auth(), base_url=server.server.url) as ours,
    ):
        waiting = threading.Thread(target=wait)
        waiting.start()
        server.wait(server.server.arrival())
        ours.shutdown()
        waiting.join()
    assert isinstance(raised[0], ClientClosed | ConnectionFailed)


class Stubborn:
    """An auth provider that doesn't come to an end, and doesn't want to be cancelled."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Wait for what never comes."""
        self.asked.set()
        await asyncio.get_running_loop().create_future()
        return {}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Return that nothing can be done."""
        return False


def test_shutdown_ends_what_waits_for_a_provider() -> None:
    """A call that hangs in a user's provider is cancelled by shutdown, and its caller told."""
    provider = Stubborn()
    client = SessionClient(provider, base_url="https://example.com")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, "s1")
        provider.asked.wait()
        client.shutdown()
        with pytest.raises(ClientClosed, match="shut down during the call"):
            waiting.result()


def test_shutdown_brings_a_create_in_flight_to_its_end() -> None:
    """A create of another thread is still answered while the client is being shut down."""
    answer = threading.Event()

    async def slowly(connection: Any) -> None:
        await asyncio.to_thread(answer.wait)
        await connection.write(http(200, SESSION))

    with (
        threaded(FaultServer(slowly)) as server,
        SessionClient(static_auth(), base_url=server.server.url) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        creating = pool.submit(client.create, mode="dedicated", max_ttl=600)
        server.wait(server.server.arrival())
        closing = pool.submit(client.shutdown)
        while not client._thread.closing:
            pass
        answer.set()
        assert creating.result().id == "s1"
        closing.result()


def test_a_client_that_nobody_shut_down_is_told_and_ended(emulator: ThreadedEmulator) -> None:
    """Collected without `shutdown`, a client warns and ends its thread."""
    clients = [client_of(emulator)]
    clients[0].versions()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "qsessions"]
    with pytest.warns(ResourceWarning, match="not shut down"):
        clients.clear()
    thread.join()


def test_no_call_is_begun_while_the_interpreter_ends(
    client: SessionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When threads are gone already, a call says so instead of waiting for ever, and so does a new
    client.
    """
    with monkeypatch.context() as patched:
        patched.setattr(sys, "is_finalizing", lambda: True)
        with pytest.raises(ClientClosed, match="interpreter"):
            client.versions()
        with pytest.raises(ConfigurationError, match="thread can't be started"):
            SessionClient(static_auth(), base_url="https://example.com")
        client.shutdown()
    client.versions()


@pytest.mark.smoke
def test_a_block_ends_its_session(client: SessionClient, emulator: ThreadedEmulator) -> None:
    """A clean block drains its session, one that fails closes it, and the handle knows the session."""
    with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as live:
        assert isinstance(live, LiveSession)
        assert live.snapshot is not None
    with pytest.raises(KeyError), client.open(mode="batch", backend="ibm_fez", max_ttl="10m"):
        raise KeyError("x")
    assert {session.state for session in emulator.sessions.values()} == {"closed"}
    with pytest.raises(InvalidArgument):
        client.open(mode="batch", on_exit="leave")  # type: ignore[call-overload]  # that is the point


def test_a_block_whose_ending_fails_says_so() -> None:
    """A clean block raises SessionLeftOpen, another error goes on with a note."""
    refused = http(403, fault("You may not."))
    with (
        threaded(FaultServer(http(200, SESSION), refused, http(200, SESSION), refused)) as server,
        SessionClient(static_auth(), base_url=server.server.url) as client,
    ):
        with (
            pytest.raises(SessionLeftOpen, match="You may not"),
            client.open(mode="batch", max_ttl=600),
        ):
            pass
        with pytest.raises(KeyError) as caught, client.open(mode="batch", max_ttl=600):
            raise KeyError("x")
    assert "is left open" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "ending", [http(204), http(403, fault("You may not."))], ids=["done", "refused"]
)
def test_shutdown_in_a_block_ends_its_session(ending: bytes) -> None:
    """`shutdown` ends the session of a block that is still running; where it could not, the block
    says so.
    """
    with threaded(FaultServer(http(200, SESSION), ending)) as server:
        client = SessionClient(static_auth(), base_url=server.server.url)
        left = (
            pytest.raises(SessionLeftOpen, match="shut down")
            if ending.startswith(b"HTTP/1.1 403")
            else nullcontext()
        )
        with left, client.open(mode="batch", max_ttl=600):
            client.shutdown()
        assert [request.method for request in server.server.received] == ["POST", "PATCH"]


def test_user_headers_are_in_no_traceback(emulator: ThreadedEmulator) -> None:
    """A header that the user set may be secret, and isn't shown by a traceback with locals."""
    with client_of(emulator, headers={"X-Mine": "planted-secret"}) as client:
        with pytest.raises(NotFound) as caught:
            client.get("no-such-session")
        told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "planted-secret" not in "".join(told.format())
