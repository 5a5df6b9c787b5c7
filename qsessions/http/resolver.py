"""Look-ups of host names, of which one that hangs holds up no other."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from qsessions.clock import Clock
from qsessions.http.threads import run_in_thread

# Seconds after which a look-up counts as hanging: name servers answer within one or two.
_PATIENCE_S = 5.0
# How many look-ups of one name there are at a time.
_MOST_LOOK_UPS = 3
# No addresses of a family that this machine has none of. Not every system knows the flag.
_FLAGS = socket.AI_ADDRCONFIG & getattr(socket, "AI_MASK", socket.AI_ADDRCONFIG)


class Resolver(AbstractResolver):
    """Looks host names up as the system does, in threads of its own.

    One that hangs holds up neither others nor the program's end. In its place those who wait get
    the addresses that were found before, or else those that another try finds.

    Args:
        clock: The time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[str, int, int], list[ResolveResult]] = {}
        self._under_way: dict[tuple[str, int, int], set[asyncio.Future[Any]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            OSError: It has none, or they can't be looked up.
            ConnectionFailed: There can be no thread for it.
        """
        key = (host, port, family)
        under_way = self._under_way.setdefault(key, set())
        look_ups = [*under_way]
        for _ in range(_MOST_LOOK_UPS):
            if len(under_way) < _MOST_LOOK_UPS:
                look_ups.append(run_in_thread(partial(_addresses, *key), "qsessions-dns"))
                under_way.add(look_ups[-1])
                look_ups[-1].add_done_callback(under_way.discard)
            late = asyncio.get_running_loop().create_future()
            timer = self._clock.call_later(_PATIENCE_S, partial(late.set_result, None))
            try:
                await asyncio.wait([*look_ups, late], return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
            if key in self._known or any(look_up.done() for look_up in look_ups):
                break
        else:
            await asyncio.wait(look_ups, return_when=asyncio.FIRST_COMPLETED)
        if done := [look_up for look_up in look_ups if look_up.done()]:
            self._known[key] = done[0].result()
        return self._known[key]

    async def close(self) -> None:
        """Do nothing: a look-up that hangs can't be ended."""


def _addresses(host: str, port: int, family: int) -> list[ResolveResult]:
    infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=_FLAGS)
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return [
        ResolveResult(
            hostname=host,
            # An address that is good on one interface only comes with that.
            host=socket.getnameinfo(address, numeric)[0],
            port=port,
            family=found,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for found, _, protocol, _, address in infos
    ]
