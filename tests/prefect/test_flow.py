"""`examples/prefect_flow.py` with a Prefect server of its own, against the emulator."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from qsessions.emulator import Emulator, Fault
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.pages import ROOT

FLOW = str(ROOT / "examples/prefect_flow.py")
PREFECT = str(Path(sys.executable).with_name("prefect"))
# Seconds; a bound for a machine that is busy, not a wait.
PATIENCE_S = 90


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something holds, and return it."""
    given_up_at = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < given_up_at, "it never came to hold"
        time.sleep(0.1)
    return found


class Server:
    """A Prefect server, and what leads programs to it.

    Attributes:
        env: The environment of these programs.
    """

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.env = os.environ | {
            "HOME": str(home),
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return an answer of its API."""
        request = Request(  # noqa: S310 - the address is the server's
            self.env["PREFECT_API_URL"] + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            return json.load(answer)

    def is_up(self) -> bool:
        """Return whether it answers."""
        try:
            return bool(self.ask("GET", "/health"))
        except OSError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server."""
    server = Server(tmp_path_factory.mktemp("prefect"))
    command = [PREFECT, "server", "start", "--no-ui", "--port", str(server.port)]
    with subprocess.Popen(
        command, env=server.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(server.is_up)
            yield server
        finally:
            process.terminate()


@pytest.fixture
def emulator() -> Iterator[ThreadedEmulator]:
    """Run an emulator on real time."""
    with ThreadedEmulator(Emulator()) as emulator:
        yield emulator


def operations(emulator: ThreadedEmulator) -> list[str | None]:
    """Return the operations that were asked for, in order, without reads."""
    return [
        request.operation
        for request in emulator.requests
        if request.operation not in {"token", "get"}
    ]


def run_flow(server: Server, emulator: ThreadedEmulator) -> tuple[str, list[tuple[str, int]]]:
    """Run the flow; return how it ended, and how each task did after how many runs."""
    done = subprocess.run(
        [sys.executable, FLOW],
        env=server.env | emulator.env(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    (flow,) = server.ask("POST", "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    state: str = flow["state"]["type"]
    assert done.returncode == (state != "COMPLETED"), done.stderr
    which = {"flow_runs": {"id": {"any_": [flow["id"]]}}}

    def tasks() -> list[tuple[str, int]]:
        # The server gets them in the background.
        found = server.ask("POST", "/task_runs/filter", which)
        ends = [(task["state"]["type"], task["run_count"]) for task in found if task["end_time"]]
        return sorted(ends) if len(ends) == 4 else []

    ends: list[tuple[str, int]] = until(tasks)
    return state, ends


@pytest.mark.parametrize("failures", [0, 1])
def test_a_flow(server: Server, emulator: ThreadedEmulator, failures: int) -> None:
    """The tasks of a flow run concurrently in one session, which drains with the flow. A task that
    fails is run again in it.
    """
    if failures:
        emulator.faults.add(Fault(kind="answer", operations=["get"], status=400, times=failures))
    runs = [("COMPLETED", 1)] * (4 - failures) + [("COMPLETED", 2)] * failures
    assert run_flow(server, emulator) == ("COMPLETED", runs)
    assert operations(emulator) == ["create", "update"]
    assert emulator.open_sessions == []


def test_a_task_that_fails_for_good(server: Server, emulator: ThreadedEmulator) -> None:
    """A task that fails again fails its flow, and the session is closed at once."""
    emulator.faults.add(Fault(kind="answer", operations=["get"], status=400))
    state, tasks = run_flow(server, emulator)
    assert state == "FAILED"
    assert ("FAILED", 2) in tasks
    assert operations(emulator) == ["create", "close"]
    assert emulator.open_sessions == []


def test_a_cancelled_run(server: Server, emulator: ThreadedEmulator) -> None:
    """A run that is cancelled at the server closes its session."""
    with subprocess.Popen(
        [sys.executable, FLOW, "serve"],
        env=server.env | emulator.env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as serving:
        try:
            (deployment,) = until(lambda: server.ask("POST", "/deployments/filter", {}))
            wanted = {"parameters": {"wait": True}, "state": {"type": "SCHEDULED"}}
            run = server.ask("POST", f"/deployments/{deployment['id']}/create_flow_run", wanted)
            # Its tasks are done, and it waits.
            until(lambda: sum(request.operation == "get" for request in emulator.requests) > 4)
            assert len(emulator.open_sessions) == 1
            cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
            server.ask("POST", f"/flow_runs/{run['id']}/set_state", cancelling)
            until(
                lambda: server.ask("GET", f"/flow_runs/{run['id']}")["state"]["type"] == "CANCELLED"
            )
        finally:
            serving.terminate()
    assert operations(emulator) == ["create", "close"]
    assert emulator.open_sessions == []
