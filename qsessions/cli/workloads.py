"""`workloads` and `versions`: the lists of the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from qsessions.cli.options import (
    DEFAULTS,
    CreatedAfter,
    CreatedBefore,
    Name,
    OnlyBackend,
    Options,
    flag,
)
from qsessions.cli.output import Output, Row, row
from qsessions.cli.service import connect
from qsessions.errors import CallTimeout

# The first ones stay where a terminal is narrow.
_WORKLOAD_COLUMNS = (
    "id",
    "mode",
    "status",
    "created",
    "backend",
    "usage_seconds",
    "accepting_jobs",
)
_VERSION_COLUMNS = ("version", "status", "sunset_date")


async def workloads(
    *,
    mode: Annotated[
        tuple[Literal["session", "batch", "job"], ...],
        Parameter(help="Which kinds; may be repeated.", negative=""),
    ] = ("session", "batch"),
    status: Annotated[
        tuple[Literal["pending", "in_progress", "failed", "completed", "canceled"], ...],
        flag("Only those in this status; may be repeated."),
    ] = (),
    backend: OnlyBackend = None,
    search: Annotated[
        Name | None, Parameter(help="Only those that the service finds by this text.")
    ] = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    newest_first: Annotated[bool, flag("Begin with the newest.")] = False,
    limit: Annotated[PositiveInt | None, Parameter(help="How many to print at most.")] = None,
    options: Options = DEFAULTS,
) -> None:
    """List the instance's sessions and batches, oldest first.

    Those that may cost are pending or in_progress.

    Example: qsessions workloads --status pending --status in_progress --jsonl
    """
    from qsessions.api.operations import MAX_PAGE

    output = Output(options)
    try:
        async with connect(options) as client, asyncio.timeout(options.timeout):
            listed = client.workloads(
                mode=mode,
                status=status,
                backend=backend,
                search=search,
                created_after=created_after,
                created_before=created_before,
                newest_first=newest_first,
                page_size=min(limit or MAX_PAGE, MAX_PAGE),
            )
            await output.rows("workloads", _rows(listed, limit), _WORKLOAD_COLUMNS)
    except TimeoutError:
        problem = "the deadline of the whole list passed before its end."
        raise CallTimeout(problem, operation="workloads", sent=True) from None


async def _rows(listed: AsyncIterator[Any], limit: int | None) -> AsyncIterator[Row]:
    number = 0
    async for item in listed:
        yield row(item)
        number += 1
        if number == limit:
            return


async def versions(*, options: Options = DEFAULTS) -> None:
    """List the API versions of the service, oldest first.

    It needs no credentials.

    Example: qsessions versions --json
    """
    output = Output(options)
    # An account may still say where the service is.
    is_named = options.account is not None or options.account_file is not None
    async with connect(options, auth=None if is_named else []) as client:
        listed = await client.versions()
    await output.rows("versions", map(row, listed), _VERSION_COLUMNS)
