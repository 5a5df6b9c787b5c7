"""The emulator in a container: what examples/containers and its page say holds, as far as that can be
tried without a container engine. tests/peers/test_containers.py has the network of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from cyclopts import Parameter

from qsessions import AsyncSessionClient
from qsessions.cli.emulator import emulator as emulator_command
from qsessions.emulator import Emulator
from tests.support.containers import (
    EMULATOR,
    PATH,
    PORT,
    PROGRAM,
    command,
    environment,
    instructions,
)
from tests.support.pages import ROOT, snippets

TOKEN = "pLaNtEd-admin-token"
GIVEN = {"QSESSIONS_EMULATOR_ADMIN_TOKEN": TOKEN}
ARGUMENTS = {"API_KEY": "api_key", "CRN": "crn", "SEED": "seed", "ADMIN_TOKEN": "admin_token", "ADVERTISED_HOST": "advertised_host"}  # fmt: skip


def variables() -> set[str]:
    """Return the variables that the command reads."""
    hints = get_type_hints(emulator_command, include_extras=True).values()
    parameters = [part for hint in hints for part in get_args(hint) if isinstance(part, Parameter)]
    return {str(name) for parameter in parameters for name in parameter.env_var or ()}


async def check_agreement(
    service: Mapping[str, Any], client: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that an emulator takes its variables, and that a client with its own finds that emulator
    and has its key and CRN.
    """
    assert set(service) <= variables()
    prefix = "QSESSIONS_EMULATOR_"
    options: dict[str, Any] = {ARGUMENTS[name.removeprefix(prefix)]: value for name, value in service.items()}  # fmt: skip
    emulator = Emulator(port=int(PORT), **options)
    host = emulator.env()["IAM_URL"] if "advertised_host" in options else f"http://localhost:{PORT}"
    leading = {"QSESSIONS_BASE_URL": f"{host}/api", "IAM_URL": host}
    leading |= {"QISKIT_IBM_TOKEN": emulator.api_key, "QISKIT_IBM_INSTANCE": emulator.crn}
    with monkeypatch.context() as patch:
        for name, value in client.items():
            patch.setenv(name, value)
        assert {name: client[name] for name in leading} == leading
        # Plain http to it is allowed, or this is an error.
        async with AsyncSessionClient() as made:
            assert (made.base_url, made.instance) == (f"{host}/api", emulator.crn)


async def test_the_services_of_the_compose_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both services are built from the Dockerfile and agree on key, CRN and host; the program waits
    until the emulator is healthy, and the port on this machine is for it alone.
    """
    service, client = environment(EMULATOR, GIVEN), environment(PROGRAM, GIVEN)
    assert client.pop("QSESSIONS_EMULATOR_ADMIN_TOKEN") == TOKEN
    await check_agreement(service, client, monkeypatch)
    assert EMULATOR["build"] == PROGRAM["build"]
    folder = ROOT / "examples" / "containers" / EMULATOR["build"]["context"]
    assert await asyncio.to_thread((folder / EMULATOR["build"]["dockerfile"]).is_file)
    assert PROGRAM["depends_on"] == {"emulator": {"condition": "service_healthy"}}
    assert EMULATOR["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]


async def test_the_services_of_a_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the forms for CI services the emulator and the clients agree on key, CRN and host."""
    pages = await asyncio.to_thread(snippets, "docs/containers.md", "yaml")
    github, gitlab = (yaml.safe_load(text) for text in pages)
    job = github["jobs"]["test"]
    assert job["services"]["emulator"]["ports"] == [f"{PORT}:{PORT}"]
    # A secret of the repository's.
    service = job["services"]["emulator"]["env"] | GIVEN
    await check_agreement(service, job["env"], monkeypatch)
    (service,) = gitlab["test"]["services"]
    assert service["alias"] == service["variables"]["QSESSIONS_EMULATOR_ADVERTISED_HOST"]
    await check_agreement(service["variables"], gitlab["test"]["variables"], monkeypatch)


def test_the_instructions_of_the_dockerfile() -> None:
    """What it copies is there and all that the package is built from, its user isn't root, and its
    port is the one that its commands name.
    """
    known = {"FROM", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}
    assert {name for name, _ in instructions()} == known
    said = dict(instructions())
    copied = [
        part for name, words in instructions() if name == "COPY" for part in words.split()[:-1]
    ]
    assert [part for part in copied if not (ROOT / part).exists()] == []
    assert set(copied) == {"pyproject.toml", "README.md", "LICENSE", "qsessions"}
    assert said["USER"] == said["RUN"].split()[-1] != "root"
    assert said["EXPOSE"] == PORT == command("ENTRYPOINT")[-1]
    assert f" {PORT}, " in command("HEALTHCHECK")[-1]


def test_the_commands_of_the_dockerfile(tmp_path: Path) -> None:
    """The image's command serves with the variables of the compose file, and names their host in what
    it prints. Its health check fails before and passes then, also where every request is struck by
    a fault and there is a proxy, and leaves no record.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    env = {**os.environ, "PATH": PATH, "HOME": str(tmp_path), "HTTP_PROXY": "http://127.0.0.1:9"}
    env |= environment(EMULATOR, GIVEN)
    plan, log = tmp_path / "faults.toml", tmp_path / "log"
    plan.write_text('[[faults]]\nkind = "reset"\n', encoding="utf-8")

    def start(instruction: str, *more: str) -> subprocess.Popen[str]:
        words = [word.replace(PORT, port) for word in command(instruction)]
        pipe = subprocess.PIPE
        return subprocess.Popen([*words, *more], env=env, stdout=pipe, stderr=pipe, text=True)

    def is_healthy() -> bool:
        with start("HEALTHCHECK") as check:
            check.communicate()
        return check.returncode == 0

    assert not is_healthy()
    with start("ENTRYPOINT", "--faults", str(plan), "--log", str(log)) as serving:
        try:
            assert serving.stdout is not None
            printed = serving.stdout.read()
            assert f"export IAM_URL=http://emulator:{port}\n" in printed
            assert TOKEN not in printed
            assert is_healthy()
        finally:
            serving.terminate()
            _, errors = serving.communicate()
    assert (serving.returncode, TOKEN in errors) == (0, False)
    assert log.read_text(encoding="utf-8") == ""
