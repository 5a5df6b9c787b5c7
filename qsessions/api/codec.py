"""Between JSON and models: the only place that knows the wire's field names and forms.

Reading is tolerant: unknown fields are kept, null and "" mean absent, unknown states live as themselves. What can't be read is told as
"reason @ path". Writing leaves out what is None.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import attrs
from attrs import field, frozen
from cattrs import Converter, IterableValidationError, IterableValidationNote, transform_error
from cattrs.gen import make_dict_structure_fn, override

from qsessions.api.messages import header_problem
from qsessions.errors import ProtocolError, one_line
from qsessions.models import (
    ApiVersion,
    CreateSession,
    Mode,
    Session,
    SessionState,
    StateChange,
    UpdateSession,
    Workload,
)

T = TypeVar("T")

# How much of a body that isn't the service's own goes into a message.
_EXCERPT = 200
# How many fields that can't be read are told.
_MOST_TOLD = 3
# JSON's grammar has no bound, and 1e999 is read as infinity.
_LARGEST = sys.float_info.max
_HTML = re.compile(r"<(?:!doctype html|html|head|body|title)\b", re.IGNORECASE)
_TITLE = re.compile(r"<title[^<>]*>", re.IGNORECASE)
_TITLE_END = re.compile("</title>", re.IGNORECASE)
# Of how many errors in one body the text is read.
_MOST_ERRORS = 20
_ENDS = (".", "?", "!", "…")


@frozen(kw_only=True)
class WorkloadPage:
    """One page of workloads and the link to the next, or None."""

    workloads: tuple[Workload, ...]
    next_href: str | None = None


@frozen
class _Versions:
    versions: tuple[ApiVersion, ...]


@frozen
class _Link:
    href: str | None = None


@frozen
class _Page:
    workloads: tuple[Workload, ...]
    next: _Link | None = None


@frozen
class _Jobs:
    jobs: tuple[Any, ...]


@frozen
class ProxyUrls:
    """The proxies that an account names, by the scheme of the address; `extra` holds whatever else it names one for."""

    https: str | None = field(default=None, repr=False)
    http: str | None = field(default=None, repr=False)
    extra: Mapping[str, object] = field(factory=dict, repr=False)


@frozen
class AccountProxies:
    """How an account says to get out."""

    urls: ProxyUrls | None = None
    username_ntlm: str | None = field(default=None, repr=False)


@frozen
class Account:
    """An account in the official client's file. Its repr shows no token.

    Attributes:
        channel: Which service it is for.
        is_default_account: Whether it comes first among those of its channel.
        token: The API key.
        instance: The instance's CRN, or its name.
        url: The address of the cloud.
        verify: Whether the server's certificate is checked.
        private_endpoint: Whether the service is reached inside the cloud.
        proxies: How to get out.
        problem: Why the account can't be read, or None; of one that can't, only the channel and `is_default_account` are known.
    """

    channel: str | None = None
    is_default_account: bool = False
    token: str | None = field(default=None, repr=False)
    instance: str | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    verify: bool = True
    private_endpoint: bool = False
    proxies: AccountProxies | None = None
    problem: str | None = None


@frozen
class Fault:
    """What an error's body says.

    Attributes:
        own: Whether it has the service's own form, which is the service's word that the request failed.
        message: What went wrong, of several errors all; None where the body says nothing.
        codes: The error codes, always strings.
        solution: The advice, with the link to more where there is one.
        trace_id: The identifier to quote to support.
        html: Whether it is an HTML page, which never comes from the service itself.
    """

    own: bool
    message: str | None = None
    codes: tuple[str, ...] = ()
    solution: str | None = None
    trace_id: str | None = None
    html: bool = False

    @property
    def code(self) -> str | None:
        """The first error's code, or None."""
        return self.codes[0] if self.codes else None


def _text(value: Any, _: type) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {_kind(value)}")
    return value


def _flag(value: Any, _: type) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {_kind(value)}")
    return value


def _integer(value: Any, _: type) -> int:
    # 600.0 is how some JSON writers spell 600.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {_kind(value)}")
    return value


