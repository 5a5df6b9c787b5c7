"""The token exchange at IAM: once for all, ahead of time, and never with the raw key instead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

import pytest
from attrs import field, frozen

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    IBMCloudAuth,
    NotFound,
    ProtocolError,
    Request,
    Response,
    ResponseError,
    RetryPolicy,
    ServiceCRN,
    TokenExchangeFailed,
    TokenRenewed,
    Unauthorized,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import GET
from tests.support.clients import CRN, client_of
from tests.support.errors import Uncopyable
from tests.support.event_loop import TASK_FACTORIES, past_deadline
from tests.support.fault_server import Answer, Connection, FaultServer, hang, held, http, reset
from tests.support.iam import grant, refusal
from tests.support.internals import attempts_of, exchange_of, waiters_of
from tests.support.manual_clock import settled
from tests.support.tables import table
from tests.support.waiting import until

T = TypeVar("T")

KEY = "planted+&=%/?#key"
# Longer than it takes until a caller that waits for another loop's exchange looks at that loop.
LOOK_S = 2.0


@frozen
class Stage:
    """An IAM and a service, both scripted, and one provider for any number of clients."""

    iam: FaultServer
    api: FaultServer
    auth: IBMCloudAuth
    time: ManualClock
    _stack: AsyncExitStack = field(repr=False)

    async def client(self, **options: Any) -> AsyncSessionClient:
        """Return a client that ends with the test."""
        return await self._stack.enter_async_context(self.loose(**options))

    def loose(self, **options: Any) -> AsyncSessionClient:
        """Return a client that the test must close."""
        settings: dict[str, Any] = {
            "auth": [self.auth, ServiceCRN(CRN)],
            "base_url": self.api.url,
            "clock": self.time,
        }
        return AsyncSessionClient(**(settings | options))

    @property
    def tokens_sent(self) -> list[str]:
        """Return what came to the service as Authorization, in order."""
        return [request.headers["authorization"] for request in self.api.received]


class Staged(Protocol):
    """Starts an IAM with a script and a service that gives every request the same answer."""

    async def __call__(self, *answers: Answer, api: Answer = GET.success) -> Stage:
        """Start them with IAM's script."""
        ...


@pytest.fixture
async def staged(time: ManualClock) -> AsyncIterator[Staged]:
    """Return a function that starts an IAM and a service, both scripted."""
    async with AsyncExitStack() as stack:

        async def start(*answers: Answer, api: Answer = GET.success) -> Stage:
            iam = await stack.enter_async_context(FaultServer(*answers))
            service = await stack.enter_async_context(FaultServer(api))
            return Stage(iam, service, IBMCloudAuth(KEY, iam.url, clock=time), time, stack)

        yield start


def exchanges(emulator: Emulator) -> int:
    """Count the token requests that an emulator has answered."""
    return sum(request.path == "/identity/token" for request in emulator.requests)


@pytest.mark.smoke
async def test_the_exchange_is_a_form_with_the_key_and_nothing_else(staged: Staged) -> None:
    """IAM gets the key in a form and no header of the service; the service gets the token and never
    the key.
    """
    stage = await staged(grant("a.b.c"))
    client = await stage.client(headers={"X-Team": "blue"})
    await client.get("s1")
    (asked,) = stage.iam.received
    assert (asked.method, asked.target) == ("POST", "/identity/token")
    assert parse_qs(asked.body.decode(), strict_parsing=True) == {
        "grant_type": ["urn:ibm:params:oauth:grant-type:apikey"],
        "apikey": [KEY],
    }
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.headers["accept"] == "application/json"
    assert (
        not {"authorization", "service-crn", "ibm-api-version", "x-team", "cookie"}
        & asked.headers.keys()
    )
    assert stage.tokens_sent == ["Bearer a.b.c"]
    assert KEY not in repr(stage.api.received)
    assert KEY not in f"{stage.auth!r}{client!r}"


async def test_hundreds_of_calls_with_an_expired_token_ask_iam_once(
    client: AsyncSessionClient, emulator: Emulator, time: ManualClock
) -> None:
    """However many calls find the token expired at the same time, IAM is asked once."""
    session = await client.create(mode="dedicated", max_ttl=60)
    assert exchanges(emulator) == 1
    time.advance(3600)
    found = await asyncio.gather(*(client.get(session.id) for _ in range(300)))
    assert {session.id for session in found} == {session.id}
    assert exchanges(emulator) == 2


