"""JSON to attrs classes, with cattrs.

null and "" are absent, unknown fields go to `extra`. Problems are reported as "reason @ path".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

import attrs
from cattrs import Converter, IterableValidationError, IterableValidationNote, transform_error
from cattrs.gen import make_dict_structure_fn, override

from qsessions.models import Mode, SessionState

T = TypeVar("T")

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
        return _json.decode(body.decode())
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
        return _fast.structure(value, kind)
    except (TypeError, ValueError, KeyError):
        # Read again in detail, for the paths.
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


def _text(value: Any, _: Any) -> str:
    if type(value) is not str:
        raise _unexpected(value, "text")
    return value


def _flag(value: Any, _: Any) -> bool:
    if type(value) is not bool:
        raise _unexpected(value, "true or false")
    return value


def _integer(value: Any, _: Any) -> int:
    # 600.0 is how some JSON writers spell 600.
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise _unexpected(value, "a whole number")


def _number(value: Any, _: Any) -> float:
    if type(value) not in {int, float}:
        raise _unexpected(value, "a number")
    if not -_LARGEST <= value <= _LARGEST:
        raise TypeError("expected a number, got one that is too large")
    return float(value)


def _time(value: Any, kind: Any) -> datetime:
    text = _text(value, kind)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise TypeError(f"expected an ISO 8601 time, got {text[:40]!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


_SCALARS: dict[Any, _Hook] = {
    str: _text,
    bool: _flag,
    int: _integer,
    float: _number,
    datetime: _time,
    SessionState: lambda value, kind: SessionState(_text(value, kind)),
    Mode: lambda value, kind: Mode(_text(value, kind)),
}


def _is_array(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is tuple


def _array_hook(kind: Any, converter: Converter) -> _Hook:
    """Make what reads an array; cattrs' own takes any iterable for one, text included."""
    item_kind = get_args(kind)[0]

    def read(value: Any, _: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _unexpected(value, "an array")
        if not converter.detailed_validation:
            return tuple(converter.structure(item, item_kind) for item in value)
        items, errors = [], []
        for index, item in enumerate(value):
            try:
                items.append(converter.structure(item, item_kind))
            except Exception as error:  # noqa: BLE001 - as above
                error.add_note(IterableValidationNote("an array", index, item_kind))
                errors.append(error)
                if len(errors) == _MOST_PROBLEMS:
                    break
        if errors:
            raise IterableValidationError("an array", errors, kind)  # pyright: ignore[reportCallIssue]
        return tuple(items)

    return read


def _model_hook(model: type[T], converter: Converter) -> _Hook:
    """Make what reads a model: cattrs' generated code, for the fields that are there."""
    hints = get_type_hints(model)
    keeps_extra = hints.pop("extra", None) is not None
    # Absent fields never reach the generated code, so it needn't look for None at each one.
    overrides: dict[str, Any] = {
        name: override(struct_hook=_SCALARS[kind])
        for name, hint in hints.items()
        for kind in get_args(hint)
        if kind in _SCALARS and type(None) in get_args(hint)
    }
    if keeps_extra:
        overrides["extra"] = override(omit=True)
    structure_fields = make_dict_structure_fn(
        model, converter, _cattrs_detailed_validation=converter.detailed_validation, **overrides
    )

    def read(value: Any, kind: Any) -> T:
        if type(value) is not dict:
            raise _unexpected(value, "an object")
        present = {
            name: item
            for name, item in value.items()
            if name in hints and item is not None and item != ""
        }
        result = structure_fields(present, kind)
        if keeps_extra and not hints.keys() >= value.keys():
            extra = {name: item for name, item in value.items() if name not in hints}
            return cast("T", attrs.evolve(cast("Any", result), extra=extra))
        return result

    return read


def _converter(*, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    for kind, hook in _SCALARS.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_factory(_is_array, partial(_array_hook, converter=converter))
    converter.register_structure_hook_factory(attrs.has, partial(_model_hook, converter=converter))
    return converter


_json = json.JSONDecoder(parse_constant=_refuse_constant)
_fast = _converter(detailed=False)
_detailed = _converter(detailed=True)
