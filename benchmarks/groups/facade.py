"""One synchronous `get` after another, in one thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import aiohttp

from benchmarks import payloads, peers
from benchmarks.clients import HEADERS, async_client, facade
from benchmarks.event_loop import EventLoop
from benchmarks.machine import unpinned
from benchmarks.rounds import Variant
from benchmarks.rows import Bench, at_least, at_most

OURS = "qsessions.SessionClient"
ASYNC = "qsessions, async"
BARE = "aiohttp, get + read"
URLLIB3 = "urllib3"
HTTPX = "httpx.Client"
HTTPX_EXPERT = "httpx.Client, set up by an expert"
REQUESTS = "requests.Session"
REQUESTS_EXPERT = "requests.Session, set up by an expert"
OFFICIAL = "qiskit-ibm-runtime, session_details"

SHOWN = {
    URLLIB3: ("facade-urllib3", "facade `get` against urllib3"),
    HTTPX: ("facade-httpx", "facade `get` against httpx.Client"),
    HTTPX_EXPERT: ("facade-httpx-expert", "the same, httpx set up by an expert"),
}


def sequential(name: str, work: Callable[[], object]) -> Variant:
    """Return a variant that does the work again and again."""

    def repeat(calls: int) -> None:
        for _ in range(calls):
            work()

    return Variant(name, repeat)


def in_a_thread(variant: Variant, stack: ExitStack) -> Variant:
    """Return a variant that runs in another thread, which has a short stack.

    The official client inspects the whole stack at each request. Below `python -m` that has frames
    without a source file, which would make it several times as slow as it is in a script.
    """
    pool = stack.enter_context(ThreadPoolExecutor(1))
    return Variant(variant.name, lambda calls: pool.submit(variant.repeat, calls).result())


def run(bench: Bench) -> None:
    """Measure it."""
    with EventLoop() as loop, ExitStack() as stack:
        client = stack.enter_context(facade(bench.stub))
        direct = loop.open(lambda: async_client(bench.stub))
        plain = loop.open(aiohttp.ClientSession)
        url = f"{bench.stub.url}{payloads.SESSION_PATH}"
        variants = [
            sequential(OURS, lambda: client.get(payloads.SESSION_ID)),
            loop.sequential(ASYNC, lambda: direct.get(payloads.SESSION_ID)),
            loop.sequential(BARE, peers.bare(plain, url, HEADERS)),
            *_peers(bench, url, stack),
        ]
        measured = bench.measure("facade, one thread", variants)
    ratio, add = measured.ratio, bench.add
    goal = at_most(1.25, 1.15)
    add("facade", "facade `get`, wall against async `get`", ratio(OURS, ASYNC, "wall"), goal)
    if REQUESTS in measured:
        against = ratio(REQUESTS, OURS, "wall")
        add("requests", "facade `get` against requests", against, at_least(2.3, 2.6), unit="x")
        against = ratio(REQUESTS_EXPERT, OURS, "wall")
        add("requests-expert", "the same, requests set up by an expert", against, unit="x")
    if OFFICIAL in measured:
        against = ratio(OFFICIAL, OURS, "wall")
        figure = "facade `get` against the official client"
        add("official", figure, against, at_least(3.3, 3.8), unit="x")
    for name, (key, figure) in SHOWN.items():
        if name in measured:
            add(key, figure, ratio(name, OURS, "wall"), unit="x")
    if bench.cores:
        _unpinned(bench)


def _unpinned(bench: Bench) -> None:
    """Measure the way to the client's thread and back where that may run on another core."""
    with unpinned(bench.cores), EventLoop() as loop, facade(bench.stub) as client:
        direct = loop.open(lambda: async_client(bench.stub))
        variants = [
            sequential(OURS, lambda: client.get(payloads.SESSION_ID)),
            loop.sequential(ASYNC, lambda: direct.get(payloads.SESSION_ID)),
        ]
        measured = bench.measure("facade, one thread, every core", variants)
    figure = "facade `get`, wall against async `get`, the client free to use every core"
    bench.add("facade-free", figure, measured.ratio(OURS, ASYNC, "wall"))


def _peers(bench: Bench, url: str, stack: ExitStack) -> list[Variant]:
    found: list[Variant] = []
    if (urllib3 := peers.library(bench, "urllib3")) is not None:
        pool = stack.enter_context(urllib3.PoolManager())
        found.append(sequential(URLLIB3, lambda: pool.request("GET", url, headers=HEADERS).data))
    if (httpx := peers.library(bench, "httpx")) is not None:
        plain = stack.enter_context(httpx.Client())
        expert = stack.enter_context(peers.httpx_expert(httpx, "Client", HEADERS, 100))
        parsed = httpx.URL(url)
        found.append(sequential(HTTPX, lambda: plain.get(url, headers=HEADERS)))
        found.append(sequential(HTTPX_EXPERT, lambda: expert.get(parsed)))
    if (requests := peers.library(bench, "requests")) is not None:
        usual = stack.enter_context(requests.Session())
        tuned = stack.enter_context(peers.requests_expert(requests, HEADERS))
        found.append(sequential(REQUESTS, lambda: usual.get(url, headers=HEADERS).content))
        found.append(sequential(REQUESTS_EXPERT, lambda: tuned.get(url).content))
    if (details := peers.official_session_details(bench, bench.stub.url)) is not None:
        found.append(in_a_thread(sequential(OFFICIAL, details), stack))
    return found
