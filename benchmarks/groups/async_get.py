"""One `get` after another, asynchronously."""

from __future__ import annotations

import aiohttp

from benchmarks import payloads, peers
from benchmarks.clients import HEADERS, async_client
from benchmarks.event_loop import EventLoop
from benchmarks.rounds import Variant
from benchmarks.rows import Bench, at_least, at_most
from qsessions.api.codec import decode_session

BARE = "aiohttp, get + read"
AGAIN = "aiohttp, get + read, a second time"
PEOPLE = "aiohttp, r.json() + cattrs"
BEST = "aiohttp at its best"
BEST_LOADS = "aiohttp at its best + json.loads"
BEST_DECODED = "aiohttp at its best + our decoding"
OURS = "qsessions"
HTTPX = "httpx.AsyncClient"
HTTPX_EXPERT = "httpx.AsyncClient, set up by an expert"


def run(bench: Bench) -> None:
    """Measure it."""
    with EventLoop() as loop:
        variants = [*_aiohttp(bench, loop), *_httpx(bench, loop)]
        client = loop.open(lambda: async_client(bench.stub))
        variants.append(loop.sequential(OURS, lambda: client.get(payloads.SESSION_ID)))
        measured = bench.measure("get, one caller", variants)
    ratio, add = measured.ratio, bench.add
    add("control", "`get + read` of aiohttp against itself: the noise", ratio(AGAIN, BARE))
    goal = at_most(1.20, 1.10)
    add("bare", "async `get`, CPU against aiohttp without decoding", ratio(OURS, BARE), goal)
    goal = at_most(1.00, 0.92)
    add("people", "async `get`, CPU against aiohttp as people write it", ratio(OURS, PEOPLE), goal)
    add("best", "aiohttp's public options at their best, CPU against bare", ratio(BEST, BARE))
    add("loads", "the same with `json.loads`", ratio(BEST_LOADS, BARE))
    decoding = measured.added(BEST_DECODED, BEST_LOADS, BARE)
    figure = "decoding a Session in place, over `json.loads` alone, against bare"
    add("decoding", figure, decoding, at_most(0.10, 0.06))
    if HTTPX in measured:
        against = measured.ratio(HTTPX, OURS, "wall")
        add("httpx", "async `get` against httpx.AsyncClient", against, at_least(3.4, 3.8), unit="x")
        against = measured.ratio(HTTPX_EXPERT, OURS, "wall")
        add("httpx-expert", "the same, httpx set up by an expert", against, unit="x")


def _aiohttp(bench: Bench, loop: EventLoop) -> list[Variant]:
    url = f"{bench.stub.url}{payloads.SESSION_PATH}"
    plain, again, people = (loop.open(aiohttp.ClientSession) for _ in range(3))
    best, loads, decoded = (loop.open(lambda: peers.best_session(HEADERS)) for _ in range(3))
    written = peers.as_people_write_it(people, url, HEADERS, payloads.PlainSession)
    return [
        loop.sequential(BARE, peers.bare(plain, url, HEADERS)),
        loop.sequential(AGAIN, peers.bare(again, url, HEADERS)),
        loop.sequential(PEOPLE, written),
        loop.sequential(BEST, peers.at_its_best(best, url)),
        loop.sequential(BEST_LOADS, peers.at_its_best(loads, url, peers.json_loads)),
        loop.sequential(BEST_DECODED, peers.at_its_best(decoded, url, decode_session)),
    ]


def _httpx(bench: Bench, loop: EventLoop) -> list[Variant]:
    httpx = peers.library(bench, "httpx")
    if httpx is None:
        return []
    url = f"{bench.stub.url}{payloads.SESSION_PATH}"
    plain = loop.open(httpx.AsyncClient)
    expert = loop.open(lambda: peers.httpx_expert(httpx, "AsyncClient", HEADERS, 100))
    parsed = httpx.URL(url)
    return [
        loop.sequential(HTTPX, lambda: plain.get(url, headers=HEADERS)),
        loop.sequential(HTTPX_EXPERT, lambda: expert.get(parsed)),
    ]
