"""Errors that calls may meet."""

from __future__ import annotations

from qsessions import ServerError

OUTAGE = ServerError("the service is down", status=503, retryable=True)


class Uncopyable(Exception):
    """A foreign error that can't be copied: its arguments aren't those of its constructor."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)
