"""The programs of jobs without Qiskit: what is read of a request, and results from a seed."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

import pytest

from qsessions.emulator.programs import pubs as reading, sandbox, seeded
from qsessions.emulator.programs.form import array, results_shape
from qsessions.emulator.programs.pubs import LARGEST, ProgramError, read_program, unpack
from qsessions.emulator.programs.worker import FAILURE, RESULTS, _answer
from tests.support.results import Field, PubResult, read_results
from tests.support.tables import table

BELL = """
OPENQASM 3.0;
include "stdgates.inc";
qubit[2] q;  // bit[7] not_this;
bit[2] c;
/* bit[7] nor_this; */
h q[0]; cx q[0], q[1];
c = measure q;
"""
SEVERAL = "OPENQASM 3.0; qubit[12] q; bit[9] long; bit alone; bit[1]single; bit [ 3 ] spaced = measure q[0:2];"


def packed(data: bytes) -> str:
    """Return data as the official client packs it."""
    return base64.b64encode(zlib.compress(data)).decode()


def qpy(version: int, *registers: tuple[bytes, str, int, bool]) -> Any:
    """Return a circuit as the official client sends it, as far as its registers."""
    table = bytes(8) if version >= 16 else b""
    file = struct.pack("!6s4BQcc", b"QISKIT", version, 2, 0, 0, 1, b"p", b"q") + table
    head = struct.pack("!HcHIIQIQI", 4, b"f", 8, 2, 2, 2, len(registers), 0, 0)
    body = b"name" + bytes(8) + b"{}"
    for kind, name, bits, in_circuit in registers:
        body += struct.pack("!c?IH?", kind, True, bits, len(name.encode()), in_circuit)
        body += name.encode() + bytes(8 * bits)
    return {"__type__": "QuantumCircuit", "__value__": packed(file + head + body)}


def values(*shape: int) -> Any:
    """Return an array of values as the official client sends it."""
    count = 1
    for size in shape:
        count *= size
    return array(bytes(8 * count), "<f8", shape)


def run(program: str, *pubs: object, seed: int = 1, **params: Any) -> list[PubResult]:
    """Return what the circuits of a job gave."""
    body = {"program_id": program, "params": {"pubs": pubs, **params}}
    results, metadata = read_results(seeded.run(json.dumps(body).encode(), seed))
    assert metadata == {"version": 2, "simulator": "seeded"}
    return results


def failure(program: str, *pubs: object, **params: Any) -> ProgramError:
    """Return why a job fails."""
    with pytest.raises(ProgramError) as failed:
        run(program, *pubs, **params)
    return failed.value


@table(
    ("pub", "params", "shape", "registers"),
    [
        ([BELL], {}, (), {"c": ((4096, 1), 2)}),
        (BELL, {}, (), {"c": ((4096, 1), 2)}),
        ([BELL, None, None], {"options": {"default_shots": 5}}, (), {"c": ((5, 1), 2)}),
        ([BELL, [], 7], {"options": {"default_shots": 5}}, (), {"c": ((7, 1), 2)}),
        (
            [SEVERAL, None, 10],
            {},
            (),
            {"long": ((10, 2), 9), "single": ((10, 1), 1), "spaced": ((10, 1), 3)},
        ),
        ([BELL, values(2), 3], {}, (), {"c": ((3, 1), 2)}),
        ([BELL, values(4, 5, 2), 3], {}, (4, 5), {"c": ((4, 5, 3, 1), 2)}),
        ([BELL, [[0.1, 0.2]] * 6, 3], {}, (6,), {"c": ((6, 3, 1), 2)}),
        ([BELL, {"a": [0.1] * 6, "b": [0.2] * 6}, 3], {}, (6,), {"c": ((6, 3, 1), 2)}),
        ([BELL, {"a": values(4, 5)}, 3], {}, (4, 5), {"c": ((4, 5, 3, 1), 2)}),
        (
            [BELL, {"__type__": "BindingsArray", "__value__": {"shape": [4], "data": {}}}, 3],
            {},
            (4,),
            {"c": ((4, 3, 1), 2)},
        ),
        (
            [BELL, {"__type__": "ndarray", "__value__": [[1, 2]] * 3}, 3],
            {},
            (3,),
            {"c": ((3, 3, 1), 2)},
        ),
    ],
)
def test_a_samplers_shapes(
    pub: object, params: dict[str, Any], shape: Any, registers: dict[str, tuple[Any, int]]
) -> None:
    """Each register of OpenQASM 3 has as many shots as asked for, for each set of parameters."""
    (result,) = run("sampler", pub, **params)
    assert (result.kind, result.shape) == ("SamplerPubResult", shape)
    shown = {name: (field.shape, field.bits) for name, field in result.fields.items()}
    assert shown == registers
    for field in result.fields.values():
        sizes = 1
        for size in field.shape:
            sizes *= size
        assert (field.dtype, len(field.data)) == ("|u1", sizes)


@pytest.mark.parametrize("version", [13, 15, 16, 17])
def test_registers_of_qpy(version: int) -> None:
    """The classical registers are read from the QPY format; others, and empty ones, are none."""
    circuit = qpy(
        version,
        (b"q", "q", 3, True),
        (b"c", "left", 2, True),
        (b"c", "elsewhere", 2, False),
        (b"c", "größe", 9, True),
        (b"c", "empty", 0, True),
    )
    (result,) = run("sampler", [circuit, None, 3])
    assert {name: field.bits for name, field in result.fields.items()} == {"left": 2, "größe": 9}


@table(
    ("observables", "sweep", "shape"),
    [
        ("ZZ", None, ()),
        ({"ZZ": 1, "XX": 2}, [], ()),
        (["ZZ", "XX"], None, (2,)),
        ([["ZZ"], ["XX"], ["YY"]], values(4, 1), (3, 4)),
        (["ZZ", "XX"], values(5, 2, 3), (5, 2)),
        ({"__type__": "ObservablesArray", "__value__": [["ZZ"]]}, values(7, 1), (1, 7)),
    ],
)
def test_an_estimators_shapes(observables: object, sweep: object, shape: Any) -> None:
    """Values and their errors have the shape that observables and parameters make together."""
    (result,) = run("estimator", [BELL, observables, sweep, 0.25])
    assert (result.kind, result.shape) == ("PubResult", shape)
    assert result.metadata["target_precision"] == 0.25
    assert list(result.fields) == ["evs", "stds"]
    for field in result.fields.values():
        assert (field.dtype, field.shape) == ("<f8", shape)
    count = len(result.fields["stds"].data) // 8
    assert set(floats(result.fields["stds"])) == {0.25}
    assert len(floats(result.fields["evs"])) == count
    assert all(-1 <= value <= 1 for value in floats(result.fields["evs"]))


def floats(field: Field) -> tuple[float, ...]:
    """Return the numbers of an array."""
    return struct.unpack(f"<{len(field.data) // 8}d", field.data)


@table(
    ("program", "pubs", "shape"),
    [
        ("sampler", [[BELL, None, 100]], "c 2 bits, 100 shots"),
        ("sampler", [[BELL, values(4, 5, 2), 3]], "c 2 bits, 4x5x3 shots"),
        ("sampler", [["bit[1] one; bit[9] nine;", None, 1]], "one 1 bit, 1 shot, nine 9 bits, 1 shot"),
        ("sampler", [[BELL, None, 1]] * 3 + [[BELL, None, 2]], "3 times (c 2 bits, 1 shot); c 2 bits, 2 shots"),
        ("sampler", ["qubit q;"], "no registers"),
        ("sampler", [], "no circuits"),
        ("estimator", [[BELL, "ZZ"]], "evs 1 value, stds 1 value"),
        ("estimator", [[BELL, ["ZZ", "XX"], values(5, 2, 3)]], "evs 5x2 values, stds 5x2 values"),
        ("sampler", [[BELL, None, 100_000]], "c 2 bits, 100000 shots"),
    ],
)  # fmt: skip
def test_the_shape_of_results_in_words(program: str, pubs: list[object], shape: str) -> None:
    """What results hold is told circuit by circuit: registers with bits and shots, or values."""
    body = {"program_id": program, "params": {"pubs": pubs}}
    assert results_shape(seeded.run(json.dumps(body).encode(), 1)) == shape


@table(
    "results", [b"", b"[]", b"ab", b'{"__value__": {"pub_results": [{"__value__": {"data": 1}}]}}']
)
def test_results_of_no_known_shape(results: bytes) -> None:
    """Of what has another form, the size is told."""
    assert results_shape(results) == f"{len(results)} bytes"


@table(
    ("options", "shots"),
    [
        ({}, 4096),
        ({"default_precision": 0.05}, 400),
        ({"default_shots": 1000}, 1000),
        ({"default_precision": 0}, round(1 / 1e-9**2)),
        ({"twirling": {"enable_gates": True, "num_randomizations": 16}}, 4096),
        (
            {"twirling": {**(each := {"num_randomizations": 16, "shots_per_randomization": 100})}},
            4096,
        ),
        ({"twirling": {"enable_gates": True, **each}}, 1600),
        ({"twirling": {"enable_measure": True, **each}, "default_shots": 9}, 1600),
        ({"twirling": {"enable_gates": True, **each, "num_randomizations": "auto"}}, 4096),
    ],
)
def test_the_shots_of_an_estimator(options: dict[str, object], shots: int) -> None:
    """An estimator reports the shots of its twirling, or those that the precision needs."""
    (result,) = run("estimator", [BELL, "ZZ"], options=options)
    assert result.metadata["shots"] == shots


@table(
    ("options", "precision"),
    [
        ({}, 1 / 64),
        ({"default_precision": 0.5}, 0.5),
        ({"default_precision": 0.5, "default_shots": 16}, 0.25),
    ],
)
def test_the_precision_that_is_taken(options: dict[str, object], precision: float) -> None:
    """Without a precision of its own a circuit has that of the options, where shots go first."""
    (result,) = run("estimator", [BELL, "ZZ"], options=options)
    assert result.metadata["target_precision"] == precision


def test_bits_and_seeds() -> None:
    """Bits are random, only those of the register are set, and a seed gives the same again."""
    (first,), (again,), (other,) = (
        run("sampler", [SEVERAL, None, 1000], seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    long = first.fields["long"].data
    assert set(long[::2]) == {0, 1}
    assert max(long[1::2]) > 250
    assert set(first.fields["single"].data) == {0, 1}
    assert set(first.fields["spaced"].data) == set(range(8))


def test_circuits_one_after_another() -> None:
    """Each circuit of a job has its own result, in their order; no circuits have none."""
    results = run("sampler", [BELL, None, 1], [SEVERAL, None, 2])
    assert [list(result.fields) for result in results] == [["c"], ["long", "single", "spaced"]]
    assert run("sampler") == run("estimator") == []


@table(
    ("program", "pub", "reason"),
    [
        ("sampler", [], "params.pubs[0] must have 1 to 3 entries"),
        ("sampler", [BELL, None, 1, 1], "params.pubs[0] must have 1 to 3 entries"),
        ("estimator", [BELL, "Z", None, 1, 1], "params.pubs[0] must have 1 to 4 entries"),
        ("sampler", [BELL, None, 0], "params.pubs[0]: shots must be a whole number, 1 or more"),
        ("sampler", [BELL, None, True], "params.pubs[0]: shots must be a whole number, 1 or more"),
        ("estimator", [BELL, "Z", None, -1], "params.pubs[0]: precision must be a number"),
        ("estimator", [BELL, "Z", None, "1"], "params.pubs[0]: precision must be a number"),
        ("sampler", [1], "a circuit must be OpenQASM 3 text or a QuantumCircuit"),
        ("sampler", [{"__type__": "settings"}], "a circuit must be OpenQASM 3 text"),
        ("sampler", [{"__type__": "QuantumCircuit", "__value__": 1}], "not base64 of compressed"),
        ("sampler", [{"__type__": "QuantumCircuit", "__value__": "é"}], "not base64 of compressed"),
        ("sampler", [{"__type__": "QuantumCircuit", "__value__": "AAAA"}], "not base64 of compre"),
        (
            "sampler",
            [{"__type__": "QuantumCircuit", "__value__": packed(b"QISKIT")}],
            "a circuit is not in the QPY format",
        ),
        (
            "sampler",
            [{"__type__": "QuantumCircuit", "__value__": packed(b"PICKLED")}],
            "a circuit is not in the QPY format",
        ),
        ("sampler", [qpy(12)], "a circuit is in version 12 of the QPY format; send version 13"),
        (
            "sampler",
            [{"__type__": "QuantumCircuit", "__value__": packed(b"QISKIT\x0d")}],
            "a circuit in the QPY format can't be read",
        ),
        (
            "sampler",
            [BELL, {"__type__": "ndarray", "__value__": packed(b"no")}],
            "not a .npy file",
        ),
        (
            "sampler",
            [
                BELL,
                {
                    "__type__": "ndarray",
                    "__value__": packed(b"\x93NUMPY\x02\x00\x0f\x00{'shape': (1,)}"),
                },
            ],
            "an array is not a .npy file of version 1",
        ),
        (
            "estimator",
            [BELL, ["Z", "X"], values(3, 1)],
            "observables (2,) and parameter values (3,) don't fit",
        ),
    ],
)
def test_what_is_refused(program: str, pub: list[object], reason: str) -> None:
    """A circuit that can't be read fails the job, with what is wrong where."""
    failed = failure(program, pub)
    assert reason in failed.reason
    assert failed.code == 9422


