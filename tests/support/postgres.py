"""A PostgreSQL server of the tests' own, on a free port, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from attrs import frozen

USER, PASSWORD = "qsessions", "s3cr3t-of-the-ledger"
# What makes it quick: what a test's machine forgets when its power goes is no matter.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
}


def _binaries() -> Path:
    """Return the folder of `initdb`: Debian's isn't on the path."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *map(Path, os.get_exec_path())]
    return next(folder for folder in found if (folder / "initdb").exists())


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@frozen
class Cluster:
    """A server, and its files.

    Attributes:
        folder: Where they are.
        port: Where it listens.
        as_user: What a command begins with that must not run as root.
    """

    folder: Path
    port: int
    as_user: tuple[str, ...]

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the URL of a database, or of what is between us and it at another port."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._control("start", "-w", "-l", str(self.folder / "log"))

    def stop(self, mode: str = "immediate") -> None:
        """Stop it, as a crash does."""
        self._control("stop", "-w", "-m", mode)

    def restart(self) -> None:
        """Stop it as a crash does, and start it again."""
        self.stop()
        self.start()

    def _control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-s", "-D", str(self.folder / "data"), "-t", "60", *arguments)

    def run(self, command: str, *arguments: str) -> None:
        """Run one of PostgreSQL's commands."""
        # Not captured: a server that is started keeps what it inherits.
        subprocess.run(
            [*self.as_user, str(_binaries() / command), *arguments],
            check=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def cluster(**settings: str) -> Iterator[Cluster]:
    """Run a server.

    Args:
        settings: More of its settings, by name.
    """
    folder = Path(mkdtemp(prefix="qsessions-postgres-"))
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # PostgreSQL refuses root.
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--")
    server = Cluster(folder, free_port(), as_user)
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        server.run(
            *("initdb", "-D", str(folder / "data"), "-U", USER, "--no-sync", "--no-instructions"),
            *("-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-locale"),
        )
        lines = {
            **_SETTINGS,
            "port": str(server.port),
            "unix_socket_directories": str(folder),
            **settings,
        }
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
