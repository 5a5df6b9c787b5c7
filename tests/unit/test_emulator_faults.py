"""The fault plan: which requests it strikes, and what it refuses to be."""

from __future__ import annotations

import re
import tomllib
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from qsessions import AsyncSessionClient
from qsessions.cli.emulator import emulator as command
from qsessions.emulator import Emulator, Fault, FaultPlan
from qsessions.emulator.fault_kinds import OPERATIONS, FaultKind, Operation
from qsessions.emulator.faults import read_faults
from tests.support.tables import table

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


def struck(plan: FaultPlan, count: int, operation: str | None = "get") -> list[int]:
    """Count requests from 1 and give the numbers of those that any fault strikes."""
    return [number for number in range(1, count + 1) if plan.fire(operation)]


@table(
    ("when", "expected"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"nth": 3}, [3]),
        ({"times": 2}, [1, 2]),
        ({"operations": ["get"]}, [1, 2, 3, 4, 5]),
        ({"operations": ["create", "close"]}, []),
    ],
)
def test_when_a_fault_strikes(when: dict[str, Any], expected: list[int]) -> None:
    """A fault strikes the requests that match, as often as it says."""
    assert struck(FaultPlan([Fault(kind="reset", **when)]), 5) == expected


def test_a_rate_repeats_with_its_seed() -> None:
    """The same seed strikes the same requests whatever other faults there are; another seed strikes
    others.
    """

    def run(seed: int, *others: Fault) -> list[int]:
        plan = FaultPlan(
            [*others, Fault(kind="latency", seconds=0, operations=["get"], rate=0.3, seed=seed)]
        )
        return [number for number in range(200) if any(f.operations for f in plan.fire("get"))]

    assert run(1) == run(1) == run(1, Fault(kind="reset", rate=0.5))
    assert run(1) != run(2)
    assert 40 < len(run(1)) < 80


def test_faults_with_a_rate_strike_by_themselves() -> None:
    """Of two faults with a rate, each strikes requests that the other doesn't, also where they are
    written alike.
    """
    plan = FaultPlan([Fault(kind="latency", seconds=0, rate=0.3), Fault(kind="reset", rate=0.3)])
    struck_by = [{fault.kind for fault in plan.fire("create")} for _ in range(100)]
    assert struck_by.count({"latency"}) > 10
    assert struck_by.count({"reset"}) > 10
    twice = FaultPlan([Fault(kind="reset", rate=0.3)] * 2)
    assert [len(twice.fire("create")) for _ in range(100)].count(1) > 10


