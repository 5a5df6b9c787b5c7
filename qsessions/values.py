"""What makes an attrs class a value: it compares, hashes and shows itself by its fields."""

from __future__ import annotations

from typing import Any

import attrs


class Value:
    """The base of attrs classes that are compared, hashed and shown by their fields.

    attrs writes and compiles these methods for each class, in each process: that was a third of
    what importing the client took. With `@frozen(eq=False, repr=False)` it makes none of them.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(
            getattr(self, field.name) == getattr(other, field.name)
            for field in _fields(self)
            if field.eq
        )

    def __hash__(self) -> int:
        fields = (
            field for field in _fields(self) if (field.eq if field.hash is None else field.hash)
        )
        return hash((type(self), *(getattr(self, field.name) for field in fields)))

    def __repr__(self) -> str:
        shown = []
        for field in _fields(self):
            if field.repr:
                show = field.repr if callable(field.repr) else repr
                shown.append(f"{field.name}={show(getattr(self, field.name))}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _fields(value: Value) -> tuple[attrs.Attribute[Any], ...]:
    kind: Any = type(value)
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(kind)
    return fields
