"""Forks a child for each scenario that it is asked for, so that none of them has to import anything.

A request is a line of JSON on the socket whose descriptor is the argument, with the child's three
standard descriptors; the answer is its process id. A request that is a process id is answered with
the exit code of that child, once it has ended; one that is minus a process id at once, with null
while it lives. tests/support/stage.py asks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from importlib import import_module
from typing import Any

# What each scenario needs, imported once.
from qsessions import AsyncSessionClient, LocalLedger, SessionClient

USED = (AsyncSessionClient, LocalLedger, SessionClient)
MOST_BYTES = 65_536


def play(scenario: str, arguments: list[Any], env: dict[str, str], descriptors: list[int]) -> None:
    """Be the child: play a scenario, which is a function's module and name."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(env)
    # The development mode logs callbacks that took long, which is the machine's load here and no
    # defect.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    module, name = scenario.split(":")
    # A coroutine function would be played by nobody.
    assert not asyncio.iscoroutine(getattr(import_module(module), name)(*arguments))


def exit_code(pid: int, flags: int) -> int | None:
    """Return how a child ended, or None where it lives and the flags say not to wait."""
    ended, status = os.waitpid(pid, flags)
    return os.waitstatus_to_exitcode(status) if ended else None


def main(descriptor: int) -> None:
    """Answer until nobody asks any more; a child returns at the end of its scenario."""
    ended: dict[int, int | None] = {}
    with socket.socket(fileno=descriptor) as asked:
        while True:
            line, descriptors, _, _ = socket.recv_fds(asked, MOST_BYTES, 3)
            if not line:
                return
            request = json.loads(line)
            if isinstance(request, int):
                pid, flags = abs(request), os.WNOHANG if request < 0 else 0
                if ended.get(pid) is None:
                    ended[pid] = exit_code(pid, flags)
                answer = ended[pid]
            else:
                # Not in the child, so that the next one of the same module need not.
                import_module(request["scenario"].split(":")[0])
                answer = os.fork()
                if answer == 0:
                    break
                for one in descriptors:
                    os.close(one)
            asked.send(json.dumps(answer).encode())
    play(**request, descriptors=descriptors)


if __name__ == "__main__":
    main(int(sys.argv[1]))
