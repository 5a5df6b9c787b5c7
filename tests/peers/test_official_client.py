"""The official Python client, unmodified, against the emulator."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from qsessions.emulator import Emulator
from tests.support.fault_server import FaultServer, http
from tests.support.manual_clock import ManualClock

SCRIPT = Path(__file__).parents[1] / "programs" / "official_client.py"
BACKENDS = {"ibm_fez", "ibm_torino", "ibm_marrakesh"}


class Raised(Exception):
    """What an expression raised in the client's process: the type's name and the message."""


@frozen
class OfficialClient:
    """The client's process."""

    process: asyncio.subprocess.Process

    async def __call__(self, expression: str) -> Any:
        """Give an expression's value; raise Raised for what it raises. `(name := …)` keeps a value
        for later.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(expression).encode() + b"\n")
        line = await self.process.stdout.readline()
        assert line, "the client's process ended"
        answer = json.loads(line)
        if "raised" in answer:
            raise Raised(f"{answer['raised']}: {answer['message']}")
        return answer["value"]


@asynccontextmanager
async def official_client(emulator: Emulator, **variables: str) -> AsyncIterator[OfficialClient]:
    """Start the client with the emulator's variables and those given."""
    # The client has nothing to measure, and would be slow under measurement.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=plain | emulator.env() | variables,
    )
    try:
        yield OfficialClient(process)
    finally:
        await process.communicate(b"")  # the end of its input ends it


