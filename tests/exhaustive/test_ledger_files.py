"""The long form of tests/unit/test_ledger.py and test_ledger_lines.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings

from tests.support.ledger_files import ANY_FIELDS, amend_torn, body_of, parsed


def test_amending_a_torn_file_at_every_offset(tmp_path: Path) -> None:
    """What a reaper adds after a torn line is read, whatever was torn."""
    amend_torn(tmp_path, 1)


@settings(max_examples=500)
@given(ANY_FIELDS)
def test_any_fields_many_times(value: dict[str, Any]) -> None:
    """Whatever its fields hold, a line is a record or none, and what is read can be written."""
    _, records, _ = parsed(json.dumps(value).encode())
    for record in records.values():
        assert parsed(body_of(record))[1] == {record.key: record}
