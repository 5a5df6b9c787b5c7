"""A notebook that lets event loops be nested: what it calls the facade for works as without that.

The arguments are the module that nests them, and whether it does "before" the client is imported,
"within" a running event loop, or "late", while a client lives.
"""

from __future__ import annotations

import asyncio
import importlib
import sys

module, moment = sys.argv[1:]
nest = importlib.import_module(module)
if moment == "before":
    nest.apply()

from qsessions import AsyncSessionClient, SessionClient  # noqa: E402 - it is imported after that


def cell() -> None:
    """Use the facade, as a cell of a notebook does."""
    with SessionClient() as client:
        if moment == "late":
            nest.apply()
        with client.open(mode="batch", max_ttl="1m") as live:
            for snapshot in live.watch():
                print(snapshot.state)
                live.close()
            print(live.wait_until("closed").state)
        print(len(list(client.workloads())))


async def main() -> None:
    """Run a cell where an event loop runs, and then both kinds of clients."""
    if moment == "within":
        nest.apply()
    cell()
    async with AsyncSessionClient() as client, client.open(mode="batch", max_ttl="1m") as live:
        await client.get(live.id)
        if moment != "late":
            # What nesting is for.
            print(asyncio.run(live.refresh()).state)


cell()
asyncio.run(main())
print("end")
