"""The local ledger's files, one for each owner.

A crash can tear only a file's last line, whose record was never acknowledged. A file in which
anything else can't be read is never deleted.

Only this user's own files are trusted. That holds for root, too: it must not act with its own
credentials on what others recorded.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from uuid import uuid4

from qsessions.errors import LedgerUnavailable, one_line
from qsessions.ledger import disk, locks
from qsessions.ledger.lines import Contents, Header, header_line, parse, record_lines
from qsessions.ledger.locks import Reach
from qsessions.ledger.records import LedgerEntry, LedgerRecord, Liveness, Owner, RecordState, put

logger = logging.getLogger("qsessions.ledger")

_SUFFIX = ".jsonl"
# A file that is still being made. One that is a day old was left by a crash.
_DRAFT = ".draft"
_DRAFT_LIFE_S = 86_400.0

# A reader lists the directory again until nothing is new, at most this often.
_LISTINGS = 100

# A file of this size, and four times its first size, is replaced by one with the open records only.
_LARGE_BYTES = 1024 * 1024

# 150,000 records. We write no larger file.
MOST_BYTES = 64 * 1024 * 1024

# Opening another user's file, a link (ELOOP, EMLINK) or a socket (ENXIO, EOPNOTSUPP) fails so, now
# and later. Any other error may pass, and may be about a living owner's file.
_NOT_OURS = frozenset(
    {errno.EACCES, errno.EPERM, errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EOPNOTSUPP}
)


class _Process:
    """The state of one process. A forked child starts with a new one.

    Attributes:
        own: The files that this process owns, by name. Opening and closing one would drop its lock.
        retired: Those that hold the open records of closed ledgers, by directory.
        mutex: Held while any other file is open: file locks don't separate threads of one process.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.own: dict[str, OwnFile] = {}
        self.retired: dict[Path, OwnFile] = {}
        self.mutex = threading.Lock()


_process = _Process()


def _this() -> _Process:
    global _process  # noqa: PLW0603 - what is the process's own has no other place
    if _process.pid != os.getpid():
        _process = _Process()
    return _process


