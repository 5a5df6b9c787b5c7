"""Results of the right shape without Qiskit: random, and the same for the same seed."""

import ast
import math
import re
import struct
from collections.abc import Mapping
from random import Random
from typing import cast

from qsessions.emulator.programs.form import (
    Json,
    Shape,
    array,
    bit_array,
    primitive_result,
    pub_result,
)
from qsessions.emulator.programs.pubs import (
    LARGEST,
    ProgramError,
    Pub,
    check_qpy,
    read_program,
    unpack,
)
from qsessions.emulator.service.errors import PROGRAM_TOO_LARGE

Registers = dict[str, int]

# A `bit` without a size is in no register, and so in no result.
_BITS = re.compile(r"\bbit\s*\[\s*(\d+)\s*\]\s*([^\W\d]\w*)\s*[;=]")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_NPY_HEADER = struct.Struct("<6sBBH")
# QPY: the file's header and the type of its contents, a circuit's header, a register's header.
_QPY_FILE = struct.Struct("!6s4BQcc")
_QPY_CIRCUIT = struct.Struct("!HcHIIQIQI")
_QPY_REGISTER = struct.Struct("!c?IH?")
_FIRST_QPY_WITH_TABLE = 16


def run(body: bytes, seed: int) -> bytes:
    """Return the results of a job.

    Raises:
        ProgramError: They would be too large, or the request can't be read.
    """
    program, pubs = read_program(body)
    random = Random(seed)  # noqa: S311 - nothing is secret
    make = _sample if program == "sampler" else _estimate
    results: list[Json] = []
    left = LARGEST
    for pub in pubs:
        result, size = make(pub, random, left)
        left -= size
        results.append(result)
    return primitive_result(results, "seeded")


def _sample(pub: Pub, random: Random, most: int) -> tuple[Json, int]:
    shape, registers = _shape_of_values(pub.values), _registers(pub.circuit)
    shots = math.prod(shape) * pub.shots
    size = shots * sum(-(-bits // 8) for bits in registers.values())
    _check_size(size, most)
    fields: dict[str, object] = {}
    for name, bits in registers.items():
        width = -(-bits // 8)
        data = bytearray(random.randbytes(shots * width))
        # The first byte of a shot holds the bits that are left over.
        data[::width] = data[::width].translate(bytes(n & (0xFF >> -bits % 8) for n in range(256)))
        fields[name] = bit_array(bytes(data), bits, (*shape, pub.shots, width))
    return pub_result("SamplerPubResult", fields, shape, {"circuit_metadata": {}}), size


def _estimate(pub: Pub, random: Random, most: int) -> tuple[Json, int]:
    shape = _broadcast(_shape_of_observables(pub.observables), _shape_of_values(pub.values))
    count = math.prod(shape)
    _check_size(count * 16, most)
    values = [random.uniform(-1, 1) for _ in range(count)]
    fields = {
        "evs": array(struct.pack(f"<{count}d", *values), "<f8", shape),
        "stds": array(struct.pack("<d", pub.precision) * count, "<f8", shape),
    }
    metadata = {"shots": pub.shots, "target_precision": pub.precision, "circuit_metadata": {}}
    return pub_result("PubResult", fields, shape, metadata), count * 16


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise ProgramError(f"the results have more than {LARGEST} bytes", PROGRAM_TOO_LARGE)


def _registers(circuit: object) -> Registers:
    """Return the classical registers of a circuit and how many bits each has."""
    if isinstance(circuit, str):
        found = _BITS.findall(_COMMENT.sub("", circuit))
        registers = {name: int(size) for size, name in found}
    else:
        kind, value = _typed(circuit)
        if kind != "QuantumCircuit":
            raise ProgramError("a circuit must be OpenQASM 3 text or a QuantumCircuit")
        data = unpack(value)
        check_qpy(data)
        try:
            registers = _qpy_registers(data)
        except (struct.error, UnicodeDecodeError):
            raise ProgramError("a circuit in the QPY format can't be read") from None
    return {name: bits for name, bits in registers.items() if bits}


def _qpy_registers(data: bytes) -> Registers:
    """Return the classical registers of the first circuit.

    The layout is that of versions 13 to 17: https://quantum.cloud.ibm.com/docs/api/qiskit/qpy
    """
    version, count = data[6], _QPY_FILE.unpack_from(data)[5]
    at = _QPY_FILE.size + (8 * count if version >= _FIRST_QPY_WITH_TABLE else 0)
    name, _, phase, _, _, metadata, register_count, _, _ = _QPY_CIRCUIT.unpack_from(data, at)
    at += _QPY_CIRCUIT.size + name + phase + metadata
    registers: Registers = {}
    for _ in range(register_count):
        kind, _, bits, length, in_circuit = _QPY_REGISTER.unpack_from(data, at)
        at += _QPY_REGISTER.size
        if kind == b"c" and in_circuit:
            registers[data[at : at + length].decode()] = bits
        at += length + 8 * bits
    return registers


def _shape_of_values(values: object) -> Shape:
    """Return the shape of a sweep: that of its values without the axis of the parameters."""
    kind, value = _typed(values)
    if kind == "BindingsArray" and isinstance(value, dict):
        return tuple(cast("dict[str, Shape]", value).get("shape", ()))
    if isinstance(values, dict) and kind is None:
        # By name, each with a value or an array of them.
        first: object = next(iter(cast("dict[str, object]", values).values()), 0.0)
        return _shape(first)
    return _shape(values)[:-1]


def _shape_of_observables(observables: object) -> Shape:
    kind, value = _typed(observables)
    return _shape(value if kind == "ObservablesArray" else observables)


def _shape(value: object) -> Shape:
    """Return the shape of an array, or of a list of lists. Anything else is a single value."""
    kind, inner = _typed(value)
    if kind == "ndarray" and isinstance(inner, str):
        return _npy_shape(unpack(inner))
    value = inner if kind == "ndarray" else value
    sizes: list[int] = []
    while isinstance(value, list):
        items = cast("list[object]", value)
        sizes.append(len(items))
        value = items[0] if items else None
    return tuple(sizes)


def _npy_shape(data: bytes) -> Shape:
    try:
        magic, major, _, length = _NPY_HEADER.unpack_from(data)
        header = ast.literal_eval(data[_NPY_HEADER.size : _NPY_HEADER.size + length].decode())
        shape = header["shape"]
    except (struct.error, ValueError, SyntaxError, LookupError, TypeError):
        raise ProgramError("an array is not a .npy file") from None
    if magic != b"\x93NUMPY" or major != 1 or not _is_shape(shape):
        raise ProgramError("an array is not a .npy file of version 1")
    return cast("Shape", shape)


def _is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and all(
        type(size) is int and size >= 0 for size in cast("tuple[object, ...]", shape)
    )


def _broadcast(left: Shape, right: Shape) -> Shape:
    """Return the shape that both are stretched to."""
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right, strict=True)
    sizes: list[int] = []
    for one, other in pairs:
        if one != other and 1 not in {one, other}:
            raise ProgramError(f"observables {left} and parameter values {right} don't fit")
        sizes.append(one if other == 1 else other)
    return tuple(sizes)


def _typed(value: object) -> tuple[str | None, object]:
    """Return a value's type as the official client writes it, if it has one, and its contents."""
    if isinstance(value, dict) and "__type__" in value:
        fields = cast("Mapping[str, object]", value)
        return str(fields["__type__"]), fields.get("__value__")
    return None, None
