"""The ledger's directory: where it is, who may write there, and what else may be in it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    ConfigurationError,
    LedgerUnavailable,
    Liveness,
    LocalLedger,
)
from qsessions.ledger import files, locks
from qsessions.testing import ManualClock
from tests.support.ledger_files import (
    EMULATED,
    ENDED,
    NOW,
    REAL,
    amend,
    die,
    ended,
    entries_of,
    given_to_another,
    intent,
    left_by_the_dead,
    names,
    only_file,
    refuse,
    run,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory that doesn't exist yet."""
    return tmp_path / "state" / "ledger"


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


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    """A directory that can't be made or read is a clear error that names it."""
    (tmp_path / "file").touch()
    ledger = LocalLedger(tmp_path / "file")
    for call in (ledger.record(intent()), ledger.entries()):
        with pytest.raises(LedgerUnavailable, match="can't be used: ") as caught:
            run(call)
        assert str(tmp_path / "file") in str(caught.value)
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
    reader = LocalLedger(clock=ManualClock(NOW))
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
    ledger = LocalLedger(place, clock=ManualClock(NOW + 10_000_000))
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
    later = LocalLedger(clock=ManualClock(NOW + 86_401))
    assert len(run(later.entries())) == 3
    die()
    assert [one.record for one in run(later.entries())] == [other, new]
    assert [one.record for one in run(LocalLedger(clock=ManualClock(NOW)).entries())] == [
        other,
        new,
    ]
    much_later = LocalLedger(clock=ManualClock(NOW + 1_000_000))
    assert [one.record for one in run(much_later.entries())] == [other]
    assert names(ledger._directory.with_name("ledger-emulated")) == []
    assert caplog.records == []


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without platformdirs a path is needed, and the error names the extra."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(ConfigurationError, match=r'Install "qsessions\[ledger\]"'):
        LocalLedger()
    LocalLedger("somewhere")


def test_no_path() -> None:
    """What can't be a directory's path is refused when the ledger is made."""
    wrong: tuple[Any, ...] = ("", "a\0b", 5, "~no-such-user-here/x")
    for path in wrong:
        with pytest.raises(ConfigurationError, match="the ledger's path can't be used"):
            LocalLedger(path)
