"""Requests as one client or another writes them, byte by byte, and what the official one asks
beside the contract.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from qsessions.emulator import Emulator

GRANT = "urn:ibm:params:oauth:grant-type:apikey"


async def speak(
    emulator: Emulator, first: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, str, Any]:
    """Send a request as it stands; give the answer's status, its head in lower case, and its body,
    read as JSON.
    """
    url = URL(emulator.iam_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(body))}
    lines = {"Host": "x", "Connection": "close", **length, **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{first}\r\n{head}\r\n".encode() + body)
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, text = answer.partition("\r\n\r\n")
    return int(head.split()[1]), head.lower(), json.loads(text) if text else None


def credentials(emulator: Emulator) -> dict[str, str]:
    """Give good credentials."""
    return {"Authorization": f"apikey {emulator.api_key}", "Service-CRN": emulator.crn}


@pytest.mark.parametrize(
    "named",
    [
        {"backend": "ibm_torino"},
        {"backend_name": "ibm_torino"},
        {"backend": "ibm_torino", "backend_name": "ibm_torino"},
        {"backend": "", "backend_name": "ibm_torino"},
    ],
)
async def test_either_or_both_spellings_of_backend(
    emulator: Emulator, named: dict[str, str]
) -> None:
    """A session's backend may be named the new way, the old way, or both."""
    body = json.dumps({"mode": "batch", **named}).encode()
    status, _, session = await speak(
        emulator, "POST /api/v1/sessions HTTP/1.1", credentials(emulator), body
    )
    assert (status, session["backend_name"]) == (200, "ibm_torino")


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_header_names_in_any_case(emulator: Emulator, spell: Any, version: str) -> None:
    """Header names count in any case, and every scheme's word does; no version header means the
    default one.
    """
    for scheme in ("apikey", "APIKEY"):
        good = {"authorization": f"{scheme} {emulator.api_key}", "service-crn": emulator.crn}
        headers = {spell(name): value for name, value in good.items()}
        status, _, page = await speak(emulator, f"GET /api/v1/workloads {version}", headers)
        assert (status, page["workloads"]) == (200, [])


@pytest.mark.parametrize("accepted", ["identity", "gzip, deflate, br", "identity;q=1, *;q=0"])
async def test_answers_are_never_compressed(emulator: Emulator, accepted: str) -> None:
    """Whoever accepts identity only, and whoever accepts more, gets an answer that needs no
    decoding, with its length.
    """
    status, head, body = await speak(
        emulator,
        "GET /api/v1/backends HTTP/1.1",
        credentials(emulator) | {"Accept-Encoding": accepted},
    )
    assert (status, len(body["devices"])) == (200, 3)
    assert "content-encoding" not in head
    assert "content-length" in head


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=UTF-8", "", "text/plain"]
)
async def test_a_body_in_chunks_of_any_declared_type(emulator: Emulator, content_type: str) -> None:
    """A JSON body is read whole when it comes in chunks, whatever type is declared for it."""
    chunks = b'9\r\n{"mode": \r\n8\r\n"batch"}\r\n0\r\n\r\n'
    headers = credentials(emulator) | {"Transfer-Encoding": "chunked", "Content-Type": content_type}
    status, _, session = await speak(emulator, "POST /api/v1/sessions HTTP/1.1", headers, chunks)
    assert (status, session["mode"]) == (200, "batch")


FORMS = [
    "grant_type={grant}&apikey={key}",
    "apikey={key}&grant_type={grant}",
    "response_type=cloud_iam&apikey={key}&grant_type={grant}",
    "apikey={key}&unknown=&response_type=cloud_iam&grant_type={escaped}",
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_form_in_any_order(emulator: Emulator, form: str) -> None:
    """The token request's fields may come in any order, escaped or not, with others between them."""
    body = form.format(grant=GRANT, escaped=quote(GRANT, safe=""), key=emulator.api_key).encode()
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    status, _, answer = await speak(emulator, "POST /identity/token HTTP/1.1", headers, body)
    assert status == 200
    bearer = credentials(emulator) | {"Authorization": f"bearer {answer['access_token']}"}
    assert (await speak(emulator, "GET /api/v1/workloads HTTP/1.1", bearer))[0] == 200


async def test_unknown_query_parameters_are_passed_over(emulator: Emulator) -> None:
    """The contract names a part of the service's parameters; the official client sends others,
    which change nothing.
    """
    for path in (
        "jobs?exclude_params=true",
        "workloads?user=me&tags=x",
        "backends?include_mocks=True",
    ):
        status, _, _ = await speak(emulator, f"GET /api/v1/{path} HTTP/1.1", credentials(emulator))
        assert status == 200


async def test_backends(emulator: Emulator) -> None:
    """Backends are listed with their queues, and each tells one configuration and properties that
    fit it.
    """
    emulator.submit_job(backend="ibm_fez", seconds=60)
    good = credentials(emulator)
    _, _, listed = await speak(emulator, "GET /api/v1/backends HTTP/1.1", good)
    assert {device["name"]: device["queue_length"] for device in listed["devices"]} == {
        "ibm_fez": 1,
        "ibm_torino": 0,
        "ibm_marrakesh": 0,
    }
    for device in listed["devices"]:
        path = f"/api/v1/backends/{device['name']}"
        _, _, configuration = await speak(emulator, f"GET {path}/configuration HTTP/1.1", good)
        _, _, properties = await speak(emulator, f"GET {path}/properties HTTP/1.1", good)
        assert configuration["backend_name"] == properties["backend_name"] == device["name"]
        assert configuration["n_qubits"] == len(properties["qubits"]) == device["qubits"]
        places = [
            (gate["name"], qubits)
            for gate in configuration["gates"]
            for qubits in gate["coupling_map"]
        ]
        assert [(gate["gate"], gate["qubits"]) for gate in properties["gates"]] == places


@pytest.mark.parametrize("part", ["status", "configuration", "properties"])
async def test_unknown_backends(emulator: Emulator, part: str) -> None:
    """Nothing is told of a backend that does not exist, nor to whoever shows no credential."""
    first = f"GET /api/v1/backends/{{}}/{part} HTTP/1.1"
    status, _, answer = await speak(emulator, first.format("ibm_none"), credentials(emulator))
    assert (status, answer["errors"][0]["code"]) == (404, 1007)
    assert (await speak(emulator, first.format("ibm_fez"), {}))[0] == 401


@pytest.mark.parametrize(
    ("plan", "name", "pricing"), [("open", "Open", "free"), ("paid", "Pay-as-you-go", "paygo")]
)
async def test_instances_of_the_account(plan: Any, name: str, pricing: str) -> None:
    """The search names all instances to whoever shows a credential, without a CRN, and the catalog
    names a plan to all.
    """
    async with Emulator(plan=plan) as emulator:
        emulator.add_instance(plan="open")
        search = "POST /v3/resources/search?limit=100 HTTP/1.1"
        for wrong in ({}, {"Authorization": "Bearer wrong"}):
            assert (await speak(emulator, search, wrong, b"{}"))[0] == 401
        _, _, found = await speak(
            emulator, search, {"Authorization": f"apikey {emulator.api_key}"}, b"{}"
        )
        instance, other = found["items"]
        assert (instance["crn"], other["crn"]) == emulator.crns
        plan_id = instance["service_plan_unique_id"]
        _, _, entry = await speak(emulator, f"GET /{plan_id} HTTP/1.1", {})
        assert entry["overview_ui"]["en"]["display_name"] == name
        assert entry["metadata"]["pricing"]["type"] == pricing
        assert (await speak(emulator, f"GET /{plan_id}x HTTP/1.1", {}))[0] == 404
