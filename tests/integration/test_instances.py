"""The look-up of an instance whose CRN isn't given, over the emulator's directory and over answers
that no well-formed one gives.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    AuthProvider,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    Instance,
    InstanceLookupFailed,
    InstanceNotFound,
    LocalLedger,
    NotFound,
    ProtocolError,
    QSessionsError,
    RetryPolicy,
    ServiceCRN,
    SessionClient,
    TokenExchangeFailed,
    Unauthorized,
    reap,
)
from qsessions.emulator import Emulator, Fault
from qsessions.testing import ManualClock
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.clients import CRN
from tests.support.event_loop import past_deadline
from tests.support.fault_server import FaultServer, hang, held, http, reset
from tests.support.tables import table

ONCE = RetryPolicy(max_attempts=1)
CRN_EU = CRN.replace("us-east", "eu-de")
GRANT = http(200, {"access_token": "the-token", "expires_in": 3600})


def lead_to(service: Emulator | ThreadedEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the emulator's addresses into the environment, those of its directory too."""
    monkeypatch.setenv("QSESSIONS_BASE_URL", service.url)
    for name in ("IAM_URL", "GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"):
        monkeypatch.setenv(name, service.iam_url)


@pytest.fixture
def service(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Return the emulator, with its addresses in the environment, and no credentials."""
    lead_to(emulator, monkeypatch)
    return emulator


@pytest.fixture
def several(service: Emulator) -> Emulator:
    """Return the emulator with several instances: each differs from each in something."""
    service.add_instance(name="open", plan="open", tags=["team-a"])
    service.add_instance(name="europe", region="eu-de", tags=["team-a", "night"])
    for region in ("us-east", "eu-de"):
        service.add_instance(name="twin", plan="open", region=region, tags=["twin"])
    return service


def searches(service: Emulator) -> int:
    """Return how often Global Search was asked."""
    return [request.path for request in service.requests].count("/v3/resources/search")


def save(home: Path, **fields: object) -> None:
    """Write the official client's file with one account, or remove it."""
    folder = home / ".qiskit"
    folder.mkdir(exist_ok=True)
    (folder / "qiskit-ibm.json").unlink(missing_ok=True)
    if not fields:
        return
    accounts = {"a": {"channel": "ibm_quantum_platform"} | fields}
    (folder / "qiskit-ibm.json").write_text(json.dumps(accounts), encoding="utf-8")


@table(
    ("environment", "account", "is_given"),
    [
        # A key alone.
        ({"QISKIT_IBM_TOKEN": "key"}, None, False),
        ({"QISKIT_IBM_TOKEN": "key", "QISKIT_IBM_INSTANCE": ""}, None, False),
        ({"QISKIT_IBM_TOKEN": "key", "QISKIT_IBM_INSTANCE": "auto"}, None, False),
        ({"QISKIT_IBM_TOKEN": "key", "QISKIT_IBM_INSTANCE": "emulated-1"}, None, False),
        ({}, {"token": "key"}, False),
        ({}, {"token": "key", "instance": "auto"}, False),
        # A name counts alone.
        ({}, {"token": "key", "instance": "emulated-1", "region": "eu-de"}, False),
        # A key of one's own, whatever the instance of another key is.
        ({}, None, True),
        ({}, {"token": "another", "instance": CRN}, True),
        ({"QISKIT_IBM_TOKEN": "another", "QISKIT_IBM_INSTANCE": CRN}, None, True),
        ({"QISKIT_IBM_TOKEN": "key"}, {"token": "key", "instance": CRN}, True),
        ({"QISKIT_IBM_INSTANCE": "auto"}, {"token": "key", "instance": CRN}, True),
        ({}, {"token": "key", "instance": ""}, True),
    ],
)
async def test_each_way_to_give_no_crn(
    service: Emulator,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    account: dict[str, str] | None,
    *,
    is_given: bool,
) -> None:
    """Where the official client works without a CRN, the only instance is found, and a session is
    created on it; the directory is asked once, and not before that.
    """
    keys = {"key": service.api_key}
    fields = {name: keys.get(value, value) for name, value in (account or {}).items()}
    await asyncio.to_thread(save, home, **fields)
    before = searches(service)
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, keys.get(value, value))
        client = AsyncSessionClient(IBMCloudAuth(service.api_key) if is_given else None)
    async with client:
        await client.versions()
        assert (client.instance, searches(service)) == (None, before)
        created = await client.create(mode="batch", max_ttl=60)
        assert (await client.get(created.id)).id == created.id
        assert client.instance == await client.resolve_instance() == service.crn
    assert searches(service) == before + 1


