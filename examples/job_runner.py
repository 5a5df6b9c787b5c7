"""A job runner: many jobs at a time, each in a session of its own, over one client.

Set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE, or start `qsessions emulator` and set what it prints.
`python job_runner.py 200` runs 200 jobs; each line that it prints is a job's end.
"""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from qsessions import AsyncLiveSession, AsyncSessionClient, QSessionsError

# At most so many sessions at a time.
CONCURRENCY = 200
# At most so many seconds for each job.
TIME_LIMIT = 600


@dataclass(frozen=True)
class Job:
    """A job: its name, and what it does in its session."""

    name: str
    run: Callable[[AsyncLiveSession], Awaitable[None]]


class JobRunner:
    """Runs jobs. What happens to one of them doesn't stop the others.

    Attributes:
        outcomes: How many jobs came to each end: done, crashed, too slow, or refused by the
            service.
    """

    def __init__(self, client: AsyncSessionClient, concurrency: int = CONCURRENCY) -> None:
        self.outcomes: Counter[str] = Counter()
        self._client = client
        self._slots = asyncio.Semaphore(concurrency)

    async def run(self, jobs: list[Job]) -> None:
        """Run jobs to their ends. Cancelling this ends them all, and their sessions."""
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(self._run(job))

    async def _run(self, job: Job) -> None:
        async with self._slots:
            outcome = await self._outcome(job)
        self.outcomes[outcome.partition(":")[0]] += 1
        print(f"{job.name} {outcome}", flush=True)

    async def _outcome(self, job: Job) -> str:
        """Run a job in a session; return what became of it.

        The session is drained after a job that is done, and closed after any other.
        """
        try:
            async with self._client.open(
                mode="batch", backend="ibm_fez", max_ttl="15m", labels={"job": job.name}
            ) as live:
                async with asyncio.timeout(TIME_LIMIT):
                    await job.run(live)
        except QSessionsError as error:
            return f"refused: {error.message}"
        except TimeoutError:
            return "too slow"
        except Exception as error:  # noqa: BLE001 - a job may raise anything
            return f"crashed: {type(error).__name__}: {error}"
        return "done"


async def example_job(number: int, live: AsyncLiveSession) -> None:
    """Stand for what a job does in its session; one of ten crashes."""
    # Submit jobs here, such as with qiskit-ibm-runtime: Session.from_id(live.id, service)
    await live.refresh()
    if number % 10 == 0:
        raise ValueError("it didn't converge")


async def main(count: int) -> int:
    """Run the jobs until they are done, or until SIGTERM or Ctrl-C ends them and their sessions.

    Return the exit code: 0 when all are done.
    """
    jobs = [Job(f"job-{number}", partial(example_job, number)) for number in range(count)]
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    # The ledger lets `qsessions reap --label job=job-7` find what a killed runner left.
    async with AsyncSessionClient(application="job-runner", ledger="local") as client:
        runner = JobRunner(client)
        try:
            await runner.run(jobs)
        except asyncio.CancelledError:
            print("stopped")
        print(", ".join(f"{number} {end}" for end, number in sorted(runner.outcomes.items())))
    return 0 if runner.outcomes["done"] == count else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]))))
