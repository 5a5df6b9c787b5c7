"""The ledger in one process: its values, its files, the lock's rules, and the recorder that keeps
the client from its failures.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import importlib.util
import json
import logging
import os
import pickle
import re
import socket
import stat
import sys
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs
import pytest
from hypothesis import given, strategies as st

from qsessions import (
    ClientClosed,
    ConfigurationError,
    CreateSession,
    Ledger,
    LedgerEntry,
    LedgerFailed,
    LedgerRecord,
    LedgerUnavailable,
    Liveness,
    LocalLedger,
    RecordState,
)
from qsessions.events import Event, Observers
from qsessions.ledger import SessionRecorder, close_ledger, disk, files, lines, locks, records
from qsessions.ledger.locks import Reach
from tests.support.manual_clock import ManualClock

T = TypeVar("T")
Recording: TypeAlias = Callable[..., SessionRecorder]

NOW = 1_780_000_000.0
CREATED, DRAINING, ENDED = RecordState.CREATED, RecordState.DRAINING, RecordState.ENDED


def intent(**fields: Any) -> LedgerRecord:
    """Give the record of a create that is about to go out."""
    request = CreateSession("dedicated", backend="ibm_fez", max_ttl=600)
    record = LedgerRecord.intent(
        request, base_url="https://quantum.example/api", instance="crn", now=NOW
    )
    return attrs.evolve(record, **fields)


async def entries_of(ledger: LocalLedger) -> list[tuple[str, RecordState, Liveness]]:
    """Give what a ledger lists, in short."""
    return [
        (one.record.key, one.record.state, one.owner.liveness) for one in await ledger.entries()
    ]


async def amend(ledger: LocalLedger, entry: LedgerEntry, record: LedgerRecord) -> bool:
    """Amend one record."""
    (done,) = await ledger.amend([(entry, record)])
    return done


def amend_file(path: Path, record: LedgerRecord) -> bool:
    """Amend one record in a file."""
    (done,) = files.amend(path, [record])
    return done


def parsed(body: bytes) -> tuple[lines.Header | None, dict[str, LedgerRecord], bool]:
    """Read what a file holds."""
    contents = lines.parse(body.split(b"\n"))
    return contents.header, contents.records, contents.is_whole


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one call on a loop of its own, so that the test may look at files in between."""
    return asyncio.run(coroutine)


def die() -> None:
    """Do to this process's ledgers what its death would: the operating system takes their locks,
    and nobody knows their files for ours.
    """
    for file in tuple(files._process.own.values()):
        file._release()
    files._process = files._Process()
    disk._checked.clear()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a directory that doesn't exist yet."""
    return tmp_path / "state" / "ledger"


def names(place: Path) -> list[str]:
    """List a directory."""
    return sorted(path.name for path in place.iterdir())


def all_locked(place: Path) -> bool:
    """Say whether every file in a directory is locked, where the platform tells."""
    held = Path("/proc/locks")
    return not held.exists() or all(
        f":{path.stat().st_ino} " in held.read_text() for path in place.iterdir()
    )


def only_file(place: Path) -> Path:
    """Give the one file in a directory."""
    (path,) = place.iterdir()
    return path


def test_intent() -> None:
    """The record of a create has a key of its own, what was asked and when, and no id yet."""
    one, two = intent(), intent()
    assert one.key != two.key
    assert (one.mode, one.backend, one.max_ttl) == ("dedicated", "ibm_fez", 600)
    assert (one.asked_at, one.changed_at, one.state, one.session_id) == (
        NOW,
        NOW,
        RecordState.INTENT,
        None,
    )
    assert not one.detached


def test_becomes() -> None:
    """A record in another state keeps the id that is known, and when it was asked."""
    created = intent().becomes(CREATED, now=NOW + 1, session_id="s-1")
    drains = created.becomes(DRAINING, now=NOW + 2)
    assert (drains.session_id, drains.asked_at, drains.changed_at) == ("s-1", NOW, NOW + 2)


def test_what_was_seen_of_a_drain_is_kept(place: Path) -> None:
    """Since when a session drains without jobs is on the disk for the next one who looks."""
    ledger = LocalLedger(place)
    run(ledger.record(intent(session_id="s-1", idle_since=NOW + 5)))
    (entry,) = run(ledger.entries())
    assert entry.record.idle_since == NOW + 5
    run(ledger.aclose())


def test_values_survive_pickling(place: Path) -> None:
    """Records, entries and owners are the same after pickling, as orchestrators send them about."""
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    (entry,) = run(ledger.entries())
    assert pickle.loads(pickle.dumps(entry)) == entry  # noqa: S301 - our own
    run(ledger.aclose())


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": ""},
        {"key": 5},
        {"session_id": ""},
        {"asked_at": float("nan")},
        {"asked_at": True},
        {"asked_at": 10**400},
        {"mode": ""},
        {"state": 5},
        {"max_ttl": "10m"},
        {"idle_since": "yesterday"},
        {"detached": None},
        {"labels": ["run"]},
        {"labels": {"run": ""}},
        {"labels": {"": "1"}},
        {"labels": {"run": 1}},
        {"labels": {"run": "two\nlines"}},
        {"labels": {"\x1b[31m": "red"}},
    ],
)
def test_no_such_record(wrong: dict[str, Any]) -> None:
    """What a record can't hold is refused, so that a damaged file yields none."""
    with pytest.raises((TypeError, ValueError)):
        intent(**wrong)


def test_labels(place: Path) -> None:
    """What a record is called is kept with it, in each state, and is its own: it can be compared,
    hashed and pickled.
    """
    mine = {"run": "night 7", "who": "Zoë"}
    request = CreateSession("batch")
    record = LedgerRecord.intent(request, base_url="https://x", instance=None, now=NOW, labels=mine)
    mine["run"] = "changed"
    assert record.labels == {"run": "night 7", "who": "Zoë"}
    assert hash(record) == hash(attrs.evolve(record))
    assert record != attrs.evolve(record, labels={})
    assert pickle.loads(pickle.dumps(record)) == record  # noqa: S301 - our own
    ledger = LocalLedger(place)
    run(ledger.record(record))
    run(ledger.record(record.becomes(CREATED, now=NOW, session_id="s-1")))
    die()
    (entry,) = files.read_all(place, NOW)
    assert entry.record.labels == record.labels


def test_a_record_without_labels_is_written_as_ever() -> None:
    """A line without labels is a record without them, and is written the same; one whose labels
    have a wrong form can't be read.
    """
    record = intent()
    assert b"labels" not in body_of(record)
    assert lines.parse_line(body_of(record)) == record
    wrong = body_of(record).replace(b"{", b'{"labels":{"run":1},', 1)
    assert lines.parse_line(wrong) is None


def test_a_later_versions_state() -> None:
    """A state that a later version added is read as unknown: the session may be there."""
    assert RecordState("paused") is RecordState.UNKNOWN


@pytest.mark.smoke
def test_a_life(place: Path) -> None:
    """Each step replaces the one before; a session that ended is no longer listed, and nothing is
    left of the ledger at its end.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    assert run(entries_of(ledger)) == [(record.key, "intent", Liveness.ALIVE)]
    created = record.becomes(CREATED, now=NOW + 1, session_id="s-1")
    run(ledger.record(created))
    (entry,) = run(ledger.entries())
    assert entry.record == created
    assert entry.owner.pid == os.getpid()
    run(ledger.record(created.becomes(ENDED, now=NOW + 2)))
    assert run(entries_of(ledger)) == []
    assert len(names(place)) == 1
    run(ledger.aclose())
    run(ledger.aclose())
    assert names(place) == []


def test_only_its_user_reads_it(place: Path) -> None:
    """The directory is made for its user only, and so is a file."""
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(place).stat().st_mode) == 0o600
    run(ledger.aclose())


def test_reading_makes_nothing(place: Path) -> None:
    """Where nothing was recorded there is nothing, and looking at it doesn't make it."""
    ledger = LocalLedger(place)
    assert run(ledger.entries()) == []
    run(ledger.aclose())
    assert not place.exists()


