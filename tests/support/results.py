"""Results of jobs in the service's form, read without numpy or Qiskit."""

from __future__ import annotations

import ast
import base64
import io
import json
import zlib
from typing import Any

import attrs


@attrs.frozen
class Field:
    """An array: a register's shots, or values. `bits` is how many a register has."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    bits: int | None = None


@attrs.frozen
class PubResult:
    """What one circuit gave."""

    kind: str
    shape: tuple[int, ...]
    fields: dict[str, Field]
    metadata: Any


def read_results(body: Any) -> tuple[list[PubResult], Any]:
    """Return what each circuit gave, and the metadata of the whole."""
    whole = contents(json.loads(body) if isinstance(body, str | bytes) else body, "PrimitiveResult")
    return [read_pub(pub) for pub in whole["pub_results"]], whole["metadata"]


def read_pub(pub: Any) -> PubResult:
    """Return what one circuit gave."""
    result = pub["__value__"]
    data = contents(result["data"], "DataBin")
    assert data["field_names"] == list(data["fields"])
    fields = {name: read_field(value) for name, value in data["fields"].items()}
    return PubResult(pub["__type__"], tuple(data["shape"]), fields, result["metadata"])


def read_field(value: Any) -> Field:
    """Return a register's shots, or values."""
    if value["__type__"] == "BitArray":
        field = read_field(value["__value__"]["array"])
        return attrs.evolve(field, bits=value["__value__"]["num_bits"])
    file = io.BytesIO(zlib.decompress(base64.b64decode(contents(value, "ndarray"))))
    assert file.read(8) == b"\x93NUMPY\x01\x00"
    header = ast.literal_eval(file.read(int.from_bytes(file.read(2), "little")).decode())
    assert file.tell() % 64 == 0
    assert header["fortran_order"] is False
    return Field(header["descr"], header["shape"], file.read())


def contents(value: Any, kind: str) -> Any:
    """Return what a value of this type holds."""
    assert value["__type__"] == kind
    return value["__value__"]
