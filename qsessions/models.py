"""The values that calls take and return: frozen, picklable, checked before they are sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal, Self, TypeAlias

from attrs import field, frozen

from qsessions.arguments import check_bool, check_choice, is_number
from qsessions.errors import InvalidArgument, one_line
from qsessions.jsonable import json_copy
from qsessions.values import Displayed, Model, summary

# The API description's `Seconds`: a signed 32-bit integer of at least 1.
MAX_SECONDS = 2_147_483_647

Duration: TypeAlias = int | timedelta | str
"""Whole seconds, a `timedelta`, or text such as "600" or "1d 2h 30m 40s"."""

ModeName: TypeAlias = Literal["dedicated", "batch"]
"""A `Mode` as text."""

StateName: TypeAlias = Literal[
    "open", "active", "inactive", "closed", "pending_inactive", "pending_closed"
]
"""A `SessionState` as text."""

WorkloadMode: TypeAlias = Literal["job", "session", "batch"]
"""What the list of workloads calls a kind; a dedicated session is a "session"."""

SessionKind: TypeAlias = Literal["session", "batch"]
"""A `WorkloadMode` that isn't a job's."""

WorkloadStatus: TypeAlias = Literal["pending", "in_progress", "failed", "completed", "canceled"]
"""What the list of workloads calls a status."""

DURATION_TEXT = 'text such as "1d 2h 30m" (units: d, h, m, s; each once at most)'
"""What errors call text with units."""

_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"\s*(?:[0-9]{1,18}\s*[dhms]\s*){1,4}", re.ASCII)
_NUMBER = re.compile(
    r"\s*(?:[0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,2})?\s*", re.ASCII
)


class _OpenEnum(StrEnum):
    """Names the values known today, and lets a value that the service adds later live as itself."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or not value:
            return None
        member = str.__new__(cls, value)
        # It is shown by `repr`.
        member._name_ = one_line(value.upper())
        member._value_ = value
        return member

    def __reduce_ex__(self, proto: object) -> tuple[Any, ...]:
        """Pickle by the value, as Python 3.11.0 to 3.11.3 don't: not every value has a name."""
        return type(self), (self._value_,)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Describe it to pydantic as text, which may be another one than those known today."""
        return {"type": "string", "title": cls.__name__, "examples": [str(item) for item in cls]}

    @property
    def is_known(self) -> bool:
        """Whether this version of qsessions has a name for the value."""
        return type(self).__members__.get(self._name_) is self


class SessionState(_OpenEnum):
    """Where a session is in its life.

    It compares equal to its text. A value that isn't listed here is kept as it came.
    """

    OPEN = "open"
    """Waits for its first job."""
    ACTIVE = "active"
    """Has the backend: runs a job or waits for the next. A dedicated session costs."""
    INACTIVE = "inactive"
    """Lost its priority after `interactive_ttl` seconds without a job, until the next one."""
    CLOSED = "closed"
    """Final; nothing reopens it."""
    PENDING_INACTIVE = "pending_inactive"
    """Known to the official client only: in progress, accepting jobs."""
    PENDING_CLOSED = "pending_closed"
    """Known to the official client only: in progress, not accepting jobs."""


class Mode(_OpenEnum):
    """What a session reserves.

    It compares equal to its text. A value that isn't listed here is kept as it came.
    """

    DEDICATED = "dedicated"
    """Exclusive, wall-clock access to a backend, billed by the wall clock."""
    BATCH = "batch"
    """Groups independent jobs, without exclusivity."""


_MODES = tuple(Mode)
# What a request says by arguments of its own, or by the client's instance.
_OWNED = {
    *("mode", "backend", "max_ttl", "interactive_ttl", "active_ttl"),
    *("accepting_jobs", "instance", "extra"),
}


@frozen(eq=False, repr=False)
class StateChange(Model):
    """An entry of a session's history: the state it entered and when."""

    status: SessionState
    timestamp: datetime


