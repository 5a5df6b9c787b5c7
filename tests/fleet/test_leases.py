"""Owners that die, pause, lose their network or their database, and reapers that end what they left."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from qsessions.emulator import Fault
from qsessions.testing import ThreadedEmulator
from tests.fleet.conftest import Start, eventually
from tests.programs import fleet
from tests.support.silent_proxy import SilentProxy
from tests.support.stage import Program
from tests.support.threaded import Threaded, threaded

HOUR_S = 3600
# When a lease is over and was left alone for long enough.
LEASE_S = fleet.TERMS.patience


def owner_of(start: Start, *arguments: object, **where: Any) -> tuple[Program, list[str]]:
    """Start a process with a session, or as many as the arguments say, and return their ids."""
    program = start(fleet.own, *(arguments or (1,)), **where)
    return program, program.line().split()


def ask(program: Program, command: str) -> str:
    """Have a process do something, and return what it says."""
    program.tell(command)
    return program.line()


def is_open(emulator: ThreadedEmulator, *ids: str) -> bool:
    """Return whether sessions are open, all of them."""
    return {*ids} <= {session.id for session in emulator.open_sessions}


def is_closed(emulator: ThreadedEmulator, *ids: str) -> bool:
    """Return whether sessions are closed, all of them."""
    return not {*ids} & {session.id for session in emulator.open_sessions}


def recorded(rows: Callable[..., list[Any]]) -> set[str]:
    """Return the ids of the sessions in the ledger."""
    return {row[0] for row in rows("SELECT session_id FROM qsessions.records")}


@pytest.mark.parametrize("seed", range(2))
def test_sessions_of_killed_owners_are_ended(
    start: Start, emulator: ThreadedEmulator, rows: Callable[..., list[Any]], seed: int
) -> None:
    """Of owners that are killed at random moments, while they create and afterwards, every session is
    ended whose id is recorded, by two reapers that race; none of a living owner is.
    """
    chance = Random(seed)  # noqa: S311 - the same each time
    reapers = [start(fleet.reaps), start(fleet.reaps)]
    living, kept = owner_of(start, 3)
    dying = [start(fleet.own, 5) for _ in range(5)]
    for program in dying:
        time.sleep(chance.random() * 0.2)
        program.kill()
    mine = {*kept}
    eventually(
        lambda: (
            recorded(rows) - {None} <= mine
            and rows("SELECT count(*) FROM qsessions.owners WHERE over_at IS NULL") == [(3,)]
        )
    )
    assert is_open(emulator, *kept)
    assert ask(living, "lease").split()[0] == "held"
    # What is open besides is of a create that was under way: its record stays, with no id.
    intents = rows("SELECT count(*) FROM qsessions.records WHERE session_id IS NULL")[0][0]
    assert len(emulator.open_sessions) - len(kept) <= intents <= len(dying)
    for reaper in reapers:
        reaper.line()
        assert int(ask(reaper, "end")) <= len(emulator.sessions)


def test_an_owner_that_was_paused_for_longer_than_its_lease(
    start: Start, reaper: Program, emulator: ThreadedEmulator, rows: Callable[..., list[Any]]
) -> None:
    """Its session is ended, it is told, and it creates no more until that is over for it, too."""
    owner, ids = owner_of(start, 1, "continue")
    owner.send_signal(signal.SIGSTOP)
    eventually(lambda: is_closed(emulator, *ids))
    owner.send_signal(signal.SIGCONT)
    eventually(lambda: ask(owner, "lost") == "1 True")
    assert ask(owner, "create") == "LeaseLost"
    assert ask(owner, "lease").split()[0] == "taken"
    assert ask(owner, f"closes {ids[0]}") == "closed"
    # With nothing left it goes on as a new owner.
    eventually(lambda: ask(owner, "lease").split()[0] == "held")
    again = ask(owner, "create")
    assert is_open(emulator, again)
    eventually(lambda: recorded(rows) == {again})


def test_a_session_whose_owner_was_paused_in_its_create(
    start: Start, reaper: Program, emulator: ThreadedEmulator, rows: Callable[..., list[Any]]
) -> None:
    """What an owner says of a session when its lease is long gone is kept, and the session ended."""
    owner, ids = owner_of(start, 1)
    emulator.faults.add(Fault(kind="latency", operations=["create"], seconds=3, times=1))
    owner.tell("create")
    eventually(lambda: rows("SELECT FROM qsessions.records WHERE session_id IS NULL"))
    owner.send_signal(signal.SIGSTOP)
    eventually(lambda: is_closed(emulator, *ids) and len(emulator.sessions) == 2)
    assert len(emulator.open_sessions) == 1
    owner.send_signal(signal.SIGCONT)
    assert owner.line() in emulator.sessions
    eventually(lambda: emulator.open_sessions == [])


@pytest.mark.parametrize("on_lost", ["continue", "end"])
def test_an_owner_without_the_database(
    start: Start,
    emulator: ThreadedEmulator,
    way: str,
    proxy: Threaded[SilentProxy],
    on_lost: str,
) -> None:
    """Its session is ended by another, since nobody can know that it lives; with `on_lost="end"` it
    does that itself. It is told; what it closes it closes at once; and when the database is back it
    has its records written.
    """
    assert start(fleet.reaps).line() == "ready"
    owner, ids = owner_of(start, 2, on_lost, url=way)
    proxy.ask(SilentProxy.silence)
    assert ask(owner, f"closes {ids[0]}") == "closed"
    eventually(lambda: ask(owner, "lost").split()[0] == "1")
    eventually(lambda: is_closed(emulator, *ids))
    if on_lost == "end":
        assert ask(owner, "create") == "LeaseLost"
    proxy.ask(SilentProxy.speak)
    eventually(lambda: ask(owner, "lease").split()[0] != "unrenewed")


def test_an_owner_without_the_service(
    start: Start, reaper: Program, emulator: ThreadedEmulator
) -> None:
    """An owner that reaches the database alone keeps its session, for as long as that takes."""
    port = int(emulator.url.split(":")[2].split("/")[0])
    with threaded(SilentProxy(port)) as between:
        base_url = emulator.url.replace(str(port), str(between.server.port))
        owner, ids = owner_of(start, 1, base_url=base_url)
        between.ask(SilentProxy.silence)
        time.sleep(LEASE_S + 2)
        assert is_open(emulator, *ids)
        between.ask(SilentProxy.speak)
        assert ask(owner, "lease").split()[0] == "held"
        assert ask(owner, "lost") == "0 False"


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_clocks_that_are_an_hour_off(
    start: Start, emulator: ThreadedEmulator, ahead_s: int
) -> None:
    """Neither an owner's clock nor a reaper's decides: the session of one that lives stays, that of
    one that is gone is ended.
    """
    reaper = start(fleet.reaps, -ahead_s)
    assert reaper.line() == "ready"
    living, kept = owner_of(start, 1, "continue", ahead_s)
    killed, ids = owner_of(start, 1, "continue", ahead_s)
    killed.kill()
    eventually(lambda: is_closed(emulator, *ids))
    assert is_open(emulator, *kept)
    assert ask(living, "lost") == "0 False"


def test_a_blocked_event_loop_keeps_its_lease(
    start: Start, reaper: Program, emulator: ThreadedEmulator
) -> None:
    """A program that blocks its event loop for longer than a lease keeps its session."""
    owner, ids = owner_of(start)
    assert ask(owner, f"blocks {LEASE_S + 2}") == "blocked"
    assert is_open(emulator, *ids)
    assert ask(owner, "lost") == "0 False"


def test_a_client_that_was_closed_keeps_its_lease(
    start: Start, reaper: Program, emulator: ThreadedEmulator
) -> None:
    """A process that has closed its client and left a session open owns it while it lives; when it
    ends, the session is ended.
    """
    owner, ids = owner_of(start)
    owner.tell("leaves")
    assert owner.line() == "left held"
    time.sleep(LEASE_S + 1)
    assert is_open(emulator, *ids)
    owner.finish()
    eventually(lambda: is_closed(emulator, *ids))


def test_a_ledger_that_is_closed_gives_its_lease_back(
    start: Start, rows: Callable[..., list[Any]]
) -> None:
    """A process that leaves nothing open leaves no row."""
    owner, ids = owner_of(start)
    assert len(rows("SELECT FROM qsessions.owners")) == 1
    assert ask(owner, f"closes {ids[0]}") == "closed"
    owner.tell("leaves")
    assert owner.line() == "left held"
    assert rows("SELECT FROM qsessions.owners") == []
    assert rows("SELECT FROM qsessions.records") == []


def test_a_fork_has_a_lease_of_its_own(
    start: Start, reaper: Program, emulator: ThreadedEmulator, rows: Callable[..., list[Any]]
) -> None:
    """A child that uses its parent's ledger neither ends nor shares the parent's lease."""
    owner, ids = owner_of(start)
    assert ask(owner, "forks") == "0"
    assert len(rows("SELECT FROM qsessions.owners")) == 3
    time.sleep(LEASE_S + 1)
    assert is_open(emulator, *ids)
    assert ask(owner, "lost") == "0 False"
    eventually(lambda: len(rows("SELECT FROM qsessions.owners WHERE over_at IS NULL")) == 2)


def test_processes_that_watch_share_a_rate(start: Start, emulator: ThreadedEmulator) -> None:
    """Three owners, two of which watch: together they send two thirds of the rate of one."""
    _, ids = owner_of(start, 20)
    watchers = [start(fleet.watches, *ids) for _ in range(2)]
    for watcher in watchers:
        assert watcher.line() == "ready"
    eventually(lambda: [ask(watcher, "lease") for watcher in watchers] == ["3", "3"])
    before, began = len(emulator.requests), time.monotonic()
    time.sleep(4)
    sent, seconds = len(emulator.requests) - before, time.monotonic() - began
    assert 0 < sent <= seconds * fleet.RATE * 2 / 3 * 1.2 + 2
    watchers[0].kill()
    eventually(lambda: ask(watchers[1], "lease") == "2")
