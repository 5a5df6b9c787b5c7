"""Throughput of one process with 128 callers at a time, and the price of cookies."""

from __future__ import annotations

import aiohttp
from attrs import evolve

from benchmarks import payloads, peers
from benchmarks.clients import HEADERS, async_client
from benchmarks.event_loop import EventLoop
from benchmarks.rounds import Variant
from benchmarks.rows import Bench, at_least, at_most
from qsessions import AsyncSessionClient

CALLERS = 128
BARE = "aiohttp, get + read"
PEOPLE = "aiohttp, r.json() + cattrs"
COOKIES_BARE = "aiohttp, get + read, with cookies"
OURS = "qsessions"
COOKIES = "qsessions, with cookies"
HTTPX = "httpx.AsyncClient"


def run(bench: Bench) -> None:
    """Measure it."""
    session_id = payloads.SESSION_ID
    with EventLoop() as loop:
        client, with_cookies = (_client(bench, loop, path) for path in ("", "/cookies"))
        variants = [
            *_aiohttp(bench, loop),
            loop.concurrent(OURS, lambda: client.get(session_id), CALLERS),
            loop.concurrent(COOKIES, lambda: with_cookies.get(session_id), CALLERS),
        ]
        httpx = peers.library(bench, "httpx")
        if httpx is not None:
            expert = loop.open(lambda: peers.httpx_expert(httpx, "AsyncClient", HEADERS, CALLERS))
            url = f"{bench.stub.named_url}{payloads.SESSION_PATH}"
            variants.append(loop.concurrent(HTTPX, lambda: expert.get(url), CALLERS))
        # Enough calls for each caller that starting the callers doesn't count.
        rounds, seconds = max(1, bench.effort.rounds // 3), bench.effort.seconds * 4
        effort = evolve(bench.effort, rounds=rounds, seconds=seconds)
        measured = bench.measure(f"get, {CALLERS} callers", variants, effort)
    name = f"`get` throughput, {CALLERS} callers"
    ratio, add = measured.ratio, bench.add
    add("many-bare", f"{name}, against bare", ratio(BARE, OURS, "wall"), at_least(0.80, 0.88))
    against = ratio(PEOPLE, OURS, "wall")
    figure = f"{name}, against aiohttp as people write it"
    add("many-people", figure, against, at_least(0.95, 1.05))
    figure = "the same when every answer sets cookies, CPU against itself without"
    add("cookies", figure, ratio(COOKIES, OURS), at_most(1.03, 1.00))
    add("cookies-bare", "cookies, bare aiohttp against itself", ratio(COOKIES_BARE, BARE))
    if HTTPX in measured:
        figure = f"{name}, against httpx.AsyncClient, set up by an expert"
        add("many-httpx", figure, ratio(HTTPX, OURS, "wall"), unit="x", decimals=0)


def _client(bench: Bench, loop: EventLoop, path: str) -> AsyncSessionClient:
    url = f"{bench.stub.named_url}{path}"
    return loop.open(lambda: async_client(bench.stub, base_url=url, max_concurrency=CALLERS))


def _aiohttp(bench: Bench, loop: EventLoop) -> list[Variant]:
    plain, people, cookies = (
        loop.open(lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CALLERS)))
        for _ in range(3)
    )
    url = f"{bench.stub.named_url}{payloads.SESSION_PATH}"
    with_cookies = f"{bench.stub.named_url}/cookies{payloads.SESSION_PATH}"
    written = peers.as_people_write_it(people, url, HEADERS, payloads.PlainSession)
    return [
        loop.concurrent(BARE, peers.bare(plain, url, HEADERS), CALLERS),
        loop.concurrent(PEOPLE, written, CALLERS),
        loop.concurrent(COOKIES_BARE, peers.bare(cookies, with_cookies, HEADERS), CALLERS),
    ]
