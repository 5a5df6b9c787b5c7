"""What an error's body says: the service's, IAM's, a gateway's or a proxy's (HTML or text)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from qsessions.api.structure import loads
from qsessions.errors import as_sentence, one_line

# How much of a body that isn't the service's own goes into a message.
_EXCERPT = 200
# Of how many errors in one body the text is read.
_MOST_ERRORS = 20
_HTML = re.compile(r"<(?:!doctype html|html|head|body|title)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^<>]*>", re.IGNORECASE)
_TITLE_END = re.compile("</title>", re.IGNORECASE)


class ErrorBody(NamedTuple):
    """What an error's body says.

    Attributes:
        is_service_error: Whether it has the service's own form, which is the service's word that
            the request failed.
        message: What went wrong, of several errors all; None where the body says nothing.
        codes: The error codes, always strings.
        solution: The advice, with the link to more where there is one.
        trace_id: The identifier to quote to support.
        html: Whether it is an HTML page, which never comes from the service itself.
    """

    is_service_error: bool
    message: str | None = None
    codes: tuple[str, ...] = ()
    solution: str | None = None
    trace_id: str | None = None
    html: bool = False

    @property
    def code(self) -> str | None:
        """The first error's code, or None."""
        return self.codes[0] if self.codes else None

    def masked(self, mask: Callable[[str], str]) -> ErrorBody:
        """Return the same with its texts masked; what the codes are about stays."""
        return self._replace(
            message=self.message and mask(self.message),
            codes=tuple(map(mask, self.codes)),
            solution=self.solution and mask(self.solution),
            trace_id=self.trace_id and mask(self.trace_id),
        )


def decode_error_body(body: bytes) -> ErrorBody:
    """Read an error's body. Never fails.

    Only the service's own form, `{"errors": [...], "trace"}`, is the service's word that it failed.
    The others are read for their text.
    """
    try:
        value = loads(body)
    except ValueError:
        text = body[:8192].decode(errors="replace")
        return ErrorBody(
            is_service_error=False, message=_excerpt(text), html=_HTML.search(text) is not None
        )
    if not isinstance(value, dict):
        return ErrorBody(is_service_error=False, message=_scalar(value))
    errors = value.get("errors")
    errors = [
        error
        for error in map(_object, errors[:_MOST_ERRORS] if isinstance(errors, list) else ())
        if _first(error.get("message"), error.get("code"))
    ]
    if not errors:
        return _foreign_body(value)
    return ErrorBody(
        is_service_error=True,
        message=_joined(error.get("message") for error in errors),
        codes=tuple(code for error in errors if (code := _scalar(error.get("code")))),
        solution=_joined(error.get(name) for error in errors for name in ("solution", "more_info")),
        trace_id=_scalar(value.get("trace")),
    )


def _foreign_body(value: Mapping[str, Any]) -> ErrorBody:
    """Read IAM's form, IBM Cloud's gateway's, and two that proxies and frameworks use."""
    error, texts = value.get("error"), value.get("message")
    nested, context = _object(error), _object(value.get("context"))
    if isinstance(texts, list):
        texts = _joined(texts[:_MOST_ERRORS])
    code = _first(value.get("errorCode"), value.get("code"), nested.get("code"))
    return ErrorBody(
        is_service_error=False,
        message=_first(
            value.get("errorMessage"),
            texts,
            value.get("description"),
            nested.get("message"),
            error,
        ),
        codes=(code,) if code else (),
        solution=_joined((value.get("solution"), value.get("more_info"))),
        trace_id=_first(value.get("trace"), value.get("incidentID"), context.get("requestId")),
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(*values: Any) -> str | None:
    return next(filter(None, map(_scalar, values)), None)


def _joined(values: Iterable[Any]) -> str | None:
    """Return the texts among values as one, each once and as a sentence of its own."""
    texts = list(dict.fromkeys(filter(None, map(_scalar, values))))
    return printable(" ".join([*map(as_sentence, texts[:-1]), *texts[-1:]])) or None


def _scalar(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return printable(str(value)) or None


def printable(text: str) -> str:
    """Return text from a server without control characters, cut to 1000 characters."""
    return one_line(text[: 5 * _EXCERPT])


def _excerpt(text: str) -> str | None:
    # One after the other: a single pattern would look for the end of each beginning anew.
    begins = _TITLE.search(text)
    ends = begins and _TITLE_END.search(text, begins.end())
    if begins and ends:
        text = text[begins.end() : ends.start()]
    elif _HTML.search(text):
        text = "an HTML page without a title"
    text = " ".join(printable(text).split())
    return (text[:_EXCERPT] + ("…" if len(text) > _EXCERPT else "")) or None
