"""The plan of what goes wrong: which requests are struck, when, and how."""

import json
import re
from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Literal, cast, get_args

import attrs

FaultKind = Literal[
    "answer",
    "latency",
    "reset",
    "truncate",
    "malformed",
    "drip",
    "revoke_tokens",
    "iam_down",
    "clock_skew",
    "stuck_drain",
    "young_404",
]

OPERATIONS = (
    "create",
    "get",
    "update",
    "close",
    "workloads",
    "versions",
    "token",
    "create_job",
    "list_jobs",
    "get_job",
    "cancel_job",
    "backends",
    "backend_status",
    "backend_configuration",
    "backend_properties",
    "instances",
    "plan",
)
"""What a fault can be bound to."""

MOST_SECONDS = 3600.0
YOUNG_SECONDS = 2.0
"""How long a session is young, to a `young_404` that doesn't say."""
_MOST_SKEW_SECONDS = 1e8

# Which fields a kind takes, beside those that say when it strikes.
_FIELDS: Mapping[FaultKind, frozenset[str]] = MappingProxyType(
    {
        "answer": frozenset({"status", "body", "headers", "retry_after", "after"}),
        "latency": frozenset({"seconds", "after"}),
        "reset": frozenset({"after"}),
        "truncate": frozenset({"keep_bytes"}),
        "malformed": frozenset(),
        "drip": frozenset({"seconds"}),
        "revoke_tokens": frozenset({"after"}),
        "iam_down": frozenset(),
        "clock_skew": frozenset({"seconds"}),
        "stuck_drain": frozenset(),
        "young_404": frozenset({"seconds"}),
    }
)
_NEEDED: Mapping[FaultKind, str] = MappingProxyType(
    {"answer": "status", "latency": "seconds", "drip": "seconds", "clock_skew": "seconds"}
)
# What a kind is about, where that isn't everything.
_ABOUT: Mapping[FaultKind, frozenset[str]] = MappingProxyType(
    {
        "iam_down": frozenset({"token"}),
        "stuck_drain": frozenset({"update"}),
        "young_404": frozenset({"get", "update", "close"}),
    }
)
_HOW = ("status", "body", "headers", "retry_after", "seconds", "keep_bytes", "after")

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# These frame the answer; a wrong length is what `truncate` is for.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


