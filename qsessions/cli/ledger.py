"""`ledger`: the records of sessions that may be open."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from qsessions.arguments import read_labels
from qsessions.cli.failures import advice_on, count, exit_code, print_error
from qsessions.cli.options import (
    DEFAULTS,
    AllInstances,
    OnlyLabels,
    Options,
    flag,
)
from qsessions.cli.output import Output
from qsessions.cli.progress import Progress
from qsessions.cli.recording import open_ledger
from qsessions.cli.service import connect
from qsessions.client import AsyncSessionClient
from qsessions.config.variables import LEDGER
from qsessions.errors import InvalidArgument, NotFound, QSessionsError, problem_of
from qsessions.jsonable import time_text
from qsessions.ledger.local import place_of
from qsessions.ledger.postgres import PostgresLedger
from qsessions.ledger.records import Ledger, LedgerEntry, LedgerRecord, has_labels, read_entries
from qsessions.ledger.verdicts import is_young, whose
from qsessions.models import Session
from qsessions.reaper import ANOTHER_INSTANCE, is_served
from qsessions.session_states import State, current_states

# The first ones stay where a terminal is narrow.
# Options that name what isn't there.
_NAMED = {"account", "account_file"}
_COLUMNS = (
    "record",
    "live_state",
    "owner",
    "age_seconds",
    "why",
    "labels",
    "mode",
    "backend",
    "owner_host",
    "owner_pid",
    "owner_since",
    "detached",
)


async def ledger(
    action: Annotated[
        Literal["init"] | None,
        Parameter(
            help="init: make the tables of the shared ledger that QSESSIONS_LEDGER names, "
            "or bring them up to date. Again does no harm."
        ),
    ] = None,
    /,
    *,
    all: Annotated[  # noqa: A002 - the option's name
        bool, flag("Those too that are over by now.")
    ] = False,
    all_instances: AllInstances = False,
    label: OnlyLabels = (),
    options: Options = DEFAULTS,
) -> int | None:
    """List the sessions that this user's processes created and that may be open.

    They are sessions of the instance that the credentials name; where that
    can't be found out, all are listed. The owner of a session is the process
    that created it: alive, dead, or unknown where that can't be found out
    from here.

    Example: qsessions ledger --json
    """
    output, labels = Output(options), read_labels(label)
    if action == "init":
        await _init(output)
        return None
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(open_ledger())
        client, problem = None, None
        try:
            entered = await stack.enter_async_context(connect(options))
            await entered.resolve_instance()
            client = entered
        except QSessionsError as error:
            if error.argument in _NAMED:
                raise
            # The records can be listed without a client.
            problem = error
        entries = await _read_entries(records, None if all_instances else client)
        entries = [entry for entry in entries if has_labels(entry.record, labels)]
        if problem is not None and entries:
            text = problem_of(problem, "ledger").removesuffix(".")
            print_error(
                "ledger", f"live states are not shown: {text}.", advice_on(problem, "ledger")
            )
        states = await _read_states(client, entries)
        rows = [
            _row(entry, state, client)
            for entry in entries
            for state in [states.get(entry.record.session_id or "")]
            if all or not _is_over(entry, state)
        ]
        nothing = "" if rows else await why_empty("ledger", records, entries, label)
        await output.rows("ledger", rows, _COLUMNS, nothing)
    return _conclude(states)


async def _init(output: Output) -> None:
    async with open_ledger() as ledger:
        if not isinstance(ledger, PostgresLedger):
            raise InvalidArgument(
                "the local ledger needs no init.",
                solution=f"For a shared one, set {LEDGER} to the URL of a PostgreSQL database.",
            )
        output.record({"done": "init", "migrations": await ledger.init()})


def _conclude(states: Mapping[str, State]) -> int | None:
    """Return an exit code other than 0 if no state at all could be read."""
    errors = [state for state in states.values() if isinstance(state, Exception)]
    unread = [error for error in errors if not isinstance(error, NotFound)]
    if not unread or len(unread) < len(states):
        return None
    print_error(
        "ledger",
        f"the state of {count(len(unread), 'session')} could not be read: "
        f"{problem_of(unread[0], 'ledger')}",
        "The sessions may be open. Run it again, or see: qsessions doctor",
    )
    return exit_code(unread[0])


async def _read_entries(ledger: Ledger, client: AsyncSessionClient | None) -> list[LedgerEntry]:
    """Return the records of a client's instance; without a client, all records."""
    if client is None:
        return list(await read_entries(ledger))
    entries = await read_entries(place_of(ledger, client.instance))
    return [entry for entry in entries if is_served(client, entry.record)]


async def _read_states(
    client: AsyncSessionClient | None, entries: Sequence[LedgerEntry]
) -> Mapping[str, State]:
    if client is None:
        return {}
    served = [entry.record for entry in entries if is_served(client, entry.record)]
    with Progress() as shown:
        return await current_states(client, served, shown.step)


async def why_empty(
    command: str, ledger: Ledger, entries: Sequence[LedgerEntry], labels: Sequence[str]
) -> str:
    """Return why a list of records is empty."""
    if labels:
        return f"qsessions {command}: no open session is recorded with {', '.join(labels)}."
    if others := len(await read_entries(ledger)) - len(entries):
        return (
            f"qsessions {command}: no open sessions are recorded of this instance; "
            f"{count(others, 'record')} of others: add --all-instances."
        )
    # People forget that a program records nothing unless it is told to.
    return (
        f"qsessions {command}: no open sessions are recorded. "
        "Those of programs without a ledger: qsessions workloads --status open"
    )


def _is_over(entry: LedgerEntry, state: State | None) -> bool:
    """Return whether the service says that a session is over. `reap` then ends its record."""
    if isinstance(state, NotFound):
        return not is_young(entry.record, now=time.time())
    return isinstance(state, Session) and state.id == entry.record.session_id and state.is_final


def _why_unread(
    record: LedgerRecord, state: State | None, client: AsyncSessionClient | None
) -> str | None:
    """Return why the state of a session isn't known, or None where it is."""
    if record.session_id is None:
        return "its id is unknown"
    if client is None:
        return "the service was not asked"
    match state:
        case None:
            return ANOTHER_INSTANCE
        case NotFound():
            return "the service has no such session"
        case Exception():
            return problem_of(state, "ledger")
        case Session() if state.id != record.session_id:
            return "the answer was about another session"
    return None


def _row(
    entry: LedgerEntry, state: State | None, client: AsyncSessionClient | None
) -> dict[str, Any]:
    record, owner = entry.record, entry.owner
    unread = _why_unread(record, state, client)
    session = state if unread is None and isinstance(state, Session) else None
    return {
        "record": record.session_id or record.key,
        "session_id": record.session_id,
        "recorded_state": record.state,
        "live_state": session and session.state,
        "accepting_jobs": session and session.accepting_jobs,
        "unread": unread,
        "why": "; ".join(filter(None, [unread, whose(entry)])),
        "labels": dict(record.labels),
        "owner": owner.liveness,
        "owner_host": owner.host,
        "owner_pid": owner.pid,
        "owner_since": None if owner.since is None else _time(owner.since),
        "detached": record.detached,
        "mode": record.mode,
        "backend": record.backend,
        "max_ttl": record.max_ttl,
        "asked_at": _time(record.asked_at),
        "age_seconds": time.time() - record.asked_at,
        "base_url": record.base_url,
        "instance": record.instance,
    }


def _time(seconds: float) -> str | None:
    try:
        return time_text(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        # A clock was thousands of years ahead.
        return None
