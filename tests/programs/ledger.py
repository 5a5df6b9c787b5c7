"""Scenarios of processes that share a ledger, whose directory is the first argument of each."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

from qsessions import (
    CreateSession,
    LedgerEntry,
    LedgerRecord,
    LedgerUnavailable,
    Liveness,
    LocalLedger,
    RecordState,
)
from qsessions.ledger import files

NOW = 1.78e9


def intent() -> LedgerRecord:
    """Return the record of a create that is about to go out."""
    request = CreateSession("batch", max_ttl=60)
    return LedgerRecord.intent(
        request, base_url="https://quantum.example/api", instance=None, now=NOW
    )


def ended(record: LedgerRecord) -> LedgerRecord:
    """Return the record of the session's end."""
    return record.becomes(RecordState.ENDED, now=NOW)


def changes(entries: Sequence[LedgerEntry]) -> list[tuple[LedgerEntry, LedgerRecord]]:
    """Return what puts entries to ended."""
    return [(entry, ended(entry.record)) for entry in entries]


def say(*words: object) -> None:
    """Write a line."""
    print(*words, flush=True)


def hear() -> None:
    """Wait for a line."""
    sys.stdin.readline()


def own(place: str) -> None:
    """Record a create, and live on."""
    asyncio.run(LocalLedger(place).record(intent()))
    say("ready")
    hear()


def own_many(place: str, number: int) -> None:
    """Record so many creates at once, and end."""

    async def record() -> None:
        ledger = LocalLedger(place)
        await asyncio.gather(*(ledger.record(intent()) for _ in range(number)))

    asyncio.run(record())


def fork_an_owner(place: str) -> None:
    """Record, and have a child that records, too, once that is asked for, and lives on."""
    ledger = LocalLedger(place)
    mine = intent()
    asyncio.run(ledger.record(mine))
    if os.fork():
        say(mine.key)
        os.wait()
    hear()
    its = intent()
    asyncio.run(ledger.record(its))
    keys = [entry.record.key for entry in asyncio.run(ledger.entries())]
    say(os.getpid(), its.key, keys.count(mine.key))
    hear()


def fork_users(place: str) -> None:
    """Record, and have a child that only closes the ledger, and one that uses it before."""
    ledger = LocalLedger(place)
    asyncio.run(ledger.record(intent()))

    async def use() -> None:
        await ledger.entries()
        mine = intent()
        await ledger.record(mine)
        await ledger.record(ended(mine))
        await ledger.aclose()

    for child in (ledger.aclose, use):
        if not os.fork():
            asyncio.run(child())
            sys.exit()
        os.wait()
    say("ready")
    hear()


def end_each(place: str) -> None:
    """End one record after the other; say how many there were, and how many of them it ended."""

    async def end() -> None:
        ledger = LocalLedger(place)
        found = changes(await ledger.entries())
        say(len(found))
        await asyncio.to_thread(hear)
        say(sum([sum(await ledger.amend([change])) for change in found]))

    asyncio.run(end())


def end_many(place: str, at_once: int, seed: int) -> None:
    """End so many records at once, in an order of its own; say how many there were, and how many of
    them it ended.
    """

    async def end() -> None:
        ledger = LocalLedger(place)
        found = changes(await ledger.entries())
        Random(seed).shuffle(found)  # noqa: S311 - it is to be the same each time
        say(len(found))
        await asyncio.to_thread(hear)
        parts = [found[at : at + at_once] for at in range(0, len(found), at_once)]
        say(sum([sum(await ledger.amend(part)) for part in parts]))

    asyncio.run(end())


