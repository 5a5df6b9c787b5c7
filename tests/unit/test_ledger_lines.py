"""What a record holds, and what can be read of a line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qsessions import (
    RecordState,
)
from qsessions.ledger import lines
from tests.support.ledger_files import (
    ANY_FIELDS,
    CREATED,
    DRAINING,
    NOW,
    body_of,
    intent,
    parsed,
)


def test_intent() -> None:
    """The record of a create has a key of its own, what was asked and when, and no id yet."""
    one, two = intent(), intent()
    assert one.key != two.key
    assert (one.mode, one.backend, one.max_ttl) == ("dedicated", "ibm_fez", 600)
    assert (one.asked_at, one.changed_at, one.state, one.session_id) == (
        NOW,
        NOW,
        RecordState.INTENT,
        None,
    )
    assert not one.detached


def test_becomes() -> None:
    """A record in another state keeps the id that is known, and when it was asked."""
    created = intent().becomes(CREATED, now=NOW + 1, session_id="s-1")
    drains = created.becomes(DRAINING, now=NOW + 2)
    assert (drains.session_id, drains.asked_at, drains.changed_at) == ("s-1", NOW, NOW + 2)


WRONG: list[dict[str, Any]] = [
    {"key": ""},
    {"key": 5},
    {"session_id": ""},
    {"asked_at": float("nan")},
    {"asked_at": True},
    {"asked_at": 10**400},
    {"mode": ""},
    {"state": 5},
    {"max_ttl": "10m"},
    {"idle_since": "yesterday"},
    {"detached": None},
    {"labels": ["run"]},
    {"labels": {"run": ""}},
    {"labels": {"": "1"}},
    {"labels": {"run": 1}},
    {"labels": {"run": "two\nlines"}},
    {"labels": {"\x1b[31m": "red"}},
]


def test_no_such_record() -> None:
    """What a record can't hold is refused, so that a damaged file yields none."""
    for wrong in WRONG:
        with pytest.raises((TypeError, ValueError)):
            raise AssertionError(intent(**wrong))


def test_a_record_without_labels_is_written_as_ever() -> None:
    """A line without labels is a record without them, and is written the same; one whose labels
    have a wrong form can't be read.
    """
    record = intent()
    assert b"labels" not in body_of(record)
    assert lines.parse_line(body_of(record)) == record
    wrong = body_of(record).replace(b"{", b'{"labels":{"run":1},', 1)
    assert lines.parse_line(wrong) is None


def test_a_later_versions_state() -> None:
    """A state that a later version added is read as unknown: the session may be there."""
    assert RecordState("paused") is RecordState.UNKNOWN


def test_a_torn_last_line_at_every_offset() -> None:
    """Wherever a crash tore the last line, the records before it are read, and the last one whole
    or not at all.
    """
    first = intent().becomes(CREATED, now=NOW, session_id="s-1")
    last = first.becomes(DRAINING, now=NOW + 1)
    before, line = body_of(first), body_of(last)
    for cut in range(len(line) + 1):
        _, records, is_whole = parsed(before + line[:cut])
        assert is_whole
        # Only the line's end may be missing.
        assert records == {first.key: last if cut >= len(line) - 1 else first}


def test_a_corrupt_line_takes_nothing_with_it() -> None:
    """Lines after one that can't be read are read."""
    one, two = intent(), intent()
    for damage in (
        b"\x00" * 40,
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"key": 5}',
        b"[]",
        b'{"ledger": 1}',
        b"",
    ):
        header, records, is_whole = parsed(body_of(one) + damage + b"\n" + body_of(two))
        assert header is None
        assert list(records.values()) == [one, two]
        assert is_whole is (damage == b"")


@given(st.binary(), st.binary())
def test_any_bytes(before: bytes, after: bytes) -> None:
    """Whatever bytes stand around a record, reading fails at nothing and finds it."""
    record = intent()
    _, records, _ = parsed(before + b"\n" + body_of(record) + after)
    assert records[record.key] == record


# The long form is in tests/exhaustive.
@settings(max_examples=25)
@given(ANY_FIELDS)
def test_any_fields(value: dict[str, Any]) -> None:
    """Whatever its fields hold, a line is a record or none, and what is read can be written."""
    _, records, _ = parsed(json.dumps(value).encode())
    for record in records.values():
        assert parsed(body_of(record))[1] == {record.key: record}


def test_fields_of_a_later_version() -> None:
    """A field that this version doesn't know is passed over, the record isn't."""
    record = intent()
    line = body_of(record).replace(b"{", b'{"colour":"red",', 1)
    assert parsed(line)[1] == {record.key: record}
