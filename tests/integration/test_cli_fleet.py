"""The commands on a shared ledger, and `reap` in rounds."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from qsessions import (
    AsyncSessionClient,
    ConnectionFailed,
    IBMCloudAuth,
    LedgerUnavailable,
    Liveness,
    ReapDecision,
    Reaped,
    ServiceCRN,
    Verdict,
)
from qsessions.cli import recording, service as cli_service
from qsessions.cli.options import DEFAULTS
from qsessions.cli.output import Output
from qsessions.cli.reap_watch import Rounds
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.given_lease import GivenLease
from tests.support.given_ledger import entry
from tests.support.shell import Shell, error_lines
from tests.support.tables import table
from tests.support.waiting import until

DIES = """
import os
from qsessions import SessionClient
SessionClient(ledger="local").create(mode="batch", max_ttl="10m")
os._exit(9)
"""


@pytest.fixture
async def left(service: Emulator) -> str:
    """Return the id of an open session."""
    auth = [IBMCloudAuth(service.api_key, service.iam_url), ServiceCRN(service.crn)]
    async with AsyncSessionClient(auth, base_url=service.url) as client:
        return (await client.create(mode="batch", max_ttl="10m")).id


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> GivenLease:
    """Return the shared ledger of the commands in this process."""
    ledger = GivenLease()
    monkeypatch.setattr(recording, "chosen_ledger", lambda *_: ledger)
    return ledger


async def test_rounds_until_a_signal(shell: Shell, service: Emulator) -> None:
    """`reap --watch` ends what a process left that dies while it runs, prints a line for it, and
    ends with 0 at SIGTERM.
    """
    process = await shell.start("reap", "--watch", "0.05", "--jsonl")
    assert process.stdout is not None
    assert (await shell.script(f"$PYTHON -c '{DIES}'"))[0] == 9
    row = json.loads(await process.stdout.readline())
    assert (row["verdict"], row["done"]) == ("close", True)
    assert service.open_sessions == []
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


def reaped(session_id: str, verdict: Verdict, *, done: bool = False) -> Reaped:
    """Return what a round did about a session."""
    return Reaped(
        entry=entry(session_id=session_id), decision=ReapDecision(verdict, "because"), done=done
    )


async def test_what_a_round_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is new is printed: what was ended, what can't be decided, of sessions whose ids are
    known and of others, an outage and its end.

    What another reaper has ended meanwhile isn't.
    """
    away = ConnectionFailed("no answer", sent=True)
    undecided = reaped("s-2", Verdict.UNDECIDED)
    lost = reaped("s-5", Verdict.UNDECIDED)
    script: list[Sequence[Reaped] | Exception] = [
        [
            reaped("s-1", Verdict.CLOSE, done=True),
            undecided,
            reaped("s-3", Verdict.LEAVE),
            reaped("s-4", Verdict.MARK_ENDED),
        ],
        [undecided],
        away,
        away,
        [undecided],
    ]
    over = asyncio.Event()

    async def one_round(*, unknown: bool) -> Sequence[Reaped]:
        if unknown:
            return [lost]
        if not script:
            over.set()
            await asyncio.Event().wait()
        result = script.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    rounds = asyncio.create_task(Rounds(one_round, Output(DEFAULTS), 0.001).run())
    await over.wait()
    rounds.cancel()
    out, err = capsys.readouterr()
    printed = [line.split()[1:] for line in out.splitlines()]
    assert printed == [
        ["s-1", "close", "done", "because"],
        ["s-2", "undecided", "not", "done", "because"],
        ["s-5", "undecided", "not", "done", "because"],
    ]
    assert err.count("no answer") == 1
    assert err.endswith("qsessions reap: it works again\n")


@table(
    ("options", "problem"),
    [
        (("--watch", "45s"), "--watch must be shorter than a lease, which is 45 s"),
        (("--watch", "10s", "--json"), "write --jsonl"),
        (("--watch", "none"), "--watch: must be seconds above 0"),
        (("--watch", "10s", "--dry-run"), "neither --dry-run nor records by name"),
        (("--watch", "10s", "some-record"), "neither --dry-run nor records by name"),
    ],
)
async def test_rounds_that_cant_be(
    shell: Shell, shared: GivenLease, options: tuple[str, ...], problem: str
) -> None:
    """Rounds so rare that no lease could be told to be over, or without an end, are wrong use."""
    code, out, err = await shell("reap", *options)
    assert (code, out) == (2, "")
    assert problem in err


