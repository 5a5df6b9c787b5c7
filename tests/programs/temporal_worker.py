"""A worker of Temporal with an activity that owns a session until it is told to go on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from qsessions import AsyncSessionClient, CreateSession, LeaseTerms, PostgresLedger
    from qsessions.integrations.temporal import owned_session

# Seconds.
HEARTBEAT_TIMEOUT = 3.0
TERMS = LeaseTerms(heartbeat=0.3, ttl=2.0, delay=2.0)


class Experiments:
    """The activities of a worker.

    Args:
        client: Its client.
        folder: Where it says what happens, in the file `events`, and finds `go`.
    """

    def __init__(self, client: AsyncSessionClient, folder: Path) -> None:
        self.client = client
        self.folder = folder

    def report(self, what: str, session: str) -> None:
        """Add a line to what has happened."""
        event = {
            "what": what,
            "pid": os.getpid(),
            "attempt": activity.info().attempt,
            "session": session,
            "at": time.time(),
        }
        with (self.folder / "events").open("a") as events:
            events.write(json.dumps(event) + "\n")

    async def wait(self) -> None:
        """Wait for the file `go`."""
        while True:
            if (self.folder / "go").exists():
                return
            await asyncio.sleep(0.02)

    @activity.defn
    async def run(self, failures: int) -> str:
        """Own a session until there is the file `go`; the first attempts fail."""
        session, how = "", "done"
        try:
            async with owned_session(
                self.client, CreateSession("dedicated", backend="ibm_fez", max_ttl="1h")
            ) as live:
                session = live.id
                self.report("begun", session)
                if activity.info().attempt <= failures:
                    raise RuntimeError("it fails")
                await self.wait()
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            self.report(how, session)
        return session


@workflow.defn
class Experiment:
    """One experiment."""

    @workflow.run
    async def run(self, failures: int) -> str:
        """Run the activity."""
        result: str = await workflow.execute_activity_method(
            Experiments.run,
            failures,
            heartbeat_timeout=timedelta(seconds=HEARTBEAT_TIMEOUT),
            start_to_close_timeout=timedelta(minutes=5),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=0.1), backoff_coefficient=1.0
            ),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        return result


async def main(address: str, queue: str, folder: Path) -> None:
    """Work until SIGTERM."""
    logging.basicConfig(level="INFO", format=f"{os.getpid()} %(asctime)s %(name)s %(message)s")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    temporal = await Client.connect(address)
    ledger = PostgresLedger(os.environ["QSESSIONS_LEDGER"], terms=TERMS)
    async with (
        AsyncSessionClient(ledger=ledger) as client,
        Worker(
            temporal,
            task_queue=queue,
            workflows=[Experiment],
            activities=[Experiments(client, folder).run],
            # While it is busy it takes no retry, which it could not begin while it is paused.
            max_concurrent_activities=1,
            # No workflow waits for a worker that is gone.
            max_cached_workflows=0,
            # On a busy machine one heartbeat in the timeout is too few.
            max_heartbeat_throttle_interval=timedelta(seconds=0.3),
        ),
    ):
        await stopped.wait()
    await ledger.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
