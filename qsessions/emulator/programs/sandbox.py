"""What a worker process may not do, so that no circuit harms: it only computes."""

import contextlib
import ctypes
import os
import signal
import sys

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

MEMORY = 2 * 2**30
"""How much memory the process may address, in bytes."""

_LAST_RESORT_SECONDS = 60
_NEW_USER_AND_NETWORK = 0x10000000 | 0x40000000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = (
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.startfile",
    "os.symlink",
    "os.system",
    "os.truncate",
    "pty.",
    "shutil.",
    "socket.",
    "subprocess.",
)


def bound() -> None:
    """Bound this process for good, before it imports what it needs: little memory, no network.

    Linux holds it to the memory; macOS and Windows don't. Where Linux allows it, which containers
    may forbid, the process has a network of its own that leads nowhere.
    """
    # Ctrl-C in a terminal is for the emulator, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).unshare(_NEW_USER_AND_NETWORK)
    _limit("RLIMIT_AS", MEMORY)
    _limit("RLIMIT_CORE", 0)


def lock() -> None:
    """Take from this process for good, before it reads a question, all but computing.

    Python refuses sockets, processes and changes of files; Linux and macOS refuse to write to a
    file as well.
    """
    _limit("RLIMIT_FSIZE", 0)
    sys.addaudithook(_refuse)


def set_alarm(*, on: bool) -> None:
    """End this process some time after it should be done: nobody else may be left to end it."""
    if hasattr(signal, "alarm"):
        signal.alarm(_LAST_RESORT_SECONDS if on else 0)


def _limit(name: str, most: int) -> None:
    if resource is None:
        return
    # macOS refuses to limit the memory.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(getattr(resource, name), (most, most))


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(_REFUSED):
        raise PermissionError(f"a program may not do this: {event}")
    if event == "open":
        path, _, flags = arguments
        # A number is a descriptor that is open already.
        if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITING:
            raise PermissionError("a program may not write files")
