"""What README, docs/ and examples/ show works as it stands. What needs more than Python and bash is
in tests/peers/.
"""

from __future__ import annotations

import json
import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import trustme

from qsessions.emulator import Emulator, Fault
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.pages import KILL_AT_END, ROOT, RunProgram, bash, programs_in_turn, snippets

pytest_plugins = ["pytester"]

ID = r"\S{36}"
# What each whole program of a page prints, in the order of the page.
PRINTED = {
    "README.md": [rf"{ID}\nclosed\n"],
    "docs/emulator.md": [r"open\n"],
    "docs/faults.md": [r"token 200\ncreate 503\ncreate 200\nclose 204\n"],
    "docs/fleet.md": [r"PostgresLedger\('db\.example\.org/qsessions'\)\n"],
    "docs/how-to/credentials.md": [r"True\n", r"0\n"],
    "docs/how-to/networks.md": [r"True\n"],
    "docs/how-to/scripts.md": [rf"{ID}\nclosed\n"],
    "docs/index.md": [rf"{ID}\n"],
    "docs/python.md": [
        r"open\n",
        r"open\nclosed\n",
        r"0\.0 None\n",
        rf"({ID} batch pending 0\.0\n){{2}}({ID} closed\n){{2}}",
        "",  # nothing to reap
        r"True\n",
        "",  # no error
    ],
    "docs/reference/events.md": [
        rf"INFO session {ID} created: batch on ibm_fez, max_ttl 600 s\nINFO session {ID} closed\n",
        r"\{\('versions', 200\): 1\}\n",
    ],
    "docs/testing.md": [
        r"closed\n",
        r"\[0\.25, 0\.5\]\nclosed\n",
        r"\n\n\n",
        "",  # a ledger
    ],
    "docs/services.md": [
        rf"one: {ID}\ntwo: {ID}\n",
        r"200 1 application/json; charset=utf-8\n204 None\n",
        r"physics \[\]\n",
        r"\{\}\n",
    ],
}


@pytest.fixture(scope="module")
def run() -> Iterator[RunProgram]:
    """Return a way to run programs."""
    with programs_in_turn() as run:
        yield run


@pytest.fixture
def service() -> Iterator[ThreadedEmulator]:
    """Run an emulator on real time, for programs of their own."""
    with ThreadedEmulator(Emulator()) as service:
        yield service


def test_there_is_no_pytest_and_a_warning_is_an_error(run: RunProgram) -> None:
    """A program can't import pytest, and ends with a warning as with any error."""
    code, output = run("import pytest", {})
    assert (code, output.splitlines()[-1]) == (
        1,
        "ModuleNotFoundError: import of pytest halted; None in sys.modules",
    )
    code, output = run("import warnings; warnings.warn('beware')", {})
    assert (code, output.splitlines()[-1]) == (1, "UserWarning: beware")


def access_token(service: ThreadedEmulator) -> str:
    """Return a token that IAM gives for the key."""
    form = {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": service.api_key}
    request = f"{service.iam_url}/identity/token", urlencode(form).encode()
    with urlopen(*request) as answer:  # noqa: S310 - the address is the emulator's
        token: str = json.load(answer)["access_token"]
    return token


def named_in_pages(service: ThreadedEmulator, program: str, folder: Path) -> dict[str, str]:
    """Return the variables that a program of a page reads besides those of qsessions."""
    found = {"TEAM_KEY": service.api_key, "TEAM_CRN": service.crn}
    if "TEAM_TOKEN" in program:
        found["TEAM_TOKEN"] = access_token(service)
    if "COMPANY_CA" in program:
        found["COMPANY_CA"] = str(folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(found["COMPANY_CA"])
    return found


def programs(page: str) -> list[str]:
    """Return a page's Python programs, without its tests, and those that need other software."""
    return [
        text
        for text in snippets(page, "python")
        if "def test_" not in text and not re.search("integrations.qiskit|fastapi", text)
    ]


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        pytest.param(*program_and_pattern, id=f"{page}-{number}")
        for page, patterns in PRINTED.items()
        for number, program_and_pattern in enumerate(zip(programs(page), patterns, strict=True))
    ],
)
def test_the_program_in_a_page_runs_as_pasted(
    run: RunProgram, service: ThreadedEmulator, tmp_path: Path, program: str, printed: str
) -> None:
    """Each Python snippet that isn't a test is a whole program. It needs only the environment, and
    not pytest.
    """
    code, output = run(program, service.env() | named_in_pages(service, program, tmp_path))
    assert code == 0, output
    assert re.fullmatch(printed, output), output
    assert service.open_sessions == []


