"""The models: what they hold, what they refuse, and that they survive copies, pickles and values
added later.
"""

import copy
import pickle
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, strategies as st

from qsessions import (
    ApiVersion,
    CreateSession,
    InvalidArgument,
    Mode,
    Session,
    SessionState,
    StateChange,
    UpdateSession,
    Workload,
)
from qsessions.models import (
    MAX_SECONDS,
    Duration,
    ModeName,
    SessionKind,
    StateName,
    WorkloadMode,
    deadline_seconds,
    whole_seconds,
)
from tests.support.tables import table

NOON = datetime(2026, 5, 4, 12, 0, 0, 125_000, tzinfo=UTC)
SESSION = Session(
    id="s-1",
    backend_name="ibm_fez",
    mode=Mode("something_new"),
    state=SessionState("pending_something"),
    state_reason="because",
    accepting_jobs=False,
    started_at=NOON,
    activated_at=NOON,
    closed_at=NOON,
    last_job_started=NOON,
    last_job_completed=NOON,
    interactive_ttl=60,
    max_ttl=28800,
    active_ttl=0,
    timestamps=(StateChange(SessionState.OPEN, NOON), StateChange(SessionState("new"), NOON)),
    user_id="u-1",
    elapsed_time=0.0,
    extra={"colour": ["red", {"deep": None}]},
)
WORKLOAD = Workload(
    id="w-1",
    created=NOON,
    ended=NOON,
    backend="ibm_fez",
    instance="crn:v1:x",
    user_id="u-1",
    accepting_jobs=True,
    mode="batch",
    status="in_progress",
    status_reason="because",
    tags=("a", "b"),
    usage_seconds=1.5,
    extra={"colour": "red"},
)
MODELS: list[Any] = [
    SESSION,
    WORKLOAD,
    StateChange(SessionState.ACTIVE, NOON),
    ApiVersion(
        version="2025-01-01", status="live", sunset_date="2027-01-01", extra={"colour": "red"}
    ),
    CreateSession(
        "batch",
        backend="ibm_fez",
        max_ttl="1h",
        interactive_ttl=60,
        active_ttl=timedelta(minutes=5),
    ),
    UpdateSession(accepting_jobs=False),
    SessionState.CLOSED,
    SessionState("pending_something"),
    Mode.DEDICATED,
    Mode("something_new"),
]
VALUES = [model for model in MODELS if attrs.has(type(model))]


def ids(value: object) -> str:
    """The name of a case."""
    return type(value).__name__


