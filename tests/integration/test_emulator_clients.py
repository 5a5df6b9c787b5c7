"""Requests as one client or another writes them, byte by byte, and what the official one asks
beside the contract.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from typing import Any
from urllib.parse import quote

import pytest

from qsessions.emulator import Emulator
from tests.support.caller import GRANT, speak
from tests.support.tables import table


async def ask(
    emulator: Emulator, first: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, str, Any]:
    """Send a request as it stands; return the answer's status, its head in lower case, and its body,
    read as JSON.
    """
    length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(body))}
    lines = {"Host": "x", "Connection": "close", **length, **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    answer = await speak(emulator, f"{first}\r\n{head}\r\n{body.decode()}")
    head, _, text = answer.partition("\r\n\r\n")
    return int(head.split()[1]), head.lower(), json.loads(text) if text else None


def credentials(emulator: Emulator) -> dict[str, str]:
    """Return good credentials."""
    return {"Authorization": f"apikey {emulator.api_key}", "Service-CRN": emulator.crn}


async def test_either_or_both_spellings_of_backend(emulator: Emulator) -> None:
    """A session's backend may be named the new way, the old way, or both."""
    for named in (
        {"backend": "ibm_torino"},
        {"backend_name": "ibm_torino"},
        {"backend": "ibm_torino", "backend_name": "ibm_torino"},
        {"backend": "", "backend_name": "ibm_torino"},
    ):
        body = json.dumps({"mode": "batch", **named}).encode()
        status, _, session = await ask(
            emulator, "POST /api/v1/sessions HTTP/1.1", credentials(emulator), body
        )
        assert (status, session["backend_name"]) == (200, "ibm_torino"), named


async def test_header_names_in_any_case(emulator: Emulator) -> None:
    """Header names count in any case, and so does a scheme's word, in either version of HTTP; no
    version header means the default one.
    """
    spellings: tuple[Callable[[str], str], ...] = (str.lower, str.upper, str.title)
    for spell, scheme, version in product(spellings, ("apikey", "APIKEY"), ("1.1", "1.0")):
        good = {"authorization": f"{scheme} {emulator.api_key}", "service-crn": emulator.crn}
        headers = {spell(name): value for name, value in good.items()}
        status, _, page = await ask(emulator, f"GET /api/v1/workloads HTTP/{version}", headers)
        assert (status, page["workloads"]) == (200, []), (headers, version)


async def test_answers_are_never_compressed(emulator: Emulator) -> None:
    """Whoever accepts identity only, and whoever accepts more, gets an answer that needs no
    decoding, with its length.
    """
    for accepted in ("identity", "gzip, deflate, br", "identity;q=1, *;q=0"):
        headers = credentials(emulator) | {"Accept-Encoding": accepted}
        status, head, body = await ask(emulator, "GET /api/v1/backends HTTP/1.1", headers)
        assert (status, len(body["devices"])) == (200, 3), accepted
        assert "content-encoding" not in head, accepted
        assert "content-length" in head, accepted


async def test_a_body_in_chunks_of_any_declared_type(emulator: Emulator) -> None:
    """A JSON body is read whole when it comes in chunks, whatever type is declared for it."""
    chunks = b'9\r\n{"mode": \r\n8\r\n"batch"}\r\n0\r\n\r\n'
    for declared in ("application/json", "application/json; charset=UTF-8", "", "text/plain"):
        headers = {"Transfer-Encoding": "chunked", "Content-Type": declared}
        status, _, session = await ask(
            emulator, "POST /api/v1/sessions HTTP/1.1", credentials(emulator) | headers, chunks
        )
        assert (status, session["mode"]) == (200, "batch"), declared


async def test_a_form_in_any_order(emulator: Emulator) -> None:
    """The token request's fields may come in any order, escaped or not, with others between them."""
    for form in (
        f"grant_type={GRANT}&apikey={emulator.api_key}",
        f"apikey={emulator.api_key}&grant_type={GRANT}",
        f"response_type=cloud_iam&apikey={emulator.api_key}&grant_type={GRANT}",
        f"apikey={emulator.api_key}&unknown=&response_type=cloud_iam&grant_type={quote(GRANT, safe='')}",
    ):
        headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
        first = "POST /identity/token HTTP/1.1"
        status, _, answer = await ask(emulator, first, headers, form.encode())
        assert status == 200, form
        bearer = credentials(emulator) | {"Authorization": f"bearer {answer['access_token']}"}
        assert (await ask(emulator, "GET /api/v1/workloads HTTP/1.1", bearer))[0] == 200, form