@table(
    ("environment", "account", "auth"),
    [
        ({"QISKIT_IBM_TOKEN": "key", "QISKIT_IBM_INSTANCE": "crn"}, None, ""),
        ({}, {"token": "key", "instance": "crn"}, ""),
        # The account that would be taken has the same key.
        ({}, {"token": "key", "instance": "crn"}, "key"),
        ({"QISKIT_IBM_TOKEN": "key", "QISKIT_IBM_INSTANCE": "crn"}, {"token": "no"}, "key"),
        # A CRN without a key is for the key that is passed.
        ({"QISKIT_IBM_INSTANCE": "crn"}, {"token": "no"}, "key"),
        ({"QISKIT_IBM_TOKEN": "key"}, None, "crn"),
    ],
)
async def test_a_crn_needs_no_look_up(
    service: Emulator,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    account: dict[str, str] | None,
    *,
    auth: str,
) -> None:
    """Where there is a CRN, nobody asks the directory, whose addresses may be none."""
    known = {"key": service.api_key, "crn": service.crn}
    fields = {name: known.get(value, value) for name, value in (account or {}).items()}
    await asyncio.to_thread(save, home, **fields)
    providers: dict[str, AuthProvider] = {
        "key": IBMCloudAuth(service.api_key),
        "crn": ServiceCRN(service.crn),
    }
    with monkeypatch.context() as patch:
        patch.setenv("GLOBAL_SEARCH_URL", "nonsense")
        for name, value in environment.items():
            patch.setenv(name, known[value])
        client = AsyncSessionClient(providers.get(auth))
    async with client:
        await client.create(mode="batch", max_ttl=60)
        assert client.instance == service.crn
    assert searches(service) == 0


@table(
    ("fields", "name"),
    [
        ({"instance": "europe"}, "europe"),
        ({"region": "us-east", "tags": ["team-a"]}, "open"),
        ({"tags": ["TEAM-A", "Night"]}, "europe"),
        ({"instance": "auto", "plans_preference": ["OPEN"], "tags": ["team-a"]}, "open"),
        ({"plans_preference": ["premium", "Pay-as-you-go"], "region": "eu-de"}, "europe"),
        # What filters look like where there are none.
        ({"instance": "europe", "region": "", "plans_preference": [], "tags": None}, "europe"),
    ],
)
async def test_the_accounts_filters(
    several: Emulator, home: Path, fields: dict[str, object], name: str
) -> None:
    """An account's name, region, plans and tags pick the one instance that has all of them."""
    await asyncio.to_thread(save, home, token=several.api_key, **fields)
    async with AsyncSessionClient() as client:
        (wanted,) = (each for each in await client.instances() if each.name == name)
        await client.create(mode="batch", max_ttl=60)
        assert client.instance == wanted.crn


@table(
    ("fields", "problem", "listed"),
    [
        ({}, "the key has several instances: ", 5),
        ({"instance": "twin"}, '2 instances have the name in "instance" of {}: ', 2),
        (
            {"plans_preference": ["open"], "tags": ["team-a", "twin"]},
            (
                "no instance has a plan of 'open' and the tags 'team-a', 'twin' that {} asks for; "
                "the key has "
            ),
            5,
        ),
        (
            {"region": "eu-de"},
            "2 instances have the region 'eu-de' that {} asks for: ",
            2,
        ),
        ({"instance": "planted"}, 'no instance has the name in "instance" of {}; the key has ', 5),
    ],
)
async def test_none_and_several(
    several: Emulator, home: Path, fields: dict[str, object], problem: str, listed: int
) -> None:
    """Where none or several fit, nothing is sent to the service, and the error lists what there is
    with plan, region and CRN.
    """
    await asyncio.to_thread(save, home, token=several.api_key, **fields)
    async with AsyncSessionClient() as client:
        with pytest.raises(ConfigurationError) as caught:
            await client.create(mode="batch", max_ttl=60)
    error = caught.value
    assert error.message.startswith(problem.format("the account 'a' in ~/.qiskit/qiskit-ibm.json"))
    assert error.message.count("(plan ") == error.message.count("crn:") == listed
    twin = f"'twin' (plan open, region us-east, {several.crns[3]})"
    assert (twin in error.message) is (fields != {"region": "eu-de"})
    assert error.solution == (
        "Put the CRN of one into QISKIT_IBM_INSTANCE or the account, or pass it to the client."
    )
    assert "planted" not in str(error)
    assert several.sessions == {}


