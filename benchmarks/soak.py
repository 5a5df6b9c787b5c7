"""Sessions by the thousand through their whole life, against a service that fails a fifth of all
requests; then the reaper.

Run it as `python -m benchmarks.soak [SESSIONS]` (Linux: memory is read from /proc). It prints what
became of the sessions, and how much memory the client took at a fifth of them and at all of them.
The emulator runs in a process of its own on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qsessions import (
    AsyncSessionClient,
    IBMCloudAuth,
    LocalLedger,
    QSessionsError,
    RetryPolicy,
    ServiceCRN,
)
from qsessions.emulator import Emulator, Fault
from qsessions.ledger.verdicts import Verdict
from qsessions.reaper import reap

AT_ONCE = 200
# Each strikes so many of a thousand requests, one independent of the others: a fifth in all.
FAULTS = [
    Fault(kind="reset", rate=0.03, seed=1),
    Fault(kind="reset", rate=0.03, seed=2, after=True),
    Fault(kind="answer", rate=0.03, seed=3, status=503, retry_after=1),
    Fault(kind="answer", rate=0.015, seed=4, status=500),
    # Not in the service's own form: one that denies what it did is believed (docs/failures.md), and
    # is no part of this.
    Fault(kind="answer", rate=0.015, seed=10, status=500, body="<html>Failed</html>", after=True),
    Fault(
        kind="answer", rate=0.03, seed=5, status=502, body="<html>Bad gateway</html>", after=True
    ),
    Fault(kind="answer", rate=0.02, seed=6, status=429),
    Fault(kind="truncate", rate=0.02, seed=7),
    Fault(kind="malformed", rate=0.02, seed=8),
    Fault(kind="latency", rate=0.01, seed=9, seconds=0.5),
]


async def _serve(told: Connection) -> None:
    async with Emulator(seed=1, faults=FAULTS) as emulator:
        told.send((emulator.env(), emulator.iam_url))
        while (asked := await asyncio.to_thread(told.recv)) is not None:
            if asked == "well":
                emulator.faults.clear()
            told.send(
                [
                    session.ttls.maximum
                    for session in emulator.open_sessions
                    if session.accepting_jobs
                ]
            )


def serve(told: Connection) -> None:
    """Run the emulator in this process."""
    asyncio.run(_serve(told))


def memory_mb() -> float:
    """Give what this process has in memory, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return (
        int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        / 1024
    )


def settings(env: dict[str, str], iam_url: str) -> dict[str, Any]:
    """Give what leads a client to the emulator."""
    auth = [IBMCloudAuth(env["QISKIT_IBM_TOKEN"], iam_url), ServiceCRN(env["QISKIT_IBM_INSTANCE"])]
    return {"auth": auth, "base_url": env["QSESSIONS_BASE_URL"]}


async def live(client: AsyncSessionClient, number: int, became: Counter[str]) -> None:
    """Take one session through its life, and count what became of it. By its `max_ttl` it is known
    again in the ledger.
    """
    try:
        async with client.open(mode="batch", backend="ibm_fez", max_ttl=600 + number) as session:
            await session.refresh()
            await client.update(session.id, accepting_jobs=True)
        await session.wait_until("closed", timeout="1m")
        became["closed"] += 1
    except QSessionsError as error:
        became[type(error).__name__] += 1


async def _work(sessions: int, env: dict[str, str], iam_url: str, directory: str) -> None:
    started = time.perf_counter()
    became: Counter[str] = Counter()
    taken: dict[int, float] = {}
    # Without a budget for retries: a fifth of failures all the time is an outage that it is there
    # to end.
    retry = RetryPolicy(base_delay=0.05, budget=None)
    async with AsyncSessionClient(
        **settings(env, iam_url), ledger=LocalLedger(directory), retry=retry
    ) as client:
        left = iter(range(sessions))

        async def worker() -> None:
            for number in left:
                await live(client, number, became)
                if number + 1 in {sessions // 5, sessions}:
                    taken[number + 1] = memory_mb()

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
        taken[sessions] = memory_mb()
    print(
        f"{sessions} sessions, {AT_ONCE} at a time, in {time.perf_counter() - started:.0f} s: "
        f"{dict(became)}"
    )
    small, large = taken[sessions // 5], taken[sessions]
    print(
        f"memory: {small:.0f} MB at {sessions // 5}, {large:.0f} MB at {sessions}: "
        f"{large / small:.2f} times"
    )


def work(sessions: int, env: dict[str, str], iam_url: str, directory: str) -> None:
    """Run the sessions in this process, which then dies and leaves what it could not end."""
    asyncio.run(_work(sessions, env, iam_url, directory))


async def soak(sessions: int, told: Connection) -> None:
    """Run the sessions, then the reaper, and print what was left by each."""
    env, iam_url = await asyncio.to_thread(told.recv)
    with tempfile.TemporaryDirectory() as directory:
        worker = multiprocessing.get_context("spawn").Process(
            target=work, args=(sessions, env, iam_url, directory)
        )
        worker.start()
        await asyncio.to_thread(worker.join)
        told.send("well")
        print(f"open afterwards: {len(await asyncio.to_thread(told.recv))}")
        ledger = LocalLedger(directory)
        async with AsyncSessionClient(**settings(env, iam_url)) as client:
            # Long enough ago for a session that was asked for to be listed, were it there.
            reaped = await reap(client, ledger, wall=lambda: time.time() + 1000)
            print(f"reaped: {dict(Counter(one.decision.verdict.value for one in reaped))}")
            told.send("look")
            still = set(await asyncio.to_thread(told.recv))
            undecided = [
                one.entry.record.max_ttl
                for one in reaped
                if one.decision.verdict is Verdict.UNDECIDED
            ]
            lost = still.difference(undecided)
            print(
                f"open then: {len(still)}, of which the ledger lists as undecided: "
                f"{len(still) - len(lost)}"
            )
            ended = await client.close_all()
            told.send("look")
            print(
                f"close_all ended {len(ended)}; open at the end: "
                f"{len(await asyncio.to_thread(told.recv))}"
            )
        await ledger.aclose()
    with suppress(BrokenPipeError):
        told.send(None)
    if lost:
        sys.exit(f"{len(lost)} open sessions are in no record that is undecided")


if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs,), daemon=True
    )
    process.start()
    asyncio.run(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, ours))
    process.join()
