"""The local ledger between processes: death, forks, races and limits, as the operating system makes
them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from qsessions import LedgerEntry, LedgerUnavailable, Liveness, LocalLedger, RecordState
from qsessions.ledger import files, locks

# What each program begins with.
PRELUDE = """
import asyncio, os, sys
from qsessions import CreateSession, LedgerRecord, LedgerUnavailable, LocalLedger, RecordState

place = sys.argv[1]
run = asyncio.run

def intent():
    return LedgerRecord.intent(
        CreateSession("batch", max_ttl=60), base_url="https://quantum.example/api", instance=None, now=1.78e9
    )

def say(*words):
    print(*words, flush=True)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a directory that doesn't exist yet."""
    return tmp_path / "ledger"


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """Give a function that runs a program on the ledger; what still runs at the end is killed."""
    with ExitStack() as stack:

        def begin(program: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", PRELUDE + program, str(place)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def heard(process: subprocess.Popen[str]) -> str:
    """Wait for a program's next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    """Let a program that waits for a line go on."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


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
def test_a_killed_owner_is_dead(place: Path, start: Start) -> None:
    """As long as a process lives its records are a living owner's; once it is killed, a dead one's,
    which can be amended.
    """
    owner = start(
        "ledger = LocalLedger(place); run(ledger.record(intent())); say('ready'); input()"
    )
    assert heard(owner) == "ready"
    (entry,) = listed(place)
    assert (entry.owner.liveness, entry.owner.pid) == (Liveness.ALIVE, owner.pid)
    ended = entry.record.becomes(RecordState.ENDED, now=1.78e9)
    assert files.amend(Path(entry.source), [ended]) == [False]
    owner.kill()
    owner.wait()
    (entry,) = listed(place)
    assert entry.owner.liveness is Liveness.DEAD
    assert files.amend(Path(entry.source), [ended]) == [True]
    assert list(place.iterdir()) == []


def test_a_damaged_file_of_a_living_owner(place: Path, start: Start) -> None:
    """While its owner lives, a damaged file fails the reading, since sessions of its may be
    missing; then what can be read is.
    """
    owner = start(
        "ledger = LocalLedger(place); run(ledger.record(intent())); say('ready'); input()"
    )
    assert heard(owner) == "ready"
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
    owner.wait()
    assert [entry.owner.liveness for entry in listed(place)] == [Liveness.UNKNOWN]


def test_a_forked_child_is_not_the_owner(place: Path, start: Start) -> None:
    """A child that lives on doesn't keep its dead parent alive, and what it records itself is its
    own.
    """
    owner = start(
        """
ledger = LocalLedger(place)
mine = intent()
run(ledger.record(mine))
if os.fork():
    say(mine.key)
    os.wait()
sys.stdin.readline()
its = intent()
run(ledger.record(its))
say(os.getpid(), its.key, [entry.record.key for entry in run(ledger.entries())].count(mine.key))
sys.stdin.readline()
"""
    )
    key = heard(owner)
    owner.kill()
    owner.wait()
    (entry,) = listed(place)
    assert (entry.record.key, entry.owner.liveness) == (key, Liveness.DEAD)
    tell(owner)
    pid, its, sees_parents = heard(owner).split()
    try:
        owners = {one.record.key: one.owner for one in listed(place)}
        assert {key: owner.liveness for key, owner in owners.items()} == {
            key: Liveness.DEAD,
            its: Liveness.ALIVE,
        }
        assert owners[its].pid == int(pid)
        assert sees_parents == "1"
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_a_child_leaves_its_living_parent_the_lock(place: Path, start: Start) -> None:
    """A child that reads, records and ends, or only ends, takes nothing from its parent's lock."""
    owner = start(
        """
ledger = LocalLedger(place)
run(ledger.record(intent()))
if not os.fork():
    run(ledger.aclose())
    sys.exit()
os.wait()
if not os.fork():
    run(ledger.entries())
    mine = intent()
    run(ledger.record(mine))
    run(ledger.record(mine.becomes(RecordState.ENDED, now=1.78e9)))
    run(ledger.aclose())
    sys.exit()
os.wait()
say('ready')
sys.stdin.readline()
"""
    )
    assert heard(owner) == "ready"
    assert [entry.owner.liveness for entry in listed(place)] == [Liveness.ALIVE]


def test_reapers_that_race(place: Path, start: Start) -> None:
    """Of several reapers at once each record is ended by exactly one, and the file goes with the
    last.
    """
    owner = start(
        """
ledger = LocalLedger(place)
async def many():
    await asyncio.gather(*(ledger.record(intent()) for _ in range(50)))
run(many())
"""
    )
    assert owner.wait() == 0
    assert len(listed(place)) == 50
    reapers = [
        start(
            """
ledger = LocalLedger(place)
entries = run(ledger.entries())
say(len(entries))
sys.stdin.readline()
ended = [run(ledger.amend([(one, one.record.becomes(RecordState.ENDED, now=1.78e9))])) for one in entries]
say(sum(done for (done,) in ended))
"""
        )
        for _ in range(3)
    ]
    assert [heard(reaper) for reaper in reapers] == ["50"] * 3
    for reaper in reapers:
        tell(reaper)
    assert sum(int(heard(reaper)) for reaper in reapers) == 50
    assert list(place.iterdir()) == []


def test_reapers_of_many_that_race(place: Path, start: Start) -> None:
    """Of several reapers that end all at once, whatever the order, each record is ended by exactly
    one, and the files go.
    """
    owner = """
ledger = LocalLedger(place)
async def many():
    await asyncio.gather(*(ledger.record(intent()) for _ in range(200)))
run(many())
"""
    for _ in range(3):
        assert start(owner).wait() == 0
    reapers = [
        start(
            f"""
import random
ledger = LocalLedger(place)
changes = [(one, one.record.becomes(RecordState.ENDED, now=1.78e9)) for one in run(ledger.entries())]
random.Random({seed}).shuffle(changes)
say(len(changes))
sys.stdin.readline()
say(sum(sum(run(ledger.amend(changes[at:at + 150]))) for at in range(0, 600, 150)))
"""
        )
        for seed in range(3)
    ]
    assert [heard(reaper) for reaper in reapers] == ["600"] * 3
    for reaper in reapers:
        tell(reaper)
    assert sum(int(heard(reaper)) for reaper in reapers) == 600
    assert list(place.iterdir()) == []


def test_reapers_beside_an_owner_that_writes(place: Path, start: Start) -> None:
    """Whatever reapers end meanwhile, a living owner's records are what it wrote last, and those of
    the dead are gone for good.
    """
    assert start("run(LocalLedger(place).record(intent()))").wait() == 0
    (dead,) = listed(place)
    owner = start(
        """
from qsessions.ledger import files
files._LARGE_BYTES = 1000
ledger = LocalLedger(place)
stays = [intent() for _ in range(5)]
for record in stays:
    run(ledger.record(record))
say('ready')
for number in range(100):
    passes = intent()
    run(ledger.record(passes))
    run(ledger.record(passes.becomes(RecordState.ENDED, now=1.78e9)))
    run(ledger.record(stays[number % 5].becomes(RecordState.CREATED, now=number, session_id='s')))
say(*sorted(record.key for record in stays))
sys.stdin.readline()
"""
    )
    assert heard(owner) == "ready"
    reapers = [
        start(
            """
ledger = LocalLedger(place)
ended = 0
say('ready')
while not os.path.exists(place + '.stop'):
    entries = run(ledger.entries())
    ended += sum(run(ledger.amend([(one, one.record.becomes(RecordState.ENDED, now=1.78e9)) for one in entries])))
say(ended)
"""
        )
        for _ in range(2)
    ]
    assert [heard(reaper) for reaper in reapers] == ["ready"] * 2
    keys = heard(owner).split()
    Path(f"{place}.stop").touch()
    assert sum(int(heard(reaper)) for reaper in reapers) <= 1
    entries = listed(place)
    if dead.record.key in {entry.record.key for entry in entries}:
        # No reaper came to it.
        assert files.amend(
            Path(dead.source), [dead.record.becomes(RecordState.ENDED, now=1.78e9)]
        ) == [True]
        entries = listed(place)
    assert sorted(entry.record.key for entry in entries) == keys
    assert {entry.record.state for entry in entries} == {RecordState.CREATED}
    assert sorted(entry.record.changed_at for entry in entries) == [95, 96, 97, 98, 99]


def test_writers_that_start_while_readers_tidy_up(place: Path, start: Start) -> None:
    """No reader takes away the file of an owner that is just starting, and none sees it as dead or
    half made.
    """
    readers = [
        start(
            """
ledger = LocalLedger(place)
say('ready')
dead = 0
while not os.path.exists(place + '.stop'):
    dead += sum(one.owner.liveness != 'alive' or one.owner.host is None for one in run(ledger.entries()))
say(dead)
"""
        )
        for _ in range(2)
    ]
    assert [heard(reader) for reader in readers] == ["ready"] * 2
    writer = start(
        """
lost = 0
for _ in range(100):
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    lost += len(run(ledger.entries())) != 1
    run(ledger.record(record.becomes(RecordState.ENDED, now=1.78e9)))
    run(ledger.aclose())
say(lost)
"""
    )
    assert heard(writer) == "0"
    Path(f"{place}.stop").touch()
    assert [heard(reader) for reader in readers] == ["0"] * 2
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("where", "name"), [(os, "open"), (locks, "is_held")])
def test_an_owner_that_makes_its_file_anew_while_it_is_read(
    place: Path, start: Start, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    """An owner whose file goes between a reader's listing and its opening, or before its lock is
    looked at, is seen, and lives.
    """
    owner = start(
        """
from qsessions.ledger import files, locks
files._LARGE_BYTES = 0
ledger = LocalLedger(place)
stays = intent()
run(ledger.record(stays))
say(stays.key)
sys.stdin.readline()
before = os.listdir(place)
while os.listdir(place) == before:
    run(ledger.record(stays))
say('anew')
sys.stdin.readline()
"""
    )
    key = heard(owner)
    real = getattr(where, name)
    calls = []

    def first_anew(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            tell(owner)
            assert heard(owner) == "anew"
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
    program = """
ledger = LocalLedger(place)
record = intent()
for number in range(1_000_000):
    run(ledger.record(record.becomes(RecordState.CREATED, now=number, session_id=f"s-{number}")))
    say(number)
"""
    for lines in range(1, 40, 6):
        owner = start(program)
        for _ in range(lines):
            heard(owner)
        owner.kill()
        assert owner.stdout is not None
        last = [line for line in owner.stdout.read().split("\n")[:-1] if line]
        owner.wait()
        (entry,) = listed(place)
        assert entry.owner.liveness is Liveness.DEAD
        assert entry.record.changed_at >= (int(last[-1]) if last else lines - 1)
        assert files.amend(
            Path(entry.source), [entry.record.becomes(RecordState.ENDED, now=1.78e9)]
        ) == [True]


def test_a_file_that_may_not_grow(place: Path, start: Start) -> None:
    """What the operating system refused to write, in the middle of a line too, is written once it
    may be.
    """
    writer = start(
        """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
ledger = LocalLedger(place)
refused = 0
keys = []
while refused < 3:
    record = intent()
    keys.append(record.key)
    try:
        run(ledger.record(record))
    except LedgerUnavailable as error:
        refused += 1
        assert "File too large" in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
record = intent()
run(ledger.record(record))
say(*keys, record.key)
"""
    )
    keys = heard(writer).split()
    assert len(keys) > 5
    assert writer.wait() == 0
    assert {entry.record.key for entry in listed(place)} == set(keys)
    assert len(list(place.iterdir())) == 1


def test_a_file_that_another_process_holds_locked(place: Path, start: Start) -> None:
    """A dead owner's file that somebody holds locked counts as a living one's for as long; it keeps
    nobody from recording or reading.
    """
    owner = start(
        "ledger = LocalLedger(place); run(ledger.record(intent())); say('ready'); input()"
    )
    assert heard(owner) == "ready"
    owner.kill()
    owner.wait()
    (left,) = listed(place)
    ended = left.record.becomes(RecordState.ENDED, now=1.78e9)
    holder = start(
        """
import fcntl
with open(os.path.join(place, os.listdir(place)[0]), "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    say("held")
    sys.stdin.readline()
"""
    )
    assert heard(holder) == "held"
    writer = start(
        "ledger = LocalLedger(place); run(ledger.record(intent())); say('ready'); input()"
    )
    assert heard(writer) == "ready"
    assert [entry.owner.liveness for entry in listed(place)] == [Liveness.ALIVE] * 2
    assert files.amend(Path(left.source), [ended]) == [False]
    tell(holder)
    holder.wait()
    liveness = {entry.source: entry.owner.liveness for entry in listed(place)}
    assert (len(liveness), liveness[left.source]) == (2, Liveness.DEAD)
    assert files.amend(Path(left.source), [ended]) == [True]


def test_a_file_system_that_hangs_keeps_no_process_from_ending(place: Path, start: Start) -> None:
    """A process whose ledger never answers ends when it wants to."""
    process = start(
        """
import threading
os.fsync = lambda fd: threading.Event().wait()
async def main():
    writing = asyncio.create_task(LocalLedger(place).record(intent()))
    await asyncio.wait({writing}, timeout=0.01)
    say(writing.done())
run(main())
"""
    )
    assert heard(process) == "False"
    assert process.wait(timeout=60) == 0


def test_an_owner_that_ends_without_closing(place: Path, start: Start) -> None:
    """A process that ends without closing its ledger leaves a file; with nothing open in it, the
    next reader deletes it.
    """
    owner = start(
        """
ledger = LocalLedger(place)
record = intent()
run(ledger.record(record))
run(ledger.record(record.becomes(RecordState.ENDED, now=1.78e9)))
"""
    )
    assert owner.wait() == 0
    assert len(list(place.iterdir())) == 1
    assert listed(place) == []
    assert list(place.iterdir()) == []
