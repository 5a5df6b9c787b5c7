"""What the synchronous facade adds to a call: the hand-over to its thread and back, alone and with
a GET.

Run it as `python benchmarks/facade.py`. Rounds of the contenders alternate, and the ratios of wall
time are taken round by round.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable

from get import CRN, serve

from qsessions import AsyncSessionClient, IBMCloudAPIKey, ServiceCRN, SessionClient
from qsessions.sync.calls import run
from qsessions.sync.loop_thread import LoopThread

ROUNDS = 15
CALLS = 1000


async def nothing() -> None:
    """Do nothing."""


def compare(contenders: dict[str, Callable[[], object]], first: str) -> None:
    """Print each contender's wall time over the first one's."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name, repeat in contenders.items():
            started = time.perf_counter()
            repeat()
            if number:  # the first round warms up
                spent[name].append(time.perf_counter() - started)
    for name, seconds in spent.items():
        ratios = [one / other for one, other in zip(seconds, spent[first], strict=True)]
        each = statistics.median(seconds) / CALLS * 1e6
        print(f"  {name:<28} {statistics.median(ratios):.2f}  ({each:.0f} us)")


def main(port: int) -> None:
    """Compare and print."""
    base_url = f"http://127.0.0.1:{port}"
    auth = [IBMCloudAPIKey("k"), ServiceCRN(CRN)]
    loop = asyncio.new_event_loop()
    running = threading.Thread(target=loop.run_forever)
    running.start()
    thread = LoopThread(nothing)
    thread.start()

    def handed_over() -> None:
        for _ in range(CALLS):
            run(thread, nothing)

    def standard() -> None:
        for _ in range(CALLS):
            asyncio.run_coroutine_threadsafe(nothing(), loop).result()

    print(
        "the hand-over alone, over asyncio.run_coroutine_threadsafe "
        f"(median of {ROUNDS} paired rounds):"
    )
    compare(
        {"run_coroutine_threadsafe": standard, "SessionClient's": handed_over},
        "run_coroutine_threadsafe",
    )
    thread.shut_down()
    loop.call_soon_threadsafe(loop.stop)
    running.join()
    loop.close()

    with asyncio.Runner() as runner, SessionClient(auth, base_url=base_url) as client:
        direct = AsyncSessionClient(auth, base_url=base_url)

        async def awaited() -> None:
            for _ in range(CALLS):
                await direct.get("s1")

        def called() -> None:
            for _ in range(CALLS):
                client.get("s1")

        print(
            "one GET after another, over the asynchronous client "
            f"(median of {ROUNDS} paired rounds):"
        )
        compare(
            {"AsyncSessionClient": lambda: runner.run(awaited()), "SessionClient": called},
            "AsyncSessionClient",
        )
        runner.run(direct.aclose())


if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    main(ours.recv())
    process.terminate()
