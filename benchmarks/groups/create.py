"""`create` beside `get`."""

from __future__ import annotations

from collections.abc import Awaitable

import aiohttp

from benchmarks import payloads
from benchmarks.clients import HEADERS, async_client
from benchmarks.event_loop import EventLoop
from benchmarks.rows import Bench, at_most
from qsessions import AsyncSessionClient

GET = "qsessions, get"
CREATE = "qsessions, create over a kept connection"
FRESH = "qsessions, create over a new connection"
BARE = "aiohttp, post(json=) + read"


def run(bench: Bench) -> None:
    """Measure it. In a borrowed pool, a create goes over a kept connection."""
    with EventLoop() as loop:
        pool, plain = (loop.open(aiohttp.ClientSession) for _ in range(2))
        kept = loop.open(lambda: async_client(bench.stub, http=pool))
        own = loop.open(lambda: async_client(bench.stub))

        async def post() -> object:
            url = f"{bench.stub.url}/v1/sessions"
            async with plain.post(url, json=payloads.CREATE, headers=HEADERS) as answer:
                return await answer.read()

        def create(client: AsyncSessionClient) -> Awaitable[object]:
            return client.create(mode="dedicated", backend="ibm_fez", max_ttl=600)

        variants = [
            loop.sequential(GET, lambda: kept.get(payloads.SESSION_ID)),
            loop.sequential(CREATE, lambda: create(kept)),
            loop.sequential(FRESH, lambda: create(own)),
            loop.sequential(BARE, post),
        ]
        measured = bench.measure("create", variants)
    figure = "`create`, CPU against our `get`, a fresh connection apart"
    bench.add("create", figure, measured.ratio(CREATE, GET), at_most(1.35, 1.15))
    figure = "the same, each over its new connection"
    bench.add("create-fresh", figure, measured.ratio(FRESH, GET))
    figure = "`create`, CPU against aiohttp's `post(json=)`, a fresh connection apart"
    bench.add("create-bare", figure, measured.ratio(CREATE, BARE))
