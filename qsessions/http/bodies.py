"""Bodies in transfer: a request's, which knows when it begins, and an answer's, with a bound."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping

import aiohttp
from attrs import define, field

from qsessions.api.messages import Progress, Response

# The service's answers are a few KiB, a full page of workloads about 100.
MAX_BODY_BYTES = 1024 * 1024
# We ask for none of these; some proxies pack all the same.
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})
# Tells zlib to recognise gzip and zlib by their first bytes.
_ANY_FORM = zlib.MAX_WBITS | 32


class RequestBody(AsyncIterator[bytes]):
    """A request's body. `progress` says whether the HTTP library has begun to send it.

    Before that, the request can't have been carried out.
    """

    def __init__(self, content: bytes, progress: Progress) -> None:
        self._content = content
        self._progress = progress
        progress.begun = False

    async def __anext__(self) -> bytes:
        if self._progress.begun or self._progress.stopped:
            raise StopAsyncIteration
        self._progress.begun = True
        return self._content


@define
class Incoming:
    """What has come of an answer so far. Its repr shows no body."""

    status: int | None = None
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytearray = field(factory=bytearray, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    is_too_large: bool = False

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Read the body up to one byte over the bound.

        Of a packed one no more comes in than that either, and nothing after its end.
        """
        self.status, self.headers = response.status, response.headers
        # The HTTP library's own unpacking has no bound in its older versions.
        unpacker = (
            zlib.decompressobj(_ANY_FORM)
            if "Content-Encoding" in response.headers
            and response.headers["Content-Encoding"].lower() in _PACKED
            else None
        )
        arrived = 0
        is_whole = False
        try:
            while not (self.is_too_large or response.content.at_eof()):
                chunk = await response.content.readany()
                arrived += len(chunk)
                room = MAX_BODY_BYTES + 1 - len(self.body)
                self.body += unpacker.decompress(chunk, room) if unpacker else chunk[:room]
                self.is_too_large = arrived > MAX_BODY_BYTES or len(self.body) > MAX_BODY_BYTES
                if unpacker is not None and unpacker.eof:
                    break
            is_whole = not self.is_too_large and response.content.at_eof()
        finally:
            if not is_whole or response.status < 200:
                response.close()

    def response(self, status: int) -> Response:
        """Return the answer, its body cut at the bound."""
        return Response(
            status, self.headers, bytes(self.body[:MAX_BODY_BYTES]), secrets=self.secrets
        )
