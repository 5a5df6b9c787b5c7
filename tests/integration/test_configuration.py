"""Settings found outside the arguments, as a whole: the environment, the account file in a home
folder, and proxies that really carry.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    IBMCloudAPIKey,
    RetryPolicy,
    ServiceCRN,
)
from qsessions.config import settings
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import SESSION
from tests.support.clients import CRN
from tests.support.event_loop import past_deadline
from tests.support.fault_server import Connection, FaultServer, http
from tests.support.manual_clock import settled
from tests.support.tables import row_of_table, table

PLANTED = "pLaNtEd-key-0123456789"
PROGRAM = Path(__file__).parents[1] / "programs" / "reads_accounts.py"
CRN_EU = CRN.replace("us-east", "eu-de")


def account(**fields: object) -> dict[str, object]:
    """Return an account as the official client saves it."""
    return {"channel": "ibm_quantum_platform", "token": PLANTED, "instance": CRN} | fields


def save(home: Path, **fields: object) -> None:
    """Write the official client's file with one account into a home folder."""
    (home / ".qiskit").mkdir(exist_ok=True)
    write(home / ".qiskit" / "qiskit-ibm.json", {"default-ibm-quantum-platform": account(**fields)})


def write(file: Path, content: object) -> None:
    """Write a file of accounts, or of whatever else."""
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def service(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Return the emulator, with its addresses in the environment, and no credentials."""
    monkeypatch.setenv("QSESSIONS_BASE_URL", emulator.url)
    monkeypatch.setenv("IAM_URL", emulator.iam_url)
    return emulator


class Pipe:
    """An account file that is a pipe: opening it waits until something is written; openings count.

    Attributes:
        path: Where it is.
        opened: How many times it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = 0
        os.mkfifo(path)

    async def feed(self, content: object) -> None:
        """Wait until somebody opens it, and write."""
        await asyncio.to_thread(self._feed, json.dumps(content))

    def _feed(self, content: str) -> None:
        with self.path.open("w") as stream:
            self.opened += 1
            stream.write(content)


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    """Return a pipe."""
    return Pipe(tmp_path / "pipe")


@pytest.mark.smoke
async def test_from_the_environment(
    service: Emulator, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variables that the emulator prints and no arguments, a session is created; the file,
    broken here, is not touched.
    """
    await asyncio.to_thread(save, home, token=["broken"])
    monkeypatch.setenv("QISKIT_IBM_TOKEN", service.api_key)
    monkeypatch.setenv("QISKIT_IBM_INSTANCE", service.crn)
    async with AsyncSessionClient() as client:
        created = await client.create(mode="batch", max_ttl="10m")
        assert (await client.get(created.id)).id == created.id


@pytest.mark.smoke
async def test_from_the_file(service: Emulator, home: Path) -> None:
    """With an account in the home folder and no arguments, a session is created, by `async with`
    and by a first call alone.
    """
    await asyncio.to_thread(save, home, token=service.api_key, instance=service.crn)
    async with AsyncSessionClient() as client:
        assert repr(client) == f"AsyncSessionClient(base_url='{service.url}')"
        created = await client.create(mode="batch", max_ttl="10m")
    client = AsyncSessionClient()
    assert (await client.get(created.id)).id == created.id
    await client.aclose()


async def test_the_file_is_read_at_the_first_call(service: Emulator, home: Path) -> None:
    """Making a client reads nothing: the account may be saved afterwards, and until then each call
    says what is missing.
    """
    client = AsyncSessionClient()
    for call in (lambda: client.get("s1"), client.versions, lambda: anext(client.workloads())):
        with pytest.raises(ConfigurationError, match=r"qiskit-ibm\.json doesn't exist"):
            await call()
    await asyncio.to_thread(save, home, token=service.api_key, instance=service.crn)
    assert await client.versions()
    assert [workload async for workload in client.workloads()] == []
    await client.aclose()


def test_no_loop_is_needed_to_make_a_client(home: Path) -> None:
    """A client whose settings are in the file is made without an event loop and without reading it."""
    save(home, token=["broken"])
    assert repr(AsyncSessionClient()) == "AsyncSessionClient(base_url='')"


async def test_account_and_account_file(
    emulator: Emulator, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`account=` and `account_file=` choose, also against the environment."""
    service = emulator
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "another")
    monkeypatch.setenv("QISKIT_IBM_INSTANCE", CRN_EU)
    await asyncio.to_thread(save, home)
    file = tmp_path / "other.json"
    mine = account(token=service.api_key, instance=service.crn)
    await asyncio.to_thread(write, file, {"mine": mine, "other": {"token": "wrong"}})
    async with AsyncSessionClient(account="mine", account_file=file) as client:
        assert client.instance == service.crn
    with pytest.raises(ConfigurationError, match="has no account 'nobody', only 'mine'"):
        await AsyncSessionClient(account="nobody", account_file=str(file)).__aenter__()


async def test_first_calls_share_one_reading(emulator: Emulator, pipe: Pipe) -> None:
    """A hundred concurrent first calls read the file once, in a thread, and then all go on; later
    ones read it no more.
    """
    client = AsyncSessionClient(account_file=pipe.path, base_url=emulator.url)
    calls = [asyncio.create_task(client.versions()) for _ in range(100)]
    await pipe.feed({"a": account(token=emulator.api_key, instance=emulator.crn)})
    await asyncio.gather(*calls)
    async with client:
        await client.versions()
    assert pipe.opened == 1


async def test_first_calls_share_one_error(pipe: Pipe) -> None:
    """All concurrent first calls get the error of one reading, each its own copy; the next call
    reads again.
    """
    async with FaultServer(http(200, SESSION)) as server:
        client = AsyncSessionClient(account_file=pipe.path, base_url=server.url)
        calls = [asyncio.create_task(client.get("s1")) for _ in range(10)]
        await pipe.feed({})
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert len({id(error) for error in errors}) == 10
        assert {type(error) for error in errors} == {ConfigurationError}
        again = asyncio.create_task(client.get("s1"))
        await pipe.feed({})
        with pytest.raises(ConfigurationError, match="nor any other"):
            await again
        await client.aclose()
        assert pipe.opened == 2
        assert server.received == []


def test_a_file_that_hangs_keeps_nobody_from_ending(pipe: Pipe) -> None:
    """An account file that can't be read holds a call up to its deadline, and neither the event
    loop nor the interpreter at its end.
    """
    ended = subprocess.run(
        [sys.executable, PROGRAM, pipe.path],
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    assert (
        "CallTimeout: versions: the call's deadline passed while reading the account file"
        in ended.stderr
    )


async def test_an_error_that_is_no_setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in the reading ends the call too, as itself."""

    def defect(_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(settings, "read_accounts", defect)
    with pytest.raises(ZeroDivisionError):
        await AsyncSessionClient().versions()


async def test_a_cancelled_first_call_leaves_the_others(emulator: Emulator, pipe: Pipe) -> None:
    """Cancelling the call that began the reading doesn't end it for those who wait too."""
    client = AsyncSessionClient(account_file=pipe.path, base_url=emulator.url)
    first, second = asyncio.create_task(client.versions()), asyncio.create_task(client.versions())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await pipe.feed({"a": account(token=emulator.api_key, instance=emulator.crn)})
    assert await second
    await client.aclose()
    assert pipe.opened == 1


async def test_a_file_system_that_hangs(pipe: Pipe, time: ManualClock) -> None:
    """A call's deadline covers the reading; a client can be closed during it; the event loop goes
    on all the while.
    """
    client = AsyncSessionClient(account_file=pipe.path, clock=time)
    with pytest.raises(
        CallTimeout, match=r"^get: the call's deadline passed while reading the account file\."
    ) as caught:
        await past_deadline(client.get("s1"), settled(), time)
    assert not caught.value.sent
    waiting = asyncio.create_task(client.get("s1"))
    await settled()
    await client.aclose()
    with pytest.raises(ClientClosed, match="while reading the account file"):
        await waiting
    # Lets the thread go.
    await pipe.feed({})


async def _forward(connection: Connection, target: str, received: FaultServer) -> None:
    """Carry a proxied request to a server of ours, whatever host it names, and the answer back."""
    request, url = received.received[-1], URL(target)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    path = URL(request.target).raw_path_qs
    head = "".join(
        f"{name}: {value}\r\n"
        for name, value in request.headers.items()
        if name not in {"host", "connection"}
    )
    writer.write(
        f"{request.method} {path} HTTP/1.1\r\nHost: {url.authority}\r\n"
        f"Connection: close\r\n{head}\r\n".encode()
    )
    writer.write(request.body)
    await writer.drain()
    await connection.write(await reader.read())
    writer.close()
    await writer.wait_closed()
    connection.writer.close()


@pytest.fixture
async def proxy(emulator: Emulator) -> AsyncIterator[FaultServer]:
    """Return a proxy behind which every host is the emulator."""

    async def answer(connection: Connection) -> None:
        target = URL(server.received[-1].target)
        await _forward(
            connection, emulator.iam_url if target.host == "iam.invalid" else emulator.url, server
        )

    server = FaultServer(answer)
    async with server:
        yield server


def hosts(proxy: FaultServer) -> set[str | None]:
    """Return the hosts that a proxy was asked for."""
    return {URL(request.target).host for request in proxy.received}


@pytest.fixture
def behind(
    emulator: Emulator, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Awaitable[AsyncSessionClient]]:
    """Return a function that makes a client of a service that only a proxy reaches."""

    async def make(proxies: object = None, **options: Any) -> AsyncSessionClient:
        path = URL(emulator.url).path.rstrip("/")
        monkeypatch.setenv("QSESSIONS_BASE_URL", f"http://service.invalid{path}")
        monkeypatch.setenv("IAM_URL", "http://iam.invalid")
        await asyncio.to_thread(
            save, home, token=emulator.api_key, instance=emulator.crn, proxies=proxies
        )
        return AsyncSessionClient(allow_insecure=True, **options)

    return make


@pytest.mark.parametrize(
    "source",
    [
        f"{source}{form}"
        for source in ("HTTP_PROXY", "http_proxy", "account", "proxy=")
        for form in ("", " without a scheme")
    ],
)
async def test_proxy(
    source: str,
    proxy: FaultServer,
    behind: Callable[..., Awaitable[AsyncSessionClient]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Service and IAM are reached through the proxy of the environment, of the account or of the
    argument.
    """
    proxies: object = None
    options: dict[str, str] = {}
    source, _, without_scheme = source.partition(" ")
    url = proxy.url.removeprefix("http://") if without_scheme else proxy.url
    if source == "account":
        proxies = {"urls": {"http": url}}
    elif source == "proxy=":
        options["proxy"] = url
        monkeypatch.setenv("HTTP_PROXY", "http://wrong.invalid")
    else:
        monkeypatch.setenv(source, url)
    async with await behind(proxies, **options) as client:
        created = await client.create(mode="batch", max_ttl="10m")
        assert (await client.get(created.id)).id == created.id
    assert hosts(proxy) == {"service.invalid", "iam.invalid"}


async def test_no_proxy(
    proxy: FaultServer,
    behind: Callable[..., Awaitable[AsyncSessionClient]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host in NO_PROXY is asked for directly, whoever named the proxy."""
    monkeypatch.setenv("NO_PROXY", "service.invalid, other.example")
    async with await behind(
        {"urls": {"http": proxy.url}}, retry=RetryPolicy(max_attempts=1)
    ) as client:
        with pytest.raises(ConnectionFailed, match="can't be reached"):
            await client.get("s1")
    assert hosts(proxy) == {"iam.invalid"}


@table("host", ["127.0.0.1", "localhost"])
async def test_this_machine_needs_no_proxy(
    host: str, service: Emulator, proxy: FaultServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to this machine as plain http never leaves it through a proxy, unless the
    argument says so.
    """
    await asyncio.to_thread(save, home, token=service.api_key, instance=service.crn)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("QSESSIONS_BASE_URL", service.url.replace("127.0.0.1", host))
    async with AsyncSessionClient() as client:
        await client.create(mode="batch", max_ttl="10m")
    assert proxy.received == []


@table("variable", ["IAM_URL", "QSESSIONS_BASE_URL"])
@table("host", ["127.0.0.1", "localhost", "[::1]"])
@table("named", [{"account": "a"}, {"account_file": "a.json"}])
def test_addresses_of_an_emulator_meet_no_named_account(
    variable: str, host: str, named: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a named account isn't sent in plain http to a port of this machine that an
    emulator once had.
    """
    with monkeypatch.context() as patch:
        patch.setenv(variable, f"http://{host}:8000/api")
        with pytest.raises(
            ConfigurationError, match=f"^{variable} is an address in plain http"
        ) as caught:
            AsyncSessionClient(**named)  # type: ignore[arg-type]  # checked at run time
    assert caught.value.solution == (
        f"Unset {variable}. For an emulator, set QSESSIONS_BASE_URL and QISKIT_IBM_TOKEN too, and "
        "name no account."
    )


async def test_an_emulator_that_is_asked_for_meets_a_named_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address that is an argument, a key of the caller's own and an address with TLS
    are taken.
    """
    monkeypatch.setenv("QSESSIONS_BASE_URL", "http://127.0.0.1:8000")
    await AsyncSessionClient(account="a", base_url="http://127.0.0.1:8000").aclose()
    await AsyncSessionClient(IBMCloudAPIKey("k"), account="a").aclose()
    monkeypatch.setenv("QSESSIONS_BASE_URL", "https://127.0.0.1:8000")
    await AsyncSessionClient(account="a").aclose()
    monkeypatch.setenv("IAM_URL", "http://[")
    await AsyncSessionClient(account="a").aclose()


async def test_a_proxy_elsewhere_for_this_machine() -> None:
    """Plain http to this machine leaves it through proxy= only where that is allowed."""
    proxy = f"http://user:{PLANTED}@proxy.example:3128"
    with pytest.raises(ConfigurationError, match="the proxy is another machine") as caught:
        AsyncSessionClient([], base_url="http://127.0.0.1:8000", proxy=proxy)
    assert PLANTED not in str(caught.value)
    await AsyncSessionClient(
        [], base_url="http://127.0.0.1:8000", proxy=proxy, allow_insecure=True
    ).aclose()
    await AsyncSessionClient([], base_url="https://127.0.0.1:8000", proxy=proxy).aclose()
    await AsyncSessionClient(
        [], base_url="http://127.0.0.1:8000", proxy="http://localhost:3128"
    ).aclose()


async def test_https_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY is asked to connect to the service, and its refusal is reported without the
    password in its URL.
    """
    async with FaultServer(http(407)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//user:{PLANTED}@"))
        auth = [IBMCloudAPIKey("k"), ServiceCRN(CRN_EU)]
        async with AsyncSessionClient(auth) as client:
            with pytest.raises(
                ConnectionFailed, match="the proxy refused with status 407"
            ) as caught:
                await client.get("s1")
        assert PLANTED not in str(caught.value)
        request = proxy.received[0]
        assert (request.method, request.target) == ("CONNECT", "eu-de.quantum.cloud.ibm.com:443")


WRONG_PROXIES = [
    (form, "must be an http or https URL")
    for form in ("socks5://u:{}@proxy.example", "http://u:{}@[", "http://u:{}@", "://", "http://")
] + [
    (f"{scheme}user:{form}@127.0.0.1:1", "percent-encode it")
    for scheme in ("http://", "https://", "")
    for form in (
        *("{}" + character + "{}" for character in "/?#[]\\ "),
        *("12" + character + "{}" for character in "/?#\\"),
        "{}%6q",
        "{}%",
        "a@{}/b",
        "://{}",
    )
]
# Where each proxy can come from, and what the message calls it.
PROXY_SOURCES = {
    "argument": "^proxy= ",
    "variable": "the proxy for https addresses, from HTTPS_PROXY or the account, ",
    "account": "the proxy for https addresses, from HTTPS_PROXY or the account, ",
}


async def refused_proxy(
    source: str, value: str, home: Path, patch: pytest.MonkeyPatch
) -> ConfigurationError:
    """Return the error for a proxy, which ends the client or its first call."""
    proxies = {"urls": {"https": value}} if source == "account" else None
    await asyncio.to_thread(save, home, proxies=proxies)
    if source == "variable":
        patch.setenv("HTTPS_PROXY", value)
    options: Any = {"proxy": value} if source == "argument" else {}
    with pytest.raises(ConfigurationError) as caught:
        async with AsyncSessionClient(**options) as client:
            await client.create(mode="batch")
    return caught.value


async def test_a_proxy_that_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that can't be used is an error before anything is looked up or sent. It names the
    source and shows no piece of the value; nothing goes around it.
    """
    looked_up: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: looked_up.append(host))
    caplog.set_level(logging.DEBUG)
    for source, name in PROXY_SOURCES.items():
        for form, problem in WRONG_PROXIES:
            with row_of_table(source, form), pytest.MonkeyPatch.context() as patch:
                value = form.replace("{}", PLANTED)
                error = await refused_proxy(source, value, home, patch)
                assert re.search(f"{name}.*{problem}", error.message)
                assert error.argument == "proxy"
                shown = "".join(traceback.format_exception(error)) + caplog.text
                assert PLANTED not in shown
    assert looked_up == []


async def test_verify_false(home: Path) -> None:
    """An account that wants certificates unchecked is refused with the way out, and taken where TLS
    settings are passed.
    """
    await asyncio.to_thread(save, home, verify=False)
    with pytest.raises(ConfigurationError, match=r"pass ssl=context\."):
        await AsyncSessionClient().__aenter__()


async def test_verify_false_with_own_tls(home: Path, client_tls: Any) -> None:
    """With TLS settings of one's own, the same account will do."""
    await asyncio.to_thread(save, home, verify=False, instance=CRN_EU)
    async with AsyncSessionClient(ssl=client_tls) as client:
        assert (
            repr(client) == "AsyncSessionClient(base_url='https://eu-de.quantum.cloud.ibm.com/api')"
        )


def test_wrong_arguments_fail_at_once(home: Path) -> None:
    """What is wrong with the arguments or the environment is refused when the client is made,
    without the file.
    """
    save(home)
    wrong: list[dict[str, Any]] = [
        {"account": ""},
        {"account_file": ""},
        {"auth": "key"},
        {"base_url": "x"},
        {"proxy": "socks5://x"},
        {"ssl": 1},
    ]
    for options in wrong:
        with pytest.raises(ConfigurationError):
            AsyncSessionClient(**options)
