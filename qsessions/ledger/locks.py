"""Whether a process lives, by a lock that the operating system releases at its death.

The lock is a POSIX record lock (`fcntl`). Of the three kinds it is the one that

- a forked child does not inherit: a `flock` or an open-file-description lock lives on in every
  child that a library forks, so a dead owner would seem alive while one of its children lives;
- reaches furthest: on NFS it is the protocol's own kind, on which Linux builds `flock` (since
  2.6.12), and a mount can make either of the two local to its machine (nfs(5), `local_lock`).

It has a price: a process loses its lock as soon as it closes *any* descriptor of the file. So a
process must not open its own files. files.py ensures that, and a program must not read its own
ledger files by other means.

A lock that is held proves a living owner. A lock that is free proves a dead one only where the
owner's lock would be seen from here:

- in the same running system (the kernel's boot id is the same);
- on a file system that only one machine can use, on a machine of the same name (it was restarted
  since);
- on a network file system whose locks reach all machines, by the mount table of both sides: NFS
  with `local_lock=none` and Lustre with `flock`.

Everywhere else, and for a file that was copied (its inode is another), the owner is unknown.

Known limits. An NFS server that hears nothing from a client for its lease (90 s by default) takes
back the locks of that client: the owner then seems dead, though it may live on, cut off. With NFSv3
the locks of a machine that vanished stay until it is back: the owner seems alive. Only Linux has a
boot id and a mount table: elsewhere the machine's name stands for both. Without `fcntl` (Windows)
every owner is unknown. Tried: ext4 and tmpfs on Linux. Untried: NFS, Lustre, other cluster file
systems, macOS, Windows.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path
from socket import gethostname

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# The owner locks the first byte for life. A process that changes a dead owner's file locks the
# second meanwhile.
_OWNER, _REAPER = 0, 1

# File systems that only one running system at a time can have mounted.
_PRIVATE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"})
# Of network file systems: the mount option by which locks reach all machines.
_SHARED_IF = {"nfs": "local_lock=none", "nfs4": "local_lock=none", "lustre": "flock"}

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MOUNTS = Path("/proc/self/mounts")


class Reach(Enum):
    """Which machines see a lock on a file system."""

    PRIVATE = "one machine has it to itself"
    SHARED = "locks reach all machines"
    UNKNOWN = "unknown"


def available() -> bool:
    """Return whether this platform has locks that we can use."""
    return fcntl is not None


def hold(fd: int) -> bool:
    """Take the owner's lock on a file that no other process knows yet. False without locks."""
    return _lock(fd, _OWNER, exclusive=True) is True


def is_held(fd: int) -> bool | None:
    """Return whether an owner holds its lock on the file; None if unknown. Askers don't disturb."""
    got = _lock(fd, _OWNER, exclusive=False)
    return None if got is None else not got


def exclude(fd: int) -> bool:
    """Wait until no other process changes the file, and lock it until it is closed.

    False without locks.
    """
    return _lock(fd, _REAPER, exclusive=True, wait=True) is True


def _lock(fd: int, byte: int, *, exclusive: bool, wait: bool = False) -> bool | None:
    """Take a lock: True; False if another process has it; None without locks."""
    if fcntl is None:
        return None
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.lockf(fd, kind if wait else kind | fcntl.LOCK_NB, 1, byte)
    except OSError as error:
        return False if error.errno in {errno.EACCES, errno.EAGAIN} else None
    return True


@cache
def running_system() -> str:
    """Return an id of this running system, which changes with a restart."""
    return _contents(_BOOT_ID).strip() or gethostname()


def reach(directory: Path) -> Reach:
    """Return which machines see the locks in a directory."""
    return reach_in(_contents(_MOUNTS), os.path.realpath(directory))


def _contents(path: Path) -> str:
    # Only Linux has these files.
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def reach_in(table: str, directory: str) -> Reach:
    """Return which machines see the locks in a directory, by a table like /proc/mounts."""
    best, kind, options = "", "", ""
    for line in table.splitlines():
        fields = [*line.split(" "), "", "", ""]
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[1])
        inside = directory == point or directory.startswith(point.rstrip("/") + "/")
        # Of two mounts at one place the later one hides the other.
        if inside and len(point) >= len(best):
            best, kind, options = point, fields[2], fields[3]
    if kind in _PRIVATE:
        return Reach.PRIVATE
    return Reach.SHARED if _SHARED_IF.get(kind) in options.split(",") else Reach.UNKNOWN
