"""A scenario: has children that die at a given moment after `create` returned, by a way of dying each.

It reads a `Death` as a line of JSON for each child, and answers with a line of JSON: how the child
ended (`exit`), and the sessions that it had been given by then (`given`).
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import mmap
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import attrs
from attrs import frozen

from qsessions import AsyncSessionClient, LedgerRecord, LocalLedger, RecordState, SessionClient

WANTED: dict[str, Any] = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "10m"}
_SLOT = 64
_MOST = 200
# A child that has not died after so many seconds never will.
_LIFE_S = 60
_EXIT_CODE = 3


@frozen(kw_only=True)
class Death:
    """How a child lives and dies.

    Attributes:
        way: How it dies, one of `WAYS`.
        client: "async" or "sync".
        call: "create" or "open".
        under_way: How many sessions are being created at the same time.
        nth: Which of them it dies of: the first that returns is 1.
        turns: So many turns of the event loop after that (async only).
        instructions: So many instructions of Python after that.
        is_late: Whether its client doesn't wait for its ledger, which begins to write the first id
            one turn of the event loop after `create` returned (async only).
        is_forked: Whether its parent makes it by `os.fork`, or by multiprocessing.
    """

    way: str
    client: str = "async"
    call: str = "create"
    under_way: int = 1
    nth: int = 1
    turns: int = 0
    instructions: int = 0
    is_late: bool = False
    is_forked: bool = True


class Shared:
    """Memory that a child shares with its parent: writing to it lets no other thread of the child
    run, as writing to a pipe does.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, (_MOST + 1) * _SLOT)

    def give(self, number: int, session_id: str) -> None:
        """Note that a `create` has returned."""
        text = session_id.encode()
        start = (number + 1) * _SLOT
        self._memory[start : start + len(text)] = text

    def given(self) -> list[str]:
        """List the sessions whose `create` has returned."""
        whole = self._memory[_SLOT:]
        slots = (
            whole[start : start + _SLOT].rstrip(b"\0").decode()
            for start in range(0, len(whole), _SLOT)
        )
        return [session_id for session_id in slots if session_id]

    def wait_for_the_end(self) -> None:
        """Note that the parent may kill now."""
        self._memory[0] = 1

    @property
    def waits_for_the_end(self) -> bool:
        """Whether the parent is to kill the child."""
        return self._memory[0] == 1


class Late(LocalLedger):
    """Begins to write ids one turn of the event loop after a `create` returned: a gap, which is to
    be found.

    Attributes:
        returned: Set when the first one returns.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.returned = asyncio.Event()

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record."""
        if record.state is RecordState.CREATED:
            await self.returned.wait()
        await super().record(record)


def _kill(_: Shared) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(_: Shared) -> None:
    os._exit(_EXIT_CODE)


def _crash(_: Shared) -> None:
    ctypes.string_at(0)


def _abort(_: Shared) -> None:
    os.abort()


def _sleep(shared: Shared) -> None:
    shared.wait_for_the_end()
    time.sleep(_LIFE_S)


def _wait_in_c(shared: Shared) -> None:
    # A call of this kind keeps every other thread from running.
    pause = ctypes.PyDLL(None).pause
    shared.wait_for_the_end()
    pause()


def _compute_in_c(shared: Shared) -> None:
    shared.wait_for_the_end()
    sum(itertools.repeat(0))


# Each way of dying, and what the parent then hears: the negative number of a signal, or an exit
# code.
WAYS: dict[str, tuple[Callable[[Shared], None], int]] = {
    "kill at once": (_kill, -9),
    "kill while it sleeps": (_sleep, -9),
    "kill in a C call": (_wait_in_c, -9),
    "kill in a C computation": (_compute_in_c, -9),
    "os._exit": (_exit, _EXIT_CODE),
    "SIGSEGV": (_crash, -11),
    "SIGABRT": (_abort, -6),
}


