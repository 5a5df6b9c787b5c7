"""Results in the service's form, as the official client reads them. It needs no numpy."""

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

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


def _typed(kind: str, value: object) -> Json:
    return {"__type__": kind, "__value__": value}