class OwnFile:
    """The file of an owner in this process. Its methods block.

    Args:
        directory: Where to make it.
        since: When the owner began, in seconds since 1970.
        records: The owner's open records by key, to begin with. They are shared, not copied.

    Raises:
        OSError: It can't be made. Nothing is left of it.
    """

    def __init__(self, directory: Path, since: float, records: dict[str, LedgerRecord]) -> None:
        self._path = directory / f"{uuid4().hex}{_SUFFIX}"
        self.records = records
        # Without locks (Windows), open files can't be renamed either.
        draft = self._path.with_suffix(_DRAFT) if locks.available() else self._path
        disk.make_directory(directory)
        self._fd = os.open(
            draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | disk.FLAGS, 0o600
        )
        try:
            if locks.available():
                # We must be able to read it again under any umask.
                os.fchmod(self._fd, 0o600)
            self._header = Header(
                host=gethostname(),
                pid=os.getpid(),
                since=float(since),
                system=locks.running_system(),
                inode=os.fstat(self._fd).st_ino,
                locked=locks.hold(self._fd),
                shared=locks.reach(directory) is Reach.SHARED,
            )
            body = header_line(self._header) + record_lines(records.values())
            disk.write(self._fd, body)
            self._made_with = self._size = len(body)
            self._is_whole = True
            # Others must see it only when it is locked and whole, and when we know that it is ours.
            _this().own[self._path.name] = self
            if draft != self._path:
                draft.rename(self._path)
            disk.sync_directory(directory)
        except BaseException:
            self._remove(draft)
            raise

    @property
    def owner(self) -> Owner:
        """This process."""
        return _owner(self._header, Liveness.ALIVE)

    @property
    def is_sound(self) -> bool:
        """Whether it is still in its place, was written without failure, and is not too large."""
        try:
            is_there = self._path.stat().st_ino == self._header.inode
        except OSError:
            is_there = False
        # Readers refuse files of more than MOST_BYTES.
        most = min(4 * self._made_with, (self._made_with + MOST_BYTES) // 2)
        return is_there and self._is_whole and self._size <= max(_LARGE_BYTES, most)

    def append(self, records: Iterable[LedgerRecord]) -> None:
        """Add records, durably.

        Raises:
            OSError: They can't be written. The file may now end in the middle of a line.
        """
        body = record_lines(records)
        self._is_whole = False
        disk.write(self._fd, body)
        self._is_whole = True
        self._size += len(body)

    def discard(self) -> None:
        """Delete it."""
        self._remove(self._path)

    def retire(self) -> None:
        """Delete the file if it has no open record. Else keep it, locked, until this process ends.

        A directory has one such file, to which the records of others are added.

        Raises:
            OSError: The records can't be added to that file. This file is kept beside it.
        """
        this = _this()
        directory = self._path.parent
        with this.mutex:
            if self.records:
                kept = this.retired.setdefault(directory, self)
                if kept is self:
                    return
                # An open record must always be in a living owner's file, so deleting comes last.
                if kept.is_sound:
                    kept.append(self.records.values())
                    kept.records |= self.records
                else:
                    this.retired[directory] = OwnFile(
                        directory,
                        kept._header.since,  # noqa: SLF001 - it is of the same class
                        kept.records | self.records,
                    )
                    kept.discard()
            self.discard()

    def _release(self) -> None:
        with suppress(OSError):
            os.close(self._fd)
        _this().own.pop(self._path.name, None)

    def _remove(self, path: Path) -> None:
        # Others must not see it unlocked. But Windows deletes no open file.
        disk.unlink(path)
        self._release()
        disk.unlink(path)


def read_all(directory: Path, now: float, life_s: float = math.inf) -> list[LedgerEntry]:
    """Return the open records in a directory, oldest first, and delete dead owners' finished files.

    Another user's file, a link, a folder or a pipe is logged and skipped. Any other error is
    raised, since callers rely on a list that has all records of living owners. A dead owner's file
    that can't be read completely is logged and kept.

    Args:
        directory: The ledger's directory. If it doesn't exist, nothing was recorded.
        now: Seconds since 1970.
        life_s: The seconds after which a dead owner's record is deleted.

    Raises:
        OSError: The directory, or a file that may be a living owner's, can't be read; `filename`
            says which. Or files appear faster than they can be read.
        LedgerUnavailable: A living owner's file is damaged.
    """
    entries: list[LedgerEntry] = []
    seen: set[Path] = set()
    for _ in range(_LISTINGS):
        disk.warn_of_other_writers(directory)
        paths: set[Path] = set()
        with suppress(FileNotFoundError):
            # An owner that replaces its file makes the new one first: a later listing has it.
            paths = set(directory.iterdir()) - seen
        if not paths:
            # An owner that died while it replaced its file left each record twice.
            entries.sort(
                key=lambda entry: (
                    entry.owner.liveness is Liveness.ALIVE,
                    entry.record.changed_at,
                )
            )
            best = {entry.record.key: entry for entry in entries}
            return sorted(best.values(), key=lambda entry: entry.record.asked_at)
        seen |= paths
        entries += _read_each(sorted(paths), now, life_s)
    raise OSError(errno.EAGAIN, "its files change faster than they can be read", str(directory))


def amend(path: Path, records: Sequence[LedgerRecord]) -> list[bool]:
    """Add records to a dead owner's file in one write. Delete the file if no open record is left.

    A file that can't be read completely is kept.

    Args:
        path: The file.
        records: What to add. Without any, a finished file is still deleted.

    Returns:
        For each record whether it was added: the owner is dead and has an open record of its key.

    Raises:
        OSError: The file can't be read or written.
    """
    this = _this()
    with this.mutex, suppress(FileNotFoundError):
        if path.name not in this.own:
            with disk.opened(path, os.O_RDWR | os.O_APPEND) as fd:
                return _amend(fd, path, records)
    return [False] * len(records)


def _amend(fd: int, path: Path, records: Sequence[LedgerRecord]) -> list[bool]:
    # Don't wait for a living owner. While we wait for another reaper, that one may delete the file
    # or add the same records, so look at the contents afterwards.
    if locks.is_held(fd) is not False or not locks.exclude(fd):
        return [False] * len(records)
    contents, owner = _inspect(fd, path)
    still = contents.records if owner.liveness is Liveness.DEAD else {}
    done = []
    added = []
    for record in records:
        done.append(record.key in still)
        if done[-1]:
            added.append(record)
            put(still, record)
    if added:
        if contents.torn:
            # If more lines followed, the torn one would count as damage.
            os.ftruncate(fd, os.fstat(fd).st_size - contents.torn)
        # The last line may lack its end.
        disk.write(fd, b"\n" + record_lines(added))
    if owner.liveness is Liveness.DEAD and contents.is_whole and not still:
        disk.unlink(path)
    return done


def _read_each(paths: Iterable[Path], now: float, life_s: float) -> Iterator[LedgerEntry]:
    for path in paths:
        try:
            if path.suffix == _SUFFIX:
                yield from _read(path, now, life_s)
            elif path.suffix == _DRAFT:
                _tidy(path, now)
        except FileNotFoundError:
            # It was finished, or another file has its records.
            continue
        except OSError as error:
            if error.errno not in _NOT_OURS:
                error.filename = str(path)
                raise
            logger.warning(
                "the ledger's file %s can't be read: %s", one_line(str(path)), error.strerror
            )


def _read(path: Path, now: float, life_s: float) -> list[LedgerEntry]:
    this = _this()
    with this.mutex:
        own = this.own.get(path.name)
        if own is not None:
            contents, owner = Contents(records=own.records.copy(), has_records=True), own.owner
        else:
            with disk.opened(path, os.O_RDONLY) as fd:
                contents, owner = _inspect(fd, path)
    if not contents.is_whole and owner.liveness is Liveness.ALIVE:
        which = "" if owner.host is None else f" (process {owner.pid} on {owner.host})"
        raise LedgerUnavailable(
            f"the ledger's file {path} is damaged, and its owner lives{which}: "
            "not all of the owner's sessions can be read.",
            solution="End that process (`fuser` shows which has the file open), then try again: "
            "the rest of the file is read then.",
        )
    if not contents.is_whole:
        logger.warning(
            "the ledger's file %s can't be read wholly, so it is kept: look for session ids in it, "
            "and delete it when none of them is open",
            one_line(str(path)),
        )
    records = contents.records
    if owner.liveness is Liveness.DEAD:
        over = [
            records.pop(one.key) for one in tuple(records.values()) if now - one.asked_at > life_s
        ]
        if over or not records:
            # The directory may be read-only.
            with suppress(OSError):
                amend(path, [one.becomes(RecordState.ENDED, now=now) for one in over])
    return [
        LedgerEntry(record=record, owner=owner, source=str(path)) for record in records.values()
    ]


def _tidy(draft: Path, now: float) -> None:
    # A draft that stays does no harm.
    with suppress(OSError):
        if now - draft.stat().st_mtime > _DRAFT_LIFE_S:
            draft.unlink()


def _inspect(fd: int, path: Path) -> tuple[Contents, Owner]:
    """Return the contents and the owner of an open file that isn't our own.

    Raises:
        FileNotFoundError: It was deleted after it had been opened.
    """
    # Look at the lock first: an owner that is dead by then adds nothing to what we read.
    held = locks.is_held(fd)
    # A living owner releases its lock only after it deleted the file.
    path.lstat()
    about = os.fstat(fd)
    is_huge = about.st_size > MOST_BYTES
    # Of a huge file only the first line, cut at 64 KiB.
    contents = parse(
        [os.read(fd, disk.CHUNK_BYTES).split(b"\n")[0]] if is_huge else disk.read_lines(fd)
    )
    contents.is_damaged |= is_huge
    header = contents.header
    is_dead = (
        held is False
        and header is not None
        and header.locked
        and header.inode == about.st_ino
        and _reaches_us(header, path.parent)
    )
    liveness = Liveness.DEAD if is_dead else Liveness.UNKNOWN
    return contents, _owner(header, Liveness.ALIVE if held else liveness)


def _owner(header: Header | None, liveness: Liveness) -> Owner:
    if header is None:
        return Owner(host=None, pid=None, since=None, liveness=liveness)
    return Owner(host=header.host, pid=header.pid, since=header.since, liveness=liveness)


def _reaches_us(header: Header, directory: Path) -> bool:
    """Return whether the owner's lock would be seen from here, if it were held."""
    if header.system == locks.running_system():
        return True
    reach = locks.reach(directory)
    if reach is Reach.PRIVATE:
        return header.host == gethostname()
    return reach is Reach.SHARED and header.shared
