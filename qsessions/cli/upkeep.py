"""The commands that see to it that no session is left open, and their options, as in app.py."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from qsessions.cli.app import (
    ActiveTtl,
    Backend,
    InteractiveTtl,
    Labels,
    MaxTtl,
    Mode,
    SessionId,
    app,
)
from qsessions.cli.options import DEFAULTS, WAIT_DEFAULTS, Options, WaitOptions

State = Literal["open", "active", "inactive", "closed", "pending_inactive", "pending_closed"]
How = Literal["drain", "close"]
OnlyLabels = Annotated[
    tuple[str, ...],
    Parameter(
        name="--label",
        help="Only those that the ledger has with this label, name=value; may be repeated.",
        negative="",
        show_default=False,
    ),
]
AllInstances = Annotated[
    bool,
    Parameter(help="Show the records of other instances too.", negative="", show_default=False),
]


@app.command
def wait(
    session_id: SessionId,
    /,
    *,
    states: Annotated[
        tuple[State, ...],
        Parameter(name="--for", help="The state; may be given again for others.", negative=""),
    ],
    options: WaitOptions = WAIT_DEFAULTS,
) -> int:
    """Wait until a session is in a state, and print it.

    A session that can't get there any more, since it is closed, ends the wait with exit code 1; --timeout with 4.

    Example: qsessions wait SESSION_ID --for active --timeout 5m
    """
    from qsessions.cli import commands

    return commands.run("wait", commands.wait(options, session_id, states))


@app.command
def run(
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
        How, Parameter(help="How the session ends when the command ends with 0.")
    ] = "drain",
    on_error: Annotated[How, Parameter(help="How it ends otherwise.")] = "close",
    grace: Annotated[
        str,
        Parameter(
            help="How long the command has to end once a signal told it to, before it is killed."
        ),
    ] = "20",
    label: Labels = (),
    options: Options = DEFAULTS,
) -> int:
    """Run a command inside a session, which ends with it.

    The command has QSESSIONS_SESSION_ID, QSESSIONS_BASE_URL and QISKIT_IBM_INSTANCE in its environment, and this command's own standard
    streams. Signals are passed on to it, and its exit code is this command's; 128 and the signal's number where one killed it, 126 or 127
    where it can't be started. What was used is told on standard error, with --json as JSON. Set --max-ttl: it bounds what the session
    costs if this machine vanishes.

    Example: qsessions run --mode dedicated --backend ibm_fez --max-ttl 1h -- python experiment.py
    """
    from qsessions.cli import commands
    from qsessions.cli.running import run_command

    ttls = {"max_ttl": max_ttl, "interactive_ttl": interactive_ttl, "active_ttl": active_ttl}
    wanted = (mode, backend, ttls)
    body = run_command(
        options, command, attach, wanted, label, on_exit=on_exit, on_error=on_error, grace=grace
    )
    return commands.run("run", body)


@app.command
def ledger(
    *,
    all: Annotated[  # noqa: A002 - the option's name
        bool, Parameter(help="Those too that are over by now.", negative="", show_default=False)
    ] = False,
    all_instances: AllInstances = False,
    label: OnlyLabels = (),
    options: Options = DEFAULTS,
) -> int:
    """List the sessions that this user's processes created and that may be open, with their owners.

    They are those of the instance that the credentials name; without credentials, all. An owner is the process that created one: alive,
    dead, or unknown where that can't be told from here.

    Example: qsessions ledger --json
    """
    from qsessions.cli import commands
    from qsessions.cli.ledger import list_ledger

    body = list_ledger(options, label, everything=all, all_instances=all_instances)
    return commands.run("ledger", body)


@app.command
def reap(
    *records: Annotated[
        str,
        Parameter(
            help="Only these: session ids, or what `qsessions ledger` shows where there is none."
        ),
    ],
    label: OnlyLabels = (),
    all_instances: AllInstances = False,
    dry_run: Annotated[
        bool,
        Parameter(help="Say what would be done, and do nothing.", negative="", show_default=False),
    ] = False,
    close_unique: Annotated[
        bool,
        Parameter(
            help="Where a session's id isn't known and a single one matches, close that.",
            negative="",
            show_default=False,
        ),
    ] = False,
    options: Options = DEFAULTS,
) -> int:
    """Close the sessions that dead processes left open, by the ledger.

    It is about the instance that the credentials name. What a living process owns stays open, and what drains. Sessions of
    `qsessions create` belong to nobody, and are closed only when they are named. The exit code is 0 when nothing is left undecided.

    Example: qsessions reap --dry-run
    """
    from qsessions.cli import commands
    from qsessions.cli.ledger import reap_sessions

    body = reap_sessions(
        options,
        records,
        label,
        all_instances=all_instances,
        dry_run=dry_run,
        close_unique=close_unique,
    )
    return commands.run("reap", body)


@app.command
def forget(
    *records: Annotated[
        str, Parameter(help="Session ids, or what `qsessions ledger` shows where there is none.")
    ],
    undecided: Annotated[
        bool,
        Parameter(
            help="All that `qsessions reap` can't decide about, after showing them and asking.",
            negative="",
            show_default=False,
        ),
    ] = False,
    older_than: Annotated[
        str | None, Parameter(help="With --undecided: only those of so long ago, such as 7d.")
    ] = None,
    yes: Annotated[bool, Parameter(help="Don't ask.", negative="", show_default=False)] = False,
    options: Options = DEFAULTS,
) -> int:
    """Take records of dead processes out of the ledger unseen; their sessions stay as they are.

    It is for what `qsessions reap` can't decide any more, such as sessions of an instance that is gone. By name it needs no credentials.

    Example: qsessions forget --undecided --older-than 7d
    """
    from qsessions.cli.ledger import forget_records

    return forget_records(options, records, undecided=undecided, older_than=older_than, yes=yes)


@app.command
def close_all(
    *,
    mode: Annotated[
        tuple[Literal["session", "batch"], ...],
        Parameter(help="Which kinds; may be repeated.", negative=""),
    ] = ("session", "batch"),
    backend: Annotated[str | None, Parameter(help="Only those on this backend.")] = None,
    created_before: Annotated[
        str | None,
        Parameter(
            help="Only those created before this time (ISO 8601; local time without an offset)."
        ),
    ] = None,
    all: Annotated[  # noqa: A002 - the option's name
        bool,
        Parameter(
            help="Those too whose owner lives, by the ledger.", negative="", show_default=False
        ),
    ] = False,
    label: OnlyLabels = (),
    drain: Annotated[
        bool,
        Parameter(
            help="Let them finish their jobs, instead of closing them now.",
            negative="",
            show_default=False,
        ),
    ] = False,
    yes: Annotated[bool, Parameter(help="Don't ask.", negative="", show_default=False)] = False,
    options: Options = DEFAULTS,
) -> int:
    """End all open sessions of the instance, whoever created them, after showing them and asking.

    Those that a living process of this user owns, by the ledger, are passed over.

    Example: qsessions close-all --created-before 2026-01-31 --yes
    """
    from qsessions.cli import closing

    return closing.close_all(
        options,
        how="drain" if drain else "close",
        include_owned=all,
        yes=yes,
        mode=mode,
        backend=backend,
        created_before=created_before,
        labels=label,
    )
