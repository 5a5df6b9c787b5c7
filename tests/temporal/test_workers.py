"""A session that an activity owns, whatever becomes of its workers, its workflow and the server.

docs/how-to/temporal.md has the table of what these find.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from tests.programs.temporal_worker import HEARTBEAT_TIMEOUT, TERMS
from tests.support.pages import ROOT
from tests.temporal.conftest import PATIENCE_S, ROUND_S, TEMPORAL, Stage, until

# Seconds that a busy machine may need for anything, besides the waits that are meant.
BUSY_S = 20.0


def test_an_activity_that_completes(stage: Stage) -> None:
    """Its session is drained by the time that the workflow has the result."""
    stage.worker()
    workflow = stage.begin()
    begun = stage.next("begun")
    assert stage.finish(workflow) == begun.session
    assert stage.operations() == ["create", "update"]
    assert not stage.is_open(begun.session)


def test_an_attempt_that_fails(stage: Stage) -> None:
    """Its session is closed before the retry begins, which has one of its own."""
    stage.worker()
    workflow = stage.begin(failures=1)
    first = stage.next("begun")
    second = stage.next("begun", after=first)
    assert second.session != first.session
    assert stage.operations() == ["create", "close", "create"]
    assert stage.finish(workflow) == second.session
    assert stage.operations() == ["create", "close", "create", "update"]


def test_a_workflow_that_is_cancelled(stage: Stage) -> None:
    """The session is closed by the time that the workflow is cancelled, which the worker hears of
    with its next heartbeat.
    """
    stage.worker()
    workflow = stage.begin()
    begun = stage.next("begun")
    stage.do(workflow.cancel())
    cancelled_at = time.monotonic()
    with pytest.raises(WorkflowFailureError):
        stage.do(workflow.result())
    assert time.monotonic() - cancelled_at < HEARTBEAT_TIMEOUT + BUSY_S
    assert stage.do(workflow.describe()).status == WorkflowExecutionStatus.CANCELED
    assert not stage.is_open(begun.session)
    assert stage.operations() == ["create", "close"]


def test_a_workflow_that_is_terminated(stage: Stage) -> None:
    """The worker hears of that with its next heartbeat, and closes the session: there is no retry."""
    stage.worker()
    workflow = stage.begin()
    begun = stage.next("begun")
    stage.do(workflow.terminate())
    terminated_at = time.monotonic()
    until(lambda: not stage.is_open(begun.session))
    assert time.monotonic() - terminated_at < HEARTBEAT_TIMEOUT + BUSY_S
    assert stage.operations() == ["create", "close"]


def test_a_worker_that_is_killed(stage: Stage) -> None:
    """The retry on another worker takes the same session over, and the reaper, which finds the
    record of the dead worker, leaves it.
    """
    killed = stage.worker()
    workflow = stage.begin()
    first = stage.next("begun")
    other = stage.worker()
    killed.kill()
    killed_at = time.monotonic()
    second = stage.next("begun", after=first)
    assert time.monotonic() - killed_at < HEARTBEAT_TIMEOUT + BUSY_S
    assert (first.pid, second.pid) == (killed.pid, other.pid)
    assert second.session == first.session
    stage.reap_until(lambda: (killed.pid, "dead") in stage.owners(first.session))
    stage.reap()
    assert (other.pid, "alive") in stage.owners(first.session)
    assert stage.is_open(first.session)
    assert stage.finish(workflow) == first.session
    assert stage.operations() == ["create", "update"]
    # The other one, which lives, has it as draining.
    stage.reap_until(lambda: (killed.pid, "dead") not in stage.owners(first.session))


def test_a_worker_that_is_paused(stage: Stage) -> None:
    """While it is paused, a retry takes its session over, and a reaper its lease. When it wakes, it
    learns that, and ends nothing of what isn't its own any more.
    """
    paused = stage.worker()
    workflow = stage.begin()
    first = stage.next("begun")
    other = stage.worker()
    paused.send_signal(signal.SIGSTOP)
    second = stage.next("begun", after=first)
    assert (second.pid, second.session) == (other.pid, first.session)
    stage.reap_until(lambda: (paused.pid, "dead") in stage.owners(first.session))
    paused.send_signal(signal.SIGCONT)
    stage.next("CancelledError")
    assert stage.is_open(first.session)
    assert stage.operations() == ["create"]
    assert stage.finish(workflow) == first.session
    until(lambda: not stage.is_open(first.session))
    # Each that has it recorded says that it drains. Nobody closes it.
    assert set(stage.operations()) == {"create", "update"}
    paused.terminate()
    assert paused.wait(BUSY_S) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_gone_and_no_other(stage: Stage, number: int) -> None:
    """Once its lease is over a reaper closes the session, and not before; a retry that comes later
    has one of its own.
    """
    gone = stage.worker()
    workflow = stage.begin()
    first = stage.next("begun")
    gone.send_signal(number)
    gone.wait(BUSY_S)
    gone_at = time.monotonic()
    stage.reap_until(lambda: not stage.is_open(first.session))
    took = time.monotonic() - gone_at
    patience = TERMS.ttl + TERMS.delay
    assert patience - TERMS.heartbeat < took < patience + 2 * ROUND_S + BUSY_S
    assert stage.owners(first.session) == []
    stage.worker()
    second = stage.next("begun", after=first)
    assert second.session != first.session
    assert stage.finish(workflow) == second.session
    assert stage.operations() == ["create", "close", "create", "update"]


def test_a_worker_that_shuts_down(stage: Stage) -> None:
    """It leaves its session to the retry, which begins at once on another worker."""
    stopped = stage.worker()
    workflow = stage.begin()
    first = stage.next("begun")
    other = stage.worker()
    stopped.terminate()
    second = stage.next("begun", after=first)
    assert (second.pid, second.session) == (other.pid, first.session)
    assert stopped.wait(BUSY_S) == 0
    stage.reap_until(lambda: (stopped.pid, "dead") in stage.owners(first.session))
    assert stage.is_open(first.session)
    assert stage.finish(workflow) == first.session
    assert stage.operations() == ["create", "update"]


def test_the_example(stage: Stage) -> None:
    """Its worker runs the workflow that its command starts, and SIGTERM ends the worker."""
    example = ROOT / "examples/temporal_worker.py"
    execute = re.search("    temporal (workflow execute .+)", example.read_text("utf-8"))
    assert execute is not None
    env = stage.env | {"TEMPORAL_ADDRESS": stage.server.address}
    with subprocess.Popen([sys.executable, str(example)], env=env) as worker:
        try:
            done = subprocess.run(
                [TEMPORAL, *shlex.split(execute[1]), "--output", "json"],
                env=env,
                capture_output=True,
                text=True,
                check=True,
                timeout=PATIENCE_S,
            )
        finally:
            worker.terminate()
    assert worker.returncode == 0
    (session,) = stage.emulator.sessions
    assert json.loads(done.stdout)["result"] == f"4 circuits ran in {session}"
    assert stage.operations() == ["create", "update"]


@pytest.mark.parametrize("ends", [False, True])
def test_a_server_that_is_restarted(stage: Stage, ends: bool) -> None:
    """The activity goes on in its session; if the server found no heartbeat in time, its retry
    does. One that ends while the server is away leaves its session until that can be asked.
    """
    stage.worker()
    workflow = stage.begin()
    begun = stage.next("begun")
    stage.server.stop()
    if ends:
        (stage.folder / "go").touch()
        # Long enough for the block to end, and short enough to be asked again.
        time.sleep(0.5)
    else:
        time.sleep(HEARTBEAT_TIMEOUT)
    assert stage.is_open(begun.session)
    stage.server.start()
    assert stage.finish(workflow) == begun.session
    until(lambda: not stage.is_open(begun.session))
    assert set(stage.operations()) == {"create", "update"}
    assert stage.operations().count("create") == 1