def _number(value: Any, _: type) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {_kind(value)}")
    if not -_LARGEST <= value <= _LARGEST:
        raise TypeError("expected a number, got one that is too large")
    return float(value)


def _time(value: Any, _: type) -> datetime:
    if not isinstance(value, str):
        raise TypeError(f"expected a time as text, got {_kind(value)}")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise TypeError(f"expected an ISO 8601 time, got {value[:40]!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "text",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def _state(value: Any, _: type) -> SessionState:
    return SessionState(_text(value, str))


def _mode(value: Any, _: type) -> Mode:
    return Mode(_text(value, str))


_SCALARS: dict[Any, Callable[[Any, type], Any]] = {
    str: _text,
    bool: _flag,
    int: _integer,
    float: _number,
    datetime: _time,
    SessionState: _state,
    Mode: _mode,
}


def _converter(*, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    for kind, hook in _SCALARS.items():
        converter.register_structure_hook(kind, hook)
    if detailed:
        converter.register_structure_hook_factory(
            _is_array, partial(_first_errors, converter=converter)
        )
    # A model comes after those that it holds.
    for model in (
        StateChange,
        Session,
        Workload,
        ApiVersion,
        _Versions,
        _Link,
        _Page,
        _Jobs,
        ProxyUrls,
        AccountProxies,
        Account,
    ):
        converter.register_structure_hook(model, _model_hook(model, converter, detailed=detailed))
    converter.register_unstructure_hook(CreateSession, _without_none)
    return converter


def _is_array(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is tuple


def _first_errors(kind: Any, converter: Converter) -> Callable[[Any, type], tuple[Any, ...]]:
    """Make the reader of an array for `_detailed`, which stops at the few errors that are told: each costs what a thousand items do."""
    item_kind = get_args(kind)[0]

    def read(value: Any, _: type) -> tuple[Any, ...]:
        items, errors = [], []
        for index, item in enumerate(value):
            try:
                items.append(converter.structure(item, item_kind))
            except Exception as error:  # noqa: BLE001 - cattrs raises exception groups of whatever its hooks raise
                error.add_note(IterableValidationNote("in the array", index, item_kind))
                errors.append(error)
                if len(errors) == _MOST_TOLD:
                    break
        if errors:
            raise IterableValidationError("in the array", errors, kind)  # pyright: ignore[reportCallIssue]
        return tuple(items)

    return read


def _model_hook(
    model: type[T], converter: Converter, *, detailed: bool
) -> Callable[[Any, type], T]:
    """Make the reader of a model: null and "" are absent, unknown fields go to `extra`, and the rest is cattrs' generated code."""
    names = frozenset(attrs.fields_dict(model))  # type: ignore[arg-type]  # every model is an attrs class
    known = names - {"extra"}
    # cattrs takes any iterable for an array: text would become a tuple of its characters.
    arrays = names & {"timestamps", "tags", "versions", "workloads", "jobs"}
    # Fields that are None never reach the generated code, so it needn't look for None at each optional one.
    overrides: dict[str, Any] = {
        name: override(struct_hook=_SCALARS[kind])
        for name, hint in get_type_hints(model).items()
        for kind in get_args(hint)
        if kind in _SCALARS and type(None) in get_args(hint)
    }
    structure = make_dict_structure_fn(
        model,
        converter,
        _cattrs_detailed_validation=detailed,
        extra=override(omit=True),
        **overrides,
    )

    def read(value: Any, kind: type) -> T:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, got {_kind(value)}")
        if "usage_seconds" in names:
            value = _with_usage(value)
        present = {
            name: item
            for name, item in value.items()
            if name in known and item is not None and item != ""
        }
        for name in arrays:
            if not isinstance(present.get(name, []), list):
                raise TypeError(f"expected an array in {name}, got {_kind(present[name])}")
        result = structure(present, kind)
        if "extra" in names and not known.issuperset(value):
            extra = {name: item for name, item in value.items() if name not in known}
            return cast("T", attrs.evolve(cast("Any", result), extra=extra))
        return result

    return read


def _with_usage(value: dict[str, Any]) -> dict[str, Any]:
    """Return a workload with `usage_seconds`, which the service is to give up in favour of a number in `usage`."""
    usage = value.get("usage")
    if value.get("usage_seconds") is not None or not isinstance(usage, dict):
        return value
    return {**value, "usage_seconds": usage.get("qpu_charge_time_seconds")}


def _without_none(request: CreateSession) -> dict[str, object]:
    return attrs.asdict(request, filter=lambda _, value: value is not None)


# The fast one reads every body; only one that it refuses is read again in detail, for the path in the message.
_fast = _converter(detailed=False)
_detailed = _converter(detailed=True)


def _refused_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_json = json.JSONDecoder(parse_constant=_refused_constant)


def _loads(body: bytes) -> tuple[Any, str | None]:
    """Parse JSON; give the value, or why it can't be parsed."""
    try:
        return _json.decode(body.decode()), None
    except RecursionError:
        return None, "it is nested too deeply"
    except UnicodeDecodeError as error:
        return None, f"it is not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return None, f"it is no JSON at character {error.pos}: {error.msg}"
    except ValueError as error:
        return None, str(error)


def _decode(body: bytes, kind: type[T]) -> T:
    value, problem = _loads(body)
    if problem is None:
        result, problem = _structured(value, kind)
        if result is not None:
            return result
    raise ProtocolError(f"The answer can't be read: {problem}.")


def _structured(value: object, kind: type[T]) -> tuple[T | None, str]:
    """Make a model of parsed JSON; give it, or why it can't be made."""
    try:
        return _fast.structure(value, kind), ""
    except (TypeError, ValueError, KeyError):
        pass
    try:
        return _detailed.structure(value, kind), ""
    except Exception as error:  # noqa: BLE001 - cattrs raises exception groups of whatever its hooks raise
        return None, "; ".join(
            sorted(transform_error(error, format_exception=_reason))[:_MOST_TOLD]
        )


def _reason(error: BaseException, _: type | None) -> str:
    return f"required field {error} is missing" if isinstance(error, KeyError) else str(error)


def decode_session(body: bytes) -> Session:
    """Read a session.

    Raises:
        ProtocolError: It can't be read; the message names the field by its path.
    """
    return _decode(body, Session)


def decode_session_id(body: bytes) -> str | None:
    """Read only the id out of a body that `decode_session` refuses, or give None."""
    value, _ = _loads(body)
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and found else None


def is_object(body: bytes) -> bool:
    """Say whether a body is a JSON object."""
    value, _ = _loads(body)
    return isinstance(value, dict)


def decode_versions(body: bytes) -> list[ApiVersion]:
    """Read the list of API versions.

    Raises:
        ProtocolError: It can't be read; the message names the field by its path.
    """
    return list(_decode(body, _Versions).versions)


def decode_workloads(body: bytes) -> WorkloadPage:
    """Read one page of workloads.

    Raises:
        ProtocolError: It can't be read; the message names the field by its path.
    """
    page = _decode(body, _Page)
    return WorkloadPage(workloads=page.workloads, next_href=page.next.href if page.next else None)


def decode_has_jobs(body: bytes) -> bool:
    """Read whether a list of jobs holds any.

    Raises:
        ProtocolError: It is not a list of jobs.
    """
    return bool(_decode(body, _Jobs).jobs)


@frozen
class Grant:
    """An access token as IAM grants it, and how many seconds it lives."""

    access_token: str = field(repr=False)
    expires_in: float


def decode_grant(body: bytes) -> Grant | None:
    """Read IAM's answer; None where it holds no token with a lifetime. It never raises: its frames hold the token."""
    value, _ = _loads(body)
    if not isinstance(value, Mapping):
        return None
    token, expires_in = value.get("access_token"), value.get("expires_in")
    if not isinstance(token, str) or header_problem("Authorization", token) is not None:
        return None
    if isinstance(expires_in, str) and re.fullmatch(
        r"[0-9]{1,18}(\.[0-9]{1,18})?", expires_in.strip()
    ):
        # Some gateways give it as text.
        expires_in = float(expires_in)
    if (
        isinstance(expires_in, bool)
        or not isinstance(expires_in, int | float)
        or not abs(expires_in) <= _LARGEST
    ):
        return None
    return Grant(token, float(expires_in))


def decode_accounts(body: bytes) -> dict[str, Account] | str:
    """Read the official client's file of accounts, or say why it can't be read. It never raises: its frames hold the keys."""
    value, problem = _loads(body)
    if problem is not None:
        return problem
    if not isinstance(value, dict):
        return f"expected an object of accounts, got {_kind(value)}"
    return {name: _account(entry) for name, entry in value.items()}


def _account(value: Any) -> Account:
    account, problem = _structured(value, Account)
    if account is not None:
        return account
    # What one account says wrongly must not keep the others from being chosen, nor itself from being the one that is.
    channel, default = (
        (value.get("channel"), value.get("is_default_account"))
        if isinstance(value, dict)
        else (None, None)
    )
    return Account(
        channel=channel if isinstance(channel, str) else None,
        is_default_account=default is True,
        problem=problem,
    )


def encode(request: CreateSession | UpdateSession) -> bytes:
    """Write a request's body; what is None is left out."""
    return json.dumps(_fast.unstructure(request), separators=(",", ":")).encode()


def decode_fault(body: bytes) -> Fault:
    """Read an error's body, whoever wrote it: the service, IAM, a gateway, a proxy (HTML or plain text), or nobody. Never fails.

    Only the service's own form, `{"errors": [...], "trace"}`, is the service's word that it failed. The others are read for their text.
    """
    value, problem = _loads(body)
    if problem is not None:
        text = body[:8192].decode(errors="replace")
        return Fault(own=False, message=_excerpt(text), html=_HTML.search(text) is not None)
    if not isinstance(value, Mapping):
        return Fault(own=False, message=_scalar(value))
    errors = value.get("errors")
    told = (
        [error for error in errors[:_MOST_ERRORS] if _tells(error)]
        if isinstance(errors, list)
        else []
    )
    if told:
        return Fault(
            own=True,
            message=_joined(error.get("message") for error in told),
            codes=tuple(code for error in told if (code := _scalar(error.get("code")))),
            solution=_joined(
                text for error in told for text in (error.get("solution"), error.get("more_info"))
            ),
            trace_id=_scalar(value.get("trace")),
        )
    return _foreign_fault(value)


def _tells(error: object) -> bool:
    return isinstance(error, Mapping) and bool(
        _scalar(error.get("message")) or _scalar(error.get("code"))
    )


def _foreign_fault(value: Mapping[str, Any]) -> Fault:
    """Read the forms of others around the service: IAM, IBM Cloud's gateway, and two forms that proxies and frameworks use."""
    nested, context = value.get("error"), value.get("context")
    inner: Mapping[str, Any] = nested if isinstance(nested, Mapping) else {}
    outer: Mapping[str, Any] = context if isinstance(context, Mapping) else {}
    texts = value.get("message")
    messages = (
        value.get("errorMessage"),
        _joined(texts[:_MOST_ERRORS]) if isinstance(texts, list) else texts,
        value.get("description"),
        inner.get("message"),
        nested,
    )
    codes = (value.get("errorCode"), value.get("code"), inner.get("code"))
    traces = (value.get("trace"), value.get("incidentID"), outer.get("requestId"))
    return Fault(
        own=False,
        message=_first(messages),
        codes=tuple(filter(None, (_first(codes),))),
        solution=_joined((value.get("solution"), value.get("more_info"))),
        trace_id=_first(traces),
    )


def _first(values: Iterable[Any]) -> str | None:
    return next(filter(None, map(_scalar, values)), None)


def _joined(values: Iterable[Any]) -> str | None:
    """Return the texts among values as one, each once and as a sentence of its own."""
    texts = list(dict.fromkeys(filter(None, map(_scalar, values))))
    ended = [text if text.endswith(_ENDS) else f"{text}." for text in texts[:-1]]
    return printable(" ".join([*ended, *texts[-1:]])) or None


def _scalar(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return printable(str(value)) or None


def printable(text: str) -> str:
    """Give text from a server, cut to 1000 characters, without control characters, which do things on a terminal."""
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
