"""Our clients as the benchmarks use them."""

from __future__ import annotations

from typing import Any

from benchmarks import payloads
from benchmarks.stub import Stub
from qsessions import AsyncSessionClient, IBMCloudAuth, ServiceCRN, SessionClient

TOKEN = payloads.json_web_token()
# What a peer sends in place of our providers.
HEADERS = payloads.headers(TOKEN)


def settings(stub: Stub, **options: Any) -> dict[str, Any]:
    """Return the arguments of a client of the stub, whose token needs no exchange."""
    auth = [IBMCloudAuth.from_token(TOKEN), ServiceCRN(payloads.CRN)]
    return {"auth": auth, "base_url": stub.url} | options


def async_client(stub: Stub, **options: Any) -> AsyncSessionClient:
    """Return an asynchronous client of the stub."""
    return AsyncSessionClient(**settings(stub, **options))


def facade(stub: Stub, **options: Any) -> SessionClient:
    """Return a synchronous client of the stub."""
    return SessionClient(**settings(stub, **options))