def test_the_program_that_handles_errors(run: RunProgram, service: ThreadedEmulator) -> None:
    """The last program of docs/python.md handles a create of unknown outcome, and any other error."""
    program = snippets("docs/python.md", "python")[-1]
    unknown = Fault(kind="reset", operations=["create"], after=True)
    refused = Fault(kind="answer", operations=["create"], status=400)
    for fault, printed in (
        (unknown, rf"may be yours: {ID}, created at 20.*\n"),
        (refused, r"create: 400, \d+, .*\n.* \(trace .*\)\n"),
    ):
        service.faults.clear()
        service.faults.add(fault)
        code, output = run(program, service.env())
        assert code == 0, output
        assert re.fullmatch(printed, output), output


def test_the_program_that_reaps(run: RunProgram, service: ThreadedEmulator) -> None:
    """The program of docs/python.md closes what a process left that died with its session open."""
    crash = (ROOT / "tests/programs/crashing.py").read_text(encoding="utf-8")
    (program,) = [text for text in snippets("docs/python.md", "python") if "await reap(" in text]
    code, left = run(crash, service.env())
    assert (code, [session.id for session in service.open_sessions]) == (0, [left.strip()])
    code, output = run(program, service.env())
    assert service.open_sessions == []
    assert code == 0, output
    assert re.fullmatch(rf"{left.strip()} Verdict\.CLOSE True\n.* None\n", output)


def example(name: str) -> str:
    """Return the text of an example."""
    return (ROOT / "examples" / name).read_text(encoding="utf-8")


def test_quickstart_and_script(run: RunProgram, service: ThreadedEmulator) -> None:
    """The quickstart and the script take a session from create to closed with what the environment
    says.
    """
    for name in ("quickstart.py", "script.py"):
        code, output = run(example(name), service.env())
        assert code == 0, output
        *_, session = service.sessions
        assert output.splitlines() == [f"{session} is open", f"{session} is closed, used 0 s"]
    assert len(service.sessions) == 2


def test_an_error_at_the_jobs_leaves_no_session_open(
    run: RunProgram, service: ThreadedEmulator
) -> None:
    """Where the quickstart and the script say to submit jobs, an error closes the session."""
    for name in ("quickstart.py", "script.py"):
        program, found = re.subn(r"# Submit jobs here.*", "raise ValueError", example(name))
        code, _ = run(program, service.env())
        assert (found, code) == (1, 1)
    assert len(service.sessions) == 2
    assert service.open_sessions == []


def test_custom_auth(run: RunProgram, service: ThreadedEmulator, tmp_path: Path) -> None:
    """The provider of the example sends the token in its file, and reads the file again after a
    401.
    """
    path = tmp_path / "token"
    env = service.env() | {"TOKEN_FILE": str(path)}
    path.write_text(access_token(service) + "\n", encoding="utf-8")
    assert run(example("custom_auth.py"), env) == (0, "0 open\n")
    path.write_text("stale\n", encoding="utf-8")
    code, output = run(example("custom_auth.py"), env)
    assert code == 1
    assert "Unauthorized" in output
    assert [request.status for request in service.requests] == [200, 200, 200, 401, 401]


# What is installed beside and would cost each run its start.
NEEDLESS = [f"-pno:{name}" for name in ("hypothesispytest", "schemathesis", "xdist")]
# The README's tests and the example need no other plugin, in a project as it comes.
PLAIN = ("-pno:asyncio", "-pno:anyio")
AUTO = ("-oasyncio_mode=auto", "-oasyncio_default_fixture_loop_scope=function")


