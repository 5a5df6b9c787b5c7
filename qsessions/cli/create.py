"""`create`: a session that outlives the command."""

from __future__ import annotations

from attrs import define

from qsessions.arguments import read_labels
from qsessions.cli.failures import LOOK_FOR_IT, Exit, print_error, print_lines
from qsessions.cli.options import (
    DEFAULTS,
    ActiveTtl,
    Backend,
    InteractiveTtl,
    Labels,
    MaxTtl,
    Mode,
    Options,
)
from qsessions.cli.output import Output
from qsessions.cli.recording import LedgerWarning, optional_ledger
from qsessions.cli.service import connect, run_async
from qsessions.cli.terminal import discard_output
from qsessions.config.variables import read_defaults
from qsessions.events import CreateCancelled, Event, RequestSent
from qsessions.models import CreateSession, Session


def create(
    *,
    mode: Mode,
    backend: Backend = None,
    max_ttl: MaxTtl = None,
    interactive_ttl: InteractiveTtl = None,
    active_ttl: ActiveTtl = None,
    label: Labels = (),
    options: Options = DEFAULTS,
) -> int:
    """Create a session and print it.

    Set --max-ttl: it bounds what the session costs if nobody closes it.
    Ctrl-C closes the session that came of the request, and says so.

    Example: qsessions create --mode dedicated --backend ibm_fez --max-ttl 10m
    """
    observer = CreateObserver()

    async def body() -> int | None:
        output, labels = Output(options), read_labels(label)
        request = read_defaults().complete(
            CreateSession(
                mode,
                backend=backend,
                max_ttl=max_ttl,
                interactive_ttl=interactive_ttl,
                active_ttl=active_ttl,
            )
        )
        async with (
            optional_ledger(detached=True) as ledger,
            connect(
                options, ledger=ledger, observers=[observer, LedgerWarning("create")]
            ) as client,
        ):
            observer.session = await client.create(request, labels=labels)
        warn_without_max_ttl("create", request)
        return _print(output, observer.session)

    return run_async("create", body(), observer.describe_interruption)


def warn_without_max_ttl(command: str, request: CreateSession) -> None:
    """Print what a session costs that nothing bounds."""
    if request.max_ttl is None:
        print_lines(
            f"qsessions {command}: no --max-ttl: if nobody closes the session, "
            "it goes on for 8 hours after its first job's start."
        )


def _print(output: Output, session: Session) -> int | None:
    try:
        output.record(session.to_dict())
    except Exception as error:  # noqa: BLE001 - the session costs, so its id is printed in any case
        if isinstance(error, OSError):
            discard_output()
        print_error(
            "create",
            f"session {session.id} was created and goes on, "
            f"and its description could not be written: {error}.",
            f"End it: qsessions close {session.id}",
        )
        return Exit.WRONG_USE
    return None


@define
class CreateObserver:
    """An observer of the client that knows what an interrupted create has done.

    Attributes:
        session: The session, once the create has returned it.
    """

    session: Session | None = None
    _is_sent: bool = False
    _closing_id: str | None = None
    _cancelled: CreateCancelled | None = None

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, CreateCancelled):
            self._cancelled = event
        elif isinstance(event, RequestSent) and event.operation == "create":
            self._is_sent = True
        elif isinstance(event, RequestSent) and event.operation == "close":
            self._closing_id = event.session_id

    def describe_interruption(self, is_abandoned: bool) -> tuple[str, str]:
        """Return what became of the session, and what to do.

        Args:
            is_abandoned: Whether the request and the close were not waited for.
        """
        if self.session is not None:
            return (
                f"interrupted; session {self.session.id} was created and goes on.",
                _end(self.session.id),
            )
        if self._cancelled is not None and self._cancelled.closed:
            return (
                (
                    f"interrupted; session {self._cancelled.session_id} "
                    "had been created and was closed."
                ),
                "Nothing is left to do.",
            )
        if self._cancelled is not None:
            return f"interrupted; {self._cancelled.detail}", _end(self._cancelled.session_id)
        if is_abandoned and self._closing_id is not None:
            return (
                (
                    f"interrupted twice; session {self._closing_id} was created, "
                    "and its close was not waited for."
                ),
                _end(self._closing_id),
            )
        if is_abandoned and self._is_sent:
            return "interrupted twice; a session may have been created.", LOOK_FOR_IT
        return "interrupted; no session was created.", "Nothing is left to do."


def _end(session_id: str | None) -> str:
    return LOOK_FOR_IT if session_id is None else f"End it: qsessions close {session_id}"
