"""`qsessions watch`, and what commands show on a terminal while they wait, against an emulator."""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import signal
import struct
import termios
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from qsessions import AsyncSessionClient, IBMCloudAuth, ServiceCRN
from qsessions.cli import progress, service as cli_service
from qsessions.cli.watch import _each_second
from qsessions.clock import Clock
from qsessions.emulator import Emulator
from tests.support.manual_clock import Stepped
from tests.support.shell import (
    Shell,
    closed_pipe,
    error_lines,
    outcome,
    terminal,
    validate,
)
from tests.support.tables import table
from tests.support.waiting import until

# Before each frame the cursor goes up by the lines of the one before, each of which is erased.
RESET = re.compile(r"((?:\x1b\[2K\x1b\[1A)*)\r\x1b\[2K((?:\x1b\[1A\x1b\[2K)*)")
STYLE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
async def client(service: Emulator) -> AsyncIterator[AsyncSessionClient]:
    """Yield a client of the emulator."""
    auth = [IBMCloudAuth(service.api_key, service.iam_url), ServiceCRN(service.crn)]
    async with AsyncSessionClient(auth, base_url=service.url) as client:
        yield client


class Quick(Clock):
    """Ten times as quick as the machine's, with more of it at a test's word."""

    # Of the class, a value can't be changed.
    __setattr__ = object.__setattr__

    def __init__(self) -> None:
        self.skipped = 0.0
        super().__init__(
            monotonic=lambda: 10 * time.monotonic() + self.skipped,
            call_later=lambda seconds, call: asyncio.get_running_loop().call_later(
                seconds / 10, call
            ),
        )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Have the commands wait a tenth of the time, and return their clock."""
    clock = Quick()
    monkeypatch.setattr(cli_service, "CLOCK", clock)
    return clock


async def made(client: AsyncSessionClient, number: int = 1) -> list[str]:
    """Create dedicated sessions and return their ids."""
    return [
        (await client.create(mode="dedicated", backend="ibm_fez", max_ttl="1h")).id
        for _ in range(number)
    ]


def reads(service: Emulator, session_id: str) -> int:
    """Return how often a session has been read."""
    return sum(
        (request.operation, request.session_id) == ("get", session_id)
        for request in service.requests
    )


async def seen(service: Emulator, *ids: str) -> None:
    """Wait until the sessions have been read as they are now."""
    before = {session_id: reads(service, session_id) for session_id in ids}
    # One read may have been under way.
    await until(lambda: all(reads(service, each) > count + 1 for each, count in before.items()))


def resize(descriptor: int, columns: int, lines: int) -> None:
    """Set the size of a terminal."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def frames(shown: str) -> list[list[str]]:
    """Return the frames that a table was drawn in, as lines, without colours.

    What is printed between two of them comes with the later one.
    """
    # What hides the cursor at the beginning, and shows it.
    text = re.sub(r"\x1b\[\?25[lh]", "", STYLE.sub("", shown))
    parts = RESET.split(text)
    drawn = [part.splitlines() for part in parts[::3]]
    for before, more, up in zip(drawn, parts[1::3], parts[2::3], strict=False):
        assert (more.count("A"), up.count("A")) == (0, max(len(before) - 1, 0))
    return [lines for lines in drawn if lines]