def write_much(place: str, steps: int) -> None:
    """Make the file anew again and again, with five records that stay and many that pass; say the
    keys of the five.
    """
    files._LARGE_BYTES = 1000

    async def write() -> None:
        ledger = LocalLedger(place)
        stays = [intent() for _ in range(5)]
        for record in stays:
            await ledger.record(record)
        say("ready")
        for number in range(steps):
            passes = intent()
            await ledger.record(passes)
            await ledger.record(ended(passes))
            created = stays[number % 5].becomes(
                RecordState.CREATED, now=number, session_id=f"s-{number}"
            )
            await ledger.record(created)
        say(*sorted(record.key for record in stays))

    asyncio.run(write())
    hear()


def is_stopped(place: str) -> bool:
    """Return whether there is the file `.stop`."""
    return Path(f"{place}.stop").exists()


def end_until_stopped(place: str) -> None:
    """End what the dead left until the file `.stop` is there; say how many that was."""

    async def end() -> int:
        ledger, number = LocalLedger(place), 0
        while not is_stopped(place):
            number += sum(await ledger.amend(changes(await ledger.entries())))
        return number

    say("ready")
    say(asyncio.run(end()))


def read_until_stopped(place: str) -> None:
    """Read until the file `.stop` is there; say how many entries were of no living and whole owner."""

    async def read() -> int:
        ledger, number = LocalLedger(place), 0
        while not is_stopped(place):
            owners = [entry.owner for entry in await ledger.entries()]
            number += sum(one.liveness != Liveness.ALIVE or one.host is None for one in owners)
        return number

    say("ready")
    say(asyncio.run(read()))


def come_and_go(place: str, times: int) -> None:
    """Be an owner so many times; say how often it wasn't listed as the only one."""

    async def live() -> bool:
        ledger = LocalLedger(place)
        record = intent()
        await ledger.record(record)
        is_only = len(await ledger.entries()) == 1
        await ledger.record(ended(record))
        await ledger.aclose()
        return is_only

    say(sum(not asyncio.run(live()) for _ in range(times)))


def make_anew(place: str) -> None:
    """Record, and make the file anew once that is asked for."""
    files._LARGE_BYTES = 0
    ledger, stays = LocalLedger(place), intent()
    asyncio.run(ledger.record(stays))
    say(stays.key)
    hear()
    before = set(Path(place).iterdir())
    while set(Path(place).iterdir()) == before:
        asyncio.run(ledger.record(stays))
    say("anew")
    hear()


def write_on(place: str) -> None:
    """Record one step after the other, and say each that was kept."""

    async def write() -> None:
        ledger, record = LocalLedger(place), intent()
        for number in range(1_000_000):
            created = record.becomes(RecordState.CREATED, now=number, session_id=f"s-{number}")
            await ledger.record(created)
            say(number)

    asyncio.run(write())


def outgrow(place: str) -> None:
    """Record until the operating system has refused it three times, then once more without a limit;
    say the keys.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
    ledger, refused = LocalLedger(place), 0
    keys: list[str] = []
    while refused < 3:
        record = intent()
        keys.append(record.key)
        try:
            asyncio.run(ledger.record(record))
        except LedgerUnavailable as error:
            if "File too large" not in str(error):
                raise
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    record = intent()
    asyncio.run(ledger.record(record))
    say(*keys, record.key)


def hold_locked(place: str) -> None:
    """Lock the only file as long as nobody says anything."""
    (path,) = Path(place).iterdir()
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        say("held")
        hear()


def hang(place: str) -> None:
    """End while the file system doesn't answer."""
    hanging = threading.Event()

    def fsync(_: int) -> None:
        hanging.set()
        threading.Event().wait()

    os.fsync = fsync  # type: ignore[assignment]

    async def record() -> None:
        writing = asyncio.ensure_future(LocalLedger(place).record(intent()))
        await asyncio.to_thread(hanging.wait)
        say(writing.done())

    asyncio.run(record())


def end_without_closing(place: str) -> None:
    """Record a session to its end, and don't close the ledger."""
    ledger, record = LocalLedger(place), intent()
    asyncio.run(ledger.record(record))
    asyncio.run(ledger.record(ended(record)))
