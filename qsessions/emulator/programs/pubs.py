"""Reading what a job's program is to run, from the body of POST /v1/jobs."""

import base64
import json
import math
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast

import attrs

from qsessions.emulator.service.errors import PROGRAM_FAILED, PROGRAM_TOO_LARGE

ProgramId = Literal["sampler", "estimator"]
PROGRAMS = frozenset({"sampler", "estimator"})
LARGEST = 256 * 2**20
"""How many bytes one value may have once it is unpacked, and the results of a job."""

LONGEST_REASON = 500
"""How many characters of a library's error are told."""

OLDEST_QPY = 13
"""The oldest format of QPY that is read; older ones may hold pickled objects."""

# The service's, where a request says nothing.
_SHOTS = 4096
_PRECISION = 0.015625
_FINEST = 1e-9

_MOST_FIELDS: Mapping[str, int] = MappingProxyType({"sampler": 3, "estimator": 4})


class ProgramError(Exception):
    """A program ends without a result. Its job fails with this reason and code."""

    def __init__(self, reason: str, code: int = PROGRAM_FAILED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@attrs.frozen
class Pub:
    """A circuit as it was sent, and what to run it with: `values` are its parameters'.

    An estimator only reports its `shots`.
    """

    circuit: object
    observables: object
    values: object
    shots: int
    precision: float


def read_program(body: bytes) -> tuple[ProgramId, list[Pub]]:
    """Return the program's name and what it is to run.

    Raises:
        ProgramError: The parameters are not those of a sampler or an estimator.
    """
    request = json.loads(body)
    program: ProgramId = request["program_id"]
    params = cast("Mapping[str, object]", request["params"])
    pubs, options = params.get("pubs"), params.get("options") or {}
    if not isinstance(pubs, list) or not isinstance(options, dict):
        raise ProgramError("params.pubs must be a list, and params.options an object")
    execution = cast("dict[str, object]", options).get("execution")
    if isinstance(execution, dict) and execution.get("meas_type", "classified") != "classified":
        raise ProgramError("the emulator measures bits only: meas_type must be 'classified'")
    defaults = cast("dict[str, object]", {**params, **options})
    return program, [
        _read_pub(program, pub, defaults, f"params.pubs[{index}]")
        for index, pub in enumerate(cast("list[object]", pubs))
    ]


def unpack(text: object) -> bytes:
    """Return the bytes that a client compressed and wrote as base64."""
    try:
        packed = base64.b64decode(cast("str", text), validate=True)
        # A few bytes can become gigabytes.
        expander = zlib.decompressobj()
        data = expander.decompress(packed, LARGEST)
    except (TypeError, ValueError, zlib.error):
        raise ProgramError("a value is not base64 of compressed data") from None
    if expander.unconsumed_tail:
        raise ProgramError(f"a value has more than {LARGEST} bytes", PROGRAM_TOO_LARGE)
    if not expander.eof:
        raise ProgramError("a value is not base64 of compressed data")
    return data


def check_qpy(data: bytes) -> None:
    """Check that data is of a format of QPY that holds no pickled objects."""
    if data[:6] != b"QISKIT" or len(data) < 7:
        raise ProgramError("a circuit is not in the QPY format")
    if data[6] < OLDEST_QPY:
        raise ProgramError(
            f"a circuit is in version {data[6]} of the QPY format; send version {OLDEST_QPY} or "
            "later, which Qiskit 1.3 and later write"
        )


def _read_pub(program: ProgramId, pub: object, defaults: Mapping[str, object], where: str) -> Pub:
    fields = cast("list[object]", pub) if isinstance(pub, list) else [pub]
    if not 1 <= len(fields) <= _MOST_FIELDS[program]:
        raise ProgramError(f"{where} must have 1 to {_MOST_FIELDS[program]} entries")
    if program == "sampler":
        circuit, values, shots = [*fields, None, None][:3]
        shots = defaults.get("default_shots") if shots is None else shots
        shots = _SHOTS if shots is None else shots
        if type(shots) is not int or shots < 1:
            raise ProgramError(f"{where}: shots must be a whole number, 1 or more")
        return Pub(circuit, None, values, shots, 0.0)
    circuit, observables, values, precision = [*fields, None, None, None][:4]
    if precision is None:
        precision = _default_precision(defaults)
    if type(precision) not in {int, float} or not 0 <= cast("float", precision) < 1e9:
        raise ProgramError(f"{where}: precision must be a number, 0 or more")
    precision = float(cast("float", precision))
    return Pub(circuit, observables, values, _estimator_shots(precision, defaults), precision)


def _estimator_shots(precision: float, options: Mapping[str, object]) -> int:
    """Return the shots of an estimator: those of twirling where they are given, else as many as the
    precision needs.
    """
    twirling = options.get("twirling")
    if isinstance(twirling, dict) and (
        twirling.get("enable_gates") or twirling.get("enable_measure")
    ):
        randomizations = twirling.get("num_randomizations")
        each = twirling.get("shots_per_randomization")
        if type(randomizations) is int and type(each) is int:
            return randomizations * each
    return math.ceil(round(1 / max(precision, _FINEST) ** 2, 6))


def _default_precision(defaults: Mapping[str, object]) -> object:
    """Return the precision of pubs that name none; a number of shots goes before a precision."""
    shots, precision = defaults.get("default_shots"), defaults.get("default_precision")
    if type(shots) is int and shots > 0:
        return shots**-0.5
    return _PRECISION if precision is None else precision
