"""The emulator in a thread of its own, and the clients that the pytest plugin makes for it."""

from __future__ import annotations

import asyncio
import copy
import errno
import inspect
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import create_autospec

import pytest

from qsessions import (
    AsyncSessionClient,
    BackendAuthentication,
    ClientClosed,
    ConnectionFailed,
    ExternalServiceToken,
    IBMCloudAPIKey,
    IBMCloudAuth,
    NotFound,
    RetryPolicy,
    SessionClient,
)
from qsessions.emulator import Emulator, Fault, ServiceError
from qsessions.testing import threaded
from qsessions.testing.clients import async_client, sync_client
from qsessions.testing.threaded import ThreadedEmulator


@pytest.fixture
def emulator() -> Iterator[ThreadedEmulator]:
    """Run an emulator whose time stands still until it is moved."""
    with ThreadedEmulator(Emulator(speed=0)) as emulator:
        yield emulator


@pytest.fixture
def sync(emulator: ThreadedEmulator) -> Iterator[SessionClient]:
    """Return a client for code that doesn't await."""
    with sync_client(emulator) as client:
        yield client


def public(kind: type) -> dict[str, object]:
    """Return what a class has for its users: the signature of each method, and its properties."""
    return {
        name: inspect.signature(value, eval_str=True) if inspect.isfunction(value) else type(value)
        for name, value in vars(kind).items()
        if not name.startswith("_")
    }


def test_it_has_what_the_emulator_has() -> None:
    """Each public method and property of the emulator is there, with the same parameters and
    results.
    """
    assert public(ThreadedEmulator) == public(Emulator)


def test_a_plain_with_leads_here() -> None:
    """Entering the emulator itself without awaiting raises an error that names what there is for that."""
    emulator: Any = Emulator()
    with (
        pytest.raises(
            TypeError,
            match=r"`with ThreadedEmulator\(Emulator\(\)\)`, from qsessions\.testing\.threaded",
        ),
        emulator,
    ):
        pass


def test_all_of_it_is_asked_in_its_thread(emulator: ThreadedEmulator, sync: SessionClient) -> None:
    """What the emulator has can be seen and changed without awaiting."""
    address = emulator.iam_url.removeprefix("http://")
    assert repr(emulator) == f"ThreadedEmulator(<Emulator running at {address}>)"
    assert emulator.env() == {
        "QSESSIONS_BASE_URL": emulator.url,
        "IAM_URL": emulator.iam_url,
        "QISKIT_IBM_TOKEN": emulator.api_key,
        "QISKIT_IBM_INSTANCE": emulator.crn,
    }
    assert emulator.backend_token != emulator.service_token
    other = emulator.add_instance(plan="open")
    assert emulator.crns == (emulator.crn, other)
    emulator.delete_instance(other)
    with pytest.raises(ValueError, match="names no instance that is served"):
        emulator.delete_instance(other)
    session = sync.create(mode="batch", backend="ibm_fez", max_ttl="10m")
    job = emulator.submit_job(session.id, seconds=30)
    before = emulator.now()
    assert emulator.advance(timedelta(minutes=1)) == emulator.now() == before + 60
    assert emulator.jobs[job].status == "Completed"
    assert [event.what for event in emulator.events if event.job_id == job] == [
        "job_queued",
        "job_started",
        "job_ended",
    ]
    assert [open_session.id for open_session in emulator.open_sessions] == [session.id]
    with pytest.raises(AssertionError, match=session.id):
        emulator.assert_no_open_sessions()
    emulator.assert_no_open_sessions(ignoring=[session.id])
    emulator.revoke_tokens()
    sync.close(session.id)
    emulator.assert_no_open_sessions()
    assert emulator.sessions[session.id].state == "closed"
    assert [(request.operation, request.status) for request in emulator.requests] == [
        ("token", 200),
        ("create", 200),
        ("close", 401),
        ("token", 200),
        ("close", 204),
    ]


def test_errors_are_the_callers(emulator: ThreadedEmulator) -> None:
    """What the emulator refuses is raised where it was asked for, and it goes on."""
    with pytest.raises(ValueError, match="no duration"):
        emulator.advance("soon")
    with pytest.raises(ServiceError):
        emulator.submit_job("none")
    assert emulator.open_sessions == []


async def test_nothing_blocks_a_tests_event_loop_for_those_who_look(
    emulator: ThreadedEmulator,
) -> None:
    """It can be asked where an event loop runs and a detector watches it, and be stopped and
    started there.
    """
    emulator.advance("1m")
    emulator.stop()
    emulator.start()
    assert emulator.requests == []


