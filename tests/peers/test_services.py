"""The services of examples/ and docs/services.md, each a process of its own against the emulator."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession
from yarl import URL

from qsessions.emulator import Emulator, Fault
from tests.support.needs import need
from tests.support.pages import ROOT
from tests.support.waiting import until

FASTAPI = ("-m", "uvicorn", "--app-dir", "examples", "fastapi_service:app", "--port", "0")
AIOHTTP = ("examples/aiohttp_service.py", "0")
FIRST_LINES = (ROOT / "docs/services.md").read_text(encoding="utf-8").split("\n\n")[1]
JOB_RUNNER = "examples/job_runner.py"
# The requests that are under way when a service is told to end never come to an end by themselves.
HANGS = Fault(kind="latency", operations=["get"], seconds=3600)


@pytest.fixture
async def service() -> AsyncIterator[Emulator]:
    """Yield a running emulator on real time."""
    async with Emulator() as service:
        yield service


class Program:
    """A program of examples/ that runs.

    Attributes:
        process: Its process.
        printed: What it printed until now.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed = ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.printed += line.decode()

    async def address(self) -> str:
        """Return where it serves, once it does."""
        pattern = re.compile(r"[Rr]unning on (http://\S+)")
        await until(lambda: pattern.search(self.printed) or self._reading.done())
        found = pattern.search(self.printed)
        assert found is not None, self.printed
        return found[1]

    async def end(self) -> int:
        """Wait for its end; return its exit code."""
        await self._reading
        return await self.process.wait()


@asynccontextmanager
async def running(service: Emulator, *arguments: str) -> AsyncIterator[Program]:
    """Run a program of examples/ against the emulator."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=os.environ | service.env() | {"PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await program.end()


def count(service: Emulator, operation: str) -> int:
    """Return how many requests of an operation the emulator had."""
    return sum(request.operation == operation for request in service.requests)


def under_way(service: Emulator) -> list[object]:
    """Return how many requests each fault holds up or has held up."""
    return [fault["fired"] for fault in service.faults.shown()]


async def test_fastapi_under_uvicorn(service: Emulator) -> None:
    """A FastAPI service serves sessions to many requests over one client. At SIGTERM, with requests
    under way that never end, one of them a create, it ends every session and itself, by the setting
    that the page begins with.
    """
    need("fastapi", "uvicorn")
    (setting,) = re.findall(r"`(--timeout-graceful-shutdown) (\d+)`", FIRST_LINES)
    async with (
        running(service, *FASTAPI, *setting) as program,
        ClientSession(await program.address()) as http,
    ):

        async def open_session() -> str:
            async with http.post("/sessions") as answer:
                assert answer.status == 201
                opened: dict[str, str] = await answer.json()
                return opened["session"]

        ids = await asyncio.gather(*(open_session() for _ in range(50)))
        for session_id, status in ((ids[0], 204), (ids[0], 404), ("none", 404)):
            async with http.delete(f"/sessions/{session_id}") as answer:
                assert answer.status == status
        for session_id, state in ((ids[0], "closed"), (ids[1], "open")):
            async with http.get(f"/sessions/{session_id}") as answer:
                assert (await answer.json())["state"] == state
        for session_id, status in (("none", 404), ("a%00b", 502)):
            async with http.get(URL(f"/sessions/{session_id}", encoded=True)) as answer:
                assert answer.status == status
                assert (await answer.json())["message"]
        assert len(set(ids)) == 50
        assert count(service, "token") == 1
        service.faults.add(HANGS)
        service.faults.add(Fault(kind="latency", operations=["create"], seconds=8, after=True))
        waiting = [
            asyncio.create_task(
                http.get(f"/sessions/{session_id}", params={"wait": "true"}).__aenter__()
            )
            for session_id in ids[1:6]
        ]
        waiting.append(asyncio.create_task(http.post("/sessions").__aenter__()))
        await until(lambda: under_way(service) == [5, 1])
        assert len(service.open_sessions) == 50
        program.process.send_signal(signal.SIGTERM)
        code = await program.end()
        await asyncio.wait(waiting)
    assert code in {0, -signal.SIGTERM}, program.printed
    assert service.open_sessions == []
    # None was ended twice, but for the one whose create was cancelled none at once.
    ends = Counter(request.operation for request in service.requests)
    assert (ends["update"], ends["close"]) == (50, 1)
    assert "Application shutdown complete" in program.printed


async def test_aiohttp(service: Emulator) -> None:
    """An aiohttp service runs many experiments at a time, each in a session of its own, over one
    client. At SIGTERM, with experiments under way that never end, it ends every session and itself.
    """
    async with (
        running(service, *AIOHTTP) as program,
        ClientSession(await program.address()) as http,
    ):

        async def run() -> str:
            async with http.post("/experiments") as answer:
                assert answer.status == 200
                done: dict[str, str] = await answer.json()
                return done["session"]

        ids = await asyncio.gather(*(run() for _ in range(50)))
        async with http.get(f"/sessions/{ids[0]}") as answer:
            assert await answer.json() == {"session": ids[0], "state": "closed"}
        async with http.get("/sessions/none") as answer:
            assert answer.status == 404
        assert len(set(ids)) == 50
        assert (service.open_sessions, count(service, "token")) == ([], 1)
        service.faults.add(Fault(kind="latency", operations=["update"], seconds=3600))
        waiting = [asyncio.create_task(run()) for _ in range(5)]
        await until(lambda: under_way(service) == [5])
        assert len(service.open_sessions) == 5
        program.process.send_signal(signal.SIGTERM)
        code = await program.end()
        await asyncio.wait(waiting)
        assert all(task.exception() for task in waiting)
    assert code == 0, program.printed
    assert service.open_sessions == []


async def test_job_runner(service: Emulator, tmp_path: Path) -> None:
    """Of 200 concurrent jobs some crash and some are refused: the others are done, and no session
    is left open.
    """
    service.faults.add(Fault(kind="answer", operations=["create"], status=400, times=5))
    async with running(service, JOB_RUNNER, "200") as program:
        code = await program.end()
    *ends, summary = program.printed.splitlines()
    found = Counter(line.split()[1].rstrip(":") for line in ends)
    assert (code, found["refused"], sum(found.values())) == (1, 5, 200), program.printed
    assert 15 <= found["crashed"] <= 20
    assert summary == ", ".join(f"{number} {end}" for end, number in sorted(found.items()))
    assert (len(service.sessions), service.open_sessions) == (195, [])
    # What crashed was closed at once, what was done was drained.
    assert count(service, "close") == found["crashed"]
    assert count(service, "update") == found["done"]


async def test_job_runner_is_stopped(service: Emulator) -> None:
    """SIGTERM ends 200 jobs that are under way, and closes each session."""
    service.faults.add(HANGS)
    async with running(service, JOB_RUNNER, "200") as program:
        # Requests wait for one of the client's 100 connections; endings don't.
        await until(lambda: len(service.sessions) == 200 and under_way(service) == [100])
        assert len(service.open_sessions) == 200
        program.process.send_signal(signal.SIGTERM)
        code = await program.end()
    assert (code, program.printed) == (1, "stopped\n\n")
    assert service.open_sessions == []
    assert count(service, "close") == 200
