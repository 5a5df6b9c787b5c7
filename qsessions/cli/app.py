"""The commands and their options. Each imports what it runs, so that help costs no more than itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt

from qsessions._version import __version__
from qsessions.cli.options import DEFAULTS, Options
from qsessions.cli.terminal import Terminal

SessionId = Annotated[str, Parameter(help="The session's id.")]
Mode = Annotated[
    Literal["dedicated", "batch"], Parameter(help="Exclusive access, or a group of jobs.")
]
Backend = Annotated[str | None, Parameter(help="The backend's name.")]
MaxTtl = Annotated[
    str | None,
    Parameter(
        help="How long after its first job's start it closes at the latest: seconds, or text such as 10m. "
        "One that no job reaches closes after 30 minutes."
    ),
]
InteractiveTtl = Annotated[
    str | None, Parameter(help="How long it may sit without a job; channel partners only.")
]
Labels = Annotated[
    tuple[str, ...],
    Parameter(
        name="--label",
        help="What to call it in the ledger, name=value, to find it from another process; may be repeated.",
        negative="",
        show_default=False,
    ),
]
ActiveTtl = Annotated[
    str | None, Parameter(help="How long it may be active in all; channel partners only.")
]

app = App(
    name="qsessions",
    help="IBM Quantum sessions from the shell.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    console=Terminal(),
)


@app.command
def demo() -> None:
    """Run one session from create to closed against an emulator, in under ten seconds.

    Needs no account and no network. Example: qsessions demo
    """
    from qsessions.cli.demo import run

    asyncio.run(run())


@app.command
def emulator(
    *,
    host: Annotated[
        str, Parameter(help="Where to listen; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 0,
    speed: Annotated[
        float, Parameter(help="Seconds of the service in one real second; 0 stands still.")
    ] = 1.0,
    plan: Annotated[
        Literal["paid", "open"], Parameter(help="'open' refuses dedicated sessions.")
    ] = "paid",
    partner: Annotated[
        bool, Parameter(help="Allow interactive_ttl and active_ttl.", negative="")
    ] = False,
    token_seconds: Annotated[
        int, Parameter(help="How long an access token lives, in seconds.")
    ] = 3600,
    queue_seconds: Annotated[
        float, Parameter(help="How long each job waits in the queue, in seconds.")
    ] = 0.0,
    instance: Annotated[
        tuple[Literal["paid", "open", "partner"], ...],
        Parameter(
            help="One more service instance, with these terms; may be given again.",
            negative="",
            show_default=False,
        ),
    ] = (),
    faults: Annotated[
        Path | None, Parameter(help="A TOML file of what goes wrong; see docs/faults.md.")
    ] = None,
    log: Annotated[
        str | None,
        Parameter(
            help="Where to write each request as a line of JSON; - is standard error.",
            allow_leading_hyphen=True,
        ),
    ] = None,
) -> int:
    """Serve the sessions API on this machine until Ctrl-C or SIGTERM.

    Prints the environment variables that lead clients to it, one export a line, once it serves: that is the sign that it is ready.
    Example: eval "$(qsessions emulator & echo pid=$!)", and kill $pid at the end.
    """
    from qsessions.cli.emulator import load_faults, serve
    from qsessions.cli.failures import Exit, complain, in_a_shell
    from qsessions.emulator import Emulator

    try:
        service = Emulator(
            host=host,
            port=port,
            speed=speed,
            plan=plan,
            partner=partner,
            token_seconds=token_seconds,
            queue_seconds=queue_seconds,
            faults=[] if faults is None else load_faults(faults),
        )
        for terms in instance:
            service.add_instance(
                plan="open" if terms == "open" else "paid", partner=terms == "partner"
            )
    except ValueError as error:
        complain("emulator", f"{in_a_shell(str(error))}.", "See: qsessions emulator --help")
        return Exit.WRONG_USE
    return serve(service, host, log)


@app.command
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

    Set --max-ttl: it bounds what the session costs if nobody closes it. Ctrl-C ends what came of the request, and says so.

    Example: qsessions create --mode dedicated --backend ibm_fez --max-ttl 10m
    """
    from qsessions.cli import commands

    ttls = {"max_ttl": max_ttl, "interactive_ttl": interactive_ttl, "active_ttl": active_ttl}
    fate = commands.Fate()
    return commands.run(
        "create", commands.create(options, mode, backend, ttls, fate, labels=label), fate
    )


