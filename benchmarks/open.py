"""Ten thousand `open()` at 500 at a time: the throughput of each thousand, the memory, and how late
the event loop is.

Run it as `python -m benchmarks.open [--sessions 10000] [--at-once 500]` (Linux: memory is read from
/proc). The emulator runs in a process of its own on 127.0.0.1, and so does the client, whose
sessions are drained as their blocks end.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attrs import Factory, define

from qsessions import AsyncSessionClient, IBMCloudAPIKey, ServiceCRN
from qsessions.emulator import Emulator

EACH = 1000
# How often the event loop is asked how late it is.
TICK_S = 0.005
# Processes that share nothing with this one.
spawning = multiprocessing.get_context("spawn")


@define
class Course:
    """How it went: of each thousand, when it was done, and the memory then in MB; how many seconds
    late the loop was, tick by tick, and for how many of them this process had the processor.
    """

    done_at: list[float] = Factory(list)
    memory: list[float] = Factory(list)
    late: list[float] = Factory(list)
    busy: list[float] = Factory(list)
    cpu: float = 0.0


async def _serve(ready: Connection) -> None:
    async with Emulator() as emulator:
        ready.send(emulator.env())
        await asyncio.Event().wait()


def serve(ready: Connection) -> None:
    """Run an emulator in this process."""
    asyncio.run(_serve(ready))


def memory_mb() -> float:
    """Return what this process has in memory, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


async def tick(course: Course) -> None:
    """Measure how late the event loop is."""
    while True:
        due, cpu = time.monotonic() + TICK_S, time.process_time()
        await asyncio.sleep(TICK_S)
        course.late.append(time.monotonic() - due)
        course.busy.append(min(course.late[-1], time.process_time() - cpu))


async def run(env: dict[str, str], sessions: int, at_once: int) -> Course:
    """Open and end the sessions."""
    auth = [IBMCloudAPIKey(env["QISKIT_IBM_TOKEN"]), ServiceCRN(env["QISKIT_IBM_INSTANCE"])]
    course = Course(done_at=[time.monotonic()])
    numbers = iter(range(sessions))
    done = 0
    async with AsyncSessionClient(
        auth, base_url=env["QSESSIONS_BASE_URL"], max_concurrency=at_once
    ) as client:

        async def worker() -> None:
            nonlocal done
            for _ in numbers:
                async with client.open(mode="batch", backend="ibm_fez", max_ttl="10m"):
                    pass
                done += 1
                if done % EACH == 0:
                    course.done_at.append(time.monotonic())
                    course.memory.append(memory_mb())

        ticking = asyncio.ensure_future(tick(course))
        cpu = time.process_time()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        course.cpu = time.process_time() - cpu
        ticking.cancel()
        await asyncio.wait({ticking})
    return course


def work(result: Connection, *arguments: Any) -> None:
    """Open the sessions in this process."""
    result.send(asyncio.run(run(*arguments)))


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--sessions", type=int, default=10 * EACH)
    parser.add_argument("--at-once", type=int, default=500)
    options = parser.parse_args()
    processes = []
    arguments: tuple[Any, ...] = ()
    answer: Any = None
    for target in (serve, work):
        ours, theirs = multiprocessing.Pipe()
        processes.append(spawning.Process(target=target, args=(theirs, *arguments), daemon=True))
        processes[-1].start()
        answer = ours.recv()
        arguments = (answer, options.sessions, options.at_once)
    processes[1].join()
    processes[0].terminate()
    course: Course = answer
    print("| thousand | opened and ended a second | memory |\n|---|---|---|")
    spans = zip(course.done_at, course.done_at[1:], course.memory, strict=False)
    for number, (begun, done, memory) in enumerate(spans, 1):
        print(f"| {number} | {EACH / (done - begun):.0f} | {memory:.0f} MB |")
    for name, seconds in (("late", course.late), ("late by its own work", course.busy)):
        cuts = [cut * 1000 for cut in statistics.quantiles(seconds, n=100)]
        print(
            f"event loop {name}: median {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, "
            f"most {max(seconds) * 1000:.0f} ms"
        )
    print(f"CPU for each session: {course.cpu / options.sessions * 1000:.2f} ms")


if __name__ == "__main__":
    main()
