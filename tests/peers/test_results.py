"""Circuits that the emulator runs with Qiskit, and what the official client makes of the results."""

from __future__ import annotations

import asyncio
import base64
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from qsessions.emulator import Emulator
from qsessions.emulator.programs.runner import SIMULATION, ProgramRunner
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.caller import Caller
from tests.support.needs import need
from tests.support.official_client import OfficialClient, Raised, discovery
from tests.support.results import read_results

STATEVECTOR = "tests.programs.statevector"
HEAD = 'OPENQASM 3.0; include "stdgates.inc";'
BELL = f"{HEAD} qubit[2] q; bit[2] c; h q[0]; cx q[0], q[1]; c = measure q;"


@pytest.fixture
def client(official: OfficialClient) -> Iterator[OfficialClient]:
    """Return the official client of an emulator whose time runs fast, with a backend."""
    with (
        ThreadedEmulator(Emulator(seed=1, speed=50)) as emulator,
        official.on(emulator, **discovery(emulator)) as client,
    ):
        client("(backend := service().backend('ibm_fez')) and None")
        yield client


@asynccontextmanager
async def simulating(module: str | None) -> AsyncIterator[Caller]:
    """Start an emulator that runs circuits with a module, and a plain client of it."""
    need("qiskit", "qiskit_aer", "qiskit_qasm3_import")
    emulator = Emulator(seed=1, speed=100)
    emulator._programs = ProgramRunner(module)
    async with emulator, ClientSession() as http:
        yield Caller(http, emulator)


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    """Return a plain client of an emulator that has Qiskit, but not Aer."""
    async with simulating(STATEVECTOR) as call:
        yield call


@pytest.fixture
async def aer() -> AsyncIterator[Caller]:
    """Return a plain client of an emulator that has Aer too."""
    async with simulating(SIMULATION) as call:
        yield call


async def run(call: Caller, *pub: object, program: str = "sampler") -> tuple[int, Any]:
    """Submit a job, and return its results, once it has ended."""
    body = {"program_id": program, "backend": "ibm_fez", "params": {"pubs": [pub]}}
    status, job = await call("POST", "/v1/jobs", body)
    assert status == 200
    await call.command("POST", "advance", {"duration": 2})
    return await call("GET", f"/v1/jobs/{job['id']}/results")


async def failure(call: Caller, *pub: object) -> tuple[int, str]:
    """Submit a job that fails, and return the code and the reason."""
    status, answer = await run(call, *pub)
    assert status == 400, answer
    (error,) = answer["errors"]
    (job,) = (await call("GET", "/v1/jobs?limit=1"))[1]["jobs"]
    assert (job["status"], job["state"]["reason_code"]) == ("Failed", error["code"])
    return error["code"], error["message"]


def test_a_bell_pair(client: OfficialClient) -> None:
    """A Bell pair gives 00 and 11 about equally often and nothing else, outside a session, in one
    and in a batch; the circuit's metadata comes back.
    """
    for mode in ("backend", "Session(backend)", "Batch(backend)"):
        ((shape, registers, metadata),) = client(f"sampled({mode}, backend, (bell(), None, 1000))")
        assert (shape, metadata) == ([], {"name": "bell"})
        ((bits, shots, (counts,)),) = registers.values()
        assert (list(registers), bits, shots) == (["meas"], 2, 1000)
        assert set(counts) == {"00", "11"}
        assert min(counts.values()) > 400


def test_registers_and_sweeps(client: OfficialClient) -> None:
    """Several circuits, registers and sets of parameters come back in their shapes, each place with
    the value of its own parameters, and shots as asked for.
    """
    client("(pi := 3.141592653589793) and None")
    sweep = "[[[0, 0], [0, pi], [pi, pi]], [[pi, 0], [pi, pi], [0, 0]]]"
    pubs = f"(two_registers(), {sweep}), (bell(),)"
    swept, bell = client(f"sampled(backend, backend, {pubs}, default_shots=7)")
    shape, registers, _ = swept
    assert shape == [2, 3]
    assert registers["left"] == [1, 7, [{bit: 7} for bit in "001110"]]
    right = [{f"{bit}00000000": 7} for bit in "011010"]
    assert registers["right"] == [9, 7, right]
    assert (bell[0], bell[1]["meas"][:2]) == ([], [2, 7])
    ((_, registers, _),) = client("sampled(backend, backend, (bell(),))")
    assert registers["meas"][1] == 4096


