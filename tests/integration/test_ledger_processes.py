"""The local ledger between processes: death, forks, races and limits, as the operating system makes
them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from qsessions import LedgerEntry, LedgerUnavailable, Liveness, LocalLedger, RecordState
from qsessions.ledger import files, locks
from tests.programs import ledger as programs
from tests.programs.ledger import ended
from tests.support.stage import Program, Stage, stage


class Start(Protocol):
    """Starts a process that plays a scenario on the test's ledger; it ends with the test."""

    def __call__(self, scenario: Callable[..., None], *arguments: object) -> Program:
        """Take the scenario, and its arguments but the ledger's directory."""
        ...


@pytest.fixture(scope="module")
def plays() -> Iterator[Stage]:
    """Return what starts processes."""
    with stage() as plays:
        yield plays


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory that doesn't exist yet."""
    return tmp_path / "ledger"


@pytest.fixture
def start(place: Path, plays: Stage) -> Iterator[Start]:
    """Return a function that starts a process on the ledger."""
    with ExitStack() as stack:

        def begin(scenario: Callable[..., None], *arguments: object) -> Program:
            program = stack.enter_context(plays.running(scenario, str(place), *arguments))
            stack.callback(program.finish)
            return program

        yield begin


@pytest.fixture
def owner(start: Start) -> Program:
    """Return a process that has recorded a create, and lives."""
    owner = start(programs.own)
    assert owner.line() == "ready"
    return owner


def listed(place: Path) -> list[LedgerEntry]:
    """Read the ledger as another process."""

    async def read() -> list[LedgerEntry]:
        ledger = LocalLedger(place)
        try:
            return list(await ledger.entries())
        finally:
            await ledger.aclose()

    return asyncio.run(read())


@pytest.mark.smoke
def test_a_killed_owner_is_dead(place: Path, owner: Program) -> None:
    """As long as a process lives its records are a living owner's; once it is killed, a dead one's,
    which can be amended.
    """
    (entry,) = listed(place)
    assert (entry.owner.liveness, entry.owner.pid) == (Liveness.ALIVE, owner.pid)
    over = ended(entry.record)
    assert files.amend(Path(entry.source), [over]) == [False]
    owner.kill()
    (entry,) = listed(place)
    assert entry.owner.liveness is Liveness.DEAD
    assert files.amend(Path(entry.source), [over]) == [True]
    assert list(place.iterdir()) == []


def test_a_damaged_file_of_a_living_owner(place: Path, owner: Program) -> None:
    """While its owner lives, a damaged file fails the reading, since sessions of its may be
    missing; then what can be read is.
    """
    (path,) = place.iterdir()
    whole = path.read_bytes()
    for damaged, which in (
        (whole.replace(b'"mode":', b'"mo\x00e":'), rf"lives \(process {owner.pid} on "),
        (b"#" * whole.index(b"\n") + whole[whole.index(b"\n") :], "lives: "),
    ):
        path.write_bytes(damaged)
        with pytest.raises(LedgerUnavailable, match=which) as caught:
            listed(place)
        assert str(path) in str(caught.value)
        assert "End that process" in str(caught.value)
    owner.kill()
    assert [entry.owner.liveness for entry in listed(place)] == [Liveness.UNKNOWN]


def test_a_forked_child_is_not_the_owner(place: Path, start: Start) -> None:
    """A child that lives on doesn't keep its dead parent alive, and what it records itself is its
    own.
    """
    owner = start(programs.fork_an_owner)
    key = owner.line()
    owner.kill()
    (entry,) = listed(place)
    assert (entry.record.key, entry.owner.liveness) == (key, Liveness.DEAD)
    owner.tell()
    pid, its, sees_parents = owner.line().split()
    try:
        owners = {one.record.key: one.owner for one in listed(place)}
        liveness = {key: owner.liveness for key, owner in owners.items()}
        assert liveness == {key: Liveness.DEAD, its: Liveness.ALIVE}
        assert owners[its].pid == int(pid)
        assert sees_parents == "1"
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_a_child_leaves_its_living_parent_the_lock(place: Path, start: Start) -> None:
    """A child that reads, records and ends, or only ends, takes nothing from its parent's lock."""
    assert start(programs.fork_users).line() == "ready"
    assert [entry.owner.liveness for entry in listed(place)] == [Liveness.ALIVE]


def end_at_once(reapers: list[Program], number: int) -> None:
    """Let reapers that have all read so many records end them, each by exactly one."""
    assert [reaper.line() for reaper in reapers] == [str(number)] * len(reapers)
    for reaper in reapers:
        reaper.tell()
    assert sum(int(reaper.line()) for reaper in reapers) == number


def test_reapers_that_race(place: Path, start: Start) -> None:
    """Of several reapers at once each record is ended by exactly one, and the file goes with the
    last.
    """
    assert start(programs.own_many, 50).wait() == 0
    assert len(listed(place)) == 50
    end_at_once([start(programs.end_each) for _ in range(3)], 50)
    assert list(place.iterdir()) == []


