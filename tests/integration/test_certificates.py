"""What servers' certificates are checked with, and what is told where one is refused."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from yarl import URL

from qsessions import AsyncSessionClient, ConnectionFailed
from qsessions.emulator import Emulator
from tests.support.authorities import Served, served, sloppy
from tests.support.calls import CREATE, GET, VERSIONS
from tests.support.clients import static_auth
from tests.support.fault_server import FaultServer
from tests.support.shell import Shell
from tests.support.tables import row_of_table

make_default = ssl.create_default_context


@pytest.fixture(autouse=True)
def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this machine's own certificates out of it."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


async def refused(server: FaultServer, **options: Any) -> ConnectionFailed:
    """Return the error of a call, of which the server must hear nothing."""
    async with AsyncSessionClient(static_auth(), base_url=server.url, **options) as client:
        with pytest.raises(ConnectionFailed, match="certificate can't be trusted") as caught:
            await client.get("s1")
    error = caught.value
    assert (error.sent, error.retryable, error.attempts, server.received) == (False, False, 1, [])
    assert "0x" not in str(error)
    return error


def trusting(one: Served, *, strict: bool = False) -> ssl.SSLContext:
    """Return a client's settings that trust an authority."""
    context = make_default(cafile=one.ca_file)
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


UNKNOWN = "its CA is not among those that are trusted"
STRICT = "breaks a rule that Python 3.13 and newer insist on"


