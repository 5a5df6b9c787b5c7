"""JSON to attrs classes with cattrs, which says of each problem where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, get_args

import attrs
from cattrs import Converter, IterableValidationError, IterableValidationNote, transform_error
from cattrs.gen import make_dict_structure_fn, override

from qsessions.api.structure import SCALARS, Reader, fields_of, is_array, unexpected

T = TypeVar("T")

_Hook: TypeAlias = Callable[[Any, Any], Any]

# How many problems are reported. An array isn't read further, since each costs as much as a
# thousand items.
_MOST_PROBLEMS = 3


def structure_in_detail(value: object, kind: type[T]) -> T:
    """Read parsed JSON that `structure` can't read.

    Raises:
        ValueError: Nor can cattrs; the text has a few reasons with their paths.
    """
    try:
        return _detailed.structure(value, kind)
    except Exception as error:  # noqa: BLE001 - cattrs raises groups of what its hooks raise
        problems = sorted(transform_error(error, format_exception=_reason))
    raise ValueError("; ".join(problems[:_MOST_PROBLEMS]))


def _reason(error: BaseException, _: type | None) -> str:
    return f"required field {error} is missing" if isinstance(error, KeyError) else str(error)


def _array_hook(kind: Any) -> _Hook:
    """Make what reads an array; cattrs' own takes any iterable for one, text included."""
    item_kind = get_args(kind)[0]

    def read(value: Any, _: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise unexpected(value, "an array")
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
    readers, keeps_extra = fields_of(model)
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
            raise unexpected(value, "an object")
        present = {
            name: item
            for name, item in value.items()
            if name in readers and item is not None and item != ""
        }
        return structure_fields(present, kind)

    return read


def _hook(read: Reader) -> _Hook:
    return lambda value, _: read(value)


_SCALAR_HOOKS = {read: _hook(read) for read in SCALARS.values()}

_detailed = Converter(detailed_validation=True)
for _kind, _read in SCALARS.items():
    _detailed.register_structure_hook(_kind, _SCALAR_HOOKS[_read])
_detailed.register_structure_hook_factory(is_array, _array_hook)
_detailed.register_structure_hook_factory(attrs.has, _model_hook)
