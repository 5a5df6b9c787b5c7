"""What `reap` costs by the number of records that a dead process left, and what the ledger adds to
a `create`.

Run it as `python -m benchmarks.ledger [--records 100 1000 10000] [--directory DIR]` (Linux: memory
is read from /proc). The ledger is in a temporary directory, or below DIR: what a durable write
takes is a matter of its file system.

The dead process created sessions that are all closed by now. Each reaping is in a process of its
own, so that its peak of memory is that of its size, and each create is timed over a stub server, in
rounds that alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.payloads import CRN
from benchmarks.stub import running_stub
from qsessions import (
    AsyncSessionClient,
    CreateSession,
    Event,
    IBMCloudAPIKey,
    LedgerRecord,
    LocalLedger,
    RecordState,
    RequestSent,
    ServiceCRN,
)
from qsessions.emulator import Emulator
from qsessions.reaper import reap

SIZES = (100, 1_000, 10_000)
AT_ONCE = 50
ROUNDS = 15
CALLS = 100
WANTED = CreateSession("batch", backend="ibm_fez", max_ttl=600)
# Processes that share nothing with this one, its memory least of all.
spawning = multiprocessing.get_context("spawn")


async def _serve_emulator(ready: Connection) -> None:
    async with Emulator() as emulator:
        ready.send(emulator.env())
        await asyncio.Event().wait()


def serve_emulator(ready: Connection) -> None:
    """Run an emulator in this process."""
    asyncio.run(_serve_emulator(ready))


def settings(env: dict[str, str]) -> dict[str, Any]:
    """Give what leads a client to the emulator."""
    auth = [IBMCloudAPIKey(env["QISKIT_IBM_TOKEN"]), ServiceCRN(env["QISKIT_IBM_INSTANCE"])]
    return {"auth": auth, "base_url": env["QSESSIONS_BASE_URL"]}


async def _leave(count: int, env: dict[str, str], directory: str) -> None:
    ledger = LocalLedger(directory)
    left = iter(range(count))
    async with AsyncSessionClient(**settings(env)) as client:

        async def worker() -> None:
            for _ in left:
                asked_at = time.time()
                session = await client.create(WANTED)
                await client.close(session.id)
                record = LedgerRecord.intent(
                    WANTED, base_url=client.base_url, instance=client.instance, now=asked_at
                )
                await ledger.record(record)
                await ledger.record(
                    record.becomes(RecordState.CREATED, now=time.time(), session_id=session.id)
                )

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def leave(count: int, env: dict[str, str], directory: str) -> None:
    """Create and close so many sessions, record them as open, and die."""
    asyncio.run(_leave(count, env, directory))
    os._exit(0)


async def _measure(env: dict[str, str], directory: str) -> dict[str, float]:
    requests = 0

    def count(event: Event) -> None:
        nonlocal requests
        requests += isinstance(event, RequestSent)

    ledger = LocalLedger(directory)
    async with AsyncSessionClient(**settings(env), observers=[count]) as client:
        started, cpu = time.perf_counter(), time.process_time()
        # Long enough ago for a service that may not know a new session yet.
        reaped = await reap(client, ledger, wall=lambda: time.time() + 1000)
        told = {
            "records": len(reaped),
            "ended": sum(one.done for one in reaped),
            "requests": requests,
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - started,
        }
    await ledger.aclose()
    return told | {"peak": peak_mb()}


def measure(env: dict[str, str], directory: str, told: Connection) -> None:
    """Reap in this process, and tell what that took."""
    told.send(asyncio.run(_measure(env, directory)))


def peak_mb() -> float:
    """Give the most that this process has had in memory, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return (
        int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        / 1024
    )


def reaping(sizes: list[int], directory: str) -> None:
    """Print what the reaper takes for each size."""
    ours, theirs = spawning.Pipe()
    service = spawning.Process(target=serve_emulator, args=(theirs,), daemon=True)
    service.start()
    env = ours.recv()
    print("reap, of a dead process whose sessions are all closed:")
    print("  records   ended  requests  CPU s  CPU ms/record  wall s  peak MB over the first row")
    first: float | None = None
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=directory) as ledger:
            maker = spawning.Process(target=leave, args=(size, env, ledger))
            maker.start()
            maker.join()
            reaper = spawning.Process(target=measure, args=(env, ledger, theirs))
            reaper.start()
            told = ours.recv()
            reaper.join()
        first = told["peak"] if first is None else first
        print(
            f"  {told['records']:>7} {told['ended']:>7} {told['requests']:>9} {told['cpu']:>6.2f}"
            f" {told['cpu'] / size * 1000:>14.2f} {told['wall']:>7.2f}"
            f" {told['peak'] - first:>8.1f}",
            flush=True,
        )
    service.terminate()


Load = Callable[[AsyncSessionClient], Awaitable[object]]


async def one_after_another(client: AsyncSessionClient) -> None:
    """Create sessions in a row."""
    for _ in range(CALLS):
        await client.create(WANTED)


async def many_at_once(client: AsyncSessionClient) -> None:
    """Create as many, some at a time: their records share what they can."""
    left = iter(range(CALLS))

    async def worker() -> None:
        for _ in left:
            await client.create(WANTED)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def compare(contenders: dict[str, AsyncSessionClient], load: Load) -> None:
    """Print what a create takes with each of them."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name, client in contenders.items():
            started = time.perf_counter()
            await load(client)
            if number:  # the first round warms up
                spent[name].append((time.perf_counter() - started) / CALLS * 1e6)
    plain, *_ = spent.values()
    for name, times in spent.items():
        pairs = list(zip(times, plain, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        more = statistics.median(one - other for one, other in pairs)
        print(f"  {name:<26} {statistics.median(times):>6.0f} us   {ratio:.2f}   {more:+.0f} us")


def fsync_us(directory: str) -> float:
    """Give the median time of a durable write of one record's size."""
    times = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(200):
            started = time.perf_counter()
            file.write(b"x" * 400)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


async def creating(base_url: str, directory: str) -> None:
    """Print what the ledger adds to a create."""
    options: dict[str, Any] = {
        "auth": [IBMCloudAPIKey("k"), ServiceCRN(CRN)],
        "base_url": base_url,
    }
    waiting, hasty = (LocalLedger(Path(directory) / name) for name in ("waiting", "hasty"))
    async with (
        AsyncSessionClient(**options) as plain,
        AsyncSessionClient(**options, ledger=waiting) as durable,
        AsyncSessionClient(**options, ledger=hasty, ledger_wait=False) as early,
    ):
        contenders = {"no ledger": plain, "ledger_wait=False": early, "ledger_wait=True": durable}
        for how, load in (
            ("one after another", one_after_another),
            (f"{AT_ONCE} at a time", many_at_once),
        ):
            print(f"create, {how}, over no ledger (medians of {ROUNDS} paired rounds):")
            await compare(contenders, load)
    await waiting.aclose()
    await hasty.aclose()


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--records", type=int, nargs="*", default=SIZES, help="for which numbers to reap"
    )
    parser.add_argument("--directory", help="where the ledgers are to be")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        print(f"a durable write alone: {fsync_us(directory):.0f} us")
        with running_stub() as stub:
            asyncio.run(creating(stub.url, directory))
        reaping(list(options.records), directory)


if __name__ == "__main__":
    main()
