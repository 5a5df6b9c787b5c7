"""What the ledger has, listed by `ledger` and cleared up by `reap` and `forget`."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from qsessions.cli.commands import ask, can_ask, connect, duration, read_labels, run
from qsessions.cli.failures import Exit, complain, count, exit_code, few, what_happened, what_to_do
from qsessions.cli.keeping import local_ledger
from qsessions.cli.options import Options
from qsessions.cli.output import SHORT_NAME, Output, Row
from qsessions.cli.terminal import progress_bar
from qsessions.client import AsyncSessionClient
from qsessions.errors import (
    ConfigurationError,
    InstanceNotFound,
    InvalidArgument,
    NotFound,
    QSessionsError,
)
from qsessions.ledger import (
    Ledger,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    LocalLedger,
    has_labels,
    read_entries,
)
from qsessions.ledger.verdicts import ReapDecision, Verdict, is_young, whose
from qsessions.models import Session
from qsessions.reaper import ANOTHER_INSTANCE, Reaped, forget, is_served, reap
from qsessions.session_states import State, current_states

# Where a terminal is narrow, the first ones stay.
_LEDGER_COLUMNS = (
    "record",
    "live_state",
    "age_seconds",
    "why",
    "owner",
    "labels",
    "mode",
    "backend",
    "owner_host",
    "owner_pid",
    "owner_since",
    "detached",
)
_REAP_COLUMNS = ("record", "verdict", "done", "why", "error", "candidates")


async def list_ledger(
    options: Options, labels: Sequence[str], *, everything: bool, all_instances: bool
) -> None:
    """Print what the ledger has that may be open, with the state that each session has now; or everything."""
    output, wanted = Output(options), read_labels(labels)
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(local_ledger())
        client, problem = None, None
        try:
            client = await stack.enter_async_context(connect(options))
        except ConfigurationError as error:
            # It can be listed without one.
            problem = error
        entries = await _entries(ledger, None if all_instances else client)
        entries = [entry for entry in entries if has_labels(entry.record, wanted)]
        if problem is not None and entries:
            what = what_happened(problem, "ledger").removesuffix(".")
            complain("ledger", f"live states are not shown: {what}.", what_to_do(problem, "ledger"))
        states: Mapping[str, State] = {}
        if client is not None:
            served = [entry.record for entry in entries if is_served(client, entry.record)]
            with progress_bar() as progress:
                states = await current_states(client, served, progress)
        found = [(entry, states.get(entry.record.session_id or "")) for entry in entries]
        rows = [
            _row(entry, state, client)
            for entry, state in found
            if everything or not _is_over(entry, state)
        ]
        nothing = "" if rows else await _nothing("ledger", ledger, entries, labels)
        await output.rows("ledger", _each(rows), _LEDGER_COLUMNS, nothing, brief=True)


async def _entries(ledger: LocalLedger, client: AsyncSessionClient | None) -> list[LedgerEntry]:
    """Return the records of a client's instance; without one, all."""
    if client is None:
        return list(await read_entries(ledger))
    entries = await read_entries(ledger.place_of(client.instance))
    return [entry for entry in entries if is_served(client, entry.record)]


async def reap_sessions(
    options: Options,
    only: Sequence[str],
    labels: Sequence[str],
    *,
    all_instances: bool,
    dry_run: bool,
    close_unique: bool,
) -> int | None:
    """Close what dead owners left open, and print what became of each record."""
    wanted = read_labels(labels)
    async with local_ledger() as ledger, connect(options) as client:
        named = await _named(ledger, only)
        with progress_bar() as progress:
            reaped = await reap(
                client,
                ledger,
                only=named,
                labels=wanted,
                all_instances=all_instances,
                dry_run=dry_run,
                close_unique=close_unique,
                progress=progress,
            )
        nothing = "" if reaped else await _nothing("reap", ledger, (), labels)
    await _print("reap", reaped, options, nothing)
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


def forget_records(
    options: Options, only: Sequence[str], *, undecided: bool, older_than: str | None, yes: bool
) -> int:
    """Take records of dead owners out of the ledger, and print what became of each.

    Those that are undecided only once somebody at a terminal has agreed, or with `yes`.
    """
    if not undecided:
        return run("forget", _forget(options, only, older_than=older_than))
    if not yes and not can_ask():
        complain(
            "forget",
            "nothing was forgotten: there is no terminal to ask at.",
            "To forget them without being asked, add --yes; to see them: qsessions reap --dry-run",
        )
        return Exit.WRONG_USE
    found: list[Reaped] = []
    code = run("forget", _find_undecided(options, only, older_than, found))
    if code != Exit.DONE or not found:
        return code
    if not yes:
        for one in found:
            print(
                f"{one.entry.record.session_id or one.entry.record.key}  {one.decision.why}",
                file=sys.stderr,
            )
        # Out here, where Ctrl-C ends the wait for an answer.
        if not ask(f"Forget {count(len(found), 'record')}? Sessions stay as they are."):
            complain(
                "forget", "nothing was forgotten.", "To forget one of them: qsessions forget RECORD"
            )
            return Exit.REFUSED
    return run("forget", _forget_found(options, found))


