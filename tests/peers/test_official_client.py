"""The official Python client, unmodified, against the emulator."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qsessions import AsyncSessionClient, ConfigurationError, SessionClient
from qsessions.config.resolve import resolve
from qsessions.config.settings import SettingsLoader
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.clients import CRN
from tests.support.fault_server import FaultServer, http
from tests.support.official_client import OfficialClient, Raised, discovery
from tests.support.threaded import threaded

BACKENDS = {"ibm_fez", "ibm_torino", "ibm_marrakesh"}


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that starts now: the client looks at the real time to see whether its token is
    still good.
    """
    return ManualClock(now=time.time())


def test_runtime_client(official: OfficialClient, clock: ManualClock) -> None:
    """Its RuntimeClient creates, reads, closes and cancels sessions, with one token that it decodes
    and renews in time.
    """
    with (
        ThreadedEmulator(Emulator(clock=clock.wall, seed=1)) as emulator,
        official.on(emulator) as client,
    ):
        client("(api := runtime_client()) and None")
        create = "api.create_session('ibm_fez', api._instance, 600, 'dedicated')['id']"
        first, second = client(f"(first := {create})"), client(f"(second := {create})")

        client("api.program_run('sampler', 'ibm_fez', {}, None, None, first)['id']")
        details = client("api.session_details(first)")
        assert (details["state"], details["max_ttl"]) == ("active", 600)
        client("api.close_session(first)")
        assert not emulator.sessions[first].accepting_jobs
        clock.advance(2)
        assert client("api.session_details(first)")["state"] == "closed"

        client("api.cancel_session(second)")
        assert emulator.sessions[second].state == "closed"
        client("api.close_session('unknown')")  # it takes a 404 as done
        with pytest.raises(Raised, match=r"^RequestsApiError: '404 .*Session not found"):
            client("api.session_details('unknown')")

        (exchange,) = (
            request for request in emulator.requests if request.path == "/identity/token"
        )
        assert "response_type=cloud_iam" in exchange.body
        expires, refreshes = client(
            "[api._session.auth.tm.expire_time, api._session.auth.tm.refresh_time]"
        )
        assert (expires, refreshes) == (int(exchange.at) + 3600, int(exchange.at) + 2880)
        for request in emulator.requests[1:]:
            assert request.headers["authorization"] == "Bearer <token>"
            assert request.headers["ibm-api-version"] == "2026-04-15"


@pytest.mark.parametrize(("kind", "other"), [("Session", "Batch"), ("Batch", "Session")])
def test_sessions_and_batches(
    official: OfficialClient, clock: ManualClock, kind: str, other: str
) -> None:
    """Session and Batch are made, found again, read, closed and cancelled, from a service that was
    made as users make it.
    """
    with (
        ThreadedEmulator(Emulator(clock=clock.wall, seed=1)) as emulator,
        official.on(emulator, **discovery(emulator)) as client,
    ):
        client("(found := service()) and (backend := found.backend('ibm_fez')) and None")
        session_id = client(f"(session := {kind}(backend, max_time='10m')).session_id")
        assert client("session.status()") == "Pending"
        assert client("session.usage()") == 0

        emulator.submit_job(session_id, seconds=5)
        clock.advance(20)
        assert client("session.status()") == "In progress, accepting new jobs"
        usage = {"Session": 20, "Batch": 5}[kind]
        assert client("session.usage()") == usage
        details = client("session.details()")
        assert details["id"] == session_id
        assert details["mode"] == {"Session": "dedicated", "Batch": "batch"}[kind]
        assert (details["max_time"], details["interactive_timeout"]) == (600, 60)
        assert [change["status"] for change in details["timestamps"]] == ["open", "active"]

        emulator.submit_job(session_id, seconds=5)
        again = f"(again := {kind}.from_id(session.session_id, found))"
        assert client(f"{again}.details()") == client("session.details()")
        with pytest.raises(Raised, match=r"IBMInputValueError: .* execution mode"):
            client(f"{other}.from_id(session.session_id, found)")
        client("again.close()")
        assert client("session.status()") == "In progress, not accepting new jobs"
        client("session.cancel()")
        assert client("session.status()") == "Closed"
        with pytest.raises(Raised, match=r"IBMInputValueError: .*Session not found"):
            client(f"{kind}.from_id('unknown', found)")


@pytest.mark.parametrize("kind", ["Session", "Batch"])
def test_a_session_that_is_closed_inside_its_block(
    official: OfficialClient, clock: ManualClock, kind: str
) -> None:
    """A session that is closed inside its `with` is closed once more at its end, which is no error
    and reopens nothing.
    """
    with (
        ThreadedEmulator(Emulator(clock=clock.wall, seed=1)) as emulator,
        official.on(emulator, **discovery(emulator)) as client,
    ):
        session_id = client(f"closed_in_block({kind}, service().backend('ibm_fez'))")
        assert emulator.sessions[session_id].state == "closed"
        drains = [request.status for request in emulator.requests if request.operation == "update"]
        assert drains == [204, 204]


