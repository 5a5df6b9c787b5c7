"""What qsessions costs over bare aiohttp: reading a session, one call after another and 128 at a
time.

Run it as `python benchmarks/get.py`. Rounds of the contenders alternate, and the ratios are taken
round by round.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from multiprocessing.connection import Connection

import aiohttp
import cattrs
from attrs import define

from qsessions import AsyncSessionClient, IBMCloudAPIKey, ServiceCRN

ROUNDS = 15
CALLS = 400
AT_ONCE = 128
CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/0:0::"
SESSION = {
    "id": "s1",
    "backend_name": "ibm_fez",
    "mode": "dedicated",
    "state": "active",
    "accepting_jobs": True,
    "started_at": "2026-01-01T00:00:00Z",
    "max_ttl": 600,
    "interactive_ttl": 60,
    "active_ttl": 600,
    "timestamps": [{"status": "open", "timestamp": "2026-01-01T00:00:00Z"}],
    "user_id": "u",
    "elapsed_time": 12.5,
}


@define
class PlainChange:
    """What a typical user models of a state's history."""

    status: str
    timestamp: datetime


@define
class PlainSession:
    """What a typical user models of a session."""

    id: str
    backend_name: str
    mode: str
    state: str
    accepting_jobs: bool
    started_at: datetime
    interactive_ttl: int
    max_ttl: int
    active_ttl: int
    timestamps: list[PlainChange]
    user_id: str
    elapsed_time: float


class Stub(asyncio.Protocol):
    """Answers anything with the same session."""

    body = json.dumps(SESSION).encode()
    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Set-Cookie: cdn=1; Path=/\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request in the data; the requests of this benchmark have no body."""
        self.transport.write(self.answer * data.count(b"\r\n\r\n"))


async def _serve(ready: Connection) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serve(ready: Connection) -> None:
    """Run the stub in this process."""
    asyncio.run(_serve(ready))


Call = Callable[[], Awaitable[object]]


async def one_after_another(call: Call) -> None:
    """Make the calls in a row."""
    for _ in range(CALLS):
        await call()


async def many_at_once(call: Call) -> None:
    """Make the calls, a fixed number at a time."""

    async def worker() -> None:
        for _ in range(CALLS // 16):
            await call()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def compare(
    contenders: dict[str, Call], load: Callable[[Call], Awaitable[None]]
) -> dict[str, list[float]]:
    """Give each contender's CPU seconds of each round."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name, call in contenders.items():
            started = time.process_time()
            await load(call)
            if number:  # the first round warms up
                spent[name].append(time.process_time() - started)
    return spent


async def main(port: int) -> None:
    """Compare and print."""
    base_url = f"http://127.0.0.1:{port}"
    url = f"{base_url}/v1/sessions/s1"
    headers = {"Authorization": "apikey k", "Service-CRN": CRN, "IBM-API-Version": "2025-01-01"}
    converter = cattrs.Converter()
    converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))
    auth = [IBMCloudAPIKey("k"), ServiceCRN(CRN)]
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as http,
        AsyncSessionClient(auth, base_url=base_url, max_concurrency=AT_ONCE) as client,
    ):

        async def bare() -> object:
            async with http.get(url, headers=headers) as answer:
                return await answer.read()

        async def typical() -> object:
            async with http.get(url, headers=headers) as answer:
                return converter.structure(await answer.json(), PlainSession)

        contenders: dict[str, Call] = {
            "bare aiohttp": bare,
            "aiohttp + json + cattrs": typical,
            "qsessions": lambda: client.get("s1"),
        }
        for load in (one_after_another, many_at_once):
            spent = await compare(contenders, load)
            print(
                f"{load.__name__.replace('_', ' ')}, CPU over bare aiohttp "
                f"(median of {ROUNDS} paired rounds):"
            )
            for name, seconds in spent.items():
                ratios = [
                    one / other for one, other in zip(seconds, spent["bare aiohttp"], strict=True)
                ]
                print(f"  {name:<24} {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    asyncio.run(main(ours.recv()))
    process.terminate()
