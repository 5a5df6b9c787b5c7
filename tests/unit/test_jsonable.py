"""Values and errors as JSON, without pydantic; tests/peers/test_fastapi.py has it with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from qsessions import (
    ApiVersion,
    CreateOutcomeUnknown,
    CreateSession,
    Ending,
    Instance,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    NotFound,
    Owner,
    ReapDecision,
    Reaped,
    RecordState,
    Session,
    SessionLeftOpen,
    SessionState,
    UpdateSession,
    Verdict,
    Workload,
)
from qsessions.api.codec import decode, decode_session
from qsessions.jsonable import Jsonable
from tests.support.shell import validate

SAMPLES = Path(__file__).parents[1] / "contract" / "samples"
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
LISTED = Workload(id="s-1", created=CREATED, mode="session", backend="ibm_fez")
OWNER = Owner(liveness=Liveness.ALIVE, pid=42, host="node-1", since=0.0)
GONE = NotFound("no such session.", operation="close", session_id="s-1", status=404)


@pytest.mark.parametrize("name", [path.name for path in SAMPLES.glob("session_[!bw]*.json")])
def test_a_session_is_what_the_service_said(name: str) -> None:
    """Every field of the service's answer is there by its name, known or not, and says the same."""
    body = (SAMPLES / name).read_bytes()
    session = decode_session(body)
    value = session.to_dict()
    validate(value, "json", "get")
    assert json.loads(session.to_json()) == value
    rebuilt = {name: item for name, item in value.items() if item is not None}
    assert decode(json.dumps(rebuilt | rebuilt.pop("extra")).encode(), Session) == session
    assert {*json.loads(body)} <= {*value, *value["extra"]}


def test_times_are_utc() -> None:
    """A time is text in UTC, as the service writes it, whatever its offset was; one that UTC doesn't
    have keeps its offset.
    """
    given = datetime.fromisoformat("2026-01-01T02:00:00.125+02:00")
    assert Workload(id="w", created=given).to_dict()["created"] == "2026-01-01T00:00:00.125000Z"
    earliest = datetime.fromisoformat("0001-01-01T00:00:00+02:00")
    assert Workload(id="w", created=earliest).to_dict()["created"] == "0001-01-01T00:00:00+02:00"


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (
            ApiVersion(version="2026-04-15", status="live"),
            {"version": "2026-04-15", "status": "live", "sunset_date": None, "extra": {}},
        ),
        (
            Instance(name="i", crn="crn", plan="open", region="us-east", tags=("a",)),
            {"name": "i", "crn": "crn", "plan": "open", "region": "us-east", "tags": ["a"]},
        ),
        (
            CreateSession("batch", max_ttl="10m"),
            {
                "mode": "batch",
                "backend": None,
                "max_ttl": 600,
                "interactive_ttl": None,
                "active_ttl": None,
                "extra": {},
            },
        ),
        (UpdateSession(accepting_jobs=False), {"accepting_jobs": False, "extra": {}}),
    ],
    ids=lambda item: type(item).__name__,
)
def test_models(model: Jsonable, value: dict[str, Any]) -> None:
    """A model is its fields by name, of JSON's own types."""
    assert model.to_dict() == value
    assert json.loads(model.to_json()) == value
    assert {type(item) for item in model.to_dict().values()} <= {
        *(str, int, bool, list, dict),
        type(None),
    }


WRONG = {"id": "s", "extra": 5, "new": 1}


class _Pydantic:
    """Stands for what pydantic passes to the schemas of others' types."""

    @staticmethod
    def generate_schema(hint: object) -> object:
        return hint

    def __call__(self, schema: object) -> dict[str, object]:
        return {"made of": schema}

    @staticmethod
    def resolve_ref_schema(schema: object) -> object:
        return schema


def read_by_pydantic(kind: type[Any], value: object) -> tuple[Any, object]:
    """Return what a model's schema makes of a value, and what pydantic is given to check."""
    schema = kind.__get_pydantic_core_schema__(kind, _Pydantic())
    given: list[Any] = []

    def validate(fields: object) -> object:
        given.append(fields)
        return fields if isinstance(fields, dict) and fields != WRONG else {"id": "checked"}

    return schema["function"]["function"](value, validate), given[0] if given else None