def test_backends_and_instances(official: OfficialClient, clock: ManualClock) -> None:
    """It sees every backend, the shortest queue and the plan, and transpiles for what the emulator
    says of a backend.
    """
    with (
        ThreadedEmulator(Emulator(clock=clock.wall, seed=1, plan="open")) as emulator,
        official.on(emulator, **discovery(emulator)) as client,
    ):
        for name in ("ibm_fez", "ibm_torino"):
            emulator.submit_job(backend=name, seconds=100)
        client("(found := service()) and None")
        (instance,) = client("found.instances()")
        assert (instance["crn"], instance["plan"]) == (emulator.crn, "open")
        assert set(client("[backend.name for backend in found.backends()]")) == BACKENDS

        assert client("(backend := found.least_busy()).name") == "ibm_marrakesh"
        status = "(status := found.backend('ibm_fez').status()) and [status.operational, status.pending_jobs]"
        assert client(status) == [True, 1]

        gates = "transpile(entangler(), backend, seed_transpiler=1).count_ops()"
        assert set(client(gates)) <= {"rz", "sx", "x", "cz", "measure", "barrier"}
        assert client("[backend.num_qubits, backend.properties().t1(0), backend.dt]") == [
            5,
            pytest.approx(150e-6),
            pytest.approx(4e-9),
        ]

        with pytest.raises(Raised, match=r"^RequestsApiError: '400 .*1352"):
            client("Session(backend)")
        with pytest.raises(Raised, match="QiskitBackendNotFoundError"):
            client("found.backend('ibm_none')")


def test_what_insists_on_the_internet(official: OfficialClient, clock: ManualClock) -> None:
    """Without GLOBAL_SEARCH_URL the service's constructor looks for the account's instances at IBM
    Cloud, and there only.
    """
    # A proxy that refuses, so that nothing leaves this machine and the test sees where it would
    # have gone.
    with (
        threaded(FaultServer(http(403))) as proxy,
        ThreadedEmulator(Emulator(clock=clock.wall)) as emulator,
    ):
        variables = {"HTTPS_PROXY": proxy.server.url, "NO_PROXY": "127.0.0.1"}
        with (
            official.on(emulator, **variables) as client,
            pytest.raises(Raised, match="InvalidAccountError: 'Unable to retrieve instances"),
        ):
            client("service()")
        (refused,) = proxy.server.received
        assert (refused.method, refused.target) == (
            "CONNECT",
            "api.global-search-tagging.cloud.ibm.com:443",
        )
        assert Counter(request.path for request in emulator.requests) == {"/identity/token": 1}


OLD = "ibm_quantum"
CHANNELS = ["ibm_quantum_platform", "ibm_cloud", OLD, "another"]
NAMES = ["default-ibm-quantum-platform", "default-ibm-cloud", "default-ibm-quantum", "a", "b"]
URLS = ["https://cloud.ibm.com", "https://test.cloud.ibm.com"]
ACCOUNTS = st.dictionaries(
    st.sampled_from(NAMES),
    st.fixed_dictionaries(
        {
            "channel": st.sampled_from(CHANNELS[:2]) | st.sampled_from(CHANNELS),
            "url": st.sampled_from(URLS),
            "instance": st.sampled_from([CRN, CRN.replace("us-east", "eu-de")]),
            "is_default_account": st.sampled_from(
                [False, False, False, 0, "", None, True, 1, "yes"]
            ),
            "private_endpoint": st.booleans(),
        },
    ),
)
CHANNEL = st.sampled_from(["", *CHANNELS])
VARIABLES = st.fixed_dictionaries({}, optional={"QISKIT_IBM_CHANNEL": CHANNEL}) | (
    st.fixed_dictionaries(
        {
            "QISKIT_IBM_INSTANCE": st.just(CRN),
            "QISKIT_IBM_TOKEN": st.sampled_from(["", "the environment's"]),
            "QISKIT_IBM_URL": st.sampled_from(["", *URLS]),
            "QISKIT_IBM_CHANNEL": CHANNEL,
        }
    )
)


