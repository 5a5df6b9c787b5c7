"""`raw`: the answer behind a call's result."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    IBMCloudAuth,
    InvalidArgument,
    NotFound,
    ServiceCRN,
    Session,
    SessionClient,
)
from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.clients import Against, static_auth
from tests.support.fault_server import http

READ = {"id": "s-1", "state": "open", "accepting_jobs": True}


async def test_the_answer_behind_a_call(against: Against) -> None:
    """Beside the result there are the answer's status, headers and ids, the number of attempts and the
    time; a repeated header has all its values, and no header shows in the repr.
    """
    named = http(
        200,
        READ,
        headers={"X-Request-ID": "r-1", "X-B3-TraceId": "t-1", "Via": "a\r\nVia: the-secret"},
    )
    server, client = await against(http(503), named, http(204), http(200, READ))
    raw = await client.raw(client.get, "s-1", timeout=5)
    assert raw.value == Session(id="s-1", state=raw.value.state, accepting_jobs=True)
    assert (raw.status, raw.request_id, raw.trace_id, raw.attempts) == (200, "r-1", "t-1", 2)
    assert raw.headers["via"] == "a, the-secret"
    assert raw.seconds > 0
    assert "the-secret" not in repr(raw)
    assert pickle.loads(pickle.dumps(raw)) == raw  # noqa: S301 - what is loaded was dumped here
    # The last answer is that of the reading.
    assert (await client.raw(client.update, "s-1", accepting_jobs=True)).status == 200
    assert len(server.received) == 4


async def test_each_call_has_its_own_answer(emulator: Emulator, client: AsyncSessionClient) -> None:
    """Calls at the same time don't get each other's answers, a create and a handle's calls included;
    what isn't called through `raw` goes on beside them.
    """

    async def one() -> None:
        created = await client.raw(client.create, mode="batch", max_ttl="10m")
        session, live = created.value, client.attach(created.value.id)
        reads = await asyncio.gather(
            client.raw(client.get, session.id),
            client.raw(live.refresh),
            client.get(session.id),
            client.raw(client.has_pending_jobs, session.id),
        )
        assert [created.status, reads[0].status, reads[3].status] == [200] * 3
        assert created.headers["content-length"] == reads[0].headers["content-length"]
        assert reads[3].headers["content-length"] != reads[0].headers["content-length"]
        assert (await client.raw(live.close)).status == 204

    await asyncio.gather(*(one() for _ in range(20)))
    assert (await client.raw(client.versions)).value == await client.versions()


async def test_an_error_is_the_calls_own(client: AsyncSessionClient) -> None:
    """A call that fails raises what it raises without `raw`."""
    with pytest.raises(NotFound) as failed:
        await client.raw(client.get, "unknown")
    assert (failed.value.status, failed.value.attempts, failed.value.operation) == (404, 1, "get")


async def test_other_calls_are_refused(against: Against) -> None:
    """What isn't a call of this client with one answer is refused before anything is sent."""
    server, client = await against(http(200, READ))
    other = AsyncSessionClient(static_auth(), base_url=server.url)
    live = client.attach("s-1")
    wrong: list[Any] = [
        client.workloads, client.close_all, client.instances, client.open, client.raw, client.aclose,
        live.watch, live.wait_until, other.get, client.get("s-1"), AsyncSessionClient.get, print, None,
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises(InvalidArgument, match=r"as in raw\(client.get, session_id\); not \w+"):
            await client.raw(call)
    with pytest.raises(InvalidArgument, match="max_ttl"):
        await client.raw(client.create, mode="batch", max_ttl="soon")
    assert server.received == []
    await other.aclose()


def test_in_the_facade() -> None:
    """The synchronous client has it for its own calls and for those of its handles."""
    with (
        ThreadedEmulator(Emulator(seed=1)) as emulator,
        SessionClient(
            [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)],
            base_url=emulator.url,
        ) as client,
    ):
        created = client.raw(client.create, mode="batch", max_ttl="10m")
        live = client.attach(created.value.id)
        assert client.raw(client.get, live.id).value == client.raw(live.refresh).value
        assert (created.status, client.raw(live.close).status) == (200, 204)
        wrong: list[Any] = [client.workloads, client.get(live.id), live.watch, client.shutdown]
        for call in wrong:
            with pytest.raises(InvalidArgument, match=r"^raw takes a method of this client"):
                client.raw(call)
