"""A credential provider as users write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class CustomProvider:
    """A provider whose headers are what a function returns, and that never has fresh ones."""

    def __init__(self, headers: Callable[[], Any]) -> None:
        self._headers = headers

    async def headers(self, transport: object) -> Any:
        """Return the function's result, or raise its error."""
        return self._headers()

    def invalidate(self, refused: object) -> bool:
        """Return that a fresh try can't do better."""
        return False


def failing(error: Exception) -> CustomProvider:
    """Return a provider that raises an error."""

    def fail() -> None:
        raise error

    return CustomProvider(fail)
