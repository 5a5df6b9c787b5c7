"""The service's quantum computers: five qubits in a line, but complete enough to transpile for.

The contract names the backend's status alone. The rest is what the official client asks for before
it creates a session: names and types are the ones that it reads, values are the emulator's.
"""

from collections.abc import Iterable

from qsessions.emulator.service.bodies import date_time

VERSION = "1.0.0"
_QUBITS = tuple((qubit,) for qubit in range(5))
_COUPLINGS = tuple(pair for left in range(4) for pair in ((left, left + 1), (left + 1, left)))
_GATES = ("id", "rz", "sx", "x", "cz")
_OTHER_INSTRUCTIONS = ("measure", "reset", "delay", "if_else")
_TIMING = {"acquire_alignment": 1, "granularity": 1, "min_length": 1, "pulse_alignment": 1}
_PROCESSOR = {"family": "Emulated", "revision": "1"}
_ONLINE_SINCE = 1_704_067_200.0  # 2024-01-01
_GATE_NANOSECONDS = {"rz": 0, "cz": 68}
_GATE_ERROR = {"rz": 0.0, "cz": 0.003}


def list_body(queues: Iterable[tuple[str, int]]) -> dict[str, object]:
    """Return all backends with the lengths of their queues, as GET /v1/backends lists them."""
    return {
        "devices": [
            {
                "name": name,
                "status": {"name": "online"},
                "is_simulator": False,
                "qubits": len(_QUBITS),
                "processor_type": _PROCESSOR,
                "queue_length": length,
            }
            for name, length in queues
        ]
    }


def status_body(queue_length: int) -> dict[str, object]:
    """Return a backend's status; every emulated backend is up."""
    return {
        "state": True,
        "status": "active",
        "message": "",
        "length_queue": queue_length,
        "backend_version": VERSION,
    }


def configuration_body(name: str) -> dict[str, object]:
    """Return what a backend is made of.

    `dt` and `dtm` are in nanoseconds, repetition delays in microseconds.
    """
    return {
        "backend_name": name,
        "backend_version": VERSION,
        "online_date": date_time(_ONLINE_SINCE),
        "description": "5 emulated qubits in a line",
        "processor_type": _PROCESSOR,
        "n_qubits": len(_QUBITS),
        "coupling_map": _COUPLINGS,
        "basis_gates": _GATES,
        "supported_instructions": (*_GATES, *_OTHER_INSTRUCTIONS),
        "supported_features": ("qasm3",),
        "gates": [
            {
                "name": gate,
                "parameters": ["theta"] if gate == "rz" else [],
                "qasm_def": "",
                "coupling_map": _places(gate),
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
        "meas_map": [[qubit] for (qubit,) in _QUBITS],
        "dt": 4.0,
        "dtm": 4.0,
        "dynamic_reprate_enabled": True,
        "rep_delay_range": (0.0, 500.0),
        "default_rep_delay": 250.0,
        "timing_constraints": _TIMING,
    }


def properties_body(name: str) -> dict[str, object]:
    """Return a backend's calibration, which is always of the day that it went online."""
    return {
        "backend_name": name,
        "backend_version": VERSION,
        "last_update_date": date_time(_ONLINE_SINCE),
        "qubits": [_qubit_properties() for _ in _QUBITS],
        "gates": [
            {
                "gate": gate,
                "name": gate + "_".join(map(str, qubits)),
                "qubits": qubits,
                "parameters": [
                    _measured("gate_error", "", _GATE_ERROR.get(gate, 0.0003)),
                    _measured("gate_length", "ns", _GATE_NANOSECONDS.get(gate, 32)),
                ],
            }
            for gate in _GATES
            for qubits in _places(gate)
        ],
        "general": [],
    }


def _places(gate: str) -> tuple[tuple[int, ...], ...]:
    return _COUPLINGS if gate == "cz" else _QUBITS


def _qubit_properties() -> list[dict[str, object]]:
    return [
        _measured("T1", "us", 150.0),
        _measured("T2", "us", 120.0),
        _measured("readout_error", "", 0.01),
        _measured("readout_length", "ns", 1560),
    ]


def _measured(name: str, unit: str, value: float) -> dict[str, object]:
    return {"name": name, "unit": unit, "value": value, "date": date_time(_ONLINE_SINCE)}
