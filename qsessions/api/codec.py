"""Between JSON and models: the only place that knows the field names of the service's answers.

Those of its errors are in error_body.py, of jobs and usage in usage.py, of the cloud's directory in
directory.py. IAM's grant of a token is here too.

Reading is tolerant: unknown fields are kept, null and "" mean absent, unknown states live as
themselves. Writing leaves out what is None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import attrs
from attrs import field, frozen

from qsessions.api.messages import header_problem
from qsessions.api.structure import SCALARS, loads, structure
from qsessions.errors import ProtocolError
from qsessions.models import ApiVersion, CreateSession, Session, UpdateSession, Workload
from qsessions.values import Value

T = TypeVar("T")

_SECONDS = re.compile(r"\s*[0-9]{1,18}(\.[0-9]{1,18})?\s*")


class WorkloadPage(NamedTuple):
    """One page of workloads.

    Attributes:
        workloads: The workloads.
        next_href: The link to the next page, or None.
        served_at: The service's time in seconds since 1970, or None.
    """

    workloads: tuple[Workload, ...]
    next_href: str | None = None
    served_at: float | None = None


@frozen(eq=False, repr=False)
class _Versions:
    versions: tuple[ApiVersion, ...]


@frozen(eq=False, repr=False)
class _Link:
    href: str | None = None


@frozen(eq=False, repr=False)
class _Page:
    workloads: tuple[Workload, ...]
    next: _Link | None = None


@frozen(eq=False, repr=False)
class _Jobs:
    jobs: tuple[Any, ...]


@frozen(eq=False, repr=False)
class Grant(Value):
    """An access token as IAM grants it, and how many seconds it lives."""

    access_token: str = field(repr=False)
    expires_in: float


def decode_session(body: bytes) -> Session:
    """Read a session.

    Raises:
        ProtocolError: It can't be read; the message names the field by its path.
    """
    return decode(body, Session)


def decode_session_id(body: bytes) -> str | None:
    """Read only the id out of a body that `decode_session` refuses, or return None."""
    session_id = (decode_object(body) or {}).get("id")
    return session_id if isinstance(session_id, str) and session_id else None


def decode_object(body: bytes) -> Mapping[str, Any] | None:
    """Read a JSON object, or return None where a body isn't one."""
    try:
        value = loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def decode_versions(body: bytes) -> list[ApiVersion]:
    """Read the list of API versions, oldest first.

    Raises:
        ProtocolError: It can't be read; the message names the field by its path.
    """
    return sorted(decode(body, _Versions).versions, key=lambda version: version.version)


def decode_workloads(body: bytes) -> WorkloadPage:
    """Read one page of workloads.

    Raises:
        ProtocolError: It can't be read; the message names the field by its path.
    """
    page = decode(body, _Page)
    return WorkloadPage(
        workloads=tuple(map(_with_usage, page.workloads)),
        next_href=page.next.href if page.next else None,
    )


def decode_has_jobs(body: bytes) -> bool:
    """Read whether a list of jobs holds any.

    Raises:
        ProtocolError: It is not a list of jobs.
    """
    return bool(decode(body, _Jobs).jobs)


def decode_grant(body: bytes) -> Grant | None:
    """Read IAM's answer, or return None where it has no token with a lifetime.

    It never raises, since its frames hold the token.
    """
    value = decode_object(body) or {}
    token, expires_in = value.get("access_token"), value.get("expires_in")
    if not isinstance(token, str) or header_problem("Authorization", token) is not None:
        return None
    # Some gateways give it as text.
    if isinstance(expires_in, str) and _SECONDS.fullmatch(expires_in):
        expires_in = float(expires_in)
    seconds = number_or_none(expires_in)
    return None if seconds is None else Grant(token, seconds)


def encode(request: CreateSession | UpdateSession) -> bytes:
    """Write a request's body; what is None is left out."""
    fields = {name: value for name, value in request.to_dict().items() if value is not None}
    return json.dumps(fields | fields.pop("extra"), separators=(",", ":")).encode()


def decode(body: bytes, kind: type[T]) -> T:
    """Read a JSON object as an attrs class.

    Raises:
        ProtocolError: It can't be read; the message names the field by its path.
    """
    try:
        return structure(loads(body), kind)
    except ValueError as error:
        problem = str(error)
    raise ProtocolError(f"The answer can't be read: {problem}.")


def _with_usage(workload: Workload) -> Workload:
    """Return a workload with `usage_seconds`, which the service is replacing by `usage`."""
    if workload.usage_seconds is not None:
        return workload
    seconds = charged_seconds(workload.extra)
    return workload if seconds is None else attrs.evolve(workload, usage_seconds=seconds)


def charged_seconds(extra: Mapping[str, Any]) -> float | None:
    """Return the usage that `extra` of a workload or job has, in seconds, or None."""
    usage = extra.get("usage")
    return number_or_none(usage.get("qpu_charge_time_seconds")) if isinstance(usage, dict) else None


def number_or_none(value: Any) -> float | None:
    """Return a number that JSON has, or None for another value."""
    try:
        number: float = SCALARS[float](value)
    except TypeError:
        return None
    return number
