"""The `qsessions` command in processes of its own, with a fixed environment."""

from __future__ import annotations

import asyncio
import importlib.resources
import json
import os
import pty
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema

from tests.support.clients import CRN
from tests.support.fault_server import FaultServer, http

QSESSIONS = str(Path(sys.executable).with_name("qsessions"))
PIPE = asyncio.subprocess.PIPE
SCHEMA: dict[str, Any] = json.loads(
    importlib.resources.files("qsessions.cli").joinpath("schema.json").read_text()
)
GRANT = http(200, {"access_token": "token-of-the-test", "expires_in": 3600})


class Shell:
    """Runs `qsessions` with a fixed environment."""

    def __init__(self, env: Mapping[str, str], home: Path) -> None:
        # Neither the developer's account file nor a terminal's settings take part.
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in {"NO_COLOR", "TERM", "PYTHONUNBUFFERED"}
        }
        self.env = kept | {"HOME": str(home)} | dict(env)

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        """Start the command."""
        streams: dict[str, Any] = {
            "stdin": asyncio.subprocess.DEVNULL,
            "stdout": PIPE,
            "stderr": PIPE,
        }
        streams |= {"env": self.env} | options
        return await asyncio.create_subprocess_exec(QSESSIONS, *arguments, **streams)

    async def __call__(self, *arguments: str, **options: Any) -> tuple[int, str, str]:
        """Run the command; give its exit code, standard output and standard error."""
        process = await self.start(*arguments, **options)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, (out or b"").decode(), (err or b"").decode()

    async def data(self, *arguments: str) -> Any:
        """Run a command that must do well with --json; check what it prints against the schema and
        give it.
        """
        code, out, err = await self(*arguments, "--json")
        assert (code, err) == (0, "")
        value = json.loads(out)
        validate(value, "json", arguments[0])
        return value

    async def lines(self, *arguments: str) -> list[Any]:
        """Run a command that must do well with --jsonl; check each line against the schema and give
        them all.
        """
        code, out, err = await self(*arguments, "--jsonl")
        assert (code, err) == (0, "")
        values = [json.loads(line) for line in out.splitlines()]
        for value in values:
            validate(value, "jsonl", arguments[0])
        return values

    async def on_terminal(self, *arguments: str, **env: str) -> tuple[int, str]:
        """Run a command on a terminal; give its exit code and what it showed there."""
        master, slave = pty.openpty()
        process = await self.start(
            *arguments, stdout=slave, env=self.env | {"TERM": "xterm", "COLUMNS": "140"} | env
        )
        os.close(slave)
        shown = await asyncio.to_thread(read_all, master)
        _, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, shown.replace("\r\n", "\n") + (err or b"").decode()


def read_all(descriptor: int) -> str:
    """Read a terminal until its other end is gone, which reads as an error on Linux and as the end
    elsewhere.
    """
    parts: list[bytes] = []
    with suppress(OSError):
        while part := os.read(descriptor, 4096):
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode()


def validate(value: object, form: str, command: str) -> None:
    """Check a value against the schema of a command's output."""
    schema = SCHEMA | {"$ref": f"#/$defs/{form}/{command}"}
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(
        value
    )


def told(err: str) -> tuple[str, str]:
    """Give the two lines of an error: what happened and what to do."""
    assert "Traceback" not in err
    # A shell is not told Python: no keyword arguments, no calls, no None.
    assert re.findall(r"(?<!\S)[a-z_]+=|\w\(\)|\bNone\b", err) == []
    what, advice = err.splitlines()
    return what, advice


def shell_of(server: FaultServer, home: Path) -> Shell:
    """Give a shell whose environment leads to a scripted server, for IAM too."""
    env = {
        "QSESSIONS_BASE_URL": server.url,
        "IAM_URL": server.url,
        "QISKIT_IBM_TOKEN": "the-secret-key",
        "QISKIT_IBM_INSTANCE": CRN,
    }
    return Shell(env, home)
