"""Reading what a client sent, as strictly as the contract words it. The readers here raise Refusal (400)."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NoReturn, cast

import attrs

from qsessions.emulator.service.errors import SESSION_NOT_ON_PLAN, Refusal, invalid, invalid_body
from qsessions.emulator.service.values import JobDetails, Mode, Ttls

Plan = Literal["paid", "open"]

# The longest max_ttl, which is the default too, and the idle limit of a session that sets none, in seconds.
_MAX_TTL: Mapping[Plan, int] = MappingProxyType({"paid": 28800, "open": 900})
_INTERACTIVE_TTL: Mapping[Plan, int] = MappingProxyType({"paid": 60, "open": 2})
_LARGEST_INT32 = 2147483647

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


@attrs.frozen
class Terms:
    """What the instance's owner has: the plan, whether they are a channel partner, and the idle limit.

    `interactive_ttl`, in seconds, applies to every session of an owner who is no partner; None is what the plan has. It
    gives way to a shorter `max_ttl`. Raises ValueError for terms that make no sense.
    """

    plan: Plan = "paid"
    partner: bool = False
    interactive_ttl: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.plan not in {"paid", "open"}:
            raise ValueError("plan must be 'paid' or 'open'")
        if self.interactive_ttl is not None and self.interactive_ttl < 1:
            raise ValueError("interactive_ttl must be at least one second")


@attrs.frozen
class SessionRequest:
    """A checked body of POST /v1/sessions."""

    mode: Mode
    backend: str | None
    ttls: Ttls


@attrs.frozen
class JobRequest:
    """A checked body of POST /v1/jobs; `seconds` is how long the job will run."""

    program_id: str
    backend: str
    session_id: str | None
    seconds: float
    details: JobDetails


def check_version(headers: Mapping[str, str]) -> None:
    """A dated API version must be a published one; without the header the service takes its default."""
    if headers.get("IBM-API-Version", "2025-01-01") not in _KNOWN_VERSIONS:
        raise invalid("IBM-API-Version is not a version of this API.")


def read_session_request(body: bytes, terms: Terms) -> SessionRequest:
    """What to create.

    The contract marks the body as optional and `mode` as required in it. A request without a body is refused:
    nothing that may cost money is created by guess.
    """
    fields = _json_object(body)
    mode = _text(fields, "mode")
    if mode not in {"dedicated", "batch"}:
        raise invalid_body("mode must be 'dedicated' or 'batch'.")
    if mode == "dedicated" and terms.plan == "open":
        message = "You are not authorized to run a session when using the open plan."
        solution = "Create an instance of a different plan or use a different execution mode."
        raise Refusal(400, SESSION_NOT_ON_PLAN, message, solution)
    _text(fields, "instance")
    backend, older = _text(fields, "backend"), _text(fields, "backend_name")
    if backend and older and backend != older:
        raise invalid_body("backend and backend_name differ.")
    return SessionRequest(cast("Mode", mode), backend or older or None, _read_ttls(fields, terms))


def read_accepting_jobs(body: bytes) -> bool:
    """What PATCH /v1/sessions/{id} asks for."""
    accepting = _json_object(body).get("accepting_jobs")
    if not isinstance(accepting, bool):
        raise invalid_body("accepting_jobs must be true or false.")
    return accepting


def read_job_request(body: bytes) -> JobRequest:
    """What to run. The emulator runs no program: `params.seconds` says how long it takes, 1 by default."""
    fields = _json_object(body)
    program_id, backend = _text(fields, "program_id"), _text(fields, "backend")
    if not program_id or not backend:
        raise invalid_body("program_id and backend are required.")
    details = _job_details(fields)
    seconds = details.params.get("seconds", 1.0)
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not is_duration(seconds)
    ):
        raise invalid_body("params.seconds must be a finite number of seconds, 0 or more.")
    return JobRequest(program_id, backend, _text(fields, "session_id"), float(seconds), details)


def is_duration(seconds: float) -> bool:
    """Whether a number can be a time span: finite, not negative, and below some 30,000 years."""
    return 0 <= seconds <= 1e12


def _job_details(fields: Mapping[str, object]) -> JobDetails:
    params, tags, private = (
        fields.get("params", {}),
        fields.get("tags", []),
        fields.get("private", False),
    )
    if not isinstance(params, dict):
        raise invalid_body("params must be an object.")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise invalid_body("tags must be a list of strings.")
    if not isinstance(private, bool):
        raise invalid_body("private must be true or false.")
    return JobDetails(params, tuple(tags), private)


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


def _json_object(body: bytes) -> dict[str, object]:
    try:
        value: object = json.loads(body, parse_constant=_no_json_number)
    except (ValueError, RecursionError):
        raise invalid_body("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise invalid_body("The body must be a JSON object.")
    return cast("dict[str, object]", value)


def _no_json_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name, None)
    if name in fields and not isinstance(value, str):
        raise invalid_body(f"{name} must be a string.")
    return cast("str | None", value)


def _seconds(fields: Mapping[str, object], name: str) -> int | None:
    if name not in fields:
        return None
    value = fields[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # to JSON, 600.0 is an integer
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_INT32:
        raise invalid_body(f"{name} must be a whole number of seconds from 1 to {_LARGEST_INT32}.")
    return value
