"""Errors of the network and of the HTTP library as ours: the one table."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import aiohttp

from qsessions.api.messages import Request
from qsessions.errors import CallTimeout, ConnectionFailed, ProtocolError, QSessionsError


def translated(
    error: Exception, request: Request, secrets: Iterable[str], *, sent: bool
) -> QSessionsError:
    """Return our error for a foreign one.

    Args:
        error: The foreign error.
        request: The request, whose secrets the error may quote.
        secrets: Other texts that must not show up.
        sent: Whether the request may have reached the service.
    """
    # The own text of an answer's error has an address, which is the proxy's where that answered.
    quoted = (
        f"{error.status}, {error.message}"
        if isinstance(error, aiohttp.ClientResponseError)
        else str(error)
    )
    # What it quotes of the answer may be what was sent.
    text = request.mask(f"{type(error).__name__}: {quoted}", secrets)
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return ConnectionFailed(
                f"the server's certificate can't be trusted. {text}",
                sent=False,
                retryable=False,
                solution="Check the URL and the clock; for a private CA pass "
                "ssl=ssl.create_default_context(cafile=...).",
                argument="ssl",
            )
        case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return ConnectionFailed(
                f"TLS could not be agreed on. {text}", sent=False, retryable=False
            )
        case aiohttp.ClientResponseError() if error.request_info.method == "CONNECT":
            return _of_proxy(error)
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return ConnectionFailed(f"the server can't be reached. {text}", sent=False)
        case TimeoutError():
            return CallTimeout("the call's deadline passed without an answer.", sent=sent)
        case aiohttp.ClientResponseError() | zlib.error():
            return ProtocolError(f"the answer is not valid HTTP. {text}")
        case aiohttp.ClientError() | OSError():
            return ConnectionFailed(f"the connection was lost. {text}", sent=sent)
        case UnicodeError():
            return ConnectionFailed(
                f"the host's name can't be looked up. {text}", sent=False, retryable=False
            )
        case RuntimeError():
            # aiohttp and asyncio say so when the event loop or the interpreter is shutting down, or
            # a borrowed pool is closed.
            message = f"the event loop or the connections are gone. {text}"
        case _:
            # A trace config of a borrowed session, or a defect: what was sent stays sent all the
            # same.
            message = f"the HTTP library failed. {text}"
    return ConnectionFailed(message, sent=sent, retryable=False)


def _of_proxy(error: aiohttp.ClientResponseError) -> ConnectionFailed:
    """Return the error for a proxy that let no request through.

    It leaves out the text, which has the proxy's URL and so perhaps a password.
    """
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectionFailed(
            f"the proxy refused with status {error.status}.", sent=False, retryable=False
        )
    return ConnectionFailed(
        "the proxy's answer is not valid HTTP.",
        sent=False,
        retryable=False,
        solution="Check the proxy's address and port.",
    )
