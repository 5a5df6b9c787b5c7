"""`demo`: one session from create to closed, against an emulator."""

from __future__ import annotations

import time
from contextlib import nullcontext

from rich.text import Text

from qsessions import AsyncLiveSession, AsyncSessionClient, IBMCloudAuth, ServiceCRN, Session
from qsessions.cli.terminal import Terminal
from qsessions.emulator import Emulator

_JOBS = 3
_JOB_S = 2.0
# Long enough to see the session open before its first job starts.
_QUEUE_S = 1.0

_STYLES = {"open": "cyan", "active": "bold green", "inactive": "yellow", "closed": "bold magenta"}


async def demo() -> None:
    """Run one session from create to closed against an emulator.

    It takes less than ten seconds, and needs no account and no network.

    Example: qsessions demo
    """
    # Colours and a spinner on a terminal that has them, plain lines elsewhere.
    console = Terminal(soft_wrap=True)
    async with Emulator(queue_seconds=_QUEUE_S) as emulator:
        _print(console, "emulator", f"serves the sessions API at {emulator.url}")
        auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url), ServiceCRN(emulator.crn)]
        async with AsyncSessionClient(
            auth, base_url=emulator.url, application="qsessions-demo"
        ) as client:
            await _show(console, client, emulator)


async def _show(console: Terminal, client: AsyncSessionClient, emulator: Emulator) -> None:
    session = await client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    _print(
        console,
        "create",
        f"session {session.id} on {session.backend_name}, dedicated, max_ttl {session.max_ttl} s",
    )
    for _ in range(_JOBS):
        emulator.submit_job(session.id, seconds=_JOB_S)
    _print(console, "jobs", f"{_JOBS} queued, {_JOB_S:g} s each")
    live = client.attach(session.id)
    with console.status("watching the session") if console.color_system else nullcontext():
        await _watch(console, live)
    closed = await live.refresh()
    usage = f"{closed.elapsed_time:.1f} s, billed while the session had the backend"
    _print(console, "usage", usage)


async def _watch(console: Terminal, live: AsyncLiveSession) -> None:
    started = time.monotonic()
    drained, shown = False, Text()
    async for snapshot in live.watch():
        state = _state(snapshot)
        # Something else than what is shown may have changed.
        if state != shown:
            shown = state
            since = f"{time.monotonic() - started:4.1f} s  "
            _print(console, "state", Text.assemble(since, state))
        if snapshot.state == "active" and not drained:
            drained = True
            await live.drain()
            _print(console, "drain", "no new jobs; it closes when the last one ends")


def _state(snapshot: Session) -> Text:
    state = str(snapshot.state)
    is_draining = snapshot.accepting_jobs is False and not snapshot.is_final
    return Text.assemble((state, _STYLES.get(state, "")), ", draining" * is_draining)


def _print(console: Terminal, what: str, text: str | Text) -> None:
    console.print(Text.assemble((f"{what:<9}", "dim"), text))
