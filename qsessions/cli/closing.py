"""`close-all`: shows the open sessions of an instance, asks, and ends exactly those."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from qsessions.api.operations import OPEN_STATUSES
from qsessions.cli.commands import ask, can_ask, connect, moment, read_labels, run
from qsessions.cli.failures import Exit, complain, count, tell
from qsessions.cli.keeping import local_ledger, note_ended
from qsessions.cli.ledger import failure_code, failure_text
from qsessions.cli.options import Options
from qsessions.cli.output import Output, Row, cell
from qsessions.ledger import read_entries
from qsessions.session.calls import How
from qsessions.session.close_all import Ending, end, find

_COLUMNS = ("id", "done", "mode", "created", "backend", "owner", "owner_host", "owner_pid", "error")


def close_all(options: Options, *, how: How, include_owned: bool, yes: bool, **filters: Any) -> int:
    """End the open sessions that fit; without `yes` only once somebody at a terminal has agreed."""
    if not yes and not can_ask():
        complain(
            "close-all",
            "nothing was ended: there is no terminal to ask at.",
            "To end them without being asked, add --yes; to see them: qsessions workloads --status pending --status in_progress",
        )
        return Exit.WRONG_USE
    found: list[Ending] = []
    code = run("close-all", _find(options, found, filters, include_owned=include_owned))
    if code != Exit.DONE:
        return code
    # Out here, where Ctrl-C ends the wait for an answer.
    if not yes and any(one.owner is None for one in found) and not _agreed(found, how):
        complain("close-all", "nothing was ended.", "To end one of them: qsessions close ID")
        return Exit.REFUSED
    return run("close-all", _end(options, found, how))


async def _find(
    options: Options, found: list[Ending], filters: dict[str, Any], *, include_owned: bool
) -> None:
    Output(options)
    labels = read_labels(filters.pop("labels"))
    before = filters["created_before"] = moment("created_before", filters["created_before"])
    if before is not None:
        # Whoever meant another hour can still stop it.
        tell(f"qsessions close-all: sessions created before {cell(before)}")
    async with local_ledger() as ledger, connect(options) as client:
        listed = client.workloads(status=OPEN_STATUSES, **filters)
        found += await find(
            listed,
            lambda: read_entries(ledger.place_of(client.instance)),
            labels=labels,
            include_owned=include_owned,
        )


async def _end(options: Options, found: list[Ending], how: How) -> int | None:
    output = Output(options)
    async with connect(options) as client:
        endings = await end(found, how, client.drain if how == "drain" else client.close, time.time)
    if how == "close":
        await note_ended({one.workload.id for one in endings if one.done})
    await output.rows(
        "sessions", _rows(endings), _COLUMNS, "qsessions close-all: no open session fits."
    )
    left = sum(one.owner is not None for one in endings)
    if left and not output.as_json:
        tell(
            f"qsessions close-all: {count(left, 'session')} left to the processes that own them; --all ends those too"
        )
    errors = [one.error for one in endings if one.error is not None]
    if not errors:
        return None
    complain(
        "close-all",
        f"{len(errors)} of {count(len(endings), 'session')} could not be ended.",
        "The list says why. Run it again, or end them one by one: qsessions close ID",
    )
    return max(map(failure_code, errors))


def _agreed(found: Sequence[Ending], how: How) -> bool:
    """Show the sessions and ask; on standard error, since standard output has nothing but data."""
    for one in found:
        workload = one.workload
        cells = [workload.id, workload.mode, workload.status, workload.backend, workload.created]
        if one.owner is not None:
            cells.append(f"left to process {one.owner.pid} on {one.owner.host}")
        print("  ".join(map(cell, cells)), file=sys.stderr)
    number = sum(one.owner is None for one in found)
    which = "this session" if number == 1 else f"these {number} sessions"
    asked = (
        f"Drain {which}? Queued jobs finish."
        if how == "drain"
        else f"Close {which}? Queued jobs never run."
    )
    return ask(asked)


async def _rows(endings: Sequence[Ending]) -> AsyncIterator[Row]:
    for one in endings:
        yield {
            "id": one.workload.id,
            "done": one.done,
            "mode": one.workload.mode,
            "backend": one.workload.backend,
            "created": one.workload.created,
            "owner": one.owner and one.owner.liveness,
            "owner_host": one.owner and one.owner.host,
            "owner_pid": one.owner and one.owner.pid,
            "error": failure_text(one.error, "close-all"),
        }
