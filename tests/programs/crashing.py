"""Ends as a crash does, with a session open whose id the ledger has. Prints the id."""

from __future__ import annotations

import asyncio
import os

from qsessions import AsyncSessionClient, LocalLedger


async def main() -> None:
    """Create a session, wait until the ledger has it, and end."""
    ledger = LocalLedger()
    client = AsyncSessionClient(ledger=ledger)
    session = await client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    while [entry.record.session_id for entry in await ledger.entries()] != [session.id]:
        pass
    print(session.id, flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
