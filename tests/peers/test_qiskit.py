"""`qsessions.integrations.qiskit`: whole Qiskit programs in sessions of ours, on the emulator."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from qsessions import ConfigurationError, IBMCloudAuth, ServiceCRN, SessionClient
from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.needs import need
from tests.support.pages import snippets

RUN = """
from qsessions.integrations.qiskit import qiskit_session
session = qiskit_session()
print(type(session).__name__, session.session_id, session.status())
session.close()
"""


@pytest.fixture
def emulator() -> Iterator[ThreadedEmulator]:
    """Run an emulator whose time runs fast."""
    need("qiskit_ibm_runtime")
    with ThreadedEmulator(Emulator(seed=1, speed=20)) as emulator:
        yield emulator


def run(*command: str, env: Mapping[str, str]) -> list[str]:
    """Run a command that must succeed, and return the lines that it prints."""
    done = subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def client_of(emulator: ThreadedEmulator) -> SessionClient:
    """Return our client of an emulator."""
    auth = [IBMCloudAuth(emulator.api_key, iam_url=emulator.iam_url), ServiceCRN(emulator.crn)]
    return SessionClient(auth, base_url=emulator.url)


def test_the_whole_program_of_the_page(emulator: ThreadedEmulator) -> None:
    """The page's program opens a session, samples a Bell pair in it, and prints the counts, the end
    and the bill; nothing is left open.
    """
    program, _ = snippets("docs/qiskit.md", "python")
    counts, end = run(sys.executable, "-c", program, env=emulator.env())
    assert set(ast.literal_eval(counts)) == {"00", "11"}
    assert sum(ast.literal_eval(counts).values()) == 1000
    state, seconds, _ = end.split()
    (session,) = emulator.sessions.values()
    assert state == "closed"
    assert float(seconds) == pytest.approx(session.usage(emulator.now()))
    assert float(seconds) >= 2
    assert emulator.open_sessions == []


def test_the_qiskit_program_of_the_readme(emulator: ThreadedEmulator) -> None:
    """README's program with Qiskit runs as pasted, on the emulator."""
    (program,) = [text for text in snippets("README.md", "python") if "integrations" in text]
    assert run(sys.executable, "-c", program, env=emulator.env()) == ["Pending"]
    assert emulator.open_sessions == []


def test_the_service_of_the_page() -> None:
    """The page's second program makes the official client's service, and a session of its own."""
    need("qiskit_ibm_runtime")
    _, program = snippets("docs/qiskit.md", "python")
    assert run(sys.executable, "-c", program, env={}) == ["Pending 156"]


@pytest.mark.parametrize("mode", ["dedicated", "batch"])
def test_under_run(emulator: ThreadedEmulator, mode: str) -> None:
    """Under `qsessions run` a program finds the session and the service without arguments, and its
    own `close` leaves the end to `run`.
    """
    ours = ["qsessions", "run", "--mode", mode, "--backend", "ibm_fez", "--max-ttl", "10m"]
    lines = run(*ours, "--", sys.executable, "-c", RUN, env=emulator.env())
    (session,) = emulator.sessions.values()
    name = {"dedicated": "Session", "batch": "Batch"}[mode]
    assert lines == [f"{name} {session.id} Pending"]
    assert session.state == "closed"
    ends = [request.status for request in emulator.requests if request.operation == "update"]
    assert ends == [204]


def test_ours_ends_with_our_block(emulator: ThreadedEmulator) -> None:
    """Leaving the official session, closing it or cancelling it sends nothing and keeps it from
    taking jobs; ours goes on until its block ends.
    """
    from qiskit_ibm_runtime.exceptions import IBMRuntimeError

    from qsessions.integrations import qiskit

    with qiskit.without_cloud(), client_of(emulator) as client:
        service = qiskit.service(emulator)
        with client.open(mode="dedicated", backend="ibm_fez", max_ttl="10m") as live:
            with qiskit.qiskit_session(live, service) as session:
                pass
            again = qiskit.qiskit_session(live.id, service)
            again.cancel()
            for each in (session, again):
                with pytest.raises(IBMRuntimeError, match="closed"):
                    each._run("sampler", {})
            assert client.get(live.id).accepting_jobs is True
        assert client.get(live.id).accepting_jobs is False


def test_the_cloud_is_out_of_reach(emulator: ThreadedEmulator) -> None:
    """While a program is on the emulator, no library can look up a host of IBM's cloud, and others
    can be; afterwards all can be.
    """
    from qsessions.integrations import qiskit

    hosts = ("iam.cloud.ibm.com", "QUANTUM.cloud.ibm.com.", b"cloud.ibm.com")
    with qiskit.without_cloud():
        qiskit.service(emulator)
        for host in hosts:
            with pytest.raises(qiskit.CloudReached, match="is IBM's cloud"):
                socket.getaddrinfo(host, 443)
        assert socket.getaddrinfo("localhost", 443)
        assert not qiskit._names_cloud("notcloud.ibm.com")
    # An address needs no look-up on a network.
    assert socket.getaddrinfo("127.0.0.1", 443)
    assert qiskit._guard.holders == 0


def test_what_is_missing_is_said(
    emulator: ThreadedEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a session, or without an emulator in the environment, an error says what to set."""
    from qiskit_ibm_runtime.exceptions import IBMInputValueError

    from qsessions.integrations import qiskit

    for name in ("QSESSIONS_SESSION_ID", "QSESSIONS_BASE_URL", "IAM_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="QSESSIONS_SESSION_ID is not set"):
        qiskit.qiskit_session()
    with pytest.raises(ConfigurationError, match="don't name an emulator"):
        qiskit.service()
    with qiskit.without_cloud():
        service = qiskit.service(emulator)
        with pytest.raises(IBMInputValueError, match="Session not found"):
            qiskit.qiskit_session("none", service)


TESTS = """
from qsessions.integrations.qiskit import CloudReached, qiskit_session
import socket
import pytest

def test_it(qsessions_qiskit_service, qsessions_sync_client):
    with qsessions_sync_client.open(mode="batch", backend="ibm_fez", max_ttl="1m") as live:
        assert qiskit_session(live, qsessions_qiskit_service).status() == "Pending"
    with pytest.raises(CloudReached):
        socket.getaddrinfo("quantum.cloud.ibm.com", 443)
"""


def test_the_fixture(tmp_path: Path) -> None:
    """A test gets the official client's service by a fixture, beside our client of the emulator."""
    need("qiskit_ibm_runtime")
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    lines = run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path), env={}
    )
    assert lines[-1].startswith("1 passed")
