"""Ask for the versions with an account file that may never be read; its path is the argument."""

from __future__ import annotations

import asyncio
import sys

from qsessions import AsyncSessionClient


async def main() -> None:
    """Wait a moment, or much longer where the file holds up the event loop."""
    async with asyncio.timeout(30):
        await AsyncSessionClient(account_file=sys.argv[1], timeout=0.1).versions()


asyncio.run(main())
