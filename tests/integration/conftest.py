"""A client against a server that answers from a script, and servers that speak TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest
import trustme

from qsessions import AsyncSessionClient, IBMCloudAPIKey, ServiceCRN
from tests.fault_server import Answer, FaultServer
from tests.integration.leaks import leaving_nothing
from tests.manual_clock import ManualClock

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/0123456789abcdef:11111111-2222-4333-8444-555555555555::"


class Against(Protocol):
    """Starts a server with a script and a client of it; both end with the test."""

    async def __call__(
        self, *answers: Answer, **options: Any
    ) -> tuple[FaultServer, AsyncSessionClient]:
        """Take the script, and what the client takes; the credential is an API key where none is
        given.
        """
        ...


@pytest.fixture
async def against(time: ManualClock) -> AsyncIterator[Against]:
    """Give a function that starts a scripted server and a client of it on the test's time."""
    async with AsyncExitStack() as stack:

        async def start(*answers: Answer, **options: Any) -> tuple[FaultServer, AsyncSessionClient]:
            server = await stack.enter_async_context(FaultServer(*answers))
            settings: dict[str, Any] = {
                "auth": static_auth(),
                "base_url": server.url,
                "clock": time.clock,
            } | options
            return server, await stack.enter_async_context(
                leaving_nothing(AsyncSessionClient(**settings), server)
            )

        yield start


def static_auth() -> list[IBMCloudAPIKey | ServiceCRN]:
    """Give credentials that need no exchange."""
    return [IBMCloudAPIKey("the-api-key"), ServiceCRN(CRN)]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Give a certificate authority that nobody trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Give the TLS settings of a server on 127.0.0.1 with a certificate of that authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Give the TLS settings of a client that trusts that authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
