"""Ledgers in one process: their records, their files, and what happens to those."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
from hypothesis import strategies as st

from qsessions import (
    CreateSession,
    LedgerEntry,
    LedgerRecord,
    Liveness,
    LocalLedger,
    RecordState,
)
from qsessions.ledger import disk, files, lines

# The instances of an emulator and of the service.
EMULATED = "crn:v1:bluemix:public:quantum-computing:us-east:a/emulated0123456789abcdef01234567:8e5f2b1c-1111::"
REAL = EMULATED.replace("emulated0", "0123456789")
NOW = 1_780_000_000.0
CREATED, DRAINING, ENDED = RecordState.CREATED, RecordState.DRAINING, RecordState.ENDED
T = TypeVar("T")

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
# Lines with the fields of a record or a header, and anything in them.
ANY_FIELDS = st.dictionaries(
    st.sampled_from(["ledger", *attrs.fields_dict(LedgerRecord), "pid", "host"]), _JSON
)


def intent(**fields: Any) -> LedgerRecord:
    """Return the record of a create that is about to go out."""
    request = CreateSession("dedicated", backend="ibm_fez", max_ttl=600)
    record = LedgerRecord.intent(
        request, base_url="https://quantum.example/api", instance="crn", now=NOW
    )
    return attrs.evolve(record, **fields)


async def entries_of(ledger: LocalLedger) -> list[tuple[str, RecordState, Liveness]]:
    """Return what a ledger lists, in short."""
    return [
        (one.record.key, one.record.state, one.owner.liveness) for one in await ledger.entries()
    ]


async def amend(ledger: LocalLedger, entry: LedgerEntry, record: LedgerRecord) -> bool:
    """Amend one record."""
    (done,) = await ledger.amend([(entry, record)])
    return done


def amend_file(path: Path, record: LedgerRecord) -> bool:
    """Amend one record in a file."""
    (done,) = files.amend(path, [record])
    return done


def parsed(body: bytes) -> tuple[lines.Header | None, dict[str, LedgerRecord], bool]:
    """Read what a file holds."""
    contents = lines.parse(body.split(b"\n"))
    return contents.header, contents.records, contents.is_whole


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one call on a loop of its own, so that the test may look at files in between."""
    return asyncio.run(coroutine)


def die() -> None:
    """Do to this process's ledgers what its death would: the operating system takes their locks,
    and nobody knows their files for ours.
    """
    for file in tuple(files._process.own.values()):
        file._release()
    files._process = files._Process()
    disk._checked.clear()


def names(place: Path) -> list[str]:
    """List a directory."""
    return sorted(path.name for path in place.iterdir())


def all_locked(place: Path) -> bool:
    """Return whether every file in a directory is locked, where the platform tells."""
    held = Path("/proc/locks")
    return not held.exists() or all(
        f":{path.stat().st_ino} " in held.read_text() for path in place.iterdir()
    )


def only_file(place: Path) -> Path:
    """Return the one file in a directory."""
    (path,) = place.iterdir()
    return path


def left_by_the_dead(place: Path, *records: LedgerRecord) -> Path:
    """Leave a dead owner's file with records, and give its path."""
    ledger = LocalLedger(place)

    async def record() -> None:
        await asyncio.gather(*map(ledger.record, records))

    known = set(names(place)) if place.exists() else set()
    run(record())
    die()
    (name,) = set(names(place)) - known
    return place / name


def ended(entry: LedgerEntry) -> tuple[LedgerEntry, LedgerRecord]:
    """Return the change that puts an entry to ended."""
    return entry, entry.record.becomes(ENDED, now=NOW)


def many_left(place: Path, number: int) -> tuple[Path, list[LedgerRecord]]:
    """Leave a dead owner's file with so many records, three lines for each, and give its path and
    the newest of each.
    """
    drains = [intent(state=DRAINING, session_id=f"s-{one}") for one in range(number)]
    path = left_by_the_dead(place, drains[0])
    body = body_of(*drains)
    with path.open("ab") as file:
        for state in (b"intent", b"created", b"draining"):
            file.write(body.replace(b"draining", state))
    return path, drains


def body_of(*records: LedgerRecord) -> bytes:
    """Return lines as a file has them."""
    return lines.record_lines(records)


def header(path: Path, **fields: Any) -> None:
    """Change a file's first line."""
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps(json.loads(first) | fields).encode() + b"\n" + rest)


def refuse(number: int, path: Path) -> Callable[..., int]:
    """Return an `os.open` that has an error for one path, and opens all others."""
    real = os.open

    def opened(what: str | Path, *args: Any, **more: Any) -> int:
        if Path(what) == path:
            raise OSError(number, os.strerror(number), str(path))
        return real(what, *args, **more)

    return opened


def given_to_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a file or directory another user's; where this user may not, make this user another one
    for the ledger.
    """
    if os.geteuid() == 0:
        os.chown(path, 65_534, -1)
    else:
        monkeypatch.setattr(disk, "user", lambda: os.geteuid() + 1)


def grown(path: Path) -> None:
    """Let a file grow beyond what is read, without taking the disk's room."""
    with path.open("r+b") as file:
        file.truncate(files.MOST_BYTES + 1)


def moving(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, *, times: int
) -> Callable[[Path], None]:
    """Let the file that is watched get a new name whenever a function is called, as a file that is
    made anew does, so many times.
    """
    real = getattr(where, name)
    at: list[Path] = []

    def call(*args: Any) -> Any:
        if at and len(at) <= times:
            at.append(at[0].with_name(f"{len(at)}.jsonl"))
            at[-2].rename(at[-1])
        return real(*args)

    monkeypatch.setattr(where, name, call)
    return at.append


def amend_torn(place: Path, step: int) -> None:
    """See that what a reaper adds after a torn line is read, wherever that was torn: at each offset,
    or each second or third and so on.
    """
    record = intent().becomes(CREATED, now=NOW, session_id="s-1")
    path = left_by_the_dead(place, record)
    body = path.read_bytes()
    line = body_of(record.becomes(DRAINING, now=NOW + 1))
    amended = record.becomes(DRAINING, now=NOW + 2)
    for cut in {*range(0, len(line), step), 1, len(line) - 2, len(line) - 1}:
        path.write_bytes(body + line[:cut])
        assert amend_file(path, amended), cut
        assert [one.record for one in files.read_all(place, NOW)] == [amended], cut