@frozen(kw_only=True, eq=False, repr=False)
class Session(Displayed, Model):
    """A session as the service described it at one moment.

    All but `id` may be None, meaning that the service said nothing (null, "" or no such field).
    Times are aware; those that the service gives without an offset are read as UTC.

    Attributes:
        id: The session's id.
        backend_name: The backend; may be None while the session is open.
        mode: dedicated or batch.
        state: open, active, inactive, closed, or one that the service added later.
        state_reason: Why it is in this state, in the service's words.
        accepting_jobs: False once it drains or is closed.
        started_at: When its first job started; `max_ttl` runs from here.
        activated_at: When it last became active.
        closed_at: When it closed.
        last_job_started: When its latest job started.
        last_job_completed: When its latest job ended.
        interactive_ttl: How many seconds it may sit without a job before it turns inactive.
        max_ttl: How many seconds after `started_at`, its first job's start, it closes at the
            latest.
        active_ttl: How many seconds are left of its active time.
        timestamps: Each state it entered and when, oldest first.
        user_id: Whose it is.
        elapsed_time: Its usage in seconds; may be None while it goes on.
        extra: Fields that this version of qsessions doesn't know, as decoded JSON. Not part of the
            hash.
    """

    id: str
    backend_name: str | None = None
    mode: Mode | None = None
    state: SessionState | None = None
    state_reason: str | None = None
    accepting_jobs: bool | None = None
    started_at: datetime | None = None
    activated_at: datetime | None = None
    closed_at: datetime | None = None
    last_job_started: datetime | None = None
    last_job_completed: datetime | None = None
    interactive_ttl: int | None = None
    max_ttl: int | None = None
    active_ttl: int | None = None
    timestamps: tuple[StateChange, ...] = ()
    user_id: str | None = None
    elapsed_time: float | None = None
    extra: Mapping[str, object] = field(factory=dict, hash=False)

    def __repr__(self) -> str:
        """Show what matters on a short line; `to_dict` has everything."""
        words = self.state, self.is_draining and "draining", kind_of(self.mode, self.backend_name)
        return summary(self, *words, max_ttl=self.max_ttl, elapsed_time=self.elapsed_time)

    @property
    def is_final(self) -> bool:
        """Whether the session is closed: no state follows, and it costs nothing any more.

        A running job still finishes.
        """
        return self.state == SessionState.CLOSED

    @property
    def is_draining(self) -> bool:
        """Whether the session takes no more jobs and has yet to close."""
        return not self.is_final and (
            self.accepting_jobs is False or self.state == SessionState.PENDING_CLOSED
        )


@frozen(kw_only=True, eq=False, repr=False)
class Workload(Displayed, Model):
    """A job, session or batch as the instance's list of workloads shows it.

    Attributes:
        id: The job's or session's id.
        created: When it was created.
        ended: When it ended, or None.
        backend: Where it runs, or None.
        instance: The CRN of its instance.
        user_id: Whose it is.
        accepting_jobs: For sessions and batches: whether new jobs are taken.
        mode: job, session (a dedicated one) or batch.
        status: pending, in_progress, failed, completed or canceled. A session that costs or may
            cost is pending or in_progress.
        status_reason: Why, in the service's words.
        tags: The tags it was given.
        usage_seconds: Its usage so far, in seconds.
        extra: Fields that this version of qsessions doesn't know, as decoded JSON. Not part of the
            hash.
    """

    id: str
    created: datetime | None = None
    ended: datetime | None = None
    backend: str | None = None
    instance: str | None = None
    user_id: str | None = None
    accepting_jobs: bool | None = None
    mode: str | None = None
    status: str | None = None
    status_reason: str | None = None
    tags: tuple[str, ...] = ()
    usage_seconds: float | None = None
    extra: Mapping[str, object] = field(factory=dict, hash=False)

    def __repr__(self) -> str:
        """Show what matters on a short line; `to_dict` has everything."""
        words = self.status, kind_of(self.mode, self.backend)
        return summary(self, *words, usage_seconds=self.usage_seconds)


@frozen(kw_only=True, eq=False, repr=False)
class ApiVersion(Model):
    """A dated version of the API.

    Attributes:
        version: The date, as "YYYY-MM-DD".
        status: live or deprecated.
        sunset_date: The day from which it is no longer served, as "YYYY-MM-DD", or None.
        extra: Fields that this version of qsessions doesn't know, as decoded JSON. Not part of the
            hash.
    """

    version: str
    status: str | None = None
    sunset_date: str | None = None
    extra: Mapping[str, object] = field(factory=dict, hash=False)