@table("params", [{"pubs": {}}, {"pubs": [], "options": [1]}])
def test_parameters_that_are_none(params: dict[str, object]) -> None:
    """Parameters of another form fail the job."""
    with pytest.raises(ProgramError, match="must be a list, and params"):
        read_program(json.dumps({"program_id": "sampler", "params": params}).encode())


@table(
    ("execution", "is_refused"),
    [
        ({"meas_type": "kerneled"}, True),
        ({"meas_type": "avg_kerneled"}, True),
        ({"meas_type": "classified", "init_qubits": True}, False),
        ({}, False),
    ],
)
def test_what_is_measured(execution: dict[str, object], is_refused: bool) -> None:
    """Only bits are measured: what asks for raw signals fails instead of getting bits."""
    options = {"execution": execution}
    if is_refused:
        assert (
            "meas_type must be 'classified'" in failure("sampler", [BELL], options=options).reason
        )
    else:
        assert run("sampler", [BELL], options=options)


@table(
    ("program", "pubs"),
    [
        ("sampler", [[BELL, None, LARGEST + 1]]),
        ("sampler", [[BELL, None, 1000], [BELL, None, LARGEST]]),
        ("sampler", [["bit[99999999999] c;", None, 1]]),
        ("estimator", [[BELL, "Z", array(b"", "<f8", (1000, 100_000, 1))]]),
    ],
)
def test_results_that_are_too_large(program: str, pubs: list[object]) -> None:
    """A job with more results than the emulator can hold fails at once."""
    failed = failure(program, *pubs)
    assert failed.reason == f"the results have more than {LARGEST} bytes"
    assert failed.code == 9413