async def test_many_and_none_at_all(service: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages of instances are read; a message lists ten of them; a key without any is told so."""
    monkeypatch.setenv("QISKIT_IBM_TOKEN", service.api_key)
    for _ in range(120):
        service.add_instance()
    async with AsyncSessionClient() as client:
        assert [each.crn for each in await client.instances()] == list(service.crns)
        assert searches(service) == 3
        with pytest.raises(ConfigurationError) as caught:
            await client.resolve_instance()
        assert caught.value.message.count("crn:") == 10
        assert caught.value.message.endswith("and 111 more, which `qsessions instances` lists.")
        for crn in service.crns:
            service.delete_instance(crn)
        with pytest.raises(ConfigurationError, match="the key has no instance") as caught:
            await client.get("s1")
        assert caught.value.solution is not None
        assert caught.value.solution.startswith("Check that the key is of the account")


async def test_instances(several: Emulator) -> None:
    """`instances()` lists all, however the client's own CRN is given, at each call anew."""
    auth = [IBMCloudAuth(several.api_key), ServiceCRN(several.crn)]
    async with AsyncSessionClient(auth, headers={"X-Own": "planted"}) as client:
        listed = await client.instances()
        assert listed[2] == Instance(
            name="europe",
            crn=several.crns[2],
            plan="pay-as-you-go",
            region="eu-de",
            tags=("team-a", "night"),
        )
        several.delete_instance(several.crns[2])
        assert [each.name for each in await client.instances()] == [
            "emulated-1",
            "open",
            "twin",
            "twin",
        ]
    asked = [request for request in several.requests if not request.path.startswith("/api")][1:]
    assert {request.path for request in asked} == {
        "/v3/resources/search",
        "/emulated-plan-open",
        "/emulated-plan-paid",
    }
    for request in asked:
        assert request.headers["authorization"] == "Bearer <token>"
        assert not {"service-crn", "x-own", "ibm-api-version"} & set(request.headers)


def test_the_facade(monkeypatch: pytest.MonkeyPatch) -> None:
    """The synchronous client looks up and lists, too."""
    with ThreadedEmulator(Emulator()) as service:
        lead_to(service, monkeypatch)
        monkeypatch.setenv("QISKIT_IBM_TOKEN", service.api_key)
        with SessionClient() as client:
            assert [each.crn for each in client.instances()] == [service.crn]
            assert client.create(mode="batch", max_ttl=60).state == "open"
            assert client.instance == client.resolve_instance() == service.crn


async def test_instances_of_what_is_no_key(service: Emulator) -> None:
    """Without an API key or IAM token, `instances()` says so, and nothing is sent; a credential of
    another kind goes to the service alone.
    """
    auth = IBMCloudAPIKey(service.api_key)
    async with AsyncSessionClient(auth) as client:
        with pytest.raises(ConfigurationError, match="with an API key, and there is none"):
            await client.instances()
        assert await client.resolve_instance() is None
        with pytest.raises(Unauthorized):
            await client.get("s1")
    assert searches(service) == 0


class Scripted:
    """A directory with a script, in front of the emulator, and a client whose key is its token.

    Attributes:
        search: Answers for Global Search.
        catalog: Answers for the Global Catalog.
    """

    def __init__(self, search: FaultServer, catalog: FaultServer) -> None:
        self.search, self.catalog = search, catalog

    def client(self, base_url: str = "http://127.0.0.1:9", **options: Any) -> AsyncSessionClient:
        """Return a client with a token of its own."""
        auth = IBMCloudAuth.from_token("the-token")
        return AsyncSessionClient(auth, base_url=base_url, retry=ONCE, **options)


@pytest.fixture
async def scripted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Scripted]]:
    """Return what leads to a directory that answers by a script."""
    async with FaultServer(http(404)) as search, FaultServer(http(404)) as catalog:
        monkeypatch.setenv("GLOBAL_SEARCH_URL", search.url)
        monkeypatch.setenv("GLOBAL_CATALOG_URL", f"{catalog.url}/api/v1")

        def script(*answers: Any, catalog_answers: Sequence[bytes] = ()) -> Scripted:
            search.answers[:] = answers
            catalog.answers[:] = catalog_answers or [http(404)]
            return Scripted(search, catalog)

        yield script