async def test_hundreds_of_staggered_401s_ask_iam_once(
    client: AsyncSessionClient, emulator: Emulator
) -> None:
    """Late 401s for an old token take the new one and cost no exchange of their own."""
    session = await client.create(mode="dedicated", max_ttl=60)
    emulator.revoke_tokens()
    await asyncio.gather(*(client.get(session.id) for _ in range(300)))
    assert exchanges(emulator) == 2
    refused = [request.status for request in emulator.requests].count(401)
    # All went out with the old token; over 100 connections, their answers came bit by bit.
    assert refused == 300


@table(("life", "early", "due"), [(3600, 2879.0, 1.5), (10, 7.9, 0.2)])
async def test_a_token_is_renewed_at_80_percent_of_its_life_while_callers_go_on(
    staged: Staged, life: int, early: float, due: float
) -> None:
    """From 80 % of its life on, the first call starts a renewal that nobody waits for, and the next
    ones start none.
    """
    gate = asyncio.Event()
    stage = await staged(grant("t1", life), held(gate, grant("t2", life)))
    client = await stage.client()
    await client.get("s1")
    stage.time.advance(early)
    await client.get("s1")
    assert len(stage.iam.received) == 1
    stage.time.advance(due)
    await asyncio.gather(*(client.get("s1") for _ in range(20)))
    await until(lambda: len(stage.iam.received) == 2)
    await client.get("s1")
    assert set(stage.tokens_sent) == {"Bearer t1"}
    gate.set()
    await until(lambda: exchange_of(stage.auth) is None)
    await client.get("s1")
    assert stage.tokens_sent[-1] == "Bearer t2"
    assert len(stage.iam.received) == 2


async def test_a_renewal_that_hangs_makes_callers_wait_only_once_the_token_has_expired(
    staged: Staged,
) -> None:
    """Callers who find the token expired join the renewal that is under way."""
    gate = asyncio.Event()
    stage = await staged(grant("t1", 100), held(gate, grant("t2", 100)))
    client = await stage.client()
    await client.get("s1")
    stage.time.advance(85)
    await client.get("s1")
    stage.time.advance(15)
    late = asyncio.create_task(client.get("s1"))
    await until(lambda: len(stage.iam.received) == 2)
    assert not late.done()
    gate.set()
    await late
    assert stage.tokens_sent == ["Bearer t1", "Bearer t1", "Bearer t2"]
    assert len(stage.iam.received) == 2


@table(("life", "waited"), [(3600, 60.0), (100, 5.0)])
async def test_a_failed_early_renewal_hurts_nobody_and_is_not_tried_again_at_once(
    staged: Staged, life: int, waited: float
) -> None:
    """While the old token is good, a renewal that failed is tried again only after a pause."""
    stage = await staged(grant("t1", life), refusal(), grant("t2", life))
    client = await stage.client()
    await client.get("s1")
    stage.time.advance(0.8 * life + 0.001)
    await client.get("s1")
    await until(lambda: exchange_of(stage.auth) is None)
    for _ in range(3):
        await client.get("s1")
    stage.time.advance(waited - 0.1)
    await client.get("s1")
    assert len(stage.iam.received) == 2
    stage.time.advance(0.2)
    await client.get("s1")
    await until(lambda: exchange_of(stage.auth) is None)
    await client.get("s1")
    assert len(stage.iam.received) == 3
    assert stage.tokens_sent[-2:] == ["Bearer t1", "Bearer t2"]


async def test_an_expired_token_and_no_iam_is_an_error_and_the_next_call_tries_again(
    staged: Staged,
) -> None:
    """With IAM unreachable the call fails with what happened there, and a later one gets through."""
    stage = await staged(grant("t1"), *[reset] * 5, grant("t2"))
    client = await stage.client()
    await client.get("s1")
    stage.time.advance(3600)
    with pytest.raises(ConnectionFailed) as caught:
        await client.get("s1")
    assert (caught.value.operation, caught.value.path, caught.value.attempts) == (
        "token_exchange",
        "/identity/token",
        5,
    )
    assert "get needed the credentials; nothing was sent to the service." in caught.value.__notes__
    assert len(stage.api.received) == 1
    await client.get("s1")
    assert stage.tokens_sent[-1] == "Bearer t2"


@table("first_to_go", [0, 1])
async def test_a_caller_that_is_cancelled_takes_the_exchange_from_nobody(
    staged: Staged, first_to_go: int
) -> None:
    """Cancelling a caller, the one that started the exchange included, leaves the others waiting
    for the same one.
    """
    gate = asyncio.Event()
    stage = await staged(held(gate, grant()))
    client = await stage.client()
    calls = [asyncio.create_task(client.get("s1")) for _ in range(2)]
    await until(lambda: stage.iam.received)
    calls[first_to_go].cancel()
    await asyncio.wait({calls[first_to_go]})
    assert calls[first_to_go].cancelled()
    gate.set()
    await calls[1 - first_to_go]
    assert (len(stage.iam.received), len(stage.api.received)) == (1, 1)