@frozen(kw_only=True, eq=False, repr=False)
class Instance(Model):
    """A service instance of the account, as IBM Cloud's Global Search lists it.

    Attributes:
        name: Its name, which isn't unique.
        crn: Its CRN.
        plan: The display name of its plan in the Global Catalog, in lower case, such as "open" or
            "pay-as-you-go"; "unknown" where the catalogue doesn't give it.
        region: The region in its CRN.
        tags: Its tags.
    """

    name: str
    crn: str
    plan: str
    region: str
    tags: tuple[str, ...] = ()


def kind_of(mode: str | None, backend: str | None) -> str:
    """Return what a session or workload is, as far as it is known, such as "batch on ibm_fez"."""
    return " on ".join(text for text in (mode, backend) if text)


def whole_seconds(value: object, name: str) -> int:
    """Return a duration in seconds.

    Args:
        value: Whole seconds, a `timedelta` or text such as "600" or "2h 30m 40s".
        name: What the message calls it.

    Raises:
        InvalidArgument: It is none of these, or not from 1 to 2,147,483,647 seconds.
    """
    seconds = _in_seconds(value, name)
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise InvalidArgument(
            f"{name} must be whole seconds, a timedelta of such or {DURATION_TEXT}, not {value!r}."
        )
    if not 1 <= seconds <= MAX_SECONDS:
        raise InvalidArgument(
            f"{name} must be from 1 to {MAX_SECONDS} seconds, not {_shown(value)}."
        )
    return seconds


def deadline_seconds(value: float | timedelta | str | None, name: str) -> float | None:
    """Return how long to wait at most, in seconds, or None for no limit.

    Args:
        value: Seconds, a `timedelta`, text such as "0.5" or "5m", or None.
        name: What the message calls it.

    Raises:
        InvalidArgument: It is none of these, or not above 0.
    """
    if value is None:
        return None
    seconds = _in_seconds(value, name)
    # The upper bound keeps an int of any size within what a timer can hold.
    if not is_number(seconds) or not 0 < seconds <= MAX_SECONDS:
        raise InvalidArgument(
            f"{name} must be seconds above 0 and up to {MAX_SECONDS}, or None, not {_shown(value)}."
        )
    return float(seconds)


def _in_seconds(value: object, name: str) -> object:
    """Return a `timedelta` or text in seconds, as an int if whole, and other values unchanged."""
    if isinstance(value, timedelta):
        whole, rest = divmod(value, timedelta(seconds=1))
        return value.total_seconds() if rest else whole
    if not isinstance(value, str):
        return value
    if _NUMBER.fullmatch(value):
        return int(value) if value.strip().isdigit() else float(value)
    parts = re.findall(r"([0-9]+)\s*([dhms])", value, re.ASCII)
    units = {unit for _, unit in parts}
    if not _DURATION.fullmatch(value) or len(units) < len(parts):
        raise InvalidArgument(f"{name} must be seconds or {DURATION_TEXT}, not {value!r}.")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def _shown(value: object) -> str:
    # An int of thousands of digits can't even be turned into text.
    return "a far larger number" if isinstance(value, int) and abs(value) > 10**30 else repr(value)


# One converter for each field, since attrs (and the type checkers) want a named function that knows
# which field it is for.
def _interactive_ttl(value: Duration | None) -> int | None:
    return None if value is None else whole_seconds(value, "interactive_ttl")


def _active_ttl(value: Duration | None) -> int | None:
    return None if value is None else whole_seconds(value, "active_ttl")


def _max_ttl(value: Duration | None) -> int | None:
    return None if value is None else whole_seconds(value, "max_ttl")


def _new_fields(value: Mapping[str, object] | None) -> Mapping[str, object]:
    """Return fields to send besides those that are known, which nothing changes any more."""
    if value is None:
        return {}
    # An untyped caller may pass anything.
    given: object = value
    if not isinstance(given, Mapping) or not all(map(_is_name, given)):
        raise InvalidArgument("extra must be a mapping of names to values as JSON has them.")
    if owned := sorted(_OWNED & value.keys()):
        raise InvalidArgument(
            f"extra can't hold {', '.join(owned)}, which qsessions sets itself.",
            solution="Use the argument or option of that name.",
        )
    try:
        return json_copy(value)
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"extra can't be written as JSON: {error}."
    raise InvalidArgument(problem)


