"""Scenarios in which an interruption strikes the synchronous client at each of many moments.

Each asserts what must hold at every moment, and writes how many there were, or which of them went
wrong.
"""

from __future__ import annotations

import asyncio
import dis
import gc
import json
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

from qsessions import SessionClient
from qsessions.models import WorkloadStatus
from qsessions.sync import calls, client as client_module, context, live, loop_thread

T = TypeVar("T")
OPEN: tuple[WorkloadStatus, ...] = ("pending", "in_progress")
WANTED: dict[str, Any] = {"mode": "batch", "backend": "ibm_fez", "max_ttl": 600}


def opened(client: SessionClient) -> list[str]:
    """List the sessions that are open."""
    return [workload.id for workload in client.workloads(status=OPEN)]


class Interrupter:
    """Sends this process a real SIGINT when a client's loop has run a given number of callbacks, and
    has the loop wait until Python has seen it.

    Attributes:
        count: How many callbacks the loop has run in this call.
    """

    def __init__(self) -> None:
        self.count = 0
        self._at: int | None = None
        self._armed = False
        self._seen = threading.Event()
        signal.signal(signal.SIGINT, self._handle)
        handle: Any = asyncio.Handle
        original = handle._run

        def run(one: asyncio.Handle) -> None:
            original(one)
            if threading.current_thread().name == "qsessions":
                self._tick()

        handle._run = run

    def interrupt(self, call: Callable[[], object], at: int | None) -> list[str] | None:
        """Make a call and interrupt it; return the notes, or None where the answer came first."""
        self.count, self._at, self._armed = 0, at, True
        try:
            call()
            self._armed = False
        except KeyboardInterrupt as interruption:
            return getattr(interruption, "__notes__", [])
        return None

    def _tick(self) -> None:
        self.count += 1
        if self._armed and self.count == self._at:
            self._seen.clear()
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            self._seen.wait()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen.set()
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt


# What interrupts the collection of an iterator is Python's own to swallow.
KEPT: list[Iterator[object]] = []


def first(iterator: Iterator[object]) -> object:
    """Return the first of an iterator's values, and keep the iterator."""
    KEPT.append(iterator)
    return next(iterator)


def block(client: SessionClient) -> Any:
    """Have a block with one call."""
    with client.open(mode="batch", max_ttl=600) as session:
        session.refresh()
    return session


# Each public call, of a client and about a session that is open.
CALLS: dict[str, Callable[[SessionClient, str], object]] = {
    "make": lambda *_: SessionClient().shutdown(),
    "enter": lambda client, _: client.__enter__(),
    "create": lambda client, _: client.create(mode="batch", backend="ibm_fez"),
    "get": lambda client, session: client.get(session),
    "update": lambda client, session: client.update(session, accepting_jobs=True),
    "drain": lambda client, session: client.drain(session),
    "close": lambda client, session: client.close(session),
    "versions": lambda client, _: client.versions(),
    "workloads": lambda client, _: list(client.workloads()),
    "attach": lambda client, session: client.attach(session),
    "refresh": lambda client, session: client.attach(session).refresh(),
    "live drain": lambda client, session: client.attach(session).drain(),
    "live close": lambda client, session: client.attach(session).close(),
    "watch": lambda client, session: first(client.attach(session).watch()),
    "wait_until": lambda client, session: client.attach(session).wait_until("open"),
    "watch many": lambda client, session: first(client.watch([session])),
    "open": lambda client, _: client.open(mode="batch", max_ttl=600).__enter__(),
    "block": lambda client, _: block(client),
    "shutdown": lambda client, _: client.shutdown(),
}
# These take the loop a callback or two.
SHORT = {"attach", "enter", "make", "shutdown"}


