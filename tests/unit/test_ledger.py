"""The local ledger in one process: what its files hold through a life, damage, races and a disk that
fails. Its lines, its locks, its directory and the recorder have files of their own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import re
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from qsessions import (
    CreateSession,
    LedgerEntry,
    LedgerRecord,
    LedgerUnavailable,
    Liveness,
    LocalLedger,
)
from qsessions.ledger import disk, files, locks
from qsessions.testing import ManualClock
from tests.support.ledger_files import (
    CREATED,
    DRAINING,
    ENDED,
    NOW,
    all_locked,
    amend,
    amend_file,
    amend_torn,
    body_of,
    die,
    ended,
    entries_of,
    grown,
    intent,
    left_by_the_dead,
    many_left,
    moving,
    names,
    only_file,
    refuse,
    run,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory that doesn't exist yet."""
    return tmp_path / "state" / "ledger"


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


def test_amending_reads_a_file_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its records are listed or amended, a file is read once for that."""
    path, left = many_left(place, 1000)
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
    assert files.amend(path, [one.becomes(ENDED, now=NOW) for one in left]) == [True] * 1000
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
    reader = LocalLedger(place, clock=ManualClock(NOW))
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


def test_amending_a_torn_file(place: Path) -> None:
    """What a reaper adds after a torn line is read, wherever that was torn."""
    amend_torn(place, 11)


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


def test_a_file_that_cant_be_opened_just_now(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a later try may read fails the reading, by name: who believes a list without it
    ends what a living owner has.
    """
    path = left_by_the_dead(place, intent())
    for name in ("EMFILE", "ENFILE", "EIO", "ESTALE", "ENOMEM", "EINTR"):
        number = getattr(errno, name)
        with monkeypatch.context() as refused:
            refused.setattr(os, "open", refuse(number, path))
            message = f"{os.strerror(number)}: {re.escape(str(path))}"
            with pytest.raises(LedgerUnavailable, match=message):
                run(LocalLedger(place).entries())
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
