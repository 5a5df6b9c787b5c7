"""Sixteen threads that read sessions at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks import payloads, peers
from benchmarks.clients import HEADERS, facade
from benchmarks.machine import unpinned
from benchmarks.rounds import Measured, Variant
from benchmarks.rows import Bench, at_least

THREADS = 16
OURS = "qsessions.SessionClient"
REQUESTS = "requests.Session, shared"
EXPERT = "requests.Session, set up by an expert, one for each thread"


def run(bench: Bench) -> None:
    """Measure it, on one core and on all."""
    measured = _measured(bench, f"facade, {THREADS} threads")
    if REQUESTS in measured:
        figure = f"facade, {THREADS} threads sharing one client, against requests"
        against = measured.ratio(REQUESTS, OURS, "wall")
        bench.add("threads", figure, against, at_least(5, 8), unit="x", decimals=1)
        figure = "the same, requests set up by an expert, one session for each thread"
        against = measured.ratio(EXPERT, OURS, "wall")
        bench.add("threads-expert", figure, against, unit="x", decimals=1)
    if REQUESTS in measured and bench.cores:
        with unpinned(bench.cores):
            measured = _measured(bench, f"facade, {THREADS} threads, every core")
        figure = f"facade, {THREADS} threads, against requests, both free to use every core"
        against = measured.ratio(REQUESTS, OURS, "wall")
        bench.add("threads-free", figure, against, unit="x", decimals=1)


def _measured(bench: Bench, group: str) -> Measured:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        client = stack.enter_context(facade(bench.stub))
        ours = in_threads(OURS, pool, lambda: client.get(payloads.SESSION_ID))
        return bench.measure(group, [ours, *_requests(bench, pool, stack)])


def _requests(bench: Bench, pool: ThreadPoolExecutor, stack: ExitStack) -> list[Variant]:
    if (requests := peers.library(bench, "requests")) is None:
        return []
    url = f"{bench.stub.url}{payloads.SESSION_PATH}"
    shared = stack.enter_context(requests.Session())
    local = threading.local()

    def with_own_session() -> object:
        if not hasattr(local, "session"):
            local.session = stack.enter_context(peers.requests_expert(requests, HEADERS))
        return local.session.get(url).content

    return [
        in_threads(REQUESTS, pool, lambda: shared.get(url, headers=HEADERS).content),
        in_threads(EXPERT, pool, with_own_session),
    ]


def in_threads(name: str, pool: ThreadPoolExecutor, work: Callable[[], object]) -> Variant:
    """Return a variant that shares its calls out among the threads of a pool."""

    def share(calls: int) -> None:
        for _ in range(calls):
            work()

    def repeat(calls: int) -> None:
        list(pool.map(share, [calls // THREADS] * THREADS))

    return Variant(name, repeat, least=THREADS)
