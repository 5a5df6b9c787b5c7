"""`qsessions wait`, `ledger`, `reap`, `forget`, `close-all`, against an emulator and a ledger on the
disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    AsyncSessionClient,
    CreateSession,
    IBMCloudAuth,
    LedgerRecord,
    LocalLedger,
    RecordState,
    ServiceCRN,
    SessionClosed,
    SessionDraining,
)
from qsessions.api.operations import YOUNG_S
from qsessions.cli import progress
from qsessions.cli.recording import ClosedSessions
from qsessions.emulator import Emulator, Fault
from qsessions.ledger.files import OwnFile
from tests.support.calls import SESSION, fault
from tests.support.clients import CRN
from tests.support.fault_server import FaultServer, http
from tests.support.shell import (
    GRANT,
    QSESSIONS,
    Shell,
    draw_short_waits,
    error_lines,
    outcome,
    read_all,
    shell_of,
    terminal,
)
from tests.support.tables import table
from tests.support.waiting import until

CREATE = ("create", "--mode", "batch", "--max-ttl", "10m")


@pytest.fixture
async def client(service: Emulator) -> AsyncIterator[AsyncSessionClient]:
    """Yield a client of the emulator."""
    auth = [IBMCloudAuth(service.api_key, service.iam_url), ServiceCRN(service.crn)]
    async with AsyncSessionClient(auth, base_url=service.url) as client:
        yield client


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[LocalLedger]:
    """Yield the ledger that the commands use, in which the test itself is a living owner."""
    ledger = LocalLedger(place(tmp_path))
    yield ledger
    await ledger.aclose()


def place(home: Path) -> Path:
    """Return the directory below a home folder in which the ledger has the sessions of emulators."""
    return real_place(home).with_name("ledger-emulated")


def real_place(home: Path) -> Path:
    """Return the directory in which it has the service's."""
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "qsessions" / "ledger"
    return home / ".local" / "state" / "qsessions" / "ledger"


def break_ledger(home: Path) -> None:
    """Put a file where the ledger's directory should be."""
    place(home).parent.mkdir(parents=True)
    place(home).write_text("a file")


def record(service: Emulator, **fields: Any) -> dict[str, Any]:
    """Return the fields of a record of a session of the emulator."""
    about: dict[str, Any] = {
        "key": f"key-{fields.get('session_id')}", "base_url": service.url, "instance": service.crn, "mode": "batch",
        "asked_at": service.now(), "changed_at": fields.get("asked_at", service.now()),
        "state": "created" if "session_id" in fields else "intent",
    }  # fmt: skip
    return about | fields


async def left_by_the_dead(
    home: Path, *records: dict[str, Any], directory: Path | None = None
) -> None:
    """Record something as a process that has died since, by default in the emulators' directory."""
    by_key = {fields["key"]: LedgerRecord(**fields) for fields in records}

    def die() -> None:
        # The end of a process does no more to its file than that.
        OwnFile(directory or place(home), time.time(), by_key)._release()

    await asyncio.to_thread(die)


def still_open(service: Emulator) -> list[str]:
    """Return the ids of the sessions that are open."""
    return [session.id for session in service.open_sessions]


@pytest.mark.smoke
async def test_wait(shell: Shell, service: Emulator, client: AsyncSessionClient) -> None:
    """wait ends with the session once it is in one of the states."""
    session_id = (await client.create(mode="dedicated", backend="ibm_fez", max_ttl="1h")).id
    assert (await shell.data("wait", session_id, "--for", "open"))["state"] == "open"
    waiting = asyncio.ensure_future(
        shell("wait", session_id, "--for", "active", "--for", "closed", "--timeout", "1m")
    )
    before = len(service.requests)
    await until(lambda: len(service.requests) > before)
    service.submit_job(session_id, seconds=3600)
    code, out, err = await waiting
    assert (code, err) == (0, "")
    assert re.search(r"^state +active$", out, re.MULTILINE)


async def test_wait_bears_an_outage(tmp_path: Path) -> None:
    """Without --timeout a wait says once that the session can't be read, and once that it can be
    again.
    """
    down = [http(503, fault("Down."))] * 5
    async with FaultServer(GRANT, *down, http(200, SESSION | {"state": "closed"})) as server:
        draw_short_waits()
        code, out, err = await shell_of(server, tmp_path)("wait", "s1", "--for", "closed")
    assert (code, "closed" in out) == (0, True)
    began, over = err.splitlines()
    assert began == ("qsessions: session 's1' can't be read, and the wait goes on: Down.")
    assert re.fullmatch(r"qsessions: session 's1' can be read again after \d s\.", over)


async def test_waits_in_vain(shell: Shell, client: AsyncSessionClient) -> None:
    """A wait that is too long ends with 4, one for a state that can't come any more with 1, and one
    for nothing with 2.
    """
    session_id = (await client.create(mode="batch", max_ttl="1h")).id
    code, out, err = await shell("wait", session_id, "--for", "active", "--timeout", "1")
    assert (code, out) == (4, "")
    assert "last seen open" in error_lines(err)[0]
    await client.close(session_id)
    code, _, err = await shell("wait", session_id, "--for", "active")
    assert code == 1
    assert "can't become active any more" in error_lines(err)[0]
    for wrong in ((), ("--for", "done"), ("--for", "open", "--timeout", "soon")):
        code, _, err = await shell("wait", session_id, *wrong)
        assert code == 2
        assert error_lines(err)
    assert (await shell("wait", "s-none", "--for", "open"))[0] == 1


