"""`run`: a command inside a session, which ends with it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from qsessions.cli.child import BY_SIGNAL, NOT_EXECUTABLE, NOT_FOUND, Child, unusable
from qsessions.cli.commands import Fate, connect, creation, duration, read_labels
from qsessions.cli.failures import Exit, complain, tell, what_happened
from qsessions.cli.keeping import Warner, local_ledger
from qsessions.cli.ledger import failure_code
from qsessions.cli.options import Options
from qsessions.cli.output import Output
from qsessions.client import AsyncSessionClient
from qsessions.errors import InvalidArgument, QSessionsError, SessionLeftOpen
from qsessions.events import EndingFailed, Event
from qsessions.models import CreateSession, Session
from qsessions.session.calls import How

# How many seconds the look at what the session has used may take.
_LOOK_S = 10.0


class _CommandFailed(Exception):
    """The command ended with an exit code other than 0."""


@frozen(kw_only=True)
class Plan:
    """What to run in which session.

    Attributes:
        command: The command and its arguments.
        session: What to create, or the id of a session that exists and that nothing here ends.
        labels: What to call the one that is created.
        on_exit: How the session ends when the command has ended well.
        on_error: How it ends otherwise.
        grace: How many seconds the command has to end once it was told to.
    """

    command: Sequence[str]
    session: CreateSession | str
    labels: Mapping[str, str]
    on_exit: How
    on_error: How
    grace: float


async def run_command(
    options: Options,
    command: Sequence[str],
    attach: str | None,
    wanted: tuple[str | None, str | None, Mapping[str, str | None]],
    labels: Sequence[str],
    *,
    on_exit: How,
    on_error: How,
    grace: str,
) -> int:
    """Run the command and give its exit code.

    Args:
        options: The options of every command.
        command: The command and its arguments.
        attach: The id of a session that exists.
        wanted: Without it, the mode, backend and TTLs of one to create.
        labels: What to call that in the ledger, each as name=value.
        on_exit: How that ends when the command has ended well.
        on_error: How it ends otherwise.
        grace: How long the command has to end once it was told to.
    """
    as_json = Output(options).as_json
    if not command:
        raise InvalidArgument(
            "there is no command to run.",
            solution="Give it after --, such as: -- python experiment.py",
        )
    seconds = duration("--grace", grace)
    if seconds is None:
        raise InvalidArgument("--grace must be a limit, so that the session ends.")
    session = _session(attach, *wanted, labels)
    plan = Plan(
        command=command,
        session=session,
        labels=read_labels(labels),
        on_exit=on_exit,
        on_error=on_error,
        grace=seconds,
    )
    if (code := await asyncio.to_thread(unusable, command[0])) is not None:
        _cant_start(
            command[0], "it isn't there" if code == NOT_FOUND else "it isn't executable", code
        )
        return code
    if isinstance(session, CreateSession) and session.max_ttl is None:
        tell(
            "qsessions run: no --max-ttl: if this machine vanishes, the session goes on for 8 hours after its first job's start."
        )
    return await _Run(plan, as_json=as_json).carry_out(options)


def _session(
    attach: str | None,
    mode: str | None,
    backend: str | None,
    ttls: Mapping[str, str | None],
    labels: Sequence[str],
) -> CreateSession | str:
    """Give what to create, or the id of the session that exists."""
    if attach is None:
        if mode is None:
            raise InvalidArgument(
                "--mode is missing.", solution="Give the new session's --mode, or --attach ID."
            )
        return creation(mode, backend, ttls)
    if labels or any(value is not None for value in (mode, backend, *ttls.values())):
        raise InvalidArgument(
            "--attach takes no options of a new session.", solution="Leave one of them out."
        )
    return attach


class _Run:
    """One run, and what whoever interrupts it must know."""

    def __init__(self, plan: Plan, *, as_json: bool) -> None:
        self._plan = plan
        self._as_json = as_json
        self._fate = Fate()
        self._session_id: str | None = None
        self._ended: How | None = None
        self._stopped_by: int | None = None
        self._is_over = False
        self._failed_endings = 0
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        self._cancel: Callable[[], bool] = task.cancel
        self._child = Child(grace=plan.grace, stop=self._stop, leave=self._leave)

    async def carry_out(self, options: Options) -> int:
        """Do it all."""
        self._child.listen()
        observers = [self._fate, Warner("run"), self._hear]
        try:
            async with (
                local_ledger() as ledger,
                connect(options, ledger=ledger, observers=observers) as client,
            ):
                return await self._in_session(client)
        except asyncio.CancelledError:
            if self._stopped_by is None:
                raise
            if self._session_id is None:
                complain("run", *self._fate.told(left=False))
            else:
                complain("run", "interrupted before the command began.", "Nothing is left to do.")
            return BY_SIGNAL + self._stopped_by

    async def _in_session(self, client: AsyncSessionClient) -> int:
        started = time.monotonic()
        if isinstance(self._plan.session, str):
            self._session_id = self._plan.session
            if (await client.get(self._session_id)).is_final:
                complain(
                    "run",
                    f"session {self._session_id} is closed.",
                    "To create one, leave --attach out.",
                )
                return Exit.REFUSED
            code = await self._command(client)
        else:
            code = await self._in_own_session(client, self._plan.session)
        seconds = time.monotonic() - started
        self._report(code, seconds, await self._look(client))
        return code

    async def _in_own_session(self, client: AsyncSessionClient, wanted: CreateSession) -> int:
        code, left = 0, None
        code_if_left = Exit.REFUSED
        self._ended = self._plan.on_exit
        try:
            async with client.open(
                wanted,
                labels=self._plan.labels,
                on_exit=self._plan.on_exit,
                on_error=self._plan.on_error,
            ) as live:
                self._session_id = live.id
                code = await self._command(client)
                self._judge(code)
        except _CommandFailed as failed:
            left = "; ".join(getattr(failed, "__notes__", ()))
        except SessionLeftOpen as error:
            left = what_happened(error, "run")
            code_if_left = failure_code(error.__cause__)
        if left and not await self._is_ended_by_closing(client):
            self._left_open(left)
            code = code or code_if_left
        return code

    def _judge(self, code: int) -> None:
        if code:
            self._ended = self._plan.on_error
            raise _CommandFailed

    async def _is_ended_by_closing(self, client: AsyncSessionClient) -> bool:
        """Close the client, which tries once more to end the session; say whether it did."""
        failures = self._failed_endings
        await client.aclose()
        return self._failed_endings == failures

    async def _command(self, client: AsyncSessionClient) -> int:
        """Run the command in the session; give its exit code."""
        env = os.environ | {
            "QSESSIONS_SESSION_ID": str(self._session_id),
            "QSESSIONS_BASE_URL": client.base_url,
            "QISKIT_IBM_INSTANCE": client.instance or "",
        }
        try:
            return await self._child.run(self._plan.command, env)
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            _cant_start(self._plan.command[0], str(error.strerror), code)
            return code
        finally:
            self._is_over = True

    def _hear(self, event: Event) -> None:
        self._failed_endings += isinstance(event, EndingFailed)

    def _stop(self, number: int) -> None:
        # Once the command has run, its session is being ended, which is what a signal wants.
        if not self._is_over:
            self._stopped_by = number
            self._cancel()

    def _leave(self, number: int) -> None:
        if self._session_id is None:
            complain("run", *self._fate.told(left=True))
        else:
            self._left_open(f"interrupted twice; session {self._session_id} may be open.")
        os._exit(BY_SIGNAL + number)

    def _left_open(self, what: str) -> None:
        self._ended = None
        complain("run", what, f"End it: qsessions close {self._session_id}")

    async def _look(self, client: AsyncSessionClient) -> Session | None:
        """Give the session as it is now, or None where that can't be read soon."""
        try:
            return await client.get(str(self._session_id), timeout=_LOOK_S)
        except QSessionsError:
            return None

    def _report(self, code: int, seconds: float, found: Session | None) -> None:
        """Tell how long it took and what it used, on standard error, since standard output is the command's."""
        used = found.elapsed_time if found else None
        row: dict[str, Any] = {
            "session_id": self._session_id,
            "state": found and found.state,
            "ended": self._ended,
            "exit_code": code,
            "seconds": seconds,
            "elapsed_time": used,
        }
        told = {"drain": "was drained", "close": "was closed", None: "was not ended"}[self._ended]
        usage = "its usage isn't known" if used is None else f"it used {used:.1f} s"
        so_far = "" if found is None or found.is_final or used is None else " so far"
        text = f"qsessions run: session {self._session_id} {told} after {seconds:.1f} s; {usage}{so_far}."
        tell(json.dumps(row) if self._as_json else text)


def _cant_start(command: str, why: str, code: int) -> None:
    advice = {
        NOT_FOUND: "Check the command's name and PATH.",
        NOT_EXECUTABLE: "Make it executable (chmod +x); a script needs a first line such as #!/bin/sh too.",
    }
    complain("run", f"{command} can't be started: {why}.", advice[code])
