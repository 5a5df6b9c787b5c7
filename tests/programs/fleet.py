"""Scenarios of a fleet's processes. The first arguments of each are the URL of the ledger and the
variables of the emulator, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from qsessions import (
    AsyncSessionClient,
    Clock,
    IBMCloudAuth,
    LeaseTerms,
    OwnershipLost,
    PostgresLedger,
    QSessionsError,
    ServiceCRN,
)
from qsessions.events import Event
from qsessions.reaper import reap as reap_once

# Long beside what a busy machine keeps a process waiting, and short enough to wait for.
TERMS = LeaseTerms(heartbeat=0.3, ttl=2, delay=2)
ROUND_S = 0.3
# The most reads a second of a process that watches.
RATE = 30
WANTED: dict[str, Any] = {"mode": "batch", "backend": "ibm_fez", "max_ttl": "1h"}


def say(*words: object) -> None:
    """Write a line."""
    print(*words, flush=True)


async def heard() -> str:
    """Wait for a line, and return it; at the end an empty one."""
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


def ledger_of(url: str, ahead_s: float = 0.0) -> PostgresLedger:
    """Return a ledger on a machine whose clock is so many seconds ahead."""
    clock = Clock(wall=lambda: time.time() + ahead_s)
    return PostgresLedger(url, terms=TERMS, clock=clock)


def client_of(variables: str, ledger: PostgresLedger, **options: Any) -> AsyncSessionClient:
    """Return a client of the emulator."""
    env = json.loads(variables)
    auth = [
        IBMCloudAuth(env["QISKIT_IBM_TOKEN"], env["IAM_URL"]),
        ServiceCRN(env["QISKIT_IBM_INSTANCE"]),
    ]
    return AsyncSessionClient(
        auth, base_url=env["QSESSIONS_BASE_URL"], ledger=ledger, timeout=20, **options
    )


def own(
    url: str, variables: str, count: int, on_lost: Any = "continue", ahead_s: float = 0.0
) -> None:
    """Create so many sessions, say their ids, then do what is asked for, line by line."""
    asyncio.run(_own(url, variables, count, on_lost, ahead_s))


async def _own(url: str, variables: str, count: int, on_lost: Any, ahead_s: float) -> None:
    lost: list[OwnershipLost] = []

    def observe(event: Event) -> None:
        if isinstance(event, OwnershipLost):
            lost.append(event)

    ledger = ledger_of(url, ahead_s)
    client = client_of(variables, ledger, on_lost=on_lost, observers=[observe])
    async with client:
        ids = [(await client.create(**WANTED)).id for _ in range(count)]
        say(*ids)
        while (line := await heard()) not in {"", "leaves"}:
            command, _, argument = line.partition(" ")
            if command == "lost":
                # How often it was told, and whether another has taken over.
                say(len(lost), any(event.taken_over for event in lost))
            elif command == "blocks":
                time.sleep(float(argument))  # noqa: ASYNC251 - that is what it is asked for
                say("blocked")
            else:
                say(await _done(client, ledger, command, argument))
    if line == "leaves":
        await ledger.aclose()
        say("left", ledger.lease.state)
        sys.stdin.readline()


async def _done(
    client: AsyncSessionClient, ledger: PostgresLedger, command: str, argument: str
) -> object:
    """Do what is asked for, and return what to say."""
    if command == "create":
        return await _created(client)
    if command == "closes":
        await client.close(argument)
        return "closed"
    if command == "forks":
        return await asyncio.to_thread(_fork, ledger)
    assert command == "lease"
    return f"{ledger.lease.state} {ledger.lease.living}"


async def _created(client: AsyncSessionClient) -> str:
    try:
        return (await client.create(**WANTED)).id
    except QSessionsError as error:
        return type(error).__name__


def _fork(ledger: PostgresLedger) -> int:
    """Have a child whose threads use its parent's ledger; it ends at once. Return its exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # It has neither the thread nor the lease. No event loop runs in this one.
    code = 1
    with suppress(Exception):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: asyncio.run(ledger.renew()), range(8)))
        code = 0
    os._exit(code)


def reaps(url: str, variables: str, ahead_s: float = 0.0) -> None:
    """Reap round by round, until a line comes; then say how many sessions it has closed."""
    asyncio.run(_reaps(url, variables, ahead_s))


async def _reaps(url: str, variables: str, ahead_s: float) -> None:
    ledger = ledger_of(url, ahead_s)
    closed = 0
    async with client_of(variables, ledger) as client:
        end = asyncio.ensure_future(heard())
        say("ready")
        while not end.done():
            try:
                done = await reap_once(client, ledger)
            except QSessionsError:
                done = []
            closed += sum(each.done for each in done)
            await asyncio.wait({end}, timeout=ROUND_S)
    await ledger.aclose()
    say(closed)


def inits(url: str) -> None:
    """Make the tables, once a line comes; say how many migrations that took."""

    async def init() -> int:
        ledger = PostgresLedger(url)
        try:
            return await ledger.init()
        finally:
            await ledger.aclose()

    say("ready")
    sys.stdin.readline()
    say(asyncio.run(init()))


def watches(url: str, variables: str, *ids: str) -> None:
    """Watch sessions; say the number of owners whenever a line comes."""
    asyncio.run(_watches(url, variables, ids))


async def _watches(url: str, variables: str, ids: tuple[str, ...]) -> None:
    ledger = ledger_of(url)
    async with client_of(variables, ledger) as client:

        async def watch() -> None:
            async for _ in client.watch(ids, rate=RATE):
                pass

        task = asyncio.ensure_future(watch())
        say("ready")
        while await heard() == "lease":
            say(ledger.lease.living)
        task.cancel()
    await ledger.aclose()