def test_a_value_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that would become too many are not unpacked."""
    monkeypatch.setattr(reading, "LARGEST", 2**20)
    assert unpack(base64.b64encode(zlib.compress(bytes(2**20))).decode()) == bytes(2**20)
    with pytest.raises(ProgramError, match="a value has more than 1048576 bytes") as failed:
        unpack(base64.b64encode(zlib.compress(bytes(2**20 + 1))).decode())
    assert failed.value.code == 9413


class Panic(BaseException):
    """What a library that isn't in Python raises."""


@table(
    ("error", "answer"),
    [
        (ProgramError("why", 7), ["why", 7]),
        (MemoryError(), ["the program needs more memory than there is", 9413]),
        (ValueError("what"), ["ValueError: what", 9422]),
        (Panic("at " + "x" * 1000), ["Panic: at " + "x" * 490, 9422]),
    ],
)
def test_what_a_worker_answers_for_an_error(error: BaseException, answer: list[object]) -> None:
    """Whatever a program raises, the worker answers with a reason and a code."""

    def program(body: bytes, seed: int) -> bytes:
        raise error

    kind, content = _answer(program, b"", 1)
    facts = json.loads(content)
    assert kind == FAILURE
    # The default code is the reader's.
    assert [*facts, 9422][:2] == answer


