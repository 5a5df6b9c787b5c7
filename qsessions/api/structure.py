"""JSON to attrs classes.

null and "" are absent, unknown fields go to `extra`. What can't be read is read again by cattrs,
which reports problems as "reason @ path".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import attrs

from qsessions.models import Mode, SessionState

T = TypeVar("T")

Reader: TypeAlias = Callable[[Any], Any]

# JSON's grammar has no bound, and 1e999 is read as infinity.
_LARGEST = sys.float_info.max
_KINDS = {dict: "an object", list: "an array", str: "text", bool: "a boolean", type(None): "null"}


def loads(body: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It can't be parsed; the text says why.
    """
    try:
        text = body.decode()
        # White space around it is rare, and to look for it takes as long as to read a short answer.
        if text[:1] == "{":
            value, end = _json.raw_decode(text)
            if end == len(text):
                return value
        return _json.decode(text)
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = str(error)
    raise ValueError(f"it is not valid JSON: {problem}")


def structure(value: object, kind: type[T]) -> T:
    """Read parsed JSON as an attrs class or a scalar.

    Raises:
        ValueError: It isn't one; the text has a few reasons with their paths.
    """
    try:
        model: Any = kind
        result: T = _reader(model)(value)
        return result
    except (TypeError, ValueError):
        # Late: cattrs takes 20 ms to import, and most programs never meet what it is needed for.
        from qsessions.api.problems import structure_in_detail
    return structure_in_detail(value, kind)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def unexpected(value: object, expected: str) -> TypeError:
    """Return the error for a value of another kind than expected."""
    return TypeError(f"expected {expected}, got {_KINDS.get(type(value), 'a number')}")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise unexpected(value, "text")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise unexpected(value, "true or false")
    return value


def _integer(value: Any) -> int:
    # 600.0 is how some JSON writers spell 600.
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise unexpected(value, "a whole number")


def _number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise unexpected(value, "a number")
    if not -_LARGEST <= value <= _LARGEST:
        raise TypeError("expected a number, got one that is too large")
    return float(value)


# As it is now: libraries that freeze a test's time put a class of theirs in its place.
_from_iso = datetime.fromisoformat


# Who polls a session reads the same times again and again.
@lru_cache(4096)
def _time(value: Any) -> datetime:
    if type(value) is not str:
        raise unexpected(value, "text")
    try:
        time = _from_iso(value)
    except ValueError:
        # As with all that isn't as expected, not the text itself: it may repeat a secret.
        raise TypeError("expected an ISO 8601 time, got other text") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _member(enum: type[SessionState | Mode]) -> Reader:
    """Return what reads a member of an enum, which a value that isn't known yet becomes, too."""
    return lambda value: enum(_text(value))


SCALARS: dict[Any, Reader] = {
    str: _text,
    bool: _flag,
    int: _integer,
    float: _number,
    datetime: _time,
    SessionState: _member(SessionState),
    Mode: _member(Mode),
}
# In annotations too they are these, whatever a module's names stand for meanwhile.
_NAMES = {kind.__name__: kind for kind in SCALARS}
# How to tell, of a value called v, that it is taken as it is.
_USUAL = {
    str: ".__class__ is str and v",
    bool: ".__class__ is bool",
    int: ".__class__ is int",
    float: ".__class__ is float and -1e300 < v < 1e300",
}
# A subscript costs a fifth of calling the enum.
_KNOWN = {enum: {str(member): member for member in enum} for enum in (SessionState, Mode)}


@cache
def _reader(kind: Any) -> Reader:
    """Return what reads a kind of value, and raises TypeError or ValueError where it isn't one."""
    if kind is Any:
        return lambda value: value
    if kind in SCALARS:
        return SCALARS[kind]
    if attrs.has(kind):
        return _model_reader(kind)
    inner = get_args(kind)[0]
    if not is_array(kind):
        # A field that may be absent: of `X | None` the X.
        return _reader(inner)
    read = _reader(inner)

    def read_array(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise unexpected(value, "an array")
        return tuple([read(item) for item in value])

    return read_array


def _model_reader(model: type[Any]) -> Reader:
    """Return what reads a model.

    It runs for every answer, so it is one expression that names each field, as attrs and cattrs
    make theirs: it calls nothing where a field is as expected, and looks nothing up.
    """
    readers, keeps_extra = fields_of(model)
    names: dict[str, Any] = {"model": model, "unexpected": unexpected, "absent": _absent}
    fields = []
    for number, (name, reader) in enumerate(readers.items()):
        attribute = attrs.fields_dict(model)[name]
        names |= {f"read{number}": reader, f"default{number}": attribute.default}
        default = "absent()" if attribute.default is attrs.NOTHING else f"default{number}"
        scalar = next((kind for kind, read in SCALARS.items() if read is reader), None)
        got = f"(v := get({name!r}))"
        if scalar in _KNOWN:
            names[f"known{number}"] = _KNOWN[scalar]
            usual = f"known{number}[v] if {got} in known{number} else "
        elif scalar in _USUAL:
            usual = f"v if {got}{_USUAL[scalar]} else "
        else:
            usual = ""
        fields.append(
            f"{name}={usual}{default} if {'v' if usual else got} is None or v == ''"
            f" else read{number}(v)"
        )
    if keeps_extra:
        names["known"] = frozenset(readers)
        fields.append(
            "extra={} if value.keys() <= known"
            " else {name: item for name, item in value.items() if name not in known}"
        )
    source = (
        "def read(value):\n"
        "    if value.__class__ is not dict:\n"
        "        raise unexpected(value, 'an object')\n"
        "    get = value.get\n"
        f"    return model({', '.join(fields)})\n"
    )
    exec(compile(source, f"<reader of {model.__name__}>", "exec"), names)  # noqa: S102 - our names
    read: Reader = names["read"]
    return read


def _absent() -> None:
    raise ValueError


def fields_of(model: type[Any]) -> tuple[dict[str, Reader], bool]:
    """Return what reads each field of a model, and whether it keeps unknown ones as `extra`."""
    hints = get_type_hints(model, localns=_NAMES)
    keeps_extra = hints.pop("extra", None) is not None
    return {name: _reader(hint) for name, hint in hints.items()}, keeps_extra


def is_array(kind: Any) -> bool:
    """Return whether a kind of value is an array, which the models have as tuples."""
    origin: Any = get_origin(kind)
    return origin is tuple


_json = json.JSONDecoder(parse_constant=_refuse_constant)
