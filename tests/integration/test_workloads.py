"""The list of workloads: pages fetched as they are consumed, kinds merged into one list, links that
lead astray.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    CreateSession,
    InvalidArgument,
    Mode,
    ProtocolError,
    RetryPolicy,
    ServerError,
    Workload,
)
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.calls import NO_WORKLOADS, WORKLOAD, fault
from tests.support.clients import Against
from tests.support.event_loop import past_deadline
from tests.support.fault_server import hang, http
from tests.support.tables import table


async def ids(workloads: AsyncIterator[Workload]) -> list[str]:
    """Read all and return the ids."""
    return [workload.id async for workload in workloads]


def fetched(emulator: Emulator) -> int:
    """Count the pages that were asked for."""
    return sum(request.path == "/api/v1/workloads" for request in emulator.requests)


def page(*workloads: dict[str, Any], href: str | None = None) -> bytes:
    """Write a page of workloads with a link to the next one."""
    return http(200, {"workloads": workloads, "next": None if href is None else {"href": href}})


@pytest.fixture
async def created(client: AsyncSessionClient, emulator: Emulator, time: ManualClock) -> list[str]:
    """Return the ids of twenty workloads in the order in which they were created: every third a
    batch, every fifth a job.
    """
    ids = []
    for number in range(20):
        time.advance(1)
        if number % 5 == 4:
            ids.append(emulator.submit_job(seconds=1000))
        else:
            mode = Mode.BATCH if number % 3 == 2 else Mode.DEDICATED
            backend = "ibm_torino" if number < 10 else "ibm_fez"
            ids.append((await client.create(CreateSession(mode, backend=backend))).id)
    return ids


def without_jobs(created: list[str]) -> list[str]:
    """Leave the jobs out."""
    return [one for number, one in enumerate(created) if number % 5 != 4]


@table("page_size", [1, 2, 3, 50])
@table("newest_first", [False, True])
async def test_sessions_and_batches_come_as_one_list(
    client: AsyncSessionClient, created: list[str], page_size: int, newest_first: bool
) -> None:
    """Sessions and batches come merged by creation time over all pages, without the jobs, whatever
    the size of a page.
    """
    expected = without_jobs(created)
    if newest_first:
        expected.reverse()
    assert await ids(client.workloads(page_size=page_size, newest_first=newest_first)) == expected


async def test_jobs_come_only_when_asked_for(
    client: AsyncSessionClient, created: list[str]
) -> None:
    """Each kind can be asked for alone or with others, in any order and more than once."""
    sessions = await ids(client.workloads(mode="session"))
    batches = await ids(client.workloads(mode="batch"))
    jobs = await ids(client.workloads(mode="job", page_size=2))
    assert (len(sessions), len(batches), len(jobs)) == (11, 5, 4)
    assert (
        await ids(client.workloads(mode=("job", "session", "batch", "job"), page_size=3)) == created
    )
    assert await ids(client.workloads(mode=["job", "batch"])) == [
        one for one in created if one not in sessions
    ]


async def test_a_page_is_fetched_when_it_is_needed(
    client: AsyncSessionClient, emulator: Emulator, created: list[str]
) -> None:
    """Nothing is fetched before the first item, and no page before the items of the one ahead are
    used up.
    """
    workloads = client.workloads(mode="session", page_size=3)
    assert fetched(emulator) == 0
    counts = [fetched(emulator) async for _ in workloads]
    assert counts == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert fetched(emulator) == 4


async def test_an_iterator_that_is_abandoned_leaves_nothing_behind(
    client: AsyncSessionClient, emulator: Emulator, created: list[str]
) -> None:
    """Leaving the loop half-way fetches no further page and leaves neither task nor warning; the
    client goes on working.
    """
    await client.versions()
    tasks = asyncio.all_tasks()
    async for workload in client.workloads(page_size=2):
        if workload.id == created[1]:
            break
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert fetched(emulator) == 2
    assert asyncio.all_tasks() == tasks
    assert len(await ids(client.workloads(page_size=2))) == 16


async def test_two_iterators_do_not_disturb_each_other(
    client: AsyncSessionClient, created: list[str]
) -> None:
    """Two lists that are consumed side by side each yield everything."""
    one, other = client.workloads(page_size=2), client.workloads(page_size=3, newest_first=True)
    seen_one, seen_other = [], []
    for _ in range(16):
        seen_one.append((await anext(one)).id)
        seen_other.append((await anext(other)).id)
    assert seen_one == without_jobs(created)
    assert seen_other == seen_one[::-1]
    for iterator in (one, other):
        with pytest.raises(StopAsyncIteration):
            await anext(iterator)


async def test_filters_choose_what_is_listed(
    client: AsyncSessionClient, emulator: Emulator, time: ManualClock, created: list[str]
) -> None:
    """Status, backend, search and both times choose, alone and together, whatever the offset of a
    time.
    """
    shown = without_jobs(created)
    await client.close(shown[0])
    job = emulator.submit_job(shown[1], seconds=10)
    assert await ids(client.workloads(status="completed")) == [shown[0]]
    assert await ids(client.workloads(status="in_progress")) == [shown[1]]
    assert await ids(client.workloads(status=("pending", "in_progress"))) == shown[1:]
    assert await ids(client.workloads(status=["failed", "canceled"])) == []
    assert await ids(client.workloads(backend="ibm_torino")) == shown[:8]
    assert await ids(client.workloads(search=shown[3])) == [shown[3]]
    fifth = datetime.fromtimestamp(time.now - 15, UTC)
    assert (
        await ids(client.workloads(mode=("session", "batch", "job"), created_before=fifth))
        == created[:5]
    )
    assert await ids(client.workloads(mode=("session", "batch", "job"), created_after=fifth)) == [
        *created[4:],
        job,
    ]
    elsewhere = fifth.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert await ids(
        client.workloads(mode="job", created_after=elsewhere, created_before=fifth)
    ) == [created[4]]


async def test_the_query_says_what_was_asked(against: Against) -> None:
    """Each filter is a parameter of its own, encoded, on the first page and on all that follow."""
    last = page(WORKLOAD)
    server, client = await against(page(WORKLOAD, href="/v1/workloads?next=c%261"), last)
    when = datetime(2026, 5, 1, 12, 0, 0, 250_000, UTC)
    await ids(
        client.workloads(
            mode="batch",
            status=("pending", "in_progress"),
            backend="a&b",
            search="é?",
            created_after=when,
            created_before=when.replace(tzinfo=timezone(timedelta(hours=2))),
            newest_first=True,
            page_size=7,
            api_version="2026-03-15",
        )
    )
    first, second = (parse_qs(urlsplit(request.target).query) for request in server.received)
    assert first == {
        "limit": ["7"],
        "sort": ["-createdAt"],
        "mode": ["batch"],
        "status": ["pending", "in_progress"],
        "backend": ["a&b"],
        "search": ["é?"],
        "created_after": ["2026-05-01T12:00:00.250000Z"],
        "created_before": ["2026-05-01T10:00:00.250000Z"],
    }
    assert second == first | {"next": ["c&1"]}
    assert {request.headers["ibm-api-version"] for request in server.received} == {"2026-03-15"}


@table(
    "filters",
    [
        {"mode": ()},
        {"mode": "dedicated"},
        {"mode": ""},
        {"mode": ("session", "jobs")},
        {"status": "open"},
        {"status": ("pending", "")},
        {"backend": ""},
        {"backend": 7},
        {"search": ""},
        {"created_after": "2026-05-01"},
        {"created_before": 1_780_000_000},
        {"created_before": datetime(2026, 5, 1)},  # noqa: DTZ001 - a time without an offset is what is tested
        {"page_size": 0},
        {"page_size": 51},
        {"page_size": True},
        {"page_size": 10.0},
        {"api_version": "newest"},
        {"timeout": 0},
    ],
)
async def test_a_filter_that_cannot_be_right_is_refused_at_once(
    against: Against, filters: dict[str, Any]
) -> None:
    """A filter that can't be right is refused when the list is asked for, before the first page."""
    server, client = await against(http(200, NO_WORKLOADS))
    with pytest.raises(InvalidArgument):
        client.workloads(**filters)
    assert server.received == []


