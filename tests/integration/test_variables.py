"""Variables of the environment that stand in for arguments, and the one that turns the log on."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from pathlib import Path

import pytest

from qsessions import (
    AsyncSessionClient,
    CallTimeout,
    ConfigurationError,
    CreateSession,
    InvalidArgument,
    SessionClient,
)
from qsessions.config.variables import log_as_asked, read_defaults
from qsessions.emulator import Emulator
from qsessions.testing import ManualClock
from tests.support.clients import Against, client_of, static_auth
from tests.support.event_loop import past_deadline
from tests.support.fault_server import FaultServer, hang, http
from tests.support.shell import GRANT, PIPE, PROGRAMS, Shell, error_lines, outcome, shell_of
from tests.support.tables import table


@table(
    ("name", "text", "value"),
    [
        ("timeout", None, 60.0),
        ("timeout", "", 60.0),
        ("timeout", "0.5", 0.5),
        ("timeout", "1m 30s", 90.0),
        ("timeout", "none", None),
        ("max_ttl", None, None),
        ("max_ttl", "", None),
        ("max_ttl", "600", 600),
        ("max_ttl", "2h", 7200),
        ("backend", "", None),
        ("backend", "ibm_fez", "ibm_fez"),
    ],
)
def test_the_forms_of_each_default(name: str, text: str | None, value: object) -> None:
    """Durations have the forms that every duration has; what is unset or empty says nothing."""
    environ = {} if text is None else {f"QSESSIONS_{name.upper()}": text}
    assert getattr(read_defaults(environ), name) == value


def begin_block(needed: str) -> None:
    """Make a client, and then a block if only that needs a variable."""
    client = AsyncSessionClient(static_auth(), base_url="http://127.0.0.1:1")
    assert needed in {"MAX_TTL", "BACKEND"}
    client.open(mode="batch")


@table(
    ("name", "text"),
    [
        *(("TIMEOUT", text) for text in ("0", "-1", "soon", "None", "1 hour", "inf")),
        *(("MAX_TTL", text) for text in ("0", "0.5", "soon", "none", "3000000000")),
        *(("BACKEND", text) for text in (" ", "ibm fez\n", " ibm_fez", "'ibm_fez'", '"ibm_fez')),
        *(("LOG", text) for text in ("warning", "1", "yes")),
    ],
)
def test_a_wrong_value_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """A value that can't be right is refused by the variable's name when it is needed, and isn't
    repeated: it may be a key in the wrong place. What ends sessions needs no default of creates.
    """
    with monkeypatch.context() as patch:
        patch.setenv(f"QSESSIONS_{name}", text)
        with pytest.raises(ConfigurationError, match=f"^QSESSIONS_{name} must be ") as caught:
            begin_block(name)
    assert caught.value.solution == f"Correct or unset QSESSIONS_{name}."
    assert f"not {text!r}" not in str(caught.value)


async def test_creates_take_what_they_leave_out(
    emulator: Emulator,
    time: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """create and open take backend and max_ttl from the environment, by fields and as a request; an
    argument wins.
    """
    monkeypatch.setenv("QSESSIONS_MAX_TTL", "10m")
    monkeypatch.setenv("QSESSIONS_BACKEND", "ibm_fez")
    async with client_of(emulator, time) as client:
        made = [
            await client.create(mode="batch"),
            await client.create(CreateSession("batch")),
            await client.create(mode="batch", backend="ibm_torino", max_ttl=60),
            await client.create(mode="batch", max_ttl="1m"),
        ]
        async with client.open(mode="batch") as live:
            made.append(await live.refresh())
    assert [(session.backend_name, session.max_ttl) for session in made] == [
        ("ibm_fez", 600),
        ("ibm_fez", 600),
        ("ibm_torino", 60),
        ("ibm_fez", 60),
        ("ibm_fez", 600),
    ]
    assert "without max_ttl" not in caplog.text


async def test_ttls_that_contradict_the_default_name_it(
    emulator: Emulator, time: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default that is too short for another TTL of the request is an error that names the variable,
    before anything is sent.
    """
    monkeypatch.setenv("QSESSIONS_MAX_TTL", "10m")
    async with client_of(emulator, time) as client:
        with pytest.raises(InvalidArgument, match=r"max_ttl \(600 s\).*QSESSIONS_MAX_TTL"):
            await client.create(mode="batch", active_ttl="1h")
    assert emulator.requests == []


