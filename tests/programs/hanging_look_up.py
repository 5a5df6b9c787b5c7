"""Programs in which no host name can be looked up, since that hangs; they must end all the same.

The first argument says which.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Any, NoReturn

from qsessions import AsyncSessionClient, SessionClient
from qsessions.cli import main

URL = "https://service.invalid"


def hang(*_: Any, **__: Any) -> NoReturn:
    """Look a name up for ever."""
    threading.Event().wait()
    raise AssertionError


async def call() -> None:
    """Make a call without a name server."""
    async with AsyncSessionClient([], base_url=URL, timeout=0.1) as client:
        await client.versions()


if __name__ == "__main__":
    socket.getaddrinfo = hang
    match sys.argv[1]:
        case "async":
            asyncio.run(call())
        case "sync":
            with SessionClient([], base_url=URL, timeout=0.1) as sync_client:
                sync_client.versions()
        case "doctor":
            main(["doctor", "--timeout", "1", "--base-url", URL])
