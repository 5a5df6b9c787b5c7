"""The emulator and a program in two containers: in two network namespaces, which is what containers
are on a network of their own. What they run is what examples/containers says.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.containers import EMULATOR, PATH, PORT, PROGRAM, command, environment
from tests.support.needs import need
from tests.support.pages import bash, snippets

TOKEN = "pLaNtEd-admin-token"
GIVEN = {"QSESSIONS_EMULATOR_ADMIN_TOKEN": TOKEN}
ADDRESSES = {"emulator": "10.9.8.1", "program": "10.9.8.2"}


class Namespace:
    """A network of its own with one interface, and names for the others; it lives as its process.

    Args:
        holder: A process in it.
        home: The home folder of what runs in it.
    """

    def __init__(self, holder: subprocess.Popen[str], home: Path) -> None:
        self.pid = holder.pid
        self._base = {"PATH": PATH, "HOME": str(home)}

    def start(
        self, words: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a process in it, which has these variables alone."""
        inside = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--"]
        return subprocess.Popen(
            [*inside, *words],
            env={**self._base, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Run a command in it; return its exit code, output and errors."""
        with self.start(words, env) as process:
            out, err = process.communicate()
        return process.returncode, out, err


@contextmanager
def namespace(hosts: Path) -> Iterator[Namespace]:
    """Make a namespace with an /etc/hosts. It is gone at the end, and if this process dies.

    It has no name, and so nothing keeps it but the processes in it.
    """
    script = 'mount --bind "$0" /etc/hosts && ip link set lo up && echo ready && exec cat'
    with subprocess.Popen(
        ["/usr/bin/env", "unshare", "--net", "--mount", "--", "sh", "-c", script, str(hosts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"there can be no network namespaces here: {holder.stderr.read().strip()}")
        yield Namespace(holder, hosts.parent)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[dict[str, Namespace]]:
    """Make a network with two namespaces in it, by the names of the services."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux and root")
    need("ip")
    hosts = tmp_path / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in ADDRESSES.items())]
    hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with ExitStack() as stack:
        made = {name: stack.enter_context(namespace(hosts)) for name in ADDRESSES}
        one, other = (str(each.pid) for each in made.values())
        pair = [
            "name",
            "eth0",
            "netns",
            one,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            other,
        ]
        done = subprocess.run(
            ["/usr/bin/env", "ip", "link", "add", *pair],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"network namespaces can't be joined here: {done.stderr.strip()}")
        for name, each in made.items():
            for words in (
                ["addr", "add", f"{ADDRESSES[name]}/24", "dev"],
                ["link", "set", "up", "dev"],
            ):
                assert each.run("ip", *words, "eth0")[0] == 0
        its = {namespace_of(each.pid) for each in made.values()}
        assert len(its) == len(made)
        yield made
    left = its.intersection(namespace_of(int(entry.name)) for entry in Path("/proc").glob("[0-9]*"))
    assert left == set()


def namespace_of(pid: int) -> str | None:
    """Return the network namespace that a process is in, None if it has ended."""
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


@contextmanager
def serving(network: dict[str, Namespace]) -> Iterator[str]:
    """Run the emulator's container until it is healthy; return what it printed."""
    process = network["emulator"].start(command("ENTRYPOINT"), environment(EMULATOR, GIVEN))
    try:
        assert process.stdout is not None
        printed = process.stdout.read()
        assert network["emulator"].run(*command("HEALTHCHECK"))[0] == 0
        yield printed
    finally:
        process.terminate()
        _, err = process.communicate()
        assert process.returncode == 0, err
        assert TOKEN not in err


# Asks as curl does, with a browser's header and with a page's: prints each status.
ASKING = """
import sys
from http.client import HTTPConnection
host, port, *headers = sys.argv[1:]
for path in ("/emulator/requests", "/"):
    connection = HTTPConnection(host, int(port))
    connection.request("GET", path, headers=dict(header.split(": ", 1) for header in headers))
    print(connection.getresponse().status)
"""