@pytest.mark.smoke
async def test_a_live_table(
    shell: Shell, service: Emulator, client: AsyncSessionClient, quick: Quick
) -> None:
    """On a terminal sessions are a table that is drawn in its place until all are closed; the last
    one stays, and the cursor is there.
    """
    one, other = await made(client, 2)
    async with terminal() as (inner, showing):
        resize(inner, 80, 24)
        env = shell.env | {"TERM": "xterm"}
        watching = asyncio.ensure_future(shell("watch", one, other, stdout=inner, env=env))
        await seen(service, one, other)
        service.submit_job(one, seconds=3600)
        await seen(service, one, other)
        await client.drain(one)
        await client.close(other)
        await seen(service, one)
        await client.close(one)
        assert await watching == (0, "", "")
    shown = await showing
    assert "\x1b[?1049h" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "\x1b[1;32mactive" in shown
    tables = frames(shown)
    assert all(len(line) <= 80 for lines in tables for line in lines)
    rows = [[line[38:46].strip() for line in lines[2:4]] for lines in tables]
    seen_rows = [first for first, after in pairwise([*rows, []]) if first != after]
    assert seen_rows[0] == ["-", "-"]
    assert [row for row in seen_rows if "-" not in row][-1] == ["closed", "closed"]
    assert "draining" in [row[0] for row in seen_rows]
    header, _, first, second, summary, latest, hidden = tables[-1]
    assert header.split() == ["id", "state", "time", "left", "used"]
    assert (first[:36], second[:36]) == (one, other)
    assert summary.startswith("2 sessions: 2 closed; ")
    assert re.fullmatch(rf"\d+s ago: ({one}|{other}) .*closed", latest)
    assert hidden == "no room for mode, backend, last change; -v shows all"