def item(number: int = 1, **fields: object) -> dict[str, object]:
    """Return an instance as Global Search has it."""
    return {
        "crn": CRN.replace("11111111", f"{number:08}"),
        "name": f"i{number}",
        "service_plan_unique_id": "p",
        "tags": [],
        "doc": {"extensions": {"backends": "all"}},
    } | fields


def page(*items: object, cursor: str | None = None) -> bytes:
    """Return a page of Global Search."""
    return http(200, {"items": items} | ({} if cursor is None else {"search_cursor": cursor}))


PLAN = http(200, {"overview_ui": {"en": {"display_name": "Flex"}}})


async def test_what_is_asked(scripted: Callable[..., Scripted]) -> None:
    """The requests are those of the official client: its query and fields, the cursor of the page
    before, each plan once.
    """
    directory = scripted(page(item(1), cursor="next/1"), page(item(2)), catalog_answers=[PLAN])
    async with directory.client() as client:
        assert [each.plan for each in await client.instances()] == ["flex", "flex"]
    first, second = directory.search.received
    assert (first.method, first.target) == ("POST", "/v3/resources/search?limit=50")
    wanted = {
        "query": "service_name:quantum-computing",
        "fields": ["crn", "service_plan_unique_id", "name", "doc", "tags"],
    }
    assert json.loads(first.body) == wanted
    assert json.loads(second.body) == wanted | {"search_cursor": "next/1"}
    assert [request.target for request in directory.catalog.received] == ["/api/v1/p"]


@table(
    ("pages", "names"),
    [
        ([page()], []),
        ([page(item(1), item(1, name="again"))], ["again"]),
        # A last page with a cursor, an empty one, and one that leads in a circle.
        ([page(item(1), cursor="c"), page(item(2), cursor="c"), page(cursor="c")], ["i1", "i2"]),
        ([page(item(1), cursor="c"), page(item(1), cursor="c")], ["i1"]),
        # What no call can reach, on a page that isn't the last for that.
        ([page(item(1, doc={}), item(2, doc=None), cursor="c"), page(item(3))], ["i3"]),
        ([page(item(1, doc={"extensions": {}}), item(2))], ["i2"]),
        ([page(item(1, crn="crn:v1:x"), item(2, crn=CRN + " "), item(3))], ["i3"]),
        ([page(item(1, name=None, tags=None, family="more"))], [""]),
    ],
)
async def test_pages(
    scripted: Callable[..., Scripted], pages: list[bytes], names: list[str]
) -> None:
    """Each instance comes once, from all pages, and what a page may lack is no error."""
    directory = scripted(*pages, catalog_answers=[PLAN])
    async with directory.client() as client:
        assert [each.name for each in await client.instances()] == names


@table(
    ("answer", "plan"),
    [
        (PLAN, "flex"),
        # The catalogue refuses plans that are archived.
        (http(403, {"message": "no"}), "unknown"),
        (http(404), "unknown"),
        (http(500), "unknown"),
        (http(200, "<html>"), "unknown"),
        (http(200, {}), "unknown"),
        (http(200, {"overview_ui": {}}), "unknown"),
        (http(200, {"overview_ui": {"en": {"display_name": ""}}}), "unknown"),
    ],
)
async def test_a_plan_without_a_name(
    scripted: Callable[..., Scripted], answer: bytes, plan: str
) -> None:
    """Where the catalogue doesn't name a plan, it is unknown, as for the official client, and the
    instance is found all the same.
    """
    directory = scripted(page(item()), catalog_answers=[answer])
    async with directory.client() as client:
        assert (await client.instances())[0].plan == plan
        directory.search.answers[:] = [page(item(service_plan_unique_id=None))]
        assert (await client.instances())[0].plan == "unknown"


SERVICE_FORM = {"errors": [{"code": "1279", "message": "Instance not found."}], "trace": "t1"}


