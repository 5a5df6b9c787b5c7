"""A test of your own code against the emulator: no account, no network, no mock. Run it with pytest."""

import asyncio

from qsessions import AsyncSessionClient, IBMCloudAuth, ServiceCRN
from qsessions.emulator import Emulator


async def count_open(client: AsyncSessionClient) -> int:
    """Stand for the code under test: count what costs or may cost."""
    return len([workload async for workload in client.workloads(status=("pending", "in_progress"))])


def test_open_sessions_are_counted() -> None:
    """Only sessions that aren't closed count."""

    async def scenario() -> None:
        async with Emulator() as emulator:
            auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
            async with AsyncSessionClient(auth, base_url=emulator.url) as client:
                first = await client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
                await client.create(mode="batch", backend="ibm_fez", max_ttl="10m")
                assert await count_open(client) == 2
                await client.close(first.id)
                assert await count_open(client) == 1
                assert emulator.sessions[first.id].state == "closed"

    asyncio.run(scenario())
