"""`qsessions doctor` against what goes wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from qsessions import Clock
from qsessions.cli import service
from qsessions.emulator import Emulator, Fault
from tests.support.clients import CRN
from tests.support.fault_server import FaultServer, hang, http
from tests.support.shell import Shell, error_lines, shell_of, validate
from tests.support.tables import table

VERSIONS = {
    "versions": [{"version": "2025-01-01", "status": "deprecated", "sunset_date": "2027-01-01"}]
}
LIVE = {"versions": [{"version": "2026-04-15", "status": "live"}]}
CHECKS = [
    "credentials",
    "instance",
    "base_url",
    "dns",
    "tls",
    "iam",
    "read",
    "clock",
    "api_version",
    "ledger",
]
# What is ok where there is an emulator, which speaks plain http.
WITHOUT_TLS = [name for name in CHECKS if name != "tls"]


async def report(shell: Shell, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the doctor; return its exit code and the checks by name."""
    code, out, err = await shell("doctor", *arguments, "--json")
    assert err == ""
    value = json.loads(out)
    validate(value, "json", "doctor")
    assert value["ok"] is (code == 0)
    checks = {check["check"]: check for check in value["checks"]}
    assert list(checks) == CHECKS
    # What failed says what to do, and nothing else does.
    assert all((check["status"] == "failed") is bool(check["advice"]) for check in checks.values())
    return code, checks


def statuses(checks: dict[str, dict[str, Any]], status: str) -> list[str]:
    """Return the names of the checks that have a status."""
    return [name for name, check in checks.items() if check["status"] == status]


def dated(status: int, body: object, *, date: float | None = None) -> bytes:
    """Return an answer with a Date header."""
    return http(
        status,
        body,
        headers={"Date": formatdate(time.time() if date is None else date, usegmt=True)},
    )


@pytest.fixture
def nobody() -> Iterator[int]:
    """Return a port on which nothing listens, and nothing can while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def test_all_is_well(tmp_path: Path) -> None:
    """Against an emulator all is ok, the key isn't shown, and each line has its check."""
    async with Emulator() as service:
        shell = Shell(service.env(), tmp_path)
        code, checks = await report(shell)
        assert (code, statuses(checks, "ok")) == (0, WITHOUT_TLS)
        assert service.crn in checks["credentials"]["found"]
        assert checks["base_url"]["found"].startswith(service.url)
        assert checks["dns"]["found"] == "127.0.0.1 is an address already"
        assert re.match(r"DirectoryLedger\('.+/ledger-emulated'\), ", checks["ledger"]["found"])
        assert checks["ledger"]["found"].endswith("isn't set: 0 records")
        code, out, err = await shell("doctor", "--api-version", "latest")
        assert (code, err) == (0, "")
        assert [line.split()[:2] for line in out.splitlines()] == [
            [name, "ok" if name in WITHOUT_TLS else "skipped"] for name in CHECKS
        ]
        assert "2026-04-15, live" in out
        assert service.api_key not in out
        assert "\x1b" not in out
        assert [check["check"] for check in await shell.lines("doctor")] == CHECKS
        _, shown = await shell.on_terminal("doctor")
        assert "\x1b[32mok" in shown
    assert {request.method for request in service.requests} == {"GET", "POST"}
    assert service.sessions == {}


async def test_nothing_is_listening(tmp_path: Path, nobody: int) -> None:
    """Where nothing listens, tls and iam say so, and the exit code is 3."""
    env = {
        "QSESSIONS_BASE_URL": f"http://127.0.0.1:{nobody}",
        "IAM_URL": f"http://127.0.0.1:{nobody}",
        "QISKIT_IBM_TOKEN": "the-secret-key",
        "QISKIT_IBM_INSTANCE": CRN,
    }
    code, checks = await report(Shell(env, tmp_path))
    assert (code, statuses(checks, "failed")) == (3, ["tls", "iam"])
    assert statuses(checks, "skipped") == ["read", "clock", "api_version"]
    assert "can't be reached" in checks["tls"]["found"]


async def test_only_the_service_is_down(tmp_path: Path, nobody: int) -> None:
    """Where IAM answers and the service doesn't, iam is ok and read failed."""
    async with Emulator() as service:
        env = service.env() | {"QSESSIONS_BASE_URL": f"http://127.0.0.1:{nobody}"}
        code, checks = await report(Shell(env, tmp_path))
    assert (code, statuses(checks, "failed")) == (3, ["tls", "read"])
    assert checks["iam"]["status"] == "ok"


