"""Creates a session with what the environment says, and prints its state."""

from __future__ import annotations

import asyncio

from qsessions import AsyncSessionClient


async def main() -> None:
    """Create it."""
    async with AsyncSessionClient() as client:
        print((await client.create(mode="batch", backend="ibm_fez")).state)


if __name__ == "__main__":
    asyncio.run(main())
