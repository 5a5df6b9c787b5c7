"""What becomes of an object that is compared, shown, copied or pickled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, NoReturn, Self

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
        kind: Any = type(self)
        compared = _getters(kind)[0]
        return bool(compared(self) == compared(other))

    def __hash__(self) -> int:
        kind: Any = type(self)
        return hash((kind, _getters(kind)[1](self)))

    def __repr__(self) -> str:
        shown = []
        # Of one that is just being refused there are only some fields; a traceback that shows
        # locals shows it all the same.
        kind: Any = type(self)
        for field in attrs.fields(kind):
            if field.repr and hasattr(self, field.name):
                show = field.repr if callable(field.repr) else repr
                shown.append(f"{field.name}={show(getattr(self, field.name))}")
        return f"{kind.__name__}({', '.join(shown)})"


@cache
def _getters(kind: Any) -> tuple[Callable[[object], Any], Callable[[object], object]]:
    """Return what gets the fields of a class that are compared, and those that are hashed."""
    fields = attrs.fields(kind)
    compared = [field.name for field in fields if field.eq]
    hashed = [field.name for field in fields if (field.eq if field.hash is None else field.hash)]
    return attrgetter(*compared), attrgetter(*hashed)


class OfItsProcess:
    """The base of what belongs to its process: clients, their handles, and credentials.

    It can't be pickled: connections don't survive that, and the bytes would show a credential. A
    copy is the object itself.
    """

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"cannot pickle {type(self).__name__}, which belongs to its process; "
            "make one in each process"
        )

    def __copy__(self, memo: object = None) -> Self:
        """Return the object itself."""
        return self

    __deepcopy__ = __copy__