def test_reapers_of_many_that_race(place: Path, start: Start) -> None:
    """Of several reapers that end all at once, whatever the order, each record is ended by exactly
    one, and the files go.
    """
    for _ in range(3):
        assert start(programs.own_many, 200).wait() == 0
    end_at_once([start(programs.end_many, 150, seed) for seed in range(3)], 600)
    assert list(place.iterdir()) == []


def test_reapers_beside_an_owner_that_writes(place: Path, start: Start) -> None:
    """Whatever reapers end meanwhile, a living owner's records are what it wrote last, and those of
    the dead are gone for good.
    """
    assert start(programs.own_many, 1).wait() == 0
    (dead,) = listed(place)
    owner = start(programs.write_much, 100)
    assert owner.line() == "ready"
    reapers = [start(programs.end_until_stopped) for _ in range(2)]
    assert [reaper.line() for reaper in reapers] == ["ready"] * 2
    keys = owner.line().split()
    Path(f"{place}.stop").touch()
    assert sum(int(reaper.line()) for reaper in reapers) <= 1
    entries = listed(place)
    if dead.record.key in {entry.record.key for entry in entries}:
        # No reaper came to it.
        assert files.amend(Path(dead.source), [ended(dead.record)]) == [True]
        entries = listed(place)
    assert sorted(entry.record.key for entry in entries) == keys
    assert {entry.record.state for entry in entries} == {RecordState.CREATED}
    assert sorted(entry.record.changed_at for entry in entries) == [95, 96, 97, 98, 99]


def test_writers_that_start_while_readers_tidy_up(place: Path, start: Start) -> None:
    """No reader takes away the file of an owner that is just starting, and none sees it as dead or
    half made.
    """
    readers = [start(programs.read_until_stopped) for _ in range(2)]
    assert [reader.line() for reader in readers] == ["ready"] * 2
    assert start(programs.come_and_go, 100).line() == "0"
    Path(f"{place}.stop").touch()
    assert [reader.line() for reader in readers] == ["0"] * 2
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("where", "name"), [(os, "open"), (locks, "is_held")])
def test_an_owner_that_makes_its_file_anew_while_it_is_read(
    place: Path, start: Start, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    """An owner whose file goes between a reader's listing and its opening, or before its lock is
    looked at, is seen, and lives.
    """
    owner = start(programs.make_anew)
    key = owner.line()
    real = getattr(where, name)
    calls = []

    def first_anew(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            owner.tell()
            assert owner.line() == "anew"
        return real(*args)

    monkeypatch.setattr(where, name, first_anew)
    (entry,) = files.read_all(place, 1.78e9)
    assert (entry.record.key, entry.owner.liveness) == (key, Liveness.ALIVE)
    assert [entry.source] == [str(path) for path in place.iterdir()]
    assert len(calls) > 1


def test_what_was_recorded_survives_a_kill(place: Path, start: Start) -> None:
    """Whenever a process is killed, the last record that its ledger had taken is read, or the one
    after it.
    """
    for lines in range(1, 40, 6):
        owner = start(programs.write_on)
        for _ in range(lines):
            owner.line()
        owner.kill()
        last = owner.outcome()[1].splitlines()
        (entry,) = listed(place)
        assert entry.owner.liveness is Liveness.DEAD
        assert entry.record.changed_at >= (int(last[-1]) if last else lines - 1)
        assert files.amend(Path(entry.source), [ended(entry.record)]) == [True]


def test_a_file_that_may_not_grow(place: Path, start: Start) -> None:
    """What the operating system refused to write, in the middle of a line too, is written once it
    may be.
    """
    writer = start(programs.outgrow)
    keys = writer.line().split()
    assert len(keys) > 5
    assert writer.wait() == 0
    assert {entry.record.key for entry in listed(place)} == set(keys)
    assert len(list(place.iterdir())) == 1


def test_a_file_that_another_process_holds_locked(
    place: Path, start: Start, owner: Program
) -> None:
    """A dead owner's file that somebody holds locked counts as a living one's for as long; it keeps
    nobody from recording or reading.
    """
    owner.kill()
    (left,) = listed(place)
    holder = start(programs.hold_locked)
    assert holder.line() == "held"
    assert start(programs.own).line() == "ready"
    assert [entry.owner.liveness for entry in listed(place)] == [Liveness.ALIVE] * 2
    assert files.amend(Path(left.source), [ended(left.record)]) == [False]
    holder.tell()
    holder.wait()
    liveness = {entry.source: entry.owner.liveness for entry in listed(place)}
    assert (len(liveness), liveness[left.source]) == (2, Liveness.DEAD)
    assert files.amend(Path(left.source), [ended(left.record)]) == [True]


def test_a_file_system_that_hangs_keeps_no_process_from_ending(start: Start) -> None:
    """A process whose ledger never answers ends when it wants to."""
    process = start(programs.hang)
    assert process.line() == "False"
    assert process.wait() == 0


def test_an_owner_that_ends_without_closing(place: Path, start: Start) -> None:
    """A process that ends without closing its ledger leaves a file; with nothing open in it, the
    next reader deletes it.
    """
    assert start(programs.end_without_closing).wait() == 0
    assert len(list(place.iterdir())) == 1
    assert listed(place) == []
    assert list(place.iterdir()) == []
