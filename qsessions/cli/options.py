"""The options that commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from qsessions.config.variables import DEFAULT_TIMEOUT_S, TIMEOUT
from qsessions.models import (
    DURATION_TEXT,
    MAX_SECONDS,
    ModeName,
    WorkloadMode,
    deadline_seconds,
    whole_seconds,
)

# An error names no more of a text.
_SHOWN = 40


def reader(
    read: Callable[[str], Any], forms: str, metavar: str | None = None, unset: Any = None
) -> Parameter:
    """Return an option with a value that `read` makes of its text.

    Args:
        read: Raises ValueError or OverflowError for text that isn't valid.
        forms: The valid forms, for errors.
        metavar: What help shows in place of a value.
        unset: The value where the option's variable is empty, which counts as unset.
    """

    def convert(_: object, tokens: Sequence[Token]) -> Any:
        text, is_variable = tokens[0].value, tokens[0].source == "env"
        if is_variable and not text:
            return unset
        try:
            return read(text)
        except (ValueError, OverflowError):
            # A variable isn't repeated: it may be the key, in the wrong place.
            shown = "" if is_variable else f", not {text[:_SHOWN]!r}"
            raise ValueError(f"must be {forms}{shown}.") from None

    return Parameter(converter=convert, metavar=metavar)


def listed_modes(modes: Iterable[str]) -> tuple[WorkloadMode, ...]:
    """Return modes as the list of workloads calls them."""
    from qsessions.api.operations import LISTED_AS, WORKLOAD_MODES

    names: dict[str, WorkloadMode] = {str(mode): mode for mode in WORKLOAD_MODES}
    names |= {str(mode): name for mode, name in LISTED_AS.items()}
    return tuple(dict.fromkeys(names[mode] for mode in modes))


def _checked_text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


def _checked_version(text: str) -> str:
    if text != "latest":
        datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007 - only its form is checked
    return text


def flag(text: str, *names: str) -> Parameter:
    """Return an option without a value, which is off by default."""
    return Parameter(name=names or None, help=text, negative="", show_default=False)


# The kinds of options by what their text may be.
Name = Annotated[str, reader(_checked_text, "text")]
_File = Annotated[Path, reader(lambda text: Path(_checked_text(text)), "a path")]
Limit = Annotated[
    float | None,
    reader(
        lambda text: deadline_seconds(None if text == "none" else text, ""),
        f"seconds above 0, {DURATION_TEXT}, or 'none'",
        "DURATION",
        DEFAULT_TIMEOUT_S,
    ),
]
Duration = Annotated[
    float,
    reader(
        lambda text: deadline_seconds(text, ""), f"seconds above 0, or {DURATION_TEXT}", "DURATION"
    ),
]
_Ttl = Annotated[
    int,
    reader(
        lambda text: whole_seconds(text, ""),
        f"from 1 to {MAX_SECONDS} seconds, or {DURATION_TEXT}",
        "DURATION",
    ),
]
_Time = Annotated[
    datetime,
    reader(
        lambda text: datetime.fromisoformat(text).astimezone(),
        "a time such as 2026-01-31 or 2026-01-31T12:00:00Z",
        "TIME",
    ),
]
_Version = Annotated[
    str, reader(_checked_version, "a date such as 2026-04-15, or 'latest'", "DATE")
]

SessionId = Annotated[str, Parameter(help="The session's id.")]
Mode = Annotated[ModeName, Parameter(help="Exclusive access, or a group of jobs.")]
ListedModes = Annotated[
    tuple[Literal["dedicated", "session", "batch"], ...],
    Parameter(
        help="Which kinds; may be repeated. The list calls dedicated ones session.", negative=""
    ),
]
Backend = Annotated[
    Name | None, Parameter(help="The backend's name; by default QSESSIONS_BACKEND.")
]
MaxTtl = Annotated[
    _Ttl | None,
    Parameter(
        help="How long after its first job's start it closes at the latest: seconds, or text such "
        "as 10m; by default QSESSIONS_MAX_TTL. One that no job reaches closes after 30 minutes."
    ),
]
InteractiveTtl = Annotated[
    _Ttl | None, Parameter(help="How long it may sit without a job; channel partners only.")
]
ActiveTtl = Annotated[
    _Ttl | None, Parameter(help="How long it may be active in all; channel partners only.")
]
Labels = Annotated[
    tuple[str, ...],
    flag(
        "Its name in the ledger, name=value, to find it from another process; may be repeated.",
        "--label",
    ),
]
OnlyLabels = Annotated[
    tuple[str, ...],
    flag("Only those that the ledger has with this label, name=value; may be repeated.", "--label"),
]
OnlyBackend = Annotated[str | None, Parameter(help="Only those on this backend.")]
AllInstances = Annotated[bool, flag("Show the records of other instances too.")]
CreatedAfter = Annotated[
    _Time | None,
    Parameter(help="Only those created after this time (ISO 8601; local time without an offset)."),
]
CreatedBefore = Annotated[
    _Time | None,
    Parameter(help="Only those created before this time (ISO 8601; local time without an offset)."),
]
Yes = Annotated[bool, flag("Don't ask.")]


@Parameter(name="*", group=Group("Options of every command", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class Options:
    """Which account and service to use, how long to wait, and in which form to print."""

    account: Annotated[Name | None, Parameter(help="The account in the account file to use.")] = (
        None
    )
    account_file: Annotated[
        _File | None,
        Parameter(help="The account file; by default ~/.qiskit/qiskit-ibm.json."),
    ] = None
    base_url: Annotated[
        str | None,
        Parameter(help="The service's URL before /v1; by default QSESSIONS_BASE_URL."),
    ] = None
    api_version: Annotated[
        _Version | None,
        Parameter(help="The dated API version to ask for, YYYY-MM-DD, or 'latest'."),
    ] = None
    timeout: Annotated[
        Limit,
        Parameter(
            help="The deadline of each call: seconds, text such as 2m, or 'none'.",
            env_var=TIMEOUT,
        ),
    ] = DEFAULT_TIMEOUT_S
    json: Annotated[bool, flag("Print one JSON object.")] = False
    jsonl: Annotated[bool, flag("Print one JSON object a line.")] = False
    verbose: Annotated[
        bool, flag("On a terminal: every column of a table, and nothing cut.", "--verbose", "-v")
    ] = False


@Parameter(name="*", group=Group("Options of every command", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class WaitOptions(Options):
    """The same for a command that waits."""

    timeout: Annotated[
        Limit, Parameter(help="How long to wait: seconds, text such as 5m, or 'none'.")
    ] = None


DEFAULTS = Options()
WAIT_DEFAULTS = WaitOptions()
