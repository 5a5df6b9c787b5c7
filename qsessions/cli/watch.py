"""`watch`: several sessions as they change, until all are closed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qsessions.arguments import read_labels
from qsessions.cli import service
from qsessions.cli.changes import Change
from qsessions.cli.options import WAIT_DEFAULTS, WaitOptions, flag
from qsessions.cli.output import Output, cell
from qsessions.cli.progress import Progress
from qsessions.cli.recording import open_ledger
from qsessions.cli.service import connect
from qsessions.cli.sessions import READ_TIMEOUT_S
from qsessions.cli.terminal import Terminal
from qsessions.errors import InvalidArgument
from qsessions.models import Session

if TYPE_CHECKING:
    from qsessions.client import AsyncSessionClient

# How often the times of the table are drawn, in seconds.
_TICK_S = 1.0


async def watch(
    *session_ids: Annotated[str, Parameter(name="ID", help="The sessions' ids.")],
    all: Annotated[  # noqa: A002 - the option's name
        bool, flag("All sessions of the instance that are open when it begins.")
    ] = False,
    label: Annotated[
        tuple[str, ...],
        flag("Those that the ledger has with this label, name=value; may be repeated.", "--label"),
    ] = (),
    options: WaitOptions = WAIT_DEFAULTS,
) -> None:
    """Watch sessions until all are closed.

    On a terminal it is a table that is drawn anew each second, of which the
    last one stays; elsewhere there is a line for each change. The states come
    from the service, and the times go on by this machine's clock. With --json
    the sessions come at the end, as they were seen last.

    Example: qsessions watch --all
    """
    output, labels = Output(options), read_labels(label)
    if [bool(session_ids), all, bool(labels)].count(True) != 1:
        raise InvalidArgument(
            "which sessions to watch must be said in one way.",
            solution="Name their ids, or add --all or --label.",
        )
    async with connect(options, timeout=READ_TIMEOUT_S) as client:
        nothing = None
        if session_ids:
            ids = list(dict.fromkeys(session_ids))
        elif all:
            ids, nothing = await _open_sessions(client), "no session is open."
        else:
            ids = await _labelled(client, labels)
            nothing = f"no open session is recorded with {', '.join(label)}."
        if not ids:
            await output.rows("sessions", [], (), f"qsessions watch: {nothing}")
            return
        changes = _changes(client.watch(ids, timeout=options.timeout))
        await _show(changes, ids, output, is_whole=options.verbose)


async def _open_sessions(client: AsyncSessionClient) -> list[str]:
    from qsessions.api.operations import LISTED_AS, OPEN_STATUSES

    with Progress("listing the open sessions"):
        listed = client.workloads(mode=tuple(LISTED_AS.values()), status=OPEN_STATUSES)
        return [workload.id async for workload in listed]


async def _labelled(client: AsyncSessionClient, labels: dict[str, str]) -> list[str]:
    """Return the sessions that the ledger has with all of these labels."""
    from qsessions.ledger.local import place_of
    from qsessions.ledger.records import has_labels, read_entries
    from qsessions.reaper import is_served

    async with open_ledger() as ledger:
        with Progress("reading the ledger"):
            await client.resolve_instance()
            entries = await read_entries(place_of(ledger, client.instance))
    records = [entry.record for entry in entries if is_served(client, entry.record)]
    return [
        record.session_id
        for record in records
        if record.session_id is not None and has_labels(record, labels)
    ]


async def _changes(watched: AsyncIterator[tuple[str, Session]]) -> AsyncIterator[Change]:
    seen: dict[str, Session] = {}
    async for session_id, session in watched:
        yield Change(session_id, service.CLOCK.wall(), seen.get(session_id), session)
        seen[session_id] = session


async def _show(
    changes: AsyncIterator[Change], ids: list[str], output: Output, *, is_whole: bool
) -> None:
    """Show a table on a terminal, and else print each change or, as one JSON object, the end."""
    if not output.as_json and sys.stdout.isatty() and not Terminal().is_dumb_terminal:
        from qsessions.cli.live_table import LiveTable

        table = LiveTable(ids, service.CLOCK.wall, is_whole=is_whole)
        with table.shown():
            async for change in _each_second(changes):
                table.draw(change)
    elif output.as_json and not output.lines:
        await _print_last(changes, ids, output)
    else:
        async for change in changes:
            if output.lines:
                output.record(change.to_dict())
            else:
                output.line((cell(change.time), cell(change.id), cell(change.line)))


async def _print_last(changes: AsyncIterator[Change], ids: list[str], output: Output) -> None:
    last: dict[str, Session] = {}

    def waiting() -> str:
        closed = sum(session.is_final for session in last.values())
        return f"waiting until all are closed: {closed} of {len(ids)}"

    try:
        with Progress(waiting):
            async for change in changes:
                last[change.id] = change.session
    finally:
        # At the timeout and an interruption too, but not where nothing could be read.
        if last:
            sessions = [last[session_id].to_dict() for session_id in ids if session_id in last]
            output.record({"sessions": sessions})


async def _each_second(changes: AsyncIterator[Change]) -> AsyncIterator[Change | None]:
    """Yield changes as they come, and None where none has come for a second."""
    coming = asyncio.ensure_future(anext(changes))
    try:
        while True:
            await service.CLOCK.deadline(_TICK_S).wait({coming})
            if coming.done():
                yield coming.result()
                coming = asyncio.ensure_future(anext(changes))
            else:
                yield None
    except StopAsyncIteration:
        return
    finally:
        coming.cancel()
        await asyncio.wait({coming})