async def test_each_second_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is drawn at each change, and whenever a second has passed without one."""
    clock = Stepped()
    monkeypatch.setattr(cli_service, "CLOCK", clock)
    coming: asyncio.Queue[str] = asyncio.Queue()
    drawn: list[object] = []

    async def changes() -> AsyncIterator[Any]:
        while change := await coming.get():
            yield change

    async def draw() -> None:
        async for change in _each_second(changes()):
            drawn.append(change)  # noqa: PERF401 - it is looked at meanwhile

    drawing = asyncio.ensure_future(draw())
    await clock.step(2.5)
    assert drawn == [None, None]
    await coming.put("one")
    await coming.put("other")
    await clock.step(0.9)
    assert drawn == [None, None, "one", "other"]
    await clock.step(0.2)
    assert drawn[4:] == [None]
    await coming.put("")
    await drawing
    assert drawn[5:] == []
    assert clock.timers == []


async def test_a_table_without_colours(shell: Shell, client: AsyncSessionClient) -> None:
    """With NO_COLOR there is no colour, and with -v every column; without a cursor that moves there
    are plain lines.
    """
    (session_id,) = await made(client)
    await client.close(session_id)
    code, shown = await shell.on_terminal("watch", session_id, NO_COLOR="1")
    assert (code, STYLE.findall(shown)) == (0, [])
    code, shown = await shell.on_terminal("watch", "-v", session_id, COLUMNS="80")
    assert code == 0
    assert "".join(frames(shown)[-1]).split()[-4:-2] == ["1", "closed;"]
    assert "last change" in "".join(frames(shown)[-1])
    code, shown = await shell.on_terminal("watch", session_id, TERM="dumb")
    assert re.fullmatch(rf"\S+Z  {session_id}  closed, dedicated, on ibm_fez\n", shown)


async def test_a_terminal_that_is_made_narrower(
    shell: Shell, service: Emulator, client: AsyncSessionClient, quick: Quick
) -> None:
    """What the terminal has folded is erased with the rest, and the next table fits."""
    (session_id,) = await made(client)
    async with terminal() as (inner, showing):
        resize(inner, 120, 24)
        env = shell.env | {"TERM": "xterm"}
        watching = asyncio.ensure_future(shell("watch", session_id, stdout=inner, env=env))
        await seen(service, session_id)
        resize(inner, 50, 24)
        await seen(service, session_id)
        await client.close(session_id)
        assert (await watching)[0] == 0
    text = STYLE.sub("", await showing)
    wide, narrow = [each for each in RESET.finditer(text) if each[1]], RESET.split(text)[-1]
    # The names, the rule and the row were on three lines each.
    assert [each[1].count("A") for each in wide] == [6]
    assert all(len(line) <= 50 for line in narrow.splitlines())


async def test_a_small_terminal(
    shell: Shell, service: Emulator, client: AsyncSessionClient, quick: Quick
) -> None:
    """On a small terminal what is said below the rows is there, whole, and the states are, too."""
    ids = await made(client, 10)
    async with terminal() as (inner, showing):
        resize(inner, 40, 12)
        env = shell.env | {"TERM": "xterm"}
        watching = asyncio.ensure_future(shell("watch", *ids, stdout=inner, env=env))
        await seen(service, *ids)
        for session_id in ids:
            await client.close(session_id)
        assert (await watching)[0] == 0
    *tables, last = frames(await showing)
    for lines in tables:
        assert 10 < len(lines) <= 12
        assert lines[-1].endswith("-v shows all")
    assert max(len(line) for lines in [*tables, last] for line in lines) <= 40
    assert sum("  closed " in line for line in last) == 10


@table("form", ["", "--jsonl", "--json"])
async def test_lines_elsewhere(
    shell: Shell, service: Emulator, client: AsyncSessionClient, quick: Quick, *, form: str
) -> None:
    """Elsewhere each change is a line, with --jsonl as JSON; --json has the sessions at the end."""
    one, other = await made(client, 2)
    watching = asyncio.ensure_future(shell("watch", one, other, one, *form.split()))
    await seen(service, one, other)
    service.submit_job(one, seconds=3600)
    await seen(service, one)
    await client.close(one)
    await client.close(other)
    code, out, err = await watching
    assert (code, err) == (0, "")
    if form == "--json":
        validate(json.loads(out), "json", "watch")
        assert [(each["id"], each["state"]) for each in json.loads(out)["sessions"]] == [
            (one, "closed"),
            (other, "closed"),
        ]
    elif form:
        changes = [json.loads(line) for line in out.splitlines()]
        for change in changes:
            validate(change, "jsonl", "watch")
        assert {change["id"] for change in changes[:2]} == {one, other}
        states = [change["session"]["state"] for change in changes]
        assert states == ["open", "open", "active", "closed", "closed"]
        assert [change["changed"] for change in changes[:2]] == [[], []]
        assert {"state", "started_at"} <= {*changes[2]["changed"]}
    else:
        lines = [line.split("  ") for line in out.splitlines()]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line[0]) for line in lines)
        for each, history in {one: ["active, job started"], other: []}.items():
            whole = ["open, dedicated, on ibm_fez", *history, "closed"]
            assert [line[2] for line in lines if line[1] == each] == whole


async def test_which_sessions(shell: Shell, service: Emulator, client: AsyncSessionClient) -> None:
    """All open sessions of the instance are watched, or those with a label; where there are none,
    that is said.
    """
    assert await shell("watch", "--all") == (0, "", "qsessions watch: no session is open.\n")
    assert await shell.lines("watch", "--all") == []
    assert await shell.data("watch", "--all") == {"sessions": []}
    create = ("create", "--mode", "batch", "--max-ttl", "10m", "--label", "run=42")
    one, two = [(await shell.data(*create, "--label", f"n={n}"))["id"] for n in (1, 2)]
    others = await made(client, 2)
    for options, open_ones, closed in (
        (("--label", "run=42", "--label", "n=2"), [two], set[str]()),
        (("--label", "run=42"), [one], {two}),
        (("--all",), others, set[str]()),
    ):
        watching = asyncio.ensure_future(shell.lines("watch", *options))
        for session_id in open_ones:
            await until(partial(reads, service, session_id))
            await client.close(session_id)
        assert {line["id"] for line in await watching} == {*open_ones, *closed}
    assert await shell("watch", "--label", "run=7") == (
        0,
        "",
        "qsessions watch: no open session is recorded with run=7.\n",
    )


@table(
    ("typed", "problem"),
    [
        ("", "which sessions to watch must be said in one way."),
        ("s-1 --all", "which sessions to watch must be said in one way."),
        ("--all --label run=42", "which sessions to watch must be said in one way."),
        ("a/b", "the session id 'a/b'"),
        ("s-1 --json --jsonl", "--json and --jsonl exclude each other."),
        ("s-1 --timeout 0", "--timeout"),
    ],
)
async def test_what_cannot_be_watched(
    shell: Shell, service: Emulator, *, typed: str, problem: str
) -> None:
    """Sessions that are named in no way or in several are wrong use, and nothing is sent."""
    code, out, err = await shell("watch", *typed.split())
    assert (code, out) == (2, "")
    assert problem in error_lines(err)[0]
    assert service.requests == []


async def test_a_session_that_is_not_there(shell: Shell, client: AsyncSessionClient) -> None:
    """It is named at once and at the end, which is 1, and the others are watched all the same."""
    (session_id,) = await made(client)
    await client.close(session_id)
    code, out, err = await shell("watch", "s-none", session_id)
    assert (code, out.split()[1:3]) == (1, [session_id, "closed,"])
    warning, problem, advice = err.splitlines()
    assert warning.startswith("qsessions: 's-none' isn't watched any more: ")
    assert problem.startswith("qsessions watch: 1 of 2 sessions could not be watched to their end")
    assert advice.endswith("qsessions workloads --status open")
    # On a terminal the warning comes above the table, and not into its lines.
    async with terminal() as (inner, showing):
        env = shell.env | {"TERM": "xterm", "COLUMNS": "300"}
        both = await shell("watch", "s-none", session_id, stdout=inner, stderr=inner, env=env)
    assert both == (1, "", "")
    lines = STYLE.sub("", await showing).splitlines()
    (at,) = [number for number, line in enumerate(lines) if "'s-none' isn't watched" in line]
    assert lines[at + 1].startswith("id  ")


async def test_the_last_table_stays_at_the_end_of_time(
    shell: Shell, service: Emulator, client: AsyncSessionClient, quick: Quick
) -> None:
    """After --timeout, which is 4, the sessions are there as they were seen last."""
    (session_id,) = await made(client)
    ending = asyncio.ensure_future(shell("watch", session_id, "--json", "--timeout", "1h"))
    await seen(service, session_id)
    quick.skipped += 3600
    code, out, err = await ending
    assert (code, [each["state"] for each in json.loads(out)["sessions"]]) == (4, ["open"])
    assert "1 of 1 sessions were not closed" in error_lines(err)[0]
    showing = asyncio.ensure_future(shell.on_terminal("watch", session_id, "--timeout", "1h"))
    await seen(service, session_id)
    quick.skipped += 3600
    code, shown = await showing
    table, _, problem = shown.partition("qsessions")
    assert code == 4
    assert "1 session: 1 open; 0s used" in "".join(frames(table)[-1])
    assert "1 of 1 sessions were not closed within 3600 s" in problem


async def test_ctrl_c_leaves_the_last_table(
    shell: Shell, service: Emulator, client: AsyncSessionClient
) -> None:
    """Ctrl-C ends it with 130, the last table and the cursor, and says nothing."""
    (session_id,) = await made(client)
    async with terminal() as (inner, showing):
        env = shell.env | {"TERM": "xterm", "COLUMNS": "80"}
        process = await shell.start("watch", session_id, stdout=inner, env=env)
        await seen(service, session_id)
        process.send_signal(signal.SIGINT)
        assert await outcome(process) == (130, "", "")
    shown = await showing
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert frames(shown)[-1][2].startswith(f"{session_id}  open ")


async def test_nobody_reads_the_changes(shell: Shell, client: AsyncSessionClient) -> None:
    """A reader that is gone ends it quietly."""
    ids = await made(client, 2)
    async with closed_pipe() as pipe:
        assert await shell("watch", *ids, "--jsonl", stdout=pipe) == (0, "", "")


async def waited(shell: Shell, *arguments: str, **streams: Any) -> tuple[int, str, str]:
    """Run a command with a terminal for standard error; return its exit code, standard output and
    what the terminal showed.
    """
    async with terminal() as (inner, showing):
        env = shell.env | {"TERM": "xterm", "COLUMNS": "120"}
        code, out, _ = await shell(*arguments, stderr=inner, env=env, **streams)
    return code, out, STYLE.sub("", await showing)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands show at once what they wait for."""
    monkeypatch.setattr(progress, "DELAY_S", 0.0)


