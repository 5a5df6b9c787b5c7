"""A worker as a process of its own: it creates sessions and watches them until it is killed.

`python -m benchmarks.fleet.worker URL HEARTBEAT TTL DELAY SESSIONS RATE`
"""

from __future__ import annotations

import asyncio
import sys

from qsessions import AsyncSessionClient, LeaseTerms, PostgresLedger


async def work(url: str, terms: LeaseTerms, sessions: int, rate: float) -> None:
    """Create sessions, print their ids, and watch them."""
    client = AsyncSessionClient(ledger=PostgresLedger(url, terms=terms))
    ids = [
        (await client.create(mode="batch", backend="ibm_fez", max_ttl="8h")).id
        for _ in range(sessions)
    ]
    print(*ids, flush=True)
    async for _ in client.watch(ids, rate=rate):
        pass


if __name__ == "__main__":
    heartbeat, ttl, delay = map(float, sys.argv[2:5])
    terms = LeaseTerms(heartbeat=heartbeat, ttl=ttl, delay=delay)
    asyncio.run(work(sys.argv[1], terms, int(sys.argv[5]), float(sys.argv[6])))
