"""QRMI, through which schedulers of HPC centres use IBM's service, on the emulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.needs import need
from tests.support.results import read_results

CIRCUIT = 'OPENQASM 3.0; include "stdgates.inc"; bit[1] meas; x $1; meas[0] = measure $1;'


@pytest.fixture
def emulator() -> Iterator[ThreadedEmulator]:
    """Run an emulator whose time stands still."""
    need("qrmi", "qiskit_ibm_runtime", "qiskit_qasm3_import")
    with ThreadedEmulator(Emulator(seed=1, speed=0, backends=["ibm_fez:7"])) as emulator:
        yield emulator


def resource(emulator: ThreadedEmulator, monkeypatch: pytest.MonkeyPatch, kind: str) -> Any:
    """Return QRMI's backend on the emulator, configured as a scheduler does it."""
    import qrmi

    word = {"IBMQuantumComputeService": "QCS", "IBMQiskitRuntimeService": "QRS"}[kind]
    for name, value in {
        "ENDPOINT": f"{emulator.url}/v1",
        "IAM_ENDPOINT": emulator.iam_url,
        "IAM_APIKEY": emulator.api_key,
        "SERVICE_CRN": emulator.crn,
    }.items():
        monkeypatch.setenv(f"ibm_fez_QRMI_IBM_{word}_{name}", value)
    return qrmi.QuantumResource("ibm_fez", getattr(qrmi.ResourceType, kind))


def start(resource: Any) -> str:
    """Start a job and return its id."""
    import qrmi

    body = {"pubs": [[CIRCUIT, None, 10]], "options": {}, "version": 2, "support_qiskit": True}
    payload = qrmi.Payload.QiskitPrimitive(input=json.dumps(body), program_id="sampler")
    job_id: str = resource.task_start(payload)
    return job_id


def operations(emulator: ThreadedEmulator) -> list[tuple[str | None, int | None]]:
    """Return what was asked for, and the answers' status, without tokens."""
    return [
        (request.operation, request.status)
        for request in emulator.requests
        if request.operation != "token"
    ]


@pytest.mark.parametrize("kind", ["IBMQuantumComputeService", "IBMQiskitRuntimeService"])
def test_a_job_in_a_session(
    emulator: ThreadedEmulator, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A job runs in a session that QRMI acquires, its results are read, and the release drains the
    session, which has nothing to do any more.
    """
    import qrmi

    quantum = resource(emulator, monkeypatch, kind)
    assert quantum.status().status == qrmi.ResourceStatusCode.Online
    assert json.loads(quantum.target().value)["configuration"]["n_qubits"] == 7
    session = quantum.acquire()
    job = start(quantum)
    assert quantum.task_status(job) == qrmi.TaskStatus.Running
    assert emulator.jobs[job].session_id == session
    emulator.advance(2)
    assert quantum.task_status(job) == qrmi.TaskStatus.Completed
    ((result,), _) = read_results(quantum.task_result(job).value)
    assert set(result.fields["meas"].data) == {1}
    assert "completed" in quantum.task_logs(job)
    quantum.release(session)
    assert operations(emulator)[-2:] == [("list_jobs", 200), ("update", 204)]
    assert emulator.open_sessions == []


@pytest.mark.parametrize("kind", ["IBMQuantumComputeService", "IBMQiskitRuntimeService"])
def test_a_release_with_a_running_job(
    emulator: ThreadedEmulator, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A release while a job runs closes the session: the running job finishes, one that waits never
    runs. Acquiring again creates another session.
    """
    quantum = resource(emulator, monkeypatch, kind)
    session = quantum.acquire()
    jobs = [start(quantum) for _ in range(6)]
    quantum.release(session)
    assert operations(emulator)[-2:] == [("list_jobs", 200), ("close", 204)]
    assert emulator.open_sessions == []
    assert [emulator.jobs[job].status for job in jobs] == ["Running"] * 5 + ["Cancelled"]
    emulator.advance(2)
    assert [emulator.jobs[job].status for job in jobs] == ["Completed"] * 5 + ["Cancelled"]
    assert quantum.acquire() != session


def test_a_job_that_is_stopped(emulator: ThreadedEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that runs can be stopped, and one that has ended too."""
    import qrmi

    quantum = resource(emulator, monkeypatch, "IBMQuantumComputeService")
    quantum.acquire()
    job = start(quantum)
    for _ in range(2):
        quantum.task_stop(job)
        assert quantum.task_status(job) == qrmi.TaskStatus.Cancelled


def test_its_primitives(monkeypatch: pytest.MonkeyPatch) -> None:
    """QRMI's own sampler and estimator, which send OpenQASM about the backend's qubits, give what a
    Bell pair gives.
    """
    need("qrmi", "qiskit_ibm_runtime", "qiskit_qasm3_import")
    from qiskit import QuantumCircuit, transpile
    from qiskit.quantum_info import SparsePauliOp
    from qrmi.primitives.ibm import EstimatorV2, SamplerV2, get_backend

    with ThreadedEmulator(Emulator(seed=1, speed=50, backends=["ibm_fez:7"])) as emulator:
        quantum = resource(emulator, monkeypatch, "IBMQuantumComputeService")
        session = quantum.acquire()
        backend = get_backend(quantum)
        bell = QuantumCircuit(2)
        bell.h(0)
        bell.cx(0, 1)
        measured = bell.copy()
        measured.measure_all()
        sampling = SamplerV2(quantum).run([transpile(measured, backend)], shots=100)
        assert set(sampling.result()[0].data.meas.get_counts()) == {"00", "11"}
        laid_out = transpile(bell, backend)
        observable = SparsePauliOp("ZZ").apply_layout(laid_out.layout)
        estimating = EstimatorV2(quantum).run([(laid_out, observable)])
        assert float(estimating.result()[0].data.evs) == pytest.approx(1, abs=0.1)
        # Both stop their jobs when they go.
        del sampling, estimating
        quantum.release(session)
        assert emulator.open_sessions == []