def test_what_a_worker_answers() -> None:
    """Results go as they are; too many of them are a failure."""
    assert _answer(lambda body, seed: body * seed, b"ab", 2) == (RESULTS, b"abab")
    kind, content = _answer(lambda body, seed: bytes(LARGEST + 1), b"", 1)
    assert (kind, json.loads(content)[1]) == (FAILURE, 9413)


@table(
    ("event", "arguments", "is_refused"),
    [
        ("socket.__new__", (), True),
        ("socket.getaddrinfo", (), True),
        ("subprocess.Popen", (), True),
        ("os.system", (), True),
        ("os.remove", (), True),
        ("import", (), False),
        ("open", ("/etc/hosts", "r", 0), False),
        ("open", ("/tmp/x", "w", 0o1101), True),  # noqa: S108 - nothing is opened
        ("open", (b"/tmp/x", None, 2), True),
        ("open", (3, "w", 1), False),
        ("open", ("", None, None), False),
    ],
)
def test_what_a_program_may_not_do(
    event: str, arguments: tuple[Any, ...], is_refused: bool
) -> None:
    """Sockets, processes and changes of files are refused, reading and open descriptors are not."""
    try:
        sandbox._refuse(event, arguments)
    except PermissionError:
        assert is_refused
    else:
        assert not is_refused
