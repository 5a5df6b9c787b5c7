"""One session from create to closed.

Credentials come from the environment: QISKIT_IBM_TOKEN (an API key) and QISKIT_IBM_INSTANCE (the instance's CRN). To try it without an
account, start `qsessions emulator` and set the variables that it prints.
"""

import asyncio

from qsessions import AsyncSessionClient


async def main() -> None:
    """Create a session, read it, drain it, and see it closed."""
    async with AsyncSessionClient(application="qsessions-quickstart") as client:
        # max_ttl, from the first job's start, bounds the cost if this machine vanishes: always set it.
        session = await client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
        print(f"{session.id} is {session.state}")
        # Here jobs would be submitted to the session, for example with qiskit-ibm-runtime: Session.from_id(session.id, service)
        live = client.attach(session.id)
        await live.drain()
        closed = await live.wait_until("closed", timeout="10m")
        print(f"{closed.id} is {closed.state}, used {closed.elapsed_time or 0:.0f} s")
        async for workload in client.workloads(status=("pending", "in_progress")):
            print(f"still open: {workload.id}, {workload.mode}, {workload.status}")


if __name__ == "__main__":
    asyncio.run(main())
