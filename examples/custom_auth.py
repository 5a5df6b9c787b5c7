"""An auth provider of your own: a token in a file that another process keeps fresh.

Set TOKEN_FILE to the file's path, and QISKIT_IBM_INSTANCE to the instance's CRN.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from qsessions import AsyncSessionClient, ServiceCRN, Transport


class TokenFile:
    """Sends the token in a file. Reads the file again when the service refuses the token."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._headers: dict[str, str] = {}

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return the header. The file is read in a thread, so it doesn't block the event loop."""
        if not self._headers:
            token = await asyncio.to_thread(self._path.read_text)
            self._headers = {"Authorization": f"Bearer {token.strip()}"}
        return self._headers

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Drop the refused token, unless it has been replaced. Return whether to try again."""
        if refused == self._headers:
            self._headers = {}
        return True


async def main() -> None:
    """List the sessions and batches that cost or may cost."""
    token = TokenFile(os.environ["TOKEN_FILE"])
    instance = ServiceCRN(os.environ["QISKIT_IBM_INSTANCE"])
    async with AsyncSessionClient([token, instance]) as client:
        count = 0
        async for workload in client.workloads(status=("pending", "in_progress")):
            print(f"{workload.id}  {workload.mode}  {workload.status}  {workload.backend}")
            count += 1
        print(f"{count} open")


if __name__ == "__main__":
    asyncio.run(main())
