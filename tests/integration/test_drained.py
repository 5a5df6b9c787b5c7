"""What a client drained leaves the ledger once it is over, by one look through the list and not by
a GET after each drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    IBMCloudAPIKey,
    LocalLedger,
    Mode,
    ServiceCRN,
    SessionClient,
)
from qsessions.emulator import Emulator
from qsessions.models import ModeName
from qsessions.session import draining as drained
from qsessions.testing import ManualClock
from tests.support.calls import SESSION, WORKLOAD
from tests.support.clients import Against
from tests.support.fault_server import Answer, hang, held, http
from tests.support.leaks import loop_steps
from tests.support.loop_time import late
from tests.support.threaded import threaded
from tests.support.waiting import until

CREATED, DONE = http(200, SESSION), http(204)


def listing(*workloads: dict[str, Any]) -> bytes:
    """Answer with a page of workloads."""
    return http(200, {"workloads": list(workloads), "next": None})


ENDED = WORKLOAD | {"status": "completed"}


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[LocalLedger]:
    """Return a ledger."""
    ledger = LocalLedger(tmp_path / "ledger")
    yield ledger
    await ledger.aclose()


@pytest.fixture
async def client(
    emulator: Emulator, time: ManualClock, ledger: LocalLedger
) -> AsyncIterator[AsyncSessionClient]:
    """Return a client of the emulator with that ledger."""
    async with AsyncSessionClient(
        auth_of(emulator), base_url=emulator.url, clock=time, ledger=ledger
    ) as client:
        yield client


def auth_of(emulator: Emulator) -> list[IBMCloudAPIKey | ServiceCRN]:
    """Return credentials that need no exchange."""
    return [IBMCloudAPIKey(emulator.api_key), ServiceCRN(emulator.crn)]


async def drain(client: AsyncSessionClient, mode: ModeName = "batch") -> str:
    """Leave a clean block; return its session."""
    async with client.open(mode=mode, backend="ibm_fez", max_ttl="10m") as live:
        return live.id


async def recorded(ledger: LocalLedger) -> list[tuple[str, str | None]]:
    """List what the ledger has open."""
    return [(str(entry.record.state), entry.record.session_id) for entry in await ledger.entries()]


def asked(emulator: Emulator) -> list[str]:
    """List what the service was asked for."""
    return [str(request.operation) for request in emulator.requests]


async def looked(client: AsyncSessionClient) -> None:
    """Wait until no look is under way, nor about to be, and everything is written."""
    await until(lambda: not client._transport._tasks)


@pytest.mark.smoke
async def test_a_program_of_clean_blocks_ends_with_an_empty_ledger(
    client: AsyncSessionClient, emulator: Emulator, ledger: LocalLedger
) -> None:
    """The end of the client looks once for each mode, and lets the ledger forget the sessions that
    have ended.
    """
    for mode in (*Mode, Mode.BATCH):
        await drain(client, mode)
    assert len(await recorded(ledger)) == 3
    await client.aclose()
    assert await recorded(ledger) == []
    assert asked(emulator) == ["create", "update"] * 3 + ["workloads"] * 2


def test_a_synchronous_program_of_clean_blocks_ends_with_an_empty_ledger(tmp_path: Path) -> None:
    """The same holds for code that doesn't await."""
    ledger = LocalLedger(tmp_path)
    with threaded(Emulator()) as service:
        emulator = service.server
        with SessionClient(auth_of(emulator), base_url=emulator.url, ledger=ledger) as client:
            for _ in range(3):
                with client.open(mode="batch", max_ttl="10m"):
                    pass
        assert service.ask(asked) == ["create", "update"] * 3 + ["workloads"]
        assert service.wait(recorded(ledger)) == []
        service.wait(ledger.aclose())


async def test_a_session_with_a_job_left_stays_recorded(
    client: AsyncSessionClient, emulator: Emulator, ledger: LocalLedger
) -> None:
    """A drained session that still has a job to finish is no ended one: the ledger has it as
    draining.
    """
    await drain(client)
    async with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as live:
        emulator.submit_job(live.id, seconds=300)
    await client.aclose()
    assert await recorded(ledger) == [("draining", live.id)]


async def test_fifty_drained_sessions_cost_one_look(
    client: AsyncSessionClient, emulator: Emulator, ledger: LocalLedger
) -> None:
    """The fiftieth drain looks, those before and after it don't, and no session is read."""
    for _ in range(49):
        await drain(client)
    await looked(client)
    assert asked(emulator).count("workloads") == 0
    assert len(await recorded(ledger)) == 49
    await drain(client)
    await looked(client)
    assert await recorded(ledger) == []
    await drain(client)
    await looked(client)
    assert asked(emulator).count("workloads") == 1
    assert "get" not in asked(emulator)


