"""The local ledger's files, one for each owner.

Only a file's last line can be torn, by a crash: then it was not recorded yet. A file in which anything else can't be read is never deleted
by us.

Nobody's file is believed but this user's own. Root is a user like others here: it doesn't act on what others recorded, with its own
credentials.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from qsessions.errors import LedgerUnavailable, one_line
from qsessions.ledger import locks
from qsessions.ledger.lines import Contents, Header, header_line, parse, record_lines
from qsessions.ledger.locks import Reach
from qsessions.ledger.records import LedgerEntry, LedgerRecord, Liveness, Owner, RecordState

logger = logging.getLogger("qsessions.ledger")

_SUFFIX = ".jsonl"
# A file that is still being made. One of yesterday was left by a crash.
_DRAFT = ".draft"
_DRAFT_LIFE_S = 86_400.0

# A reader lists the directory again until it finds nothing new, and so often at most.
_LISTINGS = 100

# A file this large, four times what it was made with, is made anew with what is still open.
_LARGE_BYTES = 1024 * 1024

# So much of a file is read at a time.
_CHUNK_BYTES = 64 * 1024

# 150,000 records. A larger file is none that we wrote.
MOST_BYTES = 64 * 1024 * 1024

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# A link or a pipe in the directory is none of ours, and opening a pipe would wait for ever.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))

# What opening says of a file that is another user's, or no file of a ledger: a link (ELOOP, EMLINK), or a socket (ENXIO, EOPNOTSUPP). No
# later try would do better. Any other error may pass, and may have met a living owner's file.
_NOT_OURS = frozenset(
    {errno.EACCES, errno.EPERM, errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EOPNOTSUPP}
)


class _Process:
    """What one process must know of itself: a forked child starts anew.

    Attributes:
        own: The files that this process owns, by name. Opening and closing one of them would drop its lock.
        left: Of these, by directory, the one with what closed ledgers left open.
        looked_at: The directories of which is told already who else can write there.
        mutex: Taken to open any other file of a ledger: locks don't keep threads of one process from each other.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.own: dict[str, OwnFile] = {}
        self.left: dict[Path, OwnFile] = {}
        self.looked_at: set[Path] = set()
        self.mutex = threading.Lock()


_process = _Process()


def _this() -> _Process:
    global _process  # noqa: PLW0603 - what is the process's own has no other place
    if _process.pid != os.getpid():
        _process = _Process()
    return _process


def user() -> int | None:
    """Give the id of this process's user, or None on a platform where files tell no owner."""
    return os.geteuid() if hasattr(os, "geteuid") else None


