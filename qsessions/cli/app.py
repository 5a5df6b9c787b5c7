"""The commands and their options. Each imports what it runs, so that help costs no more than itself."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from qsessions import __version__

app = App(
    name="qsessions",
    help="IBM Quantum sessions from the shell.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
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
    host: Annotated[str, Parameter(help="Where to listen; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 0,
    plan: Annotated[Literal["paid", "open"], Parameter(help="'open' refuses dedicated sessions.")] = "paid",
    partner: Annotated[bool, Parameter(help="Allow interactive_ttl and active_ttl.", negative="")] = False,
    token_seconds: Annotated[int, Parameter(help="How long an access token lives, in seconds.")] = 3600,
    queue_seconds: Annotated[
        float, Parameter(help="How long each job waits in the queue, in seconds.")
    ] = 0.0,
) -> int:
    """Serve the sessions API on this machine until Ctrl-C or SIGTERM.

    Prints the environment variables that lead clients to it, one export a line.
    Example: eval "$(qsessions emulator & echo pid=$!)", and kill $pid at the end.
    """
    from qsessions.cli.emulator import serve
    from qsessions.emulator import Emulator

    try:
        service = Emulator(
            host=host,
            port=port,
            plan=plan,
            partner=partner,
            token_seconds=token_seconds,
            queue_seconds=queue_seconds,
        )
    except ValueError as error:
        print(f"qsessions emulator: {error}\nSee: qsessions emulator --help", file=sys.stderr)
        return 2
    return asyncio.run(serve(service))
