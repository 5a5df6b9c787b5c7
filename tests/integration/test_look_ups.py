"""Host names are looked up in threads of our own: what hangs there holds up nobody else."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qsessions import AsyncSessionClient, CallTimeout, ConnectionFailed
from qsessions.testing import ManualClock
from tests.programs import hanging_look_up
from tests.support.calls import CLOSE, CREATE, DRAIN, GET
from tests.support.clients import static_auth
from tests.support.fault_server import FaultServer
from tests.support.manual_clock import settled
from tests.support.tables import row_of_table

look_up = socket.getaddrinfo


class NameServer:
    """Stands in place of the system's look-ups: the next ones hang, as many as it is told.

    Attributes:
        hanging: How many will hang.
        asked: How many there were.
    """

    def __init__(self) -> None:
        self.hanging = 0
        self.asked = 0
        self.threads: set[str] = set()
        self._begun = threading.Semaphore(0)
        self._over = threading.Event()

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Look a name up."""
        self.asked += 1
        self.threads.add(threading.current_thread().name)
        if self.asked <= self.hanging:
            self._begun.release()
            self._over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "at last")
        return look_up(*args, **options)

    async def hangs(self) -> None:
        """Wait until another look-up hangs."""
        await asyncio.to_thread(self._begun.acquire)

    def give_up(self) -> None:
        """Let those that hang fail."""
        self._over.set()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """Return what looks names up."""
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.give_up()


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """Return a server that has a session."""
    async with FaultServer(CREATE.success) as server:
        yield server


def named(server: FaultServer, time: ManualClock, **options: Any) -> AsyncSessionClient:
    """Return a client that knows the server by its name."""
    return AsyncSessionClient(
        static_auth(),
        base_url=server.url.replace("127.0.0.1", "localhost"),
        clock=time,
        **options,
    )


async def patience(names: NameServer, time: ManualClock) -> None:
    """Wait until a look-up hangs, and let the time pass after which it counts as hanging."""
    await names.hangs()
    time.advance(5)


async def test_an_ending_goes_on_where_look_ups_hang(
    names: NameServer, server: FaultServer, time: ManualClock
) -> None:
    """A name server that hangs once a session was created holds up its end by a few seconds: the
    addresses of before are taken.
    """
    for ending in (CLOSE, DRAIN):
        with row_of_table(ending.name):
            names.hanging = 0
            async with named(server, time) as client:
                # A create has connections of its own, so the ending has to look the name up again.
                await client.create(mode="batch")
                names.hanging = sys.maxsize
                call = asyncio.create_task(ending(client))
                await patience(names, time)
                await call
                assert server.received[-1].method == ending.method
    names.hanging = 0
    async with named(server, time) as client:
        block = client.open(mode="batch", max_ttl="1m")
        await block.__aenter__()
        names.hanging = sys.maxsize
        left = asyncio.create_task(block.__aexit__(ValueError, ValueError("theirs"), None))
        await patience(names, time)
        await left
        assert server.received[-1].method == "DELETE"
    assert names.threads == {"qsessions-dns"}


async def test_a_look_up_that_hangs_is_tried_again(
    names: NameServer, server: FaultServer, time: ManualClock
) -> None:
    """Where nothing is known of a name, another look-up may find it, for those who come later too."""
    names.hanging = 1
    async with named(server, time) as client:
        first, second = (asyncio.create_task(call(client)) for call in (GET, CLOSE))
        await patience(names, time)
        await asyncio.gather(first, second)
    assert names.asked == 2


async def test_a_name_server_that_is_gone_costs_few_threads(
    names: NameServer, server: FaultServer, time: ManualClock
) -> None:
    """Each call ends at its deadline, unsent, and however many there are, three look-ups hang."""
    names.hanging = sys.maxsize
    async with named(server, time) as client:
        for number, row in enumerate((GET, CREATE, CLOSE, GET)):
            with row_of_table(row.name):
                call = asyncio.create_task(row(client, timeout=30))
                if number == 0:
                    for _ in range(3):
                        await patience(names, time)
                await settled()
                time.advance(60)
                with pytest.raises(CallTimeout) as caught:
                    await call
                assert caught.value.sent is False or row is not CREATE
    assert (names.asked, server.received) == (3, [])


async def test_others_threads_hold_up_no_call(server: FaultServer, time: ManualClock) -> None:
    """A program that keeps all of its event loop's threads busy can make calls all the same."""
    over = threading.Event()
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    busy = loop.run_in_executor(None, over.wait)
    async with named(server, time) as client:
        await client.close("s1")
    over.set()
    await busy
    executor.shutdown(wait=False)


async def test_a_name_that_has_no_address_is_told(time: ManualClock) -> None:
    """The system's own words for it are in the error, and it is tried again."""
    async with AsyncSessionClient(
        static_auth(), base_url="https://service.invalid", clock=time
    ) as client:
        with pytest.raises(
            ConnectionFailed, match=r"can't be reached.*service\.invalid:443 "
        ) as caught:
            await client.get("s1")
    assert (caught.value.sent, caught.value.attempts) == (False, 5)
    assert "ssl:" not in caught.value.message


async def test_without_room_for_a_thread_nothing_is_sent(
    server: FaultServer, time: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no thread left, a call is tried again, and fails with an error of ours."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    clients = [
        (named(server, time), 5),
        (AsyncSessionClient(static_auth(), base_url="https://127.0.0.1:1", clock=time), 5),
        # Before the account file is read, there is no request.
        (AsyncSessionClient(clock=time), 0),
    ]
    for client, attempts in clients:
        with pytest.raises(ConnectionFailed, match=r"a thread that .*: can't start") as caught:
            await client.get("s1")
        assert (caught.value.sent, caught.value.attempts) == (False, attempts)
    # At the end of the interpreter it isn't tried again.
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    for client, attempts in clients:
        with pytest.raises(ConnectionFailed, match="the interpreter is shutting down") as caught:
            await client.get("s1")
        assert (caught.value.sent, caught.value.attempts) == (False, min(attempts, 1))
        await client.aclose()
    assert server.received == []


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("async", "CallTimeout: versions: the call's deadline passed"),
        ("sync", "CallTimeout: versions: the call's deadline passed"),
        ("doctor", "no answer in time."),
    ],
)
def test_a_look_up_that_hangs_keeps_no_program_from_ending(program: str, said: str) -> None:
    """A program ends though a look-up hangs for ever."""
    ended = subprocess.run(
        [sys.executable, hanging_look_up.__file__, program],
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    assert said in ended.stdout + ended.stderr
