"""The private attributes that tests look into, in one place: a rename breaks one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsessions import AsyncLiveSession, AsyncSessionClient, IBMCloudAuth
from qsessions.auth.iam import TokenExchange
from qsessions.http.attempts import Attempts
from qsessions.http.transport import AiohttpTransport
from qsessions.session.live import Poll


def attempts_of(client: AsyncSessionClient) -> Attempts:
    """Return what sends a client's requests, which is the transport of its providers."""
    return client._caller._attempts


def transport_of(client: AsyncSessionClient) -> AiohttpTransport:
    """Return what holds a client's connections."""
    return client._transport


def poll_of(live: AsyncLiveSession) -> Poll:
    """Return the poll of a handle."""
    return live._poll


def polls_of(client: AsyncSessionClient) -> Mapping[str, Poll]:
    """Return the polls of a client, by session id."""
    return client._calls.polls


def exchange_of(auth: IBMCloudAuth) -> Any:
    """Return the token exchange that is under way, or None."""
    assert isinstance(auth._tokens, TokenExchange)
    return auth._tokens._exchange


def waiters_of(auth: IBMCloudAuth) -> int:
    """Count the callers that wait for the token exchange under way."""
    return len(exchange_of(auth).result._done_callbacks)


def parts_of(client: AsyncSessionClient) -> list[object]:
    """Return what a client consists of, for a search of all that it shows."""
    caller, attempts, transport = client._caller, attempts_of(client), transport_of(client)
    return [
        *(client, caller, attempts, transport, *attempts.providers),
        *(vars(part) for part in (client, caller, transport)),
        transport._proxy,
    ]


def parts_of_provider(auth: IBMCloudAuth) -> list[object]:
    """Return what a provider consists of, for a search of all that it shows."""
    return [auth, auth._tokens, vars(auth), vars(auth._tokens)]