def test_two_containers(network: dict[str, Namespace]) -> None:
    """The program's container runs its command against the emulator's, by that name and with the
    variables of the compose file alone; what the emulator printed leads it there, too.
    """
    env = environment(PROGRAM, GIVEN)
    words = [word.replace("$$", "$") for word in PROGRAM["entrypoint"]]
    with serving(network) as printed:
        code, out, err = network["program"].run(*words, env=env)
        assert code == 0, err
        (session,) = re.findall(r"in session (\S+)\n", out) or re.findall(r"in (\S+)\n", out)
        exported = dict(re.findall(r"export (\w+)=(\S+)", printed))
        assert exported == {name: env[name] for name in exported}
        # Without leave for plain http, nothing is sent.
        del env["QSESSIONS_INSECURE_HOSTS"]
        code, _, err = network["program"].run("qsessions", "get", session, env=env)
        assert (code, "http://emulator:9000 is plain http" in err) == (2, True), err


def test_another_container_and_the_token(network: dict[str, Namespace]) -> None:
    """From another container the control endpoints and the page need the token, whatever else is
    sent; in the emulator's own they need none.
    """

    def statuses(place: str, host: str, *headers: str) -> list[str]:
        code, out, err = network[place].run("python", "-c", ASKING, host, PORT, *headers)
        assert code == 0, err
        return out.split()

    bearer = f"Authorization: Bearer {TOKEN}"
    with serving(network):
        assert statuses("emulator", "127.0.0.1") == ["200", "200"]
        for host in ("emulator", ADDRESSES["emulator"]):
            assert statuses("program", host) == ["401", "401"]
            assert statuses("program", host, f"{bearer}x") == ["401", "401"]
            assert statuses("program", host, bearer) == ["200", "200"]
        for header in (
            "Host: elsewhere.example",
            "Origin: http://program",
            "Origin: http://localhost",
        ):
            assert statuses("program", "emulator", bearer, header) == ["403", "403"]
        # What says that it is here is not.
        for header in ("Host: localhost", "X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1"):
            assert statuses("program", "emulator", header) == ["401", "401"]


def test_without_a_token(network: dict[str, Namespace]) -> None:
    """An emulator without a token serves another container, and keeps it from the control endpoints
    and the page.
    """
    env = environment(EMULATOR, dict.fromkeys(GIVEN, ""))
    process = network["emulator"].start(command("ENTRYPOINT"), env)
    try:
        assert process.stdout is not None
        process.stdout.read()
        asking = ("python", "-c", ASKING, "emulator", PORT, "Authorization: Bearer ")
        assert network["program"].run(*asking)[1].split() == ["403", "403"]
        code, _, err = network["program"].run(
            "qsessions", "doctor", env=environment(PROGRAM, GIVEN)
        )
        assert code == 0, err
    finally:
        process.kill()
        process.communicate()


def test_the_commands_of_the_containers_page(network: dict[str, Namespace], tmp_path: Path) -> None:
    """The page's first command makes a token and has Compose read the file that is there; its second
    one asks the emulator with that token from elsewhere.
    """
    need("curl")
    start, ask = snippets("docs/containers.md", "sh")
    script = f'docker() {{ printf "%s\\n" "$@"; }}\n{start}\necho "$QSESSIONS_EMULATOR_ADMIN_TOKEN"'
    done = bash("-c", script, folder=tmp_path, env={})
    *words, token = done.stdout.split()
    assert words == ["compose", "-f", "examples/containers/compose.yaml", "up", "--build", "--exit-code-from", "program"]  # fmt: skip
    assert re.fullmatch(r"[0-9a-f]{64}", token)
    with serving(network):
        code, out, err = network["program"].run("bash", "-c", ask, env=environment(PROGRAM, GIVEN))
        assert (code, out) == (0, '{"sessions": []}'), err
