"""Lists that come in pages, as one stream: a page is fetched when it is needed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime

from qsessions.api.codec import WorkloadPage
from qsessions.api.operations import next_cursor
from qsessions.errors import ProtocolError
from qsessions.models import Workload

# Fetches the page that a cursor names, or the first.
Fetch = Callable[[str | None], Awaitable[WorkloadPage]]

# A service may filter after it has cut a page, so one with nothing on it isn't the end.
_MOST_EMPTY = 10

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


async def pages(fetch: Fetch) -> AsyncGenerator[Workload, None]:
    """Give the workloads of all pages.

    Raises:
        ProtocolError: The links of the pages lead in a circle or nowhere, or from one page to the next with nothing on any.
    """
    cursor: str | None = None
    empty = 0
    seen: set[str] = set()
    while True:
        page = await fetch(cursor)
        for workload in page.workloads:
            yield workload
        cursor = next_cursor(page)
        if cursor is None:
            return
        empty = 0 if page.workloads else empty + 1
        if empty == _MOST_EMPTY:
            raise ProtocolError(
                f"{empty} pages of workloads in a row with nothing on them lead to another, so the list has no end.",
                operation="workloads",
            )
        if cursor in seen:
            raise ProtocolError(
                "the pages of workloads lead in a circle, so the list has no end.",
                operation="workloads",
            )
        seen.add(cursor)


async def by_creation(
    streams: Sequence[AsyncIterator[Workload]], *, newest_first: bool
) -> AsyncIterator[Workload]:
    """Give several streams that are sorted by creation time as one that is."""
    heads: dict[AsyncIterator[Workload], Workload] = {}
    for stream in streams:
        await _advance(stream, heads)
    choose = max if newest_first else min
    while heads:
        stream = choose(heads, key=lambda candidate: heads[candidate].created or _LONG_AGO)
        yield heads.pop(stream)
        await _advance(stream, heads)


async def _advance(
    stream: AsyncIterator[Workload], heads: dict[AsyncIterator[Workload], Workload]
) -> None:
    head = await anext(stream, None)
    if head is not None:
        heads[stream] = head
