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

MOST_REQUESTS = 100_000
MOST_CHARACTERS = 65_536
MOST_BYTES = 128 * 1024 * 1024

request_log = logging.getLogger("qsessions.emulator.requests")
_LOGGED = ("at", "method", "path", "status", "operation", "session_id", "faults")

_ORIGIN = re.compile(r"^https?://[^/?]*", re.IGNORECASE)
_TOKEN = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*", re.ASCII)
_LABEL = re.compile(r"<(?:api_key|backend_token|service_token|token)>")
_NAME = r"(?:api[_-]?key|token|password|secret)s?"
_NAMED = re.compile(rf"(?i){_NAME}")
# What stands under such a name in a form or a query, and as text or a list in JSON; each of these percent-encoded, too.
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

    `at` is the emulator's time in unix seconds. `path` and `query` are as received, still percent-encoded, less
    the host of an absolute target. `operation` is its name in a fault plan, None for an unknown path;
    `session_id` is the session that it was about, where that is known; `faults` are the kinds that struck it.
    `headers` has lower-case names; a header sent twice is joined by ", ". `body` is text of up to 65,536
    characters. Secrets that the emulator knows are replaced by what they are, wherever they stand
    (`<api_key>`, `<backend_token>`, `<service_token>`, `<token>` for any JWT), so that a test can tell which
    secret travelled where; any other value in a header, a form, a query or JSON that has the name of a secret
    (`X-Api-Key`, `token=`, `"apikey":`) reads `***`, and so does a `Service-CRN` that is no CRN.
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
    """Keeps the last 100,000 requests, or as many as 128 MiB hold; `received` counts them all.

    `secrets` maps each label to the value that it stands for.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.received = 0
        self._secrets = tuple(secrets.items())
        self._requests: deque[ReceivedRequest] = deque()
        self._bytes = 0

    @property
    def requests(self) -> list[ReceivedRequest]:
        """What was kept, in the order of the answers."""
        return list(self._requests)

    def latest(self, most: int) -> list[ReceivedRequest]:
        """The newest of them, up to `most`, newest first."""
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
        """Keep one request, and log it as a line of JSON where the log asks for it."""
        path, _, query = _ORIGIN.sub("", raw_path).partition("?")
        kept = ReceivedRequest(
            at=at,
            method=method,
            path=self._masked(path),
            query=self._masked(query),
            status=status,
            headers=self._masked_headers(headers),
            # Cut last, or a secret at the cut would be halved and not be recognised.
            body=self._masked(body.decode(errors="replace"))[:MOST_CHARACTERS],
            operation=operation,
            session_id=None if session_id is None else self._masked(session_id),
            faults=faults,
        )
        self._keep(kept)
        self.received += 1
        if request_log.isEnabledFor(logging.INFO):
            shown = {name: getattr(kept, name) for name in _LOGGED}
            request_log.info("%s", json.dumps({**shown, "at": date_time(at)}))

    def _keep(self, request: ReceivedRequest) -> None:
        self._requests.append(request)
        self._bytes += _size(request)
        while self._bytes > MOST_BYTES or len(self._requests) > MOST_REQUESTS:
            self._bytes -= _size(self._requests.popleft())

    def _masked_headers(self, headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
        masked: dict[str, str] = {}
        for name, value in headers:
            key = name.lower()
            shown = self._masked_header(key, value)
            # A client says the same in every request: what is equal is kept once.
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
        return _IN_FORM.sub(r"\1***", _IN_JSON.sub(_hidden, text))


def _hidden(found: re.Match[str]) -> str:
    quoted = found["quote"]
    return f"{found[1]}[***" if quoted is None else f"{found[1]}{quoted}***{quoted}"


def _size(request: ReceivedRequest) -> int:
    """How much memory it takes at the most: what it shares with others counts for each."""
    headers = request.headers
    texts = (request.method, request.path, request.query, request.body, *headers, *headers.values())
    return getsizeof(request) + sum(map(getsizeof, texts))
