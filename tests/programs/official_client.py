"""Evaluates expressions with the official client at hand, in a process of its own for each test.

Importing the client takes seconds, so this process does it once and forks. A line of standard input
is the environment of the next fork in JSON. Each further line is an expression in JSON, and each line
of standard output is its value in JSON or what was raised, until a line with null ends the fork.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister, transpile
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp
from qiskit_ibm_runtime import Batch, EstimatorV2, QiskitRuntimeService, SamplerV2, Session
from qiskit_ibm_runtime.accounts import AccountManager, AccountNotFoundError, InvalidAccountError
from qiskit_ibm_runtime.api.client import RuntimeClient
from qiskit_ibm_runtime.api.client_parameters import ClientParameters
from qiskit_ibm_runtime.api.utils import default_runtime_url_resolver


def base_url(*_: object) -> str:
    """Return the emulator's address: `url_resolver=`, because the client's own way to the service
    keeps no port.
    """
    return os.environ["QSESSIONS_BASE_URL"] + "/v1"


def runtime_client() -> RuntimeClient:
    """Make the part of the client that only sends requests."""
    token, instance = os.environ["QISKIT_IBM_TOKEN"], os.environ["QISKIT_IBM_INSTANCE"]
    parameters = ClientParameters(
        "ibm_quantum_platform", token, instance=instance, url_resolver=base_url
    )
    return RuntimeClient(parameters)


def service(file: str | None = None) -> QiskitRuntimeService:
    """Make the service as a user does whose key and instance are in the environment, or in a file."""
    return QiskitRuntimeService(filename=file, url_resolver=base_url)


def account(file: str, name: str | None, variables: dict[str, str]) -> list[str] | None:
    """Return key, instance and base URL of the account that the client takes, or None."""
    for variable in ("TOKEN", "INSTANCE", "URL", "CHANNEL"):
        os.environ.pop(f"QISKIT_IBM_{variable}", None)
    os.environ.update(variables)
    try:
        found = AccountManager.get(filename=file, name=name)
    except (AccountNotFoundError, InvalidAccountError):
        return None
    assert found is not None
    url = default_runtime_url_resolver(
        found.url, found.instance or "", found.private_endpoint or False
    )
    return [found.token, found.instance or "", url]


def entangler() -> QuantumCircuit:
    """Make a circuit that no backend runs as it stands."""
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.cx(0, 2)
    circuit.measure_all()
    return circuit


def bell() -> QuantumCircuit:
    """Make a Bell pair."""
    circuit = QuantumCircuit(2, metadata={"name": "bell"})
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    return circuit


def two_registers() -> QuantumCircuit:
    """Make a circuit with two registers and two parameters, which are the angles of two qubits."""
    left, right = ClassicalRegister(1, "left"), ClassicalRegister(9, "right")
    circuit = QuantumCircuit(QuantumRegister(3), left, right)
    circuit.rx(Parameter("a"), 0)
    circuit.rx(Parameter("b"), 1)
    circuit.measure(0, left[0])
    circuit.measure(1, right[8])
    return circuit


def sampled(mode: Any, backend: Any, *pubs: tuple[Any, ...], **options: Any) -> list[Any]:
    """Return the shape and the registers of each circuit: bits, shots, and how often each text of
    bits came at each place of the sweep.
    """
    wanted = [(transpile(pub[0], backend, optimization_level=0), *pub[1:]) for pub in pubs]
    result = SamplerV2(mode, options=options).run(wanted).result()
    return [
        [
            list(each.data.shape),
            {
                name: [bits.num_bits, bits.num_shots, places(bits)]
                for name, bits in each.data.items()
            },
            each.metadata["circuit_metadata"],
        ]
        for each in result
    ]


def places(bits: Any) -> list[dict[str, int]]:
    """Return how often each text of bits came at each place of the sweep."""
    return [bits.get_counts(index) for index in np.ndindex(bits.shape)]


def estimated(mode: Any, backend: Any, circuit: QuantumCircuit, *rest: Any, **options: Any) -> Any:
    """Return the values and their errors."""
    circuit = transpile(circuit.remove_final_measurements(inplace=False), backend)
    observables, *others = rest
    laid_out = [
        [SparsePauliOp(text).apply_layout(circuit.layout) for text in row] for row in observables
    ]
    (result,) = EstimatorV2(mode, options=options).run([(circuit, laid_out, *others)]).result()
    return [result.data.evs.tolist(), result.data.stds.tolist(), result.metadata]


def closed_in_block(kind: type[Session], backend: object) -> str:
    """Close a session or a batch inside its block, and return its id."""
    with kind(backend) as session:
        session.close()
    return str(session.session_id)


def lines() -> Iterator[Any]:
    """Read lines until null or the end, never further than to the end of a line."""
    for line in iter(sys.stdin.readline, ""):
        if (value := json.loads(line)) is None:
            return
        yield value


def answer() -> None:
    """Answer until the fork is no longer needed."""
    names: dict[str, object] = {
        "Batch": Batch,
        "Session": Session,
        "account": account,
        "bell": bell,
        "closed_in_block": closed_in_block,
        "entangler": entangler,
        "estimated": estimated,
        "runtime_client": runtime_client,
        "sampled": sampled,
        "service": service,
        "transpile": transpile,
        "two_registers": two_registers,
    }
    for expression in lines():
        try:
            value = eval(expression, names)  # noqa: S307 - the test says what to evaluate
            text = json.dumps({"value": value})
        except Exception as error:  # noqa: BLE001 - the test says what it expects
            text = json.dumps({"raised": type(error).__name__, "message": str(error)})
        print(text, flush=True)


def main() -> None:
    """Fork for each environment."""
    for environment in lines():
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(environment)
            print(json.dumps({"value": None}), flush=True)
            answer()
            return
        os.waitpid(child, 0)
        print(json.dumps({"value": None}), flush=True)


if __name__ == "__main__":
    main()
