"""`Value`: what attrs would make for each class by itself."""

from __future__ import annotations

import pickle

import pytest
from attrs import field, frozen

from qsessions.values import Value
from tests.support.tables import table


@frozen(eq=False, repr=False)
class Point(Value):
    """A value with every kind of field, made by `Value`."""

    x: int
    label: str = field(default="", eq=False)
    extra: dict[str, int] = field(factory=dict, hash=False)
    secret: str = field(default="", repr=False)
    body: bytes = field(default=b"", repr=lambda body: f"<{len(body)} bytes>")


class Further(Point):
    """Another class with the same fields."""


FULL = Point(1, "a", {"b": 2}, "secret", b"123")


@table(
    ("other", "equal"),
    [
        (Point(1, "a", {"b": 2}, "secret", b"123"), True),
        (Point(1, "another label", {"b": 2}, "secret", b"123"), True),
        (Point(2, "a", {"b": 2}, "secret", b"123"), False),
        (Point(1, "a", {"b": 3}, "secret", b"123"), False),
        (Point(1, "a", {"b": 2}, "other", b"123"), False),
        (Further(1, "a", {"b": 2}, "secret", b"123"), False),
        ("no value", False),
    ],
)
def test_equality(other: object, *, equal: bool) -> None:
    """Values are equal if they are of one class and equal in each field that counts."""
    assert (other == FULL) is equal
    assert (other != FULL) is not equal


def test_hash() -> None:
    """Equal values have one hash, which passes over what isn't part of it."""
    same = Point(1, "another label", {"b": 2}, "secret", b"123")
    unlike = Point(1, "a", {"b": 3}, "secret", b"123")
    assert {FULL: "found"}[same] == "found"
    assert hash(unlike) == hash(FULL) != hash(Point(2, "a", {"b": 2}, "secret", b"123"))


def test_repr() -> None:
    """A repr has the class and the fields, each as it is to be shown, or not at all."""
    assert repr(FULL) == "Point(x=1, label='a', extra={'b': 2}, body=<3 bytes>)"
    assert repr(Further(0)) == "Further(x=0, label='', extra={}, body=<0 bytes>)"


def test_it_is_frozen_and_picklable() -> None:
    """A value can't be changed, and survives pickling."""
    with pytest.raises(AttributeError):
        FULL.x = 2  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(FULL)) == FULL  # noqa: S301 - our own
