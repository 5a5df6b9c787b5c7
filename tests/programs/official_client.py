"""Evaluates expressions with the official client at hand, in a process of its own: importing it
takes seconds.

Each line of standard input is an expression in JSON; each line of standard output is its value in
JSON, or what was raised.
"""

from __future__ import annotations

import json
import os
import sys

from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, Session
from qiskit_ibm_runtime.api.client import RuntimeClient
from qiskit_ibm_runtime.api.client_parameters import ClientParameters


def base_url(*_: object) -> str:
    """Give the emulator's address: `url_resolver=`, because the client's own way to the service
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


def service() -> QiskitRuntimeService:
    """Make the service as a user does whose key and instance are in the environment."""
    return QiskitRuntimeService(url_resolver=base_url)


def entangler() -> QuantumCircuit:
    """Make a circuit that no backend runs as it stands."""
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.cx(0, 2)
    circuit.measure_all()
    return circuit


def closed_in_block(kind: type[Session], backend: object) -> str:
    """Close a session or a batch inside its block, and give its id."""
    with kind(backend) as session:
        session.close()
    return str(session.session_id)


def main() -> None:
    """Answer until the input ends."""
    names: dict[str, object] = {
        "Batch": Batch,
        "Session": Session,
        "closed_in_block": closed_in_block,
        "entangler": entangler,
        "runtime_client": runtime_client,
        "service": service,
        "transpile": transpile,
    }
    for line in sys.stdin:
        try:
            answer = json.dumps({"value": eval(json.loads(line), names)})  # noqa: S307 - the test says what to evaluate
        except Exception as error:  # noqa: BLE001 - the test says what it expects
            answer = json.dumps({"raised": type(error).__name__, "message": str(error)})
        print(answer, flush=True)


if __name__ == "__main__":
    main()
