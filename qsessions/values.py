"""What becomes of an object that is compared, shown, copied, pickled or sent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, get_type_hints

import attrs

from qsessions.errors import one_line
from qsessions.jsonable import Jsonable, jsonable

T = TypeVar("T")

# Characters of the service's words in a short repr.
_WORD = 40


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


def summary(value: Any, *words: object, **figures: float | None) -> str:
    """Return a short repr: the class and the id, and what is known of the rest.

    Args:
        value: What has an `id`.
        words: What it is, in a few words each; those that are empty are left out.
        figures: Numbers by name; those that are None are left out.
    """
    known = [
        *(str(word)[:_WORD] for word in words if word),
        *(f"{name}={round(figure, 1)}" for name, figure in figures.items() if figure is not None),
    ]
    rest = f" {', '.join(known)}" if known else ""
    return one_line(f"<{type(value).__name__} {value.id!r}{rest}>")


class Displayed:
    """The base of what a notebook shows as HTML."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        # Late: only notebooks come here.
        from qsessions.display import html

        return html(self)


class Unentered:
    """The base of what must be entered first, which says so where it is taken for a session."""

    def __repr__(self) -> str:
        """Show how to get the session."""
        begin = "async with" if hasattr(type(self), "__aenter__") else "with"
        return f"<{type(self).__name__}: enter it for its session, `{begin} … as live:`>"

    # Type checkers know what it has.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> None:
            raise AttributeError(f"{self!r} has no {name!r}", name=name, obj=self)


class Model(Jsonable, Value):
    """The base of what the service takes and gives: a value with a form in JSON.

    It can be a type in pydantic's models, and so in FastAPI's routes. pydantic, whose schemas are
    dictionaries, isn't imported for it.
    """

    __slots__ = ()

    # Whether fields that the class doesn't have are refused when pydantic reads it.
    _is_strict = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as the command line prints it with `--json`: the service's fields by name.

        A time is text in ISO 8601, in UTC. What the service didn't say is None. `extra` has the
        fields that this version of qsessions doesn't know.
        """
        kind: Any = type(self)
        return {field.name: jsonable(getattr(self, field.name)) for field in attrs.fields(kind)}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """Return the schema by which pydantic reads, writes and describes it."""
        hints = get_type_hints(cls)
        fields: dict[str, Any] = {}
        for field in attrs.fields(cls):  # type: ignore[arg-type]
            convert = getattr(field, "converter", None)
            hint = get_type_hints(convert)["value"] if convert else hints[field.name]
            fields[field.name] = {
                "type": "typed-dict-field",
                "schema": handler.generate_schema(hint),
                "required": field.default is attrs.NOTHING,
            }

        # A request has no fields that nobody named.
        keeps_unknown = "extra" in fields and not cls._is_strict

        def read(value: Any, validate: Callable[[Any], dict[str, Any]]) -> Any:
            if isinstance(value, cls):
                return value
            if isinstance(value, Mapping):
                value = _given(value, fields if keeps_unknown else value)
            return cls(**{name: _aware(item) for name, item in validate(value).items()})

        return {
            "type": "function-wrap",
            "function": {"type": "no-info", "function": read},
            "schema": {
                "type": "typed-dict",
                "fields": fields,
                # Those of the model around it would else hold here too.
                "config": {
                    "title": cls.__name__,
                    "strict": False,
                    "extra_fields_behavior": "forbid" if cls._is_strict else "ignore",
                },
            },
            "serialization": {"type": "function-plain", "function": cls.to_dict},
            "ref": f"{cls.__module__}.{cls.__qualname__}:{id(cls)}",
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Return the JSON schema that pydantic makes, with a description."""
        described: dict[str, Any] = handler(schema)
        summary = (cls.__doc__ or "").partition("\n")[0]
        handler.resolve_ref_schema(described)["description"] = summary
        return described


def _given(value: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return what `to_dict` or the service gave: null and "" are absent, the unknown is `extra`."""
    given = {name: item for name, item in value.items() if item is not None and item != ""}
    unknown = {name: item for name, item in value.items() if name not in known}
    extra = given.get("extra", {})
    if not unknown or not isinstance(extra, Mapping):
        return given
    return {name: given[name] for name in given if name in known} | {"extra": unknown | dict(extra)}


def _aware(value: Any) -> Any:
    """Return a time that has no offset in UTC, and other values unchanged."""
    is_naive = isinstance(value, datetime) and value.tzinfo is None
    return value.replace(tzinfo=UTC) if is_naive else value


def with_changes(value: T, **changes: Any) -> T:
    """Return a copy of an object with other values of some attributes, faster than `copy.copy`."""
    other = object.__new__(type(value))
    vars(other).update(vars(value), **changes)
    return other


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
