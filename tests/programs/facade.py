"""Scenarios of the synchronous client in a process of its own: Ctrl-C, signals, forks and the
interpreter's end. Each writes what happens to it, line by line.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from qsessions import AsyncSessionClient, Event, SessionClient, TokenRenewed
from qsessions.sync import loop_thread
from qsessions.sync.loop_thread import Call, Stage

WANTED: dict[str, Any] = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": "10m"}
BLOCK: dict[str, Any] = {"mode": "batch", "max_ttl": 600}


def hurry() -> None:
    """Have the end wait only a moment for what hangs, since that never comes."""
    loop_thread._GRACE_S = 0.2


def say(*words: object) -> None:
    """Write a line."""
    print(*words, flush=True)


def keep_until_the_end(what: object) -> None:
    """Have the interpreter let go of something only after threads are gone."""
    sys.modules["__main__"].kept = what  # type: ignore[attr-defined]


def say_when_undoing(client: SessionClient) -> None:
    """Write a line once the first Ctrl-C has come so far that a second one counts as such."""

    def watch() -> None:
        while Stage.UNDOING not in tuple(client._thread.calls.values()):
            pass
        say("interrupted")

    threading.Thread(target=watch, daemon=True).start()


def say_each_wait() -> None:
    """Write a line when a call's end is waited for again, which is what the first Ctrl-C does to the
    end of a block.
    """
    wait, waited = Call.wait, set()

    def said(call: Call[Any], *arguments: Any) -> None:
        if call in waited:
            say("interrupted")
        waited.add(call)
        wait(call, *arguments)

    Call.wait = said  # type: ignore[method-assign, assignment]


def create(ending: str) -> None:
    """Create a session, to be interrupted; then `shutdown`, or nothing."""
    hurry()
    client = SessionClient()
    keep_until_the_end(client)
    say_when_undoing(client)
    try:
        client.create(**WANTED)
    except KeyboardInterrupt as interruption:
        say("left", *getattr(interruption, "__notes__", []))
    sys.stdin.readline()
    if ending == "shutdown":
        client.shutdown()


def block(struck: str) -> None:
    """Have a block, to be interrupted inside or at its end."""
    hurry()
    client = SessionClient()
    if struck == "at its end":
        say_each_wait()
    try:
        with client.open(**WANTED):
            say("inside")
            sys.stdin.readline()
        say("clean")
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is written
        say("left", type(error).__name__, *getattr(error, "__notes__", []))
    sys.stdin.readline()
    client.shutdown()


def shut_down_during_a_create() -> None:
    """Shut down while another thread creates a session."""
    hurry()
    client = SessionClient()
    threading.Thread(target=client.create, kwargs={"mode": "batch"}, daemon=True).start()
    sys.stdin.readline()
    begin_end = client._thread._shutdown.begin

    def said() -> asyncio.Task[None]:
        # Asked for at the beginning of each wait.
        task = begin_end()
        say("waiting")
        return task

    client._thread._shutdown.begin = said  # type: ignore[method-assign]
    try:
        client.shutdown()
    except KeyboardInterrupt:
        # The interpreter's end asks as well.
        client._thread._shutdown.begin = begin_end  # type: ignore[method-assign]
        say("left")


def struck_elsewhere(scenario: str, *arguments: object) -> None:
    """Play another scenario, with Ctrl-C given to another thread than the one that waits."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    globals()[scenario](*arguments)


def fork_a_user() -> None:
    """Use a client in a forked child."""
    before = SessionClient()
    before.shutdown()
    client = SessionClient()
    live = client.attach(client.create(mode="batch", backend="ibm_fez").id)
    child = os.fork()
    if child == 0:
        for call in (client.versions, live.refresh, client.shutdown):
            try:
                say("child", call())
            except Exception as error:  # noqa: BLE001 - whatever it is, it is written
                say("child", type(error).__name__, error)
        del client, live, call
        gc.collect()
        sys.exit(0)
    say("parent", os.waitpid(child, 0)[1])
    live.close()
    say("parent", live.refresh().state)
    client.shutdown()


def fork_in_a_block() -> None:
    """Leave the parent's block in a forked child."""
    with SessionClient() as client:
        with client.open(**BLOCK) as live:
            child = os.fork()
            if child == 0:
                sys.exit(7)
            accepting = live.refresh().accepting_jobs
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), accepting)
        say(live.refresh().state)


