"""The commands for the service, against an emulator and scripted servers in the test's loop."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shlex
import signal
import socket
import sys
import time
import uuid
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import jsonschema
import pytest

from qsessions import ApiVersion, InvalidArgument, Session, Workload
from qsessions.cli import main
from qsessions.cli.app import COMMANDS, make_app
from qsessions.emulator import Emulator, Fault
from qsessions.models import whole_seconds
from tests.support.clients import CRN
from tests.support.fault_server import Connection, FaultServer, hang, held, http
from tests.support.shell import (
    GRANT,
    PROGRAMS,
    SCHEMA,
    Shell,
    closed_pipe,
    draw_short_waits,
    error_lines,
    outcome,
    shell_of,
    validate,
)
from tests.support.waiting import until

DOCS = Path(__file__).parents[2] / "docs" / "command-line.md"
CREATE = ("create", "--mode", "batch", "--max-ttl", "10m")
SESSION = http(200, {"id": "s-1", "state": "open", "state_reason": "\x1b[31mred\ud800", "new": [1]})


def test_schema_is_one_and_names_every_field() -> None:
    """The schema is valid, and its objects have exactly the fields of the models."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, model in (("session", Session), ("workload", Workload), ("version", ApiVersion)):
        fields = {attribute.name for attribute in attrs.fields(model)}
        assert (
            set(SCHEMA["$defs"][name]["properties"])
            == set(SCHEMA["$defs"][name]["required"])
            == fields
        )


async def test_a_session_from_create_to_closed(tmp_path: Path, service: Emulator) -> None:
    """create, get, update, drain and close do on the service what they say, and print JSON that
    fits the schema.
    """
    # A partner may set all TTLs.
    shell = Shell(
        service.env() | {"QISKIT_IBM_INSTANCE": service.add_instance(partner=True)}, tmp_path
    )
    made = await shell.data(
        "create", "--mode", "dedicated", "--backend", "ibm_fez", "--max-ttl", "10m", "--active-ttl", "300",
        "--interactive-ttl", "1m",
    )  # fmt: skip
    session_id = made["id"]
    assert (made["state"], made["backend_name"], made["mode"]) == ("open", "ibm_fez", "dedicated")
    assert (made["max_ttl"], made["active_ttl"], made["interactive_ttl"]) == (600, 300, 60)
    service.submit_job(session_id, seconds=3600)
    assert (await shell.data("get", session_id))["state"] == "active"
    assert await shell.data("update", session_id, "--no-accepting-jobs") == {
        "id": session_id, "done": "update", "accepting_jobs": False,
    }  # fmt: skip
    assert not service.sessions[session_id].accepting_jobs
    assert (await shell.data("update", session_id, "--accepting-jobs"))["accepting_jobs"] is True
    assert service.sessions[session_id].accepting_jobs
    assert await shell.data("drain", session_id) == {"id": session_id, "done": "drain"}
    assert not service.sessions[session_id].accepting_jobs
    assert await shell.lines("close", session_id) == [{"id": session_id, "done": "close"}]
    (read,) = await shell.lines("get", session_id)
    assert read["state"] == "closed"
    assert [entry["status"] for entry in read["timestamps"]] == ["open", "active", "closed"]


async def test_durations_are_those_of_python(tmp_path: Path) -> None:
    """An option takes the text that Python takes, with the same result, and refuses the others with
    the list of units.
    """
    for text in ("1d", "1d 2h", "600", "600s", "10min", "1w", "1.5h", "1h 1h", "600.0"):
        async with FaultServer(GRANT, SESSION) as server:
            code, _, err = await shell_of(server, tmp_path)(
                "create", "--mode", "batch", "--max-ttl", text
            )
        try:
            seconds = whole_seconds(text, "max_ttl")
        except InvalidArgument:
            assert (code, server.received) == (2, []), text
            assert "units: d, h, m, s" in err, text
        else:
            assert json.loads(server.received[-1].body)["max_ttl"] == seconds, text


async def test_lists(shell: Shell) -> None:
    """workloads filters, sorts and stops at the limit; versions lists; both with --json and
    --jsonl.
    """
    for mode in ("batch", "dedicated"):
        await shell.data("create", "--mode", mode, "--backend", "ibm_fez", "--max-ttl", "10m")
    session_id = (await shell.data(*CREATE))["id"]
    await shell.data("close", session_id)
    assert [item["mode"] for item in (await shell.data("workloads"))["workloads"]] == [
        "batch",
        "session",
        "batch",
    ]
    assert [
        item["id"] for item in await shell.lines("workloads", "--newest-first", "--limit", "1")
    ] == [session_id]
    assert [item["mode"] for item in await shell.lines("workloads", "--mode", "session")] == [
        "session"
    ]
    ended = await shell.lines("workloads", "--status", "completed", "--status", "canceled")
    assert [item["id"] for item in ended] == [session_id]
    assert len(await shell.lines("workloads", "--backend", "ibm_fez", "--search", "ibm_fez")) in {
        0,
        2,
    }
    assert await shell.lines("workloads", "--created-after", "2999-01-01") == []
    assert len(await shell.lines("workloads", "--created-before", "2999-01-01T00:00:00+01:00")) == 3
    assert (await shell.data("versions"))["versions"] == await shell.lines("versions")
    assert (await shell.lines("versions"))[-1]["version"] == "2026-04-15"