@pytest.mark.smoke
async def test_create_belongs_to_nobody(shell: Shell, service: Emulator) -> None:
    """A session of create is recorded as detached and reaped only when it is named; close takes it
    off the ledger.
    """
    code, out, err = await outcome(await shell.start(*CREATE, "--json"))
    assert (code, err) == (0, "")
    first = json.loads(out)["id"]
    dedicated = ("create", "--mode", "dedicated", "--backend", "ibm_fez", "--max-ttl", "10m")
    second = (await shell.data(*dedicated))["id"]
    one, other = (await shell.data("ledger"))["ledger"]
    assert [one["record"], other["record"]] == [first, second]
    assert (one["owner"], one["detached"], one["recorded_state"], one["live_state"]) == (
        "dead", True, "created", "open",
    )  # fmt: skip
    assert (other["mode"], other["backend"], other["max_ttl"]) == ("dedicated", "ibm_fez", 600)
    assert (other["base_url"], other["instance"]) == (service.url, service.crn)
    assert 0 < other["age_seconds"] < 60
    assert [row["verdict"] for row in (await shell.data("reap"))["records"]] == ["leave", "leave"]
    assert still_open(service) == [first, second]
    await shell.data("close", second)
    assert [row["record"] for row in await shell.lines("ledger")] == [first]
    (reaped,) = (await shell.data("reap", first))["records"]
    assert (reaped["record"], reaped["verdict"], reaped["done"]) == (first, "close", True)
    assert still_open(service) == []
    assert await shell.lines("ledger") == []


async def test_a_create_that_came_to_nothing(shell: Shell, service: Emulator) -> None:
    """What was refused, and what was wrong use, is not on the ledger."""
    service.faults.add(Fault(kind="answer", status=403, operations=["create"]))
    assert (await shell(*CREATE))[0] == 1
    assert (await shell("create", "--mode", "batch", "--max-ttl", "soon"))[0] == 2
    assert await shell.lines("ledger") == []


async def test_the_ledger_as_text(
    shell: Shell, service: Emulator, client: AsyncSessionClient, ledger: LocalLedger
) -> None:
    """Without JSON it is a table; a living owner is shown with its process, and what can't be read
    as such.
    """
    session_id = (await client.create(mode="batch", max_ttl="1h")).id
    await ledger.record(LedgerRecord(**record(service, session_id=session_id)))
    code, out, err = await shell("ledger")
    assert (code, err) == (0, "")
    header, line = out.splitlines()
    assert header.split()[:5] == ["record", "live_state", "owner", "age_seconds", "why"]
    assert line.split()[:2] == [session_id, "open"]
    assert f"its process is alive ({os.getpid()} on " in line
    assert str(os.getpid()) in line.split()


