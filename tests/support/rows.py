"""Many rows of a table in one test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def row_of_table(*names: object) -> Iterator[None]:
    """Name a row in whatever fails in it."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"in the row {', '.join(str(name) for name in names)}")
        raise