async def test_a_link_to_another_host_is_not_followed_there(against: Against) -> None:
    """Of the link to the next page only the cursor is used, so credentials stay with the service."""
    elsewhere, _ = await against(page(WORKLOAD))
    href = f"{elsewhere.url}/steal?next=c1&limit=1"
    server, client = await against(page(WORKLOAD, href=href), page(WORKLOAD))
    assert len(await ids(client.workloads(mode="session"))) == 2
    assert elsewhere.received == []
    assert [urlsplit(request.target).path for request in server.received] == ["/v1/workloads"] * 2
    assert parse_qs(urlsplit(server.received[1].target).query)["next"] == ["c1"]
    assert parse_qs(urlsplit(server.received[1].target).query)["limit"] == ["50"]


@table("href", ["/v1/workloads", "/v1/workloads?next=", "http://[", "?previous=c1", "next=c1"])
async def test_a_link_without_a_cursor_is_an_error(against: Against, href: str) -> None:
    """A link that names no cursor would cut the list short in silence, so it is an error after the
    items of its page.
    """
    _, client = await against(page(WORKLOAD, href=href))
    workloads = client.workloads(mode="session")
    assert (await anext(workloads)).id == "s1"
    with pytest.raises(ProtocolError, match="no cursor") as caught:
        await anext(workloads)
    assert caught.value.operation == "workloads"


