"""The plan of what goes wrong: which requests fail, when, and how."""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, cast, get_args

import attrs

from qsessions.emulator.fault_kinds import MOST_SECONDS, OPERATIONS, RULES, FaultKind, Operation

_MOST_SKEW_SECONDS = 1e8
_KIND_FIELDS = frozenset[str]().union(*(rules.fields for rules in RULES.values()))

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# These frame the answer; a wrong length is what `truncate` is for.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


def _names(value: Sequence[Operation]) -> tuple[Operation, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError("operations: must be a list of names")  # noqa: TRY004 - as documented
    return tuple(value)


def _copied(value: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("headers: must be an object of names and texts")  # noqa: TRY004 - as above
    return dict(value)


def _is_whole(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    return isinstance(value, int) and _is_number(value, least, most)


def _is_number(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_header_value(value: object) -> bool:
    return isinstance(value, str) and _HEADER_VALUE.fullmatch(value) is not None


def _must(holds: Callable[[Any], bool], message: str) -> Callable[..., None]:
    """Return a validator of a field: its value is the default, or the check holds."""

    def validate(_: "Fault", field: "attrs.Attribute[Any]", value: object) -> None:
        if value is not field.default and not holds(value):
            raise ValueError(f"{field.name}: must {message}")

    return validate


def _check_headers(_: "Fault", __: "attrs.Attribute[Any]", headers: Mapping[str, object]) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(str(name)) or str(name).lower() in _FRAMING:
            raise ValueError(f"headers.{name}: is no header that can be set here")
        if not _is_header_value(value):
            raise ValueError(f"headers.{name}: must be text on one line")


_COUNT = _must(lambda count: _is_whole(count, 1), "be a whole number from 1 on")


@attrs.frozen(kw_only=True)
class Fault:
    """One way in which requests go wrong.

    Several faults that apply to one request act in the order of the plan.

    Attributes:
        kind: What happens. `answer` puts another answer in place of the service's. `latency`
            delays it. `reset` resets the TCP connection. `truncate` ends the body before its
            Content-Length. `malformed` cuts the body and its length: JSON that can't be read.
            `drip` sends the body in sixteen slow pieces. `revoke_tokens` ends all access tokens.
            `iam_down` makes the token endpoint answer 503. `clock_skew` makes the Date header
            wrong. `stuck_drain` keeps a session that is drained from closing: it stays open or
            inactive. `young_404` hides a session that was created a moment ago from `get`,
            `update` and `close`. `job_failure` and `job_cancellation` say how a job that is
            submitted will end. `backend_offline` and `backend_paused` are what a backend's status
            says, and jobs that are submitted wait for it. With `usage_limit` the instance has used
            up what it may, and takes no jobs.
        operations: Which requests, by `OPERATIONS`; none means all that the kind is about, unknown
            paths too. `drain` is an `update` with `accepting_jobs` false, and `has_pending_jobs` a
            `list_jobs` of a session's pending jobs; `update` and `list_jobs` mean these too.
        rate: The share of matching requests that it applies to, above 0 and up to 1: at 0.1 one of
            the first ten, one of the next ten, and so on.
        seed: Makes the choice of `rate`: the same plan chooses the same requests. Faults of one
            plan with the same seed choose differently.
        nth: Apply only to the n-th matching request, counted from 1.
        times: Apply to so many requests and no more.
        after: Act when the work is done: the session then exists, and the client doesn't know. For
            `answer`, `latency`, `reset` and `revoke_tokens`.
        status: Of an `answer`, 200 to 599.
        body: Of an `answer`: text as it is, anything else as JSON; by default an error in the form
            of the service.
        headers: More headers of an `answer`.
        retry_after: The Retry-After header of an `answer`: seconds, or text such as an HTTP date.
        seconds: How long a `latency` or a `drip` takes, up to 3600: in real seconds, or in the
            service's time for clients that wait in it; how far a `clock_skew` is ahead, or behind
            if negative; how long a session is young to a `young_404`, in the service's time, 2 by
            default; how long a job waits for a backend that is offline or paused, in the service's
            time, 600 by default.
        keep_bytes: How much of the body a `truncate` sends; half of it by default.

    Raises:
        ValueError: A value is out of range or has no meaning for the kind. The message begins with
            the field's name.
    """

    kind: FaultKind = attrs.field(
        validator=_must(
            get_args(FaultKind).__contains__, f"be one of: {', '.join(get_args(FaultKind))}"
        )
    )
    operations: Sequence[Operation] = attrs.field(
        default=(),
        converter=_names,
        validator=_must(
            lambda names: all(name in OPERATIONS for name in names),
            f"be among: {', '.join(OPERATIONS)}",
        ),
    )
    rate: float = attrs.field(
        default=1.0,
        validator=_must(
            lambda rate: _is_number(rate, 0, 1) and rate > 0, "be a number above 0 and up to 1"
        ),
    )
    seed: int = attrs.field(default=0, validator=_must(_is_whole, "be a whole number"))
    nth: int | None = attrs.field(default=None, validator=_COUNT)
    times: int | None = attrs.field(default=None, validator=_COUNT)
    after: bool = attrs.field(
        default=False, validator=_must(lambda after: after is True, "be true or false")
    )
    status: int | None = attrs.field(
        default=None,
        validator=_must(lambda status: _is_whole(status, 200, 599), "be from 200 to 599"),
    )
    body: object = attrs.field(
        default=None, validator=_must(_is_json, "be text, or something that JSON can say")
    )
    headers: Mapping[str, str] = attrs.field(
        default=_NO_HEADERS, converter=_copied, validator=_check_headers
    )
    retry_after: int | str | None = attrs.field(
        default=None,
        validator=_must(
            lambda after: _is_whole(after, 0) or _is_header_value(after), "be whole seconds or text"
        ),
    )
    seconds: float | None = None
    keep_bytes: int | None = attrs.field(
        default=None,
        validator=_must(lambda count: _is_whole(count, 0), "be a whole number, 0 or more"),
    )

    def __attrs_post_init__(self) -> None:
        rules = RULES[self.kind]
        for field in attrs.fields(Fault):
            unused = field.name in _KIND_FIELDS - rules.fields
            if unused and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name}: has no meaning for the kind '{self.kind}'")
        if rules.needs is not None and getattr(self, rules.needs) is None:
            raise ValueError(f"{rules.needs}: is needed for the kind '{self.kind}'")
        if rules.operations and not rules.operations.issuperset(self.operations):
            about = ", ".join(sorted(rules.operations))
            raise ValueError(
                f"operations: has no meaning for the kind '{self.kind}', "
                f"which is about {about} alone"
            )
        if self.nth is not None and (self.times is not None or self.rate != 1):
            raise ValueError("nth: excludes times and rate")
        most = _MOST_SKEW_SECONDS if self.kind == "clock_skew" else MOST_SECONDS
        least = -most if self.kind == "clock_skew" else 0
        if self.seconds is not None and not _is_number(self.seconds, least, most):
            raise ValueError(f"seconds: must be a number from {least:.0f} to {most:.0f}")


@attrs.define
class _Planned:
    """A fault with what it has matched so far."""

    fault: Fault
    random: Random
    matched: int = 0
    fired: int = 0
    # Of the strikes at a rate: how many there were, and which request gets the next one.
    strikes: int = 0
    next_strike: int = 0

    def __attrs_post_init__(self) -> None:
        self.next_strike = self._place()

    def fires(self, names: Collection[str | None]) -> bool:
        """Count a request of these names, and return whether the fault applies to it."""
        fault = self.fault
        operations = fault.operations or RULES[fault.kind].operations
        if operations and not any(name in operations for name in names):
            return False
        self.matched += 1
        fires = (
            (fault.nth is None or fault.nth == self.matched)
            and (fault.times is None or self.fired < fault.times)
            and (fault.rate >= 1 or self._strikes())
        )
        self.fired += fires
        return fires

    def _strikes(self) -> bool:
        """Return whether this is the one of its stretch of requests, at a rate of 0.1 of ten."""
        if self.matched < self.next_strike:
            return False
        self.strikes += 1
        self.next_strike = max(self.matched + 1, self._place())
        return True

    def _place(self) -> int:
        return math.floor((self.strikes + self.random.random()) / self.fault.rate) + 1


class FaultPlan:
    """The faults of a running emulator, in the order in which they were added."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._planned: list[_Planned] = []
        self.add(*faults)

    def add(self, *faults: Fault) -> None:
        """Add faults. Each counts requests from now on.

        Raises:
            TypeError: An argument is not a Fault.
        """
        for fault in faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"a fault plan takes Fault values, not {type(fault).__name__}")
            # Each fault draws its own numbers, so that its choice does not depend on the others.
            alike = sum(planned.fault.seed == fault.seed for planned in self._planned)
            seed = f"{fault.seed}/{alike}"
            self._planned.append(_Planned(fault, Random(seed)))  # noqa: S311 - no secret

    def clear(self) -> None:
        """Remove all faults."""
        self._planned.clear()

    def fire(self, operation: str | None, call: str | None = None) -> tuple[Fault, ...]:
        """Count a request, and return the faults that apply to it.

        Args:
            operation: The name of its operation; None for an unknown path.
            call: The client's word for it, where that is another, such as `drain`.
        """
        names = (operation, call)
        return tuple(planned.fault for planned in self._planned if planned.fires(names))

    def shown(self) -> list[dict[str, object]]:
        """Return the plan as JSON values, with how often each fault `matched` and `fired`."""
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
    """Return the faults of a TOML file or of a JSON body.

    Args:
        value: An object whose only field `faults` is a list of objects.

    Raises:
        ValueError: It is anything else. The message names the place, such as `faults[0].status`.
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
        raise ValueError(f"{where}: must be an object")  # noqa: TRY004 - documented as ValueError
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
