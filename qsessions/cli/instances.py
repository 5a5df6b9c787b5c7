"""`instances`: the service instances of the account."""

from __future__ import annotations

from qsessions.cli.options import DEFAULTS, Options
from qsessions.cli.output import Output
from qsessions.cli.service import connect
from qsessions.models import Instance

_COLUMNS = ("name", "plan", "region", "crn", "tags")
# A CRN is what an instance is told apart and chosen by.
_NEEDED = 4


async def instances(*, options: Options = DEFAULTS) -> None:
    """List the account's service instances, with plan, region, tags and CRN.

    The CRN of the one to use goes into QISKIT_IBM_INSTANCE or the account. It
    is looked up where it isn't given and there is only one.

    Example: qsessions instances --json
    """
    output = Output(options)
    async with connect(options) as client:
        listed = await client.instances()
    nothing = "qsessions instances: the account of the key has no instance."
    await output.rows("instances", map(Instance.to_dict, listed), _COLUMNS, nothing, needed=_NEEDED)
