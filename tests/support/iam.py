"""Answers of IAM."""

from __future__ import annotations

from tests.support.fault_server import http


def grant(token: str = "t1", expires_in: object = 3600) -> bytes:
    """Return IAM's answer of a success."""
    return http(
        200, {"access_token": token, "refresh_token": "not_supported", "expires_in": expires_in}
    )


def refusal(message: str = "Provided API key could not be found.") -> bytes:
    """Return IAM's answer to a wrong key."""
    return http(
        400,
        {"errorCode": "BXNIM0415E", "errorMessage": message, "context": {"requestId": "trace-9"}},
    )