async def test_a_filter_that_is_not_served_is_refused(emulator: Emulator) -> None:
    """Parameters that the official client sends are taken; a filter that the emulator doesn't have
    is refused, so that no answer looks as if it had been applied.
    """
    for path, expected in (
        ("jobs?exclude_params=true&include_mocks=True", 200),
        ("workloads?user=me&tags=x&include_mocks=True", 200),
        ("backends?include_mocks=True", 200),
        ("jobs?program_id=sampler", 400),
        ("workloads?session=x", 400),
        ("backends/ibm_fez/configuration?calibration_id=none", 400),
        ("backends/ibm_fez/properties?updated_before=2026-01-01T00:00:00", 200),
    ):
        status, _, _ = await ask(emulator, f"GET /api/v1/{path} HTTP/1.1", credentials(emulator))
        assert status == expected, path


async def test_backends(emulator: Emulator) -> None:
    """Backends are listed with their queues, and each has one configuration and properties that
    fit it.
    """
    emulator.submit_job(backend="ibm_fez", seconds=60)
    good = credentials(emulator)
    _, _, listed = await ask(emulator, "GET /api/v1/backends HTTP/1.1", good)
    assert {device["name"]: device["queue_length"] for device in listed["devices"]} == {
        "ibm_fez": 1,
        "ibm_torino": 0,
        "ibm_marrakesh": 0,
    }
    for device in listed["devices"]:
        path = f"/api/v1/backends/{device['name']}"
        _, _, configuration = await ask(emulator, f"GET {path}/configuration HTTP/1.1", good)
        _, _, properties = await ask(emulator, f"GET {path}/properties HTTP/1.1", good)
        assert configuration["backend_name"] == properties["backend_name"] == device["name"]
        assert configuration["n_qubits"] == len(properties["qubits"]) == device["qubits"]
        places = [
            (gate["name"], qubits)
            for gate in configuration["gates"]
            for qubits in gate["coupling_map"]
        ]
        assert [(gate["gate"], gate["qubits"]) for gate in properties["gates"]] == places


async def test_unknown_backends(emulator: Emulator) -> None:
    """Nothing is shown of a backend that does not exist, nor to whoever shows no credential."""
    for part in ("status", "configuration", "properties"):
        first = f"GET /api/v1/backends/{{}}/{part} HTTP/1.1"
        status, _, answer = await ask(emulator, first.format("ibm_none"), credentials(emulator))
        assert (status, answer["errors"][0]["code"]) == (404, 1007), part
        assert (await ask(emulator, first.format("ibm_fez"), {}))[0] == 401, part


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
            assert (await ask(emulator, search, wrong, b"{}"))[0] == 401
        _, _, found = await ask(
            emulator, search, {"Authorization": f"apikey {emulator.api_key}"}, b"{}"
        )
        instance, other = found["items"]
        assert (instance["crn"], other["crn"]) == emulator.crns
        plan_id = instance["service_plan_unique_id"]
        _, _, entry = await ask(emulator, f"GET /{plan_id} HTTP/1.1", {})
        assert entry["overview_ui"]["en"]["display_name"] == name
        assert entry["metadata"]["pricing"]["type"] == pricing
        assert (await ask(emulator, f"GET /{plan_id}x HTTP/1.1", {}))[0] == 404


@table(
    ("query", "body"),
    [
        ("", b""),
        ("", b"[]"),
        ("", b"[" * 100_000),
        ("", b'{"fields": "crn"}'),
        ("", b'{"fields": [1]}'),
        ("", b'{"search_cursor": null}'),
        ("", b'{"search_cursor": "next"}'),
        ("", b'{"search_cursor": "' + b"9" * 5000 + b'"}'),
        ("?limit=0", b"{}"),
        ("?limit=1001", b"{}"),
        ("?limit=ten", b"{}"),
        ("?limit=" + "9" * 5000, b"{}"),
    ],
)
async def test_a_search_that_makes_no_sense(emulator: Emulator, query: str, body: bytes) -> None:
    """A search for instances that can't be read is a 400, whatever is wrong with it."""
    headers = {"Authorization": f"apikey {emulator.api_key}"}
    first = f"POST /v3/resources/search{query} HTTP/1.1"
    assert (await ask(emulator, first, headers, body))[0] == 400
