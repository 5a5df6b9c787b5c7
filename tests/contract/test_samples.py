"""Bodies written by hand from the facts about the service, read by the codec.

Client and emulator could agree on one and the same mistake; these samples come from neither. A
sample that fits the contract is checked against it; one that deviates says why it is here all the
same.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS30Validator, oas30_format_checker

from qsessions import ApiVersion, Mode, ProtocolError, Session, SessionState, StateChange, Workload
from qsessions.api.codec import (
    Grant,
    WorkloadPage,
    decode_grant,
    decode_session,
    decode_session_id,
    decode_versions,
    decode_workloads,
)
from qsessions.api.error_body import ErrorBody, decode_error_body
from qsessions.api.pages import next_cursor
from tests.support.tables import table

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
CONTRACT = yaml.safe_load((HERE / "sessions.openapi.yaml").read_text(encoding="utf-8"))

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/0123:4567::"
OPEN, ACTIVE, INACTIVE, CLOSED = (
    SessionState.OPEN,
    SessionState.ACTIVE,
    SessionState.INACTIVE,
    SessionState.CLOSED,
)


def at(hour: int, minute: int, second: float = 0, *, offset_hours: int = 0) -> datetime:
    """A time on the day of the samples."""
    whole = int(second)
    zone = timezone(timedelta(hours=offset_hours)) if offset_hours else UTC
    return datetime(2026, 5, 4, hour, minute, whole, round((second - whole) * 1e6), zone)


def sample_id(last: str) -> str:
    """The id of a sample, which are numbered at their end."""
    return f"5f9c1c2e-0001-4b7a-8a55-7d1f6a3c000{last}"


# For each sample: how it is read, what must come of it, and why it deviates from the contract, or
# None where it fits.
EXPECTED: dict[str, tuple[Callable[[bytes], object], object, str | None]] = {
    "session_open": (
        decode_session,
        Session(
            id=sample_id("1"),
            backend_name=None,
            mode=Mode.DEDICATED,
            state=OPEN,
            accepting_jobs=True,
            interactive_ttl=60,
            max_ttl=28800,
            active_ttl=28800,
            timestamps=(StateChange(OPEN, at(8, 0)),),
            user_id="IBMid-270003AAAA",
            elapsed_time=None,
        ),
        None,
    ),
    "session_open_empty_backend": (
        decode_session,
        Session(
            id=sample_id("2"),
            backend_name=None,
            mode=Mode.BATCH,
            state=OPEN,
            state_reason=None,
            accepting_jobs=True,
            max_ttl=28800,
        ),
        None,
    ),
    "session_active": (
        decode_session,
        Session(
            id=sample_id("3"),
            backend_name="ibm_fez",
            mode=Mode.DEDICATED,
            state=ACTIVE,
            accepting_jobs=True,
            started_at=at(8, 0, 10.25),
            activated_at=at(8, 0, 10.25),
            last_job_started=at(8, 0, 10.25),
            interactive_ttl=60,
            max_ttl=600,
            active_ttl=588,
            timestamps=(StateChange(OPEN, at(8, 0)), StateChange(ACTIVE, at(8, 0, 10.25))),
            user_id="IBMid-270003AAAA",
            elapsed_time=11.75,
        ),
        None,
    ),
    "session_inactive": (
        decode_session,
        Session(
            id=sample_id("4"),
            backend_name="ibm_torino",
            mode=Mode.BATCH,
            state=INACTIVE,
            state_reason="no job for 60 seconds",
            accepting_jobs=True,
            started_at=at(10, 0, offset_hours=2),
            activated_at=at(10, 0, offset_hours=2),
            closed_at=None,
            last_job_started=at(8, 5),
            last_job_completed=at(8, 6),
            interactive_ttl=60,
            max_ttl=28800,
            active_ttl=0,
            timestamps=(
                StateChange(OPEN, at(7, 59)),
                StateChange(ACTIVE, at(8, 0)),
                StateChange(INACTIVE, at(8, 7)),
            ),
            user_id="IBMid-270003BBBB",
            elapsed_time=420.0,
        ),
        None,
    ),
    "session_closed": (
        decode_session,
        Session(
            id=sample_id("5"),
            backend_name="ibm_fez",
            mode=Mode.DEDICATED,
            state=CLOSED,
            state_reason="max_ttl reached",
            accepting_jobs=False,
            started_at=at(8, 0, 10),
            activated_at=at(8, 9),
            closed_at=at(8, 10, 10),
            last_job_started=at(8, 9),
            last_job_completed=at(8, 10, 12),
            interactive_ttl=60,
            max_ttl=600,
            active_ttl=0,
            timestamps=(
                StateChange(OPEN, at(8, 0)),
                StateChange(ACTIVE, at(8, 0, 10)),
                StateChange(INACTIVE, at(8, 2, 30)),
                StateChange(ACTIVE, at(8, 9)),
                StateChange(CLOSED, at(8, 10, 10)),
            ),
            user_id="IBMid-270003AAAA",
            elapsed_time=212.5,
        ),
        None,
    ),
    "session_required_only": (
        decode_session,
        Session(id=sample_id("6"), backend_name="ibm_fez", mode=Mode.BATCH),
        None,
    ),
    "session_nulls": (
        decode_session,
        Session(id=sample_id("7"), mode=Mode.DEDICATED, state=OPEN),
        None,
    ),
    "session_extra_fields": (
        decode_session,
        Session(
            id=sample_id("8"),
            backend_name="ibm_fez",
            mode=Mode.DEDICATED,
            state=ACTIVE,
            extra={
                "queue_position": 0,
                "cost": {"currency": "USD", "per_second": 1.6},
                "labels": ["a", None],
                "note": None,
            },
        ),
        None,
    ),
    "session_pending_closed": (
        decode_session,
        Session(
            id=sample_id("9"),
            backend_name="ibm_fez",
            mode=Mode.DEDICATED,
            state=SessionState.PENDING_CLOSED,
            accepting_jobs=False,
            timestamps=(
                StateChange(ACTIVE, at(8, 0, 10)),
                StateChange(SessionState.PENDING_CLOSED, at(8, 5)),
            ),
        ),
        "a state that only the official client knows",
    ),
    "session_pending_inactive": (
        decode_session,
        Session(
            id=sample_id("a"),
            backend_name="ibm_fez",
            mode=Mode.DEDICATED,
            state=SessionState.PENDING_INACTIVE,
            accepting_jobs=True,
        ),
        "a state that only the official client knows",
    ),
    "session_something_new": (
        decode_session,
        Session(
            id=sample_id("b"),
            backend_name="ibm_fez",
            mode=Mode("shared"),
            state=SessionState("something_new"),
            accepting_jobs=True,
            timestamps=(StateChange(SessionState("something_older"), at(8, 0)),),
        ),
        "states and a mode that the service may add later",
    ),
    "session_naive_times": (
        decode_session,
        Session(
            id=sample_id("c"),
            backend_name="ibm_fez",
            mode=Mode.BATCH,
            state=ACTIVE,
            started_at=at(8, 0, 10.123456),
            timestamps=(StateChange(OPEN, at(8, 0)),),
        ),
        "times without an offset",
    ),
    "session_only_id": (decode_session, Session(id=sample_id("d")), "required fields are missing"),
    "workloads_first_page": (
        decode_workloads,
        WorkloadPage(
            workloads=(
                Workload(
                    id=sample_id("3"),
                    created=at(8, 0),
                    ended=None,
                    backend="ibm_fez",
                    instance=CRN,
                    user_id="IBMid-270003AAAA",
                    accepting_jobs=True,
                    mode="session",
                    status="in_progress",
                    status_reason=None,
                    tags=("paper", "run 7"),
                    usage_seconds=11.75,
                ),
                Workload(
                    id=sample_id("1"),
                    created=at(7, 59),
                    backend=None,
                    instance=CRN,
                    user_id="IBMid-270003AAAA",
                    mode="batch",
                    status="pending",
                ),
            ),
            next_href="https://quantum.cloud.ibm.com/api/v1/workloads?limit=2&next=eyJpZCI6IDJ9%3D%3D%2B",
        ),
        None,
    ),
    "workloads_last_page": (
        decode_workloads,
        WorkloadPage(
            workloads=(
                Workload(
                    id="d0aaaaaaaaaaaaaaaaa1",
                    created=datetime(2026, 5, 3, 22, tzinfo=UTC),
                    ended=datetime(2026, 5, 3, 22, 1, 30, 500_000, UTC),
                    backend="ibm_torino",
                    instance=CRN,
                    user_id="IBMid-270003AAAA",
                    accepting_jobs=None,
                    mode="job",
                    status="canceled",
                    status_reason="the session was closed",
                    tags=(),
                    usage_seconds=0.0,
                    extra={"program": {"id": "sampler"}},
                ),
            )
        ),
        None,
    ),
    "workloads_null_next": (decode_workloads, WorkloadPage(workloads=()), None),
    "workloads_new_words": (
        decode_workloads,
        WorkloadPage(
            workloads=(
                Workload(id=sample_id("f"), created=at(8, 0), mode="swarm", status="paused"),
            )
        ),
        "required fields are missing, a time has no offset, mode and status are words that the service may add later",
    ),
    "versions": (
        decode_versions,
        [
            ApiVersion(version="2024-01-01", status="deprecated", sunset_date="2027-01-01"),
            ApiVersion(version="2025-01-01", status="deprecated", sunset_date="2027-01-01"),
            ApiVersion(version="2025-05-01", status="deprecated", sunset_date="2027-01-01"),
            ApiVersion(version="2026-02-01", status="deprecated", sunset_date="2027-02-01"),
            ApiVersion(version="2026-02-15", status="deprecated", sunset_date="2027-02-15"),
            ApiVersion(version="2026-03-15", status="live"),
            ApiVersion(version="2026-04-15", status="live", extra={"notes": "newest"}),
        ],
        None,
    ),
    "error_string_code": (
        decode_error_body,
        ErrorBody(
            is_service_error=True,
            message="The credentials are invalid.",
            codes=("1201",),
            solution="Get a new access token. https://quantum.cloud.ibm.com/docs/errors#1201",
            trace_id="0123456789abcdef",
        ),
        None,
    ),
    "error_integer_code": (
        decode_error_body,
        ErrorBody(
            is_service_error=True,
            message="Too many requests.",
            codes=("1202",),
            solution="https://quantum.cloud.ibm.com/docs/errors#1202",
            trace_id="fedcba9876543210",
        ),
        None,
    ),
    "error_many": (
        decode_error_body,
        ErrorBody(
            is_service_error=True,
            message="Backend not found. The session is closed.",
            codes=("1007", "4001"),
        ),
        None,
    ),
    "error_empty": (decode_error_body, ErrorBody(is_service_error=False, trace_id="0000"), None),
    "iam_token": (
        decode_grant,
        Grant("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJub2JvZHkifQ.c2lnbmF0dXJl", 3600.0),
        "IAM is no part of the contract",
    ),
    "iam_wrong_key": (
        decode_error_body,
        ErrorBody(
            is_service_error=False,
            message="Provided API key could not be found.",
            codes=("BXNIM0415E",),
            trace_id="aWFtLXJlcXVlc3Q",
        ),
        "IAM is no part of the contract",
    ),
}

# For each sample that can't be read: the problem that is told, and the id that is found in it all
# the same.
UNREADABLE: dict[str, tuple[str, str | None]] = {
    "session_without_id": ("required field 'id' is missing @ $.id", None),
    "session_bad_fields": (
        "expected a whole number, got text @ $.max_ttl; expected an ISO 8601 time, got other text @ $.timestamps[0].timestamp",
        sample_id("e"),
    ),
}


def schema_of(read: Callable[[bytes], object]) -> dict[str, Any]:
    """The contract's schema of what a reader reads, with the parts that it refers to."""
    answers = {
        decode_versions: ("/v1/versions", "200"),
        decode_workloads: ("/v1/workloads", "200"),
    }
    if read in answers:
        path, status = answers[read]
        schema = CONTRACT["paths"][path]["get"]["responses"][status]["content"]["application/json"][
            "schema"
        ]
    else:
        schema = CONTRACT["components"]["schemas"][
            "Session" if read is decode_session else "ErrorContainer"
        ]
    return {**schema, "components": CONTRACT["components"]}