class OwnFile:
    """The file of an owner in this process. Its methods take as long as the file system does.

    Args:
        directory: Where to make it.
        since: When the owner began, in seconds since 1970.
        records: The owner's open records by key, which this file is to hold; looked at, not copied.

    Raises:
        OSError: It can't be made; nothing is left of it.
    """

    def __init__(self, directory: Path, since: float, records: dict[str, LedgerRecord]) -> None:
        self._path = directory / f"{uuid4().hex}{_SUFFIX}"
        self.records = records
        # An open file can't be renamed where there are no locks either (Windows).
        draft = self._path.with_suffix(_DRAFT) if locks.available() else self._path
        _make(directory)
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | _FLAGS, 0o600)
        try:
            if locks.available():
                # Whatever the umask: we must be able to read it again.
                os.fchmod(self._fd, 0o600)
            self._inode = os.fstat(self._fd).st_ino
            self._header = self._about(directory, since)
            body = header_line(self._header) + record_lines(records.values())
            self._made_with = self._size = self._write(body)
            # Others see it only when it is locked and whole; and we know it for our own before anybody sees it.
            _this().own[self._path.name] = self
            if draft != self._path:
                draft.rename(self._path)
            _sync(directory)
        except BaseException:
            self._remove(draft)
            raise

    @property
    def owner(self) -> Owner:
        """This process, as long as it has the file."""
        header = self._header
        return Owner(host=header.host, pid=header.pid, since=header.since, liveness=Liveness.ALIVE)

    @property
    def is_sound(self) -> bool:
        """Whether it is still where it was made, and not too large."""
        try:
            found = self._path.stat().st_ino == self._inode
        except OSError:
            found = False
        # Nobody reads one of more than MOST_BYTES.
        most = min(4 * self._made_with, (self._made_with + MOST_BYTES) // 2)
        return found and not self._size > max(_LARGE_BYTES, most)

    def append(self, records: Iterable[LedgerRecord]) -> None:
        """Add records, durably.

        Raises:
            OSError: It can't be written, and may now end in the middle of a line.
        """
        self._size += self._write(record_lines(records))

    def discard(self) -> None:
        """Delete it."""
        self._remove(self._path)

    def leave(self) -> None:
        """Keep it, and its lock, for as long as this process lives. All that is left in a directory so goes into one file.

        Raises:
            OSError: It can't be put together with what was left before; it is kept by itself.
        """
        this = _this()
        directory = self._path.parent
        with this.mutex:
            before = this.left.get(directory)
            if before is None:
                this.left[directory] = self
                return
            # Each is deleted only when the new one is there: an open record is never without a living owner.
            both = before.records | self.records
            since = min(before._header.since, self._header.since)  # noqa: SLF001 - it is of the same class
            this.left[directory] = OwnFile(directory, since, both)
            before.discard()
            self.discard()

    def _release(self) -> None:
        with suppress(OSError):
            os.close(self._fd)
        _this().own.pop(self._path.name, None)

    def _about(self, directory: Path, since: float) -> Header:
        return Header(
            host=locks.host(),
            pid=os.getpid(),
            since=float(since),
            system=locks.running_system(),
            inode=self._inode,
            locked=locks.hold(self._fd),
            shared=locks.reach(directory) is Reach.SHARED,
        )

    def _write(self, data: bytes) -> int:
        _write(self._fd, data)
        return len(data)

    def _remove(self, path: Path) -> None:
        # Where there are locks, it goes while we still have ours.
        if locks.available():
            _unlink(path)
            self._release()
        else:
            self._release()
            _unlink(path)


def read_all(directory: Path, now: float, life_s: float = math.inf) -> list[LedgerEntry]:
    """Give the open records in a directory, oldest first, and tidy up what dead owners left there with nothing open.

    What is another user's file, or none (a link, a folder, a pipe), is told in the log and passed over. A list that leaves out a living
    owner's file, or a record in it, would be believed, so any other error is raised. A dead owner's file that can't be read wholly is told
    in the log, and stays.

    Args:
        directory: The ledger's; where there is none, nothing was recorded.
        now: Seconds since 1970.
        life_s: After so many seconds a dead owner's record is forgotten.

    Raises:
        OSError: The directory, or a file that may be a living owner's, can't be read; its `filename` says which. Or files come faster
            than they can be read.
        LedgerUnavailable: A living owner's file is damaged.
    """
    entries: dict[str, LedgerEntry] = {}
    seen: set[Path] = set()
    for _ in range(_LISTINGS):
        # An owner that makes its file anew takes the old one away when the new one is there: a later listing has it.
        paths = _listed(directory) - seen
        if not paths:
            return sorted(entries.values(), key=lambda entry: entry.record.asked_at)
        seen |= paths
        for entry in _read_each(sorted(paths), now, life_s):
            entries[entry.record.key] = _better(entries.get(entry.record.key), entry)
    raise OSError(errno.EAGAIN, "its files change faster than they can be read", str(directory))


def amend(path: Path, records: Sequence[LedgerRecord]) -> list[bool]:
    """Add records to a dead owner's file, all in one write, and delete the file when nothing in it is open any more.

    A file that can't be read wholly stays.

    Args:
        path: The file.
        records: What to add; none only tidies up.

    Returns:
        For each of them whether it was done: the owner is dead, and has an open record of its key.

    Raises:
        OSError: The file can't be read or written.
    """
    this = _this()
    with this.mutex, suppress(FileNotFoundError):
        if path.name not in this.own:
            fd = _open(path, os.O_RDWR | os.O_APPEND)
            try:
                return _amend(fd, path, records)
            finally:
                os.close(fd)
    return [False] * len(records)


def _amend(fd: int, path: Path, records: Sequence[LedgerRecord]) -> list[bool]:
    # Nobody waits for a file that its owner has locked. While we wait for another reaper, it may delete it or add what we are about to.
    if locks.is_held(fd) is not False or not locks.exclude(fd):
        return [False] * len(records)
    contents, owner = _look(fd, path)
    still = contents.records if owner.liveness is Liveness.DEAD else {}
    done = []
    added = []
    for record in records:
        done.append(record.key in still)
        if done[-1]:
            added.append(record)
            still[record.key] = record
            if record.state is RecordState.ENDED:
                del still[record.key]
    if added:
        if contents.torn:
            # With an end, it would count as damage.
            os.ftruncate(fd, os.fstat(fd).st_size - contents.torn)
        # The last line may lack its end.
        _write(fd, b"\n" + record_lines(added))
    if owner.liveness is Liveness.DEAD and contents.is_whole and not still:
        _unlink(path)
    return done


def _listed(directory: Path) -> set[Path]:
    _tell_who_else_writes(directory)
    try:
        return set(directory.iterdir())
    except FileNotFoundError:
        return set()


def _read_each(paths: Iterable[Path], now: float, life_s: float) -> Iterator[LedgerEntry]:
    for path in paths:
        try:
            if path.suffix == _SUFFIX:
                yield from _read(path, now, life_s)
            elif path.suffix == _DRAFT:
                _tidy(path, now)
        except FileNotFoundError:
            # Nothing in it is open any more, or another file has it.
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
            fd = _open(path, os.O_RDONLY)
            try:
                contents, owner = _look(fd, path)
            finally:
                os.close(fd)
    if not contents.is_whole and owner.liveness is Liveness.ALIVE:
        which = "" if owner.host is None else f" (process {owner.pid} on {owner.host})"
        raise LedgerUnavailable(
            f"the ledger's file {path} is damaged, and its owner lives{which}: nobody can tell all the sessions that it owns.",
            solution="End that process (`fuser` tells which has the file open), then do this again: what it left is read as far as can be.",
        )
    if not contents.is_whole:
        logger.warning(
            "the ledger's file %s can't be read wholly, so it is kept: look for session ids in it, and delete it when none of them is open",
            one_line(str(path)),
        )
    records = contents.records
    if owner.liveness is Liveness.DEAD:
        over = [
            records.pop(one.key) for one in tuple(records.values()) if now - one.asked_at > life_s
        ]
        if over or not records:
            # The directory may be readable only.
            with suppress(OSError):
                amend(path, [one.becomes(RecordState.ENDED, now=now) for one in over])
    return [
        LedgerEntry(record=record, owner=owner, source=str(path)) for record in records.values()
    ]


def _tidy(draft: Path, now: float) -> None:
    # Whatever keeps us from it, nothing of an owner's is in it.
    with suppress(OSError):
        if now - draft.stat().st_mtime > _DRAFT_LIFE_S:
            draft.unlink()


def _better(known: LedgerEntry | None, entry: LedgerEntry) -> LedgerEntry:
    # An owner that dies while it makes its file anew leaves both.
    if known is None:
        return entry
    return max(
        known, entry, key=lambda one: (one.owner.liveness is Liveness.ALIVE, one.record.changed_at)
    )


def _open(path: Path, flags: int) -> int:
    """Open a file that isn't our own.

    Raises:
        OSError: It is another user's, whose records and locks are not to be believed, or no regular file; or it can't be opened.
    """
    fd = os.open(path, flags | _FLAGS)
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.ENXIO, "it is no regular file")
        if user() not in {None, about.st_uid}:
            raise OSError(errno.EPERM, f"it belongs to another user, {about.st_uid}")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _look(fd: int, path: Path) -> tuple[Contents, Owner]:
    """Give what an open file that isn't our own holds, and whose it is.

    Raises:
        FileNotFoundError: It was deleted after it had been opened.
    """
    # The lock comes before the contents: from then on, no owner adds anything unseen.
    held = locks.is_held(fd)
    # And an owner that lives lets go of it only when its file is deleted.
    path.lstat()
    about = os.fstat(fd)
    is_huge = about.st_size > MOST_BYTES
    contents = parse([_beginning(fd)] if is_huge else _lines(fd))
    contents.is_damaged |= is_huge
    header = contents.header
    if header is None:
        owner = Owner(host=None, pid=None, since=None, liveness=_free(held=held, dead=False))
    else:
        dead = header.locked and header.inode == about.st_ino and _reaches_us(header, path.parent)
        owner = Owner(
            host=header.host,
            pid=header.pid,
            since=header.since,
            liveness=_free(held=held, dead=dead),
        )
    return contents, owner


