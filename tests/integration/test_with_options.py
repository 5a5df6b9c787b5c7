"""`with_options`: clients with options of their own on one client's connections and credentials."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    IBMCloudAPIKey,
    IBMCloudAuth,
    InvalidArgument,
    LocalLedger,
    NotFound,
    RetryPolicy,
    ServerError,
    ServiceCRN,
    SessionClient,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from qsessions.testing.threaded import ThreadedEmulator
from tests.integration.test_instances import lead_to, searches
from tests.support.clients import CRN, Against, static_auth
from tests.support.fault_server import hang, http

OTHER = CRN.replace("11111111", "99999999")
READ = {"id": "s-1", "state": "open"}


async def test_options_of_its_own(against: Against) -> None:
    """Its requests have its instance, version and headers, whose names may differ in case; those of
    the client that it was made from stay as they were, and one is made from another as well.
    """
    server, client = await against(
        http(200, READ), headers={"X-Tenant": "none", "X-Kept": "k"}, api_version="2026-04-15"
    )
    tenant = client.with_options(
        instance=OTHER, headers={"x-tenant": "b"}, api_version="2026-03-15"
    )
    again = tenant.with_options(headers={"X-More": "m"})
    assert (client.instance, tenant.instance, again.instance) == (CRN, OTHER, OTHER)
    for each in (client, tenant, again):
        await each.get("s-1")
    first, second, third = ({k.lower(): v for k, v in r.headers.items()} for r in server.received)
    names = ("service-crn", "ibm-api-version", "x-tenant", "x-kept", "x-more", "authorization")
    key = first["authorization"]
    assert [first.get(name) for name in names] == [CRN, "2026-04-15", "none", "k", None, key]
    assert [second.get(name) for name in names] == [OTHER, "2026-03-15", "b", "k", None, key]
    assert [third.get(name) for name in names] == [OTHER, "2026-03-15", "b", "k", "m", key]
    assert "none" not in repr(tenant)


async def test_a_policy_and_a_timeout_of_its_own(against: Against, time: ManualClock) -> None:
    """It gives up by its own policy and timeout, and shares the budget of retries."""
    server, client = await against(http(503), retry=RetryPolicy(max_attempts=2, budget=5))
    once = client.with_options(retry=RetryPolicy(max_attempts=1, budget=1000))
    with pytest.raises(ServerError):
        await once.get("s-1")
    assert len(server.received) == 1
    often = client.with_options(retry=RetryPolicy(max_attempts=9))
    with pytest.raises(ServerError) as failed:
        await often.get("s-1")
    assert (failed.value.attempts, "budget" in failed.value.__notes__[0]) == (2, True)
    server, client = await against(hang, timeout=None)
    waiting = asyncio.ensure_future(client.with_options(timeout="5s").get("s-1"))
    await server.arrival()
    time.advance(5)
    with pytest.raises(CallTimeout):
        await waiting


async def test_the_host_of_the_instances_region() -> None:
    """Where the base URL comes from the region, it is that of its own instance."""
    async with AsyncSessionClient(static_auth()) as client:
        german = client.with_options(instance=CRN.replace("us-east", "eu-de"))
        assert german.base_url == "https://eu-de.quantum.cloud.ibm.com/api"
        back = german.with_options(instance=CRN)
        assert back.base_url == client.base_url == "https://quantum.cloud.ibm.com/api"


async def test_it_waits_for_the_same_settings(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made before the settings are known, it takes part in the one look-up of the instance, or needs
    none with an instance of its own; they share one token.
    """
    lead_to(emulator, monkeypatch)
    monkeypatch.setenv("QISKIT_IBM_TOKEN", emulator.api_key)
    async with AsyncSessionClient() as client:
        same, early = client.with_options(timeout=30), client.with_options()
        assert await early.versions() == await client.versions()
        assert early.instance is None
        other = client.with_options(instance=emulator.crn)
        assert (other.instance, client.instance) == (emulator.crn, None)
        session = await same.create(mode="batch", max_ttl="10m")
        assert await other.get(session.id) == await client.get(session.id) == session
        assert (same.instance, client.instance) == (emulator.crn, emulator.crn)
        await early.close(session.id)
    assert searches(emulator) == 1
    assert [request.path for request in emulator.requests].count("/identity/token") == 1


