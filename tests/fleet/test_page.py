"""The commands of docs/fleet.md, on a database of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg

from qsessions.ledger.postgres_schema import MIGRATIONS
from qsessions.testing import ThreadedEmulator
from tests.fleet.conftest import PATIENCE_S, eventually
from tests.support.pages import snippets
from tests.support.postgres import Cluster

CREATES = """
from qsessions import SessionClient
client = SessionClient()
for run in ("41", "42"):
    client.create(mode="batch", backend="ibm_fez", max_ttl="1h", labels={"run": run})
client.shutdown()
"""


def test_the_commands_of_the_page_about_fleets(
    server: Cluster, empty: str, emulator: ThreadedEmulator, tmp_path: Path
) -> None:
    """The page's commands make the tables, twice, and reap in rounds. With QSESSIONS_LEDGER set a
    client records in the database, in which commands find its sessions by their labels.
    """
    commands = [
        line.partition("#")[0].split() for line in snippets("docs/fleet.md", "sh")[0].splitlines()
    ]
    assert [command[:2] for command in commands[:2]] == [
        ["pip", "install"],
        ["export", commands[1][1]],
    ]
    init, watch = commands[2:]
    folder = str(Path(sys.executable).parent)
    env = os.environ | emulator.env()
    env |= {
        "HOME": str(tmp_path),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "QSESSIONS_LEDGER": server.url(empty),
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env=env, check=True, capture_output=True, text=True, timeout=PATIENCE_S
        )
        return done.stdout

    assert f"migrations  {len(MIGRATIONS)}" in run(*init)
    assert "migrations  0" in run(*init)
    with subprocess.Popen(watch, env=env, stdout=subprocess.PIPE) as reaper:
        try:
            run(sys.executable, "-c", CREATES)
            assert len(run("qsessions", "ledger", "--jsonl").splitlines()) == 2
            (row,) = run("qsessions", "ledger", "--label", "run=42", "--jsonl").splitlines()
            assert json.loads(row)["owner"] == "alive"
            run("qsessions", "close-all", "--label", "run=42", "--all", "--yes")
            assert json.loads(row)["session_id"] not in {each.id for each in emulator.open_sessions}
            # It handles the signal from its first look on, which leaves a row.
            pids = f"SELECT FROM qsessions.owners WHERE pid = {reaper.pid}"
            with psycopg.connect(server.url(empty), autocommit=True) as connection:
                eventually(lambda: connection.execute(pids.encode()).fetchall())
            reaper.send_signal(signal.SIGTERM)
            assert reaper.wait(PATIENCE_S) == 0
        finally:
            reaper.kill()
