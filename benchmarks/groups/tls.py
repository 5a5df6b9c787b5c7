"""One `get` after another over TLS."""

from __future__ import annotations

import aiohttp

from benchmarks import payloads, peers
from benchmarks.clients import HEADERS, async_client
from benchmarks.event_loop import EventLoop
from benchmarks.rows import Bench, at_most

BARE = "aiohttp over TLS"
OURS = "qsessions over TLS"


def run(bench: Bench) -> None:
    """Measure it."""
    address = bench.stub.addresses.tls
    if address is None:
        bench.leave_out("TLS", "trustme is not installed")
        return
    tls = bench.stub.client_tls()
    with EventLoop() as loop:
        plain = loop.open(lambda: aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))
        client = loop.open(lambda: async_client(bench.stub, base_url=address, ssl=tls))
        url = f"{address}{payloads.SESSION_PATH}"
        variants = [
            loop.sequential(BARE, peers.bare(plain, url, HEADERS)),
            loop.sequential(OURS, lambda: client.get(payloads.SESSION_ID)),
        ]
        measured = bench.measure("get over TLS", variants)
    figure = "`get` over TLS, CPU against bare aiohttp over TLS"
    bench.add("tls", figure, measured.ratio(OURS, BARE), at_most(1.15, 1.05))