@pytest.mark.parametrize(
    ("tests", "options"),
    [
        (snippets("README.md", "python"), PLAIN),
        ([example("test_with_emulator.py")], PLAIN),
        (snippets("docs/pytest.md", "python"), AUTO),
        (snippets("docs/testing.md", "python"), PLAIN),
    ],
    ids=["README", "example", "docs/pytest.md", "docs/testing.md"],
)
def test_tests_in_the_pages_pass(
    pytester: pytest.Pytester, tests: list[str], options: tuple[str, ...]
) -> None:
    """Each test in README and the example of a test pass under pytest alone, and each in
    docs/pytest.md with pytest-asyncio in its auto mode.
    """
    tests = [text for text in tests if "def test_" in text]
    pytester.makepyfile(**{f"test_{number}": text for number, text in enumerate(tests)})
    result = pytester.runpytest_inprocess("-Werror", "--strict-markers", *NEEDLESS, *options)
    count = sum(text.count("def test_") for text in tests)
    assert count
    result.assert_outcomes(passed=count)


def test_the_ledger_of_the_page_conforms(pytester: pytest.Pytester) -> None:
    """The ledger that docs/testing.md shows passes the tests for ledgers, under pytest alone; one that
    forgets what it is given fails them.
    """
    (text,) = [each for each in snippets("docs/testing.md", "python") if "Conformance" in each]
    forgetful = text.replace("self.records[record.key] = (self.name, record)", "pass")
    assert forgetful != text
    pytester.makepyfile(test_ledger=text, test_forgetful=forgetful)
    options = ("-Werror", "--strict-markers", *NEEDLESS, *PLAIN)
    result = pytester.runpytest_inprocess(*options, "test_ledger.py")
    result.assert_outcomes(passed=7)
    outcomes = pytester.runpytest_inprocess(*options, "test_forgetful.py").parseoutcomes()
    assert outcomes["failed"] > 3


def test_the_commands_of_the_readme(service: ThreadedEmulator, tmp_path: Path) -> None:
    """The commands of README's section on the command line run in their order as they stand."""
    program = "import os; print('in', os.environ['QSESSIONS_SESSION_ID'])\n"
    (tmp_path / "experiment.py").write_text(program, encoding="utf-8")
    (commands,) = [block for block in snippets("README.md", "sh") if "python3 -m venv" not in block]
    screen, terminal = pty.openpty()
    done = bash("-c", commands, folder=tmp_path, env=service.env(), terminal=terminal)
    os.close(terminal)
    os.close(screen)
    (session,) = service.sessions.values()
    assert done.returncode == 0
    assert done.stdout.startswith(f"in {session.id}\n")
    assert session.state == "closed"


def test_the_commands_of_the_settings_page(tmp_path: Path) -> None:
    """The commands of docs/configuration.md start an emulator, point a program at it and stop it."""
    (commands,) = snippets("docs/configuration.md", "sh")
    done = bash("-c", f"{KILL_AT_END}\n{commands}", folder=tmp_path, env={})
    assert done.returncode == 0, done.stderr
    assert "credentials" in done.stdout


def test_job(service: ThreadedEmulator, tmp_path: Path) -> None:
    """The job runs a program inside a session, which ends with it, and passes its exit code on."""
    job = [str(ROOT / "examples/run_job.sh"), "sh", "-c", "echo in $QSESSIONS_SESSION_ID; exit 3"]
    done = bash(*job, folder=tmp_path, env=service.env())
    (session,) = service.sessions.values()
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == f"in {session.id}"
    assert f"session {session.id} was closed after" in done.stderr
    assert session.state == "closed"


def test_every_example_is_run() -> None:
    """No example is without a test here or in tests/peers/, prefect/ or temporal/."""
    here = {
        "quickstart.py",
        "script.py",
        "custom_auth.py",
        "test_with_emulator.py",
        "run_job.sh",
    }
    peers = {"notebook.ipynb", "session.sh"}
    services = {"aiohttp_service.py", "fastapi_service.py", "job_runner.py"}
    engines = {"prefect_flow.py", "temporal_worker.py"}
    examples = {path.name for path in (ROOT / "examples").iterdir() if path.suffix}
    assert examples == here | peers | services | engines