def test_what_is_open_at_the_end_stays(place: Path) -> None:
    """Records that are open when their process ends are a dead owner's, oldest first, and can be
    amended until none is open.
    """
    ledger, reader = LocalLedger(place), LocalLedger(place)
    later, earlier = intent(asked_at=NOW + 1), intent(asked_at=NOW)
    run(ledger.record(later))
    run(ledger.record(earlier))
    entries = run(reader.entries())
    assert not run(amend(reader, entries[0], earlier.becomes(ENDED, now=NOW)))
    die()
    entries = run(reader.entries())
    assert [(one.record.key, one.owner.liveness) for one in entries] == [
        (earlier.key, Liveness.DEAD),
        (later.key, Liveness.DEAD),
    ]
    found = earlier.becomes(CREATED, now=NOW + 2, session_id="s-1")
    assert run(amend(reader, entries[0], found))
    assert [one.record for one in run(reader.entries())] == [found, later]
    assert run(amend(reader, entries[0], found.becomes(ENDED, now=NOW + 3)))
    assert not run(amend(reader, entries[0], found.becomes(ENDED, now=NOW + 3)))
    assert [one.record for one in run(reader.entries())] == [later]
    assert run(amend(reader, entries[1], later.becomes(ENDED, now=NOW + 4)))
    assert names(place) == []
    assert not run(amend(reader, entries[1], later.becomes(ENDED, now=NOW + 4)))
    run(reader.aclose())


def left_by_the_dead(place: Path, *records: LedgerRecord) -> Path:
    """Leave a dead owner's file with records, and give its path."""
    ledger = LocalLedger(place)

    async def record() -> None:
        await asyncio.gather(*map(ledger.record, records))

    known = set(names(place)) if place.exists() else set()
    run(record())
    die()
    (name,) = set(names(place)) - known
    return place / name


def ended(entry: LedgerEntry) -> tuple[LedgerEntry, LedgerRecord]:
    """Give the change that puts an entry to ended."""
    return entry, entry.record.becomes(ENDED, now=NOW)


def test_many_are_amended_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is amended in one call costs each file one opening and one fsync, and each file in which
    nothing is open any more goes.
    """
    paths = [left_by_the_dead(place, *(intent() for _ in range(20))) for _ in range(3)]
    reader = LocalLedger(place)
    entries = run(reader.entries())
    (stays,) = [number for number, entry in enumerate(entries) if entry.source == str(paths[0])][:1]
    opened, synced = [], []
    real_open, fsync = os.open, os.fsync

    def count(path: str | Path, *args: Any) -> int:
        opened.append(str(path))
        return real_open(path, *args)

    def sync(fd: int) -> None:
        synced.append(fd)
        fsync(fd)

    with monkeypatch.context() as counted:
        counted.setattr(os, "open", count)
        counted.setattr(os, "fsync", sync)
        changes = [ended(entry) for entry in entries if entry is not entries[stays]]
        assert run(reader.amend(changes)) == [True] * 59
    assert sorted(opened) == sorted(map(str, paths))
    assert len(synced) == 3
    assert [one.record for one in run(reader.entries())] == [entries[stays].record]
    assert names(place) == [paths[0].name]
    assert run(reader.amend([])) == []
    run(reader.aclose())


def test_only_what_is_open_is_amended(place: Path) -> None:
    """Of many changes each that can't be made is told as such: a record that has ended, in the same
    call too, or that isn't there.
    """
    first, second, third = intent(), intent(), intent()
    path = left_by_the_dead(place, first, second)
    over = first.becomes(ENDED, now=NOW)
    drains = second.becomes(DRAINING, now=NOW)
    assert files.amend(path, [over, over, third, drains, first]) == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert [one.record for one in files.read_all(place, NOW)] == [drains]


def test_a_file_that_cant_be_amended_keeps_no_other_from_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one of several files can't be written, the call fails and names it, and the others were
    amended.
    """
    paths = [left_by_the_dead(place, intent(asked_at=NOW + number)) for number in range(3)]
    reader = LocalLedger(place)
    entries = run(reader.entries())
    monkeypatch.setattr(os, "open", refuse(errno.EIO, paths[1]))
    with pytest.raises(LedgerUnavailable, match=re.escape(str(paths[1]))):
        run(reader.amend([ended(entry) for entry in entries]))
    monkeypatch.undo()
    assert run(reader.entries()) == [entries[1]]
    run(reader.aclose())


def many_left(place: Path, number: int) -> tuple[Path, list[LedgerRecord]]:
    """Leave a dead owner's file with so many records, three lines for each, and give its path and
    the newest of each.
    """
    drains = [intent(state=DRAINING, session_id=f"s-{one}") for one in range(number)]
    path = left_by_the_dead(place, drains[0])
    body = body_of(*drains)
    with path.open("ab") as file:
        for state in (b"intent", b"created", b"draining"):
            file.write(body.replace(b"draining", state))
    return path, drains


def test_amending_reads_a_file_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its records are listed or amended, 10,000 for example, a file is read once
    for that.
    """
    path, left = many_left(place, 10_000)
    size, read = path.stat().st_size, 0
    real = os.read

    def count(fd: int, number: int) -> bytes:
        nonlocal read
        chunk = real(fd, number)
        read += len(chunk)
        return chunk

    monkeypatch.setattr(os, "read", count)
    assert [one.record for one in files.read_all(place, NOW)] == left
    assert read == size
    assert files.amend(path, [one.becomes(ENDED, now=NOW) for one in left]) == [True] * 10_000
    assert read == 2 * size
    assert names(place) == []


def test_reading_takes_little_memory(place: Path) -> None:
    """Reading takes some 2 kB for each open record, and nothing for each that has ended."""
    _, left = many_left(place, 1000)
    over = place.with_name("over")
    path = left_by_the_dead(over, intent())
    with path.open("ab") as file:
        file.write(
            body_of(*(state for one in left for state in (one, one.becomes(ENDED, now=NOW))))
        )

    def peak(directory: Path) -> int:
        tracemalloc.start()
        try:
            files.read_all(directory, NOW)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(place) < 4000 * len(left)
    assert peak(over) < 1000 * len(left)


def test_a_file_is_read_the_same_in_any_pieces(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a piece ends that is read at a time, the lines are the same."""
    one, two = intent(), intent(backend="ibm_ä")
    path = left_by_the_dead(place, one, two)
    with path.open("ab") as file:
        file.write(body_of(one.becomes(ENDED, now=NOW)) + b'{"torn')
    size = path.stat().st_size
    for piece in (1, 2, 3, 7, 64, size - 1, size, size + 1):
        monkeypatch.setattr(disk, "CHUNK_BYTES", piece)
        assert [entry.record for entry in files.read_all(place, NOW)] == [two]


def test_what_a_closed_ledger_left_is_its_process_s(place: Path) -> None:
    """Who closes its ledgers and lives on still owns what is open, in one file whatever number of
    them; none of it is listed twice.
    """
    reader = LocalLedger(place)
    left = [intent() for _ in range(3)]
    for record in left:
        ledger = LocalLedger(place)
        run(ledger.record(record))
        run(ledger.aclose())
    entries = run(reader.entries())
    assert {(one.record.key, one.owner.liveness) for one in entries} == {
        (record.key, Liveness.ALIVE) for record in left
    }
    assert len(names(place)) == 1
    assert not run(amend(reader, entries[0], entries[0].record.becomes(ENDED, now=NOW)))
    assert all_locked(place)
    die()
    assert {one.owner.liveness for one in run(reader.entries())} == {Liveness.DEAD}


