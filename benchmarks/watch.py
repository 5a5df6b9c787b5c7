"""What `client.watch` costs at 100, 1,000 and 10,000 sessions: requests, CPU, memory, and how soon
an end is seen.

Run it as `python -m benchmarks.watch [--sessions 100 1000 10000] [--rate 20] [--seconds 60]`; with
`--write` the table and a plot go into benchmarks/. The
emulator runs in a process of its own on 127.0.0.1, and so does each watch. All sessions are open.
After the first sweep some are closed, one after another, and the time is taken until the watch
yields each.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import pickle
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks import plot, report
from benchmarks.rounds import Spread
from qsessions import AsyncSessionClient, Event, IBMCloudAPIKey, RequestSent, ServiceCRN, Session
from qsessions.emulator import Emulator

SIZES = (100, 1_000, 10_000)
AT_ONCE = 50
# How many sessions end while the watch goes on.
ENDS = 20
# Fast enough to have read all for the measure of memory.
READ_RATE = 400.0
# Processes that share nothing with this one.
spawning = multiprocessing.get_context("spawn")


@frozen
class Cost:
    """What a watch cost: requests of each kind and CPU a second, bytes for each session, and the
    seconds until the ends were seen.
    """

    pages: float
    reads: float
    cpu: float
    size: float
    session_size: float
    seen: list[float]


async def _serve(ready: Connection) -> None:
    async with Emulator() as emulator:
        ready.send(emulator.env())
        await asyncio.Event().wait()


def serve(ready: Connection) -> None:
    """Run an emulator in this process."""
    asyncio.run(_serve(ready))


def client_of(env: dict[str, str], **options: Any) -> AsyncSessionClient:
    """Return a client of an emulator."""
    auth = [IBMCloudAPIKey(env["QISKIT_IBM_TOKEN"]), ServiceCRN(env["QISKIT_IBM_INSTANCE"])]
    return AsyncSessionClient(auth, base_url=env["QSESSIONS_BASE_URL"], **options)


async def create(client: AsyncSessionClient, count: int) -> list[str]:
    """Create sessions and return their ids."""
    numbers = iter(range(count))

    async def worker() -> list[str]:
        return [
            (await client.create(mode="batch", backend="ibm_fez", max_ttl="8h")).id for _ in numbers
        ]

    return list(chain.from_iterable(await asyncio.gather(*(worker() for _ in range(AT_ONCE)))))


async def size_of(client: AsyncSessionClient, ids: list[str]) -> tuple[float, float]:
    """Return the bytes that a watch takes for each session beside the `Session`, and those of the
    `Session`, after all were read.
    """
    tracemalloc.start()
    kept: dict[str, Session] = {}
    async with aclosing(client.watch(ids, rate=READ_RATE)) as changes:  # type: ignore[type-var]
        async for session_id, session in changes:
            kept[session_id] = session
            if len(kept) == len(ids):
                break
        gc.collect()
        watched = tracemalloc.get_traced_memory()[0]
        sessions = _size(kept)
    tracemalloc.stop()
    return (watched - sessions) / len(ids), sessions / len(ids)


def _size(kept: dict[str, Session]) -> int:
    """Return the bytes of sessions, by copying them."""
    before = tracemalloc.get_traced_memory()[0]
    # They share nothing with each other.
    copies = [pickle.loads(pickle.dumps(session)) for session in kept.values()]  # noqa: S301
    gc.collect()
    size = tracemalloc.get_traced_memory()[0] - before
    del copies
    return size


async def measure(env: dict[str, str], count: int, rate: float, seconds: float) -> Cost:
    """Watch so many sessions for a while."""
    sent: Counter[str] = Counter()

    def note(event: Event) -> None:
        if isinstance(event, RequestSent):
            sent[event.operation] += 1

    async with client_of(env) as other, client_of(env, observers=[note]) as client:
        ids = await create(other, count)
        size, session_size = await size_of(client, ids)
        closed_at: dict[str, float] = {}
        seen: list[float] = []

        async def follow() -> None:
            async for session_id, session in client.watch(ids, rate=rate):
                if session.is_final:
                    seen.append(time.monotonic() - closed_at[session_id])

        following = asyncio.ensure_future(follow())
        # The first sweep comes before the measure.
        await asyncio.sleep(20)
        sent.clear()
        cpu, began = time.process_time(), time.monotonic()
        for session_id in ids[:: max(1, len(ids) // ENDS)][:ENDS]:
            closed_at[session_id] = time.monotonic()
            await other.close(session_id)
            await asyncio.sleep((seconds - 16) / ENDS)
        await asyncio.sleep(16)
        spent, took = time.process_time() - cpu, time.monotonic() - began
        following.cancel()
        await asyncio.wait({following})
    return Cost(
        pages=sent["workloads"] / took,
        reads=sent["get"] / took,
        cpu=spent / took,
        size=size,
        session_size=session_size,
        seen=seen,
    )


def work(result: Connection, *arguments: Any) -> None:
    """Measure in this process."""
    result.send(asyncio.run(measure(*arguments)))


def in_process(target: Any, *arguments: Any) -> tuple[Any, Any]:
    """Run a function in a process of its own, and return that and what it sends first."""
    ours, theirs = multiprocessing.Pipe()
    process = spawning.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    return process, ours.recv()


def panels(costs: Mapping[int, Cost]) -> dict[str, list[plot.Bar]]:
    """Return the bars of the plot by the title above them."""
    figures: dict[str, tuple[Callable[[Cost], float], int]] = {
        "requests a second": (lambda cost: cost.pages + cost.reads, 1),
        "CPU, percent of a core": (lambda cost: cost.cpu * 100, 1),
        "memory for each session beside its Session, bytes": (lambda cost: cost.size, 0),
        "until an end was seen, seconds at most": (lambda cost: max(cost.seen), 1),
    }
    return {
        title: [
            plot.Bar(f"{count:,} sessions", Spread.of([value(cost)]), decimals=decimals)
            for count, cost in costs.items()
        ]
        for title, (value, decimals) in figures.items()
    }


def table(costs: Mapping[int, Cost]) -> str:
    """Return the table in Markdown."""
    rows = {
        "pages of the list a second": [f"{cost.pages:.1f}" for cost in costs.values()],
        "reads a second": [f"{cost.reads:.1f}" for cost in costs.values()],
        "CPU": [f"{cost.cpu:.1%}" for cost in costs.values()],
        "memory for each session, beside its `Session`": [
            f"{cost.size:,.0f} bytes" for cost in costs.values()
        ],
        "its `Session`": [f"{cost.session_size:,.0f} bytes" for cost in costs.values()],
        f"{ENDS} ends were seen after": [
            f"{min(cost.seen):.1f} to {max(cost.seen):.1f} s" for cost in costs.values()
        ],
    }
    headings = (f"{datetime.now(UTC).date()}, sessions", *(f"{count:,}" for count in costs))
    return report.markdown_table(headings, [(name, *cells) for name, cells in rows.items()])


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    costs: dict[int, Cost] = {}
    for count in options.sessions:
        emulator, env = in_process(serve)
        watcher, costs[count] = in_process(work, env, count, options.rate, options.seconds)
        watcher.join()
        emulator.terminate()
    print(table(costs))
    if options.write:
        folder = Path(__file__).parent
        drawn = plot.svg(panels(costs), "what watching many sessions costs", one_scale=False)
        (folder / "watch.svg").write_text(drawn, encoding="utf-8")
        section = f"![What watching many sessions costs](watch.svg)\n\n{table(costs)}"
        report.replace_section(folder / "README.md", section, "watch")


if __name__ == "__main__":
    main()
