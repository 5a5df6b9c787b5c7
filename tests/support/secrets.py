"""Secrets that are planted, calls that go wrong with them in every way, and a search of all that can
be seen of it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import pickle
import sys
import traceback
import warnings
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from html import escape
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self
from urllib.parse import quote

import pytest

import qsessions.errors
from qsessions import (
    AsyncSessionClient,
    BackendAuthentication,
    BadRequest,
    CallTimeout,
    ClientClosed,
    Clock,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    CreateOutcomeUnknown,
    CreateSession,
    ExternalServiceToken,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    InstanceNotFound,
    InvalidArgument,
    LeaseLost,
    LeaseState,
    LedgerRecord,
    LedgerUnavailable,
    LocalLedger,
    NotFound,
    PostgresLedger,
    ProtocolError,
    QSessionsError,
    RateLimited,
    Request,
    Response,
    ResponseError,
    RetryPolicy,
    ServerError,
    ServiceCRN,
    SessionLeftOpen,
    StateUnreachable,
    TokenExchangeFailed,
    Transport,
    Unauthorized,
    WatchIncomplete,
)
from qsessions.testing import ManualClock
from tests.support.calls import SESSION, fault
from tests.support.clients import CRN
from tests.support.event_loop import past_deadline
from tests.support.fault_server import Answer, Connection, FaultServer, cut, hang, http, reset
from tests.support.given_lease import GivenLease
from tests.support.iam import grant
from tests.support.internals import parts_of, parts_of_provider, poll_of
from tests.support.providers import CustomProvider, failing


class _Planted:
    """The secrets. They are attributes of the class, so that no repr of an object and no frame of
    the test shows them.
    """

    __slots__ = ()

    api_key = "kEy0-exchanged+for/a=token-aaaaaaaaaaaaaaaaaaa"
    token = "eyJhbGciOiJIUzI1NiJ9." + "tOkEn1bbbbbbbbbb" * 70 + ".s1gnature"
    raw_key = "kEy2-sent-as-it-is-cccccccccccccccccccccccc"
    backend = "bAcK3end-token-ddddddddddddddddddddddddddddd"
    service = "sErV4ice-token-eeeeeeeeeeeeeeeeeeeeeeeeeeeee"
    password = "pAsS5word-ffffffffffffffffff"
    own = "oWn6/'he&ad\"er+\\gggggggggggggggg"

    def __repr__(self) -> str:
        return "PLANTED"

    def found_in(self, text: str) -> list[str]:
        """Return the names of the secrets that a text holds, or holds the beginning of, in any form."""
        return [name for name in _NAMES if any(form in text for form in _forms(name))]


_NAMES = ("api_key", "token", "raw_key", "backend", "service", "password", "own")
PLANTED = _Planted()

# How an echo may be written.
WRITTEN: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent-encoded": lambda text: quote(text, safe=""),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 of more": lambda text: b64encode(f"x{text}".encode()).decode(),
    "base64 of yet more": lambda text: b64encode(f"xy{text}".encode()).decode(),
    "HTML": escape,
    "repr": lambda text: repr(repr(text)),
}


@cache
def _forms(name: str) -> list[str]:
    """Return what tells a secret, in each form: twelve characters of it, none of them of what may
    stand before it.
    """
    return [write(getattr(PLANTED, name)).lstrip("'\"")[4:16] for write in WRITTEN.values()]


ONCE = RetryPolicy(max_attempts=1)
# Each credential as it is given to a client, and the header it travels in.
SCHEMES: dict[str, Callable[[], Any]] = {
    "raw_key": lambda: IBMCloudAPIKey(PLANTED.raw_key),
    "token": lambda: IBMCloudAuth.from_token(PLANTED.token),
    "backend": lambda: BackendAuthentication(PLANTED.backend),
    "service": lambda: ExternalServiceToken(PLANTED.service),
}


def _echoed(server: FaultServer) -> str:
    """Return what a server was sent that is secret."""
    request = server.received[-1]
    telling = ("auth", "token", "x-own")
    secret = [
        value for name, value in request.headers.items() if any(part in name for part in telling)
    ]
    return " ".join([*secret, request.body.decode()])


class Echo(FaultServer):
    """A server whose every answer holds what it was sent: in the body, in a header, or in both.

    Args:
        write: Writes an answer that holds a text.
        go: What it waits for before each answer.
    """

    def __init__(self, write: Callable[[str], bytes], go: asyncio.Event | None = None) -> None:
        async def answer(connection: Connection) -> None:
            if go is not None:
                await go.wait()
            await connection.write(write(_echoed(self)))

        super().__init__(answer)


def _own_form(status: int, sent: str) -> bytes:
    body = fault(f"bad credential: {sent}", code=sent, solution=f"Don't send {sent}.", trace=sent)
    return http(
        status, body, headers={"X-Echo": sent, "Location": f"http://elsewhere.example/?{sent}"}
    )


# What an echoing server writes, and the error that comes of it.
ECHOES: list[tuple[Callable[[str], bytes], type[QSessionsError]]] = [
    *(
        (partial(_own_form, status), kind)
        for status, kind in (
            (302, ResponseError),
            (400, BadRequest),
            (401, Unauthorized),
            (403, Forbidden),
            (404, NotFound),
            (409, Conflict),
            (410, ResponseError),
            (429, RateLimited),
            (500, ServerError),
            (502, ServerError),
        )
    ),
    (lambda sent: http(404, fault(sent, code=1279, solution=sent)), InstanceNotFound),
    (lambda sent: http(403, f"<html><title>No: {sent}</title></html>"), ResponseError),
    (lambda sent: http(403, f"{'x' * 150} {sent}".encode()), Forbidden),
    (lambda sent: http(403, fault("x" * 900 + sent)), Forbidden),
    (lambda sent: http(403, f"/login?next={quote(sent, safe='')}".encode()), Forbidden),
    (
        lambda sent: http(
            403, {"errorCode": sent, "errorMessage": sent, "context": {"requestId": sent}}
        ),
        Forbidden,
    ),
    (lambda sent: http(200, f"no JSON: {sent}".encode()), ProtocolError),
    (lambda sent: http(200, {"id": 1, "workloads": sent, "state": sent}), ProtocolError),
    (lambda sent: http(200, {"id": "s1", "timestamps": sent}), ProtocolError),
    (lambda sent: http(200, {"id": "s1", "started_at": sent}), ProtocolError),
    (lambda sent: f"HTTP/1.1 200 OK\r\n{sent}\r\n\r\n".encode(), ProtocolError),
    (lambda sent: f"HTTP/1.1 {sent}\r\n\r\n".encode(), ProtocolError),
    (
        lambda sent: f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {sent * 20}\r\n\r\n".encode(),
        ProtocolError,
    ),
    (lambda sent: http(200, sent.encode(), headers={"Content-Encoding": "gzip"}), ProtocolError),
]


class Harvest(logging.Handler):
    """Keeps all that can be seen: log records, errors with their tracebacks' locals, reprs and
    pickles.
    """

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.seen: list[str] = []
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record with every field of it."""
        self.seen += [record.getMessage(), repr(record.__dict__)]
        if record.exc_info and record.exc_info[1]:
            self.errors.append(record.exc_info[1])

    def look_at(self, *objects: object) -> None:
        """Keep what objects show of themselves."""
        self.seen += [f"{one!r} {one}" for one in objects]

    def kinds(self) -> set[type[BaseException]]:
        """Return the classes of the errors."""
        return {type(error) for error in self.errors}

    def everything(self) -> Iterator[str]:
        """Yield all of it as text."""
        yield from self.seen
        for error in self.errors:
            for one in chain(error):
                yield f"{one!r} {one} {one.args} {vars(one)}"
                yield from traceback.TracebackException(
                    type(one), one, one.__traceback__, capture_locals=True
                ).format()
            if isinstance(error, QSessionsError):
                copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
                yield f"{copied!r} {copied} {vars(copied)} {error.to_json()}"


