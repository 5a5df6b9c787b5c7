"""What a ledger's file holds: lines of JSON, the first of them about its owner, each other one a whole record.

The last record of a key counts, so a line that is torn or damaged takes nothing else with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs
from attrs import define, field, frozen
from attrs.validators import instance_of

from qsessions.ledger.records import LedgerRecord, RecordState

T = TypeVar("T")


@frozen(kw_only=True)
class Header:
    """What a file's first line says about its owner."""

    host: str = field(validator=instance_of(str))
    pid: int = field(validator=instance_of(int))
    since: float = field(validator=instance_of(float))
    system: str = field(validator=instance_of(str))
    inode: int = field(validator=instance_of(int))
    locked: bool = field(validator=instance_of(bool))
    shared: bool = field(validator=instance_of(bool))


@define
class Contents:
    """What a file holds, as far as it can be read.

    Attributes:
        header: Who its owner is, if it says so.
        records: The last record of each key, of those that aren't ended.
        has_records: Whether it has a record at all, as a file has from the start.
        is_damaged: Whether there is a line that can't be read, but for a blank one and a last one without its end.
        torn: How many bytes that last one has, which was not recorded yet.
    """

    header: Header | None = None
    records: dict[str, LedgerRecord] = field(factory=dict)
    has_records: bool = False
    is_damaged: bool = False
    torn: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it is missing."""
        return self.has_records and not self.is_damaged


# A later version may have more fields.
_NAMES: dict[type, frozenset[str]] = {
    kind: frozenset(attrs.fields_dict(kind)) for kind in (Header, LedgerRecord)
}


def header_line(header: Header) -> bytes:
    """Give a file's first line."""
    return _line({"ledger": 1} | attrs.asdict(header))


def record_lines(records: Iterable[LedgerRecord]) -> bytes:
    """Give the lines of records."""
    return b"".join(
        _line(attrs.asdict(record, filter=lambda _, item: item is not None and item != {}))
        for record in records
    )


def parse(lines: Iterable[bytes]) -> Contents:
    """Read a file, line by line. What can't be read is passed over.

    Args:
        lines: All of them without their ends; the last one is what follows the last end, and may be empty.
    """
    contents = Contents()
    for line in lines:
        # What was taken for a torn last line isn't the last one.
        contents.is_damaged |= contents.torn > 0
        contents.torn = 0
        item = parse_line(line)
        if isinstance(item, Header):
            contents.header = contents.header or item
        elif item is not None:
            contents.has_records = True
            if item.state is RecordState.ENDED:
                contents.records.pop(item.key, None)
            else:
                contents.records[item.key] = item
        elif line.strip():
            contents.torn = len(line)
    return contents


def parse_line(line: bytes) -> Header | LedgerRecord | None:
    """Read a line; None where it is neither."""
    value = _value(line)
    return _made(Header, value) if "ledger" in value else _made(LedgerRecord, value)


def _value(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _made(kind: type[T], value: dict[str, Any]) -> T | None:
    names = _NAMES[kind]
    try:
        return kind(**{name: item for name, item in value.items() if name in names})
    except (TypeError, ValueError):
        return None


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