def is_clean(shown: str) -> bool:
    """Return whether all that was shown is erased, and the cursor is there."""
    return shown.rstrip("\r\n").endswith("\x1b[2K") and shown.count("\x1b[?25h") >= 1


async def test_a_wait_shows_the_state(
    shell: Shell, service: Emulator, client: AsyncSessionClient, at_once: None, quick: Quick
) -> None:
    """wait shows what it waits for, the state and for how long, and leaves none of it; standard
    output has the JSON alone.
    """
    (session_id,) = await made(client)
    waiting = asyncio.ensure_future(
        waited(shell, "wait", session_id, "--for", "closed", "--timeout", "10m", "--json")
    )
    await seen(service, session_id)
    await client.close(session_id)
    code, out, shown = await waiting
    assert (code, json.loads(out)["state"]) == (0, "closed")
    assert re.search(r"waiting for closed: (-|open|closed), \S+ of 10m00s", shown)
    assert is_clean(shown)


async def test_a_watch_for_json_shows_how_many_are_closed(
    shell: Shell, service: Emulator, client: AsyncSessionClient, at_once: None, quick: Quick
) -> None:
    """watch --json, which prints nothing until its end, shows meanwhile how far it is."""
    one, other = await made(client, 2)
    await client.close(one)
    watching = asyncio.ensure_future(waited(shell, "watch", one, other, "--json"))
    await seen(service, other)
    await client.close(other)
    code, out, shown = await watching
    assert (code, len(json.loads(out)["sessions"])) == (0, 2)
    assert re.search(r"waiting until all are closed: \d of 2", shown)
    assert is_clean(shown)


