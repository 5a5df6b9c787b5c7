"""`close-all`: show the open sessions of an instance, ask, and end exactly those."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from qsessions.api.operations import OPEN_STATUSES
from qsessions.arguments import read_labels
from qsessions.cli.failures import (
    Exit,
    count,
    exit_code,
    print_error,
    print_lines,
)
from qsessions.cli.options import (
    DEFAULTS,
    CreatedAfter,
    CreatedBefore,
    ListedModes,
    OnlyBackend,
    OnlyLabels,
    Options,
    Yes,
    flag,
    listed_modes,
)
from qsessions.cli.output import GAP, Output, cell, fit
from qsessions.cli.progress import Progress
from qsessions.cli.recording import ClosedSessions, optional_ledger, record_ended
from qsessions.cli.service import connect, run_async
from qsessions.cli.terminal import ask, can_ask
from qsessions.errors import LedgerUnavailable, problem_of
from qsessions.ledger.local import place_of
from qsessions.ledger.records import read_entries
from qsessions.session.calls import How
from qsessions.session.close_all import Ending, end, find

# The first ones stay where a terminal is narrow.
_COLUMNS = ("id", "done", "owner", "error", "created", "mode", "backend", "owner_host", "owner_pid")


def close_all(
    *,
    mode: ListedModes = ("dedicated", "batch"),
    backend: OnlyBackend = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    all: Annotated[  # noqa: A002 - the option's name
        bool, flag("Those too whose owner lives, whatever the ledger says.")
    ] = False,
    label: OnlyLabels = (),
    drain: Annotated[
        bool, flag("Let them finish their jobs, instead of closing them now.")
    ] = False,
    dry_run: Annotated[bool, flag("Print what would be ended, and do nothing.")] = False,
    yes: Yes = False,
    options: Options = DEFAULTS,
) -> int:
    """End all open sessions of the instance, after showing them and asking.

    It doesn't matter who created them. But sessions that a living process of
    this user owns, by the ledger, are skipped.

    Example: qsessions close-all --created-after 2026-01-31T22:00 --dry-run
    """
    if not (yes or dry_run or can_ask()):
        print_error(
            "close-all",
            "nothing was ended: there is no terminal to ask at.",
            "To end them without being asked, add --yes; to see them first, --dry-run.",
        )
        return Exit.WRONG_USE
    found: list[Ending] = []
    filters = {
        "mode": listed_modes(mode),
        "backend": backend,
        "created_after": created_after,
        "created_before": created_before,
    }
    how: How = "drain" if drain else "close"
    code = run_async("close-all", _find(options, found, filters, label, include_owned=all))
    if code != Exit.DONE:
        return code
    if dry_run:
        return run_async("close-all", _show(Output(options), found))
    # Outside of the event loop, so that Ctrl-C ends the wait for an answer.
    if not yes and any(item.owner is None for item in found) and not _is_confirmed(found, how):
        print_error("close-all", "nothing was ended.", "To end one of them: qsessions close ID")
        return Exit.REFUSED
    ended = ClosedSessions("close-all")
    return run_async("close-all", _end(options, found, how, ended), ended.describe_interruption)


async def _find(
    options: Options,
    found: list[Ending],
    filters: Mapping[str, Any],
    label: Sequence[str],
    *,
    include_owned: bool,
) -> int | None:
    Output(options)
    labels = read_labels(label)
    for which in ("after", "before"):
        if (moment := filters[f"created_{which}"]) is not None:
            # A user who meant another hour can still stop it.
            print_lines(f"qsessions close-all: sessions created {which} {cell(moment)}")
    async with optional_ledger() as ledger, connect(options) as client:
        listed = client.workloads(status=OPEN_STATUSES, **filters)
        try:
            with Progress("listing the open sessions"):
                found += await find(
                    listed,
                    lambda: read_entries(place_of(ledger, client.instance)),
                    labels=labels,
                    include_owned=include_owned,
                )
        except LedgerUnavailable as error:
            if labels:
                raise
            print_error(
                "close-all",
                problem_of(error, "close-all"),
                "To end the sessions whatever the ledger says, add --all.",
            )
            return exit_code(error)
    return None


async def _end(
    options: Options, found: list[Ending], how: How, observer: ClosedSessions
) -> int | None:
    output = Output(options)
    what = "draining" if how == "drain" else "closing"
    total, done = sum(item.owner is None for item in found), 0
    async with connect(options, observers=[observer]) as client:

        async def end_one(session_id: str) -> None:
            nonlocal done
            try:
                await (client.drain if how == "drain" else client.close)(session_id)
            finally:
                done += 1
                shown.step(what, done, total)

        with Progress() as shown:
            shown.step(what, done, total)
            endings = await end(found, how, end_one, time.time)
    if how == "close":
        await record_ended({item.workload.id for item in endings if item.done})
    await _print(output, endings)
    owned = sum(item.owner is not None for item in endings)
    if owned and not output.as_json:
        print_lines(
            f"qsessions close-all: {count(owned, 'session')} left to the processes that own them; "
            "--all ends those too"
        )
    errors = [item.error for item in endings if item.error is not None]
    if not errors:
        return None
    print_error(
        "close-all",
        f"{len(errors)} of {count(len(endings), 'session')} could not be ended.",
        "The list says why. Run it again, or end them one by one: qsessions close ID",
    )
    return max(map(exit_code, errors))


async def _show(output: Output, found: Sequence[Ending]) -> None:
    await _print(output, found)
    if found and not output.as_json:
        number = sum(item.owner is None for item in found)
        print_lines(f"qsessions close-all: {count(number, 'session')} would be ended; none was.")


async def _print(output: Output, endings: Sequence[Ending]) -> None:
    nothing = "qsessions close-all: no open session fits."
    await output.rows("sessions", map(Ending.to_dict, endings), _COLUMNS, nothing)


def _is_confirmed(found: Sequence[Ending], how: How) -> bool:
    rows = [["id", "mode", "created", "backend", ""]]
    for item in found:
        workload, owner = item.workload, item.owner
        kept = "" if owner is None else f"left to process {owner.pid} on {owner.host}"
        cells = (workload.id, workload.mode, workload.created, workload.backend, kept)
        rows.append(list(map(cell, cells)))
    lines = [GAP.join(cells).rstrip() for cells in fit(rows)]
    number = sum(item.owner is None for item in found)
    which = "this session" if number == 1 else f"these {number} sessions"
    drain, close = f"Drain {which}? Queued jobs finish.", f"Close {which}? Queued jobs never run."
    return ask(lines, drain if how == "drain" else close)
