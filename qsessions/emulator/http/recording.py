"""What the emulator received, kept for assertions and free of secrets."""

import json
import logging
import re
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from sys import getsizeof, intern
from types import MappingProxyType
from urllib.parse import quote

import attrs

from qsessions.emulator.service.bodies import date_time

# Numbers a request whose client waits in the emulator's time; see qsessions/testing.
EXCHANGE_HEADER = "qsessions-exchange"

MOST_REQUESTS = 100_000
MOST_CHARACTERS = 65_536
MOST_BYTES = 128 * 1024 * 1024

request_log = logging.getLogger("qsessions.emulator.requests")
_LOGGED = ("at", "method", "path", "status", "operation", "session_id", "faults")

_ORIGIN = re.compile(r"^https?://[^/?]*", re.IGNORECASE)
_TOKEN = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*", re.ASCII)
_LABEL = re.compile(r"<(?:api_key|backend_token|service_token|admin_token|token)>")
_NAME = r"(?:api[_-]?key|token|password|secret)s?"
_NAMED = re.compile(rf"(?i){_NAME}")
# The values under such a name in a form or a query, and in JSON as text or a list, also
# percent-encoded.
_IN_FORM = re.compile(
    rf"(?i)({_NAME}(?:=|%3D|%253D))(?!{_LABEL.pattern})(?:(?!%2[267]|%5C)[^&\s\"'\\\\])+"
)
_QUOTE, _SPACE = r"(?:\\{0,7}[\"']|%22|%27|%5C%22)", r"(?:\s|%20|%0A|\+)*"
_IN_JSON = re.compile(
    rf"(?is)({_NAME}{_QUOTE}{_SPACE}(?::|%3A){_SPACE})"
    rf"(?:(?P<quote>{_QUOTE})(?!{_LABEL.pattern}).*?(?:(?<!\\)(?P=quote)|$)|\[[^\]]*)"
)
_SECRET_HEADER = re.compile(rf"(?i)(?:proxy-)?authorization|.*-authentication|cookie|.*{_NAME}.*")


@attrs.frozen
class ReceivedRequest:
    """One request and the status of its answer, None where a fault reset the connection instead.

    Secrets that the emulator knows are replaced by their names wherever they occur (`<api_key>`,
    `<backend_token>`, `<service_token>`, `<admin_token>`, `<token>` for any JWT), so that a test
    can tell which secret was sent where. Any other value in a header, a form, a query or JSON that
    has the name of a secret (`X-Api-Key`, `token=`, `"apikey":`) reads `***`, and so does a
    `Service-CRN` that is not a CRN.

    Attributes:
        at: The emulator's time in unix seconds.
        method: The HTTP method.
        path: The path as received, still percent-encoded, without the host of an absolute target.
        query: The query as received, still percent-encoded.
        status: The status of the answer.
        headers: The headers with lower-case names; a header sent twice is joined by ", ".
        body: The body as text of up to 65,536 characters.
        operation: Its name in a fault plan, None for an unknown path.
        session_id: The session that it was about, where that is known.
        faults: The kinds of the faults that it met.
    """

    at: float
    method: str
    path: str
    query: str
    status: int | None
    headers: Mapping[str, str]
    body: str
    operation: str | None = None
    session_id: str | None = None
    faults: tuple[str, ...] = ()


class Recorder:
    """Keeps the last 100,000 requests, or as many as 128 MiB hold.

    Args:
        secrets: The secret values, by the label that replaces each.

    Attributes:
        received: How many requests there were, those that are no longer kept included.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.received = 0
        self._secrets = tuple(secrets.items())
        self._requests: deque[ReceivedRequest] = deque()
        self._bytes = 0

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The requests that are kept, in the order of the answers."""
        return list(self._requests)

    def latest(self, most: int) -> list[ReceivedRequest]:
        """Return the newest requests, up to `most`, newest first."""
        return list(islice(reversed(self._requests), most))

    def record(
        self,
        *,
        at: float,
        method: str,
        raw_path: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        status: int | None,
        operation: str | None,
        session_id: str | None,
        faults: tuple[str, ...],
    ) -> None:
        """Keep one request, and log it as a line of JSON if the log is on."""
        path, _, query = _ORIGIN.sub("", raw_path).partition("?")
        kept = ReceivedRequest(
            at=at,
            method=method,
            path=self._masked(path),
            query=self._masked(query),
            status=status,
            headers=self._masked_headers(headers),
            # Cut last: a secret that is cut in half is not recognised.
            body=self._masked(body.decode(errors="replace"))[:MOST_CHARACTERS],
            operation=operation,
            session_id=None if session_id is None else self._masked(session_id),
            faults=faults,
        )
        self.received += 1
        self._requests.append(kept)
        self._bytes += _size(kept)
        while self._bytes > MOST_BYTES or len(self._requests) > MOST_REQUESTS:
            self._bytes -= _size(self._requests.popleft())
        if request_log.isEnabledFor(logging.INFO):
            shown = {name: getattr(kept, name) for name in _LOGGED}
            request_log.info("%s", json.dumps({**shown, "at": date_time(at)}))

    def _masked_headers(self, headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
        masked: dict[str, str] = {}
        for name, value in headers:
            key = name.lower()
            if key == EXCHANGE_HEADER:
                continue
            shown = self._masked_header(key, value)
            # Most headers of a client are the same in every request: equal ones are kept once.
            masked[intern(key)] = intern(f"{masked[key]}, {shown}" if key in masked else shown)
        return MappingProxyType(masked)

    def _masked_header(self, name: str, value: str) -> str:
        shown = self._masked(value)
        if name == "service-crn":
            return shown if shown.startswith("crn:") or _LABEL.fullmatch(shown) else "***"
        if not _SECRET_HEADER.fullmatch(name):
            return shown
        scheme, space, credential = shown.rpartition(" ")
        if scheme.lower() not in {"", "bearer", "apikey"}:
            return "***"
        return scheme + space + (credential if _LABEL.fullmatch(credential) else "***")

    def _masked(self, text: str) -> str:
        for label, secret in self._secrets:
            text = text.replace(secret, f"<{label}>").replace(quote(secret, safe=""), f"<{label}>")
        text = _TOKEN.sub("<token>", text)
        if _NAMED.search(text) is None:
            return text
        return _IN_FORM.sub(r"\1***", _IN_JSON.sub(_hide_value, text))


def _hide_value(match: re.Match[str]) -> str:
    quote_mark = match["quote"]
    return match[1] + ("[***" if quote_mark is None else f"{quote_mark}***{quote_mark}")


def _size(request: ReceivedRequest) -> int:
    """Return the most memory that a request takes; what it shares with others counts for each."""
    headers = request.headers
    texts = (request.method, request.path, request.query, request.body, *headers, *headers.values())
    return getsizeof(request) + sum(map(getsizeof, texts))