def _known_mode(value: Mode | ModeName) -> Mode:
    check_choice("mode", value, _MODES)
    return Mode(value)


def _is_name(value: object) -> bool:
    # Quotation marks come from `docker --env-file`, which keeps them.
    return isinstance(value, str) and value.isprintable() and value == value.strip("\"' ") != ""


@frozen(eq=False, repr=False)
class CreateSession(Model):
    """What to ask for when creating a session.

    Args:
        mode: "dedicated" or "batch".
        backend: The backend's name.
        max_ttl: How long after its first job's start the session closes at the latest; the
            service's default is 8 hours. It bounds what the session costs when the host vanishes,
            so set it. One that no job ever reached costs nothing, and the service closes it after
            30 minutes.
        interactive_ttl: How long it may sit without a job before it turns inactive. Only channel
            partners may set it.
        active_ttl: How long it may be active in all. Only channel partners may set it.
        extra: Fields that the service has learnt and this version of qsessions doesn't know, as
            JSON has them. Not part of the hash.

    Durations are whole seconds, a `timedelta` or text such as "600" or "1d 2h 30m"; they are kept
    as seconds.

    Raises:
        InvalidArgument: Something can't be right; the message says what. The service wants
            interactive_ttl <= active_ttl <= max_ttl.
    """

    _is_strict = True

    mode: Mode = field(converter=_known_mode)
    backend: str | None = field(default=None, kw_only=True)
    max_ttl: int | None = field(default=None, kw_only=True, converter=_max_ttl)
    interactive_ttl: int | None = field(default=None, kw_only=True, converter=_interactive_ttl)
    active_ttl: int | None = field(default=None, kw_only=True, converter=_active_ttl)
    extra: Mapping[str, object] = field(
        default=None, kw_only=True, converter=_new_fields, hash=False
    )

    def __attrs_post_init__(self) -> None:
        if self.backend is not None and not _is_name(self.backend):
            raise InvalidArgument(f"backend must be a backend's name, not {self.backend!r}.")
        if self.interactive_ttl is None and self.active_ttl is None:
            return
        ttls = {
            name: seconds
            for name in ("interactive_ttl", "active_ttl", "max_ttl")
            if (seconds := getattr(self, name)) is not None
        }
        for (shorter, low), (longer, high) in pairwise(ttls.items()):
            if low > high:
                raise InvalidArgument(
                    f"{shorter} ({low} s) must not be longer than {longer} ({high} s)."
                )


def creation(
    request: object,
    mode: Mode | ModeName | None,
    *,
    backend: str | None,
    max_ttl: Duration | None,
    interactive_ttl: Duration | None,
    active_ttl: Duration | None,
    extra: Mapping[str, object] | None,
) -> CreateSession:
    """Return what to create, from a whole request or from its fields.

    Raises:
        InvalidArgument: Both or neither were passed, or a field can't be right.
    """
    fields: dict[str, Any] = {
        "backend": backend,
        "max_ttl": max_ttl,
        "interactive_ttl": interactive_ttl,
        "active_ttl": active_ttl,
        "extra": extra,
    }
    if request is None and mode is not None:
        return CreateSession(mode, **fields)
    if isinstance(request, CreateSession) and all(
        value is None for value in (mode, *fields.values())
    ):
        return request
    raise InvalidArgument(
        'create takes mode="dedicated" or mode="batch" with other fields, or one CreateSession.'
    )


@frozen(eq=False, repr=False)
class UpdateSession(Model):
    """What to change of a session.

    Args:
        accepting_jobs: False: queued and running jobs finish, new ones are refused, then the
            session closes. True: take jobs again, while it isn't closed.
        extra: As of `CreateSession`.

    Raises:
        InvalidArgument: One of them can't be right.
    """

    _is_strict = True

    accepting_jobs: bool = field(
        validator=lambda _, attribute, value: check_bool(attribute.name, value)
    )
    extra: Mapping[str, object] = field(
        default=None, kw_only=True, converter=_new_fields, hash=False
    )
