"""The error that stands for an answer other than success."""

from __future__ import annotations

from qsessions.api.error_body import Fault, decode_fault, printable
from qsessions.api.messages import Request, Response
from qsessions.errors import InstanceNotFound, NotFound, ResponseError, response_error_class
from qsessions.http.retry import REPEATABLE_STATUSES, is_reserved, retry_after_of

_WALL = (
    "An HTML page answered in the service's place: the wall of a CDN, a proxy or a company "
    "network. Check the base URL, the proxy and whether this address may reach the service; "
    "the credentials weren't looked at."
)


def response_error(request: Request, response: Response, now: float) -> ResponseError:
    """Return the error that an answer stands for; `now` is in seconds since 1970."""
    fault = decode_fault(response.body)
    if 300 <= response.status < 400:
        to = printable(response.header("Location") or "nowhere")
        message = f"the service answered with a redirect to {to}, and redirects aren't followed."
    else:
        message = fault.message or "the service gave no reason"
    kind = response_error_class(response.status, own=fault.own, codes=fault.codes, html=fault.html)
    return kind(
        message,
        status=response.status,
        code=fault.code,
        solution=_advice(request, response.status, kind, fault),
        trace_id=fault.trace_id,
        retry_after=retry_after_of(response, now),
        retryable=response.status in REPEATABLE_STATUSES or is_reserved(response.status, fault),
    )


def _advice(request: Request, status: int, kind: type[ResponseError], fault: Fault) -> str | None:
    """Return the service's advice on its answer, or ours where another server may have answered."""
    if status in {401, 403} and fault.html:
        return _WALL
    if kind is InstanceNotFound:
        return _sentences(kind.hint, fault.solution)
    if status != 404:
        return fault.solution
    base_url = str(request.url).partition("/v1/")[0]
    if not fault.own:
        return (
            f"Something else than the service answered: check the base URL, {base_url}, "
            "which normally ends in /api, and any proxy."
        )
    if base_url.endswith("/api"):
        return fault.solution
    check = f"Check the base URL, {base_url}, which normally ends in /api."
    # Where no session is named, the hint on its id is none.
    return _sentences(
        fault.solution or (NotFound.hint if request.session_id is not None else None), check
    )


def _sentences(*texts: str | None) -> str:
    return " ".join(f"{text.removesuffix('.')}." for text in texts if text)
