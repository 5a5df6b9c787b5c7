"""Every operation of the client as a row of a table, with the answer of a success."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from attrs import field, frozen

from qsessions import AsyncSessionClient
from qsessions.testing import ManualClock
from tests.support.clients import static_auth
from tests.support.fault_server import Answer, FaultServer, http
from tests.support.leaks import leaving_nothing

SESSION = {"id": "s1", "mode": "dedicated", "state": "open", "accepting_jobs": True, "max_ttl": 600}
WORKLOAD = {"id": "s1", "mode": "session", "status": "pending", "created": "2026-05-01T12:00:00Z"}
NO_WORKLOADS: dict[str, Any] = {"workloads": [], "next": None}


async def _workloads(client: AsyncSessionClient, _: str, **options: Any) -> object:
    return [workload async for workload in client.workloads(mode="session", **options)]


@frozen
class Row:
    """An operation: what errors and events call it, what goes over the wire, how it is called, and
    the answer of a success.
    """

    name: str
    method: str
    path: str
    call: Callable[..., Awaitable[Any]] = field(repr=False)
    success: bytes = field(repr=False)
    session_id: str | None = "s1"

    async def __call__(self, client: AsyncSessionClient, about: str = "s1", **options: Any) -> Any:
        """Make the call, about a session where it is about one."""
        return await self.call(client, about, **options)


CREATE = Row(
    "create",
    "POST",
    "/v1/sessions",
    lambda client, _, **options: client.create(
        mode="dedicated", backend="ibm_fez", max_ttl=600, **options
    ),
    http(200, SESSION),
    None,
)
GET = Row(
    "get",
    "GET",
    "/v1/sessions/s1",
    lambda client, about, **options: client.get(about, **options),
    http(200, SESSION),
)
UPDATE = Row(
    "update",
    "PATCH",
    "/v1/sessions/s1",
    lambda client, about, **options: client.update(about, accepting_jobs=False, **options),
    http(204),
)
# The same operation in the other direction, which reads the session afterwards.
REOPEN = Row(
    "update",
    "PATCH",
    "/v1/sessions/s1",
    lambda client, about, **options: client.update(about, accepting_jobs=True, **options),
    http(204),
)
DRAIN = Row(
    "drain",
    "PATCH",
    "/v1/sessions/s1",
    lambda client, about, **options: client.drain(about, **options),
    http(204),
)
CLOSE = Row(
    "close",
    "DELETE",
    "/v1/sessions/s1/close",
    lambda client, about, **options: client.close(about, **options),
    http(204),
)
VERSIONS = Row(
    "versions",
    "GET",
    "/v1/versions",
    lambda client, _, **options: client.versions(**options),
    http(200, {"versions": [{"version": "2026-04-15", "status": "live"}]}),
    None,
)
WORKLOADS = Row("workloads", "GET", "/v1/workloads", _workloads, http(200, NO_WORKLOADS), None)

ROWS = (CREATE, GET, UPDATE, DRAIN, CLOSE, VERSIONS, WORKLOADS)


def each(*rows: Row) -> pytest.MarkDecorator:
    """Run a test once for each of these operations, or for all."""
    return pytest.mark.parametrize("row", rows or ROWS, ids=lambda row: row.name)


def fault(
    message: str = "It went wrong.",
    *,
    code: object = 1000,
    solution: str | None = "Do better.",
    trace: str = "trace-1",
) -> dict[str, object]:
    """Return an error body in the service's own form."""
    return {"errors": [{"code": code, "message": message, "solution": solution}], "trace": trace}


class Script(NamedTuple):
    """A server that answers from a script, a client of it, and the clock of both."""

    server: FaultServer
    client: AsyncSessionClient
    time: ManualClock


@asynccontextmanager
async def scripted(
    *answers: Answer,
    time: ManualClock | None = None,
    tls: ssl.SSLContext | None = None,
    exchanges: int = 0,
    **options: Any,
) -> AsyncIterator[Script]:
    """Start a server with a script, and a client of it that must leave nothing behind.

    Args:
        answers: The script.
        time: The clock, for answers that move it.
        tls: The server's TLS settings.
        exchanges: How many exchanges for a token may be left.
        options: The client's arguments. The credential is an API key by default.
    """
    time = time or ManualClock()
    async with FaultServer(*answers, tls=tls) as server:
        settings: dict[str, Any] = {
            "auth": static_auth(),
            "base_url": server.url,
            "clock": time,
        }
        client = AsyncSessionClient(**settings | options)
        async with leaving_nothing(client, server, exchanges=exchanges):
            yield Script(server, client, time)