def discovery(emulator: Emulator) -> dict[str, str]:
    """Give what leads the search for the account's instances to the emulator."""
    return {"GLOBAL_SEARCH_URL": emulator.iam_url, "GLOBAL_CATALOG_URL": emulator.iam_url}


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that starts now: the client looks at the real time to see whether its token is
    still good.
    """
    return ManualClock(now=time.time())


async def test_runtime_client(clock: ManualClock) -> None:
    """Its RuntimeClient creates, reads, closes and cancels sessions, with one token that it decodes
    and renews in time.
    """
    async with Emulator(clock=clock.time, seed=1) as emulator, official_client(emulator) as client:
        await client("(api := runtime_client()) and None")
        create = "api.create_session('ibm_fez', api._instance, 600, 'dedicated')['id']"
        first, second = await client(f"(first := {create})"), await client(f"(second := {create})")

        await client("api.program_run('sampler', 'ibm_fez', {}, None, None, first)['id']")
        details = await client("api.session_details(first)")
        assert (details["state"], details["max_ttl"]) == ("active", 600)
        await client("api.close_session(first)")
        assert not emulator.sessions[first].accepting_jobs
        clock.advance(1)
        assert (await client("api.session_details(first)"))["state"] == "closed"

        await client("api.cancel_session(second)")
        assert emulator.sessions[second].state == "closed"
        await client("api.close_session('unknown')")  # it takes a 404 as done
        with pytest.raises(Raised, match=r"^RequestsApiError: '404 .*Session not found"):
            await client("api.session_details('unknown')")

        (exchange,) = (
            request for request in emulator.requests if request.path == "/identity/token"
        )
        assert "response_type=cloud_iam" in exchange.body
        expires, refreshes = await client(
            "[api._session.auth.tm.expire_time, api._session.auth.tm.refresh_time]"
        )
        assert (expires, refreshes) == (int(exchange.at) + 3600, int(exchange.at) + 2880)
        for request in emulator.requests[1:]:
            assert request.headers["authorization"] == "Bearer <token>"
            assert request.headers["ibm-api-version"] == "2026-04-15"


@pytest.mark.parametrize(("kind", "other"), [("Session", "Batch"), ("Batch", "Session")])
async def test_sessions_and_batches(clock: ManualClock, kind: str, other: str) -> None:
    """Session and Batch are made, found again, read, closed and cancelled, from a service that was
    made as users make it.
    """
    async with (
        Emulator(clock=clock.time, seed=1) as emulator,
        official_client(emulator, **discovery(emulator)) as client,
    ):
        await client("(found := service()) and (backend := found.backend('ibm_fez')) and None")
        session_id = await client(f"(session := {kind}(backend, max_time='10m')).session_id")
        assert await client("session.status()") == "Pending"
        assert await client("session.usage()") == 0

        emulator.submit_job(session_id, seconds=5)
        clock.advance(20)
        assert await client("session.status()") == "In progress, accepting new jobs"
        usage = {"Session": 20, "Batch": 5}[kind]
        assert await client("session.usage()") == usage
        details = await client("session.details()")
        assert details["id"] == session_id
        assert details["mode"] == {"Session": "dedicated", "Batch": "batch"}[kind]
        assert (details["max_time"], details["interactive_timeout"]) == (600, 60)
        assert [change["status"] for change in details["timestamps"]] == ["open", "active"]

        emulator.submit_job(session_id, seconds=5)
        again = f"(again := {kind}.from_id(session.session_id, found))"
        assert await client(f"{again}.details()") == await client("session.details()")
        with pytest.raises(Raised, match=r"IBMInputValueError: .* execution mode"):
            await client(f"{other}.from_id(session.session_id, found)")
        await client("again.close()")
        assert await client("session.status()") == "In progress, not accepting new jobs"
        await client("session.cancel()")
        assert await client("session.status()") == "Closed"
        with pytest.raises(Raised, match=r"IBMInputValueError: .*Session not found"):
            await client(f"{kind}.from_id('unknown', found)")


@pytest.mark.parametrize("kind", ["Session", "Batch"])
async def test_a_session_that_is_closed_inside_its_block(clock: ManualClock, kind: str) -> None:
    """A session that is closed inside its `with` is closed once more at its end, which is no error
    and reopens nothing.
    """
    async with (
        Emulator(clock=clock.time, seed=1) as emulator,
        official_client(emulator, **discovery(emulator)) as client,
    ):
        session_id = await client(f"closed_in_block({kind}, service().backend('ibm_fez'))")
        assert emulator.sessions[session_id].state == "closed"
        drains = [request.status for request in emulator.requests if request.operation == "update"]
        assert drains == [204, 204]


async def test_backends_and_instances(clock: ManualClock) -> None:
    """It sees every backend, the shortest queue and the plan, and transpiles for what the emulator
    says of a backend.
    """
    async with (
        Emulator(clock=clock.time, seed=1, plan="open") as emulator,
        official_client(emulator, **discovery(emulator)) as client,
    ):
        for name in ("ibm_fez", "ibm_torino"):
            emulator.submit_job(backend=name, seconds=100)
        await client("(found := service()) and None")
        (instance,) = await client("found.instances()")
        assert (instance["crn"], instance["plan"]) == (emulator.crn, "open")
        assert set(await client("[backend.name for backend in found.backends()]")) == BACKENDS

        assert await client("(backend := found.least_busy()).name") == "ibm_marrakesh"
        status = "(status := found.backend('ibm_fez').status()) and [status.operational, status.pending_jobs]"
        assert await client(status) == [True, 1]

        gates = "transpile(entangler(), backend, seed_transpiler=1).count_ops()"
        assert set(await client(gates)) <= {"rz", "sx", "x", "cz", "measure", "barrier"}
        assert await client("[backend.num_qubits, backend.properties().t1(0), backend.dt]") == [
            5,
            pytest.approx(150e-6),
            pytest.approx(4e-9),
        ]

        with pytest.raises(Raised, match=r"^RequestsApiError: '400 .*1352"):
            await client("Session(backend)")
        with pytest.raises(Raised, match="QiskitBackendNotFoundError"):
            await client("found.backend('ibm_none')")


async def test_what_insists_on_the_internet(clock: ManualClock) -> None:
    """Without GLOBAL_SEARCH_URL the service's constructor looks for the account's instances at IBM
    Cloud, and there only.
    """
    # A proxy that refuses, so that nothing leaves this machine and the test sees where it would
    # have gone.
    async with FaultServer(http(403)) as proxy, Emulator(clock=clock.time) as emulator:
        variables = {"HTTPS_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"}
        async with official_client(emulator, **variables) as client:
            with pytest.raises(Raised, match="InvalidAccountError: 'Unable to retrieve instances"):
                await client("service()")
        (refused,) = proxy.received
        assert (refused.method, refused.target) == (
            "CONNECT",
            "api.global-search-tagging.cloud.ibm.com:443",
        )
        assert Counter(request.path for request in emulator.requests) == {"/identity/token": 1}