async def test_each_refusal_is_told_as_itself(tmp_path: Path) -> None:
    """What is wrong with a certificate is told with what helps against just that."""
    expired = partial(served, days=-1)
    elsewhere = partial(served, host="elsewhere.example")
    not_critical = partial(sloppy, is_critical=False)
    without_key_id = partial(sloppy, has_key_id=False)
    for_clients = partial(sloppy, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    strict = partial(trusting, strict=True)
    rows: list[tuple[Callable[[Path], Served], Callable[[Served], object], str, str, str | None]] = [
        (served, lambda _: None, f"unable to get local issuer certificate; {UNKNOWN}", "load_verify_locations", "ssl"),
        (served, lambda _: make_default(), UNKNOWN, "load_verify_locations", "ssl"),
        (served, lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "ssl= has no CA certificates", "create_default_context()", "ssl"),
        (not_critical, strict, f"Basic Constraints of CA cert not marked critical; a CA's certificate {STRICT}", "~ssl.VERIFY_X509_STRICT", "ssl.verify_flags"),
        (without_key_id, strict, f"Missing Authority Key Identifier; a CA's certificate {STRICT}", "~ssl.VERIFY_X509_STRICT", "ssl.verify_flags"),
        (expired, trusting, "certificate has expired", "this machine's clock", None),
        (elsewhere, trusting, "IP address mismatch", "another host answers", None),
        (for_clients, trusting, "certificate purpose", "needs another certificate", None),
    ]  # fmt: skip
    for number, (issue, context_of, problem, solution, argument) in enumerate(rows):
        folder = tmp_path / str(number)
        with row_of_table(problem):
            await asyncio.to_thread(folder.mkdir)
            one = await asyncio.to_thread(issue, folder)
            context = await asyncio.to_thread(context_of, one)
            async with FaultServer(GET.success, tls=one.settings) as server:
                error = await refused(server, ssl=context)
            assert problem in error.message
            assert solution in (error.solution or "")
            assert error.argument == argument


def code_in(advice: str, ca_file: Path) -> ssl.SSLContext:
    """Run the Python that an advice has, as somebody who follows it."""
    found = re.search(r"(context = .*); pass ssl=context\.", advice)
    assert found is not None
    names: dict[str, Any] = {"ssl": ssl}
    exec(found[1].replace("ca.pem", str(ca_file)), names)  # noqa: S102 - it is our own
    context = names["context"]
    assert isinstance(context, ssl.SSLContext)
    return context


async def test_the_advice_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does what the error says is let in: for an unknown CA, and for one that a strict Python
    refuses.
    """

    def strictly(*args: Any, **options: Any) -> ssl.SSLContext:
        context = make_default(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    unknown = await asyncio.to_thread(served, tmp_path)
    async with FaultServer(GET.success, tls=unknown.settings) as server:
        error = await refused(server)
        context = await asyncio.to_thread(code_in, error.solution or "", unknown.ca_file)
        async with AsyncSessionClient(static_auth(), base_url=server.url, ssl=context) as client:
            await client.get("s1")
    company = await asyncio.to_thread(sloppy, tmp_path, is_critical=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(company.ca_file))
    # As Python 3.13 does.
    monkeypatch.setattr(ssl, "create_default_context", strictly)
    async with FaultServer(GET.success, tls=company.settings) as server:
        error = await refused(server)
        context = await asyncio.to_thread(code_in, error.solution or "", company.ca_file)
        async with AsyncSessionClient(static_auth(), base_url=server.url, ssl=context) as client:
            await client.get("s1")


async def test_a_borrowed_pool_is_told_what_helps_there(tmp_path: Path) -> None:
    """With http= the advice is about the pool, whose own settings count."""
    one = await asyncio.to_thread(served, tmp_path)
    async with FaultServer(GET.success, tls=one.settings) as server:
        async with aiohttp.ClientSession() as pool:
            error = await refused(server, http=pool)
        assert "TCPConnector(ssl=context)" in (error.solution or "")
        context = await asyncio.to_thread(trusting, one)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as pool:
            client = AsyncSessionClient(static_auth(), base_url=server.url, http=pool)
            await client.get("s1")
            await client.aclose()


async def test_what_is_put_right_counts_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE counts though it is set when everything is imported, and for a client that was
    refused before.
    """
    one = await asyncio.to_thread(served, tmp_path)
    async with (
        FaultServer(GET.success, tls=one.settings) as server,
        AsyncSessionClient(static_auth(), base_url=server.url) as client,
    ):
        with pytest.raises(ConnectionFailed, match="can't be trusted"):
            await client.get("s1")
        monkeypatch.setenv("SSL_CERT_FILE", str(one.ca_file))
        assert (await client.get("s1")).id == "s1"
        assert (await client.create(mode="batch")).id == "s1"


async def test_without_ca_certificates_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Python finds no CA certificates, as in slim images and on macOS, or none where a
    variable says, the error says so and how to get some.
    """
    one = await asyncio.to_thread(served, tmp_path)
    empty, hashed = tmp_path / "empty", tmp_path / "hashed"
    await asyncio.to_thread(empty.mkdir)
    await asyncio.to_thread(hashed.mkdir)
    await asyncio.to_thread((hashed / "0a1b2c3d.0").touch)
    nowhere = str(tmp_path / "nowhere.pem")
    paths = await asyncio.to_thread(ssl.get_default_verify_paths)
    bare = paths._replace(openssl_capath=str(empty))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: bare)
    rows: list[tuple[dict[str, str], str, str]] = [
        ({}, "no CA certificates on this machine where Python looks", "package ca-certificates"),
        ({}, "no CA certificates on this machine where Python looks", "Install Certificates.command"),
        ({}, "no CA certificates on this machine where Python looks", "SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": nowhere}, f"SSL_CERT_FILE names {nowhere}, where there are no", "Correct or unset SSL_CERT_FILE."),
        ({"SSL_CERT_DIR": str(empty)}, "no CA certificates on this machine where Python looks", "SSL_CERT_FILE"),
        ({"SSL_CERT_DIR": f"{empty}:{hashed}"}, UNKNOWN, "load_verify_locations"),
    ]  # fmt: skip
    # What a Python without certificates makes, or one that looks into folders later.
    monkeypatch.setattr(
        ssl, "create_default_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    for env, problem, solution in rows:
        with row_of_table(solution), monkeypatch.context() as patched:
            for name, value in env.items():
                patched.setenv(name, value)
            async with FaultServer(GET.success, tls=one.settings) as server:
                error = await refused(server)
            assert problem in error.message
            assert solution in (error.solution or "")


async def test_they_are_loaded_once_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's certificates are loaded at the first connection, once for all who wait, in a
    thread that no cancellation ends.
    """
    one = await asyncio.to_thread(served, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(one.ca_file))
    begun, loading, go_on = [], threading.Event(), threading.Event()

    def load() -> ssl.SSLContext:
        begun.append(threading.current_thread().name)
        loading.set()
        go_on.wait()
        return make_default()

    monkeypatch.setattr(ssl, "create_default_context", load)
    async with (
        FaultServer(GET.success, tls=one.settings) as server,
        # The third call waits for the second one's connection.
        AsyncSessionClient(static_auth(), base_url=server.url, max_concurrency=1) as client,
    ):
        assert begun == []
        first, *others = (asyncio.create_task(client.get("s1")) for _ in range(3))
        await asyncio.to_thread(loading.wait)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        await asyncio.gather(*others)
        await client.get("s1")
    assert begun == ["qsessions-certificates"]


async def test_plain_http_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of an emulator never loads them."""

    def load() -> ssl.SSLContext:
        raise AssertionError

    monkeypatch.setattr(ssl, "create_default_context", load)
    async with (
        FaultServer(GET.success) as server,
        AsyncSessionClient(static_auth(), base_url=server.url) as client,
    ):
        await client.get("s1")


async def test_settings_that_cant_be_made_are_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What OpenSSL says of its own settings comes out as text, of a call that wasn't sent."""

    def load() -> ssl.SSLContext:
        raise ssl.SSLError("no such provider")

    monkeypatch.setattr(ssl, "create_default_context", load)
    for row in (GET, CREATE, VERSIONS):
        client = AsyncSessionClient(static_auth(), base_url="https://127.0.0.1:1")
        with (
            row_of_table(row.name),
            pytest.raises(ConnectionFailed, match="no such provider") as caught,
        ):
            await row(client, timeout=1)
        assert caught.value.sent is False
        await client.aclose()


async def test_a_proxy_that_is_reached_by_tls_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An https proxy's certificate is checked with the same, whatever the service's address."""
    one = await asyncio.to_thread(served, tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(one.ca_file))
    async with (
        FaultServer(GET.success, tls=one.settings) as proxy,
        AsyncSessionClient(
            static_auth(), base_url="http://127.0.0.1:1", proxy=URL(proxy.url)
        ) as client,
    ):
        await client.get("s1")
    assert proxy.received[0].target.startswith("http://127.0.0.1:1/")


async def test_the_doctor_tells_each_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`qsessions doctor` tells the same, in the words of the command line."""
    company = await asyncio.to_thread(sloppy, tmp_path, is_critical=False)

    def strictly() -> ssl.SSLContext:
        context = make_default()
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strictly)
    rows = [
        (str(company.ca_file), "not marked critical", "install qsessions with Python 3.12"),
        (str(tmp_path / "gone.pem"), "names", "Correct or unset SSL_CERT_FILE."),
        (None, UNKNOWN, "in SSL_CERT_FILE"),
    ]
    async with Emulator() as service, FaultServer(GET.success, tls=company.settings) as server:
        env = service.env() | {"QSESSIONS_BASE_URL": server.url}
        for file, problem, advice in rows:
            with row_of_table(problem):
                named = {} if file is None else {"SSL_CERT_FILE": file}
                code, out, _ = await Shell(env | named, tmp_path)("doctor")
                (line,) = [line for line in out.splitlines() if line.startswith("tls")]
                assert code == 3
                assert problem in line
                assert advice in line
                assert "ssl=" not in line.split("can't be trusted")[1]
