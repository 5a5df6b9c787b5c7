"""What a ledger's file holds: lines of JSON, the first of them about its owner, each other one a whole record.

The last record of a key counts, so a line that is torn or damaged takes nothing else with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import attrs
from attrs import field, frozen
from attrs.validators import instance_of

from qsessions.ledger.records import LedgerRecord

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


def header_line(header: Header) -> bytes:
    """Give a file's first line."""
    return _line({"ledger": 1} | attrs.asdict(header))


def record_lines(records: Iterable[LedgerRecord]) -> bytes:
    """Give the lines of records."""
    return b"".join(
        _line(attrs.asdict(record, filter=lambda _, item: item is not None)) for record in records
    )


def parse(body: bytes) -> tuple[Header | None, dict[str, LedgerRecord], bool]:
    """Read a file. What can't be read is passed over.

    Returns:
        Who its owner is, if it says so; the last whole record of each key; and whether it has a record, as a file has from the start, and
        each line could be read, but for a blank one and a last one without its end.
    """
    header: Header | None = None
    records: dict[str, LedgerRecord] = {}
    is_damaged = False
    lines = body.split(b"\n")
    for number, line in enumerate(lines, 1):
        item = parse_line(line)
        if isinstance(item, Header):
            header = header or item
        elif item is not None:
            records[item.key] = item
        elif line.strip() and number < len(lines):
            is_damaged = True
    return header, records, bool(records) and not is_damaged


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
    # A later version may have more fields.
    names = attrs.fields_dict(kind)  # type: ignore[arg-type]  # both kinds are attrs classes
    try:
        return kind(**{name: item for name, item in value.items() if name in names})
    except (TypeError, ValueError):
        return None


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