@pytest.mark.smoke
@table("model", MODELS)
@table("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(model: object, protocol: int) -> None:
    """A model that crosses a process border arrives equal, of the same class and with the same
    text.
    """
    arrived = pickle.loads(pickle.dumps(model, protocol))  # noqa: S301 - what is loaded was dumped here
    assert arrived == model
    assert type(arrived) is type(model)
    assert repr(arrived) == repr(model)


@table("model", MODELS)
def test_copies(model: object) -> None:
    """Copies, shallow and deep, are equal to the original."""
    assert copy.deepcopy(model) == model
    assert copy.copy(model) == model


@table("model", MODELS)
def test_hash(model: object) -> None:
    """Models can be put into sets and found there by an equal one, unknown fields or not."""
    assert {model: "found"}[copy.deepcopy(model)] == "found"


@table("model", VALUES)
def test_frozen_and_slotted(model: object) -> None:
    """No field can be changed and none can be added."""
    name = attrs.fields(type(model))[0].name  # type: ignore[arg-type]  # every value here is an attrs class
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(model, name, "other")
    with pytest.raises(AttributeError):
        setattr(model, "no_such_field", 1)  # noqa: B010 - the type checkers rightly refuse the plain form
    assert not hasattr(model, "__dict__")


def test_extra_in_comparisons() -> None:
    """Unknown fields count for equality but not for the hash, since decoded JSON can't be hashed."""
    other = attrs.evolve(SESSION, extra={})
    assert other != SESSION
    assert hash(other) == hash(SESSION)


def test_session_defaults() -> None:
    """A session of which only the id is known claims nothing else, and two of them share no mutable
    part.
    """
    session = Session(id="s-1")
    rest = {field.name: getattr(session, field.name) for field in attrs.fields(Session)[1:]}
    assert rest.pop("timestamps") == ()
    assert rest.pop("extra") == {}
    assert rest == dict.fromkeys(rest)
    assert session.extra is not Session(id="s-2").extra


@table(
    ("state", "accepting_jobs", "drains"),
    [
        ("open", True, False),
        ("open", None, False),
        ("open", False, True),
        ("inactive", False, True),
        (None, False, True),
        ("pending_closed", None, True),
        ("pending_inactive", True, False),
        ("closed", False, False),
        ("closed", None, False),
    ],
)
def test_what_drains(state: Any, accepting_jobs: bool | None, drains: bool) -> None:
    """A session drains while it takes no more jobs and isn't closed."""
    assert Session(id="s-1", state=state, accepting_jobs=accepting_jobs).is_draining is drains


def test_session_has_the_seventeen_fields() -> None:
    """A session has the contract's seventeen fields and `extra`, under the service's names."""
    assert [field.name for field in attrs.fields(Session)] == [
        "id",
        "backend_name",
        "mode",
        "state",
        "state_reason",
        "accepting_jobs",
        "started_at",
        "activated_at",
        "closed_at",
        "last_job_started",
        "last_job_completed",
        "interactive_ttl",
        "max_ttl",
        "active_ttl",
        "timestamps",
        "user_id",
        "elapsed_time",
        "extra",
    ]


@table(
    ("state", "final"),
    [
        (None, False),
        (SessionState.OPEN, False),
        (SessionState.ACTIVE, False),
        (SessionState.INACTIVE, False),
        (SessionState.PENDING_INACTIVE, False),
        (SessionState.PENDING_CLOSED, False),
        (SessionState("closed_for_now"), False),
        (SessionState("CLOSED"), False),
        (SessionState.CLOSED, True),
    ],
)
def test_is_final(state: SessionState | None, final: bool) -> None:
    """Only a closed session is final; one in a state that nobody knows yet is not."""
    assert Session(id="s-1", state=state).is_final is final


@table("kind", [SessionState, Mode])
def test_known_values(kind: type[SessionState | Mode]) -> None:
    """A known value compares and hashes as its text, and looking it up gives the one member."""
    for member in kind:
        assert member.is_known
        assert kind(member.value) is member
        assert member == member.value
        assert {member.value: 1}[member] == 1
        assert str(member) == f"{member}" == member.value


@given(st.text(min_size=1))
def test_unknown_values(text: str) -> None:
    """Any text that isn't a known value lives as itself: equal to its text, and known by no name."""
    for kind in (SessionState, Mode):
        member = kind(text)
        assert type(member) is kind
        assert str(member) == member.value == text
        assert member == text
        assert hash(member) == hash(text)
        assert member.is_known is (text in tuple(kind))
        assert len(kind) == len(set(kind))


@table("text", ["Open", "OPEN", " open", "pending", "DEDICATED"])
def test_near_misses(text: str) -> None:
    """A value that differs from a known one, if only in case, is neither equal to it nor known."""
    for kind in (SessionState, Mode):
        assert not kind(text).is_known
        assert kind(text) not in tuple(kind)


def test_unknown_values_are_not_remembered() -> None:
    """Reading an unknown value leaves the list of known ones as it is."""
    SessionState("brand_new")
    assert [state.value for state in SessionState] == [
        "open",
        "active",
        "inactive",
        "closed",
        "pending_inactive",
        "pending_closed",
    ]
    assert [mode.value for mode in Mode] == ["dedicated", "batch"]


@table("value", ["", None, 3, b"open", ["open"]])
def test_values_that_are_no_text(value: Any) -> None:
    """Empty text and what is no text is no state."""
    with pytest.raises(ValueError, match="is not a valid SessionState"):
        SessionState(value)


@table(
    ("given_value", "seconds"),
    [
        (1, 1),
        (600, 600),
        (MAX_SECONDS, MAX_SECONDS),
        (timedelta(seconds=1), 1),
        (timedelta(days=2, hours=1), 176_400),
        (timedelta(seconds=MAX_SECONDS), MAX_SECONDS),
        ("1s", 1),
        ("1m", 60),
        ("1h", 3600),
        ("2h 30m 40s", 9040),
        ("1d 2h 30m", 95_400),
        ("7d", 604_800),
        ("2h30m40s", 9040),
        ("40s 2h 30m", 9040),
        ("30m2h", 9000),
        ("  2 h   30m\t40 s\n", 9040),
        ("0h 10m", 600),
        ("007m", 420),
        ("90m", 5400),
        (f"{MAX_SECONDS}s", MAX_SECONDS),
        ("1d", 86_400),
        ("1d 2h", 93_600),
        ("600", 600),
        (" 600\n", 600),
        (f"{MAX_SECONDS}", MAX_SECONDS),
    ],
)
def test_durations(given_value: Duration, seconds: int) -> None:
    """Whole seconds, a timedelta and Qiskit's text form all become the same whole seconds."""
    assert whole_seconds(given_value, "max_ttl") == seconds
    assert CreateSession("batch", max_ttl=given_value).max_ttl == seconds


@table(
    "value",
    [
        True,
        False,
        1.0,
        2.5,
        float("nan"),
        float("inf"),
        0,
        -1,
        MAX_SECONDS + 1,
        10**5000,
        -(10**5000),
        timedelta(0),
        timedelta(seconds=-5),
        timedelta(milliseconds=1500),
        timedelta(microseconds=1),
        timedelta.max,
        "",
        " ",
        "0",
        "1.5",
        "600.0",
        "6e2",
        "1_000",
        "\u0663",
        "9" * 5000,
        f"{MAX_SECONDS + 1}",
        "5 5",
        "10min",
        "2 hours",
        "none",
        "s",
        "5 5s",
        "1h 1h",
        "1h 2m 3h",
        "1d 1d",
        "1w 2h",
        "1H",
        "1.5h",
        "-1h",
        "+1h",
        "1h,2m",
        "1h and 2m",
        "1_000s",
        "\u0663s",
        "1h\u00a02m",
        "0s",
        "0h 0m 0s",
        f"{MAX_SECONDS + 1}s",
        "9" * 5000 + "s",
        "1 hour",
        b"1h",
        ["1h"],
        object(),
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
)
def test_durations_refused(value: Any) -> None:
    """Everything else, bool and float included, is refused with one short sentence that names the
    field.
    """
    with pytest.raises(InvalidArgument) as caught:
        CreateSession("batch", max_ttl=value)
    sentence = caught.value.message
    assert sentence.startswith("max_ttl must be ")
    assert sentence.endswith(".")


@table("text", ["10min", "1w", "1H", "1.5h", "soon", "", "1h 1h", "1d, 2h", "-1h", "+600"])
def test_units_are_listed(text: str) -> None:
    """Text that is no duration is refused with the list of units, wherever a duration is taken."""
    for read in (whole_seconds, deadline_seconds):
        with pytest.raises(InvalidArgument) as caught:
            read(text, "max_ttl")
        assert caught.value.message == (
            'max_ttl must be seconds or text such as "1d 2h 30m" (units: d, h, m, s; '
            f"each once at most), not {text!r}."
        )


PARTS = st.dictionaries(st.sampled_from("dhms"), st.integers(0, 10_000), min_size=1)
SPACES = st.sampled_from(["", " ", "  ", "\t"])


@given(st.data(), PARTS)
def test_duration_text(data: st.DataObject, parts: dict[str, int]) -> None:
    """Units in any order, with spaces or without, add up."""
    order = data.draw(st.permutations(sorted(parts)))
    text = data.draw(SPACES) + "".join(
        f"{parts[unit]}{data.draw(SPACES)}{unit}{data.draw(SPACES)}" for unit in order
    )
    seconds = sum(
        number * {"d": 86_400, "h": 3600, "m": 60, "s": 1}[unit] for unit, number in parts.items()
    )
    if seconds:
        assert whole_seconds(text, "max_ttl") == seconds
    else:
        with pytest.raises(InvalidArgument):
            whole_seconds(text, "max_ttl")


@given(st.one_of(st.text(), st.text("0123456789dhms \t.-+e")))
def test_any_duration_text(text: str) -> None:
    """Text gives seconds in range or InvalidArgument, never anything else."""
    try:
        seconds = whole_seconds(text, "max_ttl")
    except InvalidArgument:
        return
    assert 1 <= seconds <= MAX_SECONDS


@table(
    ("value", "seconds"),
    [
        (None, None),
        (1, 1.0),
        (0.25, 0.25),
        (timedelta(milliseconds=1500), 1.5),
        ("2m", 120.0),
        ("60", 60.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e-9", 1e-9),
        ("1d", 86_400.0),
        (MAX_SECONDS, float(MAX_SECONDS)),
    ],
)
def test_deadlines(value: Any, seconds: float | None) -> None:
    """A deadline is seconds, fractions included, in any of the forms, or None for none."""
    assert deadline_seconds(value, "timeout") == seconds


@table(
    "value",
    [
        0,
        0.0,
        -1,
        True,
        False,
        float("nan"),
        float("inf"),
        10**5000,
        MAX_SECONDS + 1,
        timedelta(0),
        timedelta(seconds=-1),
        timedelta.max,
        "0s",
        "0",
        "0.0",
        "1e99",
        "inf",
        "nan",
        "soon",
        b"1s",
        ...,
        [],
    ],
)
def test_deadlines_refused(value: Any) -> None:
    """A deadline of nothing, of no finite length or of another form is refused, and the message
    names the argument.
    """
    with pytest.raises(InvalidArgument, match=r"^timeout must be "):
        deadline_seconds(value, "timeout")


@table(
    ("mode", "expected"),
    [
        ("dedicated", Mode.DEDICATED),
        ("batch", Mode.BATCH),
        (Mode.BATCH, Mode.BATCH),
    ],
)
def test_mode(mode: Mode | ModeName, expected: Mode) -> None:
    """A request's mode may be text or a member, and is kept as the member."""
    assert CreateSession(mode).mode is expected


@table("mode", ["", "Batch", "job", "session", None, 1, ["batch"], Mode("something_new")])
def test_mode_refused(mode: Any) -> None:
    """A mode that the service doesn't know today is refused when it is sent, though it is read."""
    with pytest.raises(InvalidArgument, match=r'^mode must be "dedicated" or "batch", not '):
        CreateSession(mode)


@table("backend", ["", "  ", "'ibm_fez'", 'ibm_fez"', 5, b"ibm_fez", ["ibm_fez"]])
def test_backend_refused(backend: Any) -> None:
    """A backend is a name."""
    with pytest.raises(InvalidArgument, match=r"^backend must be a backend's name, not "):
        CreateSession("batch", backend=backend)


TTLS = ("interactive_ttl", "active_ttl", "max_ttl")


@table("seconds", list(permutations((10, 20, 30))))
def test_ttl_order(seconds: tuple[int, int, int]) -> None:
    """Three TTLs are accepted in the service's order only: interactive, active, maximum."""
    given_ttls: dict[str, Any] = dict(zip(TTLS, seconds, strict=True))
    if list(seconds) == sorted(seconds):
        request = CreateSession("batch", **given_ttls)
        assert (request.interactive_ttl, request.active_ttl, request.max_ttl) == seconds
    else:
        with pytest.raises(InvalidArgument, match="must not be longer than"):
            CreateSession("batch", **given_ttls)


@table(("shorter", "longer"), [(TTLS[0], TTLS[1]), (TTLS[1], TTLS[2]), (TTLS[0], TTLS[2])])
def test_ttl_pairs(shorter: str, longer: str) -> None:
    """Any two TTLs are compared, also when the one between them is missing; equal ones are fine."""
    equal: dict[str, Any] = {shorter: 60, longer: 60}
    assert getattr(CreateSession("batch", **equal), longer) == 60
    wrong: dict[str, Any] = {shorter: 61, longer: 60}
    with pytest.raises(InvalidArgument) as caught:
        CreateSession("batch", **wrong)
    assert caught.value.message == f"{shorter} (61 s) must not be longer than {longer} (60 s)."


@table("name", TTLS)
def test_ttl_alone(name: str) -> None:
    """Each TTL may be given alone, and what is wrong with it is said under its own name."""
    alone: dict[str, Any] = {name: "1m"}
    assert getattr(CreateSession("batch", **alone), name) == 60
    zero: dict[str, Any] = {name: 0}
    with pytest.raises(
        InvalidArgument, match=f"^{name} must be from 1 to 2147483647 seconds, not 0.$"
    ):
        CreateSession("batch", **zero)


@table("value", [0, 1, None, "false", "", [], object()])
def test_update_refused(value: Any) -> None:
    """Opening or shutting a session takes a bool, not something that is merely true or false."""
    with pytest.raises(InvalidArgument, match=r"^accepting_jobs must be True or False, not "):
        UpdateSession(value)


def test_type_checkers_know_the_members_texts() -> None:
    """The texts that type checkers accept are those of the members, and a kind of session is one of
    the kinds of workloads.
    """
    assert get_args(ModeName) == tuple(Mode)
    assert get_args(StateName) == tuple(SessionState)
    assert set(get_args(SessionKind)) < set(get_args(WorkloadMode))
