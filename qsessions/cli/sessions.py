"""`get`, `update`, `drain`, `close` and `wait`: a session by its id."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from qsessions.cli.changes import state_of
from qsessions.cli.options import DEFAULTS, WAIT_DEFAULTS, Options, SessionId, WaitOptions
from qsessions.cli.output import Output
from qsessions.cli.progress import Progress
from qsessions.cli.recording import record_ended
from qsessions.cli.service import connect
from qsessions.display import span
from qsessions.models import StateName

# The seconds that one of many reads of a session may take.
READ_TIMEOUT_S = 60.0


async def get(session_id: SessionId, /, *, options: Options = DEFAULTS) -> None:
    """Print a session.

    Example: qsessions get SESSION_ID --json
    """
    output = Output(options)
    async with connect(options) as client:
        output.record((await client.get(session_id)).to_dict())


async def update(
    session_id: SessionId,
    /,
    *,
    accepting_jobs: Annotated[bool, Parameter(help="Take new jobs, or let it finish and close.")],
    options: Options = DEFAULTS,
) -> None:
    """Open or shut a session for new jobs.

    Example: qsessions update SESSION_ID --no-accepting-jobs
    """
    output = Output(options)
    async with connect(options) as client:
        await client.update(session_id, accepting_jobs=accepting_jobs)
    output.record({"id": session_id, "done": "update", "accepting_jobs": accepting_jobs})


async def drain(session_id: SessionId, /, *, options: Options = DEFAULTS) -> None:
    """Let a session finish its jobs; it refuses new ones, and then closes.

    Example: qsessions drain SESSION_ID
    """
    output = Output(options)
    async with connect(options) as client:
        await client.drain(session_id)
    output.record({"id": session_id, "done": "drain"})


async def close(session_id: SessionId, /, *, options: Options = DEFAULTS) -> None:
    """Close a session now: queued jobs never run, running jobs finish.

    Example: qsessions close SESSION_ID
    """
    output = Output(options)
    async with connect(options) as client:
        await client.close(session_id)
    await record_ended({session_id})
    output.record({"id": session_id, "done": "close"})


async def wait(
    session_id: SessionId,
    /,
    *,
    states: Annotated[
        tuple[StateName, ...],
        Parameter(name="--for", help="The state; may be repeated for others.", negative=""),
    ],
    options: WaitOptions = WAIT_DEFAULTS,
) -> None:
    """Wait until a session is in a state, and print it.

    If the session can't get there any more, because it is closed, the exit
    code is 1; after --timeout it is 4.

    Example: qsessions wait SESSION_ID --for active --timeout 5m
    """
    output = Output(options)
    async with connect(options, timeout=READ_TIMEOUT_S) as client:
        live = client.attach(session_id)
        since = client.clock.monotonic()
        limit = "" if options.timeout is None else f" of {span(options.timeout)}"

        def what() -> str:
            waited = span(client.clock.monotonic() - since)
            return f"waiting for {' or '.join(states)}: {state_of(live.snapshot)}, {waited}{limit}"

        with Progress(what):
            session = await live.wait_until(*states, timeout=options.timeout)
    output.record(session.to_dict())