def fits(name: str, read: Callable[[bytes], object]) -> bool:
    """Whether a sample fits the contract, formats included."""
    validator = OAS30Validator(schema_of(read), format_checker=oas30_format_checker)
    return bool(validator.is_valid(json.loads((SAMPLES / f"{name}.json").read_bytes())))


@pytest.mark.smoke
@table("name", EXPECTED)
def test_reading(name: str) -> None:
    """Each sample is read as exactly the value that is written out here."""
    read, expected, _ = EXPECTED[name]
    assert read((SAMPLES / f"{name}.json").read_bytes()) == expected


@table("name", UNREADABLE)
def test_unreadable(name: str) -> None:
    """A sample that can't be read is refused with the path of each problem, and its id is saved
    where it has one.
    """
    problem, session_id = UNREADABLE[name]
    body = (SAMPLES / f"{name}.json").read_bytes()
    with pytest.raises(ProtocolError) as caught:
        decode_session(body)
    assert caught.value.message == f"The answer can't be read: {problem}."
    assert decode_session_id(body) == session_id


@table("name", [name for name, (_, _, deviation) in EXPECTED.items() if deviation is None])
def test_samples_fit_the_contract(name: str) -> None:
    """A sample that isn't said to deviate is a body that the service may send."""
    assert fits(name, EXPECTED[name][0])


