"""Clients for tests: credentials, and what leads a client to a server."""

from __future__ import annotations

from typing import Any, Protocol

from qsessions import AsyncSessionClient, Clock, IBMCloudAPIKey, IBMCloudAuth, ServiceCRN
from qsessions.emulator import Emulator
from tests.support.fault_server import Answer, FaultServer

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/0123456789abcdef:11111111-2222-4333-8444-555555555555::"


class Against(Protocol):
    """Starts a server with a script and a client of it; both end with the test."""

    async def __call__(
        self, *answers: Answer, **options: Any
    ) -> tuple[FaultServer, AsyncSessionClient]:
        """Take the script, and the client's arguments. The credential is an API key by default."""
        ...


def static_auth() -> list[IBMCloudAPIKey | ServiceCRN]:
    """Return credentials that need no exchange."""
    return [IBMCloudAPIKey("the-api-key"), ServiceCRN(CRN)]


def client_of(emulator: Emulator, clock: Clock, **options: Any) -> AsyncSessionClient:
    """Return a client of an emulator."""
    auth = [IBMCloudAuth(emulator.api_key, emulator.iam_url, clock=clock), ServiceCRN(emulator.crn)]
    return AsyncSessionClient(auth, base_url=emulator.url, clock=clock, **options)
