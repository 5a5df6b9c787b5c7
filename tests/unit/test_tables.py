"""The decorator for tables of rows: no row that fails gets lost."""

import pytest

from tests.support.tables import table


def test_every_row_runs_and_each_failing_one_is_named() -> None:
    """Rows after a failing one are checked too, and the failures are reported with their rows."""
    seen = []

    @table("number", range(4))
    def check(number: int) -> None:
        seen.append(number)
        with pytest.raises(ZeroDivisionError):
            _ = 1 / (number % 2)

    with pytest.raises(BaseExceptionGroup, match="2 of 4 rows fail") as caught:
        check()
    assert seen == [0, 1, 2, 3]
    assert [error.__notes__ for error in caught.value.exceptions] == [
        ["in row 1 of the table", "{'number': 1}"],
        ["in row 3 of the table", "{'number': 3}"],
    ]


@table(("left", "right"), [(1, 1), (2, 2)])
@table("factor", [1, 10**5000])
async def test_tables_multiply_and_take_fixtures(
    tmp_path_factory: pytest.TempPathFactory, left: int, right: int, factor: int
) -> None:
    """Tables can be stacked, over coroutines too, and a test has fixtures besides its rows."""
    assert tmp_path_factory is not None
    assert left * factor == right * factor


async def test_a_coroutine_that_fails() -> None:
    """Failing rows of a coroutine are reported as well."""

    @table("number", [1, 10**5000])
    async def check(number: int) -> None:
        assert not number

    with pytest.raises(ExceptionGroup, match="2 of 2 rows fail") as caught:
        await check()
    assert [len(error.__notes__) for error in caught.value.exceptions] == [2, 1]


def test_an_empty_table() -> None:
    """A table without rows would check nothing, and is refused."""
    with pytest.raises(AssertionError, match="empty"):
        table("number", [])


def test_a_timeout_ends_the_table() -> None:
    """A failure that is no row's own, such as a timeout, ends the test, since it comes only once."""
    seen = []

    @table("number", range(2))
    def check(number: int) -> None:
        seen.append(number)
        pytest.fail("Timeout (>120.0s) from pytest-timeout.")

    with pytest.raises(pytest.fail.Exception, match="Timeout") as caught:
        check()
    assert seen == [0]
    assert caught.value.__notes__ == ["in row 0 of the table", "{'number': 0}"]
