"""A service in memory: sessions that stay open until they are closed, their list, and IAM."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime
from random import Random
from typing import Any, Protocol, TypeVar

from attrs import define

from qsessions.api.messages import Request, Response
from qsessions.api.operations import MAX_PAGE
from qsessions.clock import Clock

T = TypeVar("T")

# How long a token lives.
_TOKEN_S = 3600.0


class Owner(Protocol):
    """The process that created a session."""

    died_at: float | None


@define(eq=False)
class ServiceSession:
    """A session of the service.

    Attributes:
        id: Its id.
        owner: The process that created it.
        created_at: When, in seconds since 1970.
        closed_at: When it was closed, on the monotonic clock, or None.
    """

    id: str
    owner: Owner
    created_at: float
    closed_at: float | None = None

    def as_session(self) -> dict[str, object]:
        """Return it as a read shows it."""
        is_open = self.closed_at is None
        state = "open" if is_open else "closed"
        return {"id": self.id, "mode": "batch", "state": state, "accepting_jobs": is_open}

    def as_workload(self) -> dict[str, object]:
        """Return it as the list shows it."""
        is_open = self.closed_at is None
        return {
            "id": self.id,
            "created": _text(self.created_at),
            "mode": "batch",
            "status": "pending" if is_open else "completed",
            "accepting_jobs": is_open,
        }


class Service:
    """The service of a fleet, and IAM.

    Args:
        clock: The time.
        random: Chance.
        answer: What it takes to answer, in seconds, in the median.

    Attributes:
        has_begun: Whether the fleet has: tokens that were given before are of all ages, as those of
            a fleet that has run for long.
        sessions: All sessions by id, in the order of their creation.
    """

    def __init__(self, clock: Clock, random: Random, answer: float) -> None:
        self.clock = clock
        self._random = random
        self._answer = answer
        self.has_begun = False
        self.sessions: dict[str, ServiceSession] = {}
        self._listed: list[ServiceSession] = []

    def takes(self) -> float:
        """Return in how many seconds to answer."""
        return self._answer * self._random.lognormvariate(0.0, 0.5)

    def token(self) -> dict[str, object]:
        """Return a token."""
        left = 1.0 if self.has_begun else self._random.random()
        return {"access_token": "of-a-simulation", "expires_in": _TOKEN_S * left}

    def create(self, owner: Owner) -> dict[str, object]:
        """Create a session."""
        session = ServiceSession(f"s{len(self._listed)}", owner, self.clock.wall())
        self.sessions[session.id] = session
        self._listed.append(session)
        return session.as_session()

    def page(self, query: dict[str, list[str]]) -> dict[str, object]:
        """Return a page of the list, oldest first."""
        after = datetime.fromisoformat(query.get("created_after", [_text(0.0)])[0]).timestamp()
        at = bisect_left(self._listed, after, key=lambda session: session.created_at)
        at = max(at, int(query.get("next", ["0"])[0]))
        statuses = query.get("status", ["pending", "completed"])
        found: list[dict[str, object]] = []
        while at < len(self._listed) and len(found) < MAX_PAGE and query["mode"] == ["batch"]:
            workload = self._listed[at].as_workload()
            if workload["status"] in statuses:
                found.append(workload)
            at += 1
        link = {"href": f"https://service.example.org/v1/workloads?next={at}"}
        return {"workloads": found, **({"next": link} if len(found) == MAX_PAGE else {})}


class ServiceTransport:
    """One process's way to the service: a `Transport`.

    Args:
        service: The service.
        process: The process.
        counts: Counts the requests by their operation, of all processes of one kind.
    """

    def __init__(self, service: Service, process: Owner, counts: Counter[str]) -> None:
        self._service = service
        self._process = process
        self._counts = counts

    async def send(self, request: Request) -> Response:
        """Answer a request after a while."""
        self._counts[request.operation] += 1
        await asyncio.sleep(self._service.takes())
        answer = self._answer(request)
        return Response(200, {}, json.dumps(answer).encode())

    def _answer(self, request: Request) -> dict[str, object]:
        service = self._service
        if request.operation == "token_exchange":
            return service.token()
        if request.operation == "create":
            return service.create(self._process)
        if request.operation == "workloads":
            return service.page({key: request.url.query.getall(key) for key in request.url.query})
        session = service.sessions[request.session_id or ""]
        if request.operation == "close" and session.closed_at is None:
            session.closed_at = service.clock.monotonic()
        return session.as_session()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a task."""
        return asyncio.ensure_future(coroutine)


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