async def test_a_wrong_key(tmp_path: Path) -> None:
    """A wrong key is IAM's no: its code is shown, the key isn't, and the exit code is 1."""
    async with Emulator() as service:
        env = service.env() | {"QISKIT_IBM_TOKEN": "a-wrong-secret-key"}
        code, checks = await report(Shell(env, tmp_path))
    assert (code, statuses(checks, "failed"), statuses(checks, "skipped")) == (
        1,
        ["iam"],
        ["tls", "read"],
    )
    assert "BXNIM0415E" in checks["iam"]["found"]
    assert "a-wrong-secret-key" not in json.dumps(checks)


async def test_a_crn_of_another_instance(tmp_path: Path) -> None:
    """A CRN that the service doesn't know is the service's no to the read."""
    async with Emulator() as service:
        code, checks = await report(Shell(service.env() | {"QISKIT_IBM_INSTANCE": CRN}, tmp_path))
    assert (code, statuses(checks, "failed")) == (1, ["read"])
    assert "status 404, code 1279" in checks["read"]["found"]


def server_settings(bundle: Path, until: dt.datetime) -> ssl.SSLContext:
    """Return the TLS settings of a server whose certificate is good until then; write its
    authority's to a file.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(bundle))
    settings = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", not_after=until).configure_cert(settings)
    return settings


@pytest.mark.parametrize(
    ("days", "is_trusted", "problem"),
    [
        (30, True, None),
        (-1, True, "expired"),
        (30, False, "unable to get local issuer"),
    ],
    ids=["good", "expired", "of an authority that nobody knows"],
)
async def test_certificates(
    tmp_path: Path, days: int, *, is_trusted: bool, problem: str | None
) -> None:
    """A certificate that is good is ok; one that has expired or nobody vouches for is reported,
    with exit code 3.
    """
    bundle = tmp_path / "ca.pem"
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    tls = await asyncio.to_thread(server_settings, bundle, until)
    async with (
        Emulator() as service,
        FaultServer(dated(200, VERSIONS), dated(200, {"workloads": []}), tls=tls) as server,
    ):
        env = service.env() | {"QSESSIONS_BASE_URL": server.url}
        if is_trusted:
            env["SSL_CERT_FILE"] = str(bundle)
        code, checks = await report(Shell(env, tmp_path))
    if problem is None:
        assert (code, statuses(checks, "ok")) == (0, CHECKS)
        return
    assert (code, statuses(checks, "failed")) == (3, ["tls", "read"])
    assert problem in checks["tls"]["found"]
    assert "certificate can't be trusted" in checks["tls"]["found"]


async def test_a_clock_an_hour_off(tmp_path: Path) -> None:
    """A clock that is an hour from the service's is reported, which way too, with exit code 2."""
    for offset, direction in ((3600.0, "behind"), (-3600.0, "ahead of")):
        async with Emulator(clock=partial(later, offset)) as service:
            code, checks = await report(Shell(service.env(), tmp_path))
        assert (code, statuses(checks, "failed")) == (2, ["clock"])
        seconds = float(checks["clock"]["found"].split(" s ")[0].split()[-1])
        # The doctor's own tolerance.
        assert abs(seconds - 3600) < 60
        assert direction in checks["clock"]["found"]


def later(seconds: float) -> float:
    """Return the time in so many seconds."""
    return time.time() + seconds


def with_directory(service: Emulator, instance: str) -> dict[str, str]:
    """Return the variables that lead to an emulator and its directory, without its CRN."""
    addresses = dict.fromkeys(("GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"), service.iam_url)
    return service.env() | addresses | {"QISKIT_IBM_INSTANCE": instance}


@table(
    ("instance", "credentials"),
    [
        ("", "from the environment: API key ***, no CRN"),
        ("emulated-1", "from the environment: API key ***, no CRN, an instance's name"),
    ],
)
async def test_an_instance_that_is_looked_up(
    tmp_path: Path, instance: str, credentials: str
) -> None:
    """Where there is no CRN, the instance is looked up, and the report has what was found where."""
    async with Emulator() as service:
        code, checks = await report(Shell(with_directory(service, instance), tmp_path))
    assert (code, statuses(checks, "ok")) == (0, WITHOUT_TLS)
    assert checks["credentials"]["found"] == credentials
    assert checks["instance"]["found"] == (
        f"looked up at 127.0.0.1: emulated-1, pay-as-you-go, us-east, {service.crn}"
    )