@table("length", [1, 3])
async def test_links_that_lead_in_a_circle_are_an_error(against: Against, length: int) -> None:
    """A list whose links come back to a page that was read already would never end, so it is an
    error.
    """
    circle = [page(WORKLOAD, href=f"?next=c{number % length}") for number in range(length + 1)]
    server, client = await against(*circle)
    with pytest.raises(ProtocolError, match="circle"):
        await ids(client.workloads(mode="session"))
    assert len(server.received) == length + 1


async def test_empty_pages_and_unknown_creation_times_are_read(against: Against) -> None:
    """A page may be empty though others follow, and workloads without a creation time come as the
    oldest.
    """
    timeless = {"id": "s0", "mode": "batch"}
    server, client = await against(
        page(href="?next=c1"),
        page(WORKLOAD),
        page(timeless),
        page(),
        http(200, {"workloads": [WORKLOAD]}),
    )
    assert await ids(client.workloads()) == ["s0", "s1"]
    assert len(server.received) == 3
    assert await ids(client.workloads()) == ["s1"]


async def test_a_page_that_fails_ends_the_list_with_its_error(against: Against) -> None:
    """When a later page can't be fetched, what came before was yielded, the error is raised,
    and the list is over.
    """
    _, client = await against(
        page(WORKLOAD, href="?next=c1"), http(500, fault()), retry=RetryPolicy(max_attempts=1)
    )
    workloads = client.workloads(mode="session")
    assert (await anext(workloads)).id == "s1"
    with pytest.raises(ServerError) as caught:
        await anext(workloads)
    assert (caught.value.operation, caught.value.method, caught.value.path) == (
        "workloads",
        "GET",
        "/v1/workloads",
    )
    with pytest.raises(StopAsyncIteration):
        await anext(workloads)


async def test_the_deadline_counts_for_each_page(against: Against, time: ManualClock) -> None:
    """Time that the consumer takes between pages is not the list's; a page that hangs is ended."""
    server, client = await against(
        page(WORKLOAD, href="?next=c1"), page(WORKLOAD, href="?next=c2"), hang
    )
    workloads = client.workloads(mode="session", timeout=5)
    for _ in range(2):
        await anext(workloads)
        time.advance(60)
    with pytest.raises(CallTimeout):
        await past_deadline(anext(workloads), server.arrival(3), time, 5)


@table(
    ("body", "message"),
    [
        ({"workloads": [WORKLOAD, {"mode": "session"}]}, r"missing @ \$\.workloads\[1\]\.id"),
        ({"workloads": {}}, "workloads"),
        ({}, "workloads"),
        ([], "object"),
        ({"workloads": [], "next": "c1"}, "next"),
    ],
)
async def test_a_page_that_cannot_be_read_is_an_error_with_a_path(
    against: Against, body: object, message: str
) -> None:
    """A page that isn't one is a protocol error that names the field."""
    _, client = await against(http(200, body))
    with pytest.raises(ProtocolError, match=message):
        await ids(client.workloads(mode="session"))