async def test_instances(service: Emulator, shell: Shell) -> None:
    """instances lists what a key's account has, also where no one instance can be chosen, which a
    command that needs one says; a name in place of the CRN chooses one.
    """
    service.add_instance(name="europe", plan="open", region="eu-de", tags=["night"])
    shell.env |= dict.fromkeys(("GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"), service.iam_url)
    shell.env["QISKIT_IBM_INSTANCE"] = ""
    listed = await shell.lines("instances")
    assert (await shell.data("instances"))["instances"] == listed
    assert listed[1] == {
        "name": "europe",
        "crn": service.crns[1],
        "plan": "open",
        "region": "eu-de",
        "tags": ["night"],
    }
    code, out, err = await shell(*CREATE)
    assert (code, out) == (2, "")
    problem, advice = error_lines(err)
    assert problem.startswith("qsessions create: the key has several instances: 'emulated-1' (plan")
    assert (
        advice
        == "Put the CRN of one into QISKIT_IBM_INSTANCE or the account, or pass it to the client."
    )
    # The ledger is listed all the same.
    code, out, err = await shell("ledger", "--json")
    assert (code, json.loads(out), err) == (0, {"ledger": []}, "")
    shell.env["QISKIT_IBM_INSTANCE"] = "europe"
    created = await shell.data(*CREATE)
    (recorded,) = (await shell.data("ledger"))["ledger"]
    assert (recorded["session_id"], recorded["instance"]) == (created["id"], service.crns[1])
    assert recorded["live_state"] == "open"
    service.faults.add(Fault(kind="answer", status=403, operations=["instances"]))
    code, out, err = await shell("ledger", "--json")
    assert (code, json.loads(out)["ledger"][0]["live_state"]) == (0, None)
    assert "live states are not shown: instances: the search for instances at 127" in err
    for crn in service.crns:
        service.delete_instance(crn)
    service.faults.clear()
    assert (await shell("instances"))[1:] == (
        "",
        "qsessions instances: the account of the key has no instance.\n",
    )


async def test_a_long_list_is_read_in_pages(tmp_path: Path) -> None:
    """A limit above the service's page size is no error: pages of 50 are read until there are as
    many as were wanted.
    """
    pages = [
        http(
            200,
            {
                "workloads": [
                    {"id": f"w{page}-{number}", "mode": "session"} for number in range(50)
                ],
                "next": {"href": f"?next=c{page}"},
            },
        )
        for page in range(4)
    ]
    for limit, sizes, rows in (("120", ["50"] * 3, 120), ("7", ["7"], 7)):
        async with FaultServer(GRANT, *pages) as server:
            listed = await shell_of(server, tmp_path).lines(
                "workloads", "--mode", "session", "--limit", limit
            )
        assert len(listed) == rows
        queries = [parse_qs(urlsplit(request.target).query) for request in server.received[1:]]
        assert [query["limit"] for query in queries] == [[size] for size in sizes]


async def test_a_time_without_an_offset_is_local_time(tmp_path: Path) -> None:
    """A time is read by the clock on the wall, an offset in it counts, and the service is asked in
    UTC.
    """
    for option in ("created-after", "created-before"):
        for written, sent in (
            ("2026-01-31", "2026-01-31T05:00:00Z"),
            ("2026-01-31T12:00:00", "2026-01-31T17:00:00Z"),
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
            ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ):
            async with FaultServer(GRANT, http(200, {"workloads": []})) as server:
                shell = shell_of(server, tmp_path)
                shell.env["TZ"] = "EST5"
                arguments = ("workloads", "--mode", "session", f"--{option}", written)
                assert await shell.lines(*arguments) == []
            query = parse_qs(urlsplit(server.received[1].target).query)
            assert query[option.replace("-", "_")] == [sent], arguments


async def test_a_time_that_is_none_is_reported(shell: Shell) -> None:
    """What can't be read as a time, or that no clock can show, is wrong use."""
    for written in ("yesterday", "0001-01-01", "9999-12-31T23:59:59-12:00"):
        code, _, err = await shell("workloads", "--created-after", written)
        assert (code, "created" in error_lines(err)[0]) == (2, True), written


async def test_plain_text_is_aligned(shell: Shell) -> None:
    """Without a terminal, records are a field a line and lists have aligned columns, without any
    escape.
    """
    code, made, _ = await shell(
        "create", "--mode", "batch", "--max-ttl", "600", "--timeout", "none"
    )
    assert code == 0
    session_id = re.findall(r"^id +(\S+)$", made, re.MULTILINE)[0]
    assert re.search(r"^timestamps       open \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", made, re.MULTILINE)
    assert re.search(r"^accepting_jobs   yes$", made, re.MULTILINE)
    assert await shell("drain", session_id) == (0, f"id    {session_id}\ndone  drain\n", "")
    _, listed, _ = await shell("workloads")
    header, line = listed.splitlines()
    assert header.split() == [
        "id",
        "mode",
        "status",
        "created",
        "usage_seconds",
        "backend",
        "accepting_jobs",
    ]
    assert re.fullmatch(rf"{session_id}  batch  completed  \S+Z  0.0            -        no", line)
    assert header.index("mode") == line.index("batch")
    assert "\x1b" not in made + listed


