"""Results in the service's form, as the official client reads them. It needs no numpy."""

import ast
import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

Shape = tuple[int, ...]
Json = dict[str, object]


def array(data: bytes, dtype: Literal["|u1", "<f8"], shape: Shape) -> Json:
    """Return an array, whose data is in C order: a compressed .npy file."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    # The header ends with a line feed, at a multiple of 64 bytes.
    header += " " * (-(len(header) + 11) % 64) + "\n"
    file = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data
    packed = base64.b64encode(zlib.compress(file)).decode()
    return _typed("ndarray", packed)


def bit_array(data: bytes, num_bits: int, shape: Shape) -> Json:
    """Return the shots of a register. The last two sizes of `shape` are shots and bytes of one."""
    return _typed("BitArray", {"array": array(data, "|u1", shape), "num_bits": num_bits})


def pub_result(
    kind: Literal["SamplerPubResult", "PubResult"],
    fields: Mapping[str, object],
    shape: Shape,
    metadata: Mapping[str, object],
) -> Json:
    """Return what one circuit gave: a sampler's registers, or an estimator's values."""
    data = {"field_names": list(fields), "shape": shape, "fields": dict(fields)}
    return _typed(kind, {"data": _typed("DataBin", data), "metadata": dict(metadata)})


def primitive_result(pub_results: Sequence[Json], simulator: str) -> bytes:
    """Return a job's results. The metadata names what computed them."""
    metadata = {"version": 2, "simulator": simulator}
    whole = _typed("PrimitiveResult", {"pub_results": list(pub_results), "metadata": metadata})
    return json.dumps(whole).encode()


def results_shape(results: bytes) -> str:
    """Return in words what a job's results hold, such as "c 2 bits, 100 shots", circuit by circuit.

    Those in a row that are alike are told once, with their number.
    """
    try:
        pubs = [
            _pub_shape(pub["__value__"]) for pub in json.loads(results)["__value__"]["pub_results"]
        ]
    except Exception:  # noqa: BLE001 - a worker's process may answer anything
        return f"{len(results)} bytes"
    alike = [(shape, len(list(group))) for shape, group in groupby(pubs)]
    shapes = [shape if count == 1 else f"{count} times ({shape})" for shape, count in alike]
    return "; ".join(shapes) or "no circuits"


def _pub_shape(pub: Mapping[str, Any]) -> str:
    fields: Mapping[str, Any] = pub["data"]["__value__"]["fields"]
    shapes: list[str] = []
    for name, field in fields.items():
        value = field["__value__"]
        if field["__type__"] == "BitArray":
            *shots, _ = _array_shape(value["array"]["__value__"])
            bits = _counted([value["num_bits"]], "bit")
            shapes.append(f"{name} {bits}, {_counted(shots, 'shot')}")
        else:
            shapes.append(f"{name} {_counted(_array_shape(value), 'value')}")
    return ", ".join(shapes) or "no registers"


def _array_shape(packed: str) -> Shape:
    """Return the shape in the header of an array's file, which is the start of it."""
    start = zlib.decompressobj().decompress(base64.b64decode(packed[:1024]), 256)
    header: dict[str, Shape] = ast.literal_eval(start[10:].partition(b"\n")[0].decode())
    return header["shape"]


def _counted(sizes: Sequence[int], noun: str) -> str:
    number = "x".join(map(str, sizes)) or "1"
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


def _typed(kind: str, value: object) -> Json:
    return {"__type__": kind, "__value__": value}