@table("rate", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_a_rate_holds_from_the_start(rate: float) -> None:
    """A rate strikes its share of the first requests, and of the next ones, whatever the seed."""
    for seed in range(10):
        strikes = struck(FaultPlan([Fault(kind="reset", rate=rate, seed=seed)]), 1000)
        stretch = round(10 / rate)
        for begin in range(0, 1000 - stretch, stretch):
            count = sum(begin < number <= begin + stretch for number in strikes)
            assert 8 <= count <= 12, (seed, begin)


def test_a_rate_with_a_number_of_times() -> None:
    """A fault at a rate stops when it has struck so many times."""
    assert len(struck(FaultPlan([Fault(kind="reset", rate=0.5, times=3)]), 100)) == 3


def test_faults_without_operations_strike_unknown_paths_too() -> None:
    """An unknown path is struck by a fault for everything, and by no fault for an operation."""
    plan = FaultPlan([Fault(kind="reset"), Fault(kind="reset", operations=OPERATIONS)])
    assert len(plan.fire(None)) == 1
    assert len(plan.fire("create")) == 2


@table(
    ("kind", "operation", "other"),
    [
        ("iam_down", "token", "get"),
        ("stuck_drain", "update", "get"),
        ("stuck_drain", "drain", "get"),
        ("young_404", "drain", "workloads"),
        ("young_404", "close", "workloads"),
    ],
)
def test_a_kind_that_is_about_some_operations_alone(
    kind: FaultKind, operation: Operation, other: Operation
) -> None:
    """Only what the kind is about is struck and counted."""
    plan = FaultPlan([Fault(kind=kind, nth=2)])
    assert [len(plan.fire(name)) for name in (operation, other, operation, operation)] == [
        0,
        0,
        1,
        0,
    ]
    narrower = FaultPlan([Fault(kind=kind, operations=[operation])])
    assert len(narrower.fire(operation)) == 1


def test_a_plan_can_be_cleared_and_looked_at() -> None:
    """The plan shows what was set and what came of it; a cleared one strikes nothing."""
    plan = FaultPlan([Fault(kind="answer", status=503, operations=["get"], nth=2)])
    struck(plan, 3)
    plan.fire("create")
    assert plan.shown() == [
        {
            "kind": "answer",
            "status": 503,
            "operations": ("get",),
            "nth": 2,
            "matched": 3,
            "fired": 1,
        }
    ]
    plan.clear()
    assert (plan.shown(), plan.fire("get")) == ([], ())
    with pytest.raises(TypeError, match="takes Fault values, not dict"):
        plan.add({"kind": "reset"})  # type: ignore[arg-type]


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "kind: is missing"),
    ({"kind": "explode"}, "kind: must be one of: answer, latency"),
    ({"kind": ["reset"]}, "kind: must be"),
    ({"kind": "reset", "speed": 1}, "speed: no such field; there are: kind, operations"),
    ({"kind": "reset", "operations": "get"}, "operations: must be a list"),
    ({"kind": "reset", "operations": 5}, "operations: must be a list"),
    ({"kind": "reset", "operations": ["fetch"]}, "operations: must be among: create, get"),
    ({"kind": "reset", "operations": [["get"]]}, "operations: must be among: create, get"),
    (
        {"kind": "iam_down", "operations": ["get"]},
        "operations: has no meaning for the kind 'iam_down'",
    ),
    (
        {"kind": "young_404", "operations": ["get", "create"]},
        "operations: has no meaning for the kind 'young_404', which is about close, drain, get, update alone",
    ),
    ({"kind": "stuck_drain", "seconds": 1}, "seconds: has no meaning for the kind 'stuck_drain'"),
    ({"kind": "stuck_drain", "after": True}, "after: has no meaning"),
    ({"kind": "young_404", "seconds": -1}, "seconds: must be a number from 0 to 3600"),
    ({"kind": "reset", "rate": 0}, "rate: must be"),
    ({"kind": "reset", "rate": 1.1}, "rate: must be"),
    ({"kind": "reset", "rate": True}, "rate: must be"),
    ({"kind": "reset", "rate": "all"}, "rate: must be"),
    ({"kind": "reset", "seed": 1.5}, "seed: must be"),
    ({"kind": "reset", "nth": 0}, "nth: must be"),
    ({"kind": "reset", "nth": True}, "nth: must be"),
    ({"kind": "reset", "times": 1.5}, "times: must be"),
    ({"kind": "reset", "nth": 1, "times": 1}, "nth: excludes"),
    ({"kind": "reset", "nth": 1, "rate": 0.5}, "nth: excludes"),
    ({"kind": "reset", "after": "yes"}, "after: must be"),
    ({"kind": "drip", "seconds": 1, "after": True}, "after: has no meaning"),
    ({"kind": "reset", "status": 500}, "status: has no meaning for the kind 'reset'"),
    ({"kind": "answer"}, "status: is needed"),
    ({"kind": "answer", "status": 199}, "status: must be from 200 to 599"),
    ({"kind": "answer", "status": "500"}, "status: must be"),
    ({"kind": "answer", "status": 600}, "status: must be"),
    ({"kind": "latency"}, "seconds: is needed"),
    ({"kind": "latency", "seconds": -1}, "seconds: must be a number from 0 to 3600"),
    ({"kind": "latency", "seconds": 3601}, "seconds: must be"),
    ({"kind": "latency", "seconds": float("nan")}, "seconds: must be"),
    (
        {"kind": "clock_skew", "seconds": 1e9},
        "seconds: must be a number from -100000000 to 100000000",
    ),
    ({"kind": "truncate", "keep_bytes": -1}, "keep_bytes: must be"),
    ({"kind": "answer", "status": 500, "headers": ["a"]}, "headers: must be"),
    ({"kind": "answer", "status": 500, "headers": {"a b": "c"}}, "headers.a b: is no header"),
    (
        {"kind": "answer", "status": 500, "headers": {"Content-Length": "1"}},
        "headers.Content-Length: is no",
    ),
    (
        {"kind": "answer", "status": 500, "headers": {"X": "a\r\nY: b"}},
        "headers.X: must be text on one line",
    ),
    ({"kind": "answer", "status": 500, "headers": {"X": 5}}, "headers.X: must be"),
    ({"kind": "answer", "status": 500, "retry_after": -1}, "retry_after: must be"),
    ({"kind": "answer", "status": 500, "retry_after": "a\n"}, "retry_after: must be"),
    ({"kind": "answer", "status": 500, "body": {1, 2}}, "body: must be"),
    ({"kind": "answer", "status": 500, "body": float("nan")}, "body: must be"),
    ({"kind": "answer", "status": 500, "body": "\ud800"}, "body: must be"),
]


