"""A call whose time is up says what its attempts met, or those of what it waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    CreateOutcomeUnknown,
    IBMCloudAPIKey,
    IBMCloudAuth,
    ServiceCRN,
)
from qsessions.cli import service
from qsessions.testing import ManualClock
from tests.support.clients import CRN
from tests.support.event_loop import past_deadline
from tests.support.fault_server import Answer, FaultServer, cut, hang, http
from tests.support.shell import GRANT, error_lines, shell_of
from tests.support.tables import table

FAILURES = [
    (http(503), ": status 503"),
    (cut(http(200, {"id": "s1"})[:-1]), ": the connection was lost. "),
]


def waits_for_a_token(url: str) -> dict[str, Any]:
    """Return the options of a client whose IAM is at the URL."""
    return {"auth": [IBMCloudAuth("key", url), ServiceCRN(CRN)], "base_url": "http://127.0.0.1:9"}


def waits_for_the_instance(url: str) -> dict[str, Any]:
    """Return the options of a client whose instance is looked up at the URL."""
    return {"auth": IBMCloudAuth.from_token("token"), "base_url": "http://127.0.0.1:9"}


def waits_for_a_token_for_the_instance(url: str) -> dict[str, Any]:
    """Return the options of a client that needs IAM at the URL to look its instance up."""
    return {"auth": IBMCloudAuth("key", url), "base_url": "http://127.0.0.1:9"}


def waits_for_the_version(url: str) -> dict[str, Any]:
    """Return the options of a client that asks the service at the URL for its versions."""
    return waits_for_the_service(url) | {"api_version": "latest"}


def waits_for_the_service(url: str) -> dict[str, Any]:
    """Return the options of a client whose service is at the URL."""
    return {"auth": [IBMCloudAPIKey("key"), ServiceCRN(CRN)], "base_url": url}


@table(("failure", "text"), FAILURES)
async def test_a_timeout_says_the_last_failure(
    monkeypatch: pytest.MonkeyPatch, *, failure: Answer, text: str
) -> None:
    """Where an attempt failed and the next gets no answer, the call's timeout says how it failed:
    for the service, its versions, IAM and the look-up of the instance.
    """
    calls: dict[str, Callable[[AsyncSessionClient], Awaitable[object]]] = {
        "get": lambda client: client.get("s1", timeout=5),
        "close": lambda client: client.close("s1", timeout=5),
        "workloads": lambda client: anext(client.workloads(timeout=5)),
    }
    for options, awaited in (
        (waits_for_a_token, "token_exchange"),
        (waits_for_the_instance, "instances"),
        (waits_for_a_token_for_the_instance, "token_exchange"),
        (waits_for_the_version, "versions"),
        (waits_for_the_service, None),
    ):
        for name, call in calls.items():
            named = awaited or name
            time = ManualClock()
            async with FaultServer(failure, hang) as server:
                monkeypatch.setenv("GLOBAL_SEARCH_URL", server.url)
                monkeypatch.setenv("GLOBAL_CATALOG_URL", server.url)
                async with AsyncSessionClient(**options(server.url), clock=time) as client:
                    with pytest.raises(CallTimeout) as caught:
                        await past_deadline(call(client), server.arrival(2), time, 10)
            assert f"; the last failure: {named}{text}" in caught.value.message
            assert caught.value.message.count("last failure") == 1
            assert caught.value.args == (caught.value.message,)


async def test_a_failure_that_is_over_is_told_no_more(time: ManualClock) -> None:
    """A timeout says nothing of a failure that another call met, nor one before an exchange that
    went well.
    """
    async with FaultServer(http(503), GRANT, hang) as server:
        auth = [IBMCloudAuth("key", server.url), ServiceCRN(CRN)]
        async with AsyncSessionClient(auth, base_url=server.url, clock=time) as client:
            with pytest.raises(CallTimeout) as caught:
                await past_deadline(client.get("s1", timeout=5), server.arrival(3), time, 10)
    assert caught.value.message == "the call's deadline passed without an answer."


async def test_an_unknown_outcome_says_the_last_failure(time: ManualClock) -> None:
    """So does a create that may have been carried out."""
    async with (
        FaultServer(http(503), hang) as server,
        AsyncSessionClient(**waits_for_the_service(server.url), clock=time) as client,
    ):
        with pytest.raises(CreateOutcomeUnknown, match=r"the last failure: create: status 503"):
            await past_deadline(client.create(mode="batch", timeout=5), server.arrival(2), time, 10)


async def test_a_list_that_the_command_line_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline of a whole list says the last failure, too: of IAM and of the service."""
    scripts: list[list[Answer]] = [[http(503), hang], [GRANT, http(503), hang]]
    for answers in scripts:
        time = ManualClock()
        monkeypatch.setattr(service, "CLOCK", time)
        async with FaultServer(*answers) as server:
            command = shell_of(server, tmp_path)("workloads", "--mode", "session", "--timeout", "5")
            asked = asyncio.ensure_future(command)
            await server.arrival(len(answers))
            time.advance(10)
            code, _, err = await asked
        assert code == 4
        named = "workloads" if GRANT in answers else "token_exchange"
        assert f"; the last failure: {named}: status 503" in error_lines(err)[0]


@table(
    ("answers", "failure"),
    [
        ([GRANT, http(503), http(401), hang], "get: status 503"),
        ([GRANT, http(503), http(401), http(503), hang], "token_exchange: status 503"),
    ],
)
async def test_one_failure_is_told(time: ManualClock, answers: list[Answer], failure: str) -> None:
    """Of an attempt's failure and one of what the call waits for, the message has the later one."""
    async with (
        FaultServer(*answers) as server,
        AsyncSessionClient(
            **waits_for_a_token(server.url) | {"base_url": server.url}, clock=time
        ) as client,
    ):
        call = client.get("s1", timeout=5)
        with pytest.raises(CallTimeout) as caught:
            await past_deadline(call, server.arrival(len(answers)), time, 10)
    assert caught.value.message.endswith(f"nothing was sent; the last failure: {failure}")
    assert caught.value.message.count("the last failure") == 1


async def test_a_failure_of_another_call_is_not_told(time: ManualClock) -> None:
    """What another call of the same client meets meanwhile is none of this one's."""
    async with (
        FaultServer(hang) as iam,
        FaultServer(http(503), hang) as server,
        AsyncSessionClient(
            **waits_for_a_token(iam.url) | {"base_url": server.url}, clock=time
        ) as client,
    ):
        get = asyncio.ensure_future(client.get("s1", timeout=5))
        await iam.arrival(1)
        versions = asyncio.ensure_future(client.versions(timeout=100))
        await server.arrival(2)
        time.advance(10)
        with pytest.raises(CallTimeout) as caught:
            await get
        versions.cancel()
        await asyncio.wait({versions})
    assert "the last failure" not in caught.value.message
