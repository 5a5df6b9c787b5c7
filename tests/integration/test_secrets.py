"""Secrets never leave their headers: every error class is provoked, and all that can be seen of it
is searched.
"""

from __future__ import annotations

import copy
import gc
import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from qsessions import AsyncSessionClient, IBMCloudAuth, NotFound, ServiceCRN
from qsessions.cli.diagnosis import Diagnosis
from qsessions.cli.options import Options
from qsessions.config.resolve import resolve
from tests.support.calls import SESSION, fault
from tests.support.clients import CRN
from tests.support.fault_server import FaultServer, http
from tests.support.iam import grant
from tests.support.internals import parts_of
from tests.support.pages import snippets
from tests.support.secrets import (
    PLANTED,
    SCHEMES,
    Echo,
    Harvest,
    check,
    harvesting,
    make_client,
    provoke_everything,
    refuse,
    seen_when_interrupted,
    with_password,
)
from tests.support.tables import table

(RECORDER,) = (text for text in snippets("docs/python.md", "python") if "class Recorder" in text)


@pytest.fixture
def harvest() -> Iterator[Harvest]:
    """Return a harvest that listens to every logger at DEBUG."""
    with harvesting() as harvest:
        yield harvest


@pytest.mark.smoke
def test_no_secret_is_ever_seen(harvest: Harvest, tmp_path: Path) -> None:
    """With full debug logging, every error class provoked and every traceback shown with locals, no
    planted secret is seen, and no frame of the HTTP library is kept.
    """
    provoke_everything(harvest, tmp_path / "accounts.json")
    check(harvest)


def test_the_search_itself_finds_secrets() -> None:
    """The search finds a secret in a local of a frame, in a suppressed context, in a part of it and
    in its encoded form.
    """
    harvest = Harvest()

    def careless(value: str) -> None:
        try:
            raise ValueError
        except ValueError:
            raise KeyError from None

    refuse(harvest, KeyError, lambda: careless(PLANTED.token[:100]))
    refuse(harvest, ValueError, lambda: int(quote(PLANTED.api_key, safe="")))
    found = {name for text in harvest.everything() for name in PLANTED.found_in(text)}
    assert found == {"token", "api_key"}


async def test_an_unclosed_connection_does_not_show_the_proxys_password(harvest: Harvest) -> None:
    """What is warned and logged of connections that nobody closed has no password of the proxy in
    it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with FaultServer(http(200, SESSION)) as proxy:
            client = make_client(
                "http://service.invalid",
                "raw_key",
                proxy=with_password(proxy.url),
                allow_insecure=True,
            )
            await client.get("s1")
            harvest.look_at(*parts_of(client)[1:])
            del client
            # A warning holds what it is about, which warns itself when it is let go.
            while gc.collect() or caught:
                harvest.seen += [str(one.message) for one in caught]
                caught.clear()
    assert any("an AsyncSessionClient was not closed" in text for text in harvest.seen)
    assert [name for text in harvest.everything() for name in PLANTED.found_in(text)] == []


async def test_doctors_locals_do_not_show_the_proxys_password(
    harvest: Harvest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found out by `doctor`, and its report, hold no password of a proxy, whatever that one
    answers.
    """
    monkeypatch.setenv("QISKIT_IBM_TOKEN", PLANTED.api_key)
    monkeypatch.setenv("QISKIT_IBM_INSTANCE", CRN)
    async with FaultServer(b"SSH-2.0-OpenSSH_9.6\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", with_password(proxy.url))
        examination = Diagnosis(Options())
        harvest.look_at([check async for check in examination.checks()], examination)
        assert proxy.received[0].method == "CONNECT"
    harvest.look_at(examination.settings, resolve(None))
    assert [name for text in harvest.everything() for name in PLANTED.found_in(text)] == []


@table("name", ["exchanged", *SCHEMES])
async def test_recordings_hold_no_credential(name: str) -> None:
    """What the recorder of the page keeps has no credential in it, whatever the service repeats, and
    neither the key nor the token of an exchange.
    """
    page: dict[str, Any] = {}
    exec(RECORDER.rpartition("asyncio.run")[0], page)  # noqa: S102 - our own page
    answers: list[Any] = []
    async with (
        FaultServer(grant(PLANTED.token)) as iam,
        Echo(lambda sent: http(404, fault(sent, code=sent, solution=sent))) as service,
    ):
        auth = IBMCloudAuth(PLANTED.api_key, iam.url) if name == "exchanged" else SCHEMES[name]()
        async with AsyncSessionClient(
            [auth, ServiceCRN(CRN)],
            base_url=service.url,
            headers={"X-Own": PLANTED.own},
            transport=lambda own: page["Recorder"](own, answers),
        ) as client:
            with pytest.raises(NotFound):
                await client.get("s1")
    assert [answer[:3] for answer in answers] == [["GET", "/v1/sessions/s1", 404]]
    assert PLANTED.found_in(json.dumps(answers)) == []


@table("name", SCHEMES)
def test_a_provider_shows_its_credential_nowhere(name: str) -> None:
    """Neither what a provider consists of nor a pickle shows its credential; a copy is the provider
    itself, a CRN is no secret.
    """
    provider = SCHEMES[name]()
    parts = [
        vars(provider),
        *(vars(part) for part in vars(provider).values() if hasattr(part, "__dict__")),
    ]
    assert PLANTED.found_in(repr(parts)) == []
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as caught:
        pickle.dumps(provider)
    assert PLANTED.found_in(str(caught.value)) == []
    if name != "token":
        assert copy.copy(provider) is provider is copy.deepcopy(provider)
    assert pickle.loads(pickle.dumps(ServiceCRN(CRN))).crn == CRN  # noqa: S301 - our own bytes


def test_ctrl_c_in_a_bare_loop_shows_no_secret() -> None:
    """Whenever Ctrl-C comes, without `asyncio.run` to turn it into a cancellation, no local of our
    frames shows a secret.
    """
    assert seen_when_interrupted(10) == []
