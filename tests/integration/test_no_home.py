"""A user without a home folder, as in many containers: nothing is written to a folder called `~`,
and what needs a home says what to set.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from qsessions import (
    AsyncSessionClient,
    ConfigurationError,
    IBMCloudAuth,
    LocalLedger,
    ServiceCRN,
    SessionClient,
)
from qsessions.emulator import Emulator
from tests.support.clients import CRN
from tests.support.shell import Shell, error_lines
from tests.support.tables import table

AUTH = [IBMCloudAuth("the-api-key"), ServiceCRN(CRN)]
NO_PLACE = (
    "the local ledger has no place: the home folder is unknown, and neither HOME nor "
    "XDG_STATE_HOME is set to an absolute path."
)
CREATE = ("create", "--mode", "batch", "--max-ttl", "10m")


@pytest.fixture
def homeless(service: Emulator, no_home: Path) -> Shell:
    """Return a shell of a user without a home folder, whose environment leads to the emulator."""
    shell = Shell(service.env(), no_home)
    del shell.env["HOME"]
    return shell


def of_older_versions(*_: object, **__: object) -> Path:
    """Return what older versions of platformdirs return without a home folder."""
    return Path("~/.local/state/qsessions")


@table("home", [None, "~", "relative"])
@table("is_older", [False, True])
def test_a_ledger_without_a_place_is_refused(
    no_home: Path, monkeypatch: pytest.MonkeyPatch, home: str | None, *, is_older: bool
) -> None:
    """The ledger's own place needs an absolute home folder, whichever version of platformdirs looks
    for it; the error says what to set, and nothing is written.
    """
    with monkeypatch.context() as patch:
        if home is not None:
            patch.setenv("HOME", home)
        if is_older:
            patch.setattr(platformdirs, "user_state_path", of_older_versions)
        for make in (AsyncSessionClient, SessionClient):
            with pytest.raises(ConfigurationError) as caught:
                make(AUTH, ledger="local")
            assert caught.value.message == NO_PLACE
            assert caught.value.solution == "Set one of them, or pass ledger=LocalLedger(path)."
        with pytest.raises(ConfigurationError, match="has no place"):
            LocalLedger()


@table(
    "environment",
    [{"HOME": "{}"}, {"XDG_STATE_HOME": "{}"}, {"HOME": "~", "XDG_STATE_HOME": "{}"}],
)
def test_what_gives_it_a_place(
    no_home: Path, monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]
) -> None:
    """Each variable that the error names gives the ledger its place, and so does a path."""
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value.format(no_home))
        assert repr(LocalLedger()).startswith(f"LocalLedger('{no_home}/")
    assert repr(LocalLedger("mine")) == f"LocalLedger('{no_home}/mine')"


@table("path", ["~/mine", "~no-such-user/mine"])
def test_a_path_of_ones_own_in_an_unknown_home(no_home: Path, path: str) -> None:
    """A path with ~ is refused where it can't be expanded, and never taken as it is."""
    with pytest.raises(ConfigurationError) as caught:
        LocalLedger(path)
    assert caught.value.message == (
        "the ledger's path can't be used: the home folder in it is unknown."
    )
    assert caught.value.solution == "Set HOME, or give a path without ~."


def test_a_path_where_there_is_no_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is refused where the working directory is gone."""
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigurationError, match=r"path can't be used: .*No such file"):
        LocalLedger("mine")


@table(
    "options", [{}, {"account": "mine"}, {"account_file": "~/accounts.json"}, {"auth": [AUTH[1]]}]
)
async def test_an_account_file_in_an_unknown_home(no_home: Path, options: dict[str, Any]) -> None:
    """Where the account file is needed, the error says that its home is unknown and what to set."""
    file = options.get("account_file", "~/.qiskit/qiskit-ibm.json")
    with pytest.raises(ConfigurationError) as caught:
        async with AsyncSessionClient(**options):
            pass
    assert f"{file} can't be read: the home folder is unknown" in caught.value.message
    assert str(caught.value.solution).startswith(
        "Set HOME, or name a file without ~ in account_file=."
    )


async def test_an_account_file_that_nobody_needs(no_home: Path) -> None:
    """A key of one's own, whose CRN might be in the account file, needs no home folder."""
    async with AsyncSessionClient(AUTH[:1]) as client:
        assert client.base_url == "https://quantum.cloud.ibm.com/api"


@pytest.mark.parametrize(
    "command", [CREATE, ("run", *CREATE[1:], "--label", "run=42", "--", "true")]
)
async def test_a_command_goes_on_without_a_ledger(
    homeless: Shell, service: Emulator, command: tuple[str, ...]
) -> None:
    """`create` and `run` say once that the session isn't recorded, and what to set, and go on."""
    code, _, err = await homeless(*command)
    assert (code, len(service.sessions)) == (0, 1)
    assert err.count("is not recorded") == 1
    assert f"qsessions {command[0]}: the session is not recorded: {NO_PLACE}" in err


async def test_ending_needs_no_ledger(homeless: Shell, service: Emulator) -> None:
    """Sessions can be closed by their ids, joined and closed all at once without a word of it."""
    ids = []
    for _ in range(3):
        _, out, _ = await homeless(*CREATE, "--jsonl")
        ids.append(out.split('"id": "')[1].split('"')[0])
    for command in (
        ("close", ids[0]),
        ("run", "--attach", ids[1], "--", "true"),
        ("close-all", "--all", "--yes"),
    ):
        code, _, err = await homeless(*command)
        assert (code, "ledger" in err) == (0, False), err
    assert service.open_sessions == []


async def test_close_all_needs_to_know_whose_a_session_is(
    homeless: Shell, service: Emulator
) -> None:
    """Without `--all`, and with labels, nothing is ended where the ledger can't say whose it is."""
    await homeless(*CREATE)
    code, _, err = await homeless("close-all", "--yes")
    what, advice = error_lines(err)
    assert (code, len(service.open_sessions)) == (1, 1)
    assert NO_PLACE.removesuffix(".") in what
    assert advice == "To end the sessions whatever the ledger says, add --all."
    code, _, err = await homeless("close-all", "--yes", "--all", "--label", "run=42")
    assert (code, len(service.open_sessions)) == (1, 1)
    assert NO_PLACE.removesuffix(".") in err


@pytest.mark.parametrize(
    "command", [("ledger",), ("reap",), ("forget", "a"), ("forget", "--undecided", "--yes")]
)
async def test_what_is_about_the_ledger_says_what_to_set(
    homeless: Shell, command: tuple[str, ...]
) -> None:
    """A command that is about nothing but the ledger is wrong use, and says what to set."""
    code, out, err = await homeless(*command)
    assert (code, out) == (2, "")
    assert error_lines(err) == (f"qsessions {command[0]}: {NO_PLACE}", "Set one of them.")


@table(("ledger", "status", "code"), [("", "ok", 0), ("local", "failed", 2), ("s3:", "failed", 2)])
async def test_the_doctor_without_a_place_for_the_ledger(
    homeless: Shell, ledger: str, status: str, code: int
) -> None:
    """Commands go on without a ledger that nobody has asked for; one that was asked for must be."""
    env = homeless.env | {"QSESSIONS_LEDGER": ledger}
    found, out, _ = await homeless("doctor", "--jsonl", env=env)
    check = json.loads(out.splitlines()[-1])
    assert (found, check["check"], check["status"]) == (code, "ledger", status)