async def test_it_waits_for_the_account_file(account_file: Path) -> None:
    """With an instance of its own it takes the rest from the account file."""
    url = "http://127.0.0.1"
    client = AsyncSessionClient(account="a", account_file=account_file, base_url=url)
    same, tenant = client.with_options(), client.with_options(instance=OTHER)
    assert tenant.instance is None
    async with tenant.with_options(timeout=1) as second, same:
        assert (second.instance, same.instance, client.instance) == (OTHER, CRN, CRN)
    await client.aclose()


@pytest.fixture
def account_file(tmp_path: Path) -> Path:
    """Return the path of a file with an account."""
    file = tmp_path / "accounts.json"
    account = {"channel": "ibm_quantum_platform", "token": "k" * 44, "instance": CRN}
    file.write_text(json.dumps({"a": account}), encoding="utf-8")
    return file


@pytest.fixture
async def tenants(
    emulator: Emulator, time: ManualClock, tmp_path: Path
) -> AsyncIterator[tuple[AsyncSessionClient, AsyncSessionClient, LocalLedger]]:
    """Return a client of the emulator with a ledger, one of another instance, and the ledger."""
    ledger = LocalLedger(tmp_path / "ledger")
    auth = [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]
    async with AsyncSessionClient(auth, base_url=emulator.url, clock=time, ledger=ledger) as client:
        tenant = client.with_options(instance=emulator.add_instance(), labels={"tenant": "b"})
        yield client, tenant, ledger
    await ledger.aclose()


async def test_what_ends_what(
    emulator: Emulator, tenants: tuple[AsyncSessionClient, AsyncSessionClient, LocalLedger]
) -> None:
    """Closing it ends its own blocks and those of what was made from it, after which they create no
    more; closing the client that it was made from ends all, and it.
    """
    client, tenant, _ = tenants
    options: dict[str, Any] = {"mode": "batch", "max_ttl": "10m", "on_exit": "close"}
    second = tenant.with_options(timeout=5)
    async with client.open(**options), second.open(**options) as left:
        async with tenant.open(**options) as live:
            await tenant.aclose()
            assert (await client.with_options(instance=tenant.instance).get(live.id)).is_final
            for refused in (tenant.create(mode="batch"), tenant.__aenter__()):
                with pytest.raises(ClientClosed):
                    await refused
            with pytest.raises(ClientClosed):
                tenant.open(**options)
            # What is there can still be looked after.
            assert (await tenant.get(left.id)).is_final
            with pytest.raises(NotFound):
                await client.get(left.id)
            with pytest.raises(ClientClosed):
                await second.create(mode="batch")
        assert len(emulator.open_sessions) == 1
        await client.aclose()
        assert emulator.open_sessions == []
    for refused in (second.get(left.id), second.create(mode="batch"), second.__aenter__()):
        with pytest.raises(ClientClosed):
            await refused
    with pytest.raises(ClientClosed):
        await second.with_options(timeout=1).get(left.id)


