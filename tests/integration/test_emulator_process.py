"""The emulator as a process: how it starts, what it logs, how it stops."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession

from tests.integration.test_cli import qsessions, serving


def exported(lines: list[str]) -> dict[str, str]:
    """Give what a shell would have after it evals the lines."""
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


def headers_of(env: dict[str, str], number: str = "") -> dict[str, str]:
    """Give good credentials."""
    return {
        "Authorization": f"apikey {env['QISKIT_IBM_TOKEN']}",
        "Service-CRN": env[f"QISKIT_IBM_INSTANCE{number}"],
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_at_once_whatever_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    """With a request held up by a fault and an idle connection kept alive, a signal ends it quickly
    with 0.
    """
    plan = tmp_path / "faults.toml"
    text = '[[faults]]\nkind = "latency"\nseconds = 3600\noperations = ["get"]\n'
    await asyncio.to_thread(plan.write_text, text)
    async with serving("--faults", str(plan)) as (process, lines), ClientSession() as http:
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
        began = time.monotonic()
        process.send_signal(number)
        _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        assert time.monotonic() - began < 10
        with pytest.raises(ClientConnectionError):
            await held


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
        await process.communicate()
    text = await asyncio.to_thread(log.read_text)
    made, refused = map(json.loads, text.splitlines())
    assert (made["operation"], made["session_id"], made["status"]) == ("create", session, 200)
    assert (refused["path"], refused["status"]) == ("/api/v1/sessions/<api_key>", 401)
    assert env["QISKIT_IBM_TOKEN"] not in text


async def test_the_log_on_standard_error() -> None:
    """A dash sends the log to standard error."""
    async with serving("--log", "-") as (process, lines), ClientSession() as http:
        async with http.get(f"{exported(lines)['QSESSIONS_BASE_URL']}/v1/versions") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert json.loads(err)["operation"] == "versions"


async def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """A log in a folder that isn't there is told before anything is served."""
    code, out, err = await qsessions("emulator", "--log", str(tmp_path / "none" / "log"))
    assert (code, out) == (2, "")
    what, advice = err.splitlines()
    assert "can't write the log" in what
    assert "--log" in advice


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
        await process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            b'[[faults]]\nkind = "answer"\nstatus = 99\n',
            r"f.toml: faults\[0\]\.status: must be from 200 to 599",
        ),
        (b"[[faults]\n", "f.toml: "),
        (b"\xff", "f.toml: "),
        (None, "f.toml: No such file"),
    ],
)
async def test_a_fault_file_that_makes_no_sense(
    text: bytes | None, told: str, tmp_path: Path
) -> None:
    """A mistake in the file ends with 2 and is told with the file and the place, in two lines."""
    path = tmp_path / "f.toml"
    if text is not None:
        await asyncio.to_thread(path.write_bytes, text)
    code, out, err = await qsessions("emulator", "--faults", str(path))
    assert (code, out) == (2, "")
    assert re.search(told, err)
    assert len(err.splitlines()) == 2


async def test_wrong_options() -> None:
    """Options out of range end with 2 and say which."""
    for arguments in (
        ("--speed", "-1"),
        ("--instance", "free"),
        ("--port", "70000"),
        ("--token-seconds", "0"),
    ):
        code, out, err = await qsessions("emulator", *arguments)
        assert (code, out) == (2, "")
        assert arguments[0].strip("-") in err


@pytest.mark.parametrize("host", ["999.1.1.1", "192.0.2.1", "a..b"])
async def test_a_host_to_listen_at_that_is_none(host: str) -> None:
    """What is no host, and what is another machine's, is told with advice that fits, and no warning
    of what isn't served.
    """
    code, out, err = await qsessions("emulator", "--host", host)
    assert (code, out) == (2, "")
    what, advice = err.splitlines()
    assert what.startswith(f"qsessions emulator: can't listen at '{host}': ")
    assert advice == "Use --host with an address of this machine, such as 127.0.0.1."


@pytest.mark.parametrize(
    ("host", "warned"),
    [("0.0.0.0", True), ("localhost", False)],  # noqa: S104 - it is the case
)
async def test_listening_beyond_this_machine_is_warned_of(host: str, warned: bool) -> None:
    """An address that others can reach is warned of on standard error, loopback is not."""
    async with serving("--host", host) as (process, _):
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    assert process.returncode == 0
    assert (b"WARNING" in err) == warned