@app.command
def get(session_id: SessionId, /, *, options: Options = DEFAULTS) -> int:
    """Print a session.

    Example: qsessions get SESSION_ID --json
    """
    from qsessions.cli import commands

    return commands.run("get", commands.get(options, session_id))


@app.command
def update(
    session_id: SessionId,
    /,
    *,
    accepting_jobs: Annotated[bool, Parameter(help="Take new jobs, or let it finish and close.")],
    options: Options = DEFAULTS,
) -> int:
    """Open or shut a session for new jobs.

    Example: qsessions update SESSION_ID --no-accepting-jobs
    """
    from qsessions.cli import commands

    return commands.run(
        "update", commands.update(options, session_id, accepting_jobs=accepting_jobs)
    )


@app.command
def drain(session_id: SessionId, /, *, options: Options = DEFAULTS) -> int:
    """Let a session finish: queued and running jobs end, new ones are refused, then it closes.

    Example: qsessions drain SESSION_ID
    """
    from qsessions.cli import commands

    return commands.run("drain", commands.drain(options, session_id))


@app.command
def close(session_id: SessionId, /, *, options: Options = DEFAULTS) -> int:
    """Close a session now: queued jobs never run, running jobs finish.

    Example: qsessions close SESSION_ID
    """
    from qsessions.cli import commands

    return commands.run("close", commands.close(options, session_id))


@app.command
def workloads(
    *,
    mode: Annotated[
        tuple[Literal["session", "batch", "job"], ...],
        Parameter(help="Which kinds; may be repeated.", negative=""),
    ] = ("session", "batch"),
    status: Annotated[
        tuple[Literal["pending", "in_progress", "failed", "completed", "canceled"], ...],
        Parameter(
            help="Only those in this status; may be repeated.", negative="", show_default=False
        ),
    ] = (),
    backend: Annotated[str | None, Parameter(help="Only those on this backend.")] = None,
    search: Annotated[
        str | None, Parameter(help="Only those that the service finds by this text.")
    ] = None,
    created_after: Annotated[
        str | None,
        Parameter(
            help="Only those created after this time (ISO 8601; local time without an offset)."
        ),
    ] = None,
    created_before: Annotated[
        str | None, Parameter(help="Only those created before this time.")
    ] = None,
    newest_first: Annotated[
        bool, Parameter(help="Begin with the newest.", negative="", show_default=False)
    ] = False,
    limit: Annotated[PositiveInt | None, Parameter(help="How many to print at the most.")] = None,
    options: Options = DEFAULTS,
) -> int:
    """List the instance's sessions and batches, oldest first. What may cost is pending or in_progress.

    Example: qsessions workloads --status pending --status in_progress --jsonl
    """
    from qsessions.cli import commands

    body = commands.workloads(
        options,
        limit=limit,
        mode=mode,
        status=status,
        backend=backend,
        search=search,
        created_after=created_after,
        created_before=created_before,
        newest_first=newest_first,
    )
    return commands.run("workloads", body)


@app.command
def versions(*, options: Options = DEFAULTS) -> int:
    """List the API versions that the service has, oldest first. Needs no credentials.

    Example: qsessions versions --json
    """
    from qsessions.cli import commands

    return commands.run("versions", commands.versions(options))


@app.command
def doctor(*, options: Options = DEFAULTS) -> int:
    """Check credentials, network, IAM, the service and the clock: a line for each, ok or what to do.

    Nothing is created or changed.

    Example: qsessions doctor --account my-account
    """
    from qsessions.cli import commands
    from qsessions.cli.doctor import examine

    return commands.run("doctor", examine(options))
