"""What README and examples show works as it stands."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shutil
import sys
from pathlib import Path

import aiohttp
import pytest

from qsessions.emulator import Emulator, Fault

ROOT = Path(__file__).parents[2]


def snippets(page: Path, language: str) -> list[str]:
    """Return a page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def programs(page: Path) -> list[str]:
    """Return a page's Python programs, without its tests."""
    return [snippet for snippet in snippets(page, "python") if "def test_" not in snippet]


ID = r"\S{36}"
# What each whole program of a page prints, in the order of the page.
PRINTED = {
    "README.md": [rf"{ID}\nclosed\n", rf"{ID}\n"],
    "docs/emulator.md": [r"open\n"],
    "docs/faults.md": [r"token 200\ncreate 503\ncreate 200\nclose 204\n"],
    "docs/python.md": [
        r"open\nclosed\n",
        rf"({ID} batch pending 0\.0\n){{2}}({ID} closed\n){{2}}",
        "",  # nothing to reap
        "",  # no error
    ],
}
PROGRAMS = [
    pytest.param(snippet, printed, id=f"{page}-{number}")
    for page, patterns in PRINTED.items()
    for number, (snippet, printed) in enumerate(zip(programs(ROOT / page), patterns, strict=True))
]
# The README's need no other plugin, in a project as it comes.
PLAIN = ("-p", "no:asyncio", "-p", "no:anyio")
AUTO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
TESTS = [("README.md", PLAIN), ("docs/pytest.md", AUTO)]


async def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run this interpreter with arguments; return the exit code and all that was printed."""
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
    """Return an emulator on real time, for programs of their own."""
    return Emulator()


@pytest.mark.parametrize(("snippet", "printed"), PROGRAMS)
async def test_the_program_in_a_page_runs_as_pasted(
    service: Emulator, snippet: str, printed: str
) -> None:
    """Each Python snippet that isn't a test is a whole program. It needs only the environment, and
    not pytest.
    """
    async with service:
        program = f"import sys; sys.modules['pytest'] = None\n{snippet}"
        code, output = await run("-c", program, env=service.env())
        assert service.open_sessions == []
    assert code == 0, output
    assert re.fullmatch(printed, output), output


@pytest.mark.parametrize(
    ("fault", "printed"),
    [
        (
            Fault(kind="reset", operations=["create"], after=True),
            rf"may be yours: {ID}, created at 20.*\n",
        ),
        (
            Fault(kind="answer", operations=["create"], status=400),
            r"create: 400, \d+, .*\n.* \(trace .*\)\n",
        ),
    ],
    ids=["unknown", "refused"],
)
async def test_the_program_that_handles_errors(
    service: Emulator, fault: Fault, printed: str
) -> None:
    """The last program of docs/python.md handles a create of unknown outcome, and any other error."""
    program = (await asyncio.to_thread(snippets, ROOT / "docs/python.md", "python"))[-1]
    async with service:
        service.faults.add(fault)
        code, output = await run("-c", program, env=service.env())
    assert code == 0, output
    assert re.fullmatch(printed, output), output


async def test_the_official_client_uses_our_session(service: Emulator) -> None:
    """The program of docs/official-client.md hands a session's id to the official client, on the
    emulator.
    """
    (program,) = await asyncio.to_thread(snippets, ROOT / "docs/official-client.md", "python")
    async with service:
        env = service.env() | dict.fromkeys(
            ("GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"), service.iam_url
        )
        code, output = await run("-c", program, env=env)
        assert service.open_sessions == []
    assert (code, output) == (0, "Pending\n")


@pytest.mark.parametrize(("page", "options"), TESTS)
async def test_tests_in_the_pages_pass(page: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """Each test in README passes under pytest alone, and each in docs/pytest.md with pytest-asyncio
    in its auto mode.
    """
    found = await asyncio.to_thread(snippets, ROOT / page, "python")
    tests = [snippet for snippet in found if "def test_" in snippet]
    for number, snippet in enumerate(tests):
        await asyncio.to_thread((tmp_path / f"test_{number}.py").write_text, snippet)
    code, output = await run(
        "-m",
        "pytest",
        *("-p", "no:cacheprovider", "--strict-markers", "--rootdir", str(tmp_path)),
        *options,
        str(tmp_path),
    )
    assert code == 0, output
    count = sum(snippet.count("def test_") for snippet in tests)
    assert count
    assert f"{count} passed" in output


async def test_quickstart(service: Emulator) -> None:
    """The quickstart takes a session from create to closed with what the environment says."""
    async with service:
        code, output = await run(str(ROOT / "examples/quickstart.py"), env=service.env())
    assert code == 0, output
    assert re.search(r"is open\n.* is closed, used 0 s\n$", output)


async def test_custom_auth(service: Emulator, tmp_path: Path) -> None:
    """The provider of the example sends the token in its file, and reads the file again after a
    401.
    """
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


# Ends as a crash does, with a session open that the ledger has the id of.
CRASH = """
import asyncio
import os
from qsessions import AsyncSessionClient, LocalLedger

async def main():
    ledger = LocalLedger()
    client = AsyncSessionClient(ledger=ledger)
    session = await client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
    while [entry.record.session_id for entry in await ledger.entries()] != [session.id]:
        pass
    print(session.id, flush=True)
    os._exit(0)