def test_an_outage(emulator: ThreadedEmulator) -> None:
    """While it is stopped nobody answers, though time goes on; afterwards it is there as it was, at
    the same place.
    """
    with SessionClient([], base_url=emulator.url, retry=RetryPolicy(max_attempts=1)) as client:
        assert client.versions()
        emulator.stop()
        before = emulator.now()
        with pytest.raises(ConnectionFailed):
            client.versions()
        emulator.advance("1h")
        emulator.start()
        assert client.versions()
        assert emulator.now() == before + 3600
        with pytest.raises(RuntimeError, match="running already"):
            emulator.start()


def test_faults_from_the_tests_thread(emulator: ThreadedEmulator) -> None:
    """The plan of what goes wrong is changed while the emulator serves."""
    with SessionClient([], base_url=emulator.url, retry=RetryPolicy(max_attempts=1)) as client:
        emulator.faults.add(Fault(kind="reset"))
        with pytest.raises(ConnectionFailed):
            client.versions()
        emulator.faults.clear()
        assert client.versions()


def test_use_outside_with() -> None:
    """Outside `with`, and at a second one inside, it says what to do."""
    emulator = ThreadedEmulator(Emulator())
    with pytest.raises(RuntimeError, match="inside `with`"):
        emulator.advance(1)
    with emulator, pytest.raises(RuntimeError, match="runs already"), emulator:
        pass
    with pytest.raises(RuntimeError, match="inside `with`"):
        assert emulator.sessions
    with emulator:
        assert emulator.sessions == {}


def test_a_port_that_is_taken() -> None:
    """Where it can't listen the error is the caller's, and no thread is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        emulator = ThreadedEmulator(Emulator(port=taken.getsockname()[1]))
        with pytest.raises(OSError, match="in use"), emulator:
            pass
    assert "qsessions-emulator" not in [thread.name for thread in threading.enumerate()]


def test_many_threads_ask_at_once(emulator: ThreadedEmulator) -> None:
    """Threads may ask as they like; each gets its own answer."""
    jobs: list[str] = []

    def ask() -> None:
        for _ in range(20):
            jobs.append(emulator.submit_job(seconds=1))
            assert jobs[-1] in emulator.jobs

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(emulator.jobs) == sorted(jobs)
    assert len(set(jobs)) == 160


def test_a_client_on_one_loop_after_another(emulator: ThreadedEmulator) -> None:
    """A client serves each event loop, also where a handle was made before its first call there,
    and ends its connections with the loop.
    """
    with async_client(emulator) as client:
        session = asyncio.run(create(client))

        async def wait() -> bool:
            live = client.attach(session)
            await client.close(session)
            return (await live.wait_until("closed")).is_final

        assert asyncio.run(wait())


async def create(client: AsyncSessionClient) -> str:
    """Create a session and return its id."""
    return (await client.create(mode="batch", backend="ibm_fez", max_ttl="10m")).id


def test_a_client_on_two_loops_at_once(emulator: ThreadedEmulator) -> None:
    """Taking turns, two loops use a client as if it were their own; one token does for both."""
    with async_client(emulator) as client, asyncio.Runner() as one, asyncio.Runner() as other:
        session = one.run(create(client))
        for _ in range(2):
            for runner in (one, other):
                assert runner.run(client.get(session)).state == "open"
    assert [request.operation for request in emulator.requests] == ["token", "create", *["get"] * 4]


def test_a_client_passes_for_one(emulator: ThreadedEmulator) -> None:
    """For code under test it is an AsyncSessionClient, which may be entered and left."""

    async def use() -> None:
        async with client as entered:
            assert await entered.versions()
        with pytest.raises(ClientClosed):
            await client.versions()

    with async_client(emulator) as client:
        assert isinstance(client, AsyncSessionClient)
        assert repr(client) == f"AsyncSessionClient(base_url={emulator.url!r})"
        asyncio.run(use())


def test_a_client_ends_with_its_fixture(emulator: ThreadedEmulator) -> None:
    """Where the loop goes on after the fixture, the client is closed there; where it was never
    used, there is nothing to close.
    """
    with asyncio.Runner() as runner:
        with async_client(emulator) as client:
            runner.run(client.versions())
        with pytest.raises(ClientClosed):
            runner.run(client.versions())
    with async_client(emulator):
        pass


async def test_a_client_whose_loop_still_runs(emulator: ThreadedEmulator) -> None:
    """Ended where its loop runs, it can't wait, and leaves its connections to the loop's end."""
    with async_client(emulator) as client:
        assert await client.versions()
    await asyncio.get_running_loop().shutdown_asyncgens()


def test_without_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there can be no event loop, as with too many open files, entering it says so."""

    def none() -> asyncio.AbstractEventLoop:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(threaded, "RealTimeLoop", none)
    with pytest.raises(OSError, match="Too many open files"), ThreadedEmulator(Emulator()):
        pass


