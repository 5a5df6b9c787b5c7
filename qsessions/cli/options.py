"""The options that every command for the service has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter


@Parameter(name="*", group=Group("Options of every command", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class Options:
    """Which account and service to use, how long to wait, and in which form to print."""

    account: Annotated[str | None, Parameter(help="The account in the account file to use.")] = None
    account_file: Annotated[
        Path | None, Parameter(help="The account file; by default ~/.qiskit/qiskit-ibm.json.")
    ] = None
    base_url: Annotated[
        str | None, Parameter(help="The service's URL before /v1; by default QSESSIONS_BASE_URL.")
    ] = None
    api_version: Annotated[
        str | None, Parameter(help="The dated API version to ask for, YYYY-MM-DD, or 'latest'.")
    ] = None
    timeout: Annotated[
        str, Parameter(help="The deadline of each call: seconds, text such as 2m, or 'none'.")
    ] = "60"
    json: Annotated[
        bool, Parameter(help="Print one JSON object.", negative="", show_default=False)
    ] = False
    jsonl: Annotated[
        bool, Parameter(help="Print one JSON object a line.", negative="", show_default=False)
    ] = False
    verbose: Annotated[
        bool,
        Parameter(
            name=["--verbose", "-v"],
            help="On a terminal: every column of a table, and nothing cut.",
            negative="",
            show_default=False,
        ),
    ] = False


@Parameter(name="*", group=Group("Options of every command", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class WaitOptions(Options):
    """The same for a command that waits."""

    timeout: Annotated[
        str, Parameter(help="How long to wait: seconds, text such as 5m, or 'none'.")
    ] = "none"


DEFAULTS = Options()
WAIT_DEFAULTS = WaitOptions()
