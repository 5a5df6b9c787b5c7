"""What the ledger has, listed by `ledger` and cleared up by `reap` and `forget`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from qsessions.cli.commands import connect
from qsessions.cli.failures import Exit, complain, count, exit_code, few, what_happened, what_to_do
from qsessions.cli.keeping import local_ledger
from qsessions.cli.options import Options
from qsessions.cli.output import Output, Row
from qsessions.client import AsyncSessionClient
from qsessions.closing import each
from qsessions.errors import ConfigurationError, NotFound, QSessionsError
from qsessions.ledger import LedgerEntry, LedgerRecord, entries_of
from qsessions.models import Session
from qsessions.reaper import ANOTHER_INSTANCE, Reaped, forget, is_served, reap
from qsessions.reaping import Decision, Verdict

# Where a terminal is narrow, the first ones stay.
_LEDGER_COLUMNS = (
    "record",
    "live_state",
    "owner",
    "age_seconds",
    "owner_host",
    "owner_pid",
    "owner_since",
    "detached",
    "mode",
    "backend",
)
_REAP_COLUMNS = ("record", "verdict", "done", "why", "error", "candidates")
_NOTHING = "qsessions {}: no open sessions are recorded."


async def list_ledger(options: Options) -> None:
    """Print what the ledger has open, with the state that each session has now."""
    output = Output(options)
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(local_ledger())
        client, problem = None, None
        try:
            client = await stack.enter_async_context(connect(options))
        except ConfigurationError as error:
            # It can be listed without one.
            problem = error
        entries = await entries_of(ledger.place_of(None if client is None else client.instance))
        if problem is not None and entries:
            what = what_happened(problem, "ledger").removesuffix(".")
            complain("ledger", f"live states are not shown: {what}.", what_to_do(problem, "ledger"))

        async def described(entry: LedgerEntry) -> Row:
            found, unread = await _live(client, entry.record)
            return _row(entry, found, unread)

        await output.rows(
            "ledger", _each(await each(entries, described)), _LEDGER_COLUMNS, _NOTHING.format("ledger")
        )


async def reap_sessions(
    options: Options, only: Sequence[str], *, dry_run: bool, close_unique: bool
) -> int | None:
    """Close what dead owners left open, and print what became of each record."""
    async with local_ledger() as ledger, connect(options) as client:
        reaped = await reap(client, ledger, only=only, dry_run=dry_run, close_unique=close_unique)
    await _print("reap", reaped, options)
    undecided = [one.decision for one in reaped if one.decision.verdict is Verdict.UNDECIDED]
    failures = [one.error for one in reaped if one.error is not None]
    if not undecided and not failures:
        return None
    complain(
        "reap",
        f"of {count(len(reaped), 'record')}, {len(undecided)} {'is' if len(undecided) == 1 else 'are'} undecided, "
        f"and {len(failures)} could not be read, closed or recorded.",
        _to_end(undecided),
    )
    return max([Exit.REFUSED, *(failure_code(error) for error in failures)])


async def forget_records(options: Options, only: Sequence[str]) -> int | None:
    """Take records of dead owners out of the ledger, and print what became of each."""
    async with local_ledger() as ledger:
        forgotten = await forget(ledger, only)
    await _print("forget", forgotten, options)
    kept = [one for one in forgotten if not one.done]
    if not kept:
        return None
    what = f"of {count(len(forgotten), 'record')}, {len(kept)} {'is' if len(kept) == 1 else 'are'} kept."
    complain("forget", what, "The list says why. A record is kept while its owner lives, or may live.")
    return max([Exit.REFUSED, *(failure_code(one.error) for one in kept if one.error is not None)])


async def _print(command: str, records: Sequence[Reaped], options: Options) -> None:
    rows = _each([_reaped_row(command, one) for one in records])
    await Output(options).rows("records", rows, _REAP_COLUMNS, _NOTHING.format(command))


def _to_end(undecided: Sequence[Decision]) -> str:
    """Say how to end what is undecided, by id, whatever the ledger says."""
    match list(dict.fromkeys(workload.id for decision in undecided for workload in decision.candidates)):
        case []:
            return (
                "The list says why. To end a session whatever the ledger says: qsessions close ID; "
                "to drop the record of one that is over: qsessions forget ID"
            )
        case [only]:
            return f"The list says why. An unknown id may be {only}; look whose it is, and to end it: qsessions close {only}"
        case ids:
            return (
                f"The list says why. An unknown id may be one of {few(ids)}; look whose they are, and to end one: "
                "qsessions close ID"
            )


def failure_code(error: BaseException | None) -> Exit:
    """Give the exit code that fits why something could not be done."""
    return exit_code(error) if isinstance(error, QSessionsError) else Exit.REFUSED


def failure_text(error: Exception | None, command: str) -> str | None:
    """Give the text of an error of one among many, or None for none."""
    if error is None:
        return None
    return (
        what_happened(error, command)
        if isinstance(error, QSessionsError)
        else f"{type(error).__name__}: {error}"
    )


async def _live(client: AsyncSessionClient | None, record: LedgerRecord) -> tuple[Session | None, str | None]:
    """Give a session as it is now, or why it isn't known."""
    if record.session_id is None:
        return None, "its id isn't known"
    if client is None:
        return None, "there are no credentials"
    if not is_served(client, record):
        return None, ANOTHER_INSTANCE
    try:
        return await client.get(record.session_id), None
    except NotFound:
        return None, "the service knows no such session"
    except QSessionsError as error:
        return None, what_happened(error, "ledger")


def _row(entry: LedgerEntry, found: Session | None, unread: str | None) -> dict[str, Any]:
    record, owner = entry.record, entry.owner
    return {
        "record": record.session_id or record.key,
        "session_id": record.session_id,
        "recorded_state": record.state,
        "live_state": found and found.state,
        "accepting_jobs": found and found.accepting_jobs,
        "unread": unread,
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


def _reaped_row(command: str, one: Reaped) -> dict[str, Any]:
    record, decision = one.entry.record, one.decision
    return {
        "record": record.session_id or record.key,
        "session_id": record.session_id or decision.session_id,
        "verdict": decision.verdict.value,
        "why": decision.why,
        "done": one.done,
        "error": failure_text(one.error, command),
        "candidates": [workload.id for workload in decision.candidates],
    }


def _time(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        # A clock was thousands of years ahead.
        return None


async def _each(rows: Sequence[Row]) -> AsyncIterator[Row]:
    for row in rows:
        yield row
