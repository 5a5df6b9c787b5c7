"""Checks of arguments that more than one part of the package makes."""

import math
from typing import Any

import pytest

from qsessions import ConfigurationError, InvalidArgument
from qsessions.arguments import check_positive, read_labels, texts
from tests.support.tables import table


@table("value", [0, -1, True, "1", None, math.nan, math.inf, 100.5])
def test_a_bounded_number(value: Any) -> None:
    """A number with a bound is above 0 and up to it, and the message names both."""
    check_positive("rate", 100.0, most=100)
    with pytest.raises(
        InvalidArgument, match=r"^rate must be a number above 0 and up to 100, not "
    ):
        check_positive("rate", value, most=100)


def test_the_class_of_the_error() -> None:
    """A check raises the class that it is given."""
    with pytest.raises(ConfigurationError, match=r"^x must be a finite number above 0, not 0.$"):
        check_positive("x", 0, ConfigurationError)


@table(("value", "read"), [("a", ("a",)), (["b", "a", "b"], ("b", "a")), (iter("ab"), ("a", "b"))])
def test_texts(value: Any, read: tuple[str, ...]) -> None:
    """One text or several are read in order, each once."""
    assert texts("tags", value) == read


@table("value", [5, None, [1], ["a", b"b"]])
def test_texts_refused(value: Any) -> None:
    """What is neither text nor several texts is refused."""
    with pytest.raises(InvalidArgument, match=r"^tags must be text or several texts, not "):
        texts("tags", value)


def test_labels_as_text() -> None:
    """Labels are read as name=value, the value as it is, and a name is given once."""
    assert read_labels(["run=42", "query=a=b"]) == {"run": "42", "query": "a=b"}
    for wrong in ("run", "=42", "run="):
        with pytest.raises(InvalidArgument, match=f"such as run=42, not '{wrong}'"):
            read_labels([wrong])
    with pytest.raises(InvalidArgument, match="--label gives 'run' twice"):
        read_labels(["run=1", "run=2"])