async def test_an_instance_that_is_not_found(tmp_path: Path) -> None:
    """A look-up that finds none or several, or fails, is reported with the way out; what needs no
    instance is looked at all the same.
    """
    async with Emulator() as service:
        service.add_instance(plan="open")
        for instance, problem in (
            ("", "the key has several instances: 'emulated-1' (plan pay-as-you-go"),
            ("secret-name", "no instance has the name in QISKIT_IBM_INSTANCE; the key has"),
        ):
            code, checks = await report(Shell(with_directory(service, instance), tmp_path))
            assert (code, statuses(checks, "failed")) == (2, ["instance"])
            assert statuses(checks, "skipped") == ["tls", "iam", "read"]
            assert checks["instance"]["found"].startswith(problem)
            assert "QISKIT_IBM_INSTANCE" in checks["instance"]["advice"]
            assert "secret-name" not in json.dumps(checks)
        service.faults.add(Fault(kind="answer", status=403, operations=["instances"]))
        code, checks = await report(Shell(with_directory(service, ""), tmp_path))
        assert (code, statuses(checks, "failed")) == (1, ["instance"])
        assert "the search for instances at 127.0.0.1" in checks["instance"]["found"]
        # The emulator's own variables say nothing of a directory.
        env = service.env() | {"QISKIT_IBM_INSTANCE": "my-instance"}
        code, checks = await report(Shell(env, tmp_path))
    assert (code, statuses(checks, "failed")) == (2, ["credentials"])
    assert statuses(checks, "skipped") == ["instance", "tls", "iam", "read"]
    assert "the base URL doesn't say where instances are listed" in checks["credentials"]["found"]
    assert "QISKIT_IBM_INSTANCE (the CRN)" in checks["credentials"]["advice"]


async def test_an_account(tmp_path: Path) -> None:
    """The account is where the credentials come from, and one that is named meets no address that
    an emulator left.
    """
    async with Emulator() as service:
        account = {
            "channel": "ibm_quantum_platform",
            "token": service.api_key,
            "instance": service.crn,
        }
        path = tmp_path / ".qiskit" / "qiskit-ibm.json"
        await asyncio.to_thread(path.parent.mkdir)
        await asyncio.to_thread(path.write_text, json.dumps({"mine": account}))
        env = service.env() | {"QISKIT_IBM_TOKEN": "", "QISKIT_IBM_INSTANCE": ""}
        shell = Shell(env, tmp_path)
        code, checks = await report(shell)
        assert (code, statuses(checks, "ok")) == (0, WITHOUT_TLS)
        assert "qiskit-ibm.json" in checks["credentials"]["found"]
        assert service.api_key not in json.dumps(checks)
        assert await shell.data("workloads") == {"workloads": []}
        for choice in (("--account", "mine"), ("--account-file", str(path))):
            code, checks = await report(shell, *choice)
            assert (code, statuses(checks, "failed")) == (2, ["credentials"])
            assert checks["credentials"]["advice"].startswith("Unset IAM_URL.")
        shell.env |= {"IAM_URL": "", "QSESSIONS_BASE_URL": ""}
        shell.env["QISKIT_IBM_URL"] = "https://cloud.invalid"
        code, checks = await report(shell, "--account", "mine", "--account-file", str(path))
        assert str(path) in checks["credentials"]["found"]
        code, checks = await report(shell, "--account", "yours", "--account-file", str(path))
    assert "credentials" in statuses(checks, "failed")
    assert "yours" in checks["credentials"]["found"]


