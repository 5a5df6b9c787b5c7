"""`run`: a command inside a session, which ends with it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import define, field
from cyclopts import Parameter

from qsessions.arguments import read_labels
from qsessions.cli.child import (
    BY_SIGNAL,
    NOT_EXECUTABLE,
    NOT_FOUND,
    Child,
    why_not_executable,
)
from qsessions.cli.create import CreateObserver, warn_without_max_ttl
from qsessions.cli.failures import (
    Exit,
    LeaveAtOnce,
    exit_code,
    print_error,
    print_lines,
)
from qsessions.cli.options import (
    DEFAULTS,
    ActiveTtl,
    Backend,
    InteractiveTtl,
    Labels,
    Limit,
    MaxTtl,
    Mode,
    Options,
)
from qsessions.cli.output import Output
from qsessions.cli.progress import Progress
from qsessions.cli.recording import LedgerWarning, optional_ledger
from qsessions.cli.service import connect
from qsessions.config.variables import read_defaults
from qsessions.errors import InvalidArgument, QSessionsError, SessionLeftOpen, problem_of
from qsessions.events import EndingFailed, Event
from qsessions.models import CreateSession, Session

if TYPE_CHECKING:
    from qsessions.client import AsyncSessionClient

EndMode = Literal["drain", "close"]

# The seconds that reading the usage of the session may take.
_USAGE_TIMEOUT_S = 10.0

_IS_ENDING = {"drain": "draining", "close": "closing", None: "reading"}
_IS_DONE = {"drain": "was drained", "close": "was closed", None: "was not ended"}
_CANT_START_ADVICE = {
    NOT_FOUND: "Check the command's name and PATH.",
    NOT_EXECUTABLE: "Make it executable (chmod +x); "
    "a script needs a first line such as #!/bin/sh too.",
}


async def run(
    *command: Annotated[str, Parameter(help="The command and its arguments, after --.")],
    mode: Annotated[Mode | None, Parameter(help="Exclusive access, or a group of jobs.")] = None,
    backend: Backend = None,
    max_ttl: MaxTtl = None,
    interactive_ttl: InteractiveTtl = None,
    active_ttl: ActiveTtl = None,
    attach: Annotated[
        str | None,
        Parameter(help="The id of a session that exists, in place of a new one; it isn't ended."),
    ] = None,
    on_exit: Annotated[
        EndMode, Parameter(help="How the session ends when the command ends with 0.")
    ] = "drain",
    on_error: Annotated[EndMode, Parameter(help="How it ends otherwise.")] = "close",
    grace: Annotated[
        Limit,
        Parameter(help="How long the command has to end after a signal, before it is killed."),
    ] = 20,
    label: Labels = (),
    options: Options = DEFAULTS,
) -> int:
    """Run a command inside a session, which ends with it.

    The command has QSESSIONS_SESSION_ID, QSESSIONS_BASE_URL and
    QISKIT_IBM_INSTANCE in its environment, and this command's own standard
    streams. Signals are passed on to it, and its exit code is this command's;
    128 and the signal's number where one killed it, 126 or 127 where it can't
    be started. The usage is printed on standard error, with --json as JSON.
    Set --max-ttl: it bounds what the session costs if this machine vanishes.

    Example: qsessions run --mode dedicated --backend ibm_fez --max-ttl 1h -- python experiment.py
    """
    as_json = Output(options).as_json
    if not command:
        raise InvalidArgument(
            "there is no command to run.",
            solution="Put it after --, for example: -- python experiment.py",
        )
    if grace is None:
        raise InvalidArgument("--grace must be a limit, so that the session ends.")
    ttls: dict[str, Any] = {
        "max_ttl": max_ttl,
        "interactive_ttl": interactive_ttl,
        "active_ttl": active_ttl,
    }
    request = None
    if attach is None:
        if mode is None:
            raise InvalidArgument(
                "--mode is missing.",
                solution="Add --mode dedicated or --mode batch for a new session, or --attach ID.",
            )
        request = read_defaults().complete(CreateSession(mode, backend=backend, **ttls))
    elif label or any([mode, backend, *ttls.values()]):
        raise InvalidArgument(
            "--attach takes no options of a new session.", solution="Leave one of them out."
        )
    runner = _Runner(
        command=command,
        request=request,
        labels=read_labels(label),
        session_id=attach,
        on_exit=on_exit,
        on_error=on_error,
        as_json=as_json,
    )
    if (code := await asyncio.to_thread(why_not_executable, command[0])) is not None:
        reason = "it isn't there" if code == NOT_FOUND else "it isn't executable"
        return _print_cant_start(command[0], reason, code)
    if request is not None:
        warn_without_max_ttl("run", request)
    return await runner.run(options, grace)


class _CommandFailed(Exception):
    """The command ended with an exit code other than 0."""


@define(kw_only=True)
class _Runner:
    """Runs one command, and knows what to say when it is interrupted."""

    command: Sequence[str]
    # What to create, or None where `session_id` exists and isn't ended.
    request: CreateSession | None
    labels: dict[str, str]
    session_id: str | None
    on_exit: EndMode
    on_error: EndMode
    as_json: bool
    child: Child = field(init=False)
    observer: CreateObserver = field(factory=CreateObserver, init=False)
    ended: EndMode | None = field(default=None, init=False)
    stopped_by: int | None = field(default=None, init=False)
    is_over: bool = field(default=False, init=False)
    failed_endings: int = field(default=0, init=False)
    progress: Progress = field(factory=Progress, init=False)

    async def run(self, options: Options, grace: float) -> int:
        """Run the command and return its exit code."""
        task = asyncio.current_task()

        def stop(number: int) -> None:
            # Once the command has ended, its session is being ended, as the signal asks.
            if not self.is_over and task is not None:
                self.stopped_by = number
                task.cancel()

        self.child = Child(grace=grace, stop=stop, leave=self._leave)
        self.child.listen()
        observers = [self.observer, LedgerWarning("run"), self._count_failed_endings]
        try:
            async with (
                optional_ledger() as ledger,
                connect(options, ledger=ledger, observers=observers) as client,
            ):
                with self.progress:
                    return await self._run_in_session(client)
        except asyncio.CancelledError:
            if self.stopped_by is None:
                raise
            if self.session_id is None:
                print_error("run", *self.observer.describe_interruption(False))
            else:
                print_error(
                    "run", "interrupted before the command began.", "Nothing is left to do."
                )
            return BY_SIGNAL + self.stopped_by

    def _count_failed_endings(self, event: Event) -> None:
        self.failed_endings += isinstance(event, EndingFailed)

    def _leave(self, number: int) -> None:
        if self.session_id is None:
            print_error("run", *self.observer.describe_interruption(True))
        else:
            self._print_left_open(f"interrupted twice; session {self.session_id} may be open.")
        raise LeaveAtOnce(BY_SIGNAL + number)

    async def _run_in_session(self, client: AsyncSessionClient) -> int:
        started = time.monotonic()
        self.progress.show("creating a session" if self.request else "reading the session")
        if self.request is not None:
            code = await self._run_in_new_session(client, self.request)
        elif (await client.get(str(self.session_id))).is_final:
            problem = f"session {self.session_id} is closed."
            print_error("run", problem, "To create one, leave --attach out.")
            return Exit.REFUSED
        else:
            code = await self._run_command(client)
        seconds = time.monotonic() - started
        try:
            session = await client.get(str(self.session_id), timeout=_USAGE_TIMEOUT_S)
        except QSessionsError:
            session = None
        self._print_report(code, seconds, session)
        return code

    async def _run_in_new_session(self, client: AsyncSessionClient, request: CreateSession) -> int:
        code, problem, code_if_open = 0, None, Exit.REFUSED
        self.ended = self.on_exit
        try:
            async with client.open(
                request, labels=self.labels, on_exit=self.on_exit, on_error=self.on_error
            ) as live:
                self.session_id = live.id
                if code := await self._run_command(client):
                    self.ended = self.on_error
                    raise _CommandFailed
        except _CommandFailed as failed:
            problem = "; ".join(getattr(failed, "__notes__", ()))
        except SessionLeftOpen as error:
            problem, code_if_open = problem_of(error, "run"), exit_code(error.__cause__)
        if problem:
            failures = self.failed_endings
            # This tries once more to end the session.
            await client.aclose()
            if self.failed_endings > failures:
                self._print_left_open(problem)
                return code or code_if_open
        return code

    async def _run_command(self, client: AsyncSessionClient) -> int:
        env = os.environ | {
            "QSESSIONS_SESSION_ID": str(self.session_id),
            "QSESSIONS_BASE_URL": client.base_url,
            "QISKIT_IBM_INSTANCE": client.instance or "",
        }
        # The terminal is the command's.
        self.progress.hide()
        try:
            return await self.child.run(self.command, env)
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            return _print_cant_start(self.command[0], str(error.strerror), code)
        finally:
            self.is_over = True
            self.progress.show(lambda: f"{_IS_ENDING[self.ended]} session {self.session_id}")

    def _print_left_open(self, problem: str) -> None:
        self.ended = None
        self.progress.hide()
        print_error("run", problem, f"End it: qsessions close {self.session_id}")

    def _print_report(self, code: int, seconds: float, session: Session | None) -> None:
        """Print the usage on standard error, because standard output is the command's."""
        self.progress.hide()
        used = session.elapsed_time if session else None
        report: dict[str, Any] = {
            "session_id": self.session_id,
            "state": session and session.state,
            "ended": self.ended,
            "exit_code": code,
            "seconds": seconds,
            "elapsed_time": used,
        }
        usage = "its usage isn't known" if used is None else f"it used {used:.1f} s"
        so_far = "" if session is None or session.is_final or used is None else " so far"
        text = (
            f"qsessions run: session {self.session_id} {_IS_DONE[self.ended]} "
            f"after {seconds:.1f} s; {usage}{so_far}."
        )
        print_lines(json.dumps(report) if self.as_json else text)


def _print_cant_start(command: str, reason: str, code: int) -> int:
    print_error("run", f"{command} can't be started: {reason}.", _CANT_START_ADVICE[code])
    return code