def test_an_estimators_values(client: OfficialClient) -> None:
    """An estimator gives the expectation values within the precision that was asked for, in the
    shape that observables and parameters make together.
    """
    observables = "[['IIZ', 'IZI'], ['ZZI', 'III']]"
    values, errors, metadata = client(
        "estimated(backend, backend, two_registers(), "
        "[['IIZ'], ['IZI'], ['IZZ']], [[0, 0], [0, 3.141592653589793]], 0.001)"
    )
    assert errors == [[0.001] * 2] * 3
    assert metadata["target_precision"] == 0.001
    for row, expected in zip(values, [[1, 1], [1, -1], [1, -1]], strict=True):
        assert row == pytest.approx(expected, abs=0.01)
    values, errors, _ = client(f"estimated(backend, backend, entangler(), {observables})")
    assert errors == [[1 / 64] * 2] * 2
    for row, expected in zip(values, [[0, 0], [1, 1]], strict=True):
        assert row == pytest.approx(expected, abs=0.1)


def test_a_job_that_fails(official: OfficialClient) -> None:
    """What can't be run fails the job, and the official client raises its error with the reason."""
    emulator = Emulator(seed=1, speed=50)
    emulator._programs = ProgramRunner(STATEVECTOR)
    measured_again = "(mid := bell()) and mid.h(0) and mid.measure(0, 0) and mid"
    with (
        ThreadedEmulator(emulator) as running,
        official.on(running, **discovery(running)) as client,
    ):
        client("(backend := service().backend('ibm_fez')) and None")
        # It fails before its 2 s are over, or after.
        with pytest.raises(
            Raised, match=r"(?s)^(RuntimeJobFailure|RequestsApi)Error: .*qiskit-aer"
        ):
            client(f"sampled(backend, backend, ({measured_again},))")


async def test_a_circuit_of_a_large_backend(call: Caller, aer: Caller) -> None:
    """Of a circuit that is laid out on a large backend only the qubits count that it uses."""
    laid_out = f"{HEAD} qubit[156] q; h q[7]; cx q[7], q[149]; barrier q;"
    measured = f"{laid_out} bit[2] c; c[0] = measure q[7]; c[1] = measure q[149];"
    together = "I" * 6 + "Z" + "I" * 141 + "Z" + "I" * 7
    idle, flipped = "I" * 152 + "ZIII", "I" * 152 + "XIII"
    for each in (call, aer):
        ((result,), _) = read_results((await run(each, measured, None, 100))[1])
        assert set(result.fields["c"].data) == {0, 3}
        observables = [[together], [idle], [flipped]]
        answer = await run(each, laid_out, observables, None, 0, program="estimator")
        ((result,), _) = read_results(answer[1])
        values = memoryview(result.fields["evs"].data).cast("d").tolist()
        assert result.shape == (3, 1)
        assert values == pytest.approx([1, 1, 0])


@pytest.mark.parametrize(
    ("module", "simulator"), [(STATEVECTOR, "qiskit"), (SIMULATION, "qiskit_aer")]
)
async def test_openqasm(module: str, simulator: str) -> None:
    """OpenQASM 3 as text runs, for a sampler and for an estimator, with parameters as lists or by
    name, with Aer and without it.
    """
    async with simulating(module) as call:
        await openqasm_runs(call, simulator)


async def openqasm_runs(call: Caller, simulator: str) -> None:
    """Run circuits as text."""
    status, answer = await run(call, BELL, None, 100)
    assert status == 200
    ((result,), metadata) = read_results(answer)
    assert set(result.fields["c"].data) == {0, 3}
    assert metadata["simulator"] == simulator

    turned = f"{HEAD} input float a; qubit[1] q; bit[1] c; rx(a) q[0]; c = measure q;"
    pi = 3.141592653589793
    for values in ([[0], [pi]], {"a": [0, pi]}):
        ((result,), _) = read_results((await run(call, turned, values, 3))[1])
        assert (result.shape, result.fields["c"].data) == ((2,), bytes([0, 0, 0, 1, 1, 1]))

    circuit = f"{HEAD} qubit[2] q; h q[0]; cx q[0], q[1];"
    observables = ["ZZ", {"XX": 0.5, "ZI": 1}]
    status, answer = await run(call, circuit, observables, None, 0, program="estimator")
    ((result,), _) = read_results(answer)
    assert memoryview(result.fields["evs"].data).cast("d").tolist() == pytest.approx([1, 0.5])


def qpy(data: bytes) -> dict[str, str]:
    """Return data as a circuit, as the official client sends one."""
    value = base64.b64encode(zlib.compress(data)).decode()
    return {"__type__": "QuantumCircuit", "__value__": value}


QUBITS = [
    ("x $1;", "IIIZI", -1),
    ("x $1;", "ZIIII", 1),
    ("x $1;", "ZZ", 0),
    ("x $1;", "ZI", -1),
    ("qubit[5] q; x q[1];", "IIIZI", -1),
    ("qubit[2] q; x q[1];", "IIIZI", None),
    ("x $3;", "ZZ", None),
]