async def test_a_cancelled_exchange_serves_the_next_caller(staged: Staged) -> None:
    """An exchange whose only caller left goes on, and its token is there for whoever comes next."""
    gate = asyncio.Event()
    stage = await staged(held(gate, grant()))
    client = await stage.client()
    only = asyncio.create_task(client.get("s1"))
    await until(lambda: stage.iam.received)
    only.cancel()
    await asyncio.wait({only})
    gate.set()
    await client.get("s1")
    assert len(stage.iam.received) == 1


async def test_another_client_takes_over_when_the_one_that_asks_is_closed(staged: Staged) -> None:
    """When the client that runs the exchange is closed, those who wait in another make one of their
    own.
    """
    stage = await staged(hang, grant("t2"))
    first, second = stage.loose(), await stage.client()
    leaves = asyncio.ensure_future(first.get("s1"))
    await until(lambda: stage.iam.received)
    stays = [asyncio.ensure_future(second.get("s1")) for _ in range(3)]
    await asyncio.sleep(0)
    await first.aclose()
    await asyncio.gather(*stays)
    with pytest.raises(ClientClosed):
        await leaves
    assert len(stage.iam.received) == 2
    assert stage.tokens_sent == ["Bearer t2"] * 3


@table("factory", TASK_FACTORIES)
@table("steps", range(12))
async def test_a_client_may_be_closed_at_any_step_of_its_exchange(
    staged: Staged, steps: int, factory: Any
) -> None:
    """Whenever the client is closed, be it before its exchange has made the first step, another
    goes on at once.
    """
    asyncio.get_running_loop().set_task_factory(factory)
    stage = await staged(grant())
    first, second = stage.loose(), await stage.client()
    leaves = asyncio.ensure_future(first.get("s1"))
    stays = asyncio.ensure_future(second.get("s1"))
    for _ in range(steps):
        await asyncio.sleep(0)
    await first.aclose()
    assert (await stays).id == "s1"
    await asyncio.wait({leaves})
    assert leaves.exception() is None or isinstance(
        leaves.exception(), ClientClosed | ConnectionFailed
    )


async def test_a_closed_client_starts_no_exchange(staged: Staged) -> None:
    """A call of a closed client says so, and the provider goes on working for others."""
    stage = await staged(grant())
    closed = stage.loose()
    await closed.aclose()
    with pytest.raises(ClientClosed):
        await closed.get("s1")
    assert not stage.iam.received
    await (await stage.client()).get("s1")


async def test_clients_that_share_a_provider_share_its_token(staged: Staged) -> None:
    """Several clients of one event loop ask IAM once."""
    stage = await staged(grant())
    clients = [await stage.client() for _ in range(5)]
    await asyncio.gather(*(client.get("s1") for client in clients for _ in range(10)))
    assert len(stage.iam.received) == 1
    assert stage.tokens_sent == ["Bearer t1"] * 50


async def test_threads_that_share_a_provider_share_its_token(
    emulator: Emulator, time: ManualClock
) -> None:
    """Clients on event loops in several threads ask IAM once, and once more when the token has
    expired.
    """
    session = await _created(emulator, time)
    before = exchanges(emulator)
    auth = IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time)
    start = threading.Barrier(4, timeout=30)

    async def calls() -> None:
        async with AsyncSessionClient(
            [auth, ServiceCRN(emulator.crn)], base_url=emulator.url, clock=time
        ) as client:
            await asyncio.gather(*(client.get(session) for _ in range(10)))

    def work() -> None:
        start.wait()
        asyncio.run(calls())

    for expected in (1, 2):
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
        assert exchanges(emulator) - before == expected
        time.advance(3600)


async def _created(emulator: Emulator, time: ManualClock) -> str:
    async with client_of(emulator, time) as client:
        return (await client.create(mode="dedicated", max_ttl=60)).id


class Elsewhere:
    """An event loop in another thread that can be stopped in the middle of its work and be tidied
    up later.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run until `work` is done; what it started stays where it is then."""
        return await asyncio.to_thread(self.loop.run_until_complete, work)

    async def tidy_up(self, client: AsyncSessionClient) -> None:
        """End what was left."""

        async def end() -> None:
            await client.aclose()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        await self.run(end())
        self.loop.close()


