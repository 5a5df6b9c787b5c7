"""Service instances: each a service of its own, behind one address and one set of credentials."""

import re
import uuid
from collections.abc import Iterable
from random import Random

import attrs

from qsessions.emulator.service.state import Machine
from qsessions.emulator.service.validation import Terms

# crn:version:cname:ctype:service:region:scope:instance:resource type:resource
_CRN = re.compile(r"crn:v1(:[^:\s]*){8}")


@attrs.frozen
class Instance:
    """One instance: what it holds is out of every other's sight."""

    crn: str
    terms: Terms
    machine: Machine


def is_crn(text: str) -> bool:
    """Whether a text has the form of a CRN, whatever it names."""
    return _CRN.fullmatch(text) is not None


def queue_length(instances: Iterable[Instance], now: float, backend: str) -> int:
    """How many jobs a backend has before it, whichever instance they are from. Raises Refusal (404) for an unknown one."""
    return sum(instance.machine.pending_jobs(now, backend) for instance in instances)


def invented_account(random: Random) -> str:
    """An account id of the right length which no real account can have: real ones are hexadecimal."""
    return f"emulated{random.getrandbits(96):024x}"


def invented_crn(random: Random, account: str) -> str:
    """The CRN of a new instance of the account, in the service's default region."""
    guid = uuid.UUID(int=random.getrandbits(128), version=4)
    return f"crn:v1:bluemix:public:quantum-computing:us-east:a/{account}:{guid}::"