def test_what_pydantic_is_told() -> None:
    """The schema names each field, a request's by what it may be made of; unknown fields of a request
    are refused.
    """
    schema = Session.__get_pydantic_core_schema__(Session, _Pydantic())["schema"]
    assert {*schema["fields"]} == {*Session(id="s").to_dict()}
    assert [name for name, each in schema["fields"].items() if each["required"]] == ["id"]
    assert schema["config"]["extra_fields_behavior"] == "ignore"
    create = CreateSession.__get_pydantic_core_schema__(CreateSession, _Pydantic())["schema"]
    assert create["fields"]["max_ttl"]["schema"] == (int | timedelta | str | None)
    assert create["config"]["extra_fields_behavior"] == "forbid"
    described = Session.__get_pydantic_json_schema__(schema, _Pydantic())
    assert described["description"] == "A session as the service described it at one moment."
    assert SessionState.__get_pydantic_json_schema__(None, None)["type"] == "string"


def test_what_pydantic_reads() -> None:
    """A model stays itself; null and "" are absent, unknown fields become `extra`, a time without an
    offset is UTC, and what isn't right is left for pydantic to refuse.
    """
    session = Session(id="s")
    assert read_by_pydantic(Session, session) == (session, None)
    value = {"id": "s", "backend_name": "", "mode": None, "new": None, "extra": {"a": 1}}
    read, _ = read_by_pydantic(Session, value | {"started_at": CREATED.replace(tzinfo=None)})
    assert read == Session(id="s", started_at=CREATED, extra={"new": None, "a": 1})
    assert read_by_pydantic(Session, [])[1] == []
    assert read_by_pydantic(Session, WRONG)[1] == WRONG
    assert read_by_pydantic(UpdateSession, {"accepting_jobs": True})[0] == UpdateSession(
        accepting_jobs=True
    )


def test_endings() -> None:
    """What `close_all` returns has the form that the command prints, with the error as text."""
    endings = [
        Ending(workload=LISTED, done="close"),
        Ending(workload=LISTED, owner=OWNER),
        Ending(workload=LISTED, error=GONE),
        Ending(workload=LISTED, error=OSError("odd")),
    ]
    value = [ending.to_dict() for ending in endings]
    validate({"sessions": value}, "json", "close-all")
    assert [(row["done"], row["owner_pid"], row["error"]) for row in value] == [
        ("close", None, None),
        (None, 42, None),
        (None, None, "close of session 's-1': no such session (status 404)"),
        (None, None, "OSError: odd"),
    ]


def test_reaped() -> None:
    """What `reap` returns has the form that the command prints, with the error as text."""
    record = LedgerRecord(
        key="k-1",
        state=RecordState.INTENT,
        mode="batch",
        asked_at=0.0,
        changed_at=0.0,
        base_url="http://127.0.0.1",
        instance=None,
    )
    reaped = Reaped(
        entry=LedgerEntry(record=record, owner=OWNER, source=""),
        decision=ReapDecision(Verdict.UNDECIDED, "two match", candidates=(LISTED,)),
        error=GONE,
    )
    validate({"records": [reaped.to_dict()]}, "json", "reap")
    assert json.loads(reaped.to_json()) == {
        "record": "k-1",
        "session_id": None,
        "verdict": "undecided",
        "why": "two match",
        "done": False,
        "error": "close of session 's-1': no such session (status 404)",
        "candidates": ["s-1"],
    }


def test_errors() -> None:
    """An error is its class and its facts by name, those of its own class too, with its notes and
    the error that led to it.
    """
    request = CreateSession("batch")
    unknown = CreateOutcomeUnknown("no answer", request=request, operation="create", attempts=2)
    unknown.set_candidates(CREATED, (LISTED,))
    unknown.add_note("a note")
    left = SessionLeftOpen("it is open", session_id="s-1")
    left.__cause__ = unknown
    value = left.to_dict()
    cause = value.pop("cause")
    assert value == {
        "type": "SessionLeftOpen",
        "message": "it is open",
        **dict.fromkeys(("operation", "method", "path", "status", "code", "trace_id", "argument")),
        "session_id": "s-1",
        "attempts": 0,
        "retryable": False,
        "solution": SessionLeftOpen.hint,
        "notes": [],
    }
    assert (cause["request"], cause["asked_at"]) == (request.to_dict(), "2026-01-01T00:00:00Z")
    assert (cause["candidates"], cause["notes"]) == ([LISTED.to_dict()], ["a note"])
    assert json.loads(GONE.to_json()) == GONE.to_dict() | {"retry_after": None}
    GONE.__cause__ = OSError("not ours")
    assert GONE.to_dict()["cause"] is None
