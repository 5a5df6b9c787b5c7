"""Sessions that are read from scripts, and a list of them, without a server."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import attrs

from qsessions import ServerError, Session, SessionState, Workload
from qsessions.api.codec import WorkloadPage
from qsessions.api.messages import Progress
from qsessions.api.operations import Operation
from qsessions.session.watch import Watch
from tests.support.manual_clock import Stepped

AWAY = ServerError("the service is down", status=503, retryable=True)
# When the first session of a list was created.
FIRST = datetime(2026, 5, 1, tzinfo=UTC)


def ids(count: int) -> list[str]:
    """Return so many session ids."""
    return [f"s{number}" for number in range(count)]


def all_of(names: list[str], script: list[str | Exception]) -> dict[str, list[str | Exception]]:
    """Return a script for each session, the same for all."""
    return {name: list(script) for name in names}


class Fleet:
    """Sessions that are read from scripts, the last reading of each again and again.

    Attributes:
        asked: When each session was read, in order.
        pages: When each page of the list was asked for. There is no list: each attempt fails.
        most: The most tasks at a time.
        held: If set, what each request waits for.
    """

    def __init__(self, time: Stepped, scripts: dict[str, list[str | Exception]]) -> None:
        self.time = time
        self.clock = time
        self.polls: dict[str, Any] = {}
        self.recorder = SimpleNamespace(ownership=None, living=1)
        self.scripts = scripts
        self.asked: list[tuple[float, str]] = []
        self.pages: list[float] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.most = 0
        self.held: asyncio.Event | None = None

    @property
    def caller(self) -> Fleet:
        """What a watch fetches pages with."""
        return self

    def watch(
        self, *, names: Iterable[str] = (), rate: float = 20.0, seconds: float | None = None
    ) -> Watch:
        """Return a watch of some sessions, by default all."""
        return Watch(list(names or self.scripts), cast("Any", self), rate=rate, seconds=seconds)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a task."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        self.most = max(self.most, len(self.tasks))
        task.add_done_callback(self.tasks.discard)
        return task

    async def get(self, session_id: str, progress: Progress) -> Session:
        """Read a session."""
        assert progress.wait is not None
        self.asked.append((self.time.now, session_id))
        if self.held is not None:
            await self.held.wait()
        script = self.scripts[session_id]
        state = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(state, Exception):
            raise state
        return self.session(session_id, state)

    def session(self, session_id: str, state: str) -> Session:
        """Return a session as a read shows it."""
        return Session(id=session_id, state=SessionState(state))

    async def call(self, operation: Operation[WorkloadPage], *, progress: Progress) -> WorkloadPage:
        """Fail to fetch a page of the list."""
        assert (operation.name, progress.wait is not None) == ("workloads", True)
        self.pages.append(self.time.now)
        raise AWAY

    def times(self, session_id: str) -> list[float]:
        """Return when a session was read."""
        return [at for at, asked in self.asked if asked == session_id]

    def begun(self) -> list[float]:
        """Return when each request began."""
        return sorted([*(at for at, _ in self.asked), *self.pages])


class ListedFleet(Fleet):
    """Sessions with a list of workloads, created a second after each other.

    The state of each is that of its script, which a test replaces when it likes.

    Attributes:
        modes: The mode of each session that isn't listed as a "session".
        listed_as: The status of sessions that the list shows in another than their own; "none"
            for those that it doesn't have.
        draining: Sessions that take no more jobs.
        created: When each was created, by id.
        served_at: The service's time.
        latency: How many seconds an answer takes.
        list_error: What the list fails with, if it does.
        queries: What the pages were asked for with.
    """

    def __init__(self, time: Stepped, scripts: dict[str, list[str | Exception]]) -> None:
        super().__init__(time, scripts)
        self.modes: dict[str, str] = {}
        self.listed_as: dict[str, str] = {}
        self.draining: set[str] = set()
        self.created = {
            session_id: FIRST + timedelta(seconds=number)
            for number, session_id in enumerate(scripts)
        }
        self.served_at = FIRST.timestamp() + len(scripts)
        self.latency = 0.0
        self.list_error: Exception | None = None
        self.queries: list[dict[str, list[str]]] = []

    def set(self, session_id: str, state: str) -> None:
        """Change the state of a session."""
        self.scripts[session_id] = [state]

    async def get(self, session_id: str, progress: Progress) -> Session:
        """Read a session, after a while."""
        session = await super().get(session_id, progress)
        if self.latency:
            await self.clock.sleep(self.latency)
        return session

    async def call(self, operation: Operation[WorkloadPage], *, progress: Progress) -> WorkloadPage:
        """Fetch a page of the list, as the service filters, sorts and cuts it."""
        self.pages.append(self.time.now)
        query = parse_qs(urlsplit(operation.path).query)
        self.queries.append(query)
        page = self._page(query)
        if self.latency:
            await self.clock.sleep(self.latency)
        if self.list_error is not None:
            raise self.list_error
        return page

    def _page(self, query: dict[str, list[str]]) -> WorkloadPage:
        assert (query["sort"], query["limit"]) == (["-createdAt"], ["50"])
        newest = [*self.created]
        times = [*self.created.values()]
        before = _time(query, "created_before")
        after = _time(query, "created_after")
        last = (
            len(times) if before is None else bisect_left(times, before + timedelta(microseconds=1))
        )
        if "next" in query:
            last = min(last, int(query["next"][0]))
        found: list[Workload] = []
        while last > 0 and (after is None or times[last - 1] >= after):
            last -= 1
            workload = self.workload(newest[last])
            if workload.mode == query["mode"][0] and workload.status in query["status"]:
                if len(found) == 50:
                    return self._linked(found, last + 1)
                found.append(workload)
        return WorkloadPage(workloads=tuple(found), served_at=self.served_at)

    def _linked(self, found: list[Workload], place: int) -> WorkloadPage:
        return WorkloadPage(
            workloads=tuple(found), next_href=f"https://somewhere/workloads?next={place}"
        )

    def workload(self, session_id: str) -> Workload:
        """Return a session as the list shows it."""
        state = self.scripts[session_id][0]
        status = {"open": "pending", "closed": "completed"}.get(str(state), "in_progress")
        return Workload(
            id=session_id,
            created=self.created[session_id],
            mode=self.modes.get(session_id, "session"),
            status=self.listed_as.get(session_id, status),
            accepting_jobs=session_id not in self.draining,
        )

    def session(self, session_id: str, state: str) -> Session:
        """Return a session as a read shows it."""
        accepting_jobs = session_id not in self.draining
        return attrs.evolve(super().session(session_id, state), accepting_jobs=accepting_jobs)


def _time(query: dict[str, list[str]], name: str) -> datetime | None:
    return datetime.fromisoformat(query[name][0]) if name in query else None


class Watcher:
    """Collects what a watch yields, in the background.

    Attributes:
        seen: The ids and states, in order.
        times: When each came, by id and state.
    """

    def __init__(self, watch: Watch, time: Stepped | None = None) -> None:
        self.seen: list[tuple[str, str]] = []
        self.times: dict[tuple[str, str], float] = {}
        self._time = time
        self.task = asyncio.ensure_future(self._collect(watch))

    async def _collect(self, watch: Watch) -> None:
        async for session_id, snapshot in watch.changes():
            assert snapshot.id == session_id
            self.seen.append((session_id, str(snapshot.state)))
            if self._time is not None:
                self.times[self.seen[-1]] = self._time.now

    async def leave(self) -> None:
        """Stop."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
