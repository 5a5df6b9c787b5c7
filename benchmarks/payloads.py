"""What the stub server answers, what the clients send, and what a user models by hand."""

from __future__ import annotations

import base64
import json
import time
from datetime import datetime
from typing import Any

import cattrs
from attrs import define, field

CRN = (
    "crn:v1:bluemix:public:quantum-computing:us-east:a/0123456789abcdef:"
    "11111111-2222-4333-8444-555555555555::"
)
API_KEY = "an-api-key"
API_VERSION = "2025-01-01"
SESSION_ID = "5f9c1c2e-0001-4b7a-8a55-7d1f6a3c0003"
SESSION_PATH = f"/v1/sessions/{SESSION_ID}"
CREATE = {"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 600}
SESSION = {
    "id": SESSION_ID,
    "backend_name": "ibm_fez",
    "mode": "dedicated",
    "state": "active",
    "accepting_jobs": True,
    "started_at": "2026-05-04T08:00:10.25Z",
    "activated_at": "2026-05-04T08:00:10.25Z",
    "last_job_started": "2026-05-04T08:00:10.25Z",
    "interactive_ttl": 60,
    "max_ttl": 600,
    "active_ttl": 588,
    "timestamps": [
        {"status": "open", "timestamp": "2026-05-04T08:00:00Z"},
        {"status": "active", "timestamp": "2026-05-04T08:00:10.25Z"},
    ],
    "user_id": "IBMid-270003AAAA",
    "elapsed_time": 11.75,
}
PAGE_SIZE = 50
WORKLOADS: dict[str, Any] = {
    "total_count": PAGE_SIZE,
    "limit": PAGE_SIZE,
    "workloads": [
        {
            "id": f"5f9c1c2e-0001-4b7a-8a55-7d1f6a3c{number:04x}",
            "created": "2026-05-04T08:00:00Z",
            "ended": "2026-05-04T08:10:00.5Z" if number % 2 else None,
            "backend": "ibm_fez",
            "instance": CRN,
            "user_id": "IBMid-270003AAAA",
            "accepting_jobs": not number % 2,
            "mode": "session",
            "status": "completed" if number % 2 else "in_progress",
            "status_reason": None,
            "tags": ["paper", "run 7"],
            "usage_seconds": 11.75,
        }
        for number in range(PAGE_SIZE)
    ],
}


# Models that can read whatever the service's description allows, and nothing more.
@define
class PlainChange:
    """What a user models of an entry of a session's history."""

    status: str
    timestamp: datetime


@define
class PlainSession:
    """What a user models of a session."""

    id: str
    mode: str
    backend_name: str | None
    state: str | None = None
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
    timestamps: list[PlainChange] = field(factory=list)
    user_id: str | None = None
    elapsed_time: float | None = None


@define
class PlainWorkload:
    """What a user models of a workload."""

    id: str
    created: datetime
    backend: str | None
    instance: str
    user_id: str
    mode: str
    status: str
    ended: datetime | None = None
    accepting_jobs: bool | None = None
    status_reason: str | None = None
    tags: list[str] = field(factory=list)
    usage_seconds: float | None = None


def default_converter() -> cattrs.Converter:
    """Return a cattrs converter with its defaults, which needs to be told only what a time is."""
    converter = cattrs.Converter()
    converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))
    return converter


def headers(token: str) -> dict[str, str]:
    """Return the headers that the service wants of a client written by hand."""
    return {
        "Authorization": f"Bearer {token}",
        "Service-CRN": CRN,
        "IBM-API-Version": API_VERSION,
        "Accept": "application/json",
    }


def json_web_token() -> str:
    """Return an unsigned token that is good for an hour; the official client reads its times."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"iat": now, "exp": now + 3600})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    return b".".join([*encoded, b"bm9uZQ"]).decode()


def grant() -> dict[str, object]:
    """Return IAM's answer to an API key."""
    now = int(time.time())
    return {
        "access_token": json_web_token(),
        "refresh_token": "not_supported",
        "token_type": "Bearer",
        "expires_in": 3600,
        "expiration": now + 3600,
        "scope": "ibm openid",
    }