DEVIATING = [
    name
    for name, (_, _, deviation) in EXPECTED.items()
    if deviation is not None and not name.startswith("iam_")
]


@table("name", [*DEVIATING, *UNREADABLE])
def test_deviating_samples_deviate(name: str) -> None:
    """A sample that is said to deviate does, so that what is read beyond the contract is known."""
    assert not fits(name, EXPECTED[name][0] if name in EXPECTED else decode_session)


def test_every_sample_is_used() -> None:
    """No sample lies about unread, and none is missing."""
    assert {path.stem for path in SAMPLES.iterdir()} == {*EXPECTED, *UNREADABLE}


def test_only_the_closed_one_is_final() -> None:
    """Of all the sessions here only the closed one counts as final: in any other state it may cost."""
    sessions = {
        name: value for name, (_, value, _) in EXPECTED.items() if isinstance(value, Session)
    }
    assert [name for name, session in sessions.items() if session.is_final] == ["session_closed"]


def test_offsets_are_kept() -> None:
    """A time keeps the offset that the service gave it, so that it is shown as it was sent."""
    session = decode_session((SAMPLES / "session_inactive.json").read_bytes())
    assert session.started_at is not None
    assert session.started_at.utcoffset() == timedelta(hours=2)


def test_cursor_of_a_page() -> None:
    """The cursor in the link to the next page is read decoded, ready to be sent again."""
    page = decode_workloads((SAMPLES / "workloads_first_page.json").read_bytes())
    assert next_cursor(page) == "eyJpZCI6IDJ9==+"
