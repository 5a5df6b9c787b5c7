"""A transport of the user's own: what it carries, what it may do wrong, and who ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    CreateOutcomeUnknown,
    IBMCloudAuth,
    Request,
    Response,
    ServiceCRN,
    SessionClient,
    Transport,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import SESSION
from tests.support.clients import CRN, client_of, static_auth
from tests.support.event_loop import past_deadline
from tests.support.fault_server import http
from tests.support.tables import table

T = TypeVar("T")
ANSWER = http(200, SESSION).partition(b"\r\n\r\n")[2]


class Scripted:
    """A transport that answers as it is told, and knows what it was given."""

    def __init__(self, answer: Callable[[Request], Awaitable[Any]]) -> None:
        self.answer = answer
        self.sent: list[Request] = []
        self.spawned = 0
        self.arrived = asyncio.Event()

    async def send(self, request: Request) -> Response:
        """Answer."""
        self.sent.append(request)
        self.arrived.set()
        answer: Response = await self.answer(request)
        return answer

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a task."""
        self.spawned += 1
        return asyncio.create_task(coroutine)


async def answered(request: Request) -> Response:
    """Return a session, or a token."""
    if request.operation == "token_exchange":
        return Response(200, {}, b'{"access_token": "the-token", "expires_in": 3600}')
    return Response(200, {}, ANSWER)


def raising(error: Exception) -> Callable[[Request], Awaitable[Response]]:
    """Return an answer that raises."""

    async def answer(_: Request) -> Response:
        raise error

    return answer


async def test_a_transport_carries_everything(time: ManualClock) -> None:
    """The token exchange and the calls go through it, with credentials and the call's time; nothing
    else is sent.
    """
    transport = Scripted(answered)
    auth = [IBMCloudAuth("the-api-key", clock=time), ServiceCRN(CRN)]
    async with AsyncSessionClient(auth, transport=transport, clock=time, timeout=9) as client:
        assert (await client.get("s1")).id == SESSION["id"]
    exchange, get = transport.sent
    assert (exchange.operation, get.operation) == ("token_exchange", "get")
    assert get.credentials == {"Authorization": "Bearer the-token", "Service-CRN": CRN}
    assert str(get.url) == "https://quantum.cloud.ibm.com/api/v1/sessions/s1"
    assert get.timeout == pytest.approx(9, abs=0.1)
    assert transport.spawned >= 1


async def test_a_transport_around_the_clients_own(emulator: Emulator, time: ManualClock) -> None:
    """A class or a function gets the client's own transport, whose settings count."""

    class Counting:
        def __init__(self, own: Transport) -> None:
            self.own, self.spawn = own, own.spawn

        async def send(self, request: Request) -> Response:
            operations.append(request.operation)
            return await self.own.send(request)

    operations: list[str] = []
    for transport in (Counting, partial(Counting)):
        async with client_of(emulator, time, transport=transport) as client:
            session = await client.create(mode="batch")
            await client.close(session.id)
    assert [name for name in operations if name != "token_exchange"] == ["create", "close"] * 2


def test_the_synchronous_client_takes_it_too() -> None:
    """It is used on the client's own loop, wherever it was made."""
    loops = set()

    async def answer(request: Request) -> Response:
        loops.add(asyncio.get_running_loop())
        return await answered(request)

    transport = Scripted(answer)
    for _ in range(2):
        with SessionClient(static_auth(), transport=transport) as client:
            assert client.get("s1").id == SESSION["id"]
    assert len(loops) == 2


@table("wrong", [5, object(), lambda own: None, lambda own: Scripted, "https://x.example"])
def test_what_is_no_transport_is_refused(wrong: Any) -> None:
    """What is neither a transport nor returns one is refused when the client is made."""
    with pytest.raises(ConfigurationError, match="transport= must be a transport") as caught:
        AsyncSessionClient(static_auth(), transport=wrong)
    assert caught.value.argument == "transport"


async def nothing(_: Request) -> None:
    """Return no answer."""


def broken(*parts: Any) -> Any:
    """Return what answers with a response of these parts, of which one is of a wrong type."""

    async def answer(_: Request) -> Response:
        return Response(*parts)

    return answer


@table(
    ("answer", "message"),
    [
        (raising(LookupError("no tape: the-api-key")), r"raised LookupError: no tape: \*\*\*"),
        (raising(TimeoutError("its own")), "raised TimeoutError: its own"),
        (nothing, "returned no Response but NoneType"),
        (broken(200, {}, '{"id": "s1"}'), "returned a Response whose status, headers or body is"),
        (broken("200", {}, b"{}"), "returned a Response whose status, headers or body is"),
        (broken(200, None, b"{}"), "returned a Response whose status, headers or body is"),
    ],
)
async def test_a_transport_with_a_fault_ends_the_call(answer: Any, message: str) -> None:
    """What isn't an answer or an error of qsessions is told as what it is, is not tried again, and
    leaves the outcome of a create unknown.
    """
    transport = Scripted(answer)
    async with AsyncSessionClient(static_auth(), transport=transport) as client:
        with pytest.raises(ConnectionFailed, match=f"transport= {message}") as caught:
            await client.get("s1")
        assert (caught.value.sent, caught.value.retryable, caught.value.attempts) == (
            True,
            False,
            1,
        )
        with pytest.raises(CreateOutcomeUnknown):
            await client.create(mode="batch")
    assert [request.operation for request in transport.sent] == ["get", "create", "workloads"]


async def test_its_own_errors_follow_the_retry_policy(time: ManualClock) -> None:
    """A create is tried again where the transport says that nothing was sent."""
    failures: list[Exception] = [ConnectionFailed("no way", sent=False)]

    async def answer(request: Request) -> Response:
        if failures:
            raise failures.pop()
        return await answered(request)

    transport = Scripted(answer)
    async with AsyncSessionClient(static_auth(), transport=transport, clock=time) as client:
        assert (await client.create(mode="batch")).id == SESSION["id"]
    assert len(transport.sent) == 2


async def test_a_transport_that_hangs_meets_the_deadline(time: ManualClock) -> None:
    """A call ends once its deadline has passed, whether the transport heeds it or not."""
    forever = asyncio.Event()

    async def answer(_: Request) -> None:
        await forever.wait()

    transport = Scripted(answer)
    async with AsyncSessionClient(static_auth(), transport=transport, clock=time) as client:
        with pytest.raises(CallTimeout) as caught:
            await past_deadline(client.get("s1", timeout=5), transport.arrived.wait(), time, 5.01)
    assert caught.value.sent is True


async def test_after_the_client_is_closed_nothing_is_carried() -> None:
    """The client leaves the transport as it is, and uses it no more."""
    transport = Scripted(answered)
    async with AsyncSessionClient(static_auth(), transport=transport) as client:
        await client.get("s1")
    with pytest.raises(ClientClosed):
        await client.get("s1")
    assert len(transport.sent) == 1


async def test_no_transport_takes_credentials_over_plain_http() -> None:
    """An address in plain http on another machine is refused, IAM's too."""
    transport = Scripted(answered)
    with pytest.raises(ConfigurationError, match="plain http"):
        AsyncSessionClient(static_auth(), base_url="http://service.example", transport=transport)
    auth = [IBMCloudAuth("the-api-key", "http://iam.example"), ServiceCRN(CRN)]
    async with AsyncSessionClient(auth, transport=transport) as client:
        with pytest.raises(ConfigurationError, match="plain http"):
            await client.get("s1")
    assert transport.sent == []