def ctrl_c(most: int) -> None:
    """Interrupt each call at so many moments, evenly from its first callback to its last; write what
    went wrong, by call and moment.
    """
    interrupter = Interrupter()
    problems: dict[str, str] = {}
    with SessionClient() as helper:

        def once(name: str, at: int | None) -> tuple[bool, int]:
            client = SessionClient()
            session_id = helper.create(**WANTED).id
            notes = interrupter.interrupt(lambda: CALLS[name](client, session_id), at)
            ran = interrupter.count
            if notes is not None:
                if name not in {"enter", "shutdown"}:
                    client.versions()
                left = [one for one in opened(helper) if one != session_id]
                if notes or left:
                    problems[f"{name}, {at}"] = f"notes: {notes}, left open: {left}"
            client.shutdown()
            for one in opened(helper):
                helper.close(one)
            return notes is not None, ran

        for name in CALLS:
            _, ran = once(name, None)
            moments = {1 + number * (ran - 1) // (most - 1) for number in range(most)}
            interrupted = sum(once(name, at)[0] for at in sorted(moments))
            # The last of them may come after the answer.
            if interrupted < (1 if name in SHORT else len(moments) - 2):
                problems[name] = f"{interrupted} of {moments} moments"
    print(json.dumps(problems), flush=True)


FILES = {module.__file__ for module in (calls, client_module, context, live, loop_thread)}
MOMENTS = {"CALL", "RESUME", "JUMP_BACKWARD", "CALL_KW", "CALL_FUNCTION_EX", "BEFORE_WITH"}
# What follows a call that raised is no moment for a signal.
NO_MOMENTS = {"CACHE", "PRECALL", "PUSH_EXC_INFO"}


class Striker:
    """Raises at a moment at which the interpreter would let a signal strike in the facade's code:
    after a call into C, at a function's beginning, at a loop's end.

    Attributes:
        left: How many moments are to come before.
    """

    def __init__(self, at: int) -> None:
        self.left = at
        self._before: tuple[FrameType | None, str] = (None, "")

    def __call__(self, frame: FrameType, event: str, argument: object) -> Striker | None:
        """Trace."""
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            (where, last), self._before = self._before, (frame, name)
            if where is frame and last in MOMENTS and name not in NO_MOMENTS:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self


def struck(call: Callable[[], T], at: int | Striker) -> tuple[T | None, list[str]]:
    """Make a call and interrupt it at a moment; return its result, or the notes."""
    sys.settrace(Striker(at) if isinstance(at, int) else at)
    try:
        return call(), []
    except KeyboardInterrupt as interruption:
        return None, getattr(interruption, "__notes__", [])
    finally:
        sys.settrace(None)


def at_each_moment(step: int, strike: Callable[[int], bool]) -> None:
    """Strike at each moment, or at each second or third and so on, until it comes after the end;
    write which one that was.
    """
    moment = 1
    while not strike(moment):
        moment += step
    print(moment)


def create(step: int) -> None:
    """Interrupt a create: nothing is left open, and nothing to tell."""
    with SessionClient() as client, SessionClient() as helper:

        def strike(moment: int) -> bool:
            session, notes = struck(lambda: client.create(**WANTED), moment)
            if session is None:
                assert (notes, opened(helper)) == ([], []), (moment, notes)
                return False
            helper.close(session.id)
            return True

        at_each_moment(step, strike)


def make(step: int) -> None:
    """Interrupt the making of a client: its thread ends."""
    # Collected before it was given to anybody: nobody could have shut it down.
    warnings.filterwarnings("ignore", "a SessionClient was not shut down")

    def strike(moment: int) -> bool:
        client, _ = struck(SessionClient, moment)
        if client is None:
            gc.collect()
            for thread in threading.enumerate():
                if thread.name == "qsessions":
                    thread.join()
            return False
        client.shutdown()
        return True

    at_each_moment(step, strike)


def have_a_block(step: int) -> None:
    """Interrupt a block: its session ends, at the latest with the client."""
    with SessionClient() as helper:

        def strike(moment: int) -> bool:
            client = SessionClient()
            session, notes = struck(lambda: block(client), moment)
            client.shutdown()
            assert (notes, opened(helper)) == ([], []), (moment, notes)
            return session is not None

        at_each_moment(step, strike)


class Interrupted:
    """A call's lock whose first wait is interrupted, or each."""

    def __init__(self, lock: Any, interruptions: int) -> None:
        self._lock = lock
        self._left = interruptions

    def acquire(self, *arguments: Any) -> bool:
        """Be interrupted, or wait."""
        if self._left:
            self._left -= 1
            raise KeyboardInterrupt
        return bool(self._lock.acquire(*arguments))

    def release(self) -> None:
        """Let the caller go on."""
        self._lock.release()


def struck_again(
    call: Callable[[], object], is_first: Callable[[Any], bool], interruptions: int, moment: int
) -> tuple[list[str], bool]:
    """Interrupt the wait for some calls' answers, and again at a moment after that; return the notes,
    and whether there was no such moment any more.
    """

    def interrupted(thread: loop_thread.LoopThread, start: Any) -> loop_thread.Call[Any]:
        one = loop_thread.Call(thread, start)
        if is_first(start):
            one.answered = Interrupted(one.answered, interruptions)  # type: ignore[assignment]
        return one

    striker = Striker(moment)
    module: Any = calls
    module.Call = interrupted
    try:
        _, notes = struck(call, striker)
    finally:
        module.Call = loop_thread.Call
    return notes, striker.left > 0


def create_again(step: int) -> None:
    """Interrupt the end of an interrupted create: a note is on what was left, and it ends."""
    with SessionClient() as client, SessionClient() as helper:

        def strike(moment: int) -> bool:
            notes, is_last = struck_again(
                lambda: client.create(**WANTED),
                lambda start: getattr(start, "func", None) is not calls._undo,
                1_000_000,
                moment,
            )
            while opened(helper):
                pass
            assert not notes or "create" in notes[0], notes
            return is_last

        at_each_moment(step, strike)


def end_a_block_again(step: int) -> None:
    """Interrupt the interrupted end of a block: its session ends, at the latest with the client."""
    with SessionClient() as helper:

        def strike(moment: int) -> bool:
            client = SessionClient()
            entered = client.open(mode="batch", max_ttl=600)
            entered.__enter__()
            notes, is_last = struck_again(
                lambda: entered.__exit__(None, None, None),
                lambda start: start.func.__name__ == "__aexit__",
                1,
                moment,
            )
            client.shutdown()
            assert opened(helper) == [], moment
            assert not notes or "is being ended" in notes[0], notes
            return is_last

        at_each_moment(step, strike)


def shut_down_once() -> None:
    """Interrupt `shutdown` once: it goes on when the client has ended."""
    interrupter = Interrupter()
    client = SessionClient()
    client.versions()
    assert interrupter.interrupt(client.shutdown, 1) == []
    client._thread._thread.join()
    client.shutdown()
    print("ended")


# Each of these, and a number of moments that it has at the least.
STRIKES = [
    (create, 10),
    (make, 5),
    (have_a_block, 20),
    (create_again, 10),
    (end_a_block_again, 10),
]
