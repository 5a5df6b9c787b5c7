"""A Prefect 3 flow whose tasks share one session. The session ends with the flow, however it ends.

Set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE, or start `qsessions emulator` and set what it prints.
`python prefect_flow.py` runs the flow once, `python prefect_flow.py serve` whenever it is asked to.
"""

import asyncio
import sys

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from qsessions import AsyncSessionClient


# No cache: a key would be made of the arguments, and a client can't be pickled.
@task(retries=1, cache_policy=NO_CACHE)
async def measure(client: AsyncSessionClient, session_id: str, circuit: int) -> str:
    """Run a circuit in the session. Prefect runs it again if it fails."""
    # Submit the job here, such as with qiskit-ibm-runtime: Session.from_id(session_id, service)
    session = await client.get(session_id)
    return f"circuit {circuit} ran in a session that is {session.state}"


@flow
async def experiment(circuits: int = 4, *, wait: bool = False) -> list[str]:
    """Run circuits concurrently in one session; with `wait`, until somebody ends the session."""
    async with (
        AsyncSessionClient(application="prefect-flow") as client,
        # The session closes at once when a task fails for good, or the run is cancelled.
        client.open(mode="dedicated", backend="ibm_fez", max_ttl="10m") as live,
    ):
        async with asyncio.TaskGroup() as group:  # a task that fails for good cancels the others
            running = [
                group.create_task(measure(client, live.id, circuit)) for circuit in range(circuits)
            ]
        if wait:
            await live.wait_until("closed", timeout="10m")
    return [measured.result() for measured in running]


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        experiment.serve(name="examples")
    else:
        print(*asyncio.run(experiment()), sep="\n")