def test_what_a_closed_ledger_left_stays_when_it_cant_be_put_together(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is full each closed ledger's file stays as it is, with its lock, and its
    thread ends.
    """
    ledgers = [LocalLedger(place) for _ in range(2)]
    left = [intent() for _ in ledgers]
    for ledger, record in zip(ledgers, left, strict=True):
        run(ledger.record(record))
    run(ledgers[0].aclose())

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(LedgerUnavailable, match="No space left on device"):
            run(ledgers[1].aclose())
    assert ledgers[1]._places[0]._thread is not None
    ledgers[1]._places[0]._thread.join(timeout=10)
    assert not ledgers[1]._places[0]._thread.is_alive()
    assert len(names(place)) == 2
    entries = run(LocalLedger(place).entries())
    assert [one.owner.liveness for one in entries] == [Liveness.ALIVE, Liveness.ALIVE]
    later = LocalLedger(place)
    run(later.record(record := intent()))
    run(later.aclose())
    # The file that may end in the midst of a line was made anew.
    assert len(names(place)) == 2
    assert all_locked(place)
    entries = run(LocalLedger(place).entries())
    assert {(one.record.key, one.owner.liveness) for one in entries} == {
        (one.key, Liveness.ALIVE) for one in (*left, record)
    }


def test_a_dead_file_with_nothing_open_is_tidied_up(place: Path) -> None:
    """A reader deletes what a dead owner left with nothing open, and a file that somebody began and
    never finished, a day later.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    path = only_file(place)
    body = path.read_bytes()
    die()
    path.write_bytes(body + body.splitlines()[-1].replace(b'"intent"', b'"ended"') + b"\n")
    for name, age in (("old.draft", 86_401), ("new.draft", 86_399)):
        (place / name).touch()
        os.utime(place / name, (NOW, NOW - age))
    reader = LocalLedger(place, clock=ManualClock(NOW).clock)
    assert run(reader.entries()) == []
    assert names(place) == ["new.draft"]
    run(reader.aclose())


async def test_records_that_come_together_share_one_fsync(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred records at once cost a few fsyncs, not a hundred; each is on the disk when its call
    returns.
    """
    counted: list[int] = []
    fsync = os.fsync

    def count(fd: int) -> None:
        counted.append(fd)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", count)
    ledger = LocalLedger(place)
    await ledger.record(intent())
    counted.clear()
    await asyncio.gather(*(ledger.record(intent()) for _ in range(100)))
    assert 1 <= len(counted) <= 20
    assert len(await ledger.entries()) == 101
    await ledger.aclose()


async def test_a_cancelled_record_is_written(place: Path) -> None:
    """Cancelling the call that records ends its wait and not the writing."""
    ledger = LocalLedger(place)
    record = intent()
    task = asyncio.create_task(ledger.record(record))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await entries_of(ledger) == [(record.key, "intent", Liveness.ALIVE)]
    await ledger.aclose()


def test_a_closed_ledger_refuses(place: Path) -> None:
    """After `aclose` every call says that the ledger was closed."""
    ledger = LocalLedger(place)
    run(ledger.aclose())
    for call in (ledger.record(intent()), ledger.entries()):
        with pytest.raises(LedgerUnavailable, match="was closed"):
            run(call)


def test_two_ledgers_of_one_process_keep_their_locks(place: Path) -> None:
    """Reading another ledger of the same process doesn't drop its lock, as closing its file would."""
    one, two = LocalLedger(place), LocalLedger(place)
    run(one.record(intent()))
    run(two.record(intent()))
    for ledger in (one, two):
        assert {alive for _, _, alive in run(entries_of(ledger))} == {Liveness.ALIVE}
    assert all_locked(place)
    run(one.aclose())
    run(two.aclose())


def test_a_large_file_is_made_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has grown is replaced by one that holds only what is open, and goes where nothing
    is.
    """
    monkeypatch.setattr(files, "_LARGE_BYTES", 2000)
    ledger = LocalLedger(place)
    stays = intent()
    run(ledger.record(stays))
    first = only_file(place)
    for _ in range(10):
        passing = intent()
        run(ledger.record(passing))
        run(ledger.record(passing.becomes(ENDED, now=NOW)))
    assert only_file(place) != first
    assert only_file(place).stat().st_size < 4000
    assert run(entries_of(ledger)) == [(stays.key, "intent", Liveness.ALIVE)]
    run(ledger.aclose())


async def test_what_is_over_takes_no_room(
    place: Path, monkeypatch: pytest.MonkeyPatch, recording: Recording
) -> None:
    """However many sessions a process has had, nothing in its memory is about those that are over,
    and its file stays small.
    """
    monkeypatch.setattr(files, "_LARGE_BYTES", 20_000)
    ledger = LocalLedger(place)
    recorder = recording(ledger)

    async def life(number: int) -> None:
        key, session_id = f"k-{number}", f"s-{number}"
        await ask(recorder, key)
        if number % 3 == 0:
            recorder.not_created(key)
            return
        if number % 3 == 1:
            recorder.created(key, session_id)
        else:
            recorder.unknown(key, session_id)
        recorder.updated(session_id, accepting_jobs=False)
        recorder.ended(session_id)

    def size() -> int:
        return max((path.stat().st_size for path in place.iterdir()), default=0)

    largest = 0
    for _ in range(10):
        await asyncio.gather(*map(life, range(100)))
        await recorder.flush()
        largest = max(largest, await asyncio.to_thread(size))
    # Nothing makes it anew in the midst of what comes together.
    assert largest < 20_000 + 100 * 4 * 300
    held = (
        recorder._open,
        recorder._by_session,
        recorder._failed,
        recorder._writers,
        recorder.draining,
    )
    assert [len(one) for one in held] == [0] * 5
    (engine,) = ledger._places
    assert engine._open == {}
    assert engine._records.empty()
    assert engine._file is None or engine._file.records == {}
    await recorder.aclose()
    await ledger.aclose()
    assert await asyncio.to_thread(names, place) == []


async def test_without_a_ledger_nothing_is_held(recording: Recording) -> None:
    """Where nothing is recorded, nothing is remembered of any session either."""
    recorder = recording(None)
    await ask(recorder, "k")
    recorder.created("k", "s-1")
    recorder.not_created("k")
    await recorder.written("k")
    assert not recorder.enabled
    assert not recorder._open
    assert not recorder._by_session
    await recorder.aclose()


@pytest.mark.parametrize("is_open", [True, False])
def test_a_file_that_somebody_deleted(place: Path, is_open: bool) -> None:
    """When the file is deleted under its owner, the next record brings all that is open back."""
    ledger = LocalLedger(place)
    stays, ends = intent(), intent()
    if is_open:
        run(ledger.record(stays))
    run(ledger.record(ends))
    only_file(place).unlink()
    run(ledger.record(ends.becomes(ENDED, now=NOW)))
    assert run(entries_of(ledger)) == ([(stays.key, "intent", Liveness.ALIVE)] if is_open else [])
    run(ledger.aclose())


def test_a_copy_of_a_record_counts_once(place: Path) -> None:
    """An owner that died while it made its file anew left its records twice; each is listed once,
    the newer, a living owner's first.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    path = only_file(place)
    old = path.read_bytes()
    (place / "0.jsonl").write_bytes(old)
    newer = record.becomes(CREATED, now=NOW + 1, session_id="s-1")
    run(ledger.record(newer))
    (place / "f.jsonl").write_bytes(old)
    assert run(entries_of(ledger)) == [(record.key, "created", Liveness.ALIVE)]
    run(ledger.aclose())


def body_of(*records: LedgerRecord) -> bytes:
    """Give lines as a file has them."""
    return lines.record_lines(records)


def test_a_torn_last_line_at_every_offset() -> None:
    """Wherever a crash tore the last line, the records before it are read, and the last one whole
    or not at all.
    """
    first = intent().becomes(CREATED, now=NOW, session_id="s-1")
    last = first.becomes(DRAINING, now=NOW + 1)
    before, line = body_of(first), body_of(last)
    for cut in range(len(line) + 1):
        _, records, is_whole = parsed(before + line[:cut])
        assert is_whole
        # Only the line's end may be missing.
        assert records == {first.key: last if cut >= len(line) - 1 else first}


def test_amending_a_torn_file_at_every_offset(place: Path) -> None:
    """What a reaper adds after a torn line is read, whatever was torn."""
    ledger = LocalLedger(place)
    record = intent().becomes(CREATED, now=NOW, session_id="s-1")
    run(ledger.record(record))
    die()
    path = only_file(place)
    body = path.read_bytes()
    line = body_of(record.becomes(DRAINING, now=NOW + 1))
    amended = record.becomes(DRAINING, now=NOW + 2)
    for cut in range(len(line)):
        path.write_bytes(body + line[:cut])
        assert amend_file(path, amended)
        assert [one.record for one in files.read_all(place, NOW)] == [amended]


def test_a_torn_file_goes_with_its_last_open_record(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a crash tore was not recorded yet: it keeps no file from being deleted, in however many
    steps it is amended.
    """
    ledger = LocalLedger(place)
    first, second = intent(), intent()
    run(ledger.record(first))
    run(ledger.record(second))
    die()
    path = only_file(place)
    with path.open("ab") as file:
        file.write(body_of(intent())[:50])
    for record in (first, second):
        assert len(files.read_all(place, NOW)) == 2
        assert amend_file(path, record.becomes(DRAINING, now=NOW + 1))
    for record in (first, second):
        assert amend_file(path, record.becomes(ENDED, now=NOW + 2))
    assert names(place) == []
    assert caplog.records == []


def test_a_torn_file_with_nothing_open_is_tidied_up(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead owner's file in which all has ended goes, with blank lines in it and a last line that
    was torn.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    die()
    with only_file(place).open("ab") as file:
        file.write(b"\n \r\n" + body_of(record.becomes(ENDED, now=NOW)) + body_of(intent())[:50])
    assert files.read_all(place, NOW) == []
    assert names(place) == []
    assert caplog.records == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body.replace(b'"mode":', b'"mo\x00e":'),
        lambda body: body.split(b"\n")[0] + b"\n",
        lambda body: body[: body.index(b"\n") + 80],
        lambda body: body.replace(b'"intent"', b'"ended"') + b'{"sessions":["s-1"]}\n',
    ],
    ids=[
        "every record is damaged",
        "no record is left",
        "half a record is left",
        "a later version's line",
    ],
)
def test_a_file_that_cant_be_read_wholly_is_kept(
    place: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    """A dead owner's file is deleted only if all of it was read: else it is told, once in each
    reading, and stays, with the ids in it.
    """
    ledger = LocalLedger(place)
    run(ledger.record(intent(session_id="s-1")))
    die()
    path = only_file(place)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    for reading in (1, 2):
        assert files.read_all(place, NOW) == []
        assert path.read_bytes() == damaged
        assert len(caplog.records) == reading
    assert f"{path} can't be read wholly" in caplog.text
    assert "delete it" in caplog.text


def test_a_damaged_file_is_kept_when_its_last_open_record_ends(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever ends the last session that could be read leaves the file with those that couldn't."""
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    run(ledger.record(intent(session_id="s-1", backend="damaged")))
    die()
    path = only_file(place)
    path.write_bytes(path.read_bytes().replace(b'"damaged"', b"damaged"))
    (entry,) = files.read_all(place, NOW)
    assert str(path) in caplog.text
    assert amend_file(path, entry.record.becomes(ENDED, now=NOW))
    assert files.read_all(place, NOW) == []
    assert b'"s-1"' in path.read_bytes()


def test_a_corrupt_line_takes_nothing_with_it() -> None:
    """Lines after one that can't be read are read."""
    one, two = intent(), intent()
    for damage in (
        b"\x00" * 40,
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"key": 5}',
        b"[]",
        b'{"ledger": 1}',
        b"",
    ):
        header, records, is_whole = parsed(body_of(one) + damage + b"\n" + body_of(two))
        assert header is None
        assert list(records.values()) == [one, two]
        assert is_whole is (damage == b"")


@given(st.binary(), st.binary())
def test_any_bytes(before: bytes, after: bytes) -> None:
    """Whatever bytes stand around a record, reading fails at nothing and finds it."""
    record = intent()
    _, records, _ = parsed(before + b"\n" + body_of(record) + after)
    assert records[record.key] == record


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["ledger", *attrs.fields_dict(LedgerRecord), "pid", "host"]), JSON
    )
)
def test_any_fields(value: dict[str, Any]) -> None:
    """Whatever its fields hold, a line is a record or none, and what is read can be written."""
    _, records, _ = parsed(json.dumps(value).encode())
    for record in records.values():
        assert parsed(body_of(record))[1] == {record.key: record}


