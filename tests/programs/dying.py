"""A scenario: forks a child for each number that it reads, and answers how it ended.

A child has one life after the other: it creates a session, works, drains, and sees it closed. In
every second of three the answer to the create is lost. In every first of three it waits for each
record to be kept, so that it has been in each state however slow the disk is. It kills itself after
so many callbacks of its event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import Any

import aiohttp

from qsessions import (
    AsyncSessionClient,
    CreateOutcomeUnknown,
    LedgerRecord,
    LocalLedger,
    RecordState,
)


class Told(LocalLedger):
    """A ledger that tells what it has kept."""

    newest: RecordState | None = None
    changed = asyncio.Event()

    async def record(self, record: LedgerRecord) -> None:
        """Keep a record, then say so."""
        await super().record(record)
        Told.newest = record.state
        Told.changed.set()


async def kept(state: RecordState) -> None:
    """Wait until the newest record that was kept is of a state."""
    while Told.newest is not state:
        Told.changed.clear()
        await Told.changed.wait()


def die_after(count: int) -> None:
    """Be killed after so many callbacks, counted from when the first record was kept."""
    handle: Any = asyncio.Handle
    run = handle._run
    left = itertools.count(count, -1)

    def counted(self: asyncio.Handle) -> None:
        run(self)
        if Told.newest is not None and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    handle._run = counted


async def live(life: int, client: AsyncSessionClient, http: aiohttp.ClientSession) -> None:
    """Have one life."""
    is_patient, is_lost = life % 3 == 0, life % 3 == 1
    if is_lost:
        lost = {"kind": "reset", "operations": ["create"], "after": True, "times": 1}
        await http.post(f"{os.environ['IAM_URL']}/emulator/faults", json={"faults": [lost]})
    jobs = f"{os.environ['QSESSIONS_BASE_URL']}/v1/jobs"
    try:
        async with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as session:
            if is_patient:
                await kept(RecordState.CREATED)
            wanted = {"program_id": "p", "backend": "ibm_fez", "session_id": session.id}
            job = await (await http.post(jobs, json=wanted | {"params": {"seconds": 600}})).json()
    except CreateOutcomeUnknown:
        await kept(RecordState.UNKNOWN)
    else:
        if is_patient:
            await kept(RecordState.DRAINING)
        # It drains until its job has come to an end.
        await session.refresh()
        await http.post(f"{jobs}/{job['id']}/cancel")
        assert (await session.refresh()).is_final
        if is_patient:
            await kept(RecordState.ENDED)
    await client.versions()


async def live_on(directory: str) -> None:
    """Have one life after the other."""
    headers = {
        "Authorization": f"apikey {os.environ['QISKIT_IBM_TOKEN']}",
        "Service-CRN": os.environ["QISKIT_IBM_INSTANCE"],
    }
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as http,
        AsyncSessionClient(ledger=Told(directory)) as client,
    ):
        for life in itertools.count():
            await live(life, client, http)


def main(directory: str) -> None:
    """Have a child for each line, with a ledger in that directory."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            die_after(int(line))
            asyncio.run(live_on(directory))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
