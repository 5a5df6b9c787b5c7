"""The error that stands for an answer other than success."""

from __future__ import annotations

from functools import partial

from qsessions.api.error_body import ErrorBody, decode_error_body, printable
from qsessions.api.messages import Request, Response
from qsessions.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    InstanceNotFound,
    NotFound,
    RateLimited,
    ResponseError,
    ServerError,
    Unauthorized,
    as_sentence,
)
from qsessions.http.retry import REPEATABLE_STATUSES, is_reserved, retry_after_of

# The service's code for an instance that it doesn't find, on any path of one.
_INSTANCE_NOT_FOUND_CODE = "1279"

_BY_STATUS: dict[int, type[ResponseError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}

_WALL = (
    "An HTML page answered in the service's place: the wall of a CDN, a proxy or a company "
    "network. Check the base URL, the proxy and whether this address may reach the service; "
    "the credentials weren't looked at."
)


def response_error(request: Request, response: Response, now: float) -> ResponseError:
    """Return the error that an answer stands for; `now` is in seconds since 1970.

    The words of the answer come masked: they may repeat a secret. Ours stay as they are.
    """
    parsed = decode_error_body(response.body)
    parsed = parsed.masked(partial(request.mask, more=response.secrets))
    if 300 <= response.status < 400:
        where = request.mask(response.header("Location") or "", response.secrets)
        message = (
            f"the service answered with a redirect to "
            f"{printable(where) or 'nowhere'}, and redirects aren't followed."
        )
    else:
        message = parsed.message or "the service gave no reason"
    kind = response_error_class(response.status, parsed)
    return kind(
        message,
        status=response.status,
        code=parsed.code,
        solution=_advice(request, response.status, kind, parsed),
        trace_id=parsed.trace_id,
        retry_after=retry_after_of(response, now),
        retryable=response.status in REPEATABLE_STATUSES or is_reserved(response.status, parsed),
    )


def _advice(
    request: Request, status: int, kind: type[ResponseError], parsed: ErrorBody
) -> str | None:
    """Return the service's advice on its answer, or ours where another server may have answered."""
    if status in {401, 403} and parsed.html:
        return _WALL
    if kind is InstanceNotFound:
        return _joined(kind.hint, parsed.solution)
    if status != 404:
        return parsed.solution
    base_url = str(request.url).partition("/v1/")[0]
    if not parsed.is_service_error:
        return (
            f"Something else than the service answered: check the base URL, {base_url}, "
            "which normally ends in /api, and any proxy."
        )
    if base_url.endswith("/api"):
        return parsed.solution
    # Where no session is named, the hint on its id doesn't apply.
    return _joined(
        parsed.solution or (NotFound.hint if request.session_id is not None else None),
        f"Check the base URL, {base_url}, which normally ends in /api.",
    )


def _joined(*texts: str | None) -> str:
    return " ".join(map(as_sentence, filter(None, texts)))


def response_error_class(status: int, body: ErrorBody) -> type[ResponseError]:
    """Return the class for an HTTP status other than success.

    A 404 of another form than the service's comes from something in between, for example while the
    service is away, and an HTML page with 401 or 403 from the wall of a CDN or a company. Neither
    says anything about the session or the credentials.
    """
    if (status == 404 and not body.is_service_error) or (status in {401, 403} and body.html):
        return ResponseError
    if status == 404 and _INSTANCE_NOT_FOUND_CODE in body.codes:
        return InstanceNotFound
    return _BY_STATUS.get(status, ServerError if status >= 500 else ResponseError)
