"""Durable writes to files and directories, and checks of who owns them."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qsessions.errors import one_line
from qsessions.ledger import locks

logger = logging.getLogger("qsessions.ledger")

# How much of a file is read at a time.
CHUNK_BYTES = 64 * 1024

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# Don't follow a link, and don't wait for a pipe: the ledger makes neither.
FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))

# The directories that `warn_of_other_writers` has looked at.
_checked: set[Path] = set()


def user() -> int | None:
    """Return the id of this process's user, or None on a platform where files tell no owner."""
    return os.geteuid() if hasattr(os, "geteuid") else None


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file that isn't our own.

    Raises:
        OSError: It is another user's, whose records and locks can't be trusted; it is not a
            regular file; or it can't be opened.
    """
    fd = os.open(path, flags | FLAGS)
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.ENXIO, "it is not a regular file")
        if user() not in {None, about.st_uid}:
            raise OSError(errno.EPERM, f"it belongs to another user, {about.st_uid}")
        yield fd
    finally:
        os.close(fd)


def read_lines(fd: int) -> Iterator[bytes]:
    """Yield the lines of a newly opened file without their ends, then what follows the last end.

    Little of the file is in memory at a time.
    """
    rest = b""
    # Reads grow with the line, so that a long one isn't copied again and again.
    while chunk := os.read(fd, max(CHUNK_BYTES, len(rest))):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest


def write(fd: int, data: bytes) -> None:
    """Write all of `data`, durably."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    os.fsync(fd)


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, for their user only, durably."""
    missing = [level for level in (directory, *directory.parents) if not level.exists()]
    # Not `parents=True`, which ignores the mode: who can write a level above can replace this one.
    for level in reversed(missing):
        with suppress(FileExistsError):
            level.mkdir(mode=0o700)
            if stat.S_IMODE(level.stat().st_mode) & 0o700 != 0o700:
                # The umask may have removed the owner's rights, too.
                level.chmod(0o700)
    for level in missing:
        sync_directory(level.parent)
    warn_of_other_writers(directory)


def warn_of_other_writers(directory: Path) -> None:
    """Warn, once, if another user can remove the ledger's files or replace its directory."""
    if directory in _checked or user() is None:
        return
    for level in (directory, *directory.parents):
        try:
            about = level.stat()
        except OSError:
            # Using the directory will raise it.
            return
        _checked.add(directory)
        shown = one_line(str(level))
        if level == directory and about.st_uid != user():
            logger.warning(
                "the ledger's directory %s belongs to another user, %d", shown, about.st_uid
            )
        # Above it, a sticky directory protects what is in it, and a group may be the user's own.
        elif about.st_mode & _WRITABLE_BY_OTHERS and (
            level == directory or about.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
        ):
            logger.warning(
                "other users can write in %s, where the ledger is: remove that permission", shown
            )


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable, where the file system can."""
    if locks.available():
        with suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | FLAGS)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def unlink(path: Path) -> None:
    """Delete a file. Failures are ignored."""
    with suppress(OSError):
        path.unlink()
