"""The first call of a process over a long link: how often it waits for an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from attrs import frozen

from benchmarks import payloads
from benchmarks.rounds import Spread
from benchmarks.rows import Bench, at_most
from qsessions import AsyncSessionClient, IBMCloudAuth, ServiceCRN

FirstCall: TypeAlias = Callable[[AsyncSessionClient], Awaitable[object]]


@frozen
class Trips:
    """What a first call took: round trips to the service and to IAM, and seconds."""

    service: int
    iam: int
    seconds: float


def run(bench: Bench) -> None:
    """Count and time it: for `get`, for `create`, and in a second client that shares the key."""
    if bench.stub.addresses.delayed_iam is None:
        bench.leave_out("cold start", "trustme is not installed")
        return

    async def create(client: AsyncSessionClient) -> object:
        return await client.create(mode="dedicated", backend="ibm_fez", max_ttl=600)

    async def get(client: AsyncSessionClient) -> object:
        return await client.get(payloads.SESSION_ID)

    for name, call in (("get", get), ("create", create)):
        key = _key(bench)
        first, second = (asyncio.run(_first_call(bench, key, call)) for _ in range(2))
        figure = f"cold `{name}` over a link of {bench.stub.delay_s * 1000:.0f} ms: round trips"
        _add(bench, f"cold-{name}", figure, first.service + first.iam)
        shown = Spread.of([first.seconds])
        bench.add(f"cold-{name}-time", "the same: time", shown, unit=" s")
        if name == "get":
            figure = "a second client with the same provider: round trips to IAM"
            _add(bench, "second-client", figure, second.iam, must=0)
            _add(bench, "second-client-all", "the same: round trips in all", second.service)


def _key(bench: Bench) -> IBMCloudAuth:
    return IBMCloudAuth(payloads.API_KEY, bench.stub.addresses.delayed_iam)


def _add(bench: Bench, key: str, figure: str, count: int, must: int | None = None) -> None:
    goal = None if must is None else at_most(must, must)
    bench.add(key, figure, Spread.of([count]), goal, decimals=0)


async def _first_call(bench: Bench, key: IBMCloudAuth, call: FirstCall) -> Trips:
    tls = bench.stub.client_tls()
    bench.stub.delayed()
    address = bench.stub.addresses.delayed_service
    auth = [key, ServiceCRN(payloads.CRN)]
    async with AsyncSessionClient(auth, base_url=address, ssl=tls) as client:
        started = time.perf_counter()
        await call(client)
        seconds = time.perf_counter() - started
    service, iam = (sum(counts.values()) for counts in bench.stub.delayed())
    return Trips(service, iam, seconds)
