"""What ten thousand open sessions cost the emulator: memory, and time per request beside an empty
one.

Run it as `python -m benchmarks.emulator` (Linux: memory is read from /proc). Two emulators run in
processes of their own on 127.0.0.1; rounds alternate between them, and the ratios are taken round
by round.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from qsessions.emulator import Emulator

SESSIONS = 10_000
ROUNDS = 21
CALLS = 100


async def _serve(ready: Connection) -> None:
    async with Emulator() as emulator:
        ready.send(emulator.env())
        await asyncio.Event().wait()


def serve(ready: Connection) -> None:
    """Run an emulator in this process."""
    asyncio.run(_serve(ready))


class Contender:
    """One emulator, and the calls that are timed."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs,), daemon=True
        )
        self.process.start()
        env = ours.recv()
        self.http = http
        self.url = f"{env['QSESSIONS_BASE_URL']}/v1"
        self.headers = {
            "Authorization": f"apikey {env['QISKIT_IBM_TOKEN']}",
            "Service-CRN": env["QISKIT_IBM_INSTANCE"],
        }
        self.session_id = ""

    async def send(self, method: str, path: str, body: object = None) -> bytes:
        """Send one request."""
        async with self.http.request(
            method, f"{self.url}{path}", json=body, headers=self.headers
        ) as answer:
            assert answer.status in {200, 204}, await answer.text()
            return await answer.read()

    async def create(self) -> None:
        """Make a session that stays open."""
        body = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 28800}
        self.session_id = (await self.send("POST", "/sessions", body)).split(b'"')[3].decode()

    async def get(self) -> None:
        """Read a session."""
        await self.send("GET", f"/sessions/{self.session_id}")

    async def update(self) -> None:
        """Say once more that a session takes jobs."""
        await self.send("PATCH", f"/sessions/{self.session_id}", {"accepting_jobs": True})

    async def create_and_close(self) -> None:
        """Make a session, queue a job in it, and close it."""
        kept = self.session_id
        await self.create()
        job = {
            "program_id": "p",
            "backend": "ibm_fez",
            "session_id": self.session_id,
            "params": {"seconds": 0},
        }
        await self.send("POST", "/jobs", job)
        await self.send("DELETE", f"/sessions/{self.session_id}/close")
        self.session_id = kept

    def megabytes(self) -> float:
        """Give the process's memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) / 1000


async def seconds_of(call: Callable[[], Awaitable[None]]) -> float:
    """Time a round of calls, one after another."""
    began = time.perf_counter()
    for _ in range(CALLS):
        await call()
    return time.perf_counter() - began


async def main() -> None:
    """Compare and print."""
    async with aiohttp.ClientSession() as http:
        empty, full = Contender(http), Contender(http)
        print(f"memory, empty: {empty.megabytes():.0f} MB")
        await empty.create()
        for _ in range(SESSIONS):
            await full.create()
        print(f"memory, {SESSIONS} open sessions: {full.megabytes():.0f} MB")
        print(f"time over an empty emulator's (median of {ROUNDS} paired rounds):")
        for name in ("get", "update", "create_and_close"):
            ratios: list[float] = []
            for number in range(ROUNDS):
                pair = [full, empty] if number % 2 else [empty, full]
                spent = {one: await seconds_of(getattr(one, name)) for one in pair}
                ratios.append(spent[full] / spent[empty])
            print(f"  {name:<18} {statistics.median(ratios):.2f}")
        for contender in (empty, full):
            contender.process.terminate()


if __name__ == "__main__":
    asyncio.run(main())
