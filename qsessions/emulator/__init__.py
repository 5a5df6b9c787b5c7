"""The sessions service, served from your own process: to try and to test clients without an account."""

try:
    from qsessions.emulator.server import Emulator
except ModuleNotFoundError as error:
    if error.name != "jwt":
        raise
    raise ImportError("the emulator needs PyJWT: pip install 'qsessions[emulator]'") from error

from qsessions.emulator.faults import Fault, FaultPlan
from qsessions.emulator.http.recording import ReceivedRequest
from qsessions.emulator.service.errors import Refusal

__all__ = ["Emulator", "Fault", "FaultPlan", "ReceivedRequest", "Refusal"]