async def test_what_emulators_left_is_no_matter_of_the_services(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """Commands look at what is recorded of an emulator with its credentials only, and at nothing
    else then; forget and close at both.
    """
    session_id = (await client.create(mode="batch", max_ttl="1h")).id
    await left_by_the_dead(tmp_path, record(service, session_id=session_id))
    real = service.crn.replace("emulated", "0")
    await left_by_the_dead(
        tmp_path,
        *(record(service, session_id=f"s-{number}", instance=real) for number in range(2)),
        directory=real_place(tmp_path),
    )
    theirs = Shell(shell.env | {"QISKIT_IBM_INSTANCE": real}, tmp_path)
    assert [row["record"] for row in await shell.lines("ledger")] == [session_id]
    assert (await listed(theirs)).keys() == {"s-0", "s-1"}
    (reaped,) = await shell.lines("reap", "--dry-run")
    assert (reaped["record"], reaped["verdict"]) == (session_id, "close")
    (gone,) = await theirs.lines("forget", "s-0")
    assert gone["done"]
    left = await client.create(mode="batch", max_ttl="1h")
    await left_by_the_dead(
        tmp_path, record(service, session_id=left.id, instance=real), directory=real_place(tmp_path)
    )
    for one in (session_id, left.id):
        await shell.data("close", one)
    assert await shell.lines("ledger") == []
    assert (await listed(theirs)).keys() == {"s-1"}


async def listed(shell: Shell) -> dict[str, dict[str, Any]]:
    """List the ledger where no state can be read, which is an error; return the rows by their
    records.
    """
    code, out, err = await shell("ledger", "--jsonl")
    what, advice = error_lines(err)
    assert code == 1
    assert "could not be read" in what
    assert "qsessions doctor" in advice
    return {row["record"]: row for row in map(json.loads, out.splitlines())}


async def test_states_that_cannot_be_read(
    shell: Shell, service: Emulator, client: AsyncSessionClient, ledger: LocalLedger
) -> None:
    """Each record that has no live state says why; nothing is asked of another instance."""
    session_id = (await client.create(mode="batch", max_ttl="1h")).id
    for fields in (
        {"key": "intent"},
        {"session_id": "s-gone"},
        {"session_id": "s-other", "instance": "crn:other"},
        {"session_id": session_id},
        {"session_id": "s-future", "instance": "crn:other", "asked_at": 9e11},
    ):
        await ledger.record(LedgerRecord(**record(service, **fields)))
    assert "s-other" not in {row["record"] for row in await shell.lines("ledger")}
    rows = {row["record"]: row for row in await shell.lines("ledger", "--all-instances")}
    assert rows["intent"]["unread"] == "its id is unknown"
    assert rows["s-gone"]["unread"] == "the service has no such session"
    assert rows["s-other"]["unread"] == "belongs to another instance than these credentials"
    assert rows["s-future"]["asked_at"] is None
    assert (rows[session_id]["unread"], rows[session_id]["live_state"]) == (None, "open")
    service.faults.add(Fault(kind="answer", status=403, operations=["get"]))
    rows = await listed(shell)
    assert "403" in rows[session_id]["unread"]
    assert rows[session_id]["live_state"] is None
    assert not any("s-other" in request.path for request in service.requests)


async def test_the_ledger_without_credentials(
    shell: Shell, service: Emulator, tmp_path: Path
) -> None:
    """What is recorded of the service is listed all the same, and why there are no live states is
    said.
    """
    del shell.env["QISKIT_IBM_TOKEN"]
    assert await shell("ledger", "--jsonl") == (0, "", "")
    ledger = LocalLedger(real_place(tmp_path))
    await ledger.record(LedgerRecord(**record(service, session_id="s-1")))
    code, out, err = await shell("ledger", "--jsonl")
    assert code == 0
    assert '"unread": "the service was not asked"' in out
    assert "live states are not shown" in error_lines(err)[0]
    assert "QISKIT_IBM_TOKEN" in err
    await ledger.aclose()


@table("option", ["--account", "--account-file"])
async def test_a_named_account_that_is_not_there(
    shell: Shell, service: Emulator, tmp_path: Path, *, option: str
) -> None:
    """An account that is named is wrong use where there is none, whether or not anything is
    recorded.
    """
    # The key of an account goes to no emulator.
    shell.env |= {"IAM_URL": "", "QSESSIONS_BASE_URL": ""}
    for entries in range(2):
        code, out, err = await shell("ledger", option, "typo")
        assert (code, out) == (2, ""), entries
        assert "no usable credentials" in error_lines(err)[0]
        ledger = LocalLedger(real_place(tmp_path))
        await ledger.record(LedgerRecord(**record(service, session_id="s-1")))
        await ledger.aclose()


async def test_reap_lists_what_it_cannot_decide(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """What is undecided is listed with its reason, and ends it with 1; a dry run does nothing; a
    unique candidate is closed if that is asked for.
    """
    session_id = (await client.create(mode="batch", max_ttl="1h")).id
    await left_by_the_dead(
        tmp_path,
        record(service, key="intent", changed_at=service.now() + 1),
        record(service, session_id="s-other", instance="crn:other"),
        record(service, session_id="s-gone", asked_at=service.now() - YOUNG_S),
    )
    for options in (("--dry-run",), ()):
        code, out, err = await shell("reap", *options)
        assert code == 1
        assert error_lines(err)[0] == (
            "qsessions reap: of 2 records, 1 is undecided, and 0 could not be read, closed or recorded."
        )
        assert error_lines(err)[1].endswith(
            f"session {session_id}; look whose it is, and to end it: qsessions close {session_id}"
        )
        assert re.search(
            rf"^intent +undecided +no +- +one session matches; pass --close-unique to close it +{session_id}$",
            out,
            re.MULTILINE,
        )
        assert "s-other" not in out
        assert ("mark ended  no" in out) is bool(options)
    assert still_open(service) == [session_id]
    rows = await shell.lines("reap", "intent", "--close-unique")
    assert [(row["record"], row["session_id"], row["done"], row["candidates"]) for row in rows] == [
        ("intent", session_id, True, [session_id])
    ]
    assert still_open(service) == []


async def test_what_is_not_found_for_another_reason_is_kept(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """Neither a 404 about the instance nor one about a session of just now ends a record: both are
    reported, and the exit code is 1.
    """
    old, new = [(await client.create(mode="batch", max_ttl="1h")).id for _ in range(2)]
    await left_by_the_dead(
        tmp_path,
        record(service, session_id=old, asked_at=service.now() - YOUNG_S),
        record(service, session_id=f"{new}-lost"),
    )
    no_instance = Fault(
        kind="answer", status=404, body=fault("Instance not found.", code=1279), operations=["get"]
    )
    service.faults.add(no_instance)
    assert "Instance not found" in (await listed(shell))[old]["unread"]
    code, out, err = await shell("reap")
    assert code == 1
    assert (
        "of 2 records, 2 are undecided, and 2 could not be read, closed or recorded"
        in error_lines(err)[0]
    )
    assert "1279" in out
    service.faults.clear()
    code, out, err = await shell("reap")
    assert code == 1
    assert "of 2 records, 1 is undecided, and 0 could not be read" in error_lines(err)[0]
    assert re.search(rf"^{new}-lost +undecided +no +.*created moments ago", out, re.MULTILINE)
    assert still_open(service) == [new]


async def test_reap_ends_a_drain_that_is_not_carried_out(service: Emulator, tmp_path: Path) -> None:
    """What one run saw of a session that drains for ever is kept for the next one, which closes it
    five minutes later.
    """
    stuck, no_jobs = http(200, SESSION | {"accepting_jobs": False}), http(200, {"jobs": []})
    async with FaultServer(GRANT, stuck, no_jobs, GRANT, stuck, no_jobs, http(204)) as server:
        left = record(service, session_id="s1", base_url=server.url, instance=CRN)
        await left_by_the_dead(tmp_path, left, directory=real_place(tmp_path))
        (row,) = await shell_of(server, tmp_path).lines("reap")
        assert (row["verdict"], row["done"]) == ("leave", False)
        assert "if that is still so in 5 minutes" in row["why"]
        async with aclosing(LocalLedger(real_place(tmp_path))) as ledger:
            (entry,) = await ledger.entries()
        assert entry.record.idle_since is not None
        later = tmp_path / "later"
        saw = left | {"idle_since": entry.record.idle_since - 301}
        await left_by_the_dead(later, saw, directory=real_place(later))
        (row,) = await shell_of(server, later).lines("reap")
        assert (row["verdict"], row["done"]) == ("close", True)
        assert server.received[-1].target == "/v1/sessions/s1/close"


@pytest.mark.smoke
async def test_reap_shows_what_a_killed_create_can_have_left(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """A create that was killed before its answer leaves a record without an id: what it can be is
    named, and closed when both is said.
    """
    await left_by_the_dead(tmp_path, record(service, key="lost", detached=True))
    ids = [(await client.create(mode="batch", max_ttl="1h")).id for _ in range(2)]
    code, out, err = await shell("reap", "--close-unique")
    assert (code, still_open(service)) == (1, ids)
    assert "of 1 record, 1 is undecided" in error_lines(err)[0]
    assert re.search(r"^lost +undecided +no +- +2 sessions match;", out, re.MULTILINE)
    for session_id in ids:
        assert session_id in error_lines(err)[1]
        assert session_id in out
    await client.close(ids[0])
    assert (await shell("reap", "--close-unique"))[0] == 1
    (reaped,) = await shell.lines("reap", "lost", "--close-unique")
    assert (reaped["session_id"], reaped["done"]) == (ids[1], True)
    assert still_open(service) == []


async def test_nothing_to_show(shell: Shell) -> None:
    """A list of nothing is no bare header: a line on standard error says so, on a terminal too, and
    JSON has an empty list. An empty ledger doesn't say that nothing costs, so it says where to look.
    """
    recorded = (
        "no open sessions are recorded. "
        "Those of programs without a ledger: qsessions workloads --status open"
    )
    for arguments, what in (
        (("ledger",), recorded),
        (("reap",), recorded),
        (("workloads", "--status", "open"), "no session or batch fits."),
        (("close-all", "--yes"), "no open session fits."),
    ):
        message = f"qsessions {arguments[0]}: {what}\n"
        assert await shell(*arguments) == (0, "", message)
        assert await shell.on_terminal(*arguments) == (0, message)
        assert await shell.lines(*arguments) == []


async def test_reap_goes_on_when_one_fails(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """A session that can't be closed is reported with its error and the code that fits; the others are
    closed.
    """
    ids = [(await client.create(mode="batch", max_ttl="1h")).id for _ in range(2)]
    await left_by_the_dead(
        tmp_path, *(record(service, session_id=session_id) for session_id in ids)
    )
    service.faults.add(Fault(kind="answer", status=403, operations=["close"], times=1))
    code, out, err = await shell("reap", "--jsonl")
    assert code == 1
    assert "1 could not be read, closed or recorded" in error_lines(err)[0]
    assert len(out.splitlines()) == 2
    (left,) = still_open(service)
    assert [row["record"] for row in await shell.lines("reap")] == [left]
    assert still_open(service) == []


async def test_reap_without_an_answer(shell: Shell, service: Emulator, tmp_path: Path) -> None:
    """A service that can't be reached leaves everything undecided: 3."""
    await left_by_the_dead(tmp_path, record(service, session_id="s-1"))
    service.faults.add(Fault(kind="reset"))
    draw_short_waits()
    code, out, err = await shell("reap")
    assert code == 3
    assert "its state can't be read" in out
    assert "of 1 record, 1 is undecided" in error_lines(err)[0]


async def test_wrong_use(shell: Shell, service: Emulator) -> None:
    """A record that isn't there or isn't named, and what can't be right, is reported with exit code
    2, and nothing is sent.
    """
    for arguments, problem in (
        (("reap", "s-none"), "no open record of 's-none'"),
        (("reap", "--json", "--jsonl"), "exclude each other"),
        (("reap", "--timeout", "0"), "--timeout"),
        (("forget",), "records to forget must be named"),
        (("forget", "s-none"), "no open record of 's-none'"),
        (("close-all", "--yes", "--mode", "job"), "--mode"),
        (("close-all", "--yes", "--created-before", "yesterday"), "--created-before"),
    ):
        code, out, err = await shell(*arguments)
        assert (code, out) == (2, ""), arguments
        assert problem in error_lines(err)[0], arguments
    assert service.requests == []


async def test_forget(shell: Shell, service: Emulator, ledger: LocalLedger, tmp_path: Path) -> None:
    """Named records of dead owners go, unseen and without credentials; a living owner's stays, and
    that ends it with 1.
    """
    await left_by_the_dead(
        tmp_path,
        record(service, session_id="s-other", base_url="https://gone.example/api"),
        record(service, key="intent"),
        record(service, session_id="s-kept"),
    )
    await ledger.record(LedgerRecord(**record(service, session_id="s-alive")))
    alone = Shell({}, tmp_path)
    (gone,) = await alone.lines("forget", "s-other")
    assert (gone["record"], gone["verdict"], gone["done"]) == ("s-other", "mark ended", True)
    code, out, err = await alone("forget", "intent", "s-alive")
    assert (code, error_lines(err)[0]) == (1, "qsessions forget: of 2 records, 1 is kept.")
    assert re.search(r"^s-alive +leave +no +- +its process is alive", out, re.MULTILINE)
    assert service.requests == []
    rows = await shell.lines("ledger")
    assert sorted(row["record"] for row in rows) == ["s-alive", "s-kept"]


async def test_a_ledger_that_cannot_be_read(shell: Shell, tmp_path: Path) -> None:
    """It is reported in two lines: 1."""
    await asyncio.to_thread(break_ledger, tmp_path)
    for command in (("ledger",), ("reap",), ("forget", "s1")):
        code, _, err = await shell(*command)
        assert code == 1
        assert "can't be used" in error_lines(err)[0]
    code, _, err = await shell("close-all", "--yes")
    assert (code, error_lines(err)[1]) == (
        1,
        "To end the sessions whatever the ledger says, add --all.",
    )


async def test_a_damaged_file_is_named(shell: Shell, service: Emulator, tmp_path: Path) -> None:
    """What can't be read in the ledger is reported on standard error, once, and the rest goes on."""
    await left_by_the_dead(
        tmp_path, record(service, session_id="s-1", asked_at=service.now() - YOUNG_S)
    )

    def damage() -> Path:
        (path,) = place(tmp_path).iterdir()
        with path.open("ab") as file:
            file.write(b"no JSON\n")
        return path

    path = await asyncio.to_thread(damage)
    for command in (("ledger", "--all"), ("reap", "--dry-run")):
        code, out, err = await shell(*command)
        assert code == 0
        assert "s-1" in out
        assert err.count(f"{path} can't be read wholly") == 1


@pytest.fixture
async def made(client: AsyncSessionClient) -> list[str]:
    """Return the ids of a dedicated session and of two batches."""
    wanted = [CreateSession("dedicated", backend="ibm_fez", max_ttl=600)]
    wanted += [CreateSession("batch", backend="ibm_torino", max_ttl=600)] * 2
    return [(await client.create(request)).id for request in wanted]


@pytest.mark.smoke
async def test_close_all(shell: Shell, service: Emulator, made: list[str]) -> None:
    """With --yes all that fit are ended and listed, without a ledger; and again there is nothing to
    end.
    """
    service.submit_job(made[1], seconds=3600)
    (drained,) = await shell.lines("close-all", "--yes", "--mode", "session", "--drain")
    assert (drained["id"], drained["done"], drained["mode"]) == (made[0], "drain", "session")
    endings = (await shell.data("close-all", "--yes", "--backend", "ibm_torino"))["sessions"]
    assert [(one["id"], one["done"], one["owner"], one["error"]) for one in endings] == [
        (session_id, "close", None, None) for session_id in made[1:]
    ]
    assert still_open(service) == []
    assert (await shell.data("close-all", "--yes"))["sessions"] == []


async def test_close_all_shows_the_time_that_it_goes_by(
    shell: Shell, service: Emulator, made: list[str]
) -> None:
    """A time without an offset is local time, and is shown in UTC before anything is ended."""
    shell.env["TZ"] = "EST5"
    now = datetime.fromtimestamp(service.now(), timezone(timedelta(hours=-5))).replace(tzinfo=None)
    for which, hours, ended in (("before", -1, 0), ("after", 1, 0), ("before", 1, 3)):
        moment = now + timedelta(hours=hours)
        code, out, err = await shell(
            "close-all",
            "--yes",
            "--jsonl",
            f"--created-{which}",
            moment.isoformat(timespec="seconds"),
        )
        assert (code, len(out.splitlines())) == (0, ended)
        shown = (moment + timedelta(hours=5)).isoformat(timespec="seconds")
        assert f"qsessions close-all: sessions created {which} {shown}Z\n" in err
    assert still_open(service) == []


async def test_close_all_passes_over_what_is_owned(
    shell: Shell, service: Emulator, made: list[str], ledger: LocalLedger
) -> None:
    """A living owner's session is left and shown with its owner, unless all are to end."""
    await ledger.record(LedgerRecord(**record(service, session_id=made[0])))
    endings = await shell.lines("close-all", "--yes")
    assert [one["done"] for one in endings] == [None, "close", "close"]
    assert (endings[0]["owner"], endings[0]["owner_pid"]) == ("alive", os.getpid())
    assert still_open(service) == made[:1]
    assert [one["done"] for one in await shell.lines("close-all", "--yes", "--all")] == ["close"]


async def test_what_close_all_closed_is_no_longer_recorded(
    shell: Shell, service: Emulator, made: list[str], ledger: LocalLedger, tmp_path: Path
) -> None:
    """The records of dead owners whose sessions were closed are put to ended; those of sessions
    that drain stay until they are over.
    """
    await left_by_the_dead(tmp_path, *(record(service, session_id=one) for one in made))
    assert len(await shell.lines("close-all", "--yes", "--mode", "session", "--drain")) == 1
    assert len(await ledger.entries()) == len(made)
    endings = await shell.lines("close-all", "--yes", "--all")
    closed = {one["id"] for one in endings}
    assert {one.record.session_id for one in await ledger.entries()} == set(made) - closed


async def test_close_all_goes_on_when_one_fails(
    shell: Shell, service: Emulator, made: list[str]
) -> None:
    """A session that can't be ended is reported, and the others are ended."""
    service.faults.add(Fault(kind="answer", status=403, operations=["close"], times=1))
    code, out, err = await shell("close-all", "--yes", "--jsonl")
    assert code == 1
    assert error_lines(err)[0] == "qsessions close-all: 1 of 3 sessions could not be ended."
    assert out.count('"error": null') == 2
    assert len(still_open(service)) == 1


async def test_close_all_can_be_tried(
    shell: Shell, service: Emulator, made: list[str], ledger: LocalLedger
) -> None:
    """With --dry-run it lists what would be ended and what is left to its owner, without a question
    and without a terminal, and ends nothing, also with --yes.
    """
    await ledger.record(LedgerRecord(**record(service, session_id=made[0])))
    for more in ((), ("--yes",)):
        shown = await shell.lines("close-all", "--dry-run", *more)
        assert [(one["id"], one["done"], one["owner"]) for one in shown] == [
            (made[0], None, "alive"),
            (made[1], None, None),
            (made[2], None, None),
        ]
    code, out, err = await shell("close-all", "--dry-run", "--mode", "batch")
    assert (code, len(out.splitlines())) == (0, 3)
    assert err == "qsessions close-all: 2 sessions would be ended; none was.\n"
    assert still_open(service) == made


async def test_close_all_without_a_terminal(
    shell: Shell, service: Emulator, made: list[str]
) -> None:
    """Where nobody can be asked, nothing is ended without --yes, and nothing is sent."""
    before = len(service.requests)
    code, out, err = await shell("close-all")
    assert (code, out) == (2, "")
    assert "there is no terminal" in error_lines(err)[0]
    assert "--yes" in error_lines(err)[1]
    assert (await shell.script('exec "$QSESSIONS" close-all <&-'))[0] == 2
    assert still_open(service) == made
    assert len(service.requests) == before


async def asked(shell: Shell, answer: bytes, *arguments: str) -> tuple[int, str, str]:
    """Run a command at a terminal, and answer once it asks; return the exit code, standard output
    and what the terminal showed.
    """
    outer, inner = pty.openpty()
    running = asyncio.ensure_future(shell(*arguments, stdin=inner, stderr=inner))
    # A command that ends without a question leaves nothing to read.
    running.add_done_callback(lambda _: os.close(inner))
    shown = await read_question(outer)
    await asyncio.to_thread(os.write, outer, answer)
    code, out, _ = await running
    return code, out, shown + await asyncio.to_thread(read_all, outer)


async def read_question(terminal: int) -> str:
    """Read from a terminal up to a question."""
    shown = ""
    while "[y/N]" not in shown:
        shown += (await asyncio.to_thread(os.read, terminal, 4096)).decode()
    return shown.replace("\r\n", "\n")


@pytest.mark.parametrize("answer", [b"y\n", b"YES\n"])
async def test_close_all_asks(
    shell: Shell, service: Emulator, made: list[str], ledger: LocalLedger, answer: bytes
) -> None:
    """At a terminal it shows what it would end and what it passes over, and ends exactly that once
    somebody says yes.
    """
    await ledger.record(LedgerRecord(**record(service, session_id=made[0])))
    code, out, shown = await asked(shell, answer, "close-all", "--jsonl")
    assert code == 0
    header, first, second, third, question = shown.splitlines()[:5]
    assert header.split() == ["id", "mode", "created", "backend"]
    assert re.match(rf"{made[0]}  session  \d{{4}}-\S+  ibm_fez  ", first)
    assert first.endswith(f"left to process {os.getpid()} on {os.uname().nodename}")
    assert [second.split()[0], third.split()[0]] == made[1:]
    assert len(second) == len(third) <= 80
    assert question.startswith("Close these 2 sessions? Queued jobs never run. [y/N] ")
    assert len(out.splitlines()) == 3
    assert still_open(service) == made[:1]


async def test_close_all_takes_no_for_an_answer(
    shell: Shell, service: Emulator, made: list[str]
) -> None:
    """Anything but yes, and the end of input, end nothing."""
    for answer in (b"n\n", b"\n", b"\x04", b"yesterday\n"):
        code, out, shown = await asked(shell, answer, "close-all", "--mode", "session", "--drain")
        assert (code, out) == (1, ""), answer
        assert "Drain this session? Queued jobs finish. [y/N] " in shown
        assert "nothing was ended" in shown
        assert still_open(service) == made


async def test_ctrl_c_at_the_question(shell: Shell, service: Emulator, made: list[str]) -> None:
    """Ctrl-C in place of an answer ends nothing, and says nothing: 130."""
    outer, inner = pty.openpty()
    process = await shell.start("close-all", stdin=inner, stderr=inner)
    os.close(inner)
    await read_question(outer)
    process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(read_all, outer) == ""
    assert (await outcome(process))[:2] == (130, "")
    assert still_open(service) == made


async def test_close_all_ends_only_what_it_showed(tmp_path: Path) -> None:
    """What was shown is ended, without another look at what is open by now; what the service says
    can't command the terminal.
    """
    listed = {
        "id": "s-1",
        "mode": "batch",
        "status": "pending",
        "backend": "\x1b[31mred",
        "created": "2026-01-01T00:00:00Z",
    }
    empty = http(200, {"workloads": [], "next": None})
    server = FaultServer(
        GRANT, empty, http(200, {"workloads": [listed], "next": None}), GRANT, http(204)
    )
    async with server:
        code, _, shown = await asked(shell_of(server, tmp_path), b"y\n", "close-all", "--jsonl")
        assert server.count("GET") == 2
        assert server.count("DELETE") == 1
    assert "\x1b" not in shown
    assert code == 0


async def test_nothing_to_close_is_not_asked(shell: Shell) -> None:
    """Without an open session nobody is asked."""
    async with terminal() as (inner, shown):
        code, out, _ = await shell("close-all", "--json", stdin=inner, stderr=inner)
    assert (code, out, await shown) == (0, '{\n  "sessions": []\n}\n', "")


async def test_a_close_that_cannot_use_the_ledger(
    shell: Shell, service: Emulator, made: list[str], tmp_path: Path
) -> None:
    """A session is closed though the ledger can't be read."""
    await asyncio.to_thread(break_ledger, tmp_path)
    await shell.data("close", made[0])
    assert still_open(service) == made[1:]


async def test_another_owners_record_stays(
    shell: Shell, service: Emulator, made: list[str], ledger: LocalLedger
) -> None:
    """close leaves a living owner's record to its owner."""
    await ledger.record(LedgerRecord(**record(service, session_id=made[0])))
    await shell.data("close", made[0])
    (entry,) = await ledger.entries()
    assert entry.record.state is RecordState.CREATED


async def test_the_ledger_shows_what_may_be_open(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """What is over by now is listed with --all only; what the service may not know yet may be open."""
    over, still = [(await client.create(mode="batch", max_ttl="1h")).id for _ in range(2)]
    await client.close(over)
    old = {"asked_at": service.now() - YOUNG_S}
    await left_by_the_dead(
        tmp_path,
        record(service, session_id=over),
        record(service, session_id=still),
        record(service, session_id="s-gone", **old),
        record(service, session_id="s-young"),
        record(service, key="lost"),
    )
    listed = [row["record"] for row in await shell.lines("ledger")]
    assert sorted(listed) == sorted([still, "s-young", "lost"])
    rows = {row["record"]: row for row in await shell.lines("ledger", "--all")}
    assert rows.keys() == {over, still, "s-gone", "s-young", "lost"}
    assert rows[over]["live_state"] == "closed"
    assert rows["lost"]["why"].startswith("its id is unknown; its process is gone (")


async def test_labels(shell: Shell, service: Emulator, tmp_path: Path) -> None:
    """A session that was given labels is found by them from another process, and others aren't
    touched.
    """
    first, second = [
        (await shell.data(*CREATE, "--label", "run=7", "--label", f"step={step}"))["id"]
        for step in "ab"
    ]
    other = (await shell.data(*CREATE))["id"]
    (row,) = await shell.lines("ledger", "--label", "step=b")
    assert (row["record"], row["labels"]) == (second, {"run": "7", "step": "b"})
    assert [
        row["record"] for row in await shell.lines("reap", "--label", "run=7", "--dry-run")
    ] == [
        first,
        second,
    ]
    (ended,) = await shell.lines("close-all", "--label", "run=7", "--label", "step=a", "--yes")
    assert (ended["id"], ended["done"]) == (first, "close")
    assert still_open(service) == [second, other]
    for wrong in ("run", "=7", "run="):
        code, _, err = await shell("ledger", "--label", wrong)
        assert (code, "--label must be a name and a value" in err) == (2, True)
    listing = [QSESSIONS, "ledger", "--jsonl", "--label", "run=9"]
    code, out, err = await shell("run", "--mode", "batch", "--label", "run=9", "--", *listing)
    assert (code, json.loads(out)["labels"]) == (0, {"run": "9"})
    code, _, err = await shell("run", "--attach", second, "--label", "run=9", "--", "true")
    assert (code, "--attach takes no options of a new session" in err) == (2, True)


async def test_the_ledger_fits_a_narrow_terminal(
    shell: Shell, service: Emulator, tmp_path: Path
) -> None:
    """At 80 columns ledger and reap show each record on one line: its whole name, the state, the
    owner, the age and, as far as there is room, the reason; -v shows all.
    """
    first = (await shell.data(*CREATE))["id"]
    await left_by_the_dead(
        tmp_path,
        record(service, key="0" * 31 + "1", asked_at=service.now() - 7300),
        record(service, key="0" * 31 + "2", asked_at=service.now() - 80_000),
    )
    code, shown = await shell.on_terminal("ledger", COLUMNS="80", NO_COLOR="1")
    header, _, *lines, _ = shown.splitlines()
    assert (code, header.split()) == (0, ["record", "state", "owner", "age", "why"])
    assert max(map(len, shown.splitlines()[:-1])) == 80
    rows = [line.split(maxsplit=4) for line in lines]
    assert [row[:4] for row in rows] == [
        ["0" * 31 + "2", "-", "dead", "22h"],
        ["0" * 31 + "1", "-", "dead", "2h"],
        [first, "open", "dead", rows[2][3]],
    ]
    assert [row[4][:19] for row in rows] == [*["its id is unknown; "] * 2, "name it to close it"]
    await shell.data("forget", "0" * 31 + "1", "0" * 31 + "2")
    code, shown = await shell.on_terminal("reap", COLUMNS="80", NO_COLOR="1")
    assert re.search(rf"^{first}  leave +no +name it to close it", shown, re.MULTILINE)
    # What is empty needs no room.
    assert "no room for" not in shown
    assert shown.splitlines()[-1] == "cut: why; -v shows all"
    code, shown = await shell.on_terminal("reap", "-v", COLUMNS="80", NO_COLOR="1")
    assert re.search(
        rf"^{first}  leave +no +- +name it to close it: `qsessions create` created it",
        shown,
        re.MULTILINE,
    )
    (reaped,) = await shell.lines("reap", first[:8])
    assert (reaped["record"], reaped["done"]) == (first, True)


async def test_a_name_that_is_cut(shell: Shell, service: Emulator, tmp_path: Path) -> None:
    """Eight characters or more of a record's name do where they fit one only; fewer, or several
    that fit, are refused.
    """
    await left_by_the_dead(
        tmp_path, *(record(service, key=f"twin-key-{number}") for number in range(2))
    )
    code, _, err = await shell("forget", "twin-key")
    assert (code, error_lines(err)[0]) == (
        2,
        "qsessions forget: 2 records begin with 'twin-key'.",
    )
    assert (await shell("forget", "twin"))[0] == 2
    (gone,) = await shell.lines("forget", "twin-key-1")
    assert gone["record"] == "twin-key-1"
    (gone,) = await shell.lines("forget", "twin-key")
    assert gone["record"] == "twin-key-0"


async def test_forgetting_what_is_undecided(
    shell: Shell, service: Emulator, tmp_path: Path
) -> None:
    """All that reap calls undecided goes at once, with --yes or an answer, and only what is old
    enough where that is said.
    """
    session_id = (await shell.data(*CREATE))["id"]
    await left_by_the_dead(
        tmp_path,
        record(service, key="old", asked_at=service.now() - 40_000, mode="dedicated"),
        record(service, key="new", mode="dedicated"),
    )
    code, _, err = await shell("forget", "--undecided")
    assert (code, "there is no terminal to ask at" in error_lines(err)[0]) == (2, True)
    rows = await shell.lines("forget", "--undecided", "--older-than", "11h", "--yes")
    assert [(row["record"], row["done"]) for row in rows] == [("old", True)]
    for answer, left in ((b"n\n", ["new"]), (b"y\n", [])):
        code, _, shown = await asked(shell, answer, "forget", "--undecided")
        assert code == (0 if answer == b"y\n" else 1)
        assert "Forget 1 record? Sessions stay as they are. [y/N]" in shown
        rows = await shell.lines("ledger")
        assert [row["record"] for row in rows if row["record"] != session_id] == left
    assert await shell("forget", "--undecided", "--yes") == (
        0,
        "",
        "qsessions forget: nothing is undecided.\n",
    )
    for wrong in (
        ("--undecided", "--yes", "new"),
        ("--older-than", "7d", "new"),
        ("--undecided", "--yes", "--older-than", "soon"),
    ):
        code, _, err = await shell("forget", *wrong)
        assert (code, bool(error_lines(err))) == (2, True)


async def test_a_bar_on_a_terminal(
    shell: Shell,
    service: Emulator,
    client: AsyncSessionClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where looking up and closing takes long, a bar on standard error shows how far that is, and
    is gone at the end.
    """
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    ids = [(await client.create(mode="batch", max_ttl="1h")).id for _ in range(50)]
    await left_by_the_dead(
        tmp_path, *(record(service, session_id=session_id) for session_id in ids)
    )
    async with terminal() as (inner, showing):
        env = shell.env | {"TERM": "xterm"}
        code, out, _ = await shell("reap", "--jsonl", stderr=inner, env=env)
    shown = await showing
    assert code == 0
    assert len(out.splitlines()) == 50
    assert "reading" in shown
    assert "closing" in shown
    assert "50 of 50" in shown
    assert still_open(service) == []


async def test_a_session_without_max_ttl(shell: Shell) -> None:
    """The only guard of a session whose machine vanishes is missing: that is said once, in the
    command's own words.
    """
    for command in (("run", "--mode", "batch", "--", "true"), ("create", "--mode", "batch")):
        code, _, err = await shell(*command)
        assert (code, err.count("no --max-ttl"), "open() without" in err) == (0, 1, False), command


async def test_ctrl_c_during_reap_and_close_all(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """Ctrl-C ends them with 130, and says which sessions were ended by then."""
    service.faults.add(Fault(kind="latency", seconds=3600, operations=["close"], after=True))
    for command in (("reap",), ("close-all", "--yes")):
        session_id = (await client.create(mode="batch", max_ttl="1h")).id
        await left_by_the_dead(tmp_path, record(service, session_id=session_id))
        process = await shell.start(*command)
        await until(lambda: not service.open_sessions)
        process.send_signal(signal.SIGINT)
        code, _, err = await outcome(process)
        assert code == 130
        assert error_lines(err) == (
            f"qsessions {command[0]}: interrupted; no session was ended.",
            f"To go on, run it again: qsessions {command[0]}",
        )


def test_what_an_interrupted_command_has_ended() -> None:
    """The sessions that were closed or drained are named, the first five of them."""
    ended = ClosedSessions("reap")
    ended(SessionClosed(session_id="s-0"))
    assert ended.describe_interruption(True)[0] == "interrupted; 1 session ended so far: s-0."
    for number in range(1, 7):
        ended(SessionDraining(session_id=f"s-{number}"))
    assert ended.describe_interruption(True)[0] == (
        "interrupted; 7 sessions ended so far: s-0, s-1, s-2, s-3, s-4 and 2 more."
    )


async def test_what_cannot_be_read_is_not_forgotten(
    shell: Shell, service: Emulator, client: AsyncSessionClient, tmp_path: Path
) -> None:
    """While sessions can't be read, nothing is forgotten as undecided, since it may be decided
    about later; a missing instance's is.
    """
    session_id = (await client.create(mode="batch", max_ttl="1h")).id
    old = {"asked_at": service.now() - YOUNG_S}
    await left_by_the_dead(tmp_path, record(service, session_id=session_id, **old))
    service.faults.add(Fault(kind="answer", status=403, operations=["get", "workloads"]))
    code, _, err = await shell("forget", "--undecided", "--yes")
    assert code == 1
    assert "1 record could not be decided about just now" in error_lines(err)[0]
    service.faults.clear()
    assert [row["record"] for row in await shell.lines("ledger")] == [session_id]
    service.delete_instance(service.crn)
    (gone,) = await shell.lines("forget", "--undecided", "--yes")
    assert (gone["record"], gone["done"]) == (session_id, True)


async def test_nothing_to_show_and_why(shell: Shell, service: Emulator, tmp_path: Path) -> None:
    """Where only other records are there than those that were asked for, that is said."""
    await left_by_the_dead(tmp_path, record(service, session_id="s-other", instance="crn:other"))
    for command in ("ledger", "reap"):
        for options, why in (
            (
                (),
                "no open sessions are recorded of this instance; 1 record of others: add --all-instances",
            ),
            (("--label", "run=7"), "no open session is recorded with run=7"),
        ):
            assert await shell(command, *options) == (0, "", f"qsessions {command}: {why}.\n")