def test_fields_of_a_later_version() -> None:
    """A field that this version doesn't know is passed over, the record isn't."""
    record = intent()
    line = body_of(record).replace(b"{", b'{"colour":"red",', 1)
    assert parsed(line)[1] == {record.key: record}


def header(path: Path, **fields: Any) -> None:
    """Change a file's first line."""
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps(json.loads(first) | fields).encode() + b"\n" + rest)


@pytest.mark.parametrize(
    ("fields", "reach", "liveness"),
    [
        ({}, Reach.UNKNOWN, Liveness.DEAD),
        ({"host": "other"}, Reach.UNKNOWN, Liveness.DEAD),
        ({"system": "before"}, Reach.PRIVATE, Liveness.DEAD),
        ({"system": "before", "host": "other"}, Reach.PRIVATE, Liveness.UNKNOWN),
        ({"system": "other", "host": "other", "shared": True}, Reach.SHARED, Liveness.DEAD),
        ({"system": "other", "host": "other", "shared": False}, Reach.SHARED, Liveness.UNKNOWN),
        ({"system": "other", "shared": True}, Reach.UNKNOWN, Liveness.UNKNOWN),
        ({"locked": False}, Reach.PRIVATE, Liveness.UNKNOWN),
        ({"inode": 1}, Reach.PRIVATE, Liveness.UNKNOWN),
        ({"pid": "no number"}, Reach.PRIVATE, Liveness.UNKNOWN),
    ],
)
def test_a_free_lock(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    reach: Reach,
    liveness: Liveness,
) -> None:
    """A free lock says that the owner is dead only where the owner's lock would be seen; else it
    can't be told, and nothing is amended.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    die()
    path = only_file(place)
    header(path, **fields)
    monkeypatch.setattr(locks, "reach", lambda _: reach)
    (entry,) = files.read_all(place, NOW)
    assert entry.owner.liveness is liveness
    assert amend_file(path, record.becomes(ENDED, now=NOW)) is (liveness is Liveness.DEAD)


MOUNTS = r"""
rootfs / rootfs rw 0 0
/dev/vda / ext4 rw,relatime 0 0
auto.home /home autofs rw,fd=7 0 0
filer:/home /home nfs4 rw,vers=4.2,local_lock=none,addr=10.0.0.1 0 0
filer:/old /home/old nfs rw,vers=3,nolock,local_lock=all 0 0
mds@tcp:/l /scratch lustre rw,flock 0 0
mds@tcp:/m /wide lustre rw,localflock 0 0
//box/x /with\040space cifs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("directory", "reach"),
    [
        ("/", Reach.PRIVATE),
        ("/var/lib", Reach.PRIVATE),
        ("/homes", Reach.PRIVATE),
        ("/home/me/.local", Reach.SHARED),
        ("/home/old/me", Reach.UNKNOWN),
        ("/scratch", Reach.SHARED),
        ("/wide/me", Reach.UNKNOWN),
        ("/with space/me", Reach.UNKNOWN),
    ],
)
def test_reach(directory: str, reach: Reach) -> None:
    """The mount table tells how far a lock reaches; what it doesn't tell isn't guessed."""
    assert locks.reach_in(MOUNTS, directory) is reach


def test_reach_without_a_table() -> None:
    """A platform without mount table or boot id: the machine's name stands for both."""
    assert locks.reach_in("", "/home") is Reach.UNKNOWN


