"""`doctor`: a line for each thing that stands between this machine and the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from qsessions.cli.failures import Exit
from qsessions.cli.options import DEFAULTS, Options
from qsessions.cli.output import Output

if TYPE_CHECKING:
    from qsessions.cli.diagnosis import Check


async def doctor(*, options: Options = DEFAULTS) -> int:
    """Check credentials, network, the service, clock and ledger.

    It prints a line for each: ok, or what to do. Nothing is created or changed.

    Example: qsessions doctor --account my-account
    """
    from qsessions.cli.diagnosis import Diagnosis

    output = Output(options)
    checks: list[Check] = []
    async for check in Diagnosis(options).checks():
        checks.append(check)
        if output.lines:
            output.record(_row(check))
        elif not output.as_json:
            advice = f" {check.advice}" if check.advice else ""
            output.line((f"{check.check:<11}", f"{check.status:<7}", check.found + advice))
    code = max(check.code for check in checks)
    if output.as_json and not output.lines:
        output.record({"ok": code == Exit.DONE, "checks": [_row(check) for check in checks]})
    return code


def _row(check: Check) -> dict[str, Any]:
    return attrs.asdict(check, filter=lambda attribute, _: attribute.name != "code")
