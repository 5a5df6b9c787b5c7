"""What each command for the service does, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from attrs import AttrsInstance, define

from qsessions.api.operations import MAX_PAGE
from qsessions.cli.failures import LOOK_FOR_IT, Exit, complain, exit_code, what_happened, what_to_do
from qsessions.cli.keeping import Warner, local_ledger, note_ended
from qsessions.cli.options import Options
from qsessions.cli.output import Output, Row, row
from qsessions.cli.terminal import forget_output
from qsessions.client import AsyncSessionClient
from qsessions.errors import CallTimeout, InvalidArgument, QSessionsError
from qsessions.events import CreateCancelled, Event, RequestSent
from qsessions.models import CreateSession, Session, deadline_seconds

# Where a terminal is narrow, the first ones stay.
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
# How many seconds one of many looks at a session may take.
_READ_S = 60.0

_NOWHERE = logging.NullHandler()

NumberT = TypeVar("NumberT", int, float)


def run(command: str, body: Coroutine[Any, Any, int | None], fate: Fate | None = None) -> int:
    """Run a command's body and give its exit code; tell on standard error what went wrong."""
    # What the library warns of the commands tell themselves, in their own words.
    logging.getLogger("qsessions").addHandler(_NOWHERE)
    with asyncio.Runner() as runner:
        try:
            return runner.run(body) or Exit.DONE
        except KeyboardInterrupt:
            left = bool(asyncio.all_tasks(runner.get_loop()))
            if fate is not None:
                complain(command, *fate.told(left=left))
            if left:
                # A second Ctrl-C: what is still under way isn't waited for.
                os._exit(Exit.INTERRUPTED)
            return Exit.INTERRUPTED
        except QSessionsError as error:
            told = [what_happened(error, command), *getattr(error, "__notes__", [])]
            what = "; ".join(part.removesuffix(".") for part in told)
            complain(command, f"{what}.", what_to_do(error, command))
            return exit_code(error)


def read_labels(labels: Sequence[str]) -> dict[str, str]:
    """Read labels that are given as name=value."""
    read: dict[str, str] = {}
    for label in labels:
        name, _, value = label.partition("=")
        if not name or not value:
            raise InvalidArgument(
                f"--label must be a name and a value such as run=42, not {label!r}."
            )
        if name in read:
            raise InvalidArgument(f"--label gives {name!r} twice.")
        read[name] = value
    return read


def can_ask() -> bool:
    """Return whether there is somebody at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> bool:
    """Ask whoever is at the terminal; on standard error, since standard output has nothing but data."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def connect(options: Options, **more: Any) -> AsyncSessionClient:
    """Make the client that the options ask for."""
    named = {"account": options.account, "account_file": options.account_file}
    chosen: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    chosen |= {"timeout": deadline(options)} | more
    return AsyncSessionClient(
        base_url=options.base_url,
        api_version=options.api_version,
        application="qsessions-cli",
        **chosen,
    )


def deadline(options: Options) -> float | None:
    """Read --timeout."""
    return duration("--timeout", options.timeout)


def duration(option: str, text: str) -> float | None:
    """Read how long something may take: plain numbers are seconds, and "none" is no limit."""
    return deadline_seconds(None if text == "none" else _number(text, float), option)


def creation(mode: str, backend: str | None, ttls: Mapping[str, str | None]) -> CreateSession:
    """Read what to create."""
    given = {name: None if text is None else _number(text, int) for name, text in ttls.items()}
    return CreateSession(mode, backend=backend, **given)


async def create(
    options: Options,
    mode: str,
    backend: str | None,
    ttls: Mapping[str, str | None],
    fate: Fate,
    *,
    labels: Sequence[str],
) -> int | None:
    """Create a session and print it; `fate` knows what became of it when this is interrupted."""
    output, named = Output(options), read_labels(labels)
    request = creation(mode, backend, ttls)
    observers = [fate, Warner("create")]
    async with (
        local_ledger(detached=True) as ledger,
        connect(options, ledger=ledger, observers=observers) as client,
    ):
        session = fate.session = await client.create(request, labels=named)
        try:
            output.record(row(session))
        except Exception as error:  # noqa: BLE001 - whatever it is, the session costs
            if isinstance(error, OSError):
                forget_output()
            complain(
                "create",
                f"session {session.id} was created and goes on, and its description could not be written: {error}.",
                f"End it: qsessions close {session.id}",
            )
            return Exit.WRONG_USE
    return None


