"""JSON to attrs classes, with cattrs.

null and "" are absent, unknown fields go to `extra`. Problems are reported as "reason @ path".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import attrs
from cattrs import Converter, IterableValidationError, IterableValidationNote, transform_error
from cattrs.gen import make_dict_structure_fn, override

from qsessions.models import Mode, SessionState

T = TypeVar("T")

_Read: TypeAlias = Callable[[Any], Any]
_Hook: TypeAlias = Callable[[Any, Any], Any]

# How many problems are reported. An array isn't read further, since each costs as much as a
# thousand items.
_MOST_PROBLEMS = 3
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
        # Read again by cattrs, for the paths of all problems.
        pass
    try:
        return _detailed.structure(value, kind)
    except Exception as error:  # noqa: BLE001 - cattrs raises groups of what its hooks raise
        problems = sorted(transform_error(error, format_exception=_reason))
    raise ValueError("; ".join(problems[:_MOST_PROBLEMS]))


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _reason(error: BaseException, _: type | None) -> str:
    return f"required field {error} is missing" if isinstance(error, KeyError) else str(error)


def _unexpected(value: object, expected: str) -> TypeError:
    return TypeError(f"expected {expected}, got {_KINDS.get(type(value), 'a number')}")


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _unexpected(value, "text")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _unexpected(value, "true or false")
    return value


def _integer(value: Any) -> int:
    # 600.0 is how some JSON writers spell 600.
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise _unexpected(value, "a whole number")


def _number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise _unexpected(value, "a number")
    if not -_LARGEST <= value <= _LARGEST:
        raise TypeError("expected a number, got one that is too large")
    return float(value)


# Who polls a session reads the same times again and again.
@lru_cache(4096)
def _time(value: Any) -> datetime:
    if type(value) is not str:
        raise _unexpected(value, "text")
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise TypeError(f"expected an ISO 8601 time, got {value[:40]!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _member(enum: type[SessionState | Mode]) -> _Read:
    """Return what reads a member of an enum, which a value that isn't known yet becomes, too."""
    return lambda value: enum(_text(value))


_SCALARS: dict[Any, _Read] = {
    str: _text,
    bool: _flag,
    int: _integer,
    float: _number,
    datetime: _time,
    SessionState: _member(SessionState),
    Mode: _member(Mode),
}
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
def _reader(kind: Any) -> _Read:
    """Return what reads a kind of value, and raises TypeError or ValueError where it isn't one."""
    if kind is Any:
        return lambda value: value
    if kind in _SCALARS:
        return _SCALARS[kind]
    if attrs.has(kind):
        return _model_reader(kind)
    inner = get_args(kind)[0]
    if not _is_array(kind):
        # A field that may be absent: of `X | None` the X.
        return _reader(inner)
    read = _reader(inner)

    def read_array(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _unexpected(value, "an array")
        return tuple([read(item) for item in value])

    return read_array


def _model_reader(model: type[Any]) -> _Read:
    """Return what reads a model.

    It runs for every answer, so it is one expression that names each field, as attrs and cattrs
    make theirs: it calls nothing where a field is as expected, and looks nothing up.
    """
    readers, keeps_extra = _fields(model)
    names: dict[str, Any] = {"model": model, "unexpected": _unexpected, "absent": _absent}
    fields = []
    for number, (name, reader) in enumerate(readers.items()):
        attribute = attrs.fields_dict(model)[name]
        names |= {f"read{number}": reader, f"default{number}": attribute.default}
        default = "absent()" if attribute.default is attrs.NOTHING else f"default{number}"
        scalar = next((kind for kind, read in _SCALARS.items() if read is reader), None)
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
    read: _Read = names["read"]
    return read


def _absent() -> None:
    raise ValueError


def _fields(model: type[Any]) -> tuple[dict[str, _Read], bool]:
    """Return what reads each field of a model, and whether it keeps unknown ones as `extra`."""
    hints = get_type_hints(model)
    keeps_extra = hints.pop("extra", None) is not None
    return {name: _reader(hint) for name, hint in hints.items()}, keeps_extra


def _is_array(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is tuple


def _array_hook(kind: Any) -> _Hook:
    """Make what reads an array; cattrs' own takes any iterable for one, text included."""
    item_kind = get_args(kind)[0]

    def read(value: Any, _: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _unexpected(value, "an array")
        items, errors = [], []
        for index, item in enumerate(value):
            try:
                items.append(_detailed.structure(item, item_kind))
            except Exception as error:  # noqa: BLE001 - as above
                error.add_note(IterableValidationNote("an array", index, item_kind))
                errors.append(error)
                if len(errors) == _MOST_PROBLEMS:
                    break
        if errors:
            raise IterableValidationError("an array", errors, kind)  # pyright: ignore[reportCallIssue]
        return tuple(items)

    return read


def _model_hook(model: type[Any]) -> _Hook:
    """Make what reads a model in detail: cattrs' generated code, for the fields that are there."""
    readers, keeps_extra = _fields(model)
    # Absent fields never reach the generated code, so it needn't look for None at each one.
    overrides: dict[str, Any] = {
        name: override(struct_hook=_SCALAR_HOOKS[reader])
        for name, reader in readers.items()
        if reader in _SCALAR_HOOKS
    }
    if keeps_extra:
        overrides["extra"] = override(omit=True)
    structure_fields = make_dict_structure_fn(model, _detailed, **overrides)

    def read(value: Any, kind: Any) -> Any:
        if type(value) is not dict:
            raise _unexpected(value, "an object")
        present = {
            name: item
            for name, item in value.items()
            if name in readers and item is not None and item != ""
        }
        return structure_fields(present, kind)

    return read


def _hook(read: _Read) -> _Hook:
    return lambda value, _: read(value)


_SCALAR_HOOKS = {read: _hook(read) for read in _SCALARS.values()}

_json = json.JSONDecoder(parse_constant=_refuse_constant)
_detailed = Converter(detailed_validation=True)
for _kind, _read in _SCALARS.items():
    _detailed.register_structure_hook(_kind, _SCALAR_HOOKS[_read])
_detailed.register_structure_hook_factory(_is_array, _array_hook)
_detailed.register_structure_hook_factory(attrs.has, _model_hook)