@table(
    ("answer", "kind", "text"),
    [
        (
            http(401, SERVICE_FORM),
            InstanceLookupFailed,
            "Instance not found (status 401, code 1279",
        ),
        (http(403, {"message": "no"}), InstanceLookupFailed, "status 403"),
        (http(403, "<html>"), InstanceLookupFailed, "status 403"),
        # None of these is a word about a session.
        (http(404, SERVICE_FORM), InstanceLookupFailed, "status 404, code 1279"),
        (http(409, SERVICE_FORM), InstanceLookupFailed, "status 409"),
        (http(429), InstanceLookupFailed, "status 429"),
        (http(503), InstanceLookupFailed, "status 503"),
        (http(200, "<html>"), ProtocolError, "can't be read"),
        (http(200, {}), ProtocolError, "required field 'items' is missing"),
        (http(200, {"items": [{"name": "no crn"}]}), ProtocolError, "required field 'crn'"),
        (reset, ConnectionFailed, "the connection was lost"),
    ],
)
async def test_a_look_up_that_fails(
    scripted: Callable[..., Scripted], answer: Any, kind: type[QSessionsError], text: str
) -> None:
    """The error of a failed look-up says where it failed and what to do, and that nothing of the
    call was sent; no ending takes it for its success; the next call looks again. Who lists the
    instances isn't told to give a CRN, which makes no difference there.
    """
    directory = scripted(answer)
    before = len(directory.search.received)
    async with directory.client() as client:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: client.create(mode="batch", max_ttl=60),
            lambda: client.close("s1"),
            lambda: client.drain("s1"),
            lambda: client.get("s1"),
        ]
        for call in calls:
            with pytest.raises(kind) as caught:
                await call()
            error = caught.value
            assert type(error) is kind
            assert "the search for instances at 127.0.0.1: " in error.message
            assert text in str(error)
            assert "give the instance's CRN" in str(error.solution)
            assert "nothing was sent to the service." in error.__notes__[-1]
            assert error.operation == "instances"
            assert getattr(error, "sent", False) is False
            assert "the-token" not in str(error)
        with pytest.raises(kind) as caught:
            await client.instances()
        assert "CRN" not in str(caught.value.solution)
    assert len(directory.search.received) == before + 5


async def test_no_token_for_the_look_up(service: Emulator) -> None:
    """Where IAM refuses the key, the error is IAM's own, and the directory isn't asked."""
    async with AsyncSessionClient(IBMCloudAuth("wrong")) as client:
        with pytest.raises(TokenExchangeFailed, match="BXNIM0415E") as caught:
            await client.create(mode="batch", max_ttl=60)
    assert caught.value.__notes__ == [
        "instances needed the credentials.",
        "create needed the instance; nothing was sent to the service.",
    ]
    assert searches(service) == 0


async def test_first_calls_share_one_look_up(
    emulator: Emulator, scripted: Callable[..., Scripted]
) -> None:
    """Many first calls wait for one look-up, which the cancellation of the first doesn't end."""
    found = asyncio.Event()
    directory = scripted(held(found, page(item(crn=emulator.crn))), catalog_answers=[PLAN])
    async with AsyncSessionClient(
        IBMCloudAuth(emulator.api_key, emulator.iam_url), base_url=emulator.url
    ) as client:
        calls = [asyncio.create_task(client.create(mode="batch", max_ttl=60)) for _ in range(50)]
        await directory.search.arrival()
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        found.set()
        await asyncio.gather(*calls[1:])
        assert len(emulator.sessions) == 49
        assert len(directory.search.received) == 1


async def test_first_calls_share_one_failure(scripted: Callable[..., Scripted]) -> None:
    """Each of those that wait for a look-up that fails gets its own copy of the error."""
    directory = scripted(http(403))
    async with directory.client() as client:
        calls = [client.get("s1"), client.close("s2"), client.resolve_instance()]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [InstanceLookupFailed] * 3
        notes = [vars(error)["__notes__"] for error in errors if isinstance(error, Exception)]
        assert [note.split()[0] for (note,) in notes] == ["get", "close", "resolve_instance"]
    assert len(directory.search.received) == 1


async def test_a_directory_that_hangs(scripted: Callable[..., Scripted], time: ManualClock) -> None:
    """A call's deadline covers the look-up; a client can be closed during it."""
    directory = scripted(hang)
    client = directory.client(clock=time)
    with pytest.raises(
        CallTimeout, match=r"^get: the call's deadline passed while looking up the instance\."
    ) as caught:
        await past_deadline(client.get("s1", timeout=5), directory.search.arrival(), time, 10)
    assert not caught.value.sent
    waiting = asyncio.create_task(client.get("s1"))
    await asyncio.sleep(0)
    await client.aclose()
    with pytest.raises(ClientClosed, match="while looking up the instance"):
        await waiting


