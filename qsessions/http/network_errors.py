"""Errors of the network and of the HTTP library as ours: the one table."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import aiohttp

from qsessions.api.messages import Request
from qsessions.errors import CallTimeout, ConnectionFailed, ProtocolError, QSessionsError
from qsessions.http.certificates import Certificates


def translated(
    error: Exception,
    request: Request,
    secrets: Iterable[str],
    certificates: Certificates,
    *,
    sent: bool,
) -> QSessionsError:
    """Return our error for a foreign one.

    Args:
        error: The foreign error.
        request: The request, whose secrets the error may quote.
        secrets: Other texts that must not show up.
        certificates: What the server's certificate was checked with.
        sent: Whether the request may have reached the service.
    """
    # What it quotes of the answer may be what was sent.
    text = request.mask(f"{type(error).__name__}: {_words_of(error)}", secrets)
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _of_certificate(error, certificates)
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
        case UnicodeError() | aiohttp.InvalidURL():
            return ConnectionFailed(
                f"the host's name can't be looked up. {text}", sent=False, retryable=False
            )
        case aiohttp.ClientError() | OSError():
            what = "the connection was lost" if sent else "no connection could be made"
            return ConnectionFailed(f"{what}. {text}", sent=sent)
        case RuntimeError():
            # aiohttp and asyncio say so when the event loop or the interpreter is shutting down, or
            # a borrowed pool is closed.
            message = f"the event loop or the connections are gone. {text}"
            solution = None
        case _:
            # What was sent stays sent all the same.
            message = f"the HTTP library failed. {text}"
            solution = "Correct the pool or the trace config in http=; without one, report this."
    return ConnectionFailed(message, sent=sent, retryable=False, solution=solution)


def _words_of(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        # Its own text has an address, which is the proxy's where that answered.
        return f"{error.status}, {error.message}"
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own text has the place of the TLS settings in memory.
        return str(error).replace(f" ssl:{error.ssl}", "")
    return str(error)


def _of_certificate(
    error: aiohttp.ClientConnectorCertificateError, certificates: Certificates
) -> ConnectionFailed:
    refused = error.certificate_error
    problem, solution, argument = certificates.refusal(refused)
    reason = getattr(refused, "verify_message", refused)
    return ConnectionFailed(
        f"the server's certificate can't be trusted. {error.host}:{error.port}: {reason}{problem}.",
        sent=False,
        retryable=False,
        solution=solution,
        argument=argument,
    )


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