def forget_to_shut_down() -> None:
    """End without shutting down."""
    client = SessionClient()
    keep_until_the_end(client)
    client.versions()
    say("end")


def end_during_a_call() -> None:
    """End while a daemon thread waits for an answer."""
    hurry()
    client = SessionClient()
    keep_until_the_end(client)
    threading.Thread(target=client.get, args=("s1",), daemon=True).start()
    sys.stdin.readline()


def call(client: SessionClient, os: Any = os) -> None:
    """Make a call; the interpreter may have let go of modules already."""
    try:
        client.versions()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is written
        os.write(1, f"{type(error).__name__}: {error}\n".encode())
    else:
        os.write(1, b"done\n")


async def _versions() -> None:
    async with AsyncSessionClient() as client:
        await client.versions()


class OnItsOwnLoop:
    """Makes a call on an event loop of its own."""

    def __init__(self) -> None:
        # At the very end there can be no new one.
        self._loop = asyncio.new_event_loop()
        # What it would show of its callbacks can't be found then.
        self._loop.set_debug(False)
        self._call = _versions

    def versions(self) -> None:
        """Make the call."""
        self._loop.run_until_complete(self._call())


class Late:
    """Makes a call when it is collected."""

    def __init__(self, client: Any) -> None:
        self.client, self.call = client, call

    def __del__(self) -> None:
        self.call(self.client)


def call_late(moment: str) -> None:
    """Make a call while the interpreter ends."""
    if moment == "atexit, before":
        clients: list[SessionClient] = []
        atexit.register(lambda: call(clients[0]))
        clients.append(SessionClient())
        keep_until_the_end(clients)
    elif moment == "atexit, after":
        atexit.register(call, SessionClient())
    elif moment == "finalizing, without the facade":
        keep_until_the_end(Late(OnItsOwnLoop()))
    else:
        keep_until_the_end(Late(SessionClient()))


async def _hold_signals() -> None:
    async with AsyncSessionClient() as client, client.open(**BLOCK, handle_signals=True):
        say("inside")
        await asyncio.get_running_loop().create_future()


def hold_signals(way: str, handle_signals: bool = True) -> None:
    """Have a block whose session signals end: "async", "sync" or "sync, in a call"."""
    hurry()
    logging.basicConfig()
    if way == "async":
        asyncio.run(_hold_signals())
    with SessionClient() as client, client.open(**BLOCK, handle_signals=handle_signals) as live:
        say("inside")
        if way == "sync, in a call":
            live.wait_until("inactive")
        sys.stdin.readline()


async def _leave_a_block_open() -> None:
    client = AsyncSessionClient()
    opened = client.open(**BLOCK, handle_signals=True)
    await opened.__aenter__()
    say("inside")
    await asyncio.to_thread(sys.stdin.readline)


def end_the_event_loop() -> None:
    """Let the event loop end with a block that nobody leaves."""
    hurry()
    asyncio.run(_leave_a_block_open())


def end_the_client() -> None:
    """Shut the client down with a block that nobody leaves."""
    hurry()
    with SessionClient() as client:
        opened = client.open(**BLOCK, handle_signals=True)
        opened.__enter__()


def have_handlers() -> None:
    """Get signals for which there was a handler, and none."""

    def handle(number: int, frame: FrameType | None) -> None:
        say("mine", live.refresh().state)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with SessionClient() as client:
        with (
            client.open(**BLOCK, handle_signals=True) as live,
            client.open(**BLOCK, handle_signals=True) as other,
        ):
            os.kill(os.getpid(), signal.SIGINT)
            say("outer", live.refresh().state)
            os.kill(os.getpid(), signal.SIGTERM)
            say("inner", other.refresh().state)
        kept = signal.getsignal(signal.SIGTERM) is handle
        say(kept, signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


def hold_signals_in_a_thread() -> None:
    """Ask for signals in a thread that isn't the main one."""

    def work() -> None:
        try:
            with client.open(**BLOCK, handle_signals=True):
                say("inside")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is written
            say(type(error).__name__, error)

    with SessionClient() as client:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        say(len(list(client.workloads())))


def exit_in_an_observer() -> None:
    """Exit in a task of the client's loop that nobody awaits: the first exchange for a token."""
    codes = [5]

    def leave(event: Event) -> None:
        if isinstance(event, TokenRenewed) and codes:
            sys.exit(codes.pop())

    with SessionClient(observers=[leave]) as client:
        try:
            client.get("s1")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is written
            say(type(error).__name__)
        say(len(client.versions()) > 0)