def test_another_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no /proc, the running system is told by the machine's name, and how far locks
    reach isn't known.
    """
    monkeypatch.setattr(locks, "_BOOT_ID", tmp_path / "none")
    monkeypatch.setattr(locks, "_MOUNTS", tmp_path / "none")
    locks.running_system.cache_clear()
    try:
        assert locks.running_system() == socket.gethostname()
        assert locks.reach(tmp_path) is Reach.UNKNOWN
    finally:
        locks.running_system.cache_clear()


def test_a_platform_without_fcntl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module can be imported where there is no fcntl, and then has no locks to give."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("locks_elsewhere", locks.__file__)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    assert not elsewhere.available()
    assert not elsewhere.hold(0)


def test_without_locks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a platform without these locks records are kept and listed; whether another owner lives
    can't be told.
    """
    monkeypatch.setattr(locks, "fcntl", None)
    ledger, reader = LocalLedger(place), LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    assert run(entries_of(reader)) == [(record.key, "intent", Liveness.ALIVE)]
    die()
    (entry,) = run(reader.entries())
    assert entry.owner.liveness is Liveness.UNKNOWN
    assert not run(amend(reader, entry, record.becomes(ENDED, now=NOW)))
    run(reader.record(record))
    run(reader.record(record.becomes(ENDED, now=NOW)))
    run(reader.aclose())
    assert only_file(place) == Path(entry.source)


def test_a_file_system_without_locks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system refuses locks, records are kept, and whether their owner lives can't be
    told.
    """

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    ledger = LocalLedger(place)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    run(ledger.record(intent()))
    die()
    monkeypatch.undo()
    (entry,) = files.read_all(place, NOW)
    assert entry.owner.liveness is Liveness.UNKNOWN


def test_a_lock_that_cant_be_had_for_changing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead owner's file is left as it is where others can't be kept from it, or where it went
    meanwhile.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    die()
    path = only_file(place)
    before = path.read_bytes()
    monkeypatch.setattr(locks, "exclude", lambda _: False)
    assert not amend_file(path, record.becomes(ENDED, now=NOW))
    assert path.read_bytes() == before

    def gone(_: int) -> bool:
        path.unlink()
        return True

    monkeypatch.setattr(locks, "exclude", gone)
    assert not amend_file(path, record.becomes(ENDED, now=NOW))


def test_strange_things_in_the_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipe, a socket, a folder and a link are told and take nothing from what can be read; nobody
    waits for a pipe.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    os.mkfifo(place / "pipe.jsonl")
    (place / "folder.jsonl").mkdir()
    (place / "notes.txt").write_text("{}")
    (place / "link.jsonl").symlink_to("/nowhere")
    (place / "link.draft").symlink_to("/nowhere")
    # A socket's path must be short.
    monkeypatch.chdir(place)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jsonl")
    assert run(entries_of(ledger)) == [(record.key, "intent", Liveness.ALIVE)]
    told = [Path(one.args[0]).name for one in caplog.records if isinstance(one.args, tuple)]  # type: ignore[arg-type]
    assert told == ["folder.jsonl", "link.jsonl", "pipe.jsonl", "socket.jsonl"]
    run(ledger.aclose())


def test_a_strange_name_is_told_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the log tells of a file or a directory is one line, whatever its name has, and nothing
    that a terminal would obey.
    """
    place = tmp_path / "a\x1b[31m\nb"
    path = left_by_the_dead(place, intent())
    path.write_bytes(b"{damaged\n" + path.read_bytes())
    (place / "c\nd.jsonl").mkdir()
    place.chmod(0o777)
    files.read_all(place, NOW)
    assert len(caplog.records) == 3
    assert all(record.getMessage().isprintable() for record in caplog.records)