async def test_the_ledger_is_shared(
    emulator: Emulator, tenants: tuple[AsyncSessionClient, AsyncSessionClient, LocalLedger]
) -> None:
    """Its sessions are in the same ledger, with its labels and its instance, and their drains are
    looked after in their own instance's list.
    """
    client, tenant, ledger = tenants
    async with (
        client.open(mode="batch", max_ttl="10m"),
        tenant.open(mode="batch", max_ttl="10m", labels={"run": "1"}) as live,
    ):
        by_label = {dict(e.record.labels).get("tenant"): e.record for e in await ledger.entries()}
    record = by_label["b"]
    assert dict(record.labels) == {"tenant": "b", "run": "1"}
    assert (record.session_id, record.instance) == (live.id, tenant.instance)
    del tenant
    gc.collect()
    assert len(await ledger.entries()) == 2
    await client.aclose()
    assert await ledger.entries() == []


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"instance": "my-instance"}, ConfigurationError, "a name is not enough"),
        ({"instance": ""}, ConfigurationError, "is empty"),
        ({"headers": {"Authorization": "x"}}, ConfigurationError, "can't set Authorization"),
        ({"headers": {"ibm-api-version": "x"}}, ConfigurationError, "can't set ibm-api-version"),
        ({"headers": "X-A: b"}, ConfigurationError, "must be a mapping"),
        ({"timeout": -1}, InvalidArgument, "timeout must be"),
        ({"api_version": "newest"}, InvalidArgument, "api_version must be"),
        ({"retry": 3}, ConfigurationError, "retry="),
        ({"labels": {"a": "b"}}, InvalidArgument, "needs a ledger"),
    ],
)
async def test_what_cannot_be_right(
    against: Against, options: dict[str, Any], error: type[Exception], problem: str
) -> None:
    """A wrong option is refused when the client is made."""
    _, client = await against(http(200, READ))
    with pytest.raises(error, match=problem):
        client.with_options(**options)


def test_in_the_facade() -> None:
    """The synchronous client has it: it shares the thread, keeps the first from being collected, and
    ends its own blocks only.
    """
    with ThreadedEmulator(Emulator(seed=1)) as emulator:
        other = emulator.add_instance()

        def tenant_of_a_forgotten_client() -> SessionClient:
            auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
            return SessionClient(auth, base_url=emulator.url).with_options(instance=other)

        tenant = tenant_of_a_forgotten_client()
        gc.collect()
        assert tenant._parent is not None
        with (
            tenant,
            tenant._parent.open(mode="batch", max_ttl="10m"),
            tenant.open(mode="batch", max_ttl="10m") as live,
        ):
            assert tenant.get(live.id).max_ttl == 600
            tenant.shutdown()
            assert len(emulator.open_sessions) == 1
        tenant._parent.shutdown()
        tenant.shutdown()
        with pytest.raises(ClientClosed):
            tenant.get(live.id)


async def test_a_block_that_is_entered_after_the_end(
    emulator: Emulator, tenants: tuple[AsyncSessionClient, AsyncSessionClient, LocalLedger]
) -> None:
    """What `open` returned before its client was closed creates nothing when it is entered."""
    _, tenant, _ = tenants
    context = tenant.open(mode="batch", max_ttl="10m", extra_headers={"X-Run": "1"})
    await tenant.aclose()
    with pytest.raises(ClientClosed):
        async with context:
            pass
    assert emulator.sessions == {}


async def test_what_is_asked_once_is_asked_once_for_all(
    emulator: Emulator, time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The latest version, the instance's usage and the warning of a missing `max_ttl` come once,
    however many clients and calls with headers of their own there are, and at the same time.
    """
    auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
    headers = {"X-Run": "1"}
    async with AsyncSessionClient(
        auth, base_url=emulator.url, clock=time, api_version="latest"
    ) as client:

        async def block(options: dict[str, Any]) -> None:
            opening = client.with_options(timeout=50).open(
                mode="batch", max_usage="5m", extra_headers=headers, **options
            )
            async with opening as live:
                await client.with_options(timeout=40).get(live.id, extra_headers=headers)

        await asyncio.gather(*map(block, [{}, {}, {"max_ttl": "10m"}]))
    operations = [request.operation for request in emulator.requests]
    assert operations.count("versions") == 1
    assert operations.count("usage") == 1
    assert caplog.text.count("max_ttl") == 1
