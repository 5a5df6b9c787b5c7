"""A page of fifty workloads."""

from __future__ import annotations

import json

import aiohttp

from benchmarks import payloads, peers
from benchmarks.clients import HEADERS, async_client
from benchmarks.event_loop import EventLoop
from benchmarks.rows import Bench, at_most

BARE = "aiohttp, get + read"
PEOPLE = "aiohttp, json.loads + cattrs"
OURS = "qsessions"


def run(bench: Bench) -> None:
    """Measure it."""
    url = f"{bench.stub.url}/v1/workloads?limit={payloads.PAGE_SIZE}&mode=session"
    converter = payloads.default_converter()
    with EventLoop() as loop:
        plain, people = (loop.open(aiohttp.ClientSession) for _ in range(2))
        read, page = (peers.bare(http, url, HEADERS) for http in (plain, people))
        client = loop.open(lambda: async_client(bench.stub))

        async def structured() -> object:
            found = json.loads(await page())["workloads"]  # type: ignore[arg-type]
            return converter.structure(found, list[payloads.PlainWorkload])

        async def ours() -> object:
            return [one async for one in client.workloads(mode="session")]

        found = loop.run(ours)
        assert isinstance(found, list)
        assert len(found) == payloads.PAGE_SIZE
        variants = [
            loop.sequential(BARE, read),
            loop.sequential(PEOPLE, structured),
            loop.sequential(OURS, ours),
        ]
        measured = bench.measure("a page of workloads", variants)
    figure = f"a page of {payloads.PAGE_SIZE} workloads, CPU against `json.loads` + cattrs"
    bench.add("workloads", figure, measured.ratio(OURS, PEOPLE), at_most(0.6, 0.4))
    figure = "the same without what aiohttp takes to read it"
    bench.add("workloads-decoding", figure, measured.added_ratio(OURS, PEOPLE, BARE))
