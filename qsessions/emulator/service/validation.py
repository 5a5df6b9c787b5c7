"""Reading what a client sent, as strictly as the contract words it.

Every reader raises ServiceError (400) for a request that breaks the contract.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn, TypedDict, cast

from qsessions.emulator.service.errors import (
    SESSION_NOT_ON_PLAN,
    ServiceError,
    invalid,
    invalid_body,
)
from qsessions.emulator.service.values import JobDetails, Mode, Plan, Terms, Ttls

# In seconds: the longest max_ttl, which is the default too, and the idle limit of a session that
# sets none.
_MAX_TTL: Mapping[Plan, int] = MappingProxyType({"paid": 28800, "open": 900})
_INTERACTIVE_TTL: Mapping[Plan, int] = MappingProxyType({"paid": 60, "open": 2})
_LARGEST_INT32 = 2147483647
_LONGEST_JOB = 1e12  # some 30,000 years

VERSIONS: tuple[Mapping[str, str], ...] = (
    {"version": "2024-01-01", "status": "deprecated", "sunset_date": "2027-01-01"},
    {"version": "2025-01-01", "status": "deprecated", "sunset_date": "2027-01-01"},
    {"version": "2025-05-01", "status": "deprecated", "sunset_date": "2027-01-01"},
    {"version": "2026-02-01", "status": "deprecated", "sunset_date": "2027-02-01"},
    {"version": "2026-02-15", "status": "deprecated", "sunset_date": "2027-02-15"},
    {"version": "2026-03-15", "status": "deprecated", "sunset_date": "2027-03-15"},
    {"version": "2026-04-15", "status": "live"},
)
_KNOWN_VERSIONS = frozenset(version["version"] for version in VERSIONS)


class SessionRequest(TypedDict):
    """A checked body of POST /v1/sessions."""

    mode: Mode
    backend: str | None
    ttls: Ttls


class JobRequest(TypedDict):
    """A checked body of POST /v1/jobs; `seconds` is how long the job will run."""

    program_id: str
    backend: str
    session_id: str | None
    seconds: float
    details: JobDetails


def check_version(headers: Mapping[str, str]) -> None:
    """Check the API version: a published one, or no header for the default."""
    if headers.get("IBM-API-Version", "2025-01-01") not in _KNOWN_VERSIONS:
        raise invalid("IBM-API-Version is not a version of this API.")


def read_session_request(body: bytes, terms: Terms) -> SessionRequest:
    """Read the body of POST /v1/sessions.

    The contract marks the body as optional and `mode` as required in it. A request without a body
    is refused: nothing that may cost money is created by guess.
    """
    fields = read_object(body)
    mode = _text(fields, "mode")
    if mode not in {"dedicated", "batch"}:
        raise invalid_body("mode must be 'dedicated' or 'batch'.")
    if mode == "dedicated" and terms.plan == "open":
        message = "You are not authorized to run a session when using the open plan."
        solution = "Create an instance of a different plan or use a different execution mode."
        raise ServiceError(400, SESSION_NOT_ON_PLAN, message, solution)
    _text(fields, "instance")
    backend, older = _text(fields, "backend"), _text(fields, "backend_name")
    if backend and older and backend != older:
        raise invalid_body("backend and backend_name differ.")
    ttls = _read_ttls(fields, terms)
    return SessionRequest(mode=cast("Mode", mode), backend=backend or older or None, ttls=ttls)


def read_accepting_jobs(body: bytes) -> bool:
    """Read the body of PATCH /v1/sessions/{id}."""
    accepting = read_object(body).get("accepting_jobs")
    if not isinstance(accepting, bool):
        raise invalid_body("accepting_jobs must be true or false.")
    return accepting


def read_job_request(body: bytes) -> JobRequest:
    """Read the body of POST /v1/jobs.

    `params.seconds` is the emulator's own: how long the job takes, 2 by default.
    """
    fields = read_object(body)
    program_id, backend = _text(fields, "program_id"), _text(fields, "backend")
    if not program_id or not backend:
        raise invalid_body("program_id and backend are required.")
    params = fields.get("params", {})
    private = fields.get("private", False)
    if not isinstance(params, dict):
        raise invalid_body("params must be an object.")
    if not isinstance(private, bool):
        raise invalid_body("private must be true or false.")
    seconds = params.get("seconds", 2.0)
    if type(seconds) not in {int, float} or not 0 <= seconds <= _LONGEST_JOB:
        raise invalid_body("params.seconds must be a finite number of seconds, 0 or more.")
    return JobRequest(
        program_id=program_id,
        backend=backend,
        session_id=_text(fields, "session_id"),
        seconds=float(seconds),
        details=JobDetails(params, _tags(fields), private),
    )


def read_tags(body: bytes) -> tuple[str, ...]:
    """Read the body of PUT /v1/jobs/{id}/tags."""
    fields = read_object(body)
    if "tags" not in fields:
        raise invalid_body("tags is required.")
    return _tags(fields)


def _read_ttls(fields: Mapping[str, object], terms: Terms) -> Ttls:
    most = _MAX_TTL[terms.plan]
    maximum = _seconds(fields, "max_ttl") or most
    interactive, active = _seconds(fields, "interactive_ttl"), _seconds(fields, "active_ttl")
    if maximum > most:
        raise invalid_body(f"max_ttl may be at most {most} seconds on the {terms.plan} plan.")
    if not terms.partner and (interactive or active):
        raise invalid_body("Only channel partners may set interactive_ttl and active_ttl.")
    if terms.partner and not interactive:
        raise invalid_body("A channel partner must set interactive_ttl.")
    active = active or maximum
    interactive = interactive or min(terms.interactive_ttl or _INTERACTIVE_TTL[terms.plan], maximum)
    if not interactive <= active <= maximum:
        raise invalid_body("TTLs must keep to interactive_ttl <= active_ttl <= max_ttl.")
    return Ttls(maximum, interactive, active)


def read_object(body: bytes) -> dict[str, object]:
    """Read the JSON object that a body is."""
    try:
        value: object = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise invalid_body("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise invalid_body("The body must be a JSON object.")
    return cast("dict[str, object]", value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _tags(fields: Mapping[str, object]) -> tuple[str, ...]:
    tags = fields.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise invalid_body("tags must be a list of strings.")
    return tuple(tags)


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name)
    if name in fields and not isinstance(value, str):
        raise invalid_body(f"{name} must be a string.")
    return cast("str | None", value)


def _seconds(fields: Mapping[str, object], name: str) -> int | None:
    if name not in fields:
        return None
    value = fields[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON, 600.0 is an integer
    if type(value) is not int or not 1 <= value <= _LARGEST_INT32:
        raise invalid_body(f"{name} must be a whole number of seconds from 1 to {_LARGEST_INT32}.")
    return value