KEY = {"QISKIT_IBM_TOKEN": "the-secret-key", "QISKIT_IBM_INSTANCE": CRN}
ACCOUNT = {"channel": "ibm_quantum_platform", "token": "the-secret-key", "instance": CRN}
PROXIED = KEY | {"QSESSIONS_BASE_URL": "https://quantum.invalid", "IAM_URL": "https://iam.invalid"}
# Variables, an account file, the check that fails, and what its line says.
FORMS: list[tuple[dict[str, str], object, str, tuple[str, ...]]] = [
    (KEY | {"QISKIT_IBM_URL": "https://quantum.cloud.ibm.com"}, None, "credentials",
     ("QISKIT_IBM_URL must be the address of the cloud", "such as https://cloud.ibm.com")),
    ({}, ACCOUNT | {"url": "https://private.us-east.quantum.cloud.ibm.com"}, "credentials",
     ('"url" of the account', "QSESSIONS_PRIVATE_ENDPOINT=true")),
    (KEY | {"QSESSIONS_PRIVATE_ENDPOINT": "maybe"}, None, "credentials",
     ("QSESSIONS_PRIVATE_ENDPOINT must be",)),
    (KEY | {"QISKIT_IBM_TOKEN": "'the-secret-key'"}, None, "credentials",
     ("QISKIT_IBM_TOKEN", "quotation mark", "leave it out")),
    (KEY | {"QISKIT_IBM_TOKEN": "{apikey}"}, None, "credentials", ("placeholder", "fill it in")),
    (KEY | {"QISKIT_IBM_INSTANCE": f'"{CRN}"'}, None, "credentials",
     ("QISKIT_IBM_INSTANCE", "quotation mark", "leave it out")),
    ({}, ACCOUNT | {"token": "<YOUR_KEY>"}, "credentials", ('"token" of the', "fill it in")),
    (KEY | {"QISKIT_IBM_CHANNEL": "ibm_quantum"}, None, "credentials",
     ("the platform of ibm_quantum is gone", "Correct or unset QISKIT_IBM_CHANNEL")),
    ({}, b"", "credentials", ("can't be read: it is empty", "QISKIT_IBM_TOKEN")),
    ({}, "{}".encode("utf-16"), "credentials", ("it is in UTF-16 and must be in UTF-8",)),
    ({}, ACCOUNT | {"proxies": {"https": "http://proxy:1"}}, "credentials",
     ('unknown keys: "https"; addresses go into "urls"', "HTTPS_PROXY")),
    (PROXIED | {"HTTPS_PROXY": "http://user:the-secret-#key@proxy:1"}, None, "tls",
     ("HTTPS_PROXY", "percent-encode it")),
]  # fmt: skip


@pytest.mark.parametrize(("env", "file", "check", "texts"), FORMS)
async def test_forms_that_users_have(
    tmp_path: Path, env: dict[str, str], file: object, check: str, texts: tuple[str, ...]
) -> None:
    """Each form of a setting that can't be meant is told in one line, with the way out and without
    the secret.
    """
    if file is not None:
        content = file if isinstance(file, bytes) else json.dumps({"a": file}).encode()
        path = tmp_path / ".qiskit" / "qiskit-ibm.json"
        await asyncio.to_thread(path.parent.mkdir)
        await asyncio.to_thread(path.write_bytes, content)
    base_url = {"QSESSIONS_BASE_URL": "http://127.0.0.1:1"} if check == "credentials" else {}
    shell = Shell(base_url | env, tmp_path)
    _, out, err = await shell("doctor", "--timeout", "5")
    assert err == ""
    (line,) = (line for line in out.splitlines() if line.split()[0] == check)
    assert line.split()[1] == "failed"
    for text in texts:
        assert text in line
    assert "secret" not in out


async def test_a_base_url_that_is_none(tmp_path: Path) -> None:
    """A base URL that can't be one is reported, and what rests on it is skipped."""
    code, checks = await report(Shell({"QSESSIONS_BASE_URL": "quantum.cloud.ibm.com"}, tmp_path))
    assert (code, statuses(checks, "failed")) == (2, ["credentials", "base_url"])
    assert len(statuses(checks, "skipped")) == 7


async def test_a_host_without_address(tmp_path: Path) -> None:
    """A host that has no address is reported by dns; a proxy, where one is set, looks it up itself."""
    async with Emulator() as service, FaultServer(http(503)) as proxy:
        env = service.env() | {"QSESSIONS_BASE_URL": "https://quantum.invalid/api"}
        code, checks = await report(Shell(env, tmp_path))
        assert (code, statuses(checks, "failed")) == (3, ["dns", "read"])
        assert "quantum.invalid has no address" in checks["dns"]["found"]
        code, checks = await report(Shell(env | {"https_proxy": proxy.url}, tmp_path))
    assert (code, statuses(checks, "failed")) == (3, ["tls", "read"])
    assert "proxy" in checks["dns"]["found"]
    assert "the proxy refused with status 503" in checks["tls"]["found"]