async def test_tables_on_a_terminal(shell: Shell) -> None:
    """On a terminal there are tables with colours, and with NO_COLOR the same without any escape."""
    session_id = (await shell.data(*CREATE))["id"]
    for no_color in ("", "1"):
        code, record = await shell.on_terminal("get", session_id, NO_COLOR=no_color)
        assert code == 0
        assert session_id in record
        code, listed = await shell.on_terminal("workloads", NO_COLOR=no_color)
        assert code == 0
        assert re.search(rf"{session_id}.* batch ", listed)
        assert "-----" in listed
        assert ("\x1b[36mopen" in record) is not bool(no_color)
        assert ("\x1b" in record + listed) is not bool(no_color)
        code, helped = await shell.on_terminal("workloads", "--help", NO_COLOR=no_color)
        assert code == 0
        assert ("\x1b" in helped) is not bool(no_color)


async def test_tables_fit_the_terminal(shell: Shell, service: Emulator) -> None:
    """A list has the columns that there is room for, each workload whole on one line, and names
    what it leaves out.
    """
    made = await shell.data(
        "create", "--mode", "dedicated", "--backend", "ibm_marrakesh", "--max-ttl", "10m"
    )
    service.submit_job(made["id"], seconds=3600)
    (workload,) = await shell.lines("workloads")
    assert workload["status"] == "in_progress"
    names = ["id", "mode", "status", "age", "used", "backend", "accepting_jobs"]
    for width, number in ((20, 1), (80, 5), (85, 6), (160, 7)):
        fields, hidden = names[:number], ", ".join(names[number:])
        code, shown = await shell.on_terminal("workloads", COLUMNS=str(width), NO_COLOR="1")
        assert code == 0
        header, rule, line, *rest = shown.splitlines()
        assert header.split() == fields, width
        assert set(rule) == {"-"}
        cells = line.split()
        assert cells[0] == workload["id"]
        assert cells[1:3] == ["session", "in_progress"][: number - 1]
        assert all(re.fullmatch(r"\d+s", text) for text in cells[3:5])
        assert cells[5:6] == ["ibm_marrakesh"][: max(number - 5, 0)], width
        assert len(rule) <= max(width, len(workload["id"]))
        assert max(len(header), len(line)) <= len(rule)
        assert " ".join(" ".join(rest).split()) == (
            f"no room for {hidden}; -v shows all" if hidden else ""
        )


async def test_a_record_on_a_narrow_terminal(shell: Shell) -> None:
    """A session's id is never broken: the terminal itself wraps what is too long for it, and it can
    be copied.
    """
    session_id = (await shell.data(*CREATE))["id"]
    code, shown = await shell.on_terminal("get", session_id, COLUMNS="20", NO_COLOR="1")
    assert code == 0
    assert re.search(rf"^id +{session_id}$", shown, re.MULTILINE)


async def test_json_on_a_terminal_has_no_colours(shell: Shell) -> None:
    """JSON is the same on a terminal."""
    code, shown = await shell.on_terminal("versions", "--json")
    assert code == 0
    validate(json.loads(shown), "json", "versions")


async def test_a_broken_pipe_ends_quietly(shell: Shell) -> None:
    """Whoever reads only the first line gets it, and the command says nothing of it."""
    for _ in range(3):
        await shell.data(*CREATE)
    script = 'set -o pipefail; "$QSESSIONS" workloads --jsonl | head -n 1'
    code, out, err = await shell.script(script)
    assert (code, len(out.splitlines()), err) == (0, 1, "")


async def test_a_reader_that_is_gone(shell: Shell, service: Emulator) -> None:
    """Output that nobody reads ends quietly, but never silently for a create: its session is named."""
    async with closed_pipe() as pipe:
        assert await shell("versions", stdout=pipe) == (0, "", "")
        # Python's own exit included.
        process = await shell.start(*CREATE, stdout=pipe)
        code, _, err = await outcome(process)
    (session_id,) = service.sessions
    assert code == 2
    what, advice = error_lines(err)
    assert f"session {session_id} was created and goes on" in what
    assert advice == f"End it: qsessions close {session_id}"


async def test_any_output_that_nobody_reads(shell: Shell) -> None:
    """Whatever is printed ends quietly where its reader is gone, help too."""
    for arguments in (["--help"], ["get", "--help"], ["--version"], ["demo"], ["doctor"]):
        async with closed_pipe() as pipe:
            assert await shell(*arguments, stdout=pipe) == (0, "", ""), arguments


async def test_output_that_cannot_be_written(shell: Shell) -> None:
    """A full disk is reported in two lines."""
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - a device
        for arguments in (["--help"], ["versions"], ["emulator"]):
            code, _, err = await shell(*arguments, stdout=full.fileno())
            assert code == 2, arguments
            assert "No space left on device" in error_lines(err)[0], arguments