def _names(value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError("operations: must be a list of names")  # noqa: TRY004 - documented as ValueError
    return tuple(value)


def _copied(value: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("headers: must be an object of names and texts")  # noqa: TRY004 - as above
    return dict(value)


@attrs.frozen(kw_only=True)
class Fault:
    """One way in which requests go wrong. Several that strike one request act in the order of the plan.

    kind: `answer` (another answer in place of the service's), `latency`, `reset` (the TCP connection is reset),
        `truncate` (the body ends before its Content-Length), `malformed` (the body is cut but its length fits: JSON
        that can't be read), `drip` (the body comes in sixteen slow pieces), `revoke_tokens` (all access tokens end),
        `iam_down` (the token endpoint answers 503), `clock_skew` (the Date header is wrong), `stuck_drain` (a session
        that is drained doesn't close, but stays open or inactive), `young_404` (a session that was created a moment ago
        is not found by `get`, `update` and `close`).
    operations: which requests, by `OPERATIONS`; none means all that the kind is about, unknown paths too.
    rate: the share of matching requests that it strikes, above 0 and up to 1; `seed` makes the choice, so that
        the same seed strikes the same ones.
    nth: strike only the n-th matching request, counted from 1.
    times: strike so many requests and no more.
    after: strike when the work is done: the session then exists, and the client doesn't know. For `answer`,
        `latency`, `reset` and `revoke_tokens`.
    status: of an `answer`, 200 to 599.
    body: of an `answer`: text as it is, anything else as JSON; by default an error in the form of the service.
    headers: more headers of an `answer`.
    retry_after: the Retry-After header of an `answer`: seconds, or text such as an HTTP date.
    seconds: how long a `latency` or a `drip` takes in real seconds, up to 3600; how far a `clock_skew` is ahead,
        or behind if negative; how long a session is young to a `young_404`, in the service's time, 2 by default.
    keep_bytes: how much of the body a `truncate` sends; half of it by default.

    Raises ValueError, whose text begins with the field's name, for a value that makes no sense.
    """

    kind: FaultKind
    operations: Sequence[str] = attrs.field(default=(), converter=_names)
    rate: float = 1.0
    seed: int = 0
    nth: int | None = None
    times: int | None = None
    after: bool = False
    status: int | None = None
    body: object = None
    headers: Mapping[str, str] = attrs.field(default=_NO_HEADERS, converter=_copied)
    retry_after: int | str | None = None
    seconds: float | None = None
    keep_bytes: int | None = None

    def __attrs_post_init__(self) -> None:
        _check_kind(self)
        _check_when(self)
        _check_how(self)


@attrs.define
class _Planned:
    """A fault with what it has seen so far."""

    fault: Fault
    random: Random
    matched: int = 0
    fired: int = 0

    def strikes(self, operation: str | None) -> bool:
        """Count a request, and say whether it is struck."""
        fault = self.fault
        if fault.operations and operation not in fault.operations:
            return False
        if fault.kind in _ABOUT and operation not in _ABOUT[fault.kind]:
            return False
        self.matched += 1
        struck = (
            (fault.nth is None or fault.nth == self.matched)
            and (fault.times is None or self.fired < fault.times)
            and (fault.rate >= 1 or self.random.random() < fault.rate)
        )
        self.fired += struck
        return struck


class FaultPlan:
    """The faults of a running emulator, in the order in which they were added."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._planned: list[_Planned] = []
        self.add(*faults)

    def add(self, *faults: Fault) -> None:
        """Add faults; each counts requests from now on. Raises TypeError for what is no Fault."""
        for fault in faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"a fault plan takes Fault values, not {type(fault).__name__}")
            # Each fault draws by itself: what it strikes does not depend on the others.
            self._planned.append(_Planned(fault, Random(fault.seed)))  # noqa: S311 - no secret

    def clear(self) -> None:
        """Let everything go well again."""
        self._planned.clear()

    def fire(self, operation: str | None) -> tuple[Fault, ...]:
        """The faults that strike a request of this operation (None for an unknown path)."""
        return tuple(planned.fault for planned in self._planned if planned.strikes(operation))

    def shown(self) -> list[dict[str, object]]:
        """The plan as JSON values, with how many requests each fault `matched` and how often it `fired`."""
        return [
            {
                **attrs.asdict(
                    planned.fault, filter=lambda field, value: value != field.default, recurse=False
                ),
                "matched": planned.matched,
                "fired": planned.fired,
            }
            for planned in self._planned
        ]


def read_faults(value: object) -> list[Fault]:
    """The faults of a TOML file or of a JSON body: an object whose only field `faults` is a list of objects.

    Raises ValueError that names the place, such as `faults[0].status`.
    """
    if (
        not isinstance(value, dict)
        or set(value) != {"faults"}
        or not isinstance(value["faults"], list)
    ):
        raise ValueError("faults: must be the only thing, and a list of faults")
    return [_read_fault(item, f"faults[{index}]") for index, item in enumerate(value["faults"])]


def _read_fault(value: object, where: str) -> Fault:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be an object")  # noqa: TRY004 - as all that is wrong in a plan
    fields = cast("dict[str, object]", value)
    names = [field.name for field in attrs.fields(Fault)]
    for name in fields:
        if name not in names:
            raise ValueError(f"{where}.{name}: no such field; there are: {', '.join(names)}")
    if "kind" not in fields:
        raise ValueError(
            f"{where}.kind: is missing; it is one of: {', '.join(get_args(FaultKind))}"
        )
    try:
        return Fault(**fields)  # type: ignore[arg-type]  # what it holds is checked there
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None


def _check_kind(fault: Fault) -> None:
    kinds = get_args(FaultKind)
    _check("kind", fault.kind in kinds, f"must be one of: {', '.join(kinds)}")
    for name in _HOW:
        given = getattr(fault, name) != getattr(attrs.fields(Fault), name).default
        _check(
            name,
            not given or name in _FIELDS[fault.kind],
            f"has no meaning for the kind '{fault.kind}'",
        )
    needed = _NEEDED.get(fault.kind)
    if needed is not None:
        _check(needed, getattr(fault, needed) is not None, f"is needed for the kind '{fault.kind}'")


def _check_when(fault: Fault) -> None:
    unknown = [name for name in fault.operations if name not in OPERATIONS]
    _check("operations", not unknown, f"must be among: {', '.join(OPERATIONS)}")
    about = _ABOUT.get(fault.kind, frozenset(OPERATIONS))
    told = f"has no meaning for the kind '{fault.kind}', which is about {', '.join(sorted(about))} alone"
    _check("operations", about.issuperset(fault.operations), told)
    _check(
        "rate",
        _is_number(fault.rate) and 0 < fault.rate <= 1,
        "must be a number above 0 and up to 1",
    )
    _check("seed", _is_whole(fault.seed), "must be a whole number")
    for name, count in (("nth", fault.nth), ("times", fault.times)):
        _check(
            name,
            count is None or (_is_whole(count) and count >= 1),
            "must be a whole number from 1 on",
        )
    _check(
        "nth",
        fault.nth is None or (fault.times is None and fault.rate == 1),
        "excludes times and rate",
    )
    _check("after", isinstance(fault.after, bool), "must be true or false")


def _check_how(fault: Fault) -> None:
    status, seconds, keep = fault.status, fault.seconds, fault.keep_bytes
    _check(
        "status",
        status is None or (_is_whole(status) and 200 <= status <= 599),
        "must be from 200 to 599",
    )
    least, most = (
        (-_MOST_SKEW_SECONDS, _MOST_SKEW_SECONDS)
        if fault.kind == "clock_skew"
        else (0, MOST_SECONDS)
    )
    in_range = seconds is None or (_is_number(seconds) and least <= seconds <= most)
    _check("seconds", in_range, f"must be a number from {least:.0f} to {most:.0f}")
    _check(
        "keep_bytes",
        keep is None or (_is_whole(keep) and keep >= 0),
        "must be a whole number, 0 or more",
    )
    _check("body", _is_json(fault.body), "must be text, or something that JSON can say")
    for name, value in fault.headers.items():
        where = f"headers.{name}"
        named = _HEADER_NAME.fullmatch(str(name)) is not None
        _check(
            where, named and str(name).lower() not in _FRAMING, "is no header that can be set here"
        )
        _check(where, _is_header_value(value), "must be text on one line")
    after = fault.retry_after
    timed = after is None or (_is_whole(after) and int(after) >= 0) or _is_header_value(after)
    _check("retry_after", timed, "must be whole seconds or text")


def _check(name: str, holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(f"{name}: {message}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_header_value(value: object) -> bool:
    return isinstance(value, str) and _HEADER_VALUE.fullmatch(value) is not None
