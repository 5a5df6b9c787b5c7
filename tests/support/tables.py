"""Tables: one rule, checked for many rows in one test."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import pytest

# `pytest.raises` that meets no error fails with the second, which is no Exception.
FAILURES = (Exception, pytest.fail.Exception)


def table(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Any], Any]:
    """Run a test once for all rows of a table, as one case that reports each row that fails.

    It is written like `pytest.mark.parametrize`, for rows that are too cheap to be cases. Fixtures
    are shared by the rows.
    """
    if isinstance(names, str):
        names, rows = (names,), ((row,) for row in rows)
    listed = [dict(zip(names, row, strict=True)) for row in rows]
    assert listed, "the table is empty"

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(test)
        def run(**fixtures: Any) -> None:
            with all_of(listed) as checking:
                for number, row in enumerate(listed):
                    with checking(number):
                        test(**fixtures, **row)

        @wraps(test)
        async def run_coroutine(**fixtures: Any) -> None:
            with all_of(listed) as checking:
                for number, row in enumerate(listed):
                    with checking(number):
                        await test(**fixtures, **row)

        chosen = run_coroutine if inspect.iscoroutinefunction(test) else run
        signature = inspect.signature(test)
        fixtures = [each for name, each in signature.parameters.items() if name not in listed[0]]
        vars(chosen)["__signature__"] = signature.replace(parameters=fixtures)
        return chosen

    return decorate


@contextlib.contextmanager
def all_of(
    rows: list[dict[str, Any]],
) -> Iterator[Callable[[int], contextlib.AbstractContextManager[None]]]:
    """Raise at the end what went wrong in each row."""
    failed: list[BaseException] = []

    @contextlib.contextmanager
    def checking(number: int) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            error.add_note(f"in row {number} of the table")
            with contextlib.suppress(ValueError):  # A number may be too long to be written.
                error.add_note(f"{rows[number]!r:.200}")
            if isinstance(error, pytest.fail.Exception) and "DID NOT RAISE" not in str(error):
                raise  # The test's time is up, and nobody would stop the next row.
            failed.append(error)

    yield checking
    if failed:
        raise BaseExceptionGroup(f"{len(failed)} of {len(rows)} rows fail", failed)


@contextlib.contextmanager
def row_of_table(*names: object) -> Iterator[None]:
    """Name a row, in a loop of a test's own, in whatever fails in it."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the row {', '.join(str(name) for name in names)}")
        raise
