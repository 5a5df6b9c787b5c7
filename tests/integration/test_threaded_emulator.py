"""The emulator in a thread of its own, and the clients that the pytest plugin makes for it."""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from qsessions import AsyncSessionClient, ClientClosed, ConnectionFailed, RetryPolicy, SessionClient
from qsessions.emulator import Emulator, Fault, ServiceError
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
    results; `crn` is a property here.
    """
    assert public(ThreadedEmulator) == public(Emulator) | {"crn": property}


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

    monkeypatch.setattr(asyncio, "new_event_loop", none)
    with pytest.raises(OSError, match="Too many open files"), ThreadedEmulator(Emulator()):
        pass
