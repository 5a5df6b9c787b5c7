"""How a fault strikes: what it does before, after and in place of the work, and to the answer on its way out."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from email.utils import formatdate

from aiohttp import web

from qsessions.emulator.faults import Fault
from qsessions.emulator.http.iam import TokenOffice, error_form
from qsessions.emulator.service.bodies import error_body
from qsessions.emulator.service.errors import (
    INTERNAL_ERROR,
    INVALID_CREDENTIALS,
    INVALID_REQUEST,
    NOT_AUTHORISED,
    TOO_MANY_REQUESTS,
    Refusal,
)

_TRACE = "0" * 32
_CODES = {401: INVALID_CREDENTIALS, 403: NOT_AUTHORISED, 429: TOO_MANY_REQUESTS}
_MESSAGE = "The emulator's fault plan says so."
_DRIP_PIECES = 16
# Closing a socket that lingers for no time sends a reset, not an orderly end.
_LINGER_NOT = struct.pack("hh" if hasattr(socket, "SO_EXCLUSIVEADDRUSE") else "ii", 1, 0)


class ConnectionReset(Exception):
    """The connection is to be reset in place of an answer."""

    def carry_out(self, request: web.Request) -> web.StreamResponse:
        """Reset the request's connection. What is given is for aiohttp, and goes nowhere."""
        if request.transport is not None:
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            request.transport.abort()
        return web.Response()


async def strike(
    faults: Iterable[Fault], tokens: TokenOffice, token_endpoint: bool
) -> web.Response | None:
    """Let faults act one after another; gives the answer that one of them puts in the service's place.

    Raises ConnectionReset.
    """
    for fault in faults:
        match fault.kind:
            case "latency":
                await asyncio.sleep(fault.seconds or 0)
            case "reset":
                raise ConnectionReset
            case "revoke_tokens":
                tokens.revoke()
            case "iam_down":
                return _answer(Fault(kind="answer", status=503), token_endpoint)
            case "answer":
                return _answer(fault, token_endpoint)
            case _:  # the rest acts on the answer's way out, or in the work itself
                pass
    return None


async def deliver(
    request: web.Request, response: web.StreamResponse, faults: Iterable[Fault], now: float | None
) -> web.StreamResponse:
    """Spoil an answer on its way out, as the faults say. `now`, in unix seconds, is what clocks are skewed from."""
    for fault in faults:
        body = (
            response.body
            if isinstance(response, web.Response) and request.method != "HEAD"
            else None
        )
        if fault.kind == "clock_skew" and now is not None:
            response.headers["Date"] = formatdate(now + (fault.seconds or 0), usegmt=True)
        elif not isinstance(body, bytes) or not isinstance(response, web.Response) or not body:
            continue
        elif fault.kind == "malformed":
            response.body = body[: len(body) // 2]
        elif fault.kind == "truncate":
            keep = len(body) // 2 if fault.keep_bytes is None else fault.keep_bytes
            return await _in_pieces(request, response, len(body), [body[:keep]], 0)
        elif fault.kind == "drip":
            size = -(-len(body) // _DRIP_PIECES)
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            return await _in_pieces(request, response, len(body), pieces, fault.seconds or 0)
    return response


async def _in_pieces(
    request: web.Request, response: web.Response, length: int, pieces: list[bytes], seconds: float
) -> web.StreamResponse:
    """Send a body piece by piece over `seconds`, under the promise of `length` bytes."""
    stream = web.StreamResponse(
        status=response.status, reason=response.reason, headers=response.headers
    )
    stream.content_length = length
    if sum(map(len, pieces)) < length or response.keep_alive is False:
        stream.force_close()
    try:
        await stream.prepare(request)
        for piece in pieces:
            await asyncio.sleep(seconds / len(pieces))
            await stream.write(piece)
    except ConnectionError:
        pass  # the client had enough
    return stream


def _answer(fault: Fault, token_endpoint: bool) -> web.Response:
    status = fault.status or 500
    body, content_type = _body(fault, status, token_endpoint)
    response = web.Response(status=status, body=body, headers={"Content-Type": content_type})
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(fault.retry_after)
    response.headers.update(fault.headers)
    return response


def _body(fault: Fault, status: int, token_endpoint: bool) -> tuple[bytes, str]:
    if isinstance(fault.body, str):
        kind = "text/html" if fault.body.lstrip().startswith("<") else "text/plain"
        return fault.body.encode(), f"{kind}; charset=utf-8"
    value = fault.body
    if value is None and token_endpoint:
        value = error_form("BXNIM0000E", _MESSAGE, _TRACE[:24])
    elif value is None:
        code = _CODES.get(status, INTERNAL_ERROR if status >= 500 else INVALID_REQUEST)
        value = error_body(Refusal(status, code, _MESSAGE), _TRACE)
    return json.dumps(value).encode(), "application/json; charset=utf-8"