def _free(*, held: bool | None, dead: bool) -> Liveness:
    if held:
        return Liveness.ALIVE
    return Liveness.DEAD if held is False and dead else Liveness.UNKNOWN


def _reaches_us(header: Header, directory: Path) -> bool:
    """Say whether the owner's lock would be seen from here, if it were held."""
    if header.system == locks.running_system():
        return True
    reach = locks.reach(directory)
    if reach is Reach.PRIVATE:
        return header.host == locks.host()
    return reach is Reach.SHARED and header.shared


def _lines(fd: int) -> Iterator[bytes]:
    """Give the lines of a file without their ends, and what follows the last end; little of it is in memory at a time."""
    os.lseek(fd, 0, os.SEEK_SET)
    rest = b""
    # A line without an end isn't copied again and again.
    while chunk := os.read(fd, max(_CHUNK_BYTES, len(rest))):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest


def _beginning(fd: int) -> bytes:
    """Give a file's first line, cut where it is long."""
    os.lseek(fd, 0, os.SEEK_SET)
    return os.read(fd, _CHUNK_BYTES).split(b"\n")[0]


def _write(fd: int, data: bytes) -> None:
    """Write all of it, durably."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    os.fsync(fd)


def _make(directory: Path) -> None:
    missing = [level for level in (directory, *directory.parents) if not level.exists()]
    # Not `parents=True`: whoever can write a level above can put another directory in this one's place.
    for level in reversed(missing):
        with suppress(FileExistsError):
            level.mkdir(mode=0o700)
            if stat.S_IMODE(level.stat().st_mode) & 0o700 != 0o700:
                # A umask takes rights from the owner, too.
                level.chmod(0o700)
    for level in missing:
        _sync(level.parent)
    _tell_who_else_writes(directory)


def _tell_who_else_writes(directory: Path) -> None:
    """Warn, once, where another user can take the ledger's files away or put another directory in place of theirs."""
    looked_at = _this().looked_at
    if directory in looked_at or user() is None:
        return
    for level in (directory, *directory.parents):
        try:
            about = level.stat()
        except OSError:
            # It is told by whoever wants to use it.
            return
        looked_at.add(directory)
        shown = one_line(str(level))
        if level == directory and about.st_uid != user():
            logger.warning(
                "the ledger's directory %s belongs to another user, %d", shown, about.st_uid
            )
        # Above it, a sticky one keeps what is in it, and many a user has a group of their own.
        elif about.st_mode & _WRITABLE_BY_OTHERS and (
            level == directory or about.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
        ):
            logger.warning(
                "others can write in %s, where the ledger is: take that right from them", shown
            )


def _sync(directory: Path) -> None:
    """Make names durable, where the file system can."""
    if locks.available():
        with suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | _FLAGS)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
