"""QSESSIONS_INSECURE_HOSTS: the hosts of one network that plain http may go to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from qsessions import (
    AsyncSessionClient,
    ConfigurationError,
    IBMCloudAPIKey,
    IBMCloudAuth,
    ServiceCRN,
    SessionClient,
)
from qsessions.config.checks import checked_insecure_hosts
from qsessions.http import plain_http
from tests.support.calls import SESSION
from tests.support.clients import CRN
from tests.support.fault_server import Connection, FaultServer, http
from tests.support.shell import GRANT, Shell, error_lines
from tests.support.tables import table

VARIABLE = "QSESSIONS_INSECURE_HOSTS"
HOSTS = "service:9000, iam:8080,search:9001,catalog"
KEY = "pLaNtEd-key-0123456789"
ANSWERS = {
    "/identity/token": GRANT,
    "/v1/versions": http(200, {"versions": [{"version": "2025-01-01", "status": "live"}]}),
    "/v1/sessions/s1": http(200, SESSION),
    "/v1/workloads": http(200, {"workloads": []}),
}


@pytest.fixture(autouse=True)
def nobody_was_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no host warned of yet in this process."""
    monkeypatch.setattr(plain_http, "_WARNED", set())


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultServer]:
    """Yield a proxy on this machine behind which every host is; the environment leads to it, and
    the service and IAM have names.
    """

    async def answer(connection: Connection) -> None:
        path = URL(server.received[-1].target).path
        await connection.write(ANSWERS.get(path, http(404, {})))

    server = FaultServer(answer)
    async with server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.setenv("QSESSIONS_BASE_URL", "http://service:9000")
        monkeypatch.setenv("IAM_URL", "http://iam:8080")
        yield server


def asked(network: FaultServer) -> list[str]:
    """Return which hosts were asked, each once, in order."""
    return list(dict.fromkeys(URL(request.target).authority for request in network.received))


@table(
    ("value", "hosts"),
    [
        ("", set()),
        (" ", set()),
        ("emulator:9000,other:8080", {("emulator", 9000), ("other", 8080)}),
        (" Emulator:9000 , OTHER ", {("emulator", 9000), ("other", 80)}),
        ("my_emulator-1.internal:1", {("my_emulator-1.internal", 1)}),
        ("10.0.0.7:8000,[fd00:0::7]:8000,[fd00::8]", {("10.0.0.7", 8000), ("fd00::7", 8000), ("fd00::8", 80)}),
        ("notcloud.ibm.com:80", {("notcloud.ibm.com", 80)}),
    ],
)  # fmt: skip
def test_what_it_names(value: str, hosts: set[tuple[str, int]]) -> None:
    """Each host is named with its port; without one it is plain http's own, 80."""
    assert checked_insecure_hosts({VARIABLE: value}) == hosts


@table(
    ("value", "number"),
    [
        (",", 1),
        ("a:1,", 2),
        ("a:1,,b:2", 2),
        ("a:1;b:2", 1),
        ("a:1 b:2", 1),
        ("http://a:1", 1),
        ("a:1/api", 1),
        ("user:pLaNtEd@a:1", 1),
        ("*:80", 1),
        ("*.internal:80", 1),
        (".internal:80", 1),
        ("a.:80", 1),
        ("a:", 1),
        (":80", 1),
        ("a:b", 1),
        ("a:65536", 1),
        ("a:1,[fd00::7:8000", 2),
        ("fd00::7", 1),
        ("[1]:80", 1),
        ("'a:1'", 1),
    ],
)
def test_what_is_malformed(monkeypatch: pytest.MonkeyPatch, value: str, number: int) -> None:
    """Whatever else is refused when a client is made, with the variable's name, and not repeated."""
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, value)
        for make in (AsyncSessionClient, SessionClient):
            with pytest.raises(ConfigurationError) as caught:
                make([], base_url="https://service")
            assert caught.value.message == (
                f"{VARIABLE} must list hosts with their ports, separated by commas, such as "
                "emulator:9000,other:8080 (without a port it is 80); "
                f"number {number} is none."
            )
            assert caught.value.solution == f"Correct or unset {VARIABLE}."


@table(
    "host",
    ["cloud.ibm.com", "quantum.cloud.ibm.com", "eu-de.Quantum.Cloud.IBM.com:80", "iam.cloud.ibm.com:8080"],
)  # fmt: skip
def test_the_cloud_is_never_named(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """IBM Cloud's own hosts are refused, whatever else is named, and the error says so."""
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, f"emulator:9000,{host}")
        with pytest.raises(
            ConfigurationError, match="no key goes to IBM Cloud in plain http"
        ) as it:
            AsyncSessionClient([], base_url="https://service")
    assert it.value.message.startswith(f"{VARIABLE} can't name ")