async def test_a_caller_takes_over_from_an_event_loop_that_has_stopped(staged: Staged) -> None:
    """An exchange on a loop that stands still is abandoned: the next caller makes its own."""
    stage = await staged(hang, grant("t2"))
    elsewhere, abandoned = Elsewhere(), stage.loose()

    async def begin() -> None:
        task = asyncio.ensure_future(abandoned.get("s1"))
        await until(lambda: stage.iam.received or task.done())

    await elsewhere.run(begin())
    assert (await (await stage.client()).get("s1")).id == "s1"
    assert len(stage.iam.received) == 2
    await elsewhere.tidy_up(abandoned)
    # The stopped loop ran on, and the end of its exchange did no harm to the token of the other.
    await (await stage.client()).get("s1")
    assert stage.tokens_sent == ["Bearer t2"] * 2


async def test_a_waiting_caller_takes_over_from_an_event_loop_that_stops(staged: Staged) -> None:
    """Who waits for an exchange on another loop looks whether that loop still runs, and takes over
    when it doesn't.
    """
    stage = await staged(hang, grant("t2"))
    elsewhere, abandoned, stop = Elsewhere(), stage.loose(), asyncio.Event()

    async def begin() -> None:
        asyncio.ensure_future(abandoned.get("s1"))  # noqa: RUF006 - abandoned, that's the point
        await stop.wait()

    running = asyncio.ensure_future(elsewhere.run(begin()))
    await until(lambda: stage.iam.received)
    waiting = asyncio.ensure_future((await stage.client()).get("s1"))
    await until(lambda: waiters_of(stage.auth) == 2)
    for _ in range(3):
        # The loop that it looks at is alive.
        stage.time.advance(LOOK_S)
        await settled()
    assert len(stage.iam.received) == 1
    elsewhere.loop.call_soon_threadsafe(stop.set)
    await running
    stage.time.advance(LOOK_S)
    await asyncio.wait({waiting})
    await elsewhere.tidy_up(abandoned)
    assert waiting.result().id == "s1"
    assert stage.tokens_sent == ["Bearer t2"]


async def test_a_waiting_caller_takes_over_from_an_event_loop_that_is_blocked(
    staged: Staged,
) -> None:
    """An exchange that is long overdue, on a loop that runs and gets nowhere, holds up nobody on
    another loop.
    """
    stage = await staged(hang, grant("t2"))
    elsewhere, stuck, stop = Elsewhere(), stage.loose(), asyncio.Event()

    async def begin() -> None:
        asyncio.ensure_future(stuck.get("s1"))  # noqa: RUF006 - stuck, that's the point
        await stop.wait()

    running = asyncio.ensure_future(elsewhere.run(begin()))
    await until(lambda: stage.iam.received)
    waiting = asyncio.ensure_future((await stage.client()).get("s1", timeout=None))
    await until(lambda: waiters_of(stage.auth) == 2)
    stage.time.advance(61)
    await asyncio.wait({waiting})
    elsewhere.loop.call_soon_threadsafe(stop.set)
    await running
    await elsewhere.tidy_up(stuck)
    assert waiting.result().id == "s1"
    assert stage.tokens_sent == ["Bearer t2"]


async def test_a_waiter_whose_event_loop_is_gone_disturbs_no_exchange(staged: Staged) -> None:
    """A waiter in another thread whose loop is closed is passed over when the token comes."""
    gate = asyncio.Event()
    stage = await staged(held(gate, grant()))
    here = asyncio.ensure_future((await stage.client()).get("s1"))
    await until(lambda: stage.iam.received)

    async def there() -> None:
        async with stage.loose() as client:
            with pytest.raises(CallTimeout):
                await past_deadline(
                    client.get("s1", timeout=5),
                    until(lambda: waiters_of(stage.auth) == 2),
                    stage.time,
                    5,
                )

    await asyncio.to_thread(asyncio.run, there())
    gate.set()
    assert (await here).id == "s1"
    assert len(stage.iam.received) == 1


async def test_a_waiter_in_another_thread_gets_the_token(staged: Staged) -> None:
    """An exchange that one thread started wakes those who wait in another."""
    gate = asyncio.Event()
    stage = await staged(held(gate, grant()))
    here = asyncio.ensure_future((await stage.client()).get("s1"))
    await until(lambda: stage.iam.received)

    async def there() -> str:
        async with stage.loose() as client:
            return (await client.get("s1")).id

    waits = asyncio.ensure_future(asyncio.to_thread(asyncio.run, there()))
    await until(lambda: waiters_of(stage.auth) == 2)
    gate.set()
    assert (await waits, (await here).id) == ("s1", "s1")
    assert len(stage.iam.received) == 1