def looked_at(client: AsyncSessionClient) -> None:
    """Check what code asks a client for that doesn't call it."""
    assert copy.copy(client) is client
    assert copy.deepcopy({"client": client}) == {"client": client}
    assert isinstance(client, AsyncSessionClient)
    assert issubclass(type(client), AsyncSessionClient)
    names = ("get", "create", "open", "attach", "watch", "workloads", "base_url", "instance", "clock", "aclose")  # fmt: skip
    assert [name for name in names if not hasattr(client, name)] == []
    for name in ("gte", "__len__", "__iter__", "__fspath__", "_repr_html_"):
        assert not hasattr(client, name)
    with pytest.raises(AttributeError, match="'AsyncSessionClient' object has no attribute 'gte'"):
        client.gte  # type: ignore[attr-defined]  # noqa: B018
    assert inspect.iscoroutinefunction(client.get)
    assert not inspect.iscoroutinefunction(client.attach)
    assert inspect.signature(client.get) == inspect.signature(real().get)
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(client)


def real() -> AsyncSessionClient:
    """Return a client that isn't the plugin's."""
    return AsyncSessionClient([], base_url="http://127.0.0.1:1")


@pytest.mark.smoke
def test_the_plugins_client_passes_for_a_client(emulator: ThreadedEmulator) -> None:
    """Copies, `hasattr`, `isinstance`, signatures and pickling are a client's, whether an event loop
    runs or not, and a copy works on each loop.
    """

    async def on_a_loop() -> None:
        looked_at(client)
        live = await copy.deepcopy(client).create(mode="batch", max_ttl="10m")
        async with client as entered:
            assert entered is client
            assert [item.id async for item in client.workloads()] == [live.id]
        await client.aclose()
        with pytest.raises(ClientClosed):
            await client.get(live.id)

    with async_client(emulator) as client:
        looked_at(client)
        assert (client.base_url, client.instance) == (emulator.url, emulator.crn)
        looked_at(real())
        asyncio.run(on_a_loop())
        # `asyncio.run` takes what was called before its loop ran.
        (session_id,) = emulator.sessions
        assert asyncio.run(client.get(session_id)).id == session_id
        with pytest.raises(AttributeError, match="works on a running event loop, and none is"):
            client.workloads()


@pytest.mark.parametrize("is_running", [False, True])
def test_the_plugins_client_is_a_spec(emulator: ThreadedEmulator, *, is_running: bool) -> None:
    """`create_autospec` makes of it what it makes of a client: a mock that passes for one, with its
    methods, awaited or not, and their signatures.
    """

    async def check() -> None:
        for spec in (client, AsyncSessionClient):
            mock: Any = create_autospec(spec, instance=True)
            passes: bool = isinstance(mock, AsyncSessionClient)
            assert passes
            mock.get.return_value = "a session"
            assert await mock.get("s1") == "a session"
            mock.get.assert_awaited_once_with("s1")
            mock.attach("s1")
            with pytest.raises(TypeError):
                mock.attach()
            with pytest.raises(TypeError):
                await mock.get()
            with pytest.raises(AttributeError):
                mock.gte  # noqa: B018

    with async_client(emulator) as client:
        if is_running:
            asyncio.run(check())
        else:
            coroutine = check()
            with pytest.raises(StopIteration):
                coroutine.send(None)


def test_a_method_can_be_replaced(
    emulator: ThreadedEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test may put a method of its own into the plugin's client, and take it out again."""
    with async_client(emulator) as client:
        with monkeypatch.context() as patch:
            patch.setattr(client, "get", lambda session_id: session_id)
            assert client.get("s1") == "s1"  # type: ignore[comparison-overlap]
        with pytest.raises(NotFound):
            asyncio.run(client.get("s1"))


def test_nothing_that_belongs_to_a_process_leaves_it() -> None:
    """Clients, handles on sessions and credentials can't be pickled, as a process pool would; the
    error says what to do, and copies are the object itself.
    """
    key = "pLaNtEd-key-0123456789"
    with SessionClient([], base_url="http://127.0.0.1:1") as sync:
        client = real()
        for one in (
            client,
            sync,
            client.attach("s1"),
            sync.attach("s1"),
            IBMCloudAuth(key),
            IBMCloudAuth.from_token(key),
            IBMCloudAPIKey(key),
            BackendAuthentication(key),
            ExternalServiceToken(key),
        ):
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                with pytest.raises(TypeError) as caught:
                    pickle.dumps({"one": one}, protocol)
                assert str(caught.value) == (
                    f"cannot pickle {type(one).__name__}, which belongs to its process; "
                    "make one in each process"
                )
            assert copy.copy(one) is one
            assert copy.deepcopy([one])[0] is one