def chain(error: BaseException | None) -> list[BaseException]:
    """Return an error with its causes and contexts, suppressed ones too."""
    waiting, found = [error], list[BaseException]()
    while waiting:
        one = waiting.pop()
        if one is not None and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__]
    return found


@contextmanager
def harvesting() -> Iterator[Harvest]:
    """Return a harvest that listens to every logger at DEBUG."""
    handler, root = Harvest(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    loggers = [
        logging.getLogger(name) for name in ("qsessions", "aiohttp", "aiohttp.client", "asyncio")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger, before in zip(loggers, levels, strict=True):
        logger.setLevel(before)
    root.setLevel(level)
    root.removeHandler(handler)


async def provoke(harvest: Harvest, expected: type[BaseException], call: Awaitable[Any]) -> None:
    """Await a call that must fail, and keep its error."""
    try:
        await call
    except expected as error:
        harvest.errors.append(error)
        return
    pytest.fail(f"no {expected.__name__}")


def refuse(harvest: Harvest, expected: type[BaseException], make: Callable[[], object]) -> None:
    """Make an object that must be refused, and keep the error."""
    try:
        make()
    except expected as error:
        harvest.errors.append(error)
        return
    pytest.fail(f"no {expected.__name__}")


def make_client(url: str, scheme: str, **options: Any) -> AsyncSessionClient:
    """Make a client with one of the credentials and no retries."""
    settings: dict[str, Any] = {"clock": ManualClock(), "retry": ONCE} | options
    return AsyncSessionClient([SCHEMES[scheme](), ServiceCRN(CRN)], base_url=url, **settings)


async def _echo_everything(harvest: Harvest) -> None:
    for (write, kind), scheme in itertools.product(ECHOES, SCHEMES):
        async with Echo(write) as server, make_client(server.url, scheme) as client:
            await provoke(harvest, kind, client.get("s1"))
            await provoke(harvest, QSessionsError, client.create(mode="batch"))
            await provoke(harvest, QSessionsError, anext(client.workloads()))
            harvest.look_at(*parts_of(client))


async def _echo_from_iam(harvest: Harvest) -> None:
    for write, _ in ECHOES:
        async with Echo(write) as iam:
            auth = IBMCloudAuth(PLANTED.api_key, iam.url)
            async with AsyncSessionClient(
                [auth, ServiceCRN(CRN)], base_url=iam.url, retry=ONCE
            ) as client:
                await provoke(harvest, QSessionsError, client.create(mode="batch"))
                await provoke(harvest, QSessionsError, client.get("s1"))
            harvest.look_at(*parts_of_provider(auth))


async def _exchanged_token(harvest: Harvest) -> None:
    """Let IAM give the planted token and the service echo it."""
    for write, kind in ECHOES:
        async with (
            Echo(write) as server,
            FaultServer(grant(PLANTED.token)) as iam,
        ):
            auth = IBMCloudAuth(PLANTED.api_key, iam.url)
            async with AsyncSessionClient(
                [auth, ServiceCRN(CRN)], base_url=server.url, retry=ONCE
            ) as client:
                await provoke(harvest, kind, client.get("s1"))
            harvest.look_at(*parts_of_provider(auth))
    bad_grants: list[object] = [
        {"access_token": PLANTED.token},
        {"access_token": PLANTED.token, "expires_in": -1},
        {"access_token": PLANTED.token + "\n", "expires_in": 60},
        {"access_token": PLANTED.token, "expires_in": PLANTED.token},
    ]
    while bad_grants:
        async with FaultServer(http(200, bad_grants.pop())) as iam:
            auth = IBMCloudAuth(PLANTED.api_key, iam.url)
            async with AsyncSessionClient(
                [auth, ServiceCRN(CRN)], base_url=iam.url, retry=ONCE
            ) as client:
                await provoke(harvest, TokenExchangeFailed, client.get("s1"))


async def _looked_up(harvest: Harvest) -> None:
    """Let what lists the instances echo the token."""
    for write, _ in ECHOES:
        async with Echo(write) as directory, FaultServer(grant(PLANTED.token)) as iam:
            auth = IBMCloudAuth(PLANTED.api_key, iam.url)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("GLOBAL_SEARCH_URL", directory.url)
                patch.setenv("GLOBAL_CATALOG_URL", directory.url)
                client = AsyncSessionClient(auth, base_url=directory.url, retry=ONCE)
            async with client:
                await provoke(harvest, QSessionsError, client.instances())
                await provoke(harvest, QSessionsError, client.get("s1"))
            harvest.look_at(*parts_of(client))


async def _no_answer(harvest: Harvest) -> None:
    for scheme in SCHEMES:
        async with FaultServer(reset) as server, make_client(server.url, scheme) as client:
            await provoke(harvest, ConnectionFailed, client.get("s1"))
            await provoke(harvest, CreateOutcomeUnknown, client.create(mode="batch"))
        time = ManualClock()
        async with (
            FaultServer(hang) as server,
            make_client(server.url, scheme, clock=time) as client,
        ):
            getting = past_deadline(client.get("s1"), server.arrival(1), time)
            await provoke(harvest, CallTimeout, getting)
            creating = past_deadline(client.create(mode="batch"), server.arrival(2), time)
            await provoke(harvest, CreateOutcomeUnknown, creating)
    async with FaultServer(hang) as server:
        url = server.url
    for scheme in SCHEMES:
        async with make_client(url, scheme) as client:
            await provoke(harvest, ConnectionFailed, client.create(mode="batch"))
        refuse(harvest, ConfigurationError, partial(make_client, "http://service.invalid", scheme))
        await provoke(harvest, ClientClosed, client.get("s1"))
        await provoke(harvest, ClientClosed, client.create(mode="batch"))


async def _live(harvest: Harvest) -> None:
    async with (
        FaultServer(http(200, SESSION | {"state": "closed"})) as server,
        make_client(server.url, "raw_key") as client,
    ):
        live = client.attach("s1")
        await provoke(harvest, StateUnreachable, live.wait_until("open"))
        await provoke(harvest, InvalidArgument, live.wait_until(_any_text("opened")))
        harvest.look_at(live, poll_of(live))


async def _watched(harvest: Harvest) -> None:
    async with (
        Echo(lambda sent: http(404, fault(sent))) as server,
        make_client(server.url, "raw_key") as client,
    ):
        await provoke(harvest, WatchIncomplete, anext(client.watch(["s1"])))


async def _block(client: AsyncSessionClient) -> None:
    async with client.open(mode="batch"):
        pass


async def _opened(harvest: Harvest) -> None:
    async with (
        FaultServer(http(200, SESSION), http(403, fault(PLANTED.raw_key))) as server,
        make_client(server.url, "raw_key") as client,
    ):
        await provoke(harvest, SessionLeftOpen, _block(client))


async def _ledger(harvest: Harvest, file: Path) -> None:
    ledger = LocalLedger(file / "below_a_file")
    request = CreateSession("batch")
    record = LedgerRecord.intent(request, base_url="https://service.invalid", instance=CRN, now=0.0)
    await provoke(harvest, LedgerUnavailable, ledger.record(record))
    await ledger.aclose()
    harvest.look_at(ledger, record)


async def _shared_ledger(harvest: Harvest) -> None:
    # Nothing listens there.
    shared = PostgresLedger(f"postgresql://user:{PLANTED.password}@127.0.0.1:1/ledger")
    record = LedgerRecord.intent(
        CreateSession("batch"), base_url="https://service.invalid", instance=CRN, now=0.0
    )
    await provoke(harvest, LedgerUnavailable, shared.record(record))
    await provoke(harvest, LedgerUnavailable, shared.init())
    harvest.look_at(shared, shared.lease)
    # It would go on trying in its thread.
    assert shared._loop is not None
    shared._loop.call_soon_threadsafe(shared._loop.stop)
    taken = GivenLease()
    await taken.set(LeaseState.TAKEN)
    async with make_client("https://service.invalid", "raw_key", ledger=taken) as client:
        await provoke(harvest, LeaseLost, client.create(mode="batch"))


async def _written_in_any_form(harvest: Harvest) -> None:
    """Echo credentials, the user's own headers and the proxy's password, each in each form."""
    for write in WRITTEN.values():
        answers = (
            lambda sent, write=write: http(407, f"you sent {write(sent)}".encode()),
            lambda sent, write=write: http(
                400, fault(" ".join(write(one) for one in sent.split()))
            ),
            lambda sent, write=write: http(200, {"id": "s1", "started_at": write(sent)}),
        )
        for answer in answers:
            async with Echo(answer) as proxy:
                options: dict[str, Any] = {
                    "headers": {"X-Own": PLANTED.own},
                    "proxy": with_password(proxy.url),
                }
                async with make_client(
                    "http://service.invalid", "raw_key", allow_insecure=True, **options
                ) as client:
                    await provoke(harvest, QSessionsError, client.get("s1"))
                auth = IBMCloudAuth(PLANTED.api_key, "http://iam.invalid")
                async with AsyncSessionClient(
                    [auth, ServiceCRN(CRN)],
                    base_url="http://service.invalid",
                    retry=ONCE,
                    allow_insecure=True,
                    **options,
                ) as client:
                    await provoke(harvest, QSessionsError, client.get("s1"))
                assert all("proxy-authorization" in request.headers for request in proxy.received)


def with_password(url: str) -> str:
    """Return the URL of a proxy with the password in it."""
    return url.replace("//", f"//user:{PLANTED.password}@")


async def _refused_by_a_proxy(harvest: Harvest) -> None:
    """Ask for a tunnel where something else than a proxy listens, or one that repeats what it was
    sent.
    """
    answers: tuple[Answer, ...] = (
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        cut(b"HTTP/1.1 200 OK\r\n\r\nno TLS"),
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        reset,
    )
    for answer in answers:
        async with FaultServer(answer) as proxy:
            options = {"proxy": with_password(proxy.url)}
            async with make_client("https://service.invalid", "raw_key", **options) as client:
                await provoke(harvest, QSessionsError, client.get("s1"))
                harvest.look_at(*parts_of(client))
    async with (
        Echo(lambda sent: f"{sent}\r\n\r\n".encode()) as proxy,
        make_client("https://service.invalid", "raw_key", proxy=with_password(proxy.url)) as client,
    ):
        await provoke(harvest, QSessionsError, client.get("s1"))


async def _through_a_proxy(harvest: Harvest) -> None:
    async with FaultServer(http(407)) as proxy:
        gone = proxy.url
        for url in ("http://192.0.2.1", "https://service.invalid"):
            options = {"allow_insecure": True}
            async with make_client(
                url,
                "raw_key",
                proxy=with_password(proxy.url),
                **options,
            ) as client:
                await provoke(harvest, QSessionsError, client.get("s1"))
                await provoke(harvest, QSessionsError, client.create(mode="batch"))
    async with make_client(
        "https://service.invalid",
        "raw_key",
        proxy=with_password(gone),
    ) as client:
        await provoke(harvest, ConnectionFailed, client.get("s1"))
        harvest.look_at(*parts_of(client))


async def _custom_providers(harvest: Harvest) -> None:
    for second in (
        CustomProvider(lambda: {"X-Key": PLANTED.backend}),
        CustomProvider(lambda: {"X-Other": PLANTED.backend + "\n"}),
        failing(ConfigurationError("no vault today.")),
        CustomProvider(lambda: {"X-Other": 5}),
    ):
        first = CustomProvider(lambda: {"X-Key": PLANTED.service})
        async with AsyncSessionClient([first, second], base_url="http://127.0.0.1:1") as client:
            await provoke(harvest, ConfigurationError, client.get("s1"))


class _Telling:
    """A transport that has a fault, and tells all that it was given."""

    def __init__(self, own: Transport) -> None:
        self.spawn = own.spawn

    async def send(self, request: Request) -> Response:
        """Fail."""
        raise LookupError([*request.credentials.values(), *request.headers.values()])


async def _own_transport(harvest: Harvest) -> None:
    for scheme in SCHEMES:
        client = make_client(
            "http://127.0.0.1:1", scheme, transport=_Telling, headers={"X-Own": PLANTED.own}
        )
        async with client:
            await provoke(harvest, ConnectionFailed, client.get("s1"))
            await provoke(harvest, CreateOutcomeUnknown, client.create(mode="batch"))


def _bad_files() -> list[Callable[[], object]]:
    key, password = PLANTED.api_key, f"https://user:{PLANTED.password}@x.example"
    account = {"channel": "ibm_quantum_platform", "token": key, "instance": CRN}
    return [
        lambda: None,
        lambda: key,
        lambda: [key],
        lambda: {"a": key},
        lambda: {"a": account | {"token": {key: key}}},
        lambda: {"a": account | {"token": key + "\n"}},
        lambda: {"a": account | {"token": None, "instance": key}},
        lambda: {"a": account | {"instance": f"'{key}'"}},
        lambda: {"a": account | {"channel": key}},
        lambda: {"a": account | {"channel": "ibm_quantum"}},
        lambda: {"a": account | {"url": password}},
        lambda: {"a": account | {"verify": False}},
        lambda: {"a": account | {"proxies": {"urls": {"https": password, "all": password}}}},
        lambda: {"a": account | {"proxies": {"urls": password}}},
        lambda: {"a": account | {"proxies": {"username_ntlm": key}}},
        lambda: {"a": account | {"proxies": {"https": password, password: password}}},
        lambda: {"a": account | {"token": f"'{key}'"}},
        # These are found out when the proxy is to be used.
        lambda: {
            "a": account | {"proxies": {"urls": {"https": password.replace("https", "socks5")}}}
        },
        lambda: {"a": account | {"proxies": {"urls": {"https": f"http://u:{PLANTED.password}@["}}}},
        lambda: {
            "a": account | {"proxies": {"urls": {"https": f"http://u:1#{PLANTED.password}@p"}}}
        },
    ]


def _write(file: Path, make: Callable[[], object]) -> None:
    file.write_text(json.dumps(make()))


async def _account_file(harvest: Harvest, file: Path) -> None:
    for make in _bad_files():
        # No local variable holds the content.
        await asyncio.to_thread(_write, file, make)
        client = AsyncSessionClient(account_file=file, timeout=None)
        await provoke(harvest, ConfigurationError, client.get("s1"))
        await provoke(harvest, ConfigurationError, client.create(mode="batch"))
        harvest.look_at(*parts_of(client))
        await client.aclose()
    client = AsyncSessionClient(account_file=file)
    await client.aclose()
    await provoke(harvest, ClientClosed, client.get("s1"))


async def _cancelled(harvest: Harvest) -> None:
    """Cancel calls while the request is in flight; a create learns afterwards that its answer is
    an echo.
    """
    for scheme in SCHEMES:
        async with FaultServer(hang) as server, make_client(server.url, scheme) as client:
            task = asyncio.create_task(client.get("s1"))
            await server.arrival()
            task.cancel()
            await provoke(harvest, asyncio.CancelledError, task)
    for (write, _), scheme in itertools.product(ECHOES, SCHEMES):
        go = asyncio.Event()
        async with Echo(write, go) as server, make_client(server.url, scheme) as client:
            creating = asyncio.create_task(client.create(mode="batch"))
            await server.arrival()
            creating.cancel()
            await asyncio.sleep(0)
            go.set()
            await provoke(harvest, asyncio.CancelledError, creating)


def _refused_credentials(ending: str) -> list[Callable[[], object]]:
    return [
        lambda: IBMCloudAuth(PLANTED.api_key + ending),
        lambda: IBMCloudAuth.from_token(PLANTED.token + ending),
        lambda: IBMCloudAPIKey(PLANTED.raw_key + ending),
        lambda: BackendAuthentication(PLANTED.backend + ending),
        lambda: ExternalServiceToken(PLANTED.service + ending),
        lambda: ServiceCRN(PLANTED.api_key + ending),
        lambda: AsyncSessionClient([], headers={"X-Own": PLANTED.service + ending}),
    ]


def _misplaced_credentials() -> list[Callable[[], object]]:
    return [
        lambda: ServiceCRN(PLANTED.api_key),
        lambda: IBMCloudAuth(PLANTED.api_key, "ftp://iam.example"),
        lambda: IBMCloudAuth(PLANTED.api_key, f"https://user:{PLANTED.password}@iam.example"),
        lambda: AsyncSessionClient([], headers={"Authorization": PLANTED.raw_key}),
        lambda: AsyncSessionClient(
            [IBMCloudAPIKey(PLANTED.raw_key), IBMCloudAuth(PLANTED.api_key)]
        ),
        lambda: AsyncSessionClient(PLANTED.api_key),  # type: ignore[arg-type]
        lambda: AsyncSessionClient([PLANTED.api_key]),  # type: ignore[list-item]
    ]


def _base_urlwith_password(form: str) -> Callable[[], object]:
    return lambda: AsyncSessionClient([], base_url=form.format(PLANTED.password))


def _proxywith_password(form: str, options: dict[str, Any]) -> Callable[[], object]:
    return lambda: AsyncSessionClient(
        [], proxy=form.format(PLANTED.password), headers={"X-Own": PLANTED.service}, **options
    )


def _refuse_credentials(harvest: Harvest) -> None:
    for ending in ("\r\nX-Injected: 1", "\n", "\0", "é"):
        for make in _refused_credentials(ending):
            refuse(harvest, ConfigurationError, make)
    for make in _misplaced_credentials():
        refuse(harvest, ConfigurationError, make)


def _any_text(text: str) -> Any:
    return text


def _as_pairs(headers: dict[str, str]) -> Any:
    return list(headers.items())


def _refuse_the_rest(harvest: Harvest) -> None:
    for form in (
        "https://user:{}@x.example",
        "http://user:{}@x.example",
        "https://{}@[",
        "ftp://{}@x",
    ):
        refuse(harvest, ConfigurationError, _base_urlwith_password(form))
    for form in (
        "socks5://user:{}@proxy.example",
        "user:{}#@proxy.example:3128",
        "http://user:1#{}@proxy.example:3128",
        "http://user:{}/@proxy.example:3128",
        "http://user:{}%@proxy.example:3128",
        "'http://user:{}@proxy.example:3128'",
        "http://user:{}@[",
        "http://u:{}@[]@",
    ):
        refuse(harvest, ConfigurationError, _proxywith_password(form, {}))
    for options in (
        {"max_concurrency": 0},
        {"application": "\n"},
        {"ssl": 1},
        {"http": 5},
        {"retry": 5},
        {"observers": 5},
        {"clock": 5},
    ):
        refuse(
            harvest,
            ConfigurationError,
            _proxywith_password("http://user:{}@proxy.example", dict(options)),
        )
    refuse(
        harvest,
        InvalidArgument,
        _proxywith_password("http://user:{}@proxy.example", {"timeout": 0}),
    )
    refuse(
        harvest,
        ConfigurationError,
        lambda: AsyncSessionClient([], headers=_as_pairs({"X-Own": PLANTED.service})),
    )
    refuse(harvest, InvalidArgument, lambda: CreateSession(_any_text("fast")))
    refuse(harvest, InvalidArgument, lambda: CreateSession("batch", max_ttl=True))


def _environments(harvest: Harvest) -> None:
    environments: list[tuple[str, str]] = [
        ("QISKIT_IBM_TOKEN", "IBM"),
        ("QISKIT_IBM_INSTANCE", "'a name in quotation marks'"),
        ("QSESSIONS_BASE_URL", "https://user:{}@service.example"),
        ("QSESSIONS_BASE_URL", "https://service.example/v1"),
        ("IAM_URL", "https://user:{}@iam.example"),
        ("QSESSIONS_TIMEOUT", "{}"),
        ("QSESSIONS_MAX_TTL", "{}"),
        ("QSESSIONS_BACKEND", "{} "),
        ("QSESSIONS_LOG", "{}"),
        ("QSESSIONS_LEDGER", "{}"),
        ("QSESSIONS_LEDGER", "postgresql://user:{}@host/ledger?no=such"),
    ]
    with pytest.MonkeyPatch.context() as outer:
        outer.setenv("QISKIT_IBM_TOKEN", PLANTED.api_key)
        outer.setenv("QISKIT_IBM_INSTANCE", CRN)
        for name, value in environments:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(name, value.format(PLANTED.password))
                if value == "IBM":
                    patch.setenv(name, PLANTED.api_key + "\n")
                # Some are needed by a create alone.
                refuse(harvest, ConfigurationError, lambda: AsyncSessionClient().open(mode="batch"))
                assert PLANTED.api_key in os.environ["QISKIT_IBM_TOKEN"]


def provoke_everything(harvest: Harvest, file: Path) -> None:
    """Provoke every error class with secrets about.

    Args:
        harvest: Keeps all that is seen.
        file: A path for an account file.
    """

    async def calls() -> None:
        await _echo_everything(harvest)
        await _echo_from_iam(harvest)
        await _exchanged_token(harvest)
        await _looked_up(harvest)
        await _no_answer(harvest)
        await _live(harvest)
        await _watched(harvest)
        await _opened(harvest)
        await _through_a_proxy(harvest)
        await _refused_by_a_proxy(harvest)
        await _written_in_any_form(harvest)
        await _account_file(harvest, file)
        await _ledger(harvest, file)
        await _shared_ledger(harvest)
        await _cancelled(harvest)
        await _custom_providers(harvest)
        await _own_transport(harvest)

    _refuse_credentials(harvest)
    _refuse_the_rest(harvest)
    _environments(harvest)
    asyncio.run(calls())
    gc.collect()


def check(harvest: Harvest) -> None:
    """Check that every error class was provoked, that no secret was seen, and that no error of a
    call has frames of the HTTP library, whose locals hold headers.
    """
    public = {name: kind for name, kind in vars(qsessions.errors).items() if name[0] != "_"}
    classes = {kind for kind in public.values() if isinstance(kind, type)}
    errors = {kind for kind in classes if issubclass(kind, QSessionsError)} - {QSessionsError}
    assert (errors | {asyncio.CancelledError}) - harvest.kinds() == set()
    problems = {
        f"{name} in {text.splitlines()[0][:200]}: {line[:60]}"
        for text in harvest.everything()
        if PLANTED.found_in(text)
        for line in text.splitlines()
        for name in PLANTED.found_in(line)
    }
    assert sorted(problems) == [], sorted(problems)
    for error in harvest.errors:
        assert not any("aiohttp" in name for name in frames(error)), error


def frames(error: BaseException) -> Iterator[str]:
    """Yield the file of each frame of an error's traceback, and of its causes and contexts."""
    for one in chain(error):
        entry: TracebackType | None = one.__traceback__
        while entry is not None:
            yield entry.tb_frame.f_code.co_filename
            entry = entry.tb_next


class _CtrlC:
    """Presses Ctrl-C at one of the steps in our code and in the HTTP library: whenever a function
    is called or returns.
    """

    def __init__(self, at: int) -> None:
        self.steps = 0
        self._at = at

    def __enter__(self) -> Self:
        sys.setprofile(self._step)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _step(self, frame: FrameType, event: str, argument: object) -> None:
        if not any(part in frame.f_code.co_filename for part in ("/qsessions/", "/aiohttp/")):
            return
        if "/tests/" in frame.f_code.co_filename:
            return
        self.steps += 1
        if self.steps == self._at:
            sys.setprofile(None)
            raise KeyboardInterrupt


async def _interrupted_calls(ctrl_c: _CtrlC) -> None:
    written = WRITTEN["percent-encoded"]
    async with (
        Echo(lambda sent: http(403, fault(written(sent), code=sent))) as service,
        FaultServer(grant(PLANTED.token)) as iam,
        Echo(lambda sent: http(200, {"id": f"s {sent}", "state": "open"})) as proxy,
    ):
        exchanged = IBMCloudAuth(PLANTED.api_key, iam.url)
        # An interruption may be the end of what would have woken a call. Time ends that too.
        real: dict[str, Any] = {"clock": Clock(), "timeout": 2}
        clients = (
            AsyncSessionClient(
                [exchanged, ServiceCRN(CRN)],
                base_url=service.url,
                retry=ONCE,
                headers={"X-Own": PLANTED.own},
                **real,
            ),
            make_client(
                "http://service.invalid",
                "token",
                proxy=with_password(proxy.url),
                allow_insecure=True,
                **real,
            ),
            make_client("http://127.0.0.1:1", "raw_key", **real),
        )
        try:
            with ctrl_c:
                for client in clients:
                    with suppress(QSessionsError):
                        await client.get("s1")
                    with suppress(QSessionsError):
                        await client.create(mode="batch")
        finally:
            for client in clients:
                await client.aclose()


def _interrupt(at: int) -> tuple[int, BaseException | None]:
    """Press Ctrl-C at a step of some calls on a bare event loop; return how many steps there were and
    what was raised.
    """
    ctrl_c, loop = _CtrlC(at), asyncio.new_event_loop()
    try:
        loop.run_until_complete(_interrupted_calls(ctrl_c))
    except KeyboardInterrupt as error:
        return ctrl_c.steps, error
    finally:
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            # What a task ended with is raised again by whoever waited for it.
            with suppress(KeyboardInterrupt):
                loop.run_until_complete(asyncio.wait(tasks))
        loop.close()
    return ctrl_c.steps, None


def own_locals(error: BaseException) -> Iterator[str]:
    """Yield what the locals of our own frames show, in the tracebacks of an error, its causes and
    contexts.
    """
    for one in chain(error):
        for frame, _ in traceback.walk_tb(one.__traceback__):
            code = frame.f_code
            if "/qsessions/" in code.co_filename and "/tests/" not in code.co_filename:
                yield from (
                    f"{code.co_qualname}: {name}={value!r}"
                    for name, value in frame.f_locals.items()
                )


def seen_when_interrupted(moments: int) -> list[str]:
    """Press Ctrl-C at so many moments of some calls on a bare event loop, and return which locals
    of our frames showed a secret.
    """
    found = set()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda _: None)
        # Whoever is interrupted anywhere leaves things open.
        warnings.simplefilter("ignore")
        steps, _ = _interrupt(0)
        for at in range(1, steps, max(steps // moments, 1)):
            _, error = _interrupt(at)
            if error is not None:
                found |= {
                    f"{at}: {text.partition('=')[0]}"
                    for text in own_locals(error)
                    if PLANTED.found_in(text)
                }
            del error
        gc.collect()
    return sorted(found)
