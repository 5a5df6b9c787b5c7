"""Pages as one stream, and several streams as one."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st
from yarl import URL

from qsessions import ProtocolError, Workload
from qsessions.api.codec import WorkloadPage
from qsessions.api.operations import Operation, workloads_query
from qsessions.caller import Caller
from qsessions.client import by_creation
from tests.support.tables import table

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def workload(name: str, minutes: int | None = None) -> Workload:
    """A workload, made so many minutes after noon."""
    return Workload(id=name, created=None if minutes is None else NOON + timedelta(minutes=minutes))


class Service(Caller):
    """Answers with pages by cursor, and keeps account of the cursors it was asked for."""

    def __init__(self, answers: dict[str | None, tuple[str, str | None]]) -> None:
        self.answers = answers
        self.asked: list[str | None] = []

    def read(self) -> AsyncGenerator[Workload, None]:
        """Read all pages."""
        return self.workloads(workloads_query(mode="session"))

    async def call(self, operation: Operation[Any], *_: Any) -> Any:
        """Return a page: the letters of its text are the workloads' ids."""
        cursor = URL(operation.path).query.get("next")
        self.asked.append(cursor)
        letters, following = self.answers[cursor]
        href = None if following is None else f"/v1/workloads?next={following}"
        return WorkloadPage(workloads=tuple(map(workload, letters)), next_href=href)


@table(
    ("answers", "read"),
    [
        ({None: ("", None)}, ""),
        ({None: ("ab", None)}, "ab"),
        ({None: ("ab", "1"), "1": ("c", "2"), "2": ("d", None)}, "abcd"),
        ({None: ("a", "1"), "1": ("", "2"), "2": ("b", None)}, "ab"),
        ({None: ("aa", "1"), "1": ("a", None)}, "aaa"),
    ],
)
async def test_pages(answers: dict[str | None, tuple[str, str | None]], read: str) -> None:
    """All pages are read, each once and in order; an empty page in the middle is not the end."""
    service = Service(answers)
    assert "".join([item.id async for item in service.read()]) == read
    assert service.asked == list(answers)


async def test_pages_are_fetched_when_needed() -> None:
    """Nothing is fetched before somebody reads, and no page beyond what is read."""
    service = Service({None: ("ab", "1"), "1": ("c", None)})
    stream = service.read()
    assert service.asked == []
    assert [(await anext(stream)).id for _ in range(2)] == ["a", "b"]
    assert service.asked == [None]
    assert (await anext(stream)).id == "c"
    assert service.asked == [None, "1"]


@table("before", ["", "a"])
async def test_pages_without_end(before: str) -> None:
    """Pages with nothing on them that always lead to another are refused after ten in a row; any
    workload begins the count anew.
    """
    empty: dict[str | None, tuple[str, str | None]] = {
        str(one): ("", str(one + 1)) for one in range(100)
    }
    nine = {None: ("", "-8")} | {str(one): ("", str(one + 1)) for one in range(-8, -1)}
    service = Service(nine | {"-1": (before, "0")} | empty)
    with pytest.raises(
        ProtocolError, match="10 pages of workloads in a row with nothing on them"
    ) as caught:
        [item async for item in service.read()]
    assert caught.value.operation == "workloads"
    assert len(service.asked) == (19 if before else 10)


@table(
    "answers",
    [
        {None: ("a", "1"), "1": ("b", "1")},
        {None: ("a", "1"), "1": ("b", "2"), "2": ("c", "1")},
    ],
)
async def test_circle(answers: dict[str | None, tuple[str, str | None]]) -> None:
    """Pages that lead in a circle end in an error instead of an endless list, after each was given
    once.
    """
    service = Service(answers)
    read: list[str] = []
    with pytest.raises(ProtocolError, match="lead in a circle") as caught:
        read.extend([item.id async for item in service.read()])
    assert caught.value.operation == "workloads"
    assert service.asked == list(answers)


async def test_link_without_cursor() -> None:
    """A link that leads nowhere is an error after what its page held was given."""

    class Lost(Service):
        async def call(self, operation: Operation[Any], *_: Any) -> Any:
            return WorkloadPage(workloads=(workload("a"),), next_href="/v1/workloads")

    stream = Lost({}).read()
    assert (await anext(stream)).id == "a"
    with pytest.raises(ProtocolError, match="has no cursor"):
        await anext(stream)


async def stream_of(items: Sequence[Workload]) -> AsyncIterator[Workload]:
    """A stream of workloads."""
    for item in items:
        yield item


async def merged(
    streams: Sequence[Sequence[Workload]], *, newest_first: bool = False
) -> list[Workload]:
    """What comes of several streams."""
    several = [stream_of(items) for items in streams]
    return [item async for item in by_creation(several, newest_first=newest_first)]


@table(
    ("streams", "newest_first", "order"),
    [
        ([], False, ""),
        ([[]], False, ""),
        ([[("a", 1), ("b", 2)]], False, "ab"),
        ([[("a", 1), ("c", 3)], [("b", 2), ("d", 4)]], False, "abcd"),
        ([[("c", 3), ("a", 1)], [("d", 4), ("b", 2)]], True, "dcba"),
        ([[("a", 1), ("b", 2)], []], False, "ab"),
        ([[], [("a", 1)], [("b", 0)]], False, "ba"),
        # One without a time is taken for the oldest.
        ([[("a", 1)], [("b", None)]], False, "ba"),
        ([[("a", 1)], [("b", None)]], True, "ab"),
    ],
)
async def test_by_creation(
    streams: list[list[tuple[str, int | None]]], newest_first: bool, order: str
) -> None:
    """Streams that are sorted by creation become one that is, in either direction."""
    several = [[workload(*item) for item in items] for items in streams]
    assert "".join([item.id for item in await merged(several, newest_first=newest_first)]) == order


async def test_by_creation_in_other_offsets() -> None:
    """Creation times are compared as moments, whatever their offset."""
    early = Workload(id="early", created=NOON.astimezone(timezone(timedelta(hours=9))))
    late = Workload(id="late", created=NOON + timedelta(minutes=1))
    assert await merged([[late], [early]]) == [early, late]


async def test_by_creation_reads_ahead_by_one() -> None:
    """Of each stream one item is read ahead and no more, so that a page is fetched only when it is
    needed.
    """
    services = [Service({None: ("ab", "1"), "1": ("c", None)}) for _ in range(2)]
    stream = by_creation([service.read() for service in services], newest_first=False)
    await anext(stream)
    assert [service.asked for service in services] == [[None], [None]]


@given(st.lists(st.lists(st.integers(0, 20)), max_size=4), st.booleans())
async def test_any_merge(minutes: list[list[int]], newest_first: bool) -> None:
    """Nothing is lost, nothing comes twice, and the whole is sorted, ties included."""
    streams = [
        [
            workload(f"{index}-{place}", minute)
            for place, minute in enumerate(sorted(items, reverse=newest_first))
        ]
        for index, items in enumerate(minutes)
    ]
    result = await merged(streams, newest_first=newest_first)
    assert sorted(item.id for item in result) == sorted(
        item.id for items in streams for item in items
    )
    times = [item.created for item in result if item.created is not None]
    assert times == sorted(times, reverse=newest_first)
    for index, items in enumerate(streams):
        assert [item for item in result if item.id.startswith(f"{index}-")] == items
