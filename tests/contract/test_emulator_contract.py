"""Every answer of the emulator, good and bad, against the schemas of the contract."""

import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import attrs
import pytest
import yaml
from aiohttp import ClientSession
from openapi_schema_validator import OAS30Validator, oas30_format_checker

from qsessions.emulator import Emulator
from tests.support.caller import Clock as StandingClock
from tests.support.tables import table

METHODS = ("get", "post", "put", "patch", "delete")
# The emulator never throttles, is never down, and its backends are never reserved; what breaks it
# on purpose comes with its own tests.
NOT_PROVOKED = frozenset({"423", "429", "503"})

# What a partner's create must have.
PARTNER = {"interactive_ttl": 60}

Json = dict[str, Any]


def resolved(node: Any, root: Json) -> Any:
    """A part of the contract with every $ref replaced by what it points to. The contract has no
    cycles.
    """
    if isinstance(node, list):
        return [resolved(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    fields = cast("Json", node)
    if "$ref" not in fields:
        return {key: resolved(value, root) for key, value in fields.items()}
    target: Any = root
    for part in str(fields["$ref"]).removeprefix("#/").split("/"):
        target = target[part]
    return resolved(target, root)


def read_contract() -> Json:
    """The contract, without references."""
    text = Path(__file__).with_name("sessions.openapi.yaml").read_text(encoding="utf-8")
    root = yaml.safe_load(text)
    return cast("Json", resolved(root, root))


@attrs.frozen
class Operation:
    """One operation of the contract."""

    id: str
    method: str
    path: str
    responses: Mapping[str, Json]
    guarded: bool


def operations_of(contract: Json) -> Iterator[Operation]:
    """All operations of the contract."""
    for path, item in contract["paths"].items():
        for method in METHODS:
            if method in item:
                facts = item[method]
                guarded = bool(facts.get("security", contract["security"]))
                yield Operation(
                    facts["operationId"], method.upper(), path, facts["responses"], guarded
                )


CONTRACT = read_contract()
OPERATIONS = {operation.id: operation for operation in operations_of(CONTRACT)}
SCHEMAS: Json = CONTRACT["components"]["schemas"]


def check(schema: Json, body: object) -> None:
    """Raise unless a body fits a schema, formats included."""
    OAS30Validator(schema, format_checker=oas30_format_checker).validate(body)


def check_answer(operation: Operation, status: int, text: str, content_type: str) -> Any:
    """Raise unless the contract knows this status and the body fits it; returns the body."""
    documented = operation.responses[str(status)]
    if "content" not in documented:
        assert text == ""
        return None
    assert content_type in documented["content"]
    body = json.loads(text) if content_type == "application/json" else text
    check(documented["content"][content_type]["schema"], body)
    return body


@attrs.define
class Clock(StandingClock):
    """A clock that stands still, and can be broken."""

    broken: bool = False

    def __call__(self) -> float:
        """Unix seconds."""
        if self.broken:
            raise ZeroDivisionError
        return super().__call__()


@attrs.frozen
class Bench:
    """An emulator with something of everything: sessions in every state, jobs with every status."""

    http: ClientSession
    emulator: Emulator
    clock: Clock
    names: Mapping[str, str]

    async def send(
        self,
        operation_id: str,
        *,
        name: str = "",
        body: object = None,
        query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Call an operation and check its answer; `name` stands in its path."""
        operation = OPERATIONS[operation_id]
        path = operation.path.replace("{id}", quote(name)).replace("{name}", quote(name))
        sent = self.credentials() if headers is None else headers
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        async with self.http.request(
            operation.method, f"{self.emulator.url}{path}{query}", data=data, headers=sent
        ) as answer:
            text = await answer.text()
            return answer.status, check_answer(operation, answer.status, text, answer.content_type)

    def credentials(self, **others: str) -> dict[str, str]:
        """Good credentials; keywords replace or add headers, with _ for -."""
        good = {
            "Authorization": f"apikey {self.emulator.api_key}",
            "Service-CRN": self.emulator.crn,
        }
        return good | {name.replace("_", "-"): value for name, value in others.items()}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A running emulator with a history."""
    clock = Clock()
    async with Emulator(clock=clock, partner=True) as emulator, ClientSession() as http:
        names: dict[str, str] = {}
        made = Bench(http, emulator, clock, names)
        for name, mode in (
            ("open", "dedicated"),
            ("active", "batch"),
            ("inactive", "dedicated"),
            ("closed", "dedicated"),
            ("spent", "dedicated"),
        ):
            # Only this one's limits are short enough to be reached here.
            ttls = (
                {"max_ttl": 100, "active_ttl": 20, "interactive_ttl": 20}
                if name == "spent"
                else PARTNER
            )
            names[name] = (await made.send("create_session", body={"mode": mode, **ttls}))[1]["id"]
        names["failed job"] = [emulator.submit_job(names["spent"], seconds=30) for _ in range(6)][
            -1
        ]
        emulator.submit_job(names["inactive"], seconds=5)
        names["completed job"] = emulator.submit_job(seconds=5)
        clock.at += 70.5
        names["running job"] = emulator.submit_job(names["active"], seconds=500)
        names["queued job"] = [emulator.submit_job(names["active"], seconds=500) for _ in range(5)][
            -1
        ]
        for _ in range(6):
            names["cancelled job"] = emulator.submit_job(names["closed"], seconds=500)
        await made.send("delete_session_close", name=names["closed"])
        yield made


async def test_the_bench_shows_every_state(bench: Bench) -> None:
    """Sessions in each state and jobs with each status fit the contract; together they show all its
    fields, and none is null needlessly.
    """
    states = {}
    shown: set[str] = set()
    shown_of_jobs: set[str] = set()
    for name in ("open", "active", "inactive", "closed", "spent"):
        session = (await bench.send("get_session_information", name=bench.names[name]))[1]
        assert [field for field, value in session.items() if value is None] in (
            [],
            ["backend_name"],
        )
        shown |= session.keys()
        states[name] = session["state"]
    assert states == {name: name for name in states} | {"spent": "closed"}
    for name, reference in bench.names.items():
        if name.endswith("job"):
            job = (await bench.send("get_job", name=reference))[1]
            assert None not in job.values()
            shown_of_jobs |= job.keys()
            assert name == f"{job['status'].lower()} job"
    assert shown == SCHEMAS["Session"]["properties"].keys()
    assert shown_of_jobs == SCHEMAS["Job"]["properties"].keys()


async def test_workloads_of_every_kind(bench: Bench) -> None:
    """Pages of all workloads fit the contract and show every mode and every status."""
    seen: set[tuple[str, str]] = set()
    shown: set[str] = set()
    query = "?limit=7&sort=-createdAt"
    while query:
        page = (await bench.send("find_instance_workloads", query=query))[1]
        for workload in page["workloads"]:
            shown |= workload.keys()
            seen.add((workload["mode"], workload["status"]))
        query = "?" + page["next"]["href"].partition("?")[2] if "next" in page else ""
    properties = SCHEMAS["Workload"]["properties"]
    assert shown == properties.keys()
    assert {mode for mode, _ in seen} == set(properties["mode"]["enum"])
    assert {status for _, status in seen} == set(properties["status"]["enum"])


@attrs.frozen
class Case:
    """A request that must be answered with a status; `name` is a word of the bench, or stands for
    itself.
    """

    operation: str
    status: int
    name: str = ""
    body: object = None
    query: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    broken: bool = False

    @property
    def changes_something(self) -> bool:
        """Whether the bench isn't the same afterwards."""
        return self.status < 400 and OPERATIONS[self.operation].method != "GET"


UNKNOWN_CRN = "crn:v1:bluemix:public:quantum-computing:eu-de:a/0123:4567::"
JOB = {"program_id": "sampler", "backend": "ibm_fez"}
CASES = [
    Case(
        "create_session",
        200,
        body={"mode": "dedicated", "backend": "ibm_fez", "max_ttl": 600, **PARTNER},
    ),
    Case("create_session", 400, body={"mode": "neither"}),
    Case("create_session", 400, body={"mode": "batch", "backend": "ibm_none", **PARTNER}),
    Case("create_session", 400),
    Case("create_session", 500, body={"mode": "batch", **PARTNER}, broken=True),
    Case("get_session_information", 200, "open"),
    Case("get_session_information", 400, "x" * 501),
    Case("get_session_information", 404, "none"),
    Case("get_session_information", 500, "open", broken=True),
    Case("update_session_state", 204, "open", {"accepting_jobs": False}),
    Case("update_session_state", 204, "active", {"accepting_jobs": True}),
    Case("update_session_state", 400, "open", {"accepting_jobs": "no"}),
    Case("update_session_state", 404, "none", {"accepting_jobs": False}),
    Case("update_session_state", 204, "closed", {"accepting_jobs": True}),
    Case("update_session_state", 500, "open", {"accepting_jobs": False}, broken=True),
    Case("delete_session_close", 204, "active"),
    Case("delete_session_close", 204, "closed"),
    Case("delete_session_close", 400, "x" * 501),
    Case("delete_session_close", 404, "none"),
    Case("delete_session_close", 500, "open", broken=True),
    Case("get_versions", 200),
    Case("find_instance_workloads", 200),
    Case("find_instance_workloads", 200, query="?status=failed&status=canceled&search=none"),
    Case("find_instance_workloads", 200, query="?limit=50&user=me&tags=a&tags=b"),
    Case("find_instance_workloads", 400, query="?limit=0"),
    Case("find_instance_workloads", 400, query="?limit=51"),
    Case("create_job", 200, body=JOB),
    Case("create_job", 200, body={**JOB, "tags": ["a"], "private": True, "session_id": "open"}),
    Case("create_job", 413, body={**JOB, "params": {"long": "x" * 50 * 2**20}}),
    Case("create_job", 400, body={}),
    Case("create_job", 404, body={**JOB, "session_id": "none"}),
    Case("create_job", 404, body={**JOB, "backend": "ibm_none"}),
    Case("create_job", 409, "closed", {**JOB, "session_id": "closed"}),
    Case("list_jobs", 200),
    Case("list_jobs", 200, query="?pending=true&limit=1&offset=1"),
    Case(
        "list_jobs",
        200,
        query="?limit=0&offset=-1&sort=ASC&exclude_params=false&program=sampler&tags=a",
    ),
    Case("list_jobs", 400, query="?offset=first"),
    Case("list_jobs", 400, query="?pending=maybe"),
    Case("get_job", 200, "running job"),
    Case("get_job", 200, "running job", query="?exclude_params=true"),
    Case("get_job", 404, "none"),
    Case("cancel_job", 204, "queued job"),
    Case("cancel_job", 204, "running job"),
    Case("cancel_job", 404, "none"),
    Case("cancel_job", 409, "failed job"),
    Case("delete_job", 204, "completed job"),
    Case("delete_job", 204, "failed job"),
    Case("delete_job", 400, "running job"),
    Case("delete_job", 404, "none"),
    Case("get_job_results", 200, "completed job"),
    Case("get_job_results", 204, "running job"),
    Case("get_job_results", 204, "failed job"),
    Case("get_job_results", 204, "cancelled job"),
    Case("get_job_results", 404, "none"),
    Case("get_job_metrics", 200, "completed job"),
    Case("get_job_metrics", 200, "queued job"),
    Case("get_job_metrics", 404, "none"),
    Case("get_job_logs", 200, "failed job"),
    Case("get_job_logs", 404, "none"),
    Case("replace_job_tags", 204, "queued job", {"tags": ["a", "b"]}),
    Case("replace_job_tags", 204, "completed job", {"tags": []}),
    Case("replace_job_tags", 400, "completed job", {}),
    Case("replace_job_tags", 400, "completed job", {"tags": "a"}),
    Case("replace_job_tags", 404, "none", {"tags": []}),
    Case("get_backend_status", 200, "ibm_fez"),
    Case("get_backend_status", 404, "ibm_none"),
    Case("get_instance", 200),
    Case("get_instance_configuration", 200),
    Case("get_usage", 200),
]
for guarded in (operation for operation in OPERATIONS.values() if operation.guarded):
    refused = [
        Case(guarded.id, 400, "open", headers={"IBM-API-Version": "1999-01-01"}),
        Case(guarded.id, 401, "open", headers={"Authorization": "apikey wrong"}),
        Case(guarded.id, 403, "open", headers={"Service-CRN": "crn:none"}),
        Case(guarded.id, 404, "open", headers={"Service-CRN": UNKNOWN_CRN}),
    ]
    # The contract's answers differ: not every operation that needs a CRN has a 403, for example.
    CASES += [case for case in refused if str(case.status) in guarded.responses]


@table("case", [case for case in CASES if not case.changes_something])
async def test_answer_fits_the_contract(bench: Bench, case: Case) -> None:
    """A refused or reading request gets the status that the contract has for it, and a body that
    fits.
    """
    await answer_fits(bench, case)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.changes_something],
    ids=lambda case: f"{case.operation} {case.name}",
)
async def test_answer_to_a_change_fits_the_contract(bench: Bench, case: Case) -> None:
    """A request that changes something gets the status that the contract has for it, and a body
    that fits.
    """
    await answer_fits(bench, case)


async def answer_fits(bench: Bench, case: Case) -> None:
    """Send the request of a case and check its answer."""
    body = case.body
    if isinstance(body, dict) and "session_id" in body:
        fields = cast("Json", body)
        body = {**fields, "session_id": bench.names.get(fields["session_id"], fields["session_id"])}
    bench.clock.broken = case.broken
    status, _ = await bench.send(
        case.operation,
        name=bench.names.get(case.name, case.name),
        body=body,
        query=case.query,
        headers=bench.credentials(**case.headers),
    )
    assert status == case.status


def test_every_documented_status_is_provoked() -> None:
    """The cases above hold every operation and every status that the emulator can be brought to
    answer.
    """
    documented = {
        (operation.id, int(status))
        for operation in OPERATIONS.values()
        for status in operation.responses
        if status not in NOT_PROVOKED
    }
    assert {(case.operation, case.status) for case in CASES} == documented


async def test_answers_outside_the_operations(bench: Bench) -> None:
    """Unknown paths, wrong methods and bodies that are no JSON are told in the contract's error
    form.
    """
    emulator, http = bench.emulator, bench.http
    for method, path, data, status in (
        ("GET", "/v1/none", b"", 404),
        ("PUT", "/v1/sessions", b"", 405),
        ("POST", "/v1/sessions", b"{", 400),
        ("POST", "/v1/sessions", b"\xff", 400),
    ):
        url = f"{emulator.url}{path}"
        async with http.request(method, url, data=data, headers=bench.credentials()) as answer:
            assert answer.status == status
            body = await answer.json()
        check(SCHEMAS["ErrorContainer"], body)
        assert body["trace"]
        assert body["errors"]