async def test_openqasm_of_a_backends_qubits(call: Caller) -> None:
    """An observable may be about qubits of the backend that a circuit doesn't name; where the
    circuit declares its own or names more, the job fails.
    """
    for text, observable, value in QUBITS:
        circuit = f"{HEAD} h $0; {text}" if "$1" in text else f"{HEAD} {text}"
        status, answer = await run(call, circuit, observable, None, 0, program="estimator")
        if value is None:
            assert status == 400, text
            assert "an observable has" in answer["errors"][0]["message"]
        else:
            ((result,), _) = read_results(answer)
            found = memoryview(result.fields["evs"].data).cast("d").tolist()
            assert found == pytest.approx([value]), (text, observable)


async def test_a_circuit_that_measures_in_between(call: Caller, aer: Caller) -> None:
    """What depends on a measurement needs Aer; without it the job's reason says what can't be run."""
    circuit = f"{HEAD} qubit[2] q; bit[2] c; h q[0]; c[0] = measure q[0]; if (c[0]) {{ x q[1]; }} c[1] = measure q[1];"
    ((result,), _) = read_results((await run(aer, circuit, None, 100))[1])
    assert set(result.fields["c"].data) == {0, 3}
    code, reason = await failure(call, circuit)
    assert (code, "pip install qiskit-aer" in reason) == (9422, True)


async def test_circuits_that_are_not_read(call: Caller) -> None:
    """Formats of QPY below 13 are refused before they are read, and so are values whose types name
    modules; the reason says what to do.
    """
    for version in range(1, 13):
        code, reason = await failure(call, qpy(b"QISKIT" + bytes([version, 1, 1, 1]) + bytes(50)))
        assert code == 9422
        assert f"in version {version} of the QPY format; send version 13 or later" in reason
    code, reason = await failure(call, qpy(b"QISKIT" + bytes([13, 1, 3, 0]) + bytes(50)))
    assert code == 9422
    for kind in ("settings", "_json", "to_json", "spmatrix", "Result", "NoiseModel"):
        named: dict[str, object] = {
            "__type__": kind,
            "__module__": "os",
            "__class__": "x",
            "__value__": {},
        }
        code, reason = await failure(call, BELL, named)
        assert f"doesn't read values of type {kind!r}" in reason
    pickled = base64.b64encode(zlib.compress(b"\x80\x04N.")).decode()
    code, reason = await failure(call, BELL, {"__type__": "ndarray", "__value__": pickled})
    assert "allow_pickle" in reason
    assert "is not OpenQASM 3: " in (await failure(call, "nonsense"))[1]
    _, answer = await run(call, f"{HEAD} qubit[2] q;", "ZZZ", program="estimator")
    assert answer["errors"][0]["message"].endswith("an observable has 3 qubits, its circuit 2")


async def test_a_circuit_that_is_too_large(call: Caller) -> None:
    """A circuit that needs too much memory fails its job, and the next one runs."""
    for qubits in (28, 100):
        code, reason = await failure(call, BELL.replace("[2]", f"[{qubits}]"))
        assert code == 9413
        assert f"a circuit of {qubits} qubits needs more than 2147483648 bytes" in reason
    code, reason = await failure(call, BELL.replace("[2]", "[26]"))
    assert (code, reason) == (9413, "The job failed: the program needs more memory than there is")
    assert (await run(call, BELL))[0] == 200


async def test_a_circuit_that_takes_too_long(call: Caller) -> None:
    """A circuit that would run for hours fails its job, and the next one runs."""
    assert (await run(call, BELL))[0] == 200
    programs = call.emulator._programs
    programs._seconds = 1
    gates = "".join(f"h q[{qubit}];" for qubit in range(20)) * 5000
    code, reason = await failure(call, f"{HEAD} qubit[20] q; bit[20] c; {gates} c = measure q;")
    assert (code, reason) == (1305, "The job failed: the program took longer than 1 s")
    programs._seconds = 30
    assert (await run(call, BELL))[0] == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows a process's environment")
async def test_the_environment_of_qiskit(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that runs circuits has no credentials in its environment."""
    monkeypatch.setenv("QISKIT_IBM_TOKEN", "secret-token")
    assert (await run(call, BELL))[0] == 200
    worker = call.emulator._programs._worker
    assert worker is not None
    assert worker._process is not None
    environment = await asyncio.to_thread(Path(f"/proc/{worker._process.pid}/environ").read_bytes)
    assert b"HOME=/dev/null" in environment
    assert b"secret-token" not in environment
    assert b"QISKIT_IBM" not in environment