async def test_a_callers_deadline_ends_its_wait_and_not_the_exchange(staged: Staged) -> None:
    """A call whose time is up while it waits for a token has sent nothing, and others get the
    token.
    """
    gate = asyncio.Event()
    stage = await staged(held(gate, grant()))
    client = await stage.client()
    patient = asyncio.create_task(client.get("s1"))
    await stage.iam.arrival()
    with pytest.raises(CallTimeout, match="waiting for credentials; nothing was sent") as caught:
        await past_deadline(
            client.create(mode="dedicated", timeout=5),
            until(lambda: waiters_of(stage.auth) == 2),
            stage.time,
            5,
        )
    assert (caught.value.sent, caught.value.operation, caught.value.attempts) == (
        False,
        "create",
        0,
    )
    assert not stage.api.received
    gate.set()
    await patient
    assert len(stage.iam.received) == 1


async def test_a_401_is_repeated_once_with_a_fresh_token(staged: Staged) -> None:
    """When the fresh token does no better, the call ends with `Unauthorized` after two requests and
    one new exchange.
    """
    stage = await staged(
        grant("t1"), grant("t2"), grant("t3"), api=http(401, {"errors": [{"code": 1201}]})
    )
    with pytest.raises(Unauthorized) as caught:
        await (await stage.client()).get("s1")
    assert (caught.value.attempts, caught.value.code) == (2, "1201")
    assert stage.tokens_sent == ["Bearer t1", "Bearer t2"]
    assert len(stage.iam.received) == 2


async def test_a_late_refusal_of_an_old_token_drops_nothing(staged: Staged) -> None:
    """Only the refusal of the current token leads to an exchange, and each says that a fresh try
    may do better.
    """
    stage = await staged(grant("t1"), grant("t2"), grant("t3"))
    transport = attempts_of(await stage.client())
    old = await stage.auth.headers(transport)
    assert stage.auth.invalidate(old)
    new = await stage.auth.headers(transport)
    assert stage.auth.invalidate(old)
    assert stage.auth.invalidate({})
    assert await stage.auth.headers(transport) == new == {"Authorization": "Bearer t2"}
    assert len(stage.iam.received) == 2


async def test_a_wrong_key_is_reported_in_iams_words_and_sent_to_nobody_else(
    emulator: Emulator, time: ManualClock
) -> None:
    """A refused exchange says what IAM said, isn't repeated, and the service hears nothing."""
    auth = IBMCloudAuth("a-wrong-key", emulator.iam_url, clock=time)
    async with AsyncSessionClient(
        [auth, ServiceCRN(emulator.crn)], base_url=emulator.url, clock=time
    ) as client:
        with pytest.raises(TokenExchangeFailed) as caught:
            await client.create(mode="dedicated")
    error = caught.value
    assert (
        error.status,
        error.code,
        error.operation,
        error.method,
        error.attempts,
        error.retryable,
    ) == (
        400,
        "BXNIM0415E",
        "token_exchange",
        "POST",
        1,
        False,
    )
    assert "Provided API key could not be found." in error.message
    assert error.trace_id
    assert [request.path for request in emulator.requests] == ["/identity/token"]


async def test_each_caller_of_a_failed_exchange_has_an_error_of_its_own(staged: Staged) -> None:
    """Callers who waited for the same exchange may each add notes to their error, which has all
    that IAM said.
    """
    gate = asyncio.Event()
    stage = await staged(held(gate, refusal()))
    client = await stage.client()
    calls = [asyncio.create_task(client.get("s1")) for _ in range(3)]
    await until(lambda: stage.iam.received)
    gate.set()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    assert {error.trace_id for error in errors if isinstance(error, TokenExchangeFailed)} == {
        "trace-9"
    }
    assert all(
        len(error.__notes__) == 1 for error in errors if isinstance(error, TokenExchangeFailed)
    )
    assert (len(stage.iam.received), stage.api.received) == (1, [])


async def test_a_key_that_iam_repeats_is_masked(staged: Staged) -> None:
    """What IAM says goes into the error without the key."""
    stage = await staged(refusal(f"The key {KEY} is unknown."))
    with pytest.raises(TokenExchangeFailed, match=r"The key \*\*\* is unknown") as caught:
        await (await stage.client()).get("s1")
    assert KEY not in f"{caught.value!r}{caught.value.__dict__}"


