"""What becomes of an object that leaves Python: `to_dict` and `to_json`."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from typing import Any


class Jsonable:
    """The base of what has a form in JSON."""

    __slots__ = ()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return it as the command line prints it with `--json`: values that JSON has, by name.

        A time is text in ISO 8601, in UTC. What isn't known is None.
        """
        ...

    def to_json(self) -> str:
        """Return `to_dict` as JSON, on one line."""
        return json.dumps(self.to_dict())


def jsonable(value: Any) -> Any:
    """Return a value as JSON has it. What the service added is decoded JSON, and stays as it is."""
    if isinstance(value, Jsonable):
        return value.to_dict()
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    return value.value if isinstance(value, Enum) else value


def json_copy(value: Mapping[str, object]) -> dict[str, object]:
    """Return what a reader of a mapping's JSON gets.

    Raises:
        TypeError, ValueError, RecursionError: JSON has no form for something in it.
    """
    copied: dict[str, object] = json.loads(json.dumps(dict(value), allow_nan=False))
    return copied


def time_text(value: datetime) -> str:
    """Return a time in ISO 8601, in UTC."""
    # In UTC it may be before the year 1 or after 9999.
    with suppress(OverflowError):
        value = value.astimezone(UTC)
    return value.isoformat().replace("+00:00", "Z")