async def test_a_look_up_has_a_deadline_of_its_own(
    scripted: Callable[..., Scripted], time: ManualClock
) -> None:
    """A call without a deadline isn't held for ever by a directory that doesn't answer."""
    directory = scripted(hang)
    async with directory.client(clock=time, timeout=None) as client:
        with pytest.raises(CallTimeout, match="the search for instances at 127") as caught:
            await past_deadline(client.get("s1"), directory.search.arrival(), time, 61)
    assert not caught.value.sent


async def test_a_look_up_that_meets_a_fault_is_made_again(
    service: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's retry policy holds for the look-up, too."""
    monkeypatch.setenv("QISKIT_IBM_TOKEN", service.api_key)
    for operation in ("instances", "plan"):
        fault = Fault(kind="answer", status=503, operations=[operation], times=1)
        service.faults.add(fault)
    async with AsyncSessionClient() as client:
        assert await client.resolve_instance() == service.crn
        assert (await client.instances())[0].plan == "pay-as-you-go"


async def test_the_ledger_knows_the_instance(several: Emulator, home: Path, tmp_path: Path) -> None:
    """A session's record names the instance that was looked up, and `reap` looks it up first."""
    await asyncio.to_thread(save, home, token=several.api_key, instance="europe")
    ledger = LocalLedger(tmp_path)
    async with AsyncSessionClient(ledger=ledger) as client:
        await client.create(mode="batch", max_ttl=60)
    (entry,) = await ledger.entries()
    assert entry.record.instance == several.crns[2]
    async with AsyncSessionClient() as client:
        (reaped,) = await reap(client, ledger)
        assert reaped.entry.record == entry.record
    async with AsyncSessionClient(IBMCloudAuth(several.api_key)) as client:
        # The account has the same key.
        assert len(await reap(client, ledger)) == 1
    await asyncio.to_thread(save, home)
    async with AsyncSessionClient(IBMCloudAuth(several.api_key)) as client:
        with pytest.raises(ConfigurationError, match="several instances"):
            await reap(client, ledger)
    await ledger.aclose()


TOGETHER = "do they belong together?"


@table(
    ("environment", "auth", "origins"),
    [
        (
            {"QISKIT_IBM_INSTANCE": "crn"},
            "key",
            "The key or token comes from auth= and the CRN from QISKIT_IBM_INSTANCE: ",
        ),
        (
            {"QISKIT_IBM_TOKEN": "key"},
            "crn",
            "The key or token comes from QISKIT_IBM_TOKEN and the CRN from auth=: ",
        ),
        ({"QISKIT_IBM_TOKEN": "key", "QISKIT_IBM_INSTANCE": "crn"}, "", None),
        ({"QISKIT_IBM_TOKEN": "other", "QISKIT_IBM_INSTANCE": "other"}, "both", None),
    ],
)
async def test_two_sources(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    auth: str,
    origins: str | None,
) -> None:
    """Where key and CRN come from two places, a refusal says which came from where."""
    providers: dict[str, Any] = {
        "key": IBMCloudAPIKey("key"),
        "crn": ServiceCRN(CRN_EU),
        "both": [IBMCloudAPIKey("key"), ServiceCRN(CRN_EU)],
    }
    refusals = {
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
    }
    body = {"errors": [{"code": 1200, "message": "no", "solution": "Do it."}], "trace": "t"}
    async with FaultServer(GRANT) as iam, FaultServer(http(500)) as server:
        with monkeypatch.context() as patch:
            patch.setenv("IAM_URL", iam.url)
            for name, value in environment.items():
                patch.setenv(name, {"crn": CRN_EU}.get(value, value))
            client = AsyncSessionClient(providers.get(auth), base_url=server.url, retry=ONCE)
        async with client:
            for status, kind in refusals.items():
                server.answers[:] = [http(status, body)]
                with pytest.raises(kind) as caught:
                    await client.get("s1")
                assert (TOGETHER in str(caught.value)) is (origins is not None)
                assert (origins or "Do it.") in str(caught.value)
            server.answers[:] = [http(404, SERVICE_FORM)]
            with pytest.raises(InstanceNotFound) as missing:
                await client.get("s1")
            assert (TOGETHER in str(missing.value)) is (origins is not None)
            # Walls and failures say nothing of credentials.
            for answer in (http(401, "<html>"), http(404, "<html>"), http(500, body)):
                server.answers[:] = [answer]
                with pytest.raises(QSessionsError) as other:
                    await client.get("s1")
                assert TOGETHER not in str(other.value)