@table(
    "answer",
    [
        http(200, "<html><title>Log in</title>"),
        http(200),
        http(200, [1]),
        http(200, {"access_token": "t"}),
        http(200, {"expires_in": 60}),
        grant(expires_in="an hour"),
        grant(expires_in=True),
        grant(expires_in=float("nan")),
        http(200, b'{"access_token": "t", "expires_in": 1e999}'),
        grant("t\r\nX-Evil: 1"),
        grant(""),
        grant("tök"),
    ],
)
async def test_an_answer_without_a_usable_token_is_an_error(staged: Staged, answer: bytes) -> None:
    """A success that holds no token with a lifetime, or one that no header can hold, fails the call
    clearly.
    """
    stage = await staged(answer)
    with pytest.raises(
        TokenExchangeFailed, match="holds no access token with a lifetime"
    ) as caught:
        await (await stage.client()).get("s1")
    assert (caught.value.status, caught.value.operation) == (200, "token_exchange")
    assert (len(stage.iam.received), stage.api.received) == (1, [])


async def test_a_life_as_text_is_read(staged: Staged) -> None:
    """A lifetime that a gateway gives as text counts as the number that it is."""
    stage = await staged(grant("t1", "100"), grant("t2", "100"))
    client = await stage.client()
    for seconds in (50, 49):
        await client.get("s1")
        stage.time.advance(seconds)
    await client.get("s1")
    assert stage.tokens_sent == ["Bearer t1", "Bearer t1", "Bearer t2"]


@table(("life", "least"), [(3600, 10.0), (100, 10.0), (60, 6.0), (5, 0.5)])
async def test_no_token_is_sent_at_the_end_of_its_life(
    staged: Staged, life: int, least: float
) -> None:
    """A token with less than 10 s, or a tenth of its life, is asked for anew, since it may be over
    when it arrives.
    """
    stage = await staged(grant("t1", life), held(asyncio.Event(), b""))
    client = await stage.client()
    await client.get("s1")
    stage.time.advance(life - least - 0.01)
    await client.get("s1")
    assert stage.tokens_sent == ["Bearer t1"] * 2
    stage.time.advance(0.02)
    late = asyncio.create_task(client.get("s1"))
    await until(lambda: len(stage.iam.received) == 2)
    assert not late.done()
    late.cancel()
    assert len(stage.tokens_sent) == 2


@table("slow", [1, 2])
async def test_a_token_that_is_over_when_it_comes_is_not_sent(staged: Staged, slow: int) -> None:
    """Where IAM is so slow that a token comes too late, another one is asked for, once; then the
    call fails.
    """
    stage = await staged()

    def late(token: str) -> Answer:
        async def answer(connection: Connection) -> None:
            stage.time.advance(50)
            await connection.write(grant(token, 55))

        return answer

    stage.iam.answers = [*(late(f"t{number}") for number in range(slow)), grant("good", 55)]
    client = await stage.client(timeout=None)
    if slow == 1:
        await client.get("s1")
        assert stage.tokens_sent == ["Bearer good"]
        return
    with pytest.raises(TokenExchangeFailed, match="had expired before they arrived") as caught:
        await client.get("s1")
    error = caught.value
    assert (error.operation, error.path, error.retryable) == (
        "token_exchange",
        "/identity/token",
        True,
    )
    assert (len(stage.iam.received), stage.api.received) == (2, [])
    await client.get("s1")
    assert stage.tokens_sent == ["Bearer good"]


@table("status", [401, 403])
async def test_a_wall_of_html_costs_no_token(staged: Staged, status: int) -> None:
    """An HTML page with 401 or 403 from the service's side drops no token: there is no second
    exchange, then or later.
    """
    stage = await staged(grant(), api=http(status, "<html><title>Blocked</title></html>"))
    client = await stage.client()
    for _ in range(2):
        with pytest.raises(ResponseError, match="Blocked") as caught:
            await client.get("s1")
        assert type(caught.value) is ResponseError
    assert len(stage.iam.received) == 1
    assert stage.tokens_sent == ["Bearer t1"] * 2


@table("life", [0, -1])
async def test_a_token_that_is_born_dead_is_an_error(staged: Staged, life: int) -> None:
    """A token without any life left is no token, and asking again and again is no way out."""
    stage = await staged(grant(expires_in=life))
    with pytest.raises(TokenExchangeFailed, match="has expired already"):
        await (await stage.client()).get("s1")
    assert (len(stage.iam.received), stage.api.received) == (1, [])


