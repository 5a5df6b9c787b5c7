"""The emulator as a process: how it starts, what it logs, how it stops."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import socket
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession

from qsessions.emulator import Emulator
from qsessions.emulator.http.recording import request_log
from tests.support.shell import EXPORTS, Shell, error_lines, outcome, serving


@pytest.fixture
def shell(home: Path) -> Shell:
    """Return a shell without credentials."""
    return Shell({}, home)


def exported(lines: list[str]) -> dict[str, str]:
    """Return what a shell would have after it evals the lines."""
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


def headers_of(env: dict[str, str], number: str = "") -> dict[str, str]:
    """Return good credentials."""
    return {
        "Authorization": f"apikey {env['QISKIT_IBM_TOKEN']}",
        "Service-CRN": env[f"QISKIT_IBM_INSTANCE{number}"],
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_at_once_whatever_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    """It prints the four variables and nothing else. With a request held up by a fault and an idle
    connection kept alive, a signal ends it with 0.
    """
    plan = tmp_path / "faults.toml"
    # Longer than the test may take.
    text = '[[faults]]\nkind = "latency"\nseconds = 3600\noperations = ["get"]\n'
    await asyncio.to_thread(plan.write_text, text)
    arguments = ("--host", "localhost", "--port", "0", "--faults", str(plan))
    async with serving(*arguments) as (process, lines), ClientSession() as http:
        assert [re.fullmatch(r"export (\w+)=\S+", line)[1] for line in lines] == EXPORTS  # type: ignore[index]
        env = exported(lines)
        async with http.get(f"{env['QSESSIONS_BASE_URL']}/v1/versions") as answer:
            assert answer.status == 200
        held = asyncio.create_task(
            http.get(
                f"{env['QSESSIONS_BASE_URL']}/v1/sessions/x", headers=headers_of(env)
            ).__aenter__()
        )
        fired = 0
        while not fired:
            async with http.get(f"{env['IAM_URL']}/emulator/faults") as answer:
                fired = (await answer.json())["faults"][0]["fired"]
        process.send_signal(number)
        # Servers that wait for what is under way do that for a minute.
        async with asyncio.timeout(30):
            # Neither an error nor a warning: localhost can't be reached from elsewhere.
            assert await outcome(process) == (0, "", "")
        with pytest.raises(ClientConnectionError):
            await held


async def test_options_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key, CRN, seed and the host that others use come from variables, of which a flag wins and an
    empty one counts as none; the admin token isn't among what is printed.
    """
    crn = "crn:v1:bluemix:public:quantum-computing:us-east:a/emulated:my-tests::"
    variables = {
        "API_KEY": "a-key-from-a-variable",
        "CRN": crn,
        "SEED": "1",
        "ADMIN_TOKEN": "pLaNtEd-admin-token",
        "ADVERTISED_HOST": "emulator",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"QSESSIONS_EMULATOR_{name}", value)
    async with serving("--api-key", "a-key-from-a-flag", "--instance", "open") as (process, lines):
        env = exported(lines)
        assert re.fullmatch(r"http://emulator:\d+", env["IAM_URL"])
        assert (env["QISKIT_IBM_TOKEN"], env["QISKIT_IBM_INSTANCE"]) == ("a-key-from-a-flag", crn)
        assert "pLaNtEd" not in str(env)
        process.send_signal(signal.SIGTERM)
        assert await outcome(process) == (0, "", "")
    for name in variables:
        monkeypatch.setenv(f"QSESSIONS_EMULATOR_{name}", "1" if name == "SEED" else "")
    async with serving("--instance", "open") as (_, lines):
        assert exported(lines)["IAM_URL"].startswith("http://127.0.0.1:")
        assert exported(lines)["QISKIT_IBM_TOKEN"] == Emulator(seed=1).api_key


async def test_a_wrong_option_is_named_as_it_was_given(
    shell: Shell,
) -> None:
    """A value that can't be right is told with the variable that it came from, else with its option."""
    for option in ("--advertised-host", "--api-key", "--crn", "--admin-token"):
        code, out, err = await shell("emulator", option, "a b")
        assert (code, out) == (2, "")
        problem, advice = error_lines(err)
        assert problem.startswith(f"qsessions emulator: {option} must be ")
        assert advice == "See: qsessions emulator --help"
        variable = f"QSESSIONS_EMULATOR_{option[2:].replace('-', '_').upper()}"
        shell.env[variable] = "a b"
        problem, advice = error_lines((await shell("emulator"))[2])
        assert problem.startswith(f"qsessions emulator: {variable} must be ")
        assert advice == f"Correct or unset {variable}."
        # What an option says comes before it.
        problem, _ = error_lines((await shell("emulator", option, "c d"))[2])
        assert problem.startswith(f"qsessions emulator: {option} must be ")
        del shell.env[variable]