def test_the_account_that_is_taken(
    official: OfficialClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any accounts and variables, qsessions takes the account that the client takes, and calls
    the same address. Where the client refuses what it comes to, so does qsessions, except that
    accounts of the old channel are as good as not there.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".qiskit" / "qiskit-ibm.json"
    file.parent.mkdir()

    @given(
        accounts=ACCOUNTS,
        variables=VARIABLES,
        name=st.sampled_from([None, None, None, *NAMES]),
    )
    @settings(max_examples=1000)
    def compare(
        accounts: dict[str, dict[str, Any]], variables: dict[str, str], name: str | None
    ) -> None:
        def taken_by_official() -> Any:
            return client(f"account({str(file)!r}, {name!r}, {variables!r})")

        for each, account in accounts.items():
            account["token"] = f"{each}'s"
        file.write_text(json.dumps(accounts))
        ours = taken(name, variables)
        if (expected := taken_by_official()) is None:
            usable = {key: each for key, each in accounts.items() if each["channel"] != OLD}
            file.write_text(json.dumps(usable))
            expected = taken_by_official()
        assert ours == expected

    with official.on(None) as client:
        compare()


def taken(name: str | None, variables: dict[str, str]) -> list[str] | None:
    """Return key, instance and base URL of the account that qsessions takes, or None."""
    try:
        found = resolve(None, account=name, environ=variables)
        loaded = found.load_blocking() if isinstance(found, SettingsLoader) else found
    except ConfigurationError:
        return None
    (key,) = loaded.providers[0]._tokens._request.secrets  # type: ignore[attr-defined]
    return [key, loaded.instance or "", f"{loaded.base_url}/v1"]


async def ours(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> str | set[str]:
    """Return the CRN that qsessions finds with these variables, or those that its error lists."""
    for name, value in variables.items():
        patch.setenv(name, value)
    async with AsyncSessionClient() as client:
        try:
            return str(await client.resolve_instance())
        except ConfigurationError as error:
            fits = error.message if error.message.startswith(("the key has", "2 ", "3 ")) else ""
            return set(re.findall(r"crn:[^)]*", fits))


@pytest.fixture
def directory() -> Iterator[ThreadedEmulator]:
    """Yield an emulator whose account has instances that differ in what they can be found by."""
    with ThreadedEmulator(Emulator(clock=time.time)) as emulator:
        emulator.add_instance(name="Free", plan="open", tags=["team-a"])
        emulator.add_instance(name="europe", region="eu-de", tags=["team-a", "night"])
        emulator.add_instance(name="twin", plan="open", region="eu-de", tags=["night"])
        emulator.add_instance(name="twin", tags=["team-a"])
        yield emulator


def test_the_same_instance(
    official: OfficialClient,
    directory: ThreadedEmulator,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For each account without a CRN, qsessions takes the one instance that the official client
    does, and where that goes on with several or finds none, the error lists them or says so.
    """
    file = home / ".qiskit" / "qiskit-ibm.json"
    file.parent.mkdir()
    variables = directory.env() | discovery(directory)
    variables |= {"QISKIT_IBM_TOKEN": "", "QISKIT_IBM_INSTANCE": ""}
    accounts: list[dict[str, object]] = [
        {"instance": "Free"},
        {"instance": "free"},
        {"instance": "twin"},
        {"instance": "europe", "region": "us-east"},
        {"instance": "auto", "region": "us-east", "tags": ["Team-A"]},
        {"region": "eu-de", "tags": ["night", "team-a"]},
        {"plans_preference": ["premium", "Open"], "region": "us-east"},
        {"plans_preference": ["pay-as-you-go"], "tags": ["night"]},
        {"plans_preference": ["flex"]},
        {"tags": ["team-a", "none"]},
        {"region": "", "plans_preference": [], "tags": []},
    ]
    chosen = "[s._account.instance, s._saved_instances, s._backend_instance_groups]"
    known = {"channel": "ibm_quantum_platform", "token": directory.api_key}
    outcomes: Counter[int] = Counter()
    with official.on(directory, **variables) as client:
        for account in accounts:
            file.write_text(json.dumps({"a": known | account}), encoding="utf-8")
            found = asyncio.run(ours(monkeypatch, variables))
            try:
                instance, saved, groups = client(
                    f"[(s := service({str(file)!r})) and 0, {chosen}][1]"
                )
            except Raised as error:
                # It found none.
                assert re.search("No matching instances|not a valid instance", str(error))  # noqa: PT017
                instance, saved, groups = None, [], []
            theirs = {instance, *saved} - {None} or {group["crn"] for group in groups}
            outcomes[min(len(theirs), 2)] += 1
            assert found == (min(theirs) if len(theirs) == 1 else theirs), account
    assert set(outcomes) == {0, 1, 2}


def test_the_same_list(
    official: OfficialClient, directory: ThreadedEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both list the same instances, over more than one page, by the same query with the same
    fields.
    """
    for _ in range(100):
        directory.add_instance(plan="open")
    variables = directory.env() | discovery(directory)
    with official.on(directory, **variables) as client:
        listed = client("service().instances()")
    before = len(directory.requests)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with SessionClient() as ours:
        assert [(each.crn, each.plan, each.name, list(each.tags)) for each in ours.instances()] == [
            tuple(each[name] for name in ("crn", "plan", "name", "tags")) for each in listed
        ]
    assert len(listed) == 105
    bodies = [
        {
            json.dumps(json.loads(request.body) | {"search_cursor": None})
            for request in requests
            if request.path == "/v3/resources/search"
        }
        for requests in (directory.requests[:before], directory.requests[before:])
    ]
    assert bodies[0] == bodies[1]