@table(
    ("answer", "message", "advice", "attempts"),
    [
        (
            http(302, headers={"Location": "http://127.0.0.1:1/"}),
            "has no token to give: it gave no reason",
            "Check that IAM_URL",
            1,
        ),
        (http(404, "oops"), "has no token to give: oops", "Check that IAM_URL", 1),
        (
            http(403, "<title>No entry</title>"),
            "has no token to give: No entry",
            "Check that IAM_URL",
            1,
        ),
        (http(401, "no"), "refused to exchange the API key: no", "Check the API key", 1),
        (http(400), "refused to exchange the API key: it gave no reason", "Check the API key", 1),
        (
            http(429, headers={"Retry-After": "61"}),
            "is overloaded: it gave no reason",
            "Make the call again later",
            1,
        ),
        (http(500, "oops"), "failed: oops", "Make the call again later", 5),
    ],
)
async def test_a_refusal_of_iam_is_reported_with_what_it_says(
    staged: Staged, answer: bytes, message: str, advice: str, attempts: int
) -> None:
    """Whatever the form of IAM's refusal, the error has its status, its words and advice that fits,
    and the service hears nothing.
    """
    status = int(answer.split()[1])
    stage = await staged(answer)
    with pytest.raises(TokenExchangeFailed) as caught:
        await (await stage.client()).get("s1")
    assert str(caught.value).startswith(f"IAM at 127.0.0.1 {message} (status {status}")
    assert caught.value.solution is not None
    assert caught.value.solution.startswith(advice)
    assert (caught.value.status, caught.value.attempts) == (status, attempts)
    assert caught.value.retryable == (status in {429, 500})
    assert (len(stage.iam.received), stage.api.received) == (attempts, [])
    assert KEY not in f"{caught.value}{caught.value.__notes__}"


@table(
    ("answer", "message"),
    [(http(200, b"x" * 1_100_000), "larger than"), (b"HTTP/9 what\r\n\r\n", "not valid HTTP")],
)
async def test_an_iam_that_is_none_is_a_protocol_error(
    staged: Staged, answer: bytes, message: str
) -> None:
    """What no IAM would answer is reported as such, after one request."""
    stage = await staged(answer)
    with pytest.raises(ProtocolError, match=message) as caught:
        await (await stage.client()).get("s1")
    assert caught.value.operation == "token_exchange"
    assert str(caught.value).startswith("the token exchange with IAM at 127.0.0.1: ")
    assert caught.value.solution is not None
    assert "IAM_URL" in caught.value.solution
    assert (len(stage.iam.received), stage.api.received) == (1, [])


@table(
    ("first", "at_least"),
    [
        (http(429, headers={"Retry-After": "7"}), 7.0),
        (http(500, "oops"), 0.0),
        (http(503), 0.0),
        (http(520, "<html>"), 0.0),
        (reset, 0.0),
    ],
)
async def test_an_exchange_is_repeated_as_any_request_is(
    staged: Staged, first: Answer, at_least: float
) -> None:
    """IAM being busy or broken for a moment is no error: the exchange follows the client's retry
    policy.
    """
    stage = await staged(first, grant())
    await (await stage.client()).get("s1")
    assert len(stage.iam.received) == 2
    pause = stage.time.slept.pop()
    assert stage.time.slept == []
    assert at_least < pause <= at_least + 0.5


@table(
    "url",
    [
        "http://iam.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
        "http://[2001:db8::1]",
    ],
)
async def test_a_plain_http_iam_elsewhere_is_refused(staged: Staged, url: str) -> None:
    """A key travels in the clear to this machine only."""
    stage = await staged(grant())
    auth = [IBMCloudAuth(KEY, url), ServiceCRN(CRN)]
    with pytest.raises(ConfigurationError, match="plain http") as caught:
        await (await stage.client(auth=auth, proxy=stage.iam.url)).get("s1")
    assert "allow_insecure=True" in str(caught.value)
    assert (stage.iam.received, stage.api.received) == ([], [])


async def test_a_plain_http_iam_elsewhere_is_used_when_allowed(staged: Staged) -> None:
    """`allow_insecure=True` lets the exchange go to another machine by plain http."""
    stage = await staged(grant(), GET.success)
    auth = [IBMCloudAuth(KEY, "http://iam.example.com/"), ServiceCRN(CRN)]
    client = await stage.client(auth=auth, proxy=stage.iam.url, allow_insecure=True)
    await client.get("s1")
    assert stage.iam.received[0].target == "http://iam.example.com/identity/token"