async def test_a_ledger_that_can_not_be_written(tmp_path: Path) -> None:
    """The ledger is written as a create would, and nothing of that is left."""

    def replace(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        folder.rmdir()
        folder.touch()

    async with Emulator() as service:
        shell = Shell(service.env(), tmp_path)
        _, before = await report(shell)
        (folder,) = re.findall(r"'(.+/ledger-emulated)'", before["ledger"]["found"])
        await asyncio.to_thread(replace, Path(folder))
        code, checks = await report(shell)
    assert (code, statuses(checks, "failed")) == (1, ["ledger"])


async def test_no_answer_in_time(tmp_path: Path) -> None:
    """A service or a look-up that takes longer than --timeout is exit code 4."""
    for timeout, failed in (("0.5", ["tls", "iam"]), ("1e-9", ["dns", "iam", "ledger"])):
        async with FaultServer(hang) as server:
            code, checks = await report(shell_of(server, tmp_path), "--timeout", timeout)
        assert (code, statuses(checks, "failed")) == (4, failed)


async def test_a_page_of_somebody_else(tmp_path: Path) -> None:
    """A server that isn't the service is reported where its answers are read, not where the connection
    is.
    """
    async with Emulator() as service, FaultServer(http(200, "<html>Welcome</html>")) as server:
        code, checks = await report(
            Shell(service.env() | {"QSESSIONS_BASE_URL": server.url}, tmp_path)
        )
    assert (code, statuses(checks, "failed")) == (3, ["read", "api_version"])
    assert statuses(checks, "skipped") == ["tls", "clock"]


async def test_a_date_that_is_none(tmp_path: Path) -> None:
    """A Date header that can't be read is as good as none."""
    for date in (
        "yesterday",
        "Mon, 01 Jan 2026 00:00:00 +999999999999999999999",
        "Mon, 01 Jan 2026 00:00:99999999999999999999 GMT",
        "Mon, 01 Jan 99999 00:00:00 GMT",
    ):
        bodies: list[object] = [LIVE, {"workloads": []}]
        answers = (http(200, body, headers={"Date": date}) for body in bodies)
        async with Emulator() as service, FaultServer(*answers) as server:
            shell = Shell(service.env() | {"QSESSIONS_BASE_URL": server.url}, tmp_path)
            code, checks = await report(shell, "--api-version", "latest")
        assert (code, statuses(checks, "skipped")) == (0, ["tls", "clock"]), date


async def test_no_tls_took_place(tmp_path: Path) -> None:
    """A proxy that answers nonsense is reported by tls, which isn't ok."""
    async with Emulator() as service, FaultServer(b"SSH-2.0-x\r\n\r\n") as proxy:
        env = service.env() | {
            "QSESSIONS_BASE_URL": "https://quantum.invalid/api",
            "https_proxy": proxy.url,
        }
        code, checks = await report(Shell(env, tmp_path))
    assert (code, statuses(checks, "failed")) == (3, ["tls", "read"])
    assert "the proxy's answer is not valid HTTP" in checks["tls"]["found"]


async def test_a_list_of_nothing_without_end(tmp_path: Path) -> None:
    """Pages of workloads with nothing on them are no read, however many there are."""
    pages = [
        dated(200, {"workloads": [], "next": {"href": f"?next={number}"}}) for number in range(20)
    ]
    async with Emulator() as service, FaultServer(dated(200, LIVE), *pages) as server:
        shell = Shell(service.env() | {"QSESSIONS_BASE_URL": server.url}, tmp_path)
        code, checks = await report(shell, "--api-version", "latest")
    assert (code, statuses(checks, "failed")) == (3, ["read"])
    assert "with nothing on them" in checks["read"]["found"]


async def test_an_account_file_that_hangs(tmp_path: Path) -> None:
    """An account file that nobody can read to its end holds no line longer than --timeout, and no
    command.
    """
    path = tmp_path / "accounts.json"
    os.mkfifo(path)
    async with FaultServer(dated(200, LIVE)) as server:
        arguments = ("--account-file", str(path), "--timeout", "1", "--base-url", server.url)
        shell = Shell({}, tmp_path)
        code, checks = await report(shell, "--api-version", "latest", *arguments)
    assert (code, statuses(checks, "failed")) == (4, ["credentials"])
    assert "file system" in checks["credentials"]["advice"]
    code, _, err = await shell("versions", *arguments)
    assert code == 4
    assert "reading the account file" in error_lines(err)[0]


async def test_api_versions(tmp_path: Path) -> None:
    """A version that the service doesn't have, or no longer serves, is reported."""
    (deprecated,) = VERSIONS["versions"]
    past_its_sunset = [deprecated | {"sunset_date": "2026-01-01"}, *LIVE["versions"]]
    for listed, version, problem in (
        (LIVE, "2025-01-01", "has no version 2025-01-01"),
        ({"versions": past_its_sunset}, "2025-01-01", "no longer served"),
        (VERSIONS, "latest", "no live API version"),
    ):
        async with (
            Emulator() as service,
            FaultServer(dated(200, listed), dated(200, {"workloads": []})) as server,
        ):
            shell = Shell(service.env() | {"QSESSIONS_BASE_URL": server.url}, tmp_path)
            code, checks = await report(shell, "--api-version", version)
        assert (code, checks["api_version"]["status"]) == (2, "failed"), problem
        assert problem in checks["api_version"]["found"]


async def test_wrong_use(tmp_path: Path) -> None:
    """An option that can't be right is wrong use, reported in two lines before anything is looked
    at.
    """
    for option, value in (("timeout", "soon"), ("api-version", "newest")):
        code, out, err = await Shell({}, tmp_path)("doctor", f"--{option}", value)
        assert (code, out) == (2, ""), option
        assert value in error_lines(err)[0]


SUNSET = dt.datetime(2027, 1, 1, tzinfo=dt.UTC).timestamp()
BEFORE = (
    "the default of the API's own description; from 2027-01-01, its sunset, it is 2026-04-15, the "
    "newest version that qsessions is tested with"
)
SINCE = (
    "the newest version that qsessions is tested with; until 2027-01-01, its sunset, it was "
    "2025-01-01, the default of the API's own description"
)


@table(
    ("now", "version", "status", "why"),
    [
        (SUNSET - 86_400, "2025-01-01", "deprecated, served until 2027-01-01", BEFORE),
        (SUNSET - 0.001, "2025-01-01", "deprecated, served until 2027-01-01", BEFORE),
        (SUNSET, "2026-04-15", "live, no sunset set", SINCE),
        (SUNSET + 86_399, "2026-04-15", "live, no sunset set", SINCE),
    ],
)
async def test_the_day_of_the_default_versions_sunset(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    now: float,
    version: str,
    status: str,
    why: str,
) -> None:
    """doctor and versions say which API version calls ask for by default, why and until when; on the
    day of its sunset, and from then on, they name the next one, which is what is sent.
    """
    monkeypatch.setattr(service, "CLOCK", Clock(wall=lambda: now))
    async with Emulator(clock=lambda: now) as emulator:
        shell = Shell(emulator.env(), tmp_path)
        _, checks = await report(shell)
        assert checks["api_version"]["status"] == "ok"
        assert checks["api_version"]["found"] == f"{version}, {status}: {why}"
        _, shown = await shell.on_terminal("doctor", NO_COLOR="1")
        assert f"api_version  ok       {version}, {status}: {why}\n" in shown
        code, out, err = await shell("versions")
        assert (code, out.split()[:3]) == (0, ["version", "status", "sunset_date"])
        assert err == (
            f"qsessions versions: calls ask for {version}, {why}. "
            "To ask for another: --api-version DATE\n"
        )
        assert (await shell("workloads"))[0] == 0
        sent = {
            request.headers["ibm-api-version"]
            for request in emulator.requests
            if request.path.endswith("/workloads")
        }
        assert sent == {version}


async def test_a_version_that_was_asked_for_is_said_to_be(tmp_path: Path) -> None:
    """With --api-version, doctor says whose choice the version is, and versions says nothing."""
    async with Emulator() as emulator:
        shell = Shell(emulator.env(), tmp_path)
        for option, found in (
            (
                "latest",
                "2026-04-15, live, no sunset set: the newest live one, as --api-version says",
            ),
            ("2026-04-15", "2026-04-15, live, no sunset set: as --api-version says"),
        ):
            _, checks = await report(shell, "--api-version", option)
            assert checks["api_version"]["found"] == found
            assert (await shell("versions", "--api-version", option))[::2] == (0, "")