async def test_every_request_is_a_line_of_json(tmp_path: Path) -> None:
    """The log has what was asked and what came of it, and no secret; a stop leaves it whole."""
    log = tmp_path / "requests.jsonl"
    async with serving("--log", str(log)) as (process, lines), ClientSession() as http:
        env = exported(lines)
        url = f"{env['QSESSIONS_BASE_URL']}/v1/sessions"
        async with http.post(url, json={"mode": "batch"}, headers=headers_of(env)) as answer:
            session = (await answer.json())["id"]
        async with http.get(f"{url}/{env['QISKIT_IBM_TOKEN']}") as answer:
            assert answer.status == 401
        process.send_signal(signal.SIGTERM)
        await outcome(process)
    text = await asyncio.to_thread(log.read_text)
    made, refused = map(json.loads, text.splitlines())
    assert (made["operation"], made["session_id"], made["status"]) == ("create", session, 200)
    assert (refused["path"], refused["status"]) == ("/api/v1/sessions/<api_key>", 401)
    assert env["QISKIT_IBM_TOKEN"] not in text


async def test_the_log_on_standard_error_and_a_warning() -> None:
    """A dash sends the log to standard error. An address that others can reach is warned of there
    before.
    """
    async with serving("--log", "-", "--host", "0.0.0.0") as (process, lines):  # noqa: S104 - it is the case
        env = exported(lines)
        async with (
            ClientSession() as http,
            http.get(f"{env['QSESSIONS_BASE_URL']}/v1/versions") as answer,
        ):
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        code, _, err = await outcome(process)
    assert code == 0
    *warning, line = err.splitlines()
    assert (
        "WARNING: 0.0.0.0 can be reached from other machines" in error_lines("\n".join(warning))[0]
    )
    assert json.loads(line)["operation"] == "versions"


async def test_a_log_that_cannot_be_written(shell: Shell, tmp_path: Path) -> None:
    """A log in a folder that isn't there is reported before anything is served."""
    code, out, err = await shell("emulator", "--log", str(tmp_path / "none" / "log"))
    assert (code, out) == (2, "")
    what, advice = err.splitlines()
    assert "can't write the log" in what
    assert "--log" in advice


async def test_a_log_ends_with_its_emulator(shell: Shell, tmp_path: Path) -> None:
    """What a command has set up for its log is gone afterwards, so that the next one in the same
    process logs what it is asked to, once.
    """
    before = (request_log.handlers[:], request_log.level, request_log.propagate)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = await shell("emulator", "--log", str(tmp_path / "log"), "--port", port)
    assert (code, "can't listen" in err) == (2, True)
    assert (request_log.handlers, request_log.level, request_log.propagate) == before


async def test_instances_with_terms_of_their_own() -> None:
    """Each --instance has a CRN of its own among the exports, and its own terms."""
    arguments = ("--instance", "open", "--instance", "partner", "--speed", "0")
    async with serving(*arguments) as (process, lines), ClientSession() as http:
        env = exported(lines)
        assert len({value for name, value in env.items() if "INSTANCE" in name}) == 3

        async def create(number: str, **fields: object) -> int:
            url = f"{env['QSESSIONS_BASE_URL']}/v1/sessions"
            body = {"mode": "dedicated", **fields}
            async with http.post(url, json=body, headers=headers_of(env, number)) as answer:
                return answer.status

        assert [await create(number) for number in ("", "_2", "_3")] == [200, 400, 400]
        assert [await create(number, interactive_ttl=60) for number in ("", "_3")] == [400, 200]
        process.send_signal(signal.SIGTERM)
        assert (await outcome(process))[0] == 0


async def test_a_fault_file_that_makes_no_sense(shell: Shell, tmp_path: Path) -> None:
    """A mistake in the file ends with 2 and is reported with the file and the place, in two
    lines.
    """
    path = tmp_path / "f.toml"
    for text, what in (
        (None, "f.toml: No such file"),
        (
            b'[[faults]]\nkind = "answer"\nstatus = 99\n',
            "f.toml: faults[0].status: must be from 200 to 599",
        ),
        (b"[[faults]\n", "f.toml: "),
        (b"\xff", "f.toml: "),
    ):
        if text is not None:
            await asyncio.to_thread(path.write_bytes, text)
        code, out, err = await shell("emulator", "--faults", str(path))
        assert (code, out, len(err.splitlines())) == (2, "", 2), text
        assert what in err, text


async def test_a_host_to_listen_at_that_is_none(shell: Shell) -> None:
    """What is no host, and what is another machine's, is reported with advice that fits, and no
    warning of what isn't served.
    """
    for host in ("999.1.1.1", "192.0.2.1", "a..b"):
        code, out, err = await shell("emulator", "--host", host)
        assert (code, out) == (2, ""), host
        what, advice = err.splitlines()
        assert what.startswith(f"qsessions emulator: can't listen at '{host}': ")
        assert advice == "Use --host with an address of this machine, such as 127.0.0.1.", host