async def test_closed_output(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A closed standard output is reported in two lines. Without a standard error the exit code
    says it all, and standard output stays clean.
    """
    code, _, err = await shell.script('exec "$QSESSIONS" versions >&-')
    assert (code, "standard output is closed" in error_lines(err)[0]) == (2, True)
    monkeypatch.setattr(sys, "stdout", None)
    for arguments in (["--help"], ["versions"], ["emulator"]):
        assert main(arguments) == 2
        assert error_lines(capsys.readouterr().err) == error_lines(err)
    code, out, _ = await shell.script('exec "$QSESSIONS" get a/b 2>&-')
    assert (code, out) == (2, "")


WRONG_USE: list[tuple[tuple[str, ...], str]] = [
    (("create",), "--mode is missing"),
    (("create", "--mode", "fast"), '"dedicated", "batch"'),
    (
        ("create", "--mode", "batch", "--max-ttl", "10x"),
        "create: Invalid value for --max-ttl: must be from 1 to 2147483647 seconds, or text such as",
    ),
    (
        ("create", "--mode", "batch", "--max-ttl", "-5"),
        "or text such as \"1d 2h 30m\" (units: d, h, m, s; each once at most), not '-5'.",
    ),
    (
        ("create", "--mode", "batch", "--max-ttl", "9" * 5000),
        "create: Invalid value for --max-ttl: must be from 1 to",
    ),
    (("create", "--mode", "batch", "--max-ttl", "0"), "--max-ttl: must be from 1 to"),
    (
        ("create", "--mode", "batch", "--active-ttl", "2m", "--max-ttl", "60"),
        "create: active_ttl (120 s) must not be longer than max_ttl (60 s).",
    ),
    (
        ("create", "--mode", "batch", "--timeout", "soon"),
        "create: Invalid value for --timeout: must be seconds above 0, text such as",
    ),
    (
        ("get", "x", "--timeout", "-1"),
        "text such as \"1d 2h 30m\" (units: d, h, m, s; each once at most), or 'none', not '-1'.",
    ),
    (("get",), "SESSION_ID is missing"),
    (("get", "a/b"), "path"),
    (("get", "x", "--json", "--jsonl"), "exclude each other"),
    (("get", "x", "--api-version", "newest"), "--api-version"),
    (("get", "x", "--account", ""), "--account"),
    (
        ("versions", "--base-url", "ftp://example"),
        "versions: base_url must be an absolute URL",
    ),
    (
        ("versions", "--base-url", "https://me@example"),
        "must not hold a user name or password.",
    ),
    (("versions", "--base-url", "http://example"), "plain http"),
    (("workloads", "--search", ""), "--search"),
    (("update", "x"), "accepting-jobs"),
    (("workloads", "--limit", "0"), "--limit"),
    (("workloads", "--status", "active"), "--status"),
    (("workloads", "--created-after", "yesterday"), "--created-after"),
    (("nonsense",), "nonsense"),
    (("drain", "x", "--force"), "--force"),
]


async def test_wrong_use(shell: Shell, service: Emulator) -> None:
    """Wrong use is reported in two lines with exit code 2, and nothing is sent."""
    for arguments, problem in WRONG_USE:
        code, out, err = await shell(*arguments)
        assert (code, out) == (2, ""), arguments
        what, advice = error_lines(err)
        assert problem in what
        assert advice
    assert service.requests == []


async def test_a_path_keeps_its_name(tmp_path: Path) -> None:
    """What looks like an argument of Python in a file's name is left as it is."""
    code, out, err = await Shell({}, tmp_path)("get", "x", "--account-file", "/nowhere/account=a")
    assert (code, out) == (2, "")
    assert "; /nowhere/account=a doesn't exist." in error_lines(err)[0]


async def test_the_service_says_no(shell: Shell, service: Emulator) -> None:
    """What the service refuses is exit code 1, with its own words and advice."""
    code, out, err = await shell("get", str(uuid.uuid4()))
    assert (code, out) == (1, "")
    assert re.search(r"^qsessions get: .*not found.*status 404.*trace", error_lines(err)[0])
    shell.env["QISKIT_IBM_TOKEN"] = "a-wrong-key"
    code, _, err = await shell("get", str(uuid.uuid4()))
    assert code == 1
    assert "BXNIM0415E" in error_lines(err)[0]
    assert "a-wrong-key" not in err


async def test_no_credentials(tmp_path: Path, service: Emulator) -> None:
    """Without credentials the command says what was looked for, with exit code 2; versions needs
    none.
    """
    shell = Shell({"QSESSIONS_BASE_URL": service.url}, tmp_path)
    code, out, err = await shell("workloads")
    assert (code, out) == (2, "")
    what, advice = error_lines(err)
    assert "QISKIT_IBM_TOKEN" in what
    assert "--account" in advice
    # Advice is in the words of the command line, not of Python.
    assert "auth=" not in err
    assert len(await shell.lines("versions")) > 1


GOOD = {"channel": "ibm_quantum_platform", "token": "the-secret-key", "instance": CRN}
NAME_ANOTHER = (
    "Correct the account file, or name another account with --account or --account-file. "
    "Without these two, the environment is looked at first."
)
NAME_A_PROXY = (
    "Name a proxy with an http or https URL in HTTPS_PROXY and HTTP_PROXY instead, "
    "or the service's host in NO_PROXY."
)
BAD_PROXY = {"urls": {"https": "ftp://x"}}


BAD_ACCOUNTS: list[tuple[dict[str, object] | None, list[str], str]] = [
    ({}, ["--account", "zz"], NAME_ANOTHER),
    (None, ["--account", "a"], NAME_ANOTHER),
    ({"channel": "ibm_quantum"}, ["--account", "a"], NAME_ANOTHER),
    ({"channel": "ibm_cloud"}, [], NAME_ANOTHER),
    (
        {"verify": False},
        [],
        (
            "Name a file with the CA that signed the server's certificate, and with the others that "
            "are needed, in SSL_CERT_FILE; and check the account and the URL."
        ),
    ),
    ({"proxies": {"username_ntlm": "me", "password_ntlm": "x"}}, [], NAME_A_PROXY),
    ({"proxies": {"urls": {"ftp": "http://proxy.example"}}}, [], NAME_A_PROXY),
    (
        {"url": "https://cloud.ibm.com/x"},
        [],
        "The service's own base URL goes into --base-url or QSESSIONS_BASE_URL.",
    ),
    ({"proxies": BAD_PROXY}, [], NAME_A_PROXY),
]


async def test_an_account_that_will_not_do(shell: Shell, tmp_path: Path) -> None:
    """Advice about an account is in the words of the command line, and leads to something that can
    work.
    """
    for number, (fields, arguments, advice) in enumerate(BAD_ACCOUNTS):
        path = tmp_path / f"accounts-{number}.json"
        if fields is not None:
            await asyncio.to_thread(path.write_text, json.dumps({"a": GOOD | fields}))
        # The proxy is read when the first request is sent.
        is_sent = fields == {"proxies": BAD_PROXY}
        shell.env["QSESSIONS_BASE_URL"] = "https://quantum.invalid/api" if is_sent else ""
        shell.env["IAM_URL"] = "https://quantum.invalid" if is_sent else ""
        code, _, err = await shell("get", "x", "--account-file", str(path), *arguments)
        assert (code, error_lines(err)[1]) == (2, advice), fields


async def test_an_error_is_printed_once(shell: Shell, tmp_path: Path) -> None:
    """A command's name comes once, and what is added to an error follows in the same sentence."""
    code, _, err = await shell("create", "--mode", "batch", "--backend", "nowhere")
    assert code == 1
    assert error_lines(err)[0].startswith("qsessions create: Backend not found (status 400")
    code, _, err = await shell("get", "00000000-0000-0000-0000-000000000000")
    assert code == 1
    assert error_lines(err)[0].startswith("qsessions get: session '00000000-")
    refusal = http(400, {"errorCode": "BXNIM0415E", "errorMessage": "No such key."})
    async with FaultServer(refusal) as server:
        _, _, err = await shell_of(server, tmp_path)("get", "s-1")
    assert error_lines(err)[0] == (
        "qsessions get: IAM at 127.0.0.1 refused to exchange the API key: No such key (status 400, code BXNIM0415E); "
        "get needed the credentials; nothing was sent to the service."
    )


async def test_the_attempts_and_the_status_are_printed_once(tmp_path: Path) -> None:
    """What an error's own text has, the words on why the call gave up don't repeat."""
    # No attempt is ever waited for: the service asks for longer than the policy's limit.
    async with FaultServer(http(429, headers={"Retry-After": "61"})) as server:
        _, _, err = await shell_of(server, tmp_path)("versions")
    assert error_lines(err)[0] == (
        "qsessions versions: the service gave no reason (status 429); the service asks to wait 61 s, the policy's limit is 60 s."
    )


async def test_unreachable(tmp_path: Path) -> None:
    """Nothing that listens is exit code 3."""
    with socket.socket() as bound:
        # It is nobody else's port either, and doesn't listen.
        bound.bind(("127.0.0.1", 0))
        shell = Shell(
            {"QSESSIONS_BASE_URL": f"http://127.0.0.1:{bound.getsockname()[1]}"}, tmp_path
        )
        draw_short_waits()
        code, out, err = await shell("versions")
    assert (code, out) == (3, "")
    assert "can't be reached" in error_lines(err)[0]


async def test_timeout(tmp_path: Path) -> None:
    """A service that doesn't answer in time is exit code 4."""
    async with FaultServer(hang) as server:
        code, out, err = await shell_of(server, tmp_path)("versions", "--timeout", "0.1")
    assert (code, out) == (4, "")
    assert error_lines(err)[1] == (
        "Run it again, give it more time with --timeout, or see: qsessions doctor"
    )


async def test_outcome_unknown(tmp_path: Path) -> None:
    """A create that may have been carried out is exit code 3, and says how to look for what came of
    it.
    """
    async with FaultServer(GRANT, http(502, "<html>"), http(403)) as server:
        code, out, err = await shell_of(server, tmp_path)(*CREATE)
        assert (code, out) == (3, "")
        assert "may have been created" in error_lines(err)[0]
        assert "qsessions workloads" in error_lines(err)[1]
        assert "the-secret-key" not in err
        server.answers = [GRANT, http(200, {"id": "s-1", "max_ttl": "x"})]
        code, _, err = await shell_of(server, tmp_path)(*CREATE)
    assert code == 3
    assert error_lines(err)[1] == "End it: qsessions close s-1"


async def test_outcome_unknown_with_candidates(tmp_path: Path) -> None:
    """The sessions that can have come of a lost create are named, at most five, and so is the way
    to end one.
    """
    for number, which in (
        (1, "session s-0; look whose it is, and to end it: qsessions close s-0"),
        (2, "one of s-0, s-1; look whose they are, and to end one: qsessions close ID"),
        (
            7,
            "one of s-0, s-1, s-2, s-3, s-4 and 2 more; look whose they are, and to end one: qsessions close ID",
        ),
    ):
        workload = {"mode": "batch", "created": "2999-01-01T00:00:00Z"}
        listed = [workload | {"id": f"s-{index}"} for index in range(number)]
        page = http(200, {"workloads": listed, "next": None})
        async with FaultServer(GRANT, http(502, "<html>"), page) as server:
            code, out, err = await shell_of(server, tmp_path)(*CREATE)
        assert (code, out) == (3, "")
        assert error_lines(err)[1] == f"It may be {which}", number


async def test_an_answer_without_advice(tmp_path: Path) -> None:
    """Where nobody gives advice, help is named."""
    async with FaultServer(
        GRANT, http(400, {"errors": [{"code": 1, "message": "No.\n\x1b[31mred"}]})
    ) as server:
        code, _, err = await shell_of(server, tmp_path)("get", "s-1")
    assert code == 1
    assert error_lines(err)[1] == "See: qsessions get --help"
    assert "\x1b" not in err


async def test_what_the_service_says_cannot_command_the_terminal(tmp_path: Path) -> None:
    """Control characters in the service's words are not shown, and JSON has them escaped."""
    async with FaultServer(GRANT, SESSION) as server:
        shell = shell_of(server, tmp_path)
        assert "\x1b[31mred" not in (await shell.on_terminal("get", "s-1"))[1]
        server.answers = [GRANT, SESSION]
        env = shell.env | {"PYTHONIOENCODING": "ascii"}
        code, out, _ = await outcome(await shell.start("get", "s-1", env=env))
        assert (code, re.findall(r"[^ -~\n]", out)) == (0, [])
        assert 'extra         {"new": [1]}' in out
        server.answers = [GRANT, SESSION]
        assert (await shell.data("get", "s-1"))["state_reason"] == "\x1b[31mred\ud800"


def nested(levels: int) -> str:
    """Write JSON that is so many levels deep."""
    return '{"status": [' * (levels // 2) + "1" + '], "timestamp": null}' * (levels // 2)


# What a service may say, and what not every printer bears: times that have none in UTC, depth,
# halves of characters.
HOSTILE = http(
    200,
    (
        '{"id": "s-1", "mode": "batch", "state": "open", "state_reason": "a\\ud800b", '
        '"started_at": "0001-01-01T00:00:00+01:00", "closed_at": "9999-12-31T23:59:59-01:00", '
        '"timestamps": [{"status": "open", "timestamp": "0001-01-01T00:00:00+23:59"}], '
        f'"deep": {nested(900)}, "list": {"[" * 900}{{}}{"]" * 900}, "\\udfff": {{}}}}'
    ).encode(),
)


async def test_a_session_is_printed_whatever_it_says(tmp_path: Path) -> None:
    """A create prints the session's id whatever else the service says of it, and values that have
    no other form as they came.
    """

    async def printed(*form: str) -> str:
        async with FaultServer(GRANT, HOSTILE) as server:
            code, out, err = await shell_of(server, tmp_path)(*CREATE, *form)
        assert (code, err) == (0, ""), form
        return out

    for form in ("--json", "--jsonl"):
        made = json.loads(await printed(form))
        assert made["id"] == "s-1"
        assert (made["started_at"], made["closed_at"]) == (
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
        )
        assert made["timestamps"] == [{"status": "open", "timestamp": "0001-01-01T00:00:00+23:59"}]
        # Compared as text, since comparing goes deep too.
        assert json.dumps(made["extra"]["deep"]) == nested(900)
    out = await printed()
    assert re.search("^id +s-1$", out, re.MULTILINE)
    assert re.search(r"^started_at +0001-01-01T00:00:00\+01:00$", out, re.MULTILINE)
    assert re.search(r"^timestamps +open 0001-01-01T00:00:00\+23:59$", out, re.MULTILINE)
    assert nested(900) in out


async def test_a_session_that_cannot_be_printed_is_named(
    shell: Shell, service: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails while a created session is printed, its id is printed, and that it goes on."""

    def fails(_: object) -> None:
        raise ValueError("no such form")

    monkeypatch.setattr(Session, "to_dict", fails)
    code, out, err = await shell(*CREATE)
    (session_id,) = service.sessions
    assert (code, out) == (2, "")
    assert error_lines(err) == (
        f"qsessions create: session {session_id} was created and goes on, and its description could not be written: no such form.",
        f"End it: qsessions close {session_id}",
    )


async def test_what_the_user_says_cannot_command_the_terminal(shell: Shell) -> None:
    """Control characters and line ends in arguments are not shown either: an error is two lines."""
    for arguments in (
        ("\x1b[31mget\r\nx",),
        ("get", "s-1", "--\x1b]0;title\x07"),
        ("create", "--mode", "\x1b[2J\u202e"),
        ("get", "\x1b[31m\n"),
        ("get", "s-1", "--base-url", "http://\x9b31m"),
        ("run", "--mode", "batch", "--max-ttl", "10m", "--", "/none/\x1b[31m\nx"),
    ):
        code, out, err = await shell(*arguments)
        assert code != 0, arguments
        assert (out, len(err.splitlines())) == ("", 2), arguments
        assert all(line.isprintable() for line in err.split("\n")), arguments


async def test_files_that_the_environment_names(shell: Shell) -> None:
    """An unusable file of the TLS library is reported in two lines."""
    env = shell.env | {
        "SSLKEYLOGFILE": "/nonexistent/keys",
        "QSESSIONS_BASE_URL": "https://127.0.0.1:1",
    }
    # Libraries read it when they are imported.
    code, _, err = await outcome(await shell.start("versions", env=env))
    assert code == 2
    assert "/nonexistent/keys" in error_lines(err)[0]


@pytest.mark.smoke
async def test_ctrl_c_during_create_closes_what_came_of_it(tmp_path: Path) -> None:
    """Ctrl-C while the create is in flight: its session is closed, which is said, and the exit code
    is 130.
    """
    pressed = asyncio.Event()
    async with FaultServer(GRANT, held(pressed, SESSION), http(204)) as server:
        process = await shell_of(server, tmp_path).start(*CREATE)
        await server.arrival(2)
        process.send_signal(signal.SIGINT)
        pressed.set()
        code, out, err = await outcome(process)
        assert (code, out) == (130, "")
        assert error_lines(err) == (
            "qsessions create: interrupted; session s-1 had been created and was closed.",
            "Nothing is left to do.",
        )
        assert [request.method for request in server.received] == ["POST", "POST", "DELETE"]


async def test_ctrl_c_before_the_create_is_sent(tmp_path: Path) -> None:
    """Ctrl-C while IAM is asked: no session was created, and that is said."""
    async with FaultServer(hang) as server:
        process = await shell_of(server, tmp_path).start(*CREATE)
        await server.arrival()
        process.send_signal(signal.SIGINT)
        code, _, err = await outcome(process)
    assert code == 130
    assert error_lines(err) == (
        "qsessions create: interrupted; no session was created.",
        "Nothing is left to do.",
    )


async def test_ctrl_c_and_no_answer(tmp_path: Path) -> None:
    """Ctrl-C during a create whose connection is then lost: the outcome is unknown, and that is
    said.
    """
    pressed = asyncio.Event()

    async def lose(connection: Any) -> None:
        await pressed.wait()
        connection.reset()

    async with FaultServer(GRANT, lose) as server:
        process = await shell_of(server, tmp_path).start(*CREATE)
        await server.arrival(2)
        process.send_signal(signal.SIGINT)
        pressed.set()
        code, _, err = await outcome(process)
    assert code == 130
    what, advice = error_lines(err)
    assert "interrupted; create was cancelled, and its outcome is unknown" in what
    assert "qsessions workloads" in advice


async def test_sigterm_leaves_the_record(shell: Shell, service: Emulator) -> None:
    """SIGTERM ends a create at once; its session is on the ledger, and reap shows what it can be."""
    service.faults.add(
        Fault(kind="latency", seconds=3600, operations=["create"], after=True, times=1)
    )
    process = await shell.start(*CREATE)
    await until(lambda: bool(service.open_sessions))
    process.send_signal(signal.SIGTERM)
    assert await outcome(process) == (-signal.SIGTERM, "", "")
    (session,) = service.open_sessions
    code, out, _ = await shell("reap", "--json")
    (row,) = json.loads(out)["records"]
    assert (code, row["verdict"], row["candidates"]) == (1, "undecided", [session.id])


async def test_ctrl_c_twice_while_the_create_is_in_flight(tmp_path: Path) -> None:
    """A second Ctrl-C leaves at once and says that a session may have been created."""
    async with FaultServer(GRANT, hang) as server:
        process = await shell_of(server, tmp_path).start(*CREATE)
        await server.arrival(2)
        process.send_signal(signal.SIGINT)
        # Two that are pending together count as one.
        await asyncio.to_thread(wait_until_seen, process.pid)
        process.send_signal(signal.SIGINT)
        code, _, err = await outcome(process)
    assert code == 130
    what, advice = error_lines(err)
    assert what == "qsessions create: interrupted twice; a session may have been created."
    assert "qsessions workloads" in advice


def wait_until_seen(pid: int) -> None:
    """Wait until a process has handled its SIGINT: none is pending, and it waits for something
    again.
    """
    status = Path(f"/proc/{pid}/status")
    while True:
        text = status.read_text()
        pending = int(re.findall(r"^ShdPnd:\s*(\w+)$", text, re.MULTILINE)[0], 16)
        if not pending & 1 << signal.SIGINT - 1 and re.search(r"^State:\s*S", text, re.MULTILINE):
            return


async def test_ctrl_c_twice_while_the_session_is_being_closed(tmp_path: Path) -> None:
    """A second Ctrl-C during the close of what came of the create names the session."""
    pressed = asyncio.Event()
    async with FaultServer(GRANT, held(pressed, SESSION), hang) as server:
        process = await shell_of(server, tmp_path).start(*CREATE)
        await server.arrival(2)
        process.send_signal(signal.SIGINT)
        pressed.set()
        await server.arrival(3)
        process.send_signal(signal.SIGINT)
        code, _, err = await outcome(process)
    assert code == 130
    assert error_lines(err) == (
        "qsessions create: interrupted twice; session s-1 was created, and its close was not waited for.",
        "End it: qsessions close s-1",
    )


async def test_ctrl_c_and_the_close_is_refused(tmp_path: Path) -> None:
    """A session that came of an interrupted create and can't be closed is named."""
    pressed = asyncio.Event()
    async with FaultServer(GRANT, held(pressed, SESSION), http(403)) as server:
        process = await shell_of(server, tmp_path).start(*CREATE)
        await server.arrival(2)
        process.send_signal(signal.SIGINT)
        pressed.set()
        code, _, err = await outcome(process)
    assert code == 130
    what, advice = error_lines(err)
    assert "session 's-1' was created and could not be closed" in what
    assert advice == "End it: qsessions close s-1"


async def test_ctrl_c_after_the_create(tmp_path: Path) -> None:
    """Ctrl-C while a session that exists is being printed says that it goes on."""
    # More than the pipe and its reader take: the command is still writing when the first byte has
    # come.
    large = http(200, {"id": "s-1", "state_reason": "x" * 900_000})
    async with FaultServer(GRANT, large) as server:
        process = await shell_of(server, tmp_path).start(*CREATE, "--json")
        assert process.stdout is not None
        first = await process.stdout.readexactly(1)
        process.send_signal(signal.SIGINT)
        code, rest, err = await outcome(process)
    assert code == 130
    assert json.loads(first.decode() + rest)["id"] == "s-1"
    assert error_lines(err) == (
        "qsessions create: interrupted; session s-1 was created and goes on.",
        "End it: qsessions close s-1",
    )


async def test_the_timeout_is_for_the_whole_list(tmp_path: Path) -> None:
    """A list that never ends is given up when --timeout has passed, however fast each page comes;
    what came is printed with --jsonl.
    """
    numbers = count()

    async def another(connection: Connection) -> None:
        number = next(numbers)
        workload = {"id": f"s-{number}", "mode": "session", "created": "2026-05-01T12:00:00Z"}
        await connection.write(
            http(200, {"workloads": [workload], "next": {"href": f"?next={number}"}})
        )

    async with FaultServer(GRANT, another) as server:
        code, out, err = await shell_of(server, tmp_path)(
            "workloads", "--mode", "session", "--jsonl", "--timeout", "0.5"
        )
    assert code == 4
    assert "deadline" in error_lines(err)[0]
    assert [json.loads(line)["id"] for line in out.splitlines()] == [
        f"s-{number}" for number in range(len(out.splitlines()))
    ]


async def test_ctrl_c_elsewhere(tmp_path: Path) -> None:
    """Ctrl-C during a command that can be repeated ends it with 130 and says nothing."""
    async with FaultServer(GRANT, hang) as server:
        process = await shell_of(server, tmp_path).start("close", "s-1")
        await server.arrival(2)
        process.send_signal(signal.SIGINT)
        assert await outcome(process) == (130, "", "")


async def test_help_shows_an_example(shell: Shell) -> None:
    """Help of each command shows an example of it."""
    for command in COMMANDS:
        code, out, _ = await shell(command, "--help")
        assert code == 0, command
        assert re.search(rf"^Example: .*qsessions {command}", out, re.MULTILINE), command


def test_the_list_of_commands_has_their_first_lines() -> None:
    """The line of a command in the list of all is the first one of its docstring."""
    app = make_app()
    for name, (path, line) in COMMANDS.items():
        module, _, function = path.partition(":")
        docstring = getattr(importlib.import_module(f"qsessions.cli.{module}"), function).__doc__
        assert docstring.splitlines()[0] == line
        assert app[name].name == (name,)


async def test_a_command_line_in_this_process(
    service: Emulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command line runs in a thread of a program too: it returns its exit code, and prints where
    that program says.
    """
    monkeypatch.setenv("QSESSIONS_BASE_URL", service.url)
    assert await asyncio.to_thread(main, ["versions", "--json"]) == 0
    validate(json.loads(capsys.readouterr().out), "json", "versions")
    assert await asyncio.to_thread(main, ["get"]) == 2
    assert "SESSION_ID is missing" in error_lines(capsys.readouterr().err)[0]
    assert await asyncio.to_thread(main, ["get", "--help"]) == 0
    assert "Example: qsessions get" in capsys.readouterr().out


async def test_commands_leave_the_process_as_it_was(
    service: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that a test runs at the same time have their own environments and streams; the
    process has its own again afterwards, after a command that raises too.
    """

    def state() -> object:
        files = [(at.st_dev, at.st_ino) for at in map(os.fstat, range(3))]
        return dict(os.environ), sys.stdin, sys.stdout, sys.stderr, files, time.tzname

    def fails(_: object) -> None:
        raise KeyError("a bug")

    before = state()
    shells = [Shell(service.env() | {"TZ": f"EST{hours}"}, tmp_path) for hours in range(5)]
    close_all = ("close-all", "--yes", "--created-before", "2026-01-31")
    for hours, (code, out, err) in enumerate(
        await asyncio.gather(*(shell(*close_all) for shell in shells))
    ):
        assert (code, out) == (0, "")
        assert f"created before 2026-01-31T{hours:02}:00:00Z" in err
    monkeypatch.setattr(ApiVersion, "to_dict", fails)
    with pytest.raises(KeyError, match="a bug"):
        await shells[0]("versions")
    assert state() == before


async def test_documented_commands_run(shell: Shell, tmp_path: Path) -> None:
    """The commands in docs/command-line.md run as they stand, in their order, in one shell."""
    blocks = re.findall(r"```sh\n(.*?)```", await asyncio.to_thread(DOCS.read_text), re.DOTALL)
    errors = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        code, out, err = await shell(*json.loads(await reader.readline()))
        errors.append(err)
        writer.write(json.dumps([code, out, err]).encode())
        writer.close()

    # The bash process starts no command in a process of its own: this one runs them.
    program = shlex.join([sys.executable, "-IS", str(PROGRAMS / "forwarded.py")])
    script = f"""qsessions() {{ {program} socket "$@"; }}
        set -euo pipefail; {"".join(blocks)}"""
    async with await asyncio.start_unix_server(run, tmp_path / "socket"):
        code, out, err = await shell.script(script, cwd=tmp_path)
    # By then nothing is open any more.
    expected = (
        r"^qsessions [a-z-]+: (no open session|sessions created before 2026-01-3|calls ask for).*\n"
    )
    assert (code, re.sub(expected, "", err, flags=re.MULTILINE)) == (0, "")
    assert "api_version" in out
    assert len(errors) == "".join(blocks).count("qsessions ")
