"""How a fault acts: before, after and in place of the work, and on the answer on its way out."""

import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from functools import partial

from aiohttp import web

from qsessions.emulator.faults import Fault
from qsessions.emulator.http.iam import TokenIssuer, error_form
from qsessions.emulator.service.bodies import error_body
from qsessions.emulator.service.errors import (
    INTERNAL_ERROR,
    INVALID_CREDENTIALS,
    INVALID_REQUEST,
    NOT_AUTHORISED,
    TOO_MANY_REQUESTS,
    ServiceError,
)

_TRACE = "0" * 32
_CODES = {401: INVALID_CREDENTIALS, 403: NOT_AUTHORISED, 429: TOO_MANY_REQUESTS}
_MESSAGE = "The emulator's fault plan says so."
_DRIP_PIECES = 16
# Closing a socket that lingers for no time sends a reset, not an orderly end.
_LINGER_NOT = struct.pack("hh" if hasattr(socket, "SO_EXCLUSIVEADDRUSE") else "ii", 1, 0)


# Waits a number of seconds.
Pause = Callable[[float], Awaitable[None]]


class ConnectionReset(Exception):
    """The connection is to be reset in place of an answer."""


def reset_connection(request: web.Request) -> web.StreamResponse:
    """Reset the request's connection. The response is for aiohttp, and is sent nowhere."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        request.transport.abort()
    return web.Response()


async def inject(
    faults: Iterable[Fault], tokens: TokenIssuer, token_endpoint: bool, pause: Pause
) -> web.Response | None:
    """Apply faults in order, and return the answer that one puts in the service's place.

    Raises:
        ConnectionReset: A fault resets the connection.
    """
    for fault in faults:
        match fault.kind:
            case "latency":
                await pause(fault.seconds or 0)
            case "reset":
                raise ConnectionReset
            case "revoke_tokens":
                tokens.revoke()
            case "iam_down":
                return _answer(Fault(kind="answer", status=503), token_endpoint)
            case "answer":
                return _answer(fault, token_endpoint)
            case _:
                pass  # the others act in the work itself, or on the answer in `respond`
    return None


async def respond(
    request: web.Request,
    response: web.StreamResponse,
    faults: Iterable[Fault],
    now: float,
    pause: Pause,
) -> web.StreamResponse:
    """Return the answer as the faults change it, or after sending it where they do that too.

    Args:
        request: What is answered.
        response: The answer without faults.
        faults: The faults of this request.
        now: The time in unix seconds that a skewed Date is counted from.
        pause: Waits.
    """
    for fault in faults:
        if fault.kind == "clock_skew":
            response.headers["Date"] = formatdate(now + (fault.seconds or 0), usegmt=True)
        body = response.body if isinstance(response, web.Response) else None
        if not isinstance(response, web.Response) or not isinstance(body, bytes) or not body:
            continue
        if request.method == "HEAD":
            continue
        if fault.kind == "malformed":
            response.body = body[: len(body) // 2]
        elif fault.kind == "truncate":
            keep = len(body) // 2 if fault.keep_bytes is None else fault.keep_bytes
            return await _send_pieces(request, response, len(body), [body[:keep]])
        elif fault.kind == "drip":
            size = -(-len(body) // _DRIP_PIECES)
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            wait = partial(pause, (fault.seconds or 0) / len(pieces))
            return await _send_pieces(request, response, len(body), pieces, wait)
    return response


async def _send_pieces(
    request: web.Request,
    response: web.Response,
    length: int,
    pieces: list[bytes],
    wait: Callable[[], Awaitable[None]] | None = None,
) -> web.StreamResponse:
    """Send a body piece by piece, with a Content-Length of `length`; wait before each."""
    stream = web.StreamResponse(
        status=response.status, reason=response.reason, headers=response.headers
    )
    stream.content_length = length
    if sum(map(len, pieces)) < length or response.keep_alive is False:
        stream.force_close()
    try:
        await stream.prepare(request)
        for piece in pieces:
            if wait is not None:
                await wait()
            await stream.write(piece)
    except ConnectionError:
        pass  # the client has left
    return stream


def _answer(fault: Fault, token_endpoint: bool) -> web.Response:
    status, body = fault.status or 500, fault.body
    if body is None and token_endpoint:
        body = error_form("BXNIM0000E", _MESSAGE, _TRACE[:24])
    elif body is None:
        code = _CODES.get(status, INTERNAL_ERROR if status >= 500 else INVALID_REQUEST)
        body = error_body(ServiceError(status, code, _MESSAGE), _TRACE)
    kind = "application/json"
    if isinstance(body, str):
        kind = "text/html" if body.lstrip().startswith("<") else "text/plain"
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": f"{kind}; charset=utf-8"}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    response = web.Response(status=status, body=content.encode(), headers=headers)
    response.headers.update(fault.headers)
    return response
