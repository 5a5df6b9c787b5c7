"""The sessions service, served from your own process: for tests without an account."""

try:
    from qsessions.emulator.server import Emulator
except ModuleNotFoundError as error:
    if error.name != "jwt":
        raise
    raise ImportError(
        "the emulator needs PyJWT: pip install 'qsessions[emulator]'", name=__name__
    ) from None

from qsessions.emulator.faults import Fault, FaultPlan
from qsessions.emulator.http.recording import ReceivedRequest
from qsessions.emulator.service.errors import ServiceError

# What ServiceError was called first.
Refusal = ServiceError

__all__ = ["Emulator", "Fault", "FaultPlan", "ReceivedRequest", "Refusal", "ServiceError"]