async def test_what_a_look_left_is_not_looked_for_at_each_drain(
    client: AsyncSessionClient, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that a look didn't find ended don't count towards the next one."""
    monkeypatch.setattr(drained, "_WAITING", 3)
    for number in range(1, 9):
        async with client.open(mode="batch", backend="ibm_fez", max_ttl="10m") as live:
            emulator.submit_job(live.id, seconds=300)
        await looked(client)
        assert asked(emulator).count("workloads") == number // 3


async def test_a_minute_is_reason_enough_for_a_look(
    client: AsyncSessionClient, emulator: Emulator, time: ManualClock, ledger: LocalLedger
) -> None:
    """The first drain after a minute looks, then none for another minute."""
    await drain(client)
    time.advance(59)
    await drain(client)
    await looked(client)
    assert asked(emulator).count("workloads") == 0
    time.advance(1)
    for _ in range(2):
        await drain(client)
        await looked(client)
    assert asked(emulator).count("workloads") == 1
    assert len(await recorded(ledger)) == 1


async def test_one_look_at_a_time(against: Against, ledger: LocalLedger, time: ManualClock) -> None:
    """While one look is under way, no other is begun."""
    released = asyncio.Event()
    server, client = await against(
        CREATED, DONE, DONE, held(released, listing(ENDED)), DONE, ledger=ledger
    )
    session = await client.create(mode="dedicated", max_ttl=600)
    await client.drain(session.id)
    time.advance(60)
    await client.drain(session.id)
    await server.arrival(4)
    await client.drain(session.id)
    await loop_steps(20)
    assert [request.target.partition("?")[0] for request in server.received[3:]] == [
        "/v1/workloads",
        "/v1/sessions/s1",
    ]
    released.set()
    await looked(client)
    assert await recorded(ledger) == []


async def test_without_a_ledger_nothing_more_is_sent(emulator: Emulator, time: ManualClock) -> None:
    """Without a ledger there is nothing to forget: a drain is one request, however long the client
    lives.
    """
    async with AsyncSessionClient(auth_of(emulator), base_url=emulator.url, clock=time) as client:
        for _ in range(3):
            await drain(client)
            time.advance(100)
    assert asked(emulator) == ["create", "update"] * 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (listing(ENDED), []),
        (listing(WORKLOAD | {"id": "s2"}, ENDED), []),
        (listing(WORKLOAD), ["s1"]),
        (listing(WORKLOAD | {"status": "in_progress"}), ["s1"]),
        (listing(WORKLOAD | {"status": "new"}), ["s1"]),
        (listing(ENDED | {"id": "s2"}), ["s1"]),
        (listing(), ["s1"]),
        (http(404), ["s1"]),
        (http(500), ["s1"]),
        (http(200, "<html>Sign in</html>"), ["s1"]),
        (http(401, "<html>Sign in</html>"), ["s1"]),
        (hang, ["s1"]),
    ],
    ids=[
        "ended",
        "ended, after another one",
        "pending",
        "in progress",
        "another status",
        "another session",
        "none",
        "404",
        "500",
        "HTML",
        "401 and HTML",
        "hanging",
    ],
)
async def test_only_a_positive_word_ends_a_record(
    answer: Answer,
    expected: list[str],
    against: Against,
    ledger: LocalLedger,
    time: ManualClock,
) -> None:
    """A list that can't be had, or names the session otherwise or not at all, ends nothing, and the
    client is closed all the same.
    """
    if answer is hang:
        answer = late(hang, drained._LOOK_S, time)
    server, client = await against(CREATED, DONE, answer, ledger=ledger)
    assert await drain(client, "dedicated") == "s1"
    await client.aclose()
    assert server.received[2].target.startswith("/v1/workloads?")
    assert [session_id for _, session_id in await recorded(ledger)] == expected


async def test_a_look_that_fails_is_nobodys_error(
    against: Against, ledger: LocalLedger, time: ManualClock
) -> None:
    """A drain is a success whatever comes of the look that it was the reason for; the next one
    looks again.
    """
    failures = (http(403), listing(ENDED))
    server, client = await against(
        CREATED, DONE, DONE, failures[0], DONE, failures[1], ledger=ledger
    )
    session = await client.create(mode="dedicated", max_ttl=600)
    await client.drain(session.id)
    for count in (4, 6):
        time.advance(60)
        await client.drain(session.id)
        await server.arrival(count)
        await looked(client)
    assert await recorded(ledger) == []


async def test_what_a_provider_raises_is_no_error_of_the_end(
    ledger: LocalLedger, emulator: Emulator
) -> None:
    """Where a provider of the user's own fails during the look, the client is closed all the same."""

    class Failing(IBMCloudAPIKey):
        async def headers(self, transport: Any) -> Any:
            if asked(emulator).count("update"):
                raise ValueError("planted")
            return await super().headers(transport)

    auth = [Failing(emulator.api_key), ServiceCRN(emulator.crn)]
    client = AsyncSessionClient(auth, base_url=emulator.url, ledger=ledger)
    session_id = await drain(client)
    await client.aclose()
    assert await recorded(ledger) == [("draining", session_id)]


async def test_a_look_under_way_gives_way_to_the_last_one(
    against: Against, ledger: LocalLedger, time: ManualClock
) -> None:
    """Closing the client waits for no look that hangs: it makes one of its own, which has all that
    was drained.
    """
    server, client = await against(CREATED, DONE, DONE, hang, listing(ENDED), ledger=ledger)
    session = await client.create(mode="dedicated", max_ttl=600)
    await client.drain(session.id)
    time.advance(60)
    await client.drain(session.id)
    await server.arrival(4)
    await client.aclose()
    assert server.received[4].target.startswith("/v1/workloads?")
    assert await recorded(ledger) == []


async def test_a_list_that_is_full_of_others_is_given_up(
    client: AsyncSessionClient,
    emulator: Emulator,
    ledger: LocalLedger,
    time: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look ends after so many others in a row, and what it didn't find stays as draining."""
    monkeypatch.setattr(drained, "_MOST_OTHERS", 2)
    first = await drain(client)
    async with AsyncSessionClient(auth_of(emulator), base_url=emulator.url, clock=time) as other:
        for _ in range(2):
            time.advance(1)
            await other.close((await other.create(mode="batch")).id)
    await client.aclose()
    assert await recorded(ledger) == [("draining", first)]