@table(("fields", "message"), BAD)
def test_a_fault_that_makes_no_sense(fields: dict[str, Any], message: str) -> None:
    """Every mistake is told with its place in the file, and in Python with the field's name."""
    with pytest.raises(ValueError, match=re.escape(f"faults[1].{message}")):
        read_faults({"faults": [{"kind": "reset"}, fields]})
    if "kind" in fields and "speed" not in fields:
        with pytest.raises(ValueError, match=rf"\A{re.escape(message)}"):
            Fault(**fields)


@table("value", [None, [], {}, {"faults": {}}, {"fault": []}, {"faults": [], "x": 1}])
def test_a_plan_that_is_none(value: object) -> None:
    """What is no list of faults is refused as a whole."""
    with pytest.raises(ValueError, match=r"\Afaults: must be the only thing"):
        read_faults(value)


def test_a_fault_that_is_no_object() -> None:
    """A list may hold objects only."""
    with pytest.raises(ValueError, match=re.escape("faults[0]: must be an object")):
        read_faults({"faults": ["reset"]})


def test_the_documented_file_is_a_plan() -> None:
    """The TOML of the documentation is read as what its comments say."""
    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    throttle, lost, proxy = read_faults(tomllib.loads(example))
    assert throttle == Fault(
        kind="answer", operations=["create"], times=2, status=429, retry_after=1
    )
    assert lost == Fault(kind="reset", operations=["create"], nth=3, after=True)
    assert (proxy.rate, proxy.seed, proxy.status, proxy.headers) == (0.1, 7, 502, {"Server": "cdn"})


def test_the_documentation_knows_every_kind_field_and_operation() -> None:
    """The tables name all that a fault can have, and nothing else."""
    page = PAGE.read_text(encoding="utf-8").partition("# What goes wrong")[2]
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) - {"kind"}
    fields = set(Fault.__annotations__) - {"kind"}
    kinds = set(Fault.__annotations__["kind"].__args__)
    assert named == fields | kinds
    (listed,) = re.findall(r"which requests, a list: ([^|]*)\|", page)
    assert re.findall(r"`(\w+)`", listed) == list(OPERATIONS)


def test_every_operation_can_be_struck() -> None:
    """The names that a plan takes are those of the service's routes, and the client's words for
    some of their requests.
    """
    routes = set(Emulator()._application().router.named_resources())
    words = set(OPERATIONS) - routes
    assert routes < set(OPERATIONS)
    assert words == {"drain", "has_pending_jobs"}
    assert all(hasattr(AsyncSessionClient, word) for word in words)


def test_the_documentation_knows_every_option() -> None:
    """The table of options has each argument of the emulator, and each option of the command."""
    page = PAGE.read_text(encoding="utf-8").partition("## Time")[0]
    rows = re.findall(r"^\| `([\w(.)]+)`[^|]*\| (?:`--([\w-]+)`)? *\|", page, re.MULTILINE)
    arguments = {argument for argument, _ in rows} - {"Emulator(...)", "add_instance(...)", "log"}
    assert arguments == set(signature(Emulator).parameters)
    assert {option.replace("-", "_") for _, option in rows if option} == set(
        signature(command).parameters
    )
