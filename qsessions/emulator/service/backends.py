"""The service's quantum computers: grids of qubits, complete enough to transpile for.

The contract names the backend's status alone. The rest is what the official client asks for before
it creates a session: names and types are the ones that it reads, values are the emulator's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from qsessions.emulator.service.bodies import date_time

VERSION = "1.0.0"
CALIBRATION_ID = "emulated-calibration"
"""The one calibration that each backend has."""

QUBITS = 5
"""How many qubits a backend has that was named without a number."""
_MOST_QUBITS = 1000

_GATES = ("id", "rz", "sx", "x", "cz")
_OTHER_INSTRUCTIONS = ("measure", "reset", "delay", "if_else")
_TIMING = {"acquire_alignment": 1, "granularity": 1, "min_length": 1, "pulse_alignment": 1}
_PROCESSOR = {"family": "Emulated", "revision": "1"}
_ONLINE_SINCE = 1_704_067_200.0  # 2024-01-01
_GATE_NANOSECONDS = {"rz": 0, "cz": 68}
_GATE_ERROR = {"rz": 0.0, "cz": 0.003}


def read_backends(names: Iterable[str]) -> dict[str, int]:
    """Return how many qubits each backend has, from names such as "ibm_fez" or "ibm_fez:156".

    Raises ValueError for one without a name or with an impossible number.
    """
    backends: dict[str, int] = {}
    for text in names:
        name, colon, number = text.partition(":")
        if not name or (colon and not (number.isascii() and number.isdecimal())):
            raise ValueError('a backend must be a name such as "ibm_fez" or "ibm_fez:156"')
        backends[name] = int(number) if colon else QUBITS
        if not 1 <= backends[name] <= _MOST_QUBITS:
            raise ValueError(f"a backend must have from 1 to {_MOST_QUBITS} qubits")
    return backends


def list_body(
    backends: Mapping[str, int], queues: Mapping[str, int], status: str
) -> dict[str, object]:
    """Return all backends as GET /v1/backends lists them.

    Args:
        backends: How many qubits each has.
        queues: How long the queue of each is.
        status: What all of them are: online, offline or paused.
    """
    return {
        "devices": [
            {
                "name": name,
                "status": {"name": status},
                "is_simulator": False,
                "qubits": qubits,
                # With its couplers, as the service counts them.
                "physical_qubits": qubits + len(_couplings(qubits)) // 2,
                "processor_type": _PROCESSOR,
                "queue_length": queues[name],
            }
            for name, qubits in backends.items()
        ]
    }


def status_body(queue_length: int, status: str) -> dict[str, object]:
    """Return a backend's status: active, offline or paused."""
    return {
        "state": status == "active",
        "status": status,
        "message": "",
        "length_queue": queue_length,
        "backend_version": VERSION,
    }


def configuration_body(name: str, qubits: int) -> dict[str, object]:
    """Return what a backend is made of.

    `dt` and `dtm` are in nanoseconds, repetition delays in microseconds.
    """
    return {
        "backend_name": name,
        "backend_version": VERSION,
        "online_date": date_time(_ONLINE_SINCE),
        "description": f"{qubits} emulated qubits in a grid",
        "processor_type": _PROCESSOR,
        "n_qubits": qubits,
        "coupling_map": _couplings(qubits),
        "basis_gates": _GATES,
        "supported_instructions": (*_GATES, *_OTHER_INSTRUCTIONS),
        "supported_features": ("qasm3",),
        "gates": [
            {
                "name": gate,
                "parameters": ["theta"] if gate == "rz" else [],
                "qasm_def": "",
                "coupling_map": _places(gate, qubits),
            }
            for gate in _GATES
        ],
        "local": False,
        "simulator": False,
        "conditional": False,
        "open_pulse": False,
        "memory": True,
        "credits_required": True,
        "max_shots": 100_000,
        "max_experiments": 300,
        "meas_levels": (1, 2),
        "meas_map": [[qubit] for qubit in range(qubits)],
        "dt": 4.0,
        "dtm": 4.0,
        "dynamic_reprate_enabled": True,
        "rep_delay_range": (0.0, 500.0),
        "default_rep_delay": 250.0,
        "timing_constraints": _TIMING,
    }


def properties_body(name: str, qubits: int) -> dict[str, object]:
    """Return a backend's calibration, which is always of the day that it went online."""
    return {
        "backend_name": name,
        "backend_version": VERSION,
        "last_update_date": date_time(_ONLINE_SINCE),
        "qubits": [_qubit_properties() for _ in range(qubits)],
        "gates": [
            {
                "gate": gate,
                "name": gate + "_".join(map(str, place)),
                "qubits": place,
                "parameters": [
                    _measured("gate_error", "", _GATE_ERROR.get(gate, 0.0003)),
                    _measured("gate_length", "ns", _GATE_NANOSECONDS.get(gate, 32)),
                ],
            }
            for gate in _GATES
            for place in _places(gate, qubits)
        ],
        "general": [],
    }


def _places(gate: str, qubits: int) -> Sequence[tuple[int, ...]]:
    return _couplings(qubits) if gate == "cz" else [(qubit,) for qubit in range(qubits)]


def _couplings(qubits: int) -> list[tuple[int, int]]:
    """Return the pairs of neighbours, both ways, in a line of up to five qubits, else in a grid."""
    width = qubits if qubits <= QUBITS else math.isqrt(qubits - 1) + 1
    right = [(qubit, qubit + 1) for qubit in range(qubits - 1) if (qubit + 1) % width]
    below = [(qubit, qubit + width) for qubit in range(qubits - width)]
    return [pair for a, b in (*right, *below) for pair in ((a, b), (b, a))]


def _qubit_properties() -> list[dict[str, object]]:
    return [
        _measured("T1", "us", 150.0),
        _measured("T2", "us", 120.0),
        _measured("readout_error", "", 0.01),
        _measured("readout_length", "ns", 1560),
    ]


def _measured(name: str, unit: str, value: float) -> dict[str, object]:
    return {"name": name, "unit": unit, "value": value, "date": date_time(_ONLINE_SINCE)}
