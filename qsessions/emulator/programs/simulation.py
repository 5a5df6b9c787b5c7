"""Runs circuits on Qiskit's primitives, or on Aer's where that is installed. For the worker only:
importing it takes seconds.
"""

# What it imports comes with an extra.
# pyright: reportMissingImports=false

import contextlib
import importlib
import io
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from qiskit import QiskitError, QuantumCircuit, qasm3, qpy
from qiskit.circuit import Qubit
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.primitives.containers.sampler_pub import SamplerPub

from qsessions.emulator.programs.form import (
    Json,
    array,
    bit_array,
    primitive_result,
    pub_result,
)
from qsessions.emulator.programs.pubs import (
    LONGEST_REASON,
    ProgramError,
    Pub,
    check_qpy,
    read_program,
    unpack,
)
from qsessions.emulator.programs.sandbox import MEMORY
from qsessions.emulator.service.errors import PROGRAM_TOO_LARGE

# What qasm3.loads needs, which would import it where that is too late.
with contextlib.suppress(ImportError):
    importlib.import_module("qiskit_qasm3_import")

try:
    aer: Any = importlib.import_module("qiskit_aer.primitives")
except ImportError:
    aer = None

_AMPLITUDE = 16  # bytes
_IDLE = frozenset({"barrier", "delay"})


def run(body: bytes, seed: int) -> bytes:
    """Return the results of a job.

    Raises:
        ProgramError: The request is not one of circuits that can be run.
        Exception: Qiskit refuses it.
    """
    program, pubs = read_program(body)
    if program == "sampler":
        sampler = aer.SamplerV2(seed=seed) if aer else StatevectorSampler(seed=seed)
        results = [_sample(sampler, pub) for pub in pubs]
    else:
        options = {"run_options": {"seed_simulator": seed}}
        estimator = aer.EstimatorV2(options=options) if aer else StatevectorEstimator(seed=seed)
        results = [_estimate(estimator, pub) for pub in pubs]
    return primitive_result(results, "qiskit_aer" if aer else "qiskit")


def _sample(sampler: Any, pub: Pub) -> Json:
    circuit = _circuit(pub.circuit)
    circuit = _narrowed(circuit, _active_qubits(circuit))
    wanted = SamplerPub.coerce((circuit, _decode(pub.values)), pub.shots)
    try:
        data = sampler.run([wanted]).result()[0].data
    except QiskitError as error:
        hint = "" if aer else "; Aer may be able to run it: pip install qiskit-aer"
        raise ProgramError(f"{error.message}{hint}"[:LONGEST_REASON]) from None
    fields = {
        name: bit_array(bits.array.tobytes(), bits.num_bits, bits.array.shape)
        for name, bits in data.items()
    }
    return pub_result("SamplerPubResult", fields, data.shape, _metadata(circuit))


def _estimate(estimator: Any, pub: Pub) -> Json:
    circuit = _circuit(pub.circuit)
    observables = ObservablesArray.coerce(_decode(pub.observables))
    lengths = {len(letters) for terms in _terms(observables) for letters in terms}
    if circuit.layout is not None and isinstance(pub.circuit, str):
        # OpenQASM names the backend's own qubits, up to the last that the circuit uses.
        missing = max(lengths, default=0) - circuit.num_qubits
        circuit.add_bits([Qubit() for _ in range(missing)])
    for length in lengths:
        if length != circuit.num_qubits:
            reason = f"an observable has {length} qubits, its circuit {circuit.num_qubits}"
            raise ProgramError(reason)
    active = sorted({*_active_qubits(circuit), *_observed_qubits(observables)})
    circuit, observables = _narrowed(circuit, active), _observables_of(observables, active)
    wanted = EstimatorPub.coerce((circuit, observables, _decode(pub.values)), pub.precision)
    data = estimator.run([wanted]).result()[0].data
    values = np.asarray(data.evs, dtype="<f8")
    # Qiskit's own primitive adds the noise that was asked for, but reports none.
    errors = np.full(values.shape, pub.precision, dtype="<f8")
    fields = {
        "evs": array(values.tobytes(), "<f8", values.shape),
        "stds": array(errors.tobytes(), "<f8", values.shape),
    }
    metadata = {"shots": pub.shots, "target_precision": pub.precision, **_metadata(circuit)}
    return pub_result("PubResult", fields, data.shape, metadata)