@table(
    "url",
    [
        "http://service",
        "http://service:9001",
        "http://a.service:9000",
        "http://service.internal:9000",
        "http://catalog:443",
        "http://10.0.0.7:9000",
        "http://quantum.cloud.ibm.com",
    ],
)
async def test_nothing_else_is_meant(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Another port, another host or a host within one that is named isn't; the error names the
    variable.
    """
    monkeypatch.setenv(VARIABLE, HOSTS)
    with pytest.raises(ConfigurationError, match="is plain http") as caught:
        AsyncSessionClient([], base_url=url)
    assert caught.value.solution == (
        f"Use https, name the host and its port in {VARIABLE}, or pass allow_insecure=True."
    )


@table("is_named", [False, True])
@table("argument", [False, True])
async def test_service_and_iam(
    network: FaultServer, monkeypatch: pytest.MonkeyPatch, *, is_named: bool, argument: bool
) -> None:
    """The service and IAM are reached by plain http where both are named, whether their addresses
    are arguments or in the environment; where they aren't, nothing is sent.
    """
    network.received.clear()
    with monkeypatch.context() as patch:
        auth = IBMCloudAuth(KEY, "http://iam:8080" if argument else None)
        options: dict[str, Any] = {"base_url": "http://service:9000"} if argument else {}
        # With IAM alone unnamed, its key is kept back, too.
        patch.setenv(VARIABLE, HOSTS if is_named else "service:9000")
        async with AsyncSessionClient([auth, ServiceCRN(CRN)], **options) as client:
            if is_named:
                assert (await client.get("s1")).id == "s1"
            else:
                with pytest.raises(ConfigurationError, match="http://iam:8080 is plain http"):
                    await client.get("s1")
        assert asked(network) == (["iam:8080", "service:9000"] if is_named else [])


async def test_the_look_up_services(network: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Global Search is reached by plain http only where it is named."""
    monkeypatch.setenv("QISKIT_IBM_TOKEN", KEY)
    monkeypatch.setenv("GLOBAL_SEARCH_URL", "http://search:9001")
    monkeypatch.setenv("GLOBAL_CATALOG_URL", "http://catalog")
    monkeypatch.setenv(VARIABLE, "service:9000,iam:8080")
    async with AsyncSessionClient() as client:
        with pytest.raises(ConfigurationError, match="http://search:9001 is plain http"):
            await client.instances()
    monkeypatch.setenv(VARIABLE, HOSTS)
    async with AsyncSessionClient() as client:
        with pytest.raises(Exception, match="the search for instances at search"):
            await client.instances()
    assert asked(network)[-1] == "search:9001"


async def test_the_synchronous_client(
    network: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The synchronous client reads the variable as the asynchronous one does."""

    def read() -> str:
        with SessionClient([IBMCloudAuth(KEY), ServiceCRN(CRN)]) as client:
            return client.get("s1").id

    with pytest.raises(ConfigurationError, match="http://service:9000 is plain http"):
        await asyncio.to_thread(read)
    monkeypatch.setenv(VARIABLE, HOSTS)
    assert await asyncio.to_thread(read) == "s1"


async def test_the_command_line(network: FaultServer, tmp_path: Path) -> None:
    """A command reads it too, and warns of each host once; without it, it says what to set."""
    shell = Shell(
        {
            "HTTP_PROXY": network.url,
            "QSESSIONS_BASE_URL": "http://service:9000",
            "IAM_URL": "http://iam:8080",
            "QISKIT_IBM_TOKEN": KEY,
            "QISKIT_IBM_INSTANCE": CRN,
        },
        tmp_path,
    )
    code, _, err = await shell("get", "s1")
    what, advice = error_lines(err)
    assert (code, "http://service:9000 is plain http" in what) == (2, True)
    assert advice == f"Use https, or name the host and its port in {VARIABLE}."
    shell.env[VARIABLE] = HOSTS
    code, out, err = await shell("get", "s1", "--json")
    assert (code, json.loads(out)["id"]) == (0, "s1")
    assert err.splitlines() == [
        f"qsessions: http://{host} is plain http, which {VARIABLE} allows: others on its network "
        "can read the credentials"
        for host in ("service:9000", "iam:8080")
    ]
    # A process warns once.
    assert (await shell("get", "s1"))[2] == ""
    shell.env[VARIABLE] = "service:9000;iam:8080"
    code, _, err = await shell("get", "s1")
    assert (code, f"{VARIABLE} must list hosts" in err) == (2, True)


async def test_the_doctor(network: FaultServer, tmp_path: Path) -> None:
    """The doctor asks the named hosts and says why there is no TLS; a malformed value fails its
    first check.
    """
    shell = Shell(
        {
            "HTTP_PROXY": network.url,
            "QSESSIONS_BASE_URL": "http://service:9000",
            "IAM_URL": "http://iam:8080",
            "QISKIT_IBM_TOKEN": KEY,
            "QISKIT_IBM_INSTANCE": CRN,
            VARIABLE: HOSTS,
        },
        tmp_path,
    )
    _, out, _ = await shell("doctor", "--json")
    checks = {check["check"]: check for check in json.loads(out)["checks"]}
    assert checks["tls"]["found"] == f"none: plain http, which {VARIABLE} allows to service:9000"
    assert checks["iam"]["found"] == "iam gave a token for 60 minutes"
    assert [name for name, check in checks.items() if check["status"] == "failed"] == []
    shell.env[VARIABLE] = "service:9000;iam:8080"
    code, out, _ = await shell("doctor", "--json")
    first = json.loads(out)["checks"][0]
    assert (code, first["status"]) == (2, "failed")
    assert VARIABLE in first["found"]
    assert VARIABLE in first["advice"]


async def test_it_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning is logged once per process for each host that is used, however many clients."""
    monkeypatch.setenv(VARIABLE, HOSTS)
    for url in ("http://service:9000", "http://service:9000/api", "http://catalog") * 2:
        await AsyncSessionClient([], base_url=url).aclose()
    await AsyncSessionClient([], base_url="https://search:9001").aclose()
    await AsyncSessionClient([], base_url="http://127.0.0.1:9001").aclose()
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in told] == [
        f"http://{host} is plain http, which {VARIABLE} allows: others on its network can read the "
        "credentials"
        for host in ("service:9000", "catalog")
    ]


@table(
    ("variable", "proxy"),
    [
        ("HTTP_PROXY", "http://proxy.example:3128"),
        ("proxy=", "http://proxy.example:3128"),
        ("proxy=", "https://tls.example:3128"),
        # Another port of a host that is named.
        ("HTTP_PROXY", "http://search:3128"),
    ],
)
async def test_a_proxy_that_is_another_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, proxy: str
) -> None:
    """What is named may be reached in plain http through a proxy only where that is this machine or
    is named too, as the advice says; the warning doesn't call a proxy with TLS plain http.
    """
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, HOSTS)
        options: dict[str, Any] = {"base_url": "http://service:9000"}
        if variable == "proxy=":
            options["proxy"] = proxy
        else:
            patch.setenv(variable, proxy)
        with pytest.raises(ConfigurationError, match="the proxy is another machine") as caught:
            AsyncSessionClient([], **options)
        assert URL(proxy).authority in caught.value.message
        assert f"name the proxy and its port in {VARIABLE}" in str(caught.value.solution)
        patch.setenv(VARIABLE, f"{HOSTS},{URL(proxy).authority}")
        await AsyncSessionClient([], **options).aclose()
        assert f"{proxy} is a proxy for plain http, which" in caplog.text
        patch.setenv(VARIABLE, HOSTS)
        patch.setenv("NO_PROXY", "service")
        if variable != "proxy=":
            await AsyncSessionClient([], **options).aclose()


async def test_no_named_account_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of a named account isn't sent to a named host that the environment left behind, no
    more than to an emulator on this machine; nor is the cloud's key, to look up an instance.
    """
    monkeypatch.setenv(VARIABLE, HOSTS)
    monkeypatch.setenv("IAM_URL", "http://iam:8080")
    with pytest.raises(ConfigurationError, match=r"^IAM_URL is an address in plain http"):
        AsyncSessionClient(account="mine")
    # A key of the caller's own goes where the caller says.
    await AsyncSessionClient(IBMCloudAPIKey("k"), account="mine").aclose()
    monkeypatch.delenv("IAM_URL")
    monkeypatch.setenv("GLOBAL_SEARCH_URL", "http://search:9001")
    monkeypatch.setenv("QISKIT_IBM_TOKEN", KEY)
    with pytest.raises(ConfigurationError, match="GLOBAL_SEARCH_URL is an address in plain http"):
        AsyncSessionClient()
