"""Measures what one `get` costs over bare aiohttp, in a process of its own: what other tests have
left, and their threads, count for nothing here. Prints it as JSON.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import aiohttp

from qsessions import AsyncSessionClient, IBMCloudAuth, ServiceCRN

Call: TypeAlias = Callable[[], Awaitable[object]]

TOKEN = "a-token"


async def least(measure: Callable[[Call], Awaitable[int]], call: Call) -> int:
    """Return the least of some measurements, once the call is warm: what it always takes."""
    for _ in range(20):
        await call()
    return min([await measure(call) for _ in range(20)])


async def calls_of(call: Call) -> int:
    """Count the function calls of a call, the event loop's included."""
    profile = cProfile.Profile()
    profile.enable()
    await call()
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


async def peak_of(call: Call) -> int:
    """Return the most memory that a call has at one moment, in bytes."""
    gc.collect()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    await call()
    return tracemalloc.get_traced_memory()[1] - before


async def main(url: str, crn: str) -> None:
    """Measure against a server at an address."""
    auth = [IBMCloudAuth.from_token(TOKEN), ServiceCRN(crn)]
    headers = {"Authorization": f"Bearer {TOKEN}", "Service-CRN": crn}
    async with (
        aiohttp.ClientSession() as session,
        AsyncSessionClient(auth, base_url=url) as client,
    ):

        async def bare() -> object:
            async with session.get(f"{url}/v1/sessions/s1", headers=headers) as answer:
                return await answer.read()

        async def get() -> object:
            return await client.get("s1")

        calls = await least(calls_of, get) - await least(calls_of, bare)
        tracemalloc.start()
        memory = await least(peak_of, get) - await least(peak_of, bare)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            await get()
        gc.collect()
        growth = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    is_traced = sys.gettrace() is not None
    print(json.dumps({"calls": calls, "memory": memory, "growth": growth, "traced": is_traced}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