async def test_calls_take_their_timeout(
    against: Against, time: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's timeout is the environment's, and an argument wins."""
    monkeypatch.setenv("QSESSIONS_TIMEOUT", "5s")
    for options, seconds in (({}, 5), ({"timeout": 8}, 8)):
        server, client = await against(hang, **options)
        with pytest.raises(CallTimeout):
            await past_deadline(client.get("s1"), server.arrival(), time, seconds)


async def test_commands_take_them_too(emulator: Emulator, tmp_path: Path) -> None:
    """The commands read the same variables, a flag wins, and a wrong value is wrong use by name."""
    env = emulator.env() | {"QSESSIONS_MAX_TTL": "10m", "QSESSIONS_BACKEND": "ibm_fez"}
    shell = Shell(env | {"QSESSIONS_TIMEOUT": ""}, tmp_path)
    made = await shell.data("create", "--mode", "batch")
    assert (made["backend_name"], made["max_ttl"]) == ("ibm_fez", 600)
    made = await shell.data("create", "--mode", "batch", "--max-ttl", "1m")
    assert made["max_ttl"] == 60
    count = len(emulator.requests)
    for name in ("MAX_TTL", "TIMEOUT", "LOG"):
        shell = Shell(env | {f"QSESSIONS_{name}": "secret"}, tmp_path)
        code, _, err = await shell("create", "--mode", "batch")
        assert code == 2
        assert f"QSESSIONS_{name}" in error_lines(err)[0]
        assert "secret" not in err
    assert len(emulator.requests) == count


async def test_a_command_waits_as_long_as_the_variable_says(tmp_path: Path) -> None:
    """A command's calls take the environment's timeout, and `--timeout` wins."""
    async with FaultServer(hang, hang) as server:
        shell = shell_of(server, tmp_path)
        shell.env["QSESSIONS_TIMEOUT"] = "0.05"
        assert (await shell("versions"))[0] == 4
        shell.env["QSESSIONS_TIMEOUT"] = "none"
        assert (await shell("versions", "--timeout", "0.05"))[0] == 4


async def test_a_log_without_any_setup(tmp_path: Path) -> None:
    """QSESSIONS_LOG shows a line for each request on standard error, once, without a secret, and the
    root logger stays as it is; commands show the same.
    """
    gone = http(404, {"errors": [{"code": 1, "message": "gone"}], "trace": "t"})
    async with FaultServer(GRANT, gone, GRANT, gone) as server:
        shell, url = shell_of(server, tmp_path), server.url
        shell.env["QSESSIONS_LOG"] = "Debug"
        process = await asyncio.create_subprocess_exec(
            sys.executable, PROGRAMS / "logging_client.py", env=shell.env, stdout=PIPE, stderr=PIPE
        )
        assert (await outcome(process))[1] == "1 10 0 30\n"
        process = await shell.start("get", "s-1")
        code, _, err = await outcome(process)
    assert code == 1
    lines = [re.sub(r"^\S+ \S+ |\d\.\d{3}", "", line) for line in err.splitlines()]
    assert lines[:-2] == [
        "DEBUG qsessions: POST /identity/token (token_exchange)",
        "DEBUG qsessions: POST /identity/token (token_exchange): 200 after  s",
        "DEBUG qsessions: 127.0.0.1 gave an access token for 3600 s",
        "DEBUG qsessions: GET /v1/sessions/s-1 (get)",
        "DEBUG qsessions: GET /v1/sessions/s-1 (get): 404 after  s",
        f"DEBUG qsessions: the client of {url} has stopped",
    ]
    assert "the-secret-key" not in err


def test_the_programs_own_handlers_take_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something handles what is logged already, as pytest does it here, the level is set and
    no line is written twice; a level that the program chose stays.
    """
    logger = logging.getLogger("qsessions")
    monkeypatch.setenv("QSESSIONS_LOG", "info")
    try:
        SessionClient(static_auth(), base_url="http://127.0.0.1:1").shutdown()
        assert (logger.handlers, logger.level) == ([], logging.INFO)
        assert log_as_asked({"QSESSIONS_LOG": "debug"})
        assert logger.level == logging.INFO
        assert not log_as_asked({})
    finally:
        logger.setLevel(logging.NOTSET)