async def _find_undecided(
    options: Options, only: Sequence[str], older_than: str | None, found: list[Reaped]
) -> int | None:
    if only:
        raise InvalidArgument(
            "--undecided takes no records by name.", solution="Leave one of them out."
        )
    seconds = 0.0 if older_than is None else duration("--older-than", older_than) or 0.0
    async with local_ledger() as ledger, connect(options) as client:
        with progress_bar() as progress:
            decided = await reap(client, ledger, dry_run=True, progress=progress)
    old = [
        one
        for one in decided
        if one.decision.verdict is Verdict.UNDECIDED
        and one.entry.owner.liveness is Liveness.DEAD
        and time.time() - one.entry.record.asked_at >= seconds
    ]
    # What can't be read just now may be decided about later; an instance that isn't there may be gone for good.
    unread: list[Exception] = []
    for one in old:
        if one.error is None or isinstance(one.error, InstanceNotFound):
            found.append(one)
        else:
            unread.append(one.error)
    if unread:
        complain(
            "forget",
            f"{count(len(unread), 'record')} could not be decided about just now: {failure_text(unread[0], 'forget')}",
            "They are kept. Run it again when the service can be read.",
        )
        return failure_code(unread[0])
    if not found:
        await _print("forget", [], options)
    return None


async def _forget_found(options: Options, found: Sequence[Reaped]) -> int | None:
    async with local_ledger() as ledger:
        # Somebody else may have ended some while the question stood.
        still = {entry.record.key for entry in await read_entries(ledger)}
        keys = [one.entry.record.key for one in found if one.entry.record.key in still]
        forgotten = await forget(ledger, keys) if keys else []
    return await _print_forgotten(options, forgotten) if forgotten else None


async def _forget(options: Options, only: Sequence[str], *, older_than: str | None) -> int | None:
    if older_than is not None:
        raise InvalidArgument("--older-than goes with --undecided.", solution="Add --undecided.")
    if not only:
        raise InvalidArgument(
            "records to forget must be named.",
            solution="See: qsessions ledger. Or give --undecided.",
        )
    async with local_ledger() as ledger:
        forgotten = await forget(ledger, await _named(ledger, only))
    return await _print_forgotten(options, forgotten)


async def _print_forgotten(options: Options, forgotten: Sequence[Reaped]) -> int | None:
    await _print("forget", forgotten, options)
    kept = [one for one in forgotten if not one.done]
    if not kept:
        return None
    what = f"of {count(len(forgotten), 'record')}, {len(kept)} {'is' if len(kept) == 1 else 'are'} kept."
    complain(
        "forget", what, "The list says why. A record is kept while its owner lives, or may live."
    )
    return max([Exit.REFUSED, *(failure_code(one.error) for one in kept if one.error is not None)])


async def _named(ledger: Ledger, names: Collection[str]) -> list[str]:
    """Return records' names in full, of which a terminal shows the beginnings."""
    if not names:
        return []
    entries = await read_entries(ledger)
    known = {
        name for entry in entries for name in (entry.record.key, entry.record.session_id) if name
    }
    full: list[str] = []
    for name in names:
        if name in known or len(name) < SHORT_NAME:
            full.append(name)
            continue
        begun = [one for one in known if one.startswith(name)]
        if len(begun) > 1:
            raise InvalidArgument(
                f"{len(begun)} records begin with {name!r}; give more of the name."
            )
        full.append(begun[0] if begun else name)
    return full


async def _print(
    command: str, records: Sequence[Reaped], options: Options, nothing: str = ""
) -> None:
    rows = _each([_reaped_row(command, one) for one in records])
    told = nothing or f"qsessions {command}: nothing is undecided."
    await Output(options).rows("records", rows, _REAP_COLUMNS, told, brief=True)


async def _nothing(
    command: str, ledger: LocalLedger, seen: Sequence[LedgerEntry], labels: Sequence[str]
) -> str:
    """Say why there is nothing to show."""
    if labels:
        return f"qsessions {command}: no open session is recorded with {', '.join(labels)}."
    others = len(await read_entries(ledger)) - len(seen)
    more = (
        f" of this instance; {count(others, 'record')} of others: add --all-instances"
        if others
        else ""
    )
    return f"qsessions {command}: no open sessions are recorded{more}."


def _to_end(undecided: Sequence[ReapDecision]) -> str:
    """Say how to end what is undecided, by id, whatever the ledger says."""
    match list(
        dict.fromkeys(workload.id for decision in undecided for workload in decision.candidates)
    ):
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


def _is_over(entry: LedgerEntry, state: State | None) -> bool:
    """Return whether a session is over by a positive word; `reap` puts its record to ended."""
    if isinstance(state, NotFound):
        return not is_young(entry.record, now=time.time())
    return isinstance(state, Session) and state.id == entry.record.session_id and state.is_final


def _unread(
    record: LedgerRecord, state: State | None, client: AsyncSessionClient | None
) -> str | None:
    """Return why the state of a session isn't known, or None where it is."""
    if record.session_id is None:
        return "its id is unknown"
    if client is None:
        return "there are no credentials"
    match state:
        case None:
            return ANOTHER_INSTANCE
        case NotFound():
            return "the service has no such session"
        case QSessionsError():
            return what_happened(state, "ledger")
        case Exception():
            return f"{type(state).__name__}: {state}"
        case Session() if state.id != record.session_id:
            return "the answer was about another session"
    return None


def _row(
    entry: LedgerEntry, state: State | None, client: AsyncSessionClient | None
) -> dict[str, Any]:
    record, owner = entry.record, entry.owner
    unread = _unread(record, state, client)
    found = state if unread is None and isinstance(state, Session) else None
    return {
        "record": record.session_id or record.key,
        "session_id": record.session_id,
        "recorded_state": record.state,
        "live_state": found and found.state,
        "accepting_jobs": found and found.accepting_jobs,
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
