"""A scenario: lives with a session in each state but the last, all of them in one ledger.

One is created, one drains (when its line is answered), the answer about one is lost, and one, on
the backend that is given, is being created for ever. The service sees to the last two.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from qsessions import AsyncSessionClient, CreateOutcomeUnknown, LocalLedger


async def live(directory: str, backend: str) -> None:
    """Have the four sessions."""
    wanted: dict[str, Any] = {"mode": "batch", "backend": "ibm_torino", "max_ttl": "10m"}
    async with AsyncSessionClient(ledger=LocalLedger(directory)) as client:
        created, draining = await client.create(**wanted), await client.create(**wanted)
        print(created.id, draining.id, flush=True)
        sys.stdin.readline()
        await client.drain(draining.id)
        try:
            await client.create(**wanted)
        except CreateOutcomeUnknown:
            print("unknown", flush=True)
        await client.create(**wanted | {"backend": backend}, timeout=None)


def main(directory: str, backend: str) -> None:
    """Live, with a ledger in that directory."""
    asyncio.run(live(directory, backend))