def refuse(number: int, path: Path) -> Callable[..., int]:
    """Give an `os.open` that has an error for one path, and opens all others."""
    real = os.open

    def opened(what: str | Path, *args: Any, **more: Any) -> int:
        if Path(what) == path:
            raise OSError(number, os.strerror(number), str(path))
        return real(what, *args, **more)

    return opened


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_of_another_user(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """A file that this user may not read is told in the log, and doesn't keep the others from being
    read.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    (place / "theirs.jsonl").touch()
    monkeypatch.setattr(os, "open", refuse(number, place / "theirs.jsonl"))
    assert run(entries_of(ledger)) == [(record.key, "intent", Liveness.ALIVE)]
    assert "theirs.jsonl can't be read" in caplog.text
    run(ledger.aclose())


def given_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file or directory another user's; where this user may not, make this user another one
    for the ledger.
    """
    if os.geteuid() == 0:
        os.chown(path, 65_534, -1)
    else:
        monkeypatch.setattr(disk, "user", lambda: os.geteuid() + 1)


def test_what_another_user_planted(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that another user can have written is passed over, and told: no record in it is
    listed, none can be amended.
    """
    path = left_by_the_dead(place, intent(session_id="theirs"))
    (entry,) = files.read_all(place, NOW)
    given_to_another(path, monkeypatch)
    before = path.read_bytes()
    assert files.read_all(place, NOW) == []
    assert f"{path} can't be read: it belongs to another user, {path.stat().st_uid}" in caplog.text
    with pytest.raises(LedgerUnavailable, match="belongs to another user"):
        run(amend(LocalLedger(place), *ended(entry)))
    assert path.read_bytes() == before


def test_what_another_user_planted_stops_nobody(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock and a damaged line in another user's file don't count for a living owner's damage, and
    nobody waits for that lock.
    """
    path = left_by_the_dead(place, intent())
    path.write_bytes(path.read_bytes() + b"{damaged\n{}\n")
    given_to_another(path, monkeypatch)

    def asked(_: int) -> bool:
        raise AssertionError("its lock counts for nothing")

    monkeypatch.setattr(locks, "is_held", asked)
    monkeypatch.setattr(locks, "exclude", asked)
    assert files.read_all(place, NOW) == []
    with pytest.raises(OSError, match="another user"):
        files.amend(path, ())


def test_another_users_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory of another user's is used, and told once."""
    place.mkdir(parents=True)
    given_to_another(place, monkeypatch)
    for _ in range(2):
        files.read_all(place, NOW)
    assert [one.getMessage() for one in caplog.records] == [
        f"the ledger's directory {place} belongs to another user, {place.stat().st_uid}"
    ]


@pytest.mark.parametrize(
    ("above", "mode", "is_told"),
    [
        (0, 0o755, False),
        (0, 0o770, True),
        (0, 0o702, True),
        (0, 0o1777, True),
        (1, 0o775, False),
        (1, 0o777, True),
        (1, 0o1777, False),
    ],
)
def test_a_directory_that_others_can_write(
    place: Path, caplog: pytest.LogCaptureFixture, above: int, mode: int, is_told: bool
) -> None:
    """Where others can write in the directory, or put another in its place, it is told once,
    whoever records or reads.
    """
    place.mkdir(parents=True)
    level = (place, *place.parents)[above]
    level.chmod(mode)
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    assert len(run(ledger.entries())) == 1
    run(ledger.aclose())
    told = [f"other users can write in {level}, where the ledger is: remove that permission"]
    assert [one.getMessage() for one in caplog.records] == told * is_told


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_each_level_is_its_users_alone(
    place: Path, mask: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the umask: each level that is made is for its user only, and so is a file, and both
    can be read again.
    """
    before = os.umask(mask)
    try:
        left_by_the_dead(place, intent())
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (place.parent, place)] == [0o700, 0o700]
    assert stat.S_IMODE(only_file(place).stat().st_mode) == 0o600
    assert len(files.read_all(place, NOW)) == 1
    assert caplog.text == ""


def test_a_level_that_another_process_makes_meanwhile(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two owners that make the directory at once don't get in each other's way."""
    real = Path.mkdir

    def twice(self: Path, mode: int = 0o777) -> None:
        real(self, mode)
        real(self, mode)

    monkeypatch.setattr(Path, "mkdir", twice)
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    assert len(run(ledger.entries())) == 1
    run(ledger.aclose())


def test_a_platform_without_owners(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files tell no owner, each file counts."""
    left_by_the_dead(place, intent())
    monkeypatch.delattr(os, "geteuid")
    assert len(files.read_all(place, NOW)) == 1


def grown(path: Path) -> None:
    """Let a file grow beyond what is read, without taking the disk's room."""
    with path.open("r+b") as file:
        file.truncate(files.MOST_BYTES + 1)


def test_a_huge_file_is_damaged(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of more than 64 MiB counts as damaged and is kept; no more of it is read than tells
    whose it is, nothing is amended.
    """
    record = intent()
    path = left_by_the_dead(place, record)
    grown(path)
    sizes: list[int] = []
    read = os.read

    def counted(fd: int, size: int) -> bytes:
        sizes.append(size)
        return read(fd, size)

    monkeypatch.setattr(os, "read", counted)
    assert files.read_all(place, NOW) == []
    assert f"{path} can't be read wholly, so it is kept" in caplog.text
    assert not amend_file(path, record.becomes(ENDED, now=NOW))
    assert path.stat().st_size == files.MOST_BYTES + 1
    assert sum(sizes) < 1024 * 1024


def test_a_huge_file_of_a_living_owner(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lives and has a file that can't be read keeps others from believing the rest."""
    path = left_by_the_dead(place, intent())
    grown(path)
    monkeypatch.setattr(locks, "is_held", lambda _: True)
    with pytest.raises(LedgerUnavailable, match="is damaged, and its owner lives"):
        files.read_all(place, NOW)


def test_no_owner_makes_a_huge_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is made anew before it is larger than what is read, however much of it is open."""
    monkeypatch.setattr(files, "_LARGE_BYTES", 1000)
    monkeypatch.setattr(files, "MOST_BYTES", 20_000)
    ledger = LocalLedger(place)
    record = intent()
    for one in [*(intent() for _ in range(30)), *[record] * 60]:
        run(ledger.record(one))
        assert only_file(place).stat().st_size < 20_000
    run(ledger.aclose())


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EINTR]
)
def test_a_file_that_cant_be_opened_just_now(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A file that a later try may read fails the reading, by name: who believes a list without it
    ends what a living owner has.
    """
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    die()
    path = only_file(place)
    monkeypatch.setattr(os, "open", refuse(number, path))
    with pytest.raises(LedgerUnavailable, match=f"{os.strerror(number)}: {re.escape(str(path))}"):
        run(LocalLedger(place).entries())
    monkeypatch.undo()
    assert len(run(LocalLedger(place).entries())) == 1


def test_a_file_that_cant_be_read_to_its_end_just_now(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of a file fails the reading and names the file, too."""
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    die()

    def broken(fd: int, size: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "read", broken)
    with pytest.raises(LedgerUnavailable, match=re.escape(str(only_file(place)))):
        run(LocalLedger(place).entries())


def test_a_file_that_goes_while_it_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another reader deletes between listing and opening is no error."""
    place.mkdir(parents=True)
    monkeypatch.setattr(
        Path, "iterdir", lambda _: iter([place / "gone.jsonl", place / "gone.draft"])
    )
    assert files.read_all(place, NOW) == []
    assert files.amend(place / "gone.jsonl", ()) == []


def moving(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, *, times: int
) -> Callable[[Path], None]:
    """Let the file that is watched get a new name whenever a function is called, as a file that is
    made anew does, so many times.
    """
    real = getattr(where, name)
    at: list[Path] = []

    def call(*args: Any) -> Any:
        if at and len(at) <= times:
            at.append(at[0].with_name(f"{len(at)}.jsonl"))
            at[-2].rename(at[-1])
        return real(*args)

    monkeypatch.setattr(where, name, call)
    return at.append


@pytest.mark.parametrize(("where", "name"), [(os, "open"), (locks, "is_held")])
@pytest.mark.parametrize("times", [1, 3])
def test_a_file_that_is_made_anew_while_it_is_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, times: int
) -> None:
    """What gets another file after the listing, even when the old one was opened, is read from the
    new one, once.
    """
    ledger = LocalLedger(place)
    record = intent()
    run(ledger.record(record))
    die()
    watch = moving(monkeypatch, where, name, times=times)
    watch(only_file(place))
    (entry,) = files.read_all(place, NOW)
    assert (entry.record, entry.source) == (record, str(place / f"{times}.jsonl"))


def test_files_that_change_faster_than_they_can_be_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that never catches up with an owner says so in the end, and gives no list without
    it.
    """
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    die()
    watch = moving(monkeypatch, os, "open", times=1_000_000)
    watch(only_file(place))
    with pytest.raises(LedgerUnavailable, match="change faster than they can be read"):
        run(LocalLedger(place).entries())


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    """A directory that can't be made or read is a clear error that names it."""
    (tmp_path / "file").touch()
    ledger = LocalLedger(tmp_path / "file")
    for call in (ledger.record(intent()), ledger.entries()):
        with pytest.raises(LedgerUnavailable, match="can't be used: ") as caught:
            run(call)
        assert str(tmp_path / "file") in str(caught.value)
    run(ledger.aclose())


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk refused, even in the middle of a line, is written with the next record that
    finds room; nothing torn is left.
    """
    ledger = LocalLedger(place)
    one, two, three = intent(), intent(), intent()
    run(ledger.record(one))
    write = os.write
    room = [30, 0, 0]

    def fills_up(fd: int, data: memoryview) -> int:
        part = room.pop(0)
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data[:part])

    with monkeypatch.context() as full:
        full.setattr(os, "write", fills_up)
        for record in (two, three):
            with pytest.raises(LedgerUnavailable, match="No space left on device"):
                run(ledger.record(record))
    assert len(names(place)) == 1
    run(ledger.record(one.becomes(CREATED, now=NOW, session_id="s-1")))
    assert {key for key, _, _ in run(entries_of(ledger))} == {one.key, two.key, three.key}
    assert only_file(place).read_bytes().count(b"\n") == 4
    run(ledger.aclose())


def test_a_directory_that_is_read_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only file system what is there can be read, nothing is changed, and what it refused
    is written once it may be.
    """
    dead, ledger = LocalLedger(place), LocalLedger(place)
    old, refused, new = intent(), intent(), intent()
    run(dead.record(old))
    die()
    real = os.open

    def read_only(path: str | Path, flags: int, *args: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *args, **more)

    with monkeypatch.context() as disk:
        disk.setattr(os, "open", read_only)
        (entry,) = run(ledger.entries())
        assert (entry.record, entry.owner.liveness) == (old, Liveness.DEAD)
        for call in (ledger.record(refused), amend(ledger, entry, old.becomes(ENDED, now=NOW))):
            with pytest.raises(LedgerUnavailable, match="Read-only file system"):
                run(call)
        assert only_file(place) == Path(entry.source)
    run(ledger.record(new))
    assert {one.record.key for one in run(ledger.entries())} == {old.key, refused.key, new.key}
    run(ledger.aclose())


def test_an_error_that_isnt_the_file_systems(place: Path) -> None:
    """What can't be written as a record at all fails its own call as itself, and the ledger works
    on.
    """
    ledger = LocalLedger(place)
    with pytest.raises(AttributeError):
        run(ledger.record("no record"))  # type: ignore[arg-type]
    run(ledger.record(intent()))
    assert len(run(ledger.entries())) == 1
    run(ledger.aclose())


def test_a_directory_that_cant_be_synced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that can't make names durable is used all the same."""
    fsync = os.fsync

    def only_files(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", only_files)
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    run(ledger.aclose())


def test_the_default_place(home: Path) -> None:
    """Without a path the ledger is in the platform's directory for an application's state."""
    assert str(home) in repr(LocalLedger())
    assert repr(LocalLedger("~/mine")) == f"LocalLedger({str(home / 'mine')!r})"


EMULATED = "crn:v1:bluemix:public:quantum-computing:us-east:a/emulated0123456789abcdef01234567:8e5f2b1c-1111::"
REAL = EMULATED.replace("emulated0", "0123456789")


def test_an_emulators_sessions_have_a_place_of_their_own(home: Path) -> None:
    """In the default place what is recorded of an emulator goes beside what is recorded of the
    service, and can be had by itself.
    """
    ledger = LocalLedger()
    emulated, *real = [
        intent(instance=one, asked_at=NOW + n) for n, one in enumerate((EMULATED, REAL, None, "x"))
    ]
    for record in (*real, emulated):
        run(ledger.record(record))
    beside = ledger._directory.with_name("ledger-emulated")
    assert len(names(ledger._directory)) == len(names(beside)) == 1
    assert [one.record for one in run(ledger.entries())] == [emulated, *real]
    for record in (*real, emulated):
        expected = [emulated] if record is emulated else real
        assert [one.record for one in run(ledger.place_of(record.instance).entries())] == expected
    die()
    reader = LocalLedger(clock=ManualClock(NOW).clock)
    assert run(reader.amend([ended(entry) for entry in run(reader.entries())])) == [True] * 4
    assert names(ledger._directory) == names(beside) == []
    run(reader.aclose())
    run(ledger.aclose())


def test_a_place_of_the_users_own_is_one(place: Path) -> None:
    """In a directory that was given, an emulator's sessions are with all others, and forgotten as
    little as they are.
    """
    records = [intent(instance=EMULATED), intent(instance=REAL)]
    left_by_the_dead(place, *records)
    ledger = LocalLedger(place, clock=ManualClock(NOW + 10_000_000).clock)
    assert ledger.place_of(EMULATED) is ledger.place_of(REAL)
    assert {one.record.key for one in run(ledger.entries())} == {one.key for one in records}
    assert names(place.parent) == [place.name]


def test_what_an_emulator_left_is_forgotten_after_a_day(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A dead owner's record of an emulator is gone a day after it was asked for; a living owner's
    isn't, nor is any of the service.
    """
    old, new, other = (
        intent(instance=EMULATED),
        intent(instance=EMULATED, asked_at=NOW + 1),
        intent(instance=REAL),
    )
    ledger = LocalLedger()
    for record in (old, new, other):
        run(ledger.record(record))
    later = LocalLedger(clock=ManualClock(NOW + 86_401).clock)
    assert len(run(later.entries())) == 3
    die()
    assert [one.record for one in run(later.entries())] == [other, new]
    assert [one.record for one in run(LocalLedger(clock=ManualClock(NOW).clock).entries())] == [
        other,
        new,
    ]
    much_later = LocalLedger(clock=ManualClock(NOW + 1_000_000).clock)
    assert [one.record for one in run(much_later.entries())] == [other]
    assert names(ledger._directory.with_name("ledger-emulated")) == []
    assert caplog.records == []


async def test_who_reads_for_the_service_needs_no_emulators(
    recording: Recording, home: Path
) -> None:
    """What can't be read in an emulator's place is no matter of whoever asks for the service's
    sessions.
    """
    recorder = recording("local")
    await ask(recorder, "k", instance=REAL)
    await asyncio.to_thread((home / ".local/state/qsessions/ledger-emulated").touch)
    assert len(await recorder.entries(REAL)) == 1
    with pytest.raises(LedgerUnavailable, match="ledger-emulated can't be used"):
        await recorder.entries(EMULATED)
    await recorder.aclose()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without platformdirs a path is needed, and the error names the extra."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(ConfigurationError, match=r'Install "qsessions\[ledger\]"'):
        LocalLedger()
    LocalLedger("somewhere")


@pytest.mark.parametrize("path", ["", "a\0b", 5, "~no-such-user-here/x"])
def test_no_path(path: Any) -> None:
    """What can't be a directory's path is refused when the ledger is made."""
    with pytest.raises(ConfigurationError, match="the ledger's path can't be used"):
        LocalLedger(path)


def test_a_thread_that_hangs_ends_with_the_interpreter(place: Path) -> None:
    """The ledger's thread is a daemon, so that a file system that hangs keeps no interpreter from
    ending.
    """
    ledger = LocalLedger(place)
    run(ledger.record(intent()))
    assert ledger._places[0]._thread is not None
    assert ledger._places[0]._thread.daemon
    run(ledger.aclose())
    ledger._places[0]._thread.join(timeout=10)
    assert not ledger._places[0]._thread.is_alive()


class MyLedger:
    """A ledger of the user's own, which does what a test says.

    Attributes:
        kept: The newest record of each key.
        calls: Each record that was given, in order.
        called: Set at the first.
        fails: What to raise, while it isn't None.
        gate: Waited for before each record.
        closed: Whether it was closed.
    """

    def __init__(self) -> None:
        self.kept: dict[str, LedgerRecord] = {}
        self.calls: list[LedgerRecord] = []
        self.fails: BaseException | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Event()
        self.closed = False

    async def record(self, record: LedgerRecord) -> None:
        """Keep it, when the gate is open."""
        self.calls.append(record)
        self.called.set()
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.kept[record.key] = record

    async def entries(self) -> Sequence[LedgerEntry]:
        """Give nothing; nobody asks."""
        return []

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> list[bool]:
        """Amend nothing; nobody asks."""
        return []

    async def aclose(self) -> None:
        """Take note."""
        self.closed = True


@pytest.fixture
def told() -> list[Event]:
    """Give the events that were told."""
    return []


@pytest.fixture
def recording(told: list[Event]) -> Recording:
    """Give a function that makes a recorder with a ledger."""

    def make(ledger: Ledger | str | None, spawn: Any = asyncio.create_task) -> SessionRecorder:
        return SessionRecorder(ledger, spawn, Observers([told.append]), lambda: NOW)

    return make


async def ask(
    recorder: SessionRecorder,
    key: str,
    *,
    instance: str | None = None,
    seconds: float | None = None,
) -> None:
    """Record that a request is about to go out."""
    await recorder.record_intent(
        CreateSession("batch"),
        key,
        base_url="https://x",
        instance=instance,
        labels={},
        seconds=seconds,
    )


def steps(records: Iterable[LedgerRecord]) -> list[tuple[str, RecordState]]:
    """Give the keys and states of records."""
    return [(record.key, record.state) for record in records]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait long for a ledger that hangs."""
    monkeypatch.setattr(records, "WRITE_TIMEOUT_S", 0.02)


@pytest.mark.parametrize("wrong", ["lokal", 5, object(), ""])
def test_no_such_ledger(recording: Recording, wrong: Any) -> None:
    """What is no ledger is refused when the client is made."""
    with pytest.raises(ConfigurationError, match='must be "local", a ledger or None'):
        recording(wrong)


async def test_the_local_one(recording: Recording, home: Path, told: list[Event]) -> None:
    """The word "local" is the platform's own place, and closed with the recorder."""
    recorder = recording("local")
    await ask(recorder, "k")
    reader = LocalLedger()
    assert await entries_of(reader) == [("k", "intent", Liveness.ALIVE)]
    await recorder.aclose()
    with pytest.raises(LedgerUnavailable, match="was closed"):
        await recorder.entries(None)
    await reader.aclose()
    assert told == []


async def test_a_ledger_that_is_lent_stays_open(recording: Recording) -> None:
    """A ledger that the caller made is the caller's to close."""
    ledger = MyLedger()
    recorder = recording(ledger)
    await ask(recorder, "k")
    await recorder.aclose()
    assert not ledger.closed


@pytest.mark.parametrize("eager", [False, True])
async def test_failures_are_told_once_and_nothing_is_lost(
    recording: Recording, told: list[Event], eager: bool
) -> None:
    """A ledger that fails is told once; what it didn't take is given to it again after the next
    record that it does take.
    """
    ledger = MyLedger()
    spawn: Any = asyncio.create_task
    if eager and sys.version_info >= (3, 12):

        def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return asyncio.Task(coroutine, eager_start=True, loop=asyncio.get_running_loop())

    recorder = recording(ledger, spawn)
    ledger.fails = RuntimeError("the database is away")
    await ask(recorder, "first")
    await ask(recorder, "second")
    assert told == [LedgerFailed(reason="RuntimeError: the database is away")]
    ledger.fails = None
    await ask(recorder, "third")
    await recorder.flush()
    assert set(ledger.kept) == {"first", "second", "third"}
    await recorder.aclose()
    assert len(told) == 1


async def test_the_log_hears_of_it(recording: Recording, caplog: pytest.LogCaptureFixture) -> None:
    """A failing ledger is a warning in the log."""
    ledger = MyLedger()
    ledger.fails = LedgerUnavailable("the disk is full")
    await ask(recording(ledger), "k")
    assert [(one.levelno, one.message) for one in caplog.records] == [
        (logging.WARNING, "the ledger doesn't record sessions: the disk is full")
    ]


async def test_what_is_never_taken_is_told_at_the_end(
    recording: Recording, told: list[Event]
) -> None:
    """Closing tries once more, and then names the sessions that may be open and stand nowhere."""
    ledger = MyLedger()
    ledger.fails = OSError("no")
    recorder = recording(ledger)
    for key in ("asked", "made", "drained", "over"):
        await ask(recorder, key)
    recorder.created("made", "s-1")
    recorder.created("drained", "s-2")
    recorder.updated("s-2", accepting_jobs=False)
    recorder.not_created("over")
    await recorder.flush()
    tried = len(ledger.calls)
    await recorder.aclose()
    assert len(ledger.calls) == tried + 3
    (_, last) = told
    assert isinstance(last, LedgerFailed)
    assert last.unrecorded == ("asked", "s-1")


async def test_an_end_that_was_not_taken_is_kept_if_the_rest_was(recording: Recording) -> None:
    """That a session ended is given again to a ledger that has it as open, and not to one that
    never heard of it.
    """
    ledger = MyLedger()
    recorder = recording(ledger)
    await ask(recorder, "known")
    ledger.fails = OSError("no")
    await ask(recorder, "unheard")
    recorder.not_created("known")
    recorder.not_created("unheard")
    await recorder.flush()
    ledger.fails = None
    await ask(recorder, "other")
    await recorder.aclose()
    assert dict(steps(ledger.kept.values())) == {"known": ENDED, "other": RecordState.INTENT}


async def test_steps_of_one_session_keep_their_order(recording: Recording) -> None:
    """While a step is being written, later ones wait, and only the newest of them is written."""
    ledger = MyLedger()
    recorder = recording(ledger)
    ledger.gate.clear()
    waiting = asyncio.create_task(ask(recorder, "k"))
    await ledger.called.wait()
    recorder.created("k", "s-1")
    await asyncio.sleep(0)
    recorder.updated("s-1", accepting_jobs=False)
    await asyncio.sleep(0)
    asked = ("k", RecordState.INTENT)
    assert steps(ledger.calls) == [asked]
    ledger.gate.set()
    await waiting
    assert steps(ledger.calls) == [asked, ("k", DRAINING)]


async def test_a_step_that_comes_while_one_fails(recording: Recording) -> None:
    """A step that came while the one before it failed is tried for itself."""
    ledger = MyLedger()
    recorder = recording(ledger)
    ledger.gate.clear()
    ledger.fails = OSError("no")
    waiting = asyncio.create_task(ask(recorder, "k"))
    await ledger.called.wait()
    recorder.created("k", "s-1")
    ledger.gate.set()
    await waiting
    assert steps(ledger.calls) == [("k", RecordState.INTENT), ("k", CREATED)]
    await recorder.aclose()


async def test_cancelling_doesnt_tear_a_record(recording: Recording) -> None:
    """Cancelling the call that records goes on at once, and the record is written all the same."""
    ledger = MyLedger()
    recorder = recording(ledger)
    ledger.gate.clear()
    task = asyncio.create_task(ask(recorder, "k"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ledger.gate.set()
    await recorder.aclose()
    assert steps(ledger.kept.values()) == [("k", RecordState.INTENT)]


@pytest.mark.usefixtures("impatient")
async def test_a_ledger_that_hangs(recording: Recording, told: list[Event]) -> None:
    """A hanging ledger holds up one call for as long as patience lasts, and none after it until it
    answers.
    """
    ledger = MyLedger()
    recorder = recording(ledger)
    ledger.gate.clear()
    await ask(recorder, "first")
    assert told == [LedgerFailed(reason="it did not answer within 0.02 s")]
    await asyncio.wait_for(ask(recorder, "second"), 0.01)
    ledger.gate.set()
    await recorder.aclose()
    assert set(ledger.kept) == {"first", "second"}
    await ask(recorder, "third")
    assert "third" in ledger.kept
    assert len(told) == 1


async def test_settling(recording: Recording, impatient: None, told: list[Event]) -> None:
    """Whoever settles waits for what was noted; with a ledger that hangs, as long as patience
    lasts, and then no more.
    """
    ledger = MyLedger()
    recorder = recording(ledger)
    await recorder.flush()
    await ask(recorder, "k")
    recorder.created("k", "s-1")
    await recorder.flush()
    assert steps(ledger.kept.values()) == [("k", CREATED)]
    ledger.gate.clear()
    recorder.updated("s-1", accepting_jobs=False)
    await recorder.flush()
    assert len(told) == 1
    await asyncio.wait_for(recorder.flush(), 0.01)
    ledger.gate.set()
    await recorder.aclose()


def test_no_create_waits_for_a_reader(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long everybody's records take to be read, a record is kept meanwhile."""
    reading, go_on = threading.Event(), threading.Event()

    def slowly(*_: object) -> list[LedgerEntry]:
        reading.set()
        go_on.wait()
        return []

    monkeypatch.setattr(files, "read_all", slowly)

    async def both() -> None:
        ledger = LocalLedger(place)
        listing = asyncio.ensure_future(ledger.entries())
        await asyncio.to_thread(reading.wait)
        await ledger.record(intent())
        assert not listing.done()
        go_on.set()
        assert await listing == []
        await ledger.aclose()

    run(both())


async def test_a_ledger_leaves_a_create_half_of_its_time(
    recording: Recording, told: list[Event]
) -> None:
    """A create whose deadline is short waits for a hanging ledger no longer than half of it, then
    its request goes out.
    """
    ledger = MyLedger()
    ledger.gate.clear()
    recorder = recording(ledger)
    await asyncio.wait_for(ask(recorder, "k", seconds=0.04), 2)
    # Others with more time still count on it.
    assert told == []
    ledger.gate.set()
    await recorder.aclose()
    assert set(ledger.kept) == {"k"}


async def test_closing_a_ledger_takes_no_longer_than_a_record(impatient: None) -> None:
    """Who closes a ledger waits 5 s at the most, and gets one error whatever goes wrong."""
    ledger = MyLedger()
    await close_ledger(ledger)
    assert ledger.closed

    class Hanging(MyLedger):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(LedgerUnavailable, match=r"did not answer within 0\.02 s"):
        await close_ledger(Hanging())


@pytest.mark.usefixtures("impatient")
async def test_a_file_system_that_hangs(
    recording: Recording, told: list[Event], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the file system answers nothing, the loop runs, recording and closing end in time, and
    what stands nowhere is named.
    """
    hangs = threading.Event()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (hangs.wait(60), fsync(fd)))
    recorder = recording("local")
    await ask(recorder, "k")
    await recorder.aclose()
    assert [one.unrecorded for one in told if isinstance(one, LedgerFailed)] == [(), ("k",)]
    hangs.set()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


async def test_a_ledger_that_cant_be_closed(
    recording: Recording, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger of ours that fails at its end is told like any failure."""

    async def fails(_: LocalLedger) -> None:
        raise LedgerUnavailable("it broke")

    monkeypatch.setattr(LocalLedger, "aclose", fails)
    await recording("local").aclose()
    assert told == [LedgerFailed(reason="it broke")]


async def test_after_the_transport(recording: Recording, told: list[Event]) -> None:
    """When no task can be had any more, the record is told as not kept, and nothing is raised."""

    def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        coroutine.close()
        raise ClientClosed("the client is closed.")

    recorder = recording(MyLedger(), spawn)
    await ask(recorder, "k")
    await recorder.aclose()
    assert told == [
        LedgerFailed(reason="the client is closed."),
        LedgerFailed(reason="it never took these records", unrecorded=("k",)),
    ]


async def test_a_note_between_the_end_of_a_writer_and_its_callback(
    recording: Recording,
) -> None:
    """A step that comes when the writer of the one before is just done gets a writer of its own."""
    ledger = MyLedger()
    recorder = recording(ledger)
    asking = asyncio.create_task(ask(recorder, "k"))
    await asyncio.sleep(0)
    (writer,) = recorder._writers
    while not writer.done():
        await asyncio.sleep(0)
        if writer.done():
            recorder.created("k", "s-1")
    await asking
    await recorder.aclose()
    assert steps(ledger.kept.values()) == [("k", CREATED)]
