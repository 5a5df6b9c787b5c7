"""The format of a ledger's file: lines of JSON, the first about the owner, the others records.

The last record of a key counts. A damaged line affects no other line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import attrs
from attrs import define, field, frozen
from attrs.validators import instance_of

from qsessions.ledger.records import LedgerRecord, put


@frozen(kw_only=True, eq=False, repr=False)
class Header:
    """A file's first line, which describes its owner."""

    host: str = field(validator=instance_of(str))
    pid: int = field(validator=instance_of(int))
    since: float = field(validator=instance_of(float))
    system: str = field(validator=instance_of(str))
    inode: int = field(validator=instance_of(int))
    locked: bool = field(validator=instance_of(bool))
    shared: bool = field(validator=instance_of(bool))


@define(eq=False, repr=False)
class Contents:
    """The contents of a file, as far as it can be read.

    Attributes:
        header: The first line, if it can be read.
        records: The last record of each key, without those that are ended.
        has_records: Whether there is any record. A file is made with one.
        is_damaged: Whether a line can't be read, apart from blank lines and an unfinished last one.
        torn: The bytes of an unfinished last line, whose record was never acknowledged.
    """

    header: Header | None = None
    records: dict[str, LedgerRecord] = field(factory=dict)
    has_records: bool = False
    is_damaged: bool = False
    torn: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether no record can be missing."""
        return self.has_records and not self.is_damaged


# A later version may have more fields.
_NAMES: dict[type, frozenset[str]] = {
    kind: frozenset(attrs.fields_dict(kind)) for kind in (Header, LedgerRecord)
}


def header_line(header: Header) -> bytes:
    """Return a file's first line."""
    return _line({"ledger": 1} | attrs.asdict(header))


def record_lines(records: Iterable[LedgerRecord]) -> bytes:
    """Return the lines of records."""
    return b"".join(map(record_line, records))


def record_line(record: LedgerRecord) -> bytes:
    """Return the line of a record."""
    return _line(attrs.asdict(record, filter=lambda _, item: item is not None and item != {}))


def parse(lines: Iterable[bytes]) -> Contents:
    """Read a file, line by line. Lines that can't be read are skipped.

    Args:
        lines: The lines without their ends. The last is what follows the last end, maybe nothing.
    """
    contents = Contents()
    for line in lines:
        # The line before was not the last one, so it is damaged, not torn.
        contents.is_damaged |= contents.torn > 0
        contents.torn = 0
        item = parse_line(line)
        if isinstance(item, Header):
            contents.header = contents.header or item
        elif item is not None:
            contents.has_records = True
            put(contents.records, item)
        elif line.strip():
            contents.torn = len(line)
    return contents


def parse_line(line: bytes) -> Header | LedgerRecord | None:
    """Return what a line holds, or None if it can't be read."""
    try:
        value = json.loads(line.decode())
        kind = Header if "ledger" in value else LedgerRecord
        return kind(**{name: value[name] for name in _NAMES[kind] & value.keys()})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
