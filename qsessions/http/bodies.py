"""Bodies in transfer: a request's, which knows when it begins, and an answer's, with a bound."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from qsessions.api.messages import Progress, Response
from qsessions.errors import ProtocolError

# The service's answers are a few KiB, a full page of workloads about 100.
MAX_BODY_BYTES = 1024 * 1024
# We ask for none of these; some proxies pack all the same.
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})
# Tells zlib to recognise gzip and zlib by their first bytes.
_ANY_FORM = zlib.MAX_WBITS | 32


class RequestBody(aiohttp.BytesPayload):
    """A request's body. `progress` says whether the HTTP library has begun to send it.

    Before that, the request can't have been carried out: the library keeps the head until it has
    the body.
    """

    def __init__(self, content: bytes, progress: Progress) -> None:
        super().__init__(content)
        self._progress = progress
        progress.begun = False

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body, unless nothing more of the request must be sent, or it was before."""
        if self._progress.begun or self._progress.stopped:
            raise ConnectionError("the request was given up before it was sent")
        self._progress.begun = True
        await writer.write(self._value)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Send the body, whose length is the one in the head."""
        await self.write(writer)


class Incoming:
    """What has come of an answer so far.

    Attributes:
        status: The status, or 0 while there is none.
        secrets: What the transport added to the request and must never show up elsewhere.
    """

    __slots__ = ("_headers", "_pieces", "secrets", "status")

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self.status = 0
        self.secrets = secrets
        self._headers: Mapping[str, str] = {}
        self._pieces: list[bytes] = []

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Read the body up to a piece over the bound.

        A packed one gives no more than a byte over the bound, and nothing after its end.

        Raises:
            ProtocolError: It is too large, or the server wants to speak another protocol.
            Exception: What the HTTP library raises.
        """
        self.status, self._headers = response.status, response.headers
        content = response.content
        packing = response.headers.get("Content-Encoding")
        # The HTTP library's own unpacking has no bound in its older versions.
        unpacker = (
            zlib.decompressobj(_ANY_FORM)
            if packing is not None and packing.lower() in _PACKED
            else None
        )
        arrived = size = 0
        is_whole = is_too_large = False
        try:
            while not (is_too_large or (is_whole := content.at_eof())):
                piece = await content.readany()
                arrived += len(piece)
                if unpacker is not None:
                    piece = unpacker.decompress(piece, MAX_BODY_BYTES + 1 - size)
                size += len(piece)
                self._pieces.append(piece)
                is_too_large = size > MAX_BODY_BYTES or arrived > MAX_BODY_BYTES
                if unpacker is not None and unpacker.eof:
                    is_whole = content.at_eof() and not is_too_large
                    break
        finally:
            if not is_whole or response.status < 200:
                response.close()
        if response.status < 200:
            raise ProtocolError(
                "the server wants to speak another protocol.", status=response.status
            )
        if is_too_large:
            raise ProtocolError(
                f"the answer is larger than {MAX_BODY_BYTES} bytes.", status=response.status
            )

    def response(self) -> Response:
        """Return the answer, its body cut at the bound."""
        body = b"".join(self._pieces)[:MAX_BODY_BYTES]
        return Response(self.status, self._headers, body, 1, self.secrets)
