"""Clients that nobody closes, each in a scene of its own. Argument: the scene."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import weakref
from typing import Any

from qsessions import AsyncSessionClient, SessionClient

kept: list[Any] = []


async def used() -> AsyncSessionClient:
    """Return a client that has idle connections."""
    client = AsyncSessionClient()
    await client.create(mode="batch", max_ttl=600)
    await client.versions()
    return client


async def settled() -> None:
    """Let the loop do what it has been asked for."""
    for _ in range(10):
        await asyncio.sleep(0)


async def forgotten_in_main() -> None:
    """Let go of it as the program ends."""
    client = await used()
    await client.versions()


async def dropped() -> None:
    """Let go of it while the loop runs."""
    client = await used()
    del client
    await settled()


async def dropped_in_a_cycle() -> None:
    """Have the collector find it."""
    client = await used()
    client.itself = client  # type: ignore[attr-defined]
    del client
    gc.collect()
    await settled()


async def dropped_in_another_thread() -> None:
    """Let go of it in a thread that isn't the loop's."""
    clients = [await used()]
    await asyncio.to_thread(clients.clear)
    await settled()


async def keep() -> None:
    """Keep it beyond the loop's end."""
    kept.append(await used())


async def left_within_a_block() -> None:
    """Leave a session open, and what holds it in a cycle."""
    client = await used()
    block = client.open(mode="batch", max_ttl=600)
    kept.append((block, await block.__aenter__()))


async def dropped_while_it_is_used() -> None:
    """Let go of it while a call is under way, which keeps it."""
    client = await used()
    calling = asyncio.ensure_future(client.create(mode="batch", max_ttl=600))
    await settled()
    del client
    gc.collect()
    assert (await calling).id
    # Its connections are let go of after that.
    await settled()


async def forked() -> None:
    """Fork a child that ends as a program does, and go on."""
    client = await used()
    if (child := os.fork()) == 0:
        # As at the end of a program, and without the parent's event loop.
        weakref.finalize._exitfunc()  # type: ignore[attr-defined]
        os._exit(0)
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
    await client.versions()
    await client.aclose()


async def closed() -> None:
    """Close it."""
    client = await used()
    await client.aclose()


async def unused() -> None:
    """Make one that never connects."""
    AsyncSessionClient()


def dropped_after_the_loop() -> None:
    """Let go of it once the loop is closed."""
    asyncio.run(keep())
    kept.clear()


def dropped_between_runs() -> None:
    """Let go of it while its loop stands still, which runs again."""
    with asyncio.Runner() as runner:
        runner.run(keep())
        kept.clear()
        runner.run(settled())


def dropped_before_the_loop_is_closed() -> None:
    """Let go of it while its loop stands still, and close that."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(keep())
    kept.clear()
    loop.close()


def kept_until_the_end() -> None:
    """Never let go of it."""
    asyncio.run(keep())


def shut_down() -> None:
    """Shut down a synchronous client."""
    with SessionClient() as client:
        client.versions()


def sync_dropped() -> None:
    """Let go of a synchronous client."""
    SessionClient().versions()


def sync_kept_until_the_end() -> None:
    """Never let go of a synchronous client."""
    client = SessionClient()
    client.create(mode="batch", max_ttl=600)
    kept.append(client)


if __name__ == "__main__":
    scene = globals()[sys.argv[1]]
    if asyncio.iscoroutinefunction(scene):
        asyncio.run(scene())
    else:
        scene()
    print("end", flush=True)
