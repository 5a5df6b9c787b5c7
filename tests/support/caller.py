"""A plain HTTP client of the emulator, and a clock for it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
from aiohttp import ClientSession, FormData
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Response
from yarl import URL

from qsessions.emulator import Emulator

START = 1_800_000_000.0  # 2027-01-15T08:00:00Z
Query = Mapping[str, str | int] | Sequence[tuple[str, str]] | None
GRANT = "urn:ibm:params:oauth:grant-type:apikey"


@attrs.define
class Clock:
    """A clock that stands still."""

    at: float = START

    def __call__(self) -> float:
        """Unix seconds."""
        return self.at


@attrs.frozen
class Caller:
    """Sends requests to an emulator, with good credentials unless told otherwise."""

    http: ClientSession
    emulator: Emulator

    def good(self) -> dict[str, str]:
        """Credentials that need no token exchange."""
        return {
            "Authorization": f"apikey {self.emulator.api_key}",
            "Service-CRN": self.emulator.crn,
        }

    async def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        data: bytes | io.BytesIO | None = None,
        headers: Mapping[str, str] | None = None,
        query: Query = None,
    ) -> tuple[int, Any]:
        """Status and JSON body (None if there is none)."""
        status, _, text = await self.full(
            method, path, body, data=data, headers=headers, query=query
        )
        return status, json.loads(text) if text else None

    async def full(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        data: bytes | io.BytesIO | None = None,
        headers: Mapping[str, str] | None = None,
        query: Query = None,
    ) -> tuple[int, Mapping[str, str], str]:
        """Status, headers and text."""
        url = URL(path if path.startswith("http") else self.emulator.url + path, encoded=True)
        if query is not None:
            url = url.with_query(query)
        sent = json.dumps(body).encode() if body is not None else data
        async with self.http.request(
            method, url, data=sent, headers=self.good() if headers is None else headers
        ) as answer:
            return answer.status, answer.headers, await answer.text()

    async def command(
        self, method: str, path: str, body: object = None, data: bytes | io.BytesIO | None = None
    ) -> tuple[int, Any]:
        """Ask the emulator about itself, or rule it: for that there are no credentials."""
        url = f"{self.emulator.iam_url}/emulator/{path}"
        return await self(method, url, body, data=data, headers={})

    async def token(self) -> str:
        """A fresh access token."""
        status, answer = await self.exchange(grant_type=GRANT, apikey=self.emulator.api_key)
        assert status == 200
        return str(answer["access_token"])

    async def exchange(self, **form: str) -> tuple[int, Any]:
        """Ask the token endpoint."""
        url = f"{self.emulator.iam_url}/identity/token"
        async with self.http.post(url, data=FormData(form)) as answer:
            return answer.status, await answer.json()

    async def create(self, **fields: object) -> str:
        """Make a session; returns its id."""
        status, session = await self("POST", "/v1/sessions", {"mode": "dedicated", **fields})
        assert status == 200, session
        return str(session["id"])


@asynccontextmanager
async def calling(**options: Any) -> AsyncIterator[Caller]:
    """Start an emulator with these options, and a client of it."""
    async with Emulator(**options) as emulator, ClientSession() as http:
        yield Caller(http, emulator)


def first_code(answer: Any) -> object:
    """The code of the only error in an answer in the service's form."""
    assert set(answer) == {"errors", "trace"}
    assert answer["trace"]
    (error,) = answer["errors"]
    assert error["message"]
    return error["code"]


async def connect(emulator: Emulator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection for raw bytes."""
    url = URL(emulator.iam_url)
    return await asyncio.open_connection(url.host, url.port)


async def speak(emulator: Emulator, request: str) -> str:
    """Send raw text over a connection of its own, and read until the emulator closes it."""
    reader, writer = await connect(emulator)
    writer.write(request.encode(errors="surrogateescape"))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


async def answer_to(
    emulator: Emulator,
    path: str,
    peer: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Response:
    """Return an emulator's answer to a GET, or to a POST of a body, from a peer with any address."""
    app = emulator._application()
    app.freeze()
    method = "GET" if body is None else "POST"
    request = make_mocked_request(method, path, headers, app=app).clone(remote=peer)
    request._read_bytes = body or b""
    answer = await app._handle(request)  # as its server calls it
    assert isinstance(answer, Response)
    return answer