class Child:
    """The process that dies.

    Args:
        death: How.
        shared: What it tells.
        directory: The ledger's.
    """

    def __init__(self, death: Death, shared: Shared, directory: str) -> None:
        self._death = death
        self._shared = shared
        self._returned = itertools.count(1)
        self._ledger = Late(directory) if death.is_late else LocalLedger(directory)
        self._options: dict[str, Any] = {
            "ledger": self._ledger,
            "ledger_wait": not death.is_late,
            "max_concurrency": death.under_way,
            "timeout": None,
        }

    def live(self) -> None:
        """Create the sessions, and die."""
        signal.alarm(_LIFE_S)
        if self._death.client == "async":
            asyncio.run(self._create_all())
        else:
            client = SessionClient(**self._options)
            with ThreadPoolExecutor(self._death.under_way) as pool:
                for _ in pool.map(
                    lambda number: self._create_in_thread(client, number), self._numbers()
                ):
                    pass

    def _numbers(self) -> range:
        return range(self._death.under_way)

    async def _create_all(self) -> None:
        client = AsyncSessionClient(**self._options)
        await asyncio.gather(*(self._create(client, number) for number in self._numbers()))

    async def _create(self, client: AsyncSessionClient, number: int) -> None:
        if self._death.call == "create":
            session = await client.create(**WANTED)
            await self._go_on(number, session.id)
        else:
            async with client.open(**WANTED) as live:
                await self._go_on(number, live.id)

    async def _go_on(self, number: int, session_id: str) -> None:
        self._shared.give(number, session_id)
        if isinstance(self._ledger, Late):
            self._ledger.returned.set()
        is_it = next(self._returned) == self._death.nth
        if is_it:
            for _ in range(self._death.turns):
                await asyncio.sleep(0)
            self._die()
        while is_it:  # noqa: ASYNC110 - its instructions are counted
            await asyncio.sleep(0)
        await asyncio.get_running_loop().create_future()

    def _create_in_thread(self, client: SessionClient, number: int) -> None:
        if self._death.call == "create":
            session = client.create(**WANTED)
            self._go_on_in_thread(number, session.id)
        else:
            with client.open(**WANTED) as live:
                self._go_on_in_thread(number, live.id)

    def _go_on_in_thread(self, number: int, session_id: str) -> None:
        self._shared.give(number, session_id)
        is_it = next(self._returned) == self._death.nth
        if is_it:
            self._die()
        while is_it:
            pass
        time.sleep(_LIFE_S)

    def _die(self) -> None:
        """Die now, or in so many instructions."""
        way, _ = WAYS[self._death.way]
        left = self._death.instructions
        if left == 0:
            way(self._shared)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            frame.f_trace_opcodes = True
            if event == "opcode":
                left -= 1
                if left == 0:
                    sys.settrace(None)
                    way(self._shared)
            return trace

        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            frame.f_trace, frame.f_trace_opcodes = trace, True
            frame = frame.f_back
        sys.settrace(trace)


def let_die(death: Death, directory: str) -> dict[str, object]:
    """Have a child and see it die; give how it ended, and the sessions that it had been given."""
    shared = Shared()
    child = Child(death, shared, directory)
    if death.is_forked:
        pid = os.fork()
        if pid == 0:
            child.live()
            raise AssertionError("it lives")
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            _help_along(pid, shared)
        code: int | None = os.waitstatus_to_exitcode(ended[1])
    else:
        process = multiprocessing.get_context("fork").Process(target=child.live)
        process.start()
        while process.is_alive():
            _help_along(process.pid, shared)
        code = process.exitcode
    return {"exit": code, "given": shared.given()}


def _help_along(pid: int | None, shared: Shared) -> None:
    """Kill a child that still runs, if it waits for that."""
    if pid is not None and shared.waits_for_the_end:
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.0005)


async def own(directory: str) -> str:
    """Create a session that is this process's as long as it lives; give its id."""
    ledger = LocalLedger(directory)
    async with AsyncSessionClient(ledger=ledger) as client:
        session = await client.create(**WANTED)
    await ledger.aclose()
    return session.id


def main(directory: str, is_owner: bool) -> None:
    """Have a child die for each line, with a ledger in that directory; as an owner with a session of
    its own, whose id is the first line.
    """
    import resource  # it isn't everywhere, and tests import this module for its names

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if is_owner:
        print(asyncio.run(own(directory)), flush=True)
    for line in sys.stdin:
        print(json.dumps(let_die(Death(**json.loads(line)), directory)), flush=True)


def line_of(death: Death) -> str:
    """Return what a program reads."""
    return json.dumps(attrs.asdict(death))
