"""What a lock says about the owner of a file, and where it can't say it."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    Liveness,
    LocalLedger,
)
from qsessions.ledger import files, locks
from qsessions.ledger.locks import Reach
from tests.support.ledger_files import (
    ENDED,
    NOW,
    all_locked,
    amend,
    amend_file,
    die,
    entries_of,
    header,
    intent,
    only_file,
    run,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory that doesn't exist yet."""
    return tmp_path / "state" / "ledger"


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


REACHES = {
    "/": Reach.PRIVATE,
    "/var/lib": Reach.PRIVATE,
    "/homes": Reach.PRIVATE,
    "/home/me/.local": Reach.SHARED,
    "/home/old/me": Reach.UNKNOWN,
    "/scratch": Reach.SHARED,
    "/wide/me": Reach.UNKNOWN,
    "/with space/me": Reach.UNKNOWN,
}


def test_reach() -> None:
    """The mount table tells how far a lock reaches; what it doesn't tell isn't guessed."""
    assert {directory: locks.reach_in(MOUNTS, directory) for directory in REACHES} == REACHES


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
