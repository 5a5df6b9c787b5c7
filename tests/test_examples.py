"""What README and examples show works as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import aiohttp
import pytest

from qsessions.emulator import Emulator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


async def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run this interpreter with arguments; give the exit code and all that was printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        *arguments,
        env=os.environ | (env or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.fixture
async def service() -> Emulator:
    """Give an emulator on real time, for programs of their own."""
    return Emulator()


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.split("\n")[0])
async def test_readme_snippet_runs_as_pasted(snippet: str) -> None:
    """Each Python snippet of the README is a whole program that ends well."""
    code, output = await run("-c", snippet)
    assert code == 0, output
    assert "SessionState.CLOSED" in output


def test_readme_has_snippets() -> None:
    """There is at least one snippet to try."""
    assert SNIPPETS


async def test_quickstart(service: Emulator) -> None:
    """The quickstart takes a session from create to closed with what the environment says."""
    async with service:
        code, output = await run(str(ROOT / "examples/quickstart.py"), env=service.env())
    assert code == 0, output
    assert re.search(r"is open\n.* is closed, used 0 s\n$", output)


async def test_custom_auth(service: Emulator, tmp_path: Path) -> None:
    """The provider of the example sends the token in its file, and reads the file again after a 401."""
    path = tmp_path / "token"
    async with service:
        env = service.env() | {"TOKEN_FILE": str(path)}
        await asyncio.to_thread(path.write_text, await token(service) + "\n")
        assert await run(str(ROOT / "examples/custom_auth.py"), env=env) == (0, "0 open\n")
        await asyncio.to_thread(path.write_text, "stale\n")
        code, output = await run(str(ROOT / "examples/custom_auth.py"), env=env)
    assert code == 1
    assert "Unauthorized" in output
    assert [request.status for request in service.requests] == [200, 200, 200, 401, 401]


async def token(service: Emulator) -> str:
    """Get an access token from the emulator."""
    form = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": service.api_key}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{service.iam_url}/identity/token", data=form) as answer,
    ):
        return str((await answer.json())["access_token"])


async def test_example_test() -> None:
    """The example of a test passes under pytest."""
    code, output = await run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "examples/test_with_emulator.py")
    )
    assert code == 0, output
    assert "1 passed" in output


@pytest.mark.skipif(shutil.which("jq") is None, reason="examples/session.sh needs jq, which isn't installed")
async def test_shell_script(service: Emulator) -> None:
    """The shell script creates, reads and drains a session with --json and jq."""
    async with service:
        scripts = Path(sys.executable).parent
        process = await asyncio.create_subprocess_exec(
            "bash",
            str(ROOT / "examples/session.sh"),
            env=os.environ | service.env() | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        (session,) = service.sessions.values()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode().splitlines() == [
        f"{session.id} is open on ibm_fez, at most 600 s",
        f"may cost: {session.id}, session, pending",
        f"{session.id}: drain",
    ]
    assert session.state == "closed"


async def test_script(service: Emulator) -> None:
    """The script takes a session from create to closed with what the environment says."""
    async with service:
        code, output = await run(str(ROOT / "examples/script.py"), env=service.env())
        (session,) = service.sessions.values()
    assert code == 0, output
    assert output.splitlines() == [f"{session.id} is open", f"{session.id} is closed, used 0 s"]


# Runs a notebook in a real kernel and prints the result of each cell that has one.
NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.get("outputs", ()):
        print(output.get("data", output)["text/plain"] if "data" in output else output)
"""


async def test_notebook(service: Emulator) -> None:
    """Every cell of the notebook runs in a real kernel, where an event loop runs already."""
    async with service:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            NOTEBOOK,
            str(ROOT / "examples/notebook.ipynb"),
            env=os.environ | service.env(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        (session,) = service.sessions.values()
    assert process.returncode == 0, errors.decode()
    assert output.decode().splitlines() == [
        "<SessionState.OPEN: 'open'>",
        "<SessionState.CLOSED: 'closed'>",
        "[]",
    ]
    assert session.state == "closed"


def test_every_example_is_run() -> None:
    """No example is without a test here."""
    tested = {
        "quickstart.py",
        "script.py",
        "notebook.ipynb",
        "custom_auth.py",
        "test_with_emulator.py",
        "session.sh",
    }
    assert {path.name for path in (ROOT / "examples").iterdir() if path.suffix} == tested
