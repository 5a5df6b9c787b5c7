"""`workloads` and `versions`: the lists of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from qsessions.cli import service
from qsessions.cli.failures import print_lines
from qsessions.cli.options import (
    DEFAULTS,
    CreatedAfter,
    CreatedBefore,
    Name,
    OnlyBackend,
    Options,
    flag,
    listed_modes,
)
from qsessions.cli.output import Output, Row
from qsessions.cli.service import connect
from qsessions.models import ApiVersion, WorkloadStatus

# The first ones stay where a terminal is narrow.
_WORKLOAD_COLUMNS = (
    "id",
    "mode",
    "status",
    "created",
    "usage_seconds",
    "backend",
    "accepting_jobs",
)
Status = Literal["open", "closed", "pending", "in_progress", "failed", "completed", "canceled"]
_VERSION_COLUMNS = ("version", "status", "sunset_date")


async def workloads(
    *,
    mode: Annotated[
        tuple[Literal["dedicated", "session", "batch", "job"], ...],
        Parameter(
            help="Which kinds; may be repeated. The list calls dedicated ones session.", negative=""
        ),
    ] = ("dedicated", "batch"),
    status: Annotated[
        tuple[Status, ...],
        flag(
            "Only those in this status; may be repeated. Open ones are pending or in_progress, "
            "closed ones failed, completed or canceled."
        ),
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

    Those that may cost are open: pending or in_progress. `list` and `ls` are
    this command too.

    Example: qsessions workloads --status open --jsonl
    """
    from qsessions.api.operations import (
        ENDED_STATUSES,
        MAX_PAGE,
        OPEN_STATUSES,
        WORKLOAD_STATUSES,
    )

    # What the list calls the states of sessions, and itself.
    states: dict[str, tuple[WorkloadStatus, ...]] = {name: (name,) for name in WORKLOAD_STATUSES}
    states |= {"open": OPEN_STATUSES, "closed": ENDED_STATUSES}
    output = Output(options)
    async with connect(options) as client:
        deadline: Any = service.CLOCK.deadline(options.timeout)
        listed = client.workloads(
            mode=listed_modes(mode),
            status=[item for name in status for item in states[name]],
            backend=backend,
            search=search,
            created_after=created_after,
            created_before=created_before,
            newest_first=newest_first,
            page_size=min(limit or MAX_PAGE, MAX_PAGE),
            timeout=deadline,
        )
        nothing = "qsessions workloads: no session or batch fits."
        await output.rows("workloads", _rows(listed, limit), _WORKLOAD_COLUMNS, nothing)


async def _rows(listed: AsyncIterator[Any], limit: int | None) -> AsyncIterator[Row]:
    number = 0
    async for item in listed:
        yield item.to_dict()
        number += 1
        if number == limit:
            return


async def versions(*, options: Options = DEFAULTS) -> None:
    """List the API versions of the service, oldest first.

    It needs no credentials. Standard error says which one calls ask for.

    Example: qsessions versions --json
    """
    output = Output(options)
    # An account may still say where the service is.
    is_named = options.account is not None or options.account_file is not None
    async with connect(options, auth=None if is_named else []) as client:
        listed = await client.versions()
    await output.rows("versions", map(ApiVersion.to_dict, listed), _VERSION_COLUMNS)
    if not output.as_json and options.api_version is None:
        from qsessions.api.operations import default_version
        from qsessions.cli.api_version import why_version

        now = service.CLOCK.wall()
        print_lines(
            f"qsessions versions: calls ask for {default_version(now)}, {why_version(None, now)}. "
            "To ask for another: --api-version DATE"
        )