async def test_the_doctor_uses_a_shared_ledger(shell: Shell, shared: GivenLease) -> None:
    """It writes a record and ends it, since a ledger that can only be read helps nobody; where that
    fails, it says what to do.
    """
    shell.env["QSESSIONS_LEDGER"] = "postgresql://user:not-to-be-told@host/name"
    shared.given = [entry(session_id="s-1")]
    check = (await shell.lines("doctor"))[-1]
    assert (check["check"], check["status"]) == ("ledger", "ok")
    assert [record.state for record in shared.calls] == ["intent", "ended"]
    assert check["found"].endswith("by QSESSIONS_LEDGER: 1 record")
    shared.record_failure = LedgerUnavailable("no tables.", solution="Make them.")
    code, out, _ = await shell("doctor")
    assert code == 1
    assert "failed   no tables. Make them." in out
    assert "not-to-be-told" not in out


async def test_a_single_reap_watches_leases_first(
    shell: Shell,
    shared: GivenLease,
    service: Emulator,
    left: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without --watch `reap` watches leases that are over for as long as it takes, says so, and
    then ends what is left.
    """
    clock = ManualClock()
    monkeypatch.setattr(cli_service, "CLOCK", clock)
    shared.given = [entry(Liveness.DEAD, session_id=left, base_url=service.url)]
    shared.waits = [105.0, 95.0, 4.0]
    code, out, err = await shell("reap", "--jsonl")
    assert (code, json.loads(out)["done"]) == (0, True)
    assert "watched for 105 s" in err
    assert clock.slept == [10.0, 10.0, 4.0]
    assert service.open_sessions == []


async def test_a_dry_run_takes_nothing_over(shell: Shell, shared: GivenLease) -> None:
    """`reap --dry-run` looks at no lease, since a look may take over."""
    assert (await shell("reap", "--dry-run"))[0] == 0
    assert shared.looks == 0


async def test_what_reap_says_of_nothing(shell: Shell, shared: GivenLease) -> None:
    """Where no owner is gone, `reap` says since when one may be, and not that nothing is open."""
    shared.given = [entry(Liveness.ALIVE, session_id="s-1")]
    for label in ((), ("--label", "run=42")):
        code, out, err = await shell("reap", *label)
        assert (code, out) == (0, "")
        assert f"is recorded{' with run=42' if label else ''}. One that was killed" in err
        assert "holds its lease for 45 s" in err


async def test_close_ends_what_the_dead_have_recorded(
    shell: Shell, shared: GivenLease, left: str
) -> None:
    """`close` reads the records of dead owners alone, of a ledger that may have a hundred thousand,
    and ends that of the session.
    """
    shared.given = [entry(Liveness.DEAD, session_id=left)]
    assert (await shell("close", left))[0] == 0
    assert [(each.session_id, each.state) for each in shared.amended] == [(left, "ended")]


async def test_create_records_for_nobody(shell: Shell, shared: GivenLease) -> None:
    """What `create` makes outlives it in a shared ledger too."""
    assert (await shell("create", "--mode", "batch", "--max-ttl", "10m"))[0] == 0
    assert [each.detached for each in shared.kept.values()] == [True]
    assert shared.closed


def ledger_threads() -> set[threading.Thread]:
    """Return the threads of ledgers; those of other tests may be among them."""
    return {one for one in threading.enumerate() if one.name == "qsessions-ledger"}


async def test_init_without_a_database(shell: Shell, tmp_path: Path) -> None:
    """`ledger init` says what it is for where the ledger is local, and what is wrong where the
    database isn't there, without its password.
    """
    code, out, err = await shell("ledger", "init")
    before = ledger_threads()
    assert (code, out) == (2, "")
    assert "QSESSIONS_LEDGER" in err
    url = "postgresql://q:pass-of-the-test@127.0.0.1:1/q?connect_timeout=5"
    for command in (("ledger", "init"), ("ledger",), ("reap",)):
        code, out, err = await shell(*command, env=shell.env | {"QSESSIONS_LEDGER": url})
        assert (code != 0, out) == (True, "")
        assert "the ledger's database can't be used" in err
        assert "pass-of-the-test" not in err
    # Nothing goes on trying to reach it.
    await until(lambda: ledger_threads() <= before)


async def test_a_wrong_ledger(shell: Shell) -> None:
    """A wrong QSESSIONS_LEDGER is told by its name before anything is sent."""
    code, _, err = await shell("reap", env=shell.env | {"QSESSIONS_LEDGER": "mysql://db"})
    assert code == 2
    assert 'QSESSIONS_LEDGER must be "local" or the URL' in err
    assert error_lines(err)[1] == "Correct or unset QSESSIONS_LEDGER."
    assert "mysql" not in err
