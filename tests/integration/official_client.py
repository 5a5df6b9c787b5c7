"""Evaluates expressions with the official client at hand, in a process of its own: importing it takes seconds.

Each line of standard input is an expression in JSON; each line of standard output is its value in JSON, or what was raised.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from qiskit import QuantumCircuit, transpile
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, Session
from qiskit_ibm_runtime.api.client import RuntimeClient
from qiskit_ibm_runtime.api.client_parameters import ClientParameters


def account() -> dict[str, Any]:
    """Give what leads the client to the emulator; its own way from `url` to the service loses the port."""
    return {
        "channel": "ibm_quantum_platform",
        "token": os.environ["QISKIT_IBM_TOKEN"],
        "instance": os.environ["QISKIT_IBM_INSTANCE"],
        "url_resolver": lambda *_: os.environ["QSESSIONS_BASE_URL"] + "/v1",
    }


def runtime_client() -> RuntimeClient:
    """Make the part of the client that only sends requests."""
    return RuntimeClient(ClientParameters(**account()))


def service() -> QiskitRuntimeService:
    """Make the service as a user does."""
    return QiskitRuntimeService(**account())


def entangler() -> QuantumCircuit:
    """Make a circuit that no backend runs as it stands."""
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.cx(0, 2)
    circuit.measure_all()
    return circuit


def main() -> None:
    """Answer until the input ends."""
    names: dict[str, object] = {
        "Batch": Batch,
        "Session": Session,
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
        print(answer, flush=True)  # noqa: T201 - the way out


if __name__ == "__main__":
    main()
