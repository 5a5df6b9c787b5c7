"""A process that is killed at any moment leaves nothing open that the reaper doesn't find, and the reaper touches nobody who lives."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qsessions import AsyncSessionClient, IBMCloudAPIKey, LocalLedger, ServiceCRN
from qsessions.emulator import Emulator
from qsessions.reaper import reap

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills and forks are those of POSIX")

# How many moments there are in each state of a record.
MOMENTS = 20

LIVING = """
import sys
from qsessions import LocalLedger, SessionClient

with SessionClient(ledger=LocalLedger(sys.argv[1])) as client:
    with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as live:
        print(live.id, flush=True)
        sys.stdin.readline()
"""

# Forks a child for each line "STATE COUNT" that it reads; the child kills itself so many callbacks of its event loop after its ledger had
# kept a record in that state, and is gone when the line is answered.
DYING = """
import asyncio, os, signal, sys
import aiohttp
from qsessions import AsyncSessionClient, CreateOutcomeUnknown, LocalLedger, RetryPolicy


class Told:
    # The local ledger, which says what it has kept.
    def __init__(self, path, state, count):
        self.ledger, self.state, self.left, self.reached = LocalLedger(path), state, count, False
        run = asyncio.Handle._run

        def counted(handle):
            run(handle)
            self.left -= self.reached
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.Handle._run = counted

    async def record(self, record):
        if self.reached:
            # The state is over before its moment came: this is the last one of it.
            os.kill(os.getpid(), signal.SIGKILL)
        await self.ledger.record(record)
        self.reached = record.state == self.state

    async def entries(self):
        return await self.ledger.entries()

    async def amend(self, entry, record):
        return await self.ledger.amend(entry, record)

    async def aclose(self):
        await self.ledger.aclose()


async def live_and_die(state, count):
    base_url, token, crn = (os.environ[name] for name in ("QSESSIONS_BASE_URL", "QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE"))
    headers = {"Authorization": f"apikey {token}", "Service-CRN": crn}
    ledger = Told(sys.argv[1], state, count)
    async with aiohttp.ClientSession(headers=headers) as http, AsyncSessionClient(ledger=ledger) as client:
        if state == "unknown":
            lost = {"kind": "reset", "operations": ["create"], "after": True, "times": 1}
            async with http.post(f"{os.environ['IAM_URL']}/emulator/faults", json={"faults": [lost]}) as answer:
                assert answer.status < 300
        try:
            async with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as live:
                job = {"program_id": "p", "backend": "ibm_fez", "session_id": live.id, "params": {"seconds": 0.3}}
                async with http.post(f"{base_url}/v1/jobs", json=job) as answer:
                    assert answer.status == 200
                await live.refresh()
        except CreateOutcomeUnknown:
            pass
        else:
            await live.wait_until("closed")
        while True:
            await client.versions()


for line in sys.stdin:
    state, count = line.split()
    child = os.fork()
    if child == 0:
        asyncio.run(live_and_die(state, int(count)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@asynccontextmanager
async def program(text: str, path: Path, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program until its standard input is closed."""
    # What is killed in the middle of writing leaves coverage data that can't be read.
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        text,
        str(path),
        env=quiet | env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        await process.communicate(b"")


@pytest.mark.timeout(300)
async def test_whatever_a_killed_process_left_is_reaped_and_nothing_else(tmp_path: Path) -> None:
    """After SIGKILL at a hundred moments, twenty in each state of a record, nothing of the dead is left open, and all of the living."""
    states: Counter[str] = Counter()
    seen: set[str] = set()
    async with Emulator() as emulator:
        auth = [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]
        ledger = LocalLedger(tmp_path)
        async with (
            program(LIVING, tmp_path, emulator.env()) as living,
            program(DYING, tmp_path, emulator.env()) as dying,
            AsyncSessionClient(auth, base_url=emulator.url) as client,
        ):
            assert living.stdout is not None
            assert dying.stdin is not None
            assert dying.stdout is not None
            kept = (await living.stdout.readline()).decode().strip()
            for state in ("intent", "created", "draining", "unknown", "ended"):
                for count in range(MOMENTS):
                    dying.stdin.write(f"{state} {count}\n".encode())
                    assert (await dying.stdout.readline()).strip() == b"-9"
                    entries = [one.record for one in await ledger.entries() if one.record.session_id != kept]
                    # What is closed is in the ledger no longer; of sessions that still drain there are older records.
                    states[entries[-1].state if entries and entries[-1].key not in seen else "ended"] += 1
                    seen |= {record.key for record in entries}
                    # Long enough ago for a session that was asked for to be listed, were it there.
                    reaped = await reap(client, ledger, close_unique=True, wall=lambda: time.time() + 1000)
                    assert [one.error for one in reaped if one.error] == []
                    costing = [one.id for one in emulator.open_sessions if one.accepting_jobs]
                    assert costing == [kept], (state, count)
            assert emulator.sessions[kept].accepting_jobs
        await ledger.aclose()
    assert sum(states.values()) == 5 * MOMENTS
    assert min(states[state] for state in ("intent", "created", "draining", "unknown", "ended")) >= 5, states
