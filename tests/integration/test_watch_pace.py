"""The rate of a watch holds whatever the service answers: refusals and outages slow it down, and
what has waited goes out evenly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any, cast

import pytest

from qsessions import RetryPolicy, Session
from qsessions.api import operations
from qsessions.api.messages import Progress, Request, Response, SecretHeaders
from qsessions.api.operations import Operation
from qsessions.events import Observers
from qsessions.http.attempts import Attempts
from qsessions.session.pace import Pace
from tests.support.fleet import Fleet, Watcher, all_of, ids
from tests.support.manual_clock import Stepped, settled

RATE = 20.0
LATENCY_S = 0.2


class Service(Fleet):
    """Open sessions behind the attempt loop, with a transport that may refuse requests.

    Attributes:
        refusal: Returns the answer to a request at a time, or None for the session.
        sent: When each request was sent.
    """

    def __init__(self, time: Stepped, count: int, retry: RetryPolicy) -> None:
        super().__init__(time, all_of(ids(count), ["open"]))
        self.refusal: Callable[[float], Response | None] = lambda _: None
        self.sent: list[float] = []
        self.attempts = Attempts(
            cast("Any", self), retry=retry, clock=self.clock, observers=Observers()
        )

    async def send(self, request: Request) -> Response:
        """Answer a request."""
        self.sent.append(self.time.now)
        refusal = self.refusal(self.time.now)
        await self.clock.sleep(LATENCY_S)
        name = request.session_id
        return refusal or Response(200, body=json.dumps({"id": name, "state": "open"}).encode())

    async def get(self, session_id: str, progress: Progress) -> Session:
        """Read a session."""
        session: Session = await self._run(operations.get(session_id), progress)
        return session

    async def call(self, operation: Operation[Any], *, progress: Progress) -> Any:
        """Fetch a page of the list; the session that comes is none."""
        return await self._run(operation, progress)

    def _run(self, operation: Operation[Any], progress: Progress) -> Coroutine[Any, Any, Any]:
        request = operation.request("https://localhost/api", SecretHeaders(), progress)
        deadline = self.clock.deadline(60)
        return self.attempts.run(request, operation.read, deadline, providers=())

    def sent_within(self, since: float, until: float) -> list[float]:
        """Return when requests were sent in a span of time."""
        return [at for at in self.sent if since <= at < until]


def assert_even(sent: list[float]) -> None:
    """Check that requests are no closer together than the rate has it."""
    assert min(after - before for before, after in pairwise(sent)) >= 1 / RATE - 1e-6


@pytest.mark.parametrize("is_date", [False, True])
async def test_after_retry_after_the_backlog_goes_out_at_the_rate(
    stepped: Stepped, *, is_date: bool
) -> None:
    """When a 429 asks to wait, no further request begins until then. Afterwards those that were
    refused and those that are due go out evenly, also where all were told the same moment.
    """
    service = Service(stepped, 200, RetryPolicy())
    watcher = Watcher(service.watch(rate=RATE))
    await stepped.step(30)
    refused_at, until = stepped.now, stepped.now + 20

    def refuse(now: float) -> Response | None:
        wait = until - now if is_date else 20.0
        return Response(429, {"Retry-After": f"{wait}"}) if now < refused_at + 1 else None

    service.refusal = refuse
    await stepped.step(60)
    # Those that were under way when the first refusal came.
    assert len(service.sent_within(refused_at, until - 0.01)) <= RATE * LATENCY_S + 2
    again = service.sent_within(until - 0.01, until + 30)
    assert len(again) == pytest.approx(30 * RATE, rel=0.05)
    assert_even(service.sent)
    await watcher.leave()


@pytest.mark.parametrize("seconds", [None, 3600.0])
async def test_an_outage_slows_down_all(stepped: Stepped, seconds: float | None) -> None:
    """While the service is down, some requests a second find out whether it is back; then the rate
    is as before, and requests are never closer together.
    """
    service = Service(stepped, 200, RetryPolicy(max_attempts=8 if seconds is None else 3))
    watcher = Watcher(service.watch(rate=RATE, seconds=seconds))
    await stepped.step(30)
    since = stepped.now
    down = 6 if seconds is None else 120
    service.refusal = lambda now: Response(503) if now < since + down else None
    await stepped.step(down)
    assert len(service.sent_within(since + 1, stepped.now)) <= 4 * down
    await stepped.step(30)
    assert len(service.sent_within(stepped.now - 20, stepped.now)) == pytest.approx(400, rel=0.05)
    assert_even(service.sent)
    await watcher.leave()


async def test_a_final_refusal_holds_up_the_stream(stepped: Stepped) -> None:
    """Where no retry follows, the time that the service asked for is waited all the same."""
    service = Service(stepped, 60, RetryPolicy(max_attempts=1))
    watcher = Watcher(service.watch(rate=RATE, seconds=3600))
    await stepped.step(10)
    since = stepped.now
    service.refusal = lambda now: Response(429, {"Retry-After": "30"}) if now < since + 1 else None
    await stepped.step(29)
    assert len(service.sent_within(since, stepped.now)) <= RATE * LATENCY_S + 2
    await stepped.step(10)
    assert len(service.sent_within(since + 30, stepped.now)) > 60
    await watcher.leave()


async def test_a_pause_of_the_watcher_is_not_made_up_for(stepped: Stepped) -> None:
    """After a long break all sessions are due, and are read one by one at the rate."""
    service = Service(stepped, 100, RetryPolicy())
    changes = service.watch(rate=RATE).changes()
    first = asyncio.ensure_future(anext(changes))
    await stepped.step(1)
    await first
    await stepped.step(500)
    seen = asyncio.ensure_future(_collect(changes))
    await stepped.step(10)
    assert_even(service.sent)
    seen.cancel()
    await asyncio.wait({seen})
    await changes.aclose()


async def _collect(changes: Any) -> None:
    async for _ in changes:
        pass


async def test_many_retries_at_one_moment_take_their_places(stepped: Stepped) -> None:
    """Retries whose time comes together, and what is due then, begin one after another."""
    pace = Pace(stepped, 10)
    begun: list[float] = []

    async def retry(seconds: float) -> None:
        await pace.wait(seconds)
        begun.append(stepped.now - 1000)

    tasks = [asyncio.ensure_future(retry(5.0)) for _ in range(5)]
    await stepped.step(10)
    assert begun == pytest.approx([5.0, 5.1, 5.2, 5.3, 5.4])
    assert pace.next_at == pytest.approx(1005.5)
    await asyncio.gather(*tasks)
    await settled()


def test_a_late_timer_does_not_slow_down_the_rate(stepped: Stepped) -> None:
    """A request that begins a little late leaves the time of the next; after a pause it doesn't."""
    pace = Pace(stepped, 10)
    pace.begin()
    for late, following in ((0.13, 1000.2), (0.17, 1000.3), (50.0, 1050.1)):
        stepped.now = 1000 + late
        pace.begin()
        assert pace.next_at == pytest.approx(following)