def _active_qubits(circuit: QuantumCircuit) -> list[int]:
    """Return the qubits that a circuit does something with, which are few of a large backend's.

    What declares variables is left as it is.
    """
    if circuit.num_vars:
        return list(range(circuit.num_qubits))
    active = {
        circuit.find_bit(qubit).index
        for step in circuit.data
        if step.operation.name not in _IDLE
        for qubit in step.qubits
    }
    return sorted(active) or [0]


def _narrowed(circuit: QuantumCircuit, active: list[int]) -> QuantumCircuit:
    """Return a circuit without the other qubits."""
    if len(active) < circuit.num_qubits:
        qubits = [circuit.qubits[index] for index in active]
        narrow = QuantumCircuit(qubits, circuit.clbits, *circuit.cregs, metadata=circuit.metadata)
        narrow.global_phase = circuit.global_phase
        kept = set(qubits)
        for step in circuit.data:
            if kept.issuperset(step.qubits):
                narrow.append(step.operation, step.qubits, step.clbits)
        circuit = narrow
    # Aer has ways to do with less.
    if aer is None and _AMPLITUDE << circuit.num_qubits > MEMORY:
        reason = f"a circuit of {circuit.num_qubits} qubits needs more than {MEMORY} bytes"
        raise ProgramError(reason, PROGRAM_TOO_LARGE)
    return circuit


def _terms(observables: ObservablesArray) -> list[dict[str, float]]:
    """Return each observable as its Pauli strings, the first qubit last, with their factors."""
    return cast("list[dict[str, float]]", observables.ravel().tolist())


def _observed_qubits(observables: ObservablesArray) -> set[int]:
    return {
        index
        for terms in _terms(observables)
        for letters in terms
        for index, letter in enumerate(reversed(letters))
        if letter != "I"
    }


def _observables_of(observables: ObservablesArray, active: list[int]) -> ObservablesArray:
    """Return observables for these qubits alone. They are the identity on the others."""
    narrow = [
        {
            "".join(letters[-1 - index] for index in reversed(active)): value
            for letters, value in terms.items()
        }
        for terms in _terms(observables)
    ]
    return ObservablesArray(narrow).reshape(observables.shape)


def _metadata(circuit: QuantumCircuit) -> dict[str, object]:
    return {"circuit_metadata": circuit.metadata or {}}


def _circuit(value: object) -> QuantumCircuit:
    circuit = _from_text(value) if isinstance(value, str) else _decode(value)
    if not isinstance(circuit, QuantumCircuit):
        raise ProgramError("a circuit must be OpenQASM 3 text or a QuantumCircuit")
    return circuit


def _from_text(text: str) -> QuantumCircuit:
    try:
        return qasm3.loads(text)
    except Exception as error:  # noqa: BLE001 - a parser's own errors are of many types
        reason = str(error) or "its syntax is wrong"
        raise ProgramError(f"a circuit is not OpenQASM 3: {reason}"[:LONGEST_REASON]) from None


def _decode(value: object) -> Any:
    """Return a value of a request, whose types are those of the official client's encoder."""
    if isinstance(value, list):
        return [_decode(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    if "__type__" not in fields:
        return {name: _decode(item) for name, item in fields.items()}
    decoder = _DECODERS.get(str(fields["__type__"]))
    if decoder is None:
        raise ProgramError(f"the emulator doesn't read values of type {fields['__type__']!r}")
    return decoder(fields.get("__value__"))


def _decode_array(value: object) -> Any:
    if isinstance(value, str):
        return np.load(io.BytesIO(unpack(value)), allow_pickle=False)
    return np.array(_decode(value))


def _decode_bindings(value: Any) -> BindingsArray:
    data = {tuple(json.loads(names)): _decode(values) for names, values in value["data"].items()}
    return BindingsArray(data, shape=value.get("shape"))


def _decode_circuit(value: object) -> object:
    data = unpack(value)
    check_qpy(data)
    return qpy.load(io.BytesIO(data))[0]


def _decode_complex(value: Any) -> complex:
    return complex(*value)


# Nothing that names a module or a class: this is what a stranger may send.
_DECODERS: Mapping[str, Callable[[object], Any]] = MappingProxyType(
    {
        "BindingsArray": _decode_bindings,
        "ObservablesArray": _decode,
        "QuantumCircuit": _decode_circuit,
        "complex": _decode_complex,
        "ndarray": _decode_array,
    }
)