async def get(options: Options, session_id: str) -> None:
    """Print a session."""
    output = Output(options)
    async with connect(options) as client:
        output.record(row(await client.get(session_id)))


async def update(options: Options, session_id: str, *, accepting_jobs: bool) -> None:
    """Open or shut a session for new jobs."""
    output = Output(options)
    async with connect(options) as client:
        await client.update(session_id, accepting_jobs=accepting_jobs)
    output.record({"id": session_id, "done": "update", "accepting_jobs": accepting_jobs})


async def drain(options: Options, session_id: str) -> None:
    """Let a session finish."""
    output = Output(options)
    async with connect(options) as client:
        await client.drain(session_id)
    output.record({"id": session_id, "done": "drain"})


async def close(options: Options, session_id: str) -> None:
    """Close a session now."""
    output = Output(options)
    async with connect(options) as client:
        await client.close(session_id)
    await note_ended({session_id})
    output.record({"id": session_id, "done": "close"})


async def wait(options: Options, session_id: str, states: Sequence[str]) -> None:
    """Wait until a session is in one of the states, and print it."""
    output = Output(options)
    seconds = deadline(options)
    async with connect(options, timeout=_READ_S) as client:
        session = await client.attach(session_id).wait_until(*states, timeout=seconds)
    output.record(row(session))


async def workloads(options: Options, *, limit: int | None, **filters: Any) -> None:
    """Print what the instance has of sessions, batches and jobs."""
    output = Output(options)
    for name in ("created_after", "created_before"):
        filters[name] = moment(name, filters[name])
    page_size = MAX_PAGE if limit is None else min(limit, MAX_PAGE)
    try:
        async with connect(options) as client, asyncio.timeout(deadline(options)):
            listed = client.workloads(**filters, page_size=page_size)
            await output.rows("workloads", _first(limit, listed), _WORKLOAD_COLUMNS)
    except TimeoutError:
        told = "the deadline of the whole list passed before its end."
        raise CallTimeout(told, operation="workloads", sent=True) from None


async def versions(options: Options) -> None:
    """Print the API versions that the service has."""
    output = Output(options)
    # They need no credentials; an account may still say where the service is.
    named = options.account is not None or options.account_file is not None
    async with connect(options, auth=None if named else []) as client:
        listed = await client.versions()
    await output.rows("versions", _first(None, _each(listed)), _VERSION_COLUMNS)


@define
class Fate:
    """Hears what becomes of a create, for whoever interrupts it."""

    session: Session | None = None
    sent: bool = False
    closing: str | None = None
    end: CreateCancelled | None = None

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, CreateCancelled):
            self.end = event
        elif isinstance(event, RequestSent) and event.operation == "create":
            self.sent = True
        elif isinstance(event, RequestSent) and event.operation == "close":
            self.closing = event.session_id

    def told(self, *, left: bool) -> tuple[str, str]:
        """Say what became of the session and what to do; `left` when nobody waited for the end."""
        session_id = (
            self.session.id if self.session else self.end.session_id if self.end else self.closing
        )
        end_it = f"End it: qsessions close {session_id}"
        if self.session is not None:
            return f"interrupted; session {session_id} was created and goes on.", end_it
        if self.end is not None and self.end.closed:
            return (
                f"interrupted; session {session_id} had been created and was closed.",
                "Nothing is left to do.",
            )
        if self.end is not None:
            return f"interrupted; {self.end.detail}", end_it if session_id else LOOK_FOR_IT
        if left and self.closing is not None:
            return (
                f"interrupted twice; session {session_id} was created, and its close was not waited for.",
                end_it,
            )
        if left and self.sent:
            return "interrupted twice; a session may have been created.", LOOK_FOR_IT
        return "interrupted; no session was created.", "Nothing is left to do."


def _number(text: str, kind: Callable[[str], NumberT]) -> NumberT | str:
    """Read a plain number; other text is given as it is, for those who know durations."""
    try:
        return kind(text)
    except ValueError:
        return text


def moment(name: str, text: str | None) -> datetime | None:
    """Read a time; one without an offset is local time."""
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        option = "--" + name.replace("_", "-")
        raise InvalidArgument(
            f"{option} must be a time such as 2026-01-31 or 2026-01-31T12:00:00Z, not {text!r}."
        ) from None


async def _first(limit: int | None, listed: AsyncIterator[AttrsInstance]) -> AsyncIterator[Row]:
    number = 0
    async for item in listed:
        yield row(item)
        number += 1
        if number == limit:
            return


async def _each(items: list[Any]) -> AsyncIterator[AttrsInstance]:
    for item in items:
        yield item
