"""The emulator's simulation as it is where Aer isn't installed."""

import sys

sys.modules["qiskit_aer"] = None  # type: ignore[assignment]

from qsessions.emulator.programs.simulation import run  # noqa: E402

__all__ = ["run"]
