"""A PostgreSQL cluster of its own, for as long as it is needed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": 300,
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_utility": "off",
}


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs: of PATH, or the newest of Debian's packages.

    Raises:
        FileNotFoundError: There is none.
    """
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not folders:
        raise FileNotFoundError("PostgreSQL isn't installed: apt-get install postgresql")
    return folders[0]


def _as_owner(folder: Path) -> Callable[[], None] | None:
    """Return what makes a child process the folder's owner. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)

    def become() -> None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    return become


@contextmanager
def cluster() -> Iterator[str]:
    """Run a cluster on 127.0.0.1, and yield its URL."""
    programs = _programs()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="qsessions-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        become = _as_owner(folder)

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), "-D", str(folder / "data"), *arguments]
            subprocess.run(  # noqa: S603 - PostgreSQL's own
                command,
                check=True,
                preexec_fn=become,  # noqa: PLW1509 - no thread runs yet
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )

        run("initdb", "-A", "trust", "-U", "qsessions", "--no-instructions")
        settings = {**_SETTINGS, "port": port, "unix_socket_directories": name}
        options = " ".join(f"-c {key}={value}" for key, value in settings.items())
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://qsessions@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "fast", "stop")
