"""`reap` and `forget`: what dead owners left in the ledger."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from qsessions.arguments import read_labels
from qsessions.cli.failures import (
    Exit,
    count,
    exit_code,
    how_to_end,
    print_error,
)
from qsessions.cli.ledger import why_empty
from qsessions.cli.options import (
    DEFAULTS,
    AllInstances,
    Duration,
    OnlyLabels,
    Options,
    Yes,
    flag,
)
from qsessions.cli.output import Output
from qsessions.cli.progress import Progress
from qsessions.cli.reap_watch import Rounds, check_rounds, settle
from qsessions.cli.recording import ClosedSessions, open_ledger
from qsessions.cli.service import connect, run_async
from qsessions.cli.terminal import ask, can_ask
from qsessions.errors import InstanceNotFound, InvalidArgument, problem_of
from qsessions.ledger.lease import LeasedLedger
from qsessions.ledger.records import Ledger, Liveness, read_entries
from qsessions.ledger.verdicts import Verdict
from qsessions.reaper import Reaped, forget as forget_records, reap as reap_sessions

_COLUMNS = ("record", "verdict", "done", "error", "why", "candidates")
# Names may be given by their beginnings, of no fewer characters.
_SHORT_NAME = 8
_LIST_SAYS_WHY = "The list says why."
_NO_CANDIDATES = (
    "To end a session whatever the ledger says: qsessions close ID; "
    "to drop the record of one that is over: qsessions forget ID"
)


def reap(
    *records: Annotated[
        str,
        Parameter(
            name="RECORD",
            help="Only these: session ids, or names that `qsessions ledger` shows in place of one.",
        ),
    ],
    label: OnlyLabels = (),
    all_instances: AllInstances = False,
    dry_run: Annotated[bool, flag("Print what would be done, and do nothing.")] = False,
    close_unique: Annotated[
        bool,
        flag("Where a session's id isn't known and a single one matches, close that."),
    ] = False,
    watch: Annotated[
        Duration | None,
        Parameter(help="Go on until SIGTERM or Ctrl-C, and look so often: 10s."),
    ] = None,
    options: Options = DEFAULTS,
) -> int:
    """Close the sessions that dead processes left open, by the ledger.

    It is about the instance that the credentials name. Sessions of living
    processes stay open, and so do sessions that drain. Sessions of `qsessions
    create` belong to no process, and are closed only when they are named. The
    exit code is 0 when nothing is left undecided.

    In a shared ledger an owner is gone when its lease was seen unrenewed for
    long enough: without --watch this may take two minutes.

    Example: qsessions reap --dry-run
    """
    closed = ClosedSessions("reap")

    async def body() -> int | None:
        labels = read_labels(label)
        async with open_ledger() as ledger, connect(options, observers=[closed]) as client:
            if watch is not None:
                check_rounds(ledger, watch, options, is_once=dry_run or bool(records))
            with Progress("reading the ledger") as shown:
                work = partial(
                    reap_sessions,
                    client,
                    ledger,
                    only=await _full_names(ledger, records),
                    labels=labels,
                    all_instances=all_instances,
                    dry_run=dry_run,
                    close_unique=close_unique,
                )
                if watch is not None:
                    shown.hide()
                    await Rounds(work, Output(options), watch).run()
                    return None
                if not dry_run:
                    await settle(ledger, shown)
                reaped = await work(progress=shown.step)
            nothing = "" if reaped else await _why_nothing(ledger, label)
        await _print("reap", reaped, options, nothing)
        return _conclude(reaped)

    return run_async("reap", body(), closed.describe_interruption)


async def _why_nothing(ledger: Ledger, label: Sequence[str]) -> str:
    if not isinstance(ledger, LeasedLedger):
        return await why_empty("reap", ledger, (), label)
    labels = f" with {', '.join(label)}" if label else ""
    return (
        f"qsessions reap: no session of an owner that is gone is recorded{labels}. "
        f"One that was killed just now holds its lease for {ledger.terms.ttl:g} s."
    )


def _conclude(reaped: Sequence[Reaped]) -> int | None:
    undecided = [item.decision for item in reaped if item.decision.verdict is Verdict.UNDECIDED]
    failures = [item.error for item in reaped if item.error is not None]
    if not undecided and not failures:
        return None
    candidates = list(
        dict.fromkeys(item.id for decision in undecided for item in decision.candidates)
    )
    print_error(
        "reap",
        f"of {count(len(reaped), 'record')}, {_are(len(undecided))} undecided, "
        f"and {len(failures)} could not be read, closed or recorded.",
        f"{_LIST_SAYS_WHY} {how_to_end(candidates) or _NO_CANDIDATES}",
    )
    return max([Exit.REFUSED, *map(exit_code, failures)])


def forget(
    *records: Annotated[
        str,
        Parameter(
            name="RECORD",
            help="Session ids, or names that `qsessions ledger` shows in place of an id.",
        ),
    ],
    undecided: Annotated[
        bool, flag("All that `qsessions reap` can't decide, after showing them and asking.")
    ] = False,
    older_than: Annotated[
        Duration | None,
        Parameter(help="With --undecided: only those created so long ago, such as 7d."),
    ] = None,
    yes: Yes = False,
    options: Options = DEFAULTS,
) -> int:
    """Remove records of dead processes from the ledger; sessions stay as they are.

    It is for records that `qsessions reap` can no longer decide, for example
    of a deleted instance. By name it needs no credentials.

    Example: qsessions forget --undecided --older-than 7d
    """
    if not undecided:
        return run_async("forget", _forget_named(options, records, older_than))
    if not yes and not can_ask():
        print_error(
            "forget",
            "nothing was forgotten: there is no terminal to ask at.",
            "To forget them without being asked, add --yes; to see them: qsessions reap --dry-run",
        )
        return Exit.WRONG_USE
    found: list[Reaped] = []
    code = run_async("forget", _find_undecided(options, records, older_than or 0.0, found))
    if code != Exit.DONE or not found:
        return code
    # Outside of the event loop, so that Ctrl-C ends the wait for an answer.
    if not yes and not _is_confirmed(found):
        print_error(
            "forget", "nothing was forgotten.", "To forget one of them: qsessions forget RECORD"
        )
        return Exit.REFUSED
    return run_async("forget", _forget_found(options, found))


def _is_confirmed(found: Sequence[Reaped]) -> bool:
    lines = [
        f"{item.entry.record.session_id or item.entry.record.key}  {item.decision.why}"
        for item in found
    ]
    return ask(lines, f"Forget {count(len(found), 'record')}? Sessions stay as they are.")


async def _find_undecided(
    options: Options, records: Sequence[str], seconds: float, found: list[Reaped]
) -> int | None:
    if records:
        raise InvalidArgument(
            "--undecided takes no records by name.", solution="Leave one of them out."
        )
    async with open_ledger() as ledger, connect(options) as client:
        with Progress("reading the ledger") as shown:
            decided = await reap_sessions(client, ledger, dry_run=True, progress=shown.step)
    old = [
        item
        for item in decided
        if item.decision.verdict is Verdict.UNDECIDED
        and item.entry.owner.liveness is Liveness.DEAD
        and time.time() - item.entry.record.asked_at >= seconds
    ]
    # A read that failed may succeed later, but an instance that isn't there may be gone for good.
    found += [
        item for item in old if item.error is None or isinstance(item.error, InstanceNotFound)
    ]
    errors = [item.error for item in old if item not in found and item.error is not None]
    if errors:
        print_error(
            "forget",
            f"{count(len(errors), 'record')} could not be decided about just now: "
            f"{problem_of(errors[0], 'forget')}",
            "They are kept. Run it again when the service can be read.",
        )
        return exit_code(errors[0])
    if not found:
        await _print("forget", [], options)
    return None


async def _forget_found(options: Options, found: Sequence[Reaped]) -> int | None:
    async with open_ledger() as ledger:
        # Another process may have ended some in the meantime.
        keys = {entry.record.key for entry in await read_entries(ledger)}
        keys &= {item.entry.record.key for item in found}
        return await _forget(options, ledger, keys) if keys else None


async def _forget_named(
    options: Options, records: Sequence[str], older_than: float | None
) -> int | None:
    if older_than is not None:
        raise InvalidArgument("--older-than goes with --undecided.", solution="Add --undecided.")
    if not records:
        raise InvalidArgument(
            "records to forget must be named.",
            solution="See: qsessions ledger. Or add --undecided.",
        )
    async with open_ledger() as ledger:
        return await _forget(options, ledger, await _full_names(ledger, records))


async def _forget(options: Options, ledger: Ledger, names: Collection[str]) -> int | None:
    forgotten = await forget_records(ledger, names)
    await _print("forget", forgotten, options)
    kept = [item for item in forgotten if not item.done]
    if not kept:
        return None
    print_error(
        "forget",
        f"of {count(len(forgotten), 'record')}, {_are(len(kept))} kept.",
        f"{_LIST_SAYS_WHY} A record is kept while its owner lives, or may live.",
    )
    return max(exit_code(item.error) for item in kept)


def _are(number: int) -> str:
    return f"{number} {'is' if number == 1 else 'are'}"


async def _full_names(ledger: Ledger, names: Sequence[str]) -> list[str]:
    """Return the full names of records; their beginnings are enough."""
    if not names:
        return []
    records = [entry.record for entry in await read_entries(ledger)]
    all_names = {name for record in records for name in (record.key, record.session_id) if name}
    full: list[str] = []
    for name in names:
        matches = [item for item in all_names if len(name) >= _SHORT_NAME and item.startswith(name)]
        if name not in all_names and len(matches) > 1:
            raise InvalidArgument(
                f"{len(matches)} records begin with {name!r}.", solution="Add more of the name."
            )
        full.append(name if name in all_names or not matches else matches[0])
    return full


async def _print(
    command: str, records: Sequence[Reaped], options: Options, nothing: str = ""
) -> None:
    nothing = nothing or f"qsessions {command}: nothing is undecided."
    await Output(options).rows("records", map(Reaped.to_dict, records), _COLUMNS, nothing)