async def test_iams_url_comes_from_the_argument_then_from_the_environment(
    staged: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IAM_URL says where IAM is, unless the provider has an URL of its own."""
    stage = await staged(grant())
    monkeypatch.setenv("IAM_URL", stage.iam.url + "/")
    await (await stage.client(auth=[IBMCloudAuth(KEY), ServiceCRN(CRN)])).get("s1")
    monkeypatch.setenv("IAM_URL", "https://iam.invalid")
    await (await stage.client(auth=[IBMCloudAuth(KEY, stage.iam.url), ServiceCRN(CRN)])).get("s1")
    assert [request.target for request in stage.iam.received] == ["/identity/token"] * 2


@table(
    "url",
    ["iam.example.com", "https://user:planted@iam.example.com", "https://iam.example.com/?a=1"],
)
def test_a_wrong_iam_url_is_refused_without_repeating_it(url: str) -> None:
    """What can't be IAM's URL is refused at once, and the message doesn't hold it."""
    with pytest.raises(ConfigurationError, match="iam_url") as caught:
        IBMCloudAuth(KEY, url)
    assert "planted" not in str(caught.value)


async def test_observers_hear_of_a_new_token_and_not_what_it_is(staged: Staged) -> None:
    """The event of a new token names IAM's host and the token's life."""
    events: list[object] = []
    stage = await staged(grant("planted-token"))
    await (await stage.client(observers=[events.append])).get("s1")
    assert TokenRenewed(host="127.0.0.1", expires_in=3600) in events
    assert "planted" not in repr(events)


@table("factory", TASK_FACTORIES)
async def test_eager_tasks_exchange_once(staged: Staged, factory: Any) -> None:
    """With tasks that run as soon as they are made, any number of callers still ask IAM once,
    renewal included.
    """
    asyncio.get_running_loop().set_task_factory(factory)
    stage = await staged(grant("t1"), grant("t2"))
    client = await stage.client()
    await asyncio.gather(*(client.get("s1") for _ in range(20)))
    stage.time.advance(3000)
    await client.get("s1")
    await until(lambda: len(stage.iam.received) == 2)
    await until(lambda: exchange_of(stage.auth) is None)
    await asyncio.gather(*(client.get("s1") for _ in range(20)))
    assert len(stage.iam.received) == 2
    assert stage.tokens_sent == ["Bearer t1"] * 21 + ["Bearer t2"] * 20


class Canned:
    """A transport of a few lines, as users write them for tests."""

    def __init__(self, *outcomes: BaseException | Response) -> None:
        self.outcomes = list(outcomes)

    async def send(self, request: Request) -> Response:
        """Return the next outcome."""
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a task."""
        return asyncio.ensure_future(coroutine)


class NoSpawn(Canned):
    """A transport that can't run tasks."""

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Fail."""
        coroutine.close()
        raise RuntimeError("no tasks here")


class Panic(BaseException):
    """What ends an event loop rather than a call."""


GOOD = Response(200, body=b'{"access_token": "t1", "expires_in": 60}')


@table(
    ("transport", "kind"),
    [(Canned(OSError("no"), GOOD), OSError), (Canned(Uncopyable("a", "b"), GOOD), Uncopyable)],
)
async def test_a_foreign_error_of_the_exchange_gets_through(
    transport: Canned, kind: type[Exception]
) -> None:
    """Whatever a transport raises reaches the caller as it is, and the next call starts anew."""
    auth = IBMCloudAuth(KEY)
    with pytest.raises(kind):
        await auth.headers(transport)
    assert await auth.headers(transport) == {"Authorization": "Bearer t1"}


async def test_an_exchange_that_ends_its_event_loop_is_made_again_by_those_who_wait() -> None:
    """What isn't an ordinary error stays where it happened; a caller who waits makes an exchange of
    its own.
    """
    assert await IBMCloudAuth(KEY).headers(Canned(Panic(), GOOD)) == {"Authorization": "Bearer t1"}


async def test_a_transport_that_runs_no_task_leaves_no_exchange_behind() -> None:
    """An exchange that could not even be started is in nobody's way."""
    auth = IBMCloudAuth(KEY)
    with pytest.raises(RuntimeError, match="no tasks here"):
        await auth.headers(NoSpawn())
    assert await auth.headers(Canned(GOOD)) == {"Authorization": "Bearer t1"}


async def test_trouble_of_one_client_is_not_that_of_another(
    emulator: Emulator, time: ManualClock
) -> None:
    """Clients that share a provider and come together don't share a proxy that is down."""
    auth = [
        IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=time),
        ServiceCRN(emulator.crn),
    ]
    once = RetryPolicy(max_attempts=1)
    async with (
        AsyncSessionClient(
            auth, base_url=emulator.url, proxy="http://127.0.0.1:1", retry=once
        ) as cut_off,
        AsyncSessionClient(auth, base_url=emulator.url) as sound,
    ):
        failed, found = await asyncio.gather(
            cut_off.get("s1"), sound.get("s1"), return_exceptions=True
        )
    assert isinstance(failed, ConnectionFailed)
    assert isinstance(found, NotFound)
