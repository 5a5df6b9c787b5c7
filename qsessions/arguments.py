"""Checks of arguments. Each raises an error that names the argument and shows its value."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any, TypeAlias, TypeGuard, TypeVar

from qsessions.errors import ConfigurationError, InvalidArgument

T = TypeVar("T")
S = TypeVar("S", bound=str)

Refusal: TypeAlias = type[InvalidArgument] | type[ConfigurationError]
"""What a check raises: `InvalidArgument` for calls and models, `ConfigurationError` for clients."""

# The API description's maxLength of a session's id, in characters.
_MAX_ID_LENGTH = 500


def is_number(value: object, kind: type | UnionType = int | float) -> TypeGuard[float]:
    """Return whether a value is a number of a kind. A bool isn't, although it is an int."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_bool(name: str, value: object, refusal: Refusal = InvalidArgument) -> None:
    """Check that a value is True or False, not something that is merely true or false."""
    if not isinstance(value, bool):
        raise refusal(f"{name} must be True or False, not {value!r}.")


def check_count(name: str, value: object) -> None:
    """Check that a value of a client is an int of at least 1."""
    if not is_number(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be an int of at least 1, not {value!r}.")


def check_positive(
    name: str,
    value: object,
    refusal: Refusal = InvalidArgument,
    *,
    most: float = sys.float_info.max,
) -> None:
    """Check that a value is a number above 0 and up to `most`, so neither infinite nor NaN."""
    if not is_number(value) or not 0 < value <= most:
        bound = (
            "finite number above 0"
            if most == sys.float_info.max
            else f"number above 0 and up to {most}"
        )
        raise refusal(f"{name} must be a {bound}, not {value!r}.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that a value is one of several texts."""
    if value not in choices:
        *others, last = choices
        listed = ", ".join(f'"{choice}"' for choice in others)
        raise InvalidArgument(f'{name} must be {listed} or "{last}", not {value!r}.')


def check_text(name: str, value: object) -> None:
    """Check that a value is printable text that isn't empty."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise InvalidArgument(f"{name} must be non-empty, printable text, not {value!r}.")


def texts(name: str, value: S | Iterable[S]) -> tuple[S, ...]:
    """Return one text or several as a tuple without repeats.

    Raises:
        InvalidArgument: It is neither text nor an iterable of texts.
    """
    items: Any = (value,) if isinstance(value, str) else value
    if isinstance(items, Iterable):
        items = tuple(items)
        if all(isinstance(item, str) for item in items):
            return tuple(dict.fromkeys(items))
    raise InvalidArgument(f"{name} must be text or several texts, not {items!r}.")


def read_labels(labels: Sequence[str]) -> dict[str, str]:
    """Read labels that are given as name=value.

    Raises:
        InvalidArgument: One has another form, or a name is given twice.
    """
    read: dict[str, str] = {}
    for label in labels:
        name, _, value = label.partition("=")
        if not name or not value:
            raise InvalidArgument(
                f"--label must be a name and a value such as run=42, not {label!r}."
            )
        if name in read:
            raise InvalidArgument(f"--label gives {name!r} twice.")
        read[name] = value
    return read


def value_or_default(name: str, value: object, kind: type[T]) -> T:
    """Return an argument that is of its class, or a new object of that class for None.

    Raises:
        ConfigurationError: It is of another class.
    """
    if value is None:
        return kind()
    if isinstance(value, kind):
        return value
    raise ConfigurationError(f"{name} must be a {kind.__name__}, not {value!r}.")


def check_session_id(session_id: object) -> None:
    """Check that a value can be a session's id.

    Raises:
        InvalidArgument: It can't.
    """
    if not isinstance(session_id, str):
        raise InvalidArgument(
            f"a session id is text, such as session.id, not {type(session_id).__name__}."
        )
    if not session_id:
        problem = "is empty"
    elif len(session_id) > _MAX_ID_LENGTH:
        problem = f"has {len(session_id)} characters; the service's limit is {_MAX_ID_LENGTH}"
    elif session_id in {".", ".."} or "/" in session_id or "\\" in session_id:
        problem = "is a path of its own, and servers or proxies may resolve it to another endpoint"
    elif not session_id.isprintable():
        problem = "has characters that can't be printed, such as a line end"
    else:
        return
    raise InvalidArgument(f"the session id {session_id[:40]!r} {problem}.")
