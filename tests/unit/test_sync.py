"""The synchronous facade has what the asynchronous client has."""

from __future__ import annotations

import inspect
from typing import get_overloads

import pytest

from qsessions import AsyncLiveSession, AsyncSessionClient, LiveSession, SessionClient
from tests.support.tables import table

# What an async form is called in the facade.
NAMES = {
    "aclose": "shutdown",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "AsyncIterator": "Iterator",
    "AsyncLiveSession": "LiveSession",
    "AbstractAsyncContextManager": "AbstractContextManager",
    "Awaitable[T]": "T",
}
ENTRANCES = {"__aenter__", "__aexit__", "__enter__", "__exit__"}
# Over an event loop that the caller owns; the facade's is its own.
EXEMPT = {"http"}
# Plain attributes of the asynchronous one.
ATTRIBUTES = {"snapshot", "ended_by"}
PAIRS = ((AsyncSessionClient, SessionClient), (AsyncLiveSession, LiveSession))


def methods(kind: type) -> dict[str, inspect.Signature]:
    """Return the signature of each public method and property, under its synchronous name."""
    found = {
        name: value.fget if isinstance(value, property) else value
        for name, value in vars(kind).items()
        if not name.startswith("_") or name in ENTRANCES
    }
    return {
        NAMES.get(name, name): inspect.signature(value)
        for name, value in found.items()
        if inspect.isfunction(value) and name not in ATTRIBUTES
    }


def in_sync_words(annotation: object) -> str:
    """Return an annotation as the facade writes it."""
    text = str(annotation)
    for name, ours in NAMES.items():
        text = text.replace(name, ours)
    return text


@pytest.mark.smoke
@table(("asynchronous", "synchronous"), PAIRS)
def test_methods_have_the_same_names_and_signatures(asynchronous: type, synchronous: type) -> None:
    """Each public method and property is there with the same parameters, defaults and result."""
    theirs, ours = methods(asynchronous), methods(synchronous)
    assert ours.keys() == theirs.keys()
    for name, signature in theirs.items():
        parameters = map(in_sync_words, signature.parameters.values())
        assert list(map(str, ours[name].parameters.values())) == list(parameters), name
        assert str(ours[name].return_annotation) == in_sync_words(signature.return_annotation), name


def test_overloads_are_the_same() -> None:
    """What type checkers see of a method with several forms is the same, form by form."""
    forms = 0
    for name in ("create", "open"):
        theirs, ours = (
            [inspect.signature(form).parameters for form in get_overloads(getattr(kind, name))]
            for kind in (AsyncSessionClient, SessionClient)
        )
        assert ours == theirs, name
        forms += len(ours)
    assert forms == 4


def test_clients_take_the_same_arguments() -> None:
    """The constructor differs in `http` alone."""
    theirs = inspect.signature(AsyncSessionClient).parameters
    assert [value for name, value in theirs.items() if name not in EXEMPT] == list(
        inspect.signature(SessionClient).parameters.values()
    )


@table(("asynchronous", "synchronous"), PAIRS)
def test_every_method_is_told(asynchronous: type, synchronous: type) -> None:
    """Each public method and property has a docstring."""
    for name in methods(asynchronous):
        assert getattr(synchronous, name).__doc__


def test_every_argument_is_told() -> None:
    """The facade's own help names each argument, as the asynchronous one does."""
    assert "\n    interactive_ttl: " in (inspect.getdoc(SessionClient.create) or "")
    told = inspect.getdoc(SessionClient.__init__) or ""
    for name in inspect.signature(SessionClient).parameters:
        assert f"\n    {name}: " in told