asyncio.run(main())
"""


async def test_the_program_that_reaps(service: Emulator) -> None:
    """The program of docs/python.md closes what a process left that died with its session open."""
    found = await asyncio.to_thread(snippets, ROOT / "docs/python.md", "python")
    (program,) = [snippet for snippet in found if "await reap(" in snippet]
    async with service:
        _, left = await run("-c", CRASH, env=service.env())
        code, output = await run("-c", program, env=service.env())
        assert service.open_sessions == []
    assert code == 0, output
    assert re.fullmatch(rf"{left.strip()} Verdict\.CLOSE True\n.* None\n", output)


def missing(*tools: str) -> pytest.MarkDecorator:
    """Skip a test on a machine without the tools that it needs; the gate installs them."""
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)}")


async def bash(
    *arguments: str, folder: Path, env: dict[str, str], terminal: int | None = None
) -> tuple[int | None, str, str]:
    """Run bash with our commands in its PATH; return the exit code, standard output and standard
    error.

    A terminal, where there is one, is standard input and error.
    """
    scripts = Path(sys.executable).parent
    process = await asyncio.create_subprocess_exec(
        "bash",
        *arguments,
        cwd=folder,
        env=os.environ | env | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        stdin=terminal or asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=terminal or asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), (errors or b"").decode()


@missing("jq")
async def test_shell_script(service: Emulator, tmp_path: Path) -> None:
    """The shell script creates, reads and drains a session with --json and jq."""
    async with service:
        code, output, errors = await bash(
            str(ROOT / "examples/session.sh"), folder=tmp_path, env=service.env()
        )
        (session,) = service.sessions.values()
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        f"{session.id} is open on ibm_fez, at most 600 s",
        f"may cost: {session.id}, session, pending",
        f"{session.id}: drain",
    ]
    assert session.state == "closed"


# What the commands of docs/emulator.md print, a pattern for each line.
LINES = [
    r'\["open",true\]',
    r'\["closed","session_closed_by_drain"\]',
    r"Running",
    r"\d{4}-.*Z",
    r"Completed",
    r'\{"faults":\[\{"kind":"answer",.*\}\]\}',
    r"429",
    r"200",
    r'\["get",200,"Bearer .*"\]',
    r".*: batch on ibm_fez, active, takes jobs; .*",
    r"    created at .* by POST /api/v1/sessions from curl/.*",
    *[r"    \+.*"] * 5,
    r"    left alone it closes in .*",
    r"true",
    r"open",
]


@missing("curl", "jq", "node", "timeout")
async def test_the_page_for_other_languages(tmp_path: Path) -> None:
    """The commands of docs/emulator.md run in their order as they stand, and its program runs under
    Node.
    """
    page = ROOT / "docs/emulator.md"
    commands = await asyncio.to_thread(snippets, page, "sh")
    (program,) = await asyncio.to_thread(snippets, page, "js")
    await asyncio.to_thread((tmp_path / "session.mjs").write_text, program)
    # The emulator must not outlive the commands, wherever they end.
    script = "\n".join(["trap 'kill \"$pid\" 2>/dev/null || true' EXIT", *commands])
    code, output, errors = await bash("-euo", "pipefail", "-c", script, folder=tmp_path, env={})
    assert (code, errors) == (0, "curl: (22) The requested URL returned error: 429\n"), output
    printed = output.splitlines()
    assert len(printed) == len(LINES), output
    for line, pattern in zip(printed, LINES, strict=True):
        assert re.fullmatch(pattern, line), output


async def test_the_commands_of_the_readme(service: Emulator, tmp_path: Path) -> None:
    """The commands of README's section on the command line run in their order as they stand."""
    program = "import os; print('in', os.environ['QSESSIONS_SESSION_ID'])\n"
    await asyncio.to_thread((tmp_path / "experiment.py").write_text, program)
    blocks = await asyncio.to_thread(snippets, ROOT / "README.md", "sh")
    (commands,) = [block for block in blocks if "python3 -m venv" not in block]
    screen, terminal = pty.openpty()
    async with service:
        code, output, _ = await bash(
            *("-euo", "pipefail", "-c", commands),
            folder=tmp_path,
            env=service.env(),
            terminal=terminal,
        )
        (session,) = service.sessions.values()
    os.close(terminal)
    os.close(screen)
    assert code == 0
    assert output.startswith(f"in {session.id}\n")
    assert session.state == "closed"


async def test_the_commands_of_the_settings_page(tmp_path: Path) -> None:
    """The commands of docs/configuration.md start an emulator, point a program at it and stop it."""
    (commands,) = await asyncio.to_thread(snippets, ROOT / "docs/configuration.md", "sh")
    script = f"trap 'kill \"$pid\" 2>/dev/null || true' EXIT\n{commands}"
    code, output, errors = await bash("-euo", "pipefail", "-c", script, folder=tmp_path, env={})
    assert code == 0, errors
    assert "credentials" in output


async def test_job(service: Emulator, tmp_path: Path) -> None:
    """The job runs a program inside a session, which ends with it, and passes its exit code on."""
    async with service:
        command = ["sh", "-c", "echo in $QSESSIONS_SESSION_ID; exit 3"]
        code, output, errors = await bash(
            str(ROOT / "examples/run_job.sh"), *command, folder=tmp_path, env=service.env()
        )
        (session,) = service.sessions.values()
    assert code == 3
    assert output.splitlines()[-1] == f"in {session.id}"
    assert f"session {session.id} was closed after" in errors
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
        "run_job.sh",
    }
    assert {path.name for path in (ROOT / "examples").iterdir() if path.suffix} == tested
