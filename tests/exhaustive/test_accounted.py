"""The long form of tests/integration/test_accounted.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.accounted import (
    CALL_FAULTS,
    CALL_MOMENTS,
    CHANGES,
    ENDING_FAULTS,
    ENDINGS,
    LIES,
    check_calls,
    check_changes,
    check_create,
    check_ending,
    row_id,
)
from tests.support.calls import CLOSE, Row
from tests.support.faults import FAULTS, REFUSALS

each_moment = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])

pytestmark = pytest.mark.timeout(300)


@each_moment
async def test_a_create_that_meets_a_fault_is_accounted_for(*, after: bool, tmp_path: Path) -> None:
    """Each fault, whether or not the work was done."""
    for fault in FAULTS:
        await check_create(fault, after=after, directory=tmp_path / fault.name)


@each_moment
@pytest.mark.parametrize(("option", "how"), ENDINGS)
async def test_an_ending_that_meets_a_fault_is_accounted_for(
    *, option: str, how: str, after: bool, tmp_path: Path
) -> None:
    """Each fault with each kind of ending, whether or not the work was done."""
    for fault in ENDING_FAULTS:
        await check_ending(fault, option, how, after=after, directory=tmp_path / fault.name)


@pytest.mark.parametrize(("row", "after"), CALL_MOMENTS, ids=row_id)
async def test_a_session_is_accounted_for_whatever_a_call_meets(
    *, row: Row, after: bool, tmp_path: Path
) -> None:
    """Each fault with each call, whether or not the work was done."""
    missing = await check_calls(row, CALL_FAULTS, after=after, directory=tmp_path / "ledger")
    assert missing == ([*LIES] if row is CLOSE and not after else [])


@pytest.mark.parametrize(("row", "busy"), CHANGES, ids=row_id)
async def test_a_change_that_was_carried_out_unheard_is_repeated(
    *, row: Row, busy: bool, tmp_path: Path
) -> None:
    """Each fault and each refusal with each change, of a session with and without a job."""
    faults = (*FAULTS, *REFUSALS.values())
    await check_changes(row, faults, busy=busy, directory=tmp_path / "ledger")