async def test_commands_show_what_they_do(
    shell: Shell, service: Emulator, client: AsyncSessionClient, at_once: None
) -> None:
    """run, reap, ledger and close-all show what they do, and leave none of it."""
    create = ("create", "--mode", "batch", "--max-ttl", "10m")
    (session_id,) = await made(client)
    for arguments, words in {
        ("run", "--mode", "batch", "--max-ttl", "10m", "--", "true"): (
            "creating a session",
            "draining session",
        ),
        ("run", "--mode", "batch", "--max-ttl", "10m", "--", "false"): ("closing session",),
        ("run", "--attach", session_id, "--", "true"): ("reading session",),
        ("ledger",): ("1 of 1",),
        ("reap", "{made}"): ("reading the ledger", "reading", "closing", "1 of 1"),
        ("close-all", "--yes", "--all"): ("listing the open sessions", "closing", "2 of 2"),
        ("watch", "--all"): ("listing the open sessions",),
    }.items():
        labelled = (await shell.data(*create))["id"] if arguments[0] in {"ledger", "reap"} else ""
        code, _, shown = await waited(shell, *[each.format(made=labelled) for each in arguments])
        assert code == (1 if "false" in arguments else 0), arguments
        assert [word for word in words if word not in shown] == [], arguments
        assert "\x1b[2K" in shown
        assert "closing closing" not in shown


async def test_what_is_quick_shows_nothing(
    shell: Shell, service: Emulator, client: AsyncSessionClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes less than a second shows nothing, and nothing at all is shown elsewhere than on a
    terminal, or on one that can't erase it.
    """
    (session_id,) = await made(client)
    monkeypatch.setattr(progress, "DELAY_S", 60.0)
    assert (await waited(shell, "wait", session_id, "--for", "open"))[2] == ""
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    assert (await shell("wait", session_id, "--for", "open"))[2] == ""
    async with terminal() as (inner, showing):
        env = shell.env | {"TERM": "dumb"}
        await shell("wait", session_id, "--for", "open", stderr=inner, env=env)
    assert await showing == ""
