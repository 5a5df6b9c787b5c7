"""Sessions in FastAPI's routes and in pydantic's models."""

import json
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import pytest

from qsessions import (
    ApiVersion,
    CreateSession,
    Instance,
    Mode,
    Session,
    SessionState,
    StateChange,
    UpdateSession,
    Workload,
)
from qsessions.api.codec import decode_session, decode_workloads
from qsessions.emulator import Emulator
from tests.support.needs import need
from tests.support.pages import snippets
from tests.unit.test_jsonable import SAMPLES

(PROGRAM,) = (text for text in snippets("docs/services.md", "python") if "fastapi" in text)
ANSWERS = sorted(SAMPLES.glob("session_[!bw]*.json"))
SESSION = decode_session(ANSWERS[0].read_bytes())
MODELS = [
    *(decode_session(path.read_bytes()) for path in ANSWERS),
    *decode_workloads((SAMPLES / "workloads_new_words.json").read_bytes()).workloads,
    ApiVersion(version="2026-04-15", extra={"a": [1, {"b": None}]}),
    Instance(name="i", crn="crn", plan="open", region="us-east", tags=("a",)),
    CreateSession("batch", backend="ibm_fez", max_ttl="10m"),
    UpdateSession(accepting_jobs=True, extra={"priority": [1, None]}),
]


@pytest.fixture(autouse=True)
def needs_fastapi() -> None:
    """Import it outside of an event loop, or say how to install it."""
    need("fastapi")
    import_module("fastapi.responses")
    import_module("httpx")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_model_comes_back_as_it_was(model: Any) -> None:
    """pydantic writes `to_dict` and reads it as the same value, by itself and in a strict model."""
    from pydantic import ConfigDict, TypeAdapter, create_model

    kind = type(model)
    adapter = TypeAdapter(kind)
    assert adapter.validate_python(model) is model
    assert adapter.dump_python(model) == model.to_dict()
    assert adapter.validate_json(model.to_json()) == model
    assert adapter.validate_python(model.to_dict()) == model
    config = ConfigDict(strict=True, extra="forbid", str_to_upper=True)
    outer = create_model("outer", __config__=config, inner=kind)(inner=model)
    assert outer.model_validate_json(outer.model_dump_json()) == outer


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_the_services_own_answer_can_be_read(path: Path) -> None:
    """pydantic reads what the service sends as the client does: unknown fields and states are kept,
    null and "" are absent, a time without an offset is UTC.
    """
    from pydantic import TypeAdapter

    body = path.read_bytes()
    assert TypeAdapter(Session).validate_json(body) == decode_session(body)


@pytest.mark.parametrize(
    ("kind", "value", "at"),
    [
        (Session, {}, ("id",)),
        (Session, [], ()),
        (Session, {"id": "s", "max_ttl": "soon"}, ("max_ttl",)),
        (Session, {"id": "s", "timestamps": [{"status": "open"}]}, ("timestamps", 0, "timestamp")),
        (StateChange, {"status": "", "timestamp": "2026-01-01T00:00:00Z"}, ("status",)),
        (Session, {"id": "s", "extra": 5, "new": 1}, ("extra",)),
        (CreateSession, {"mode": "batch", "max_tll": 600}, ("max_tll",)),
        (CreateSession, {"mode": "batch", "extra": {"backend": "b"}}, ()),
        (CreateSession, {"mode": "batch", "max_ttl": "10 minutes"}, ()),
        (CreateSession, {"mode": "exclusive"}, ()),
        (UpdateSession, {"accepting_jobs": "perhaps"}, ("accepting_jobs",)),
    ],
)
def test_what_cannot_be_right_is_refused(kind: type[Any], value: object, at: tuple[Any]) -> None:
    """What a model can't be made of is pydantic's own error, which names the place."""
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_json(json.dumps(value))
    (problem,) = refused.value.errors()
    assert problem["loc"] == at


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    """Serve what a service might, in this process."""
    from fastapi import Body, FastAPI
    from httpx import ASGITransport, AsyncClient

    async def sessions(state: SessionState) -> list[Session]:
        return [SESSION] if state == "active" else []

    async def listed() -> Workload | None:
        return None

    async def copies(session: Annotated[Session, Body()]) -> Session:
        return session

    async def create(request: Annotated[CreateSession, Body()]) -> CreateSession:
        return request

    app = FastAPI()
    app.add_api_route("/sessions", sessions)
    app.add_api_route("/listed", listed)
    app.add_api_route("/copies", copies, methods=["POST"])
    app.add_api_route("/sessions", create, methods=["POST"])
    transport = ASGITransport(app=app)
    async with AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_routes(client: Any) -> None:
    """A route can be declared to return sessions and to take one, and answers with `to_dict`; a
    wrong body gets a 422.
    """
    assert (await client.get("/sessions?state=active")).json() == [SESSION.to_dict()]
    assert (await client.get("/sessions?state=unheard_of")).json() == []
    assert (await client.get("/listed")).json() is None
    copied = await client.post("/copies", json=SESSION.to_dict())
    assert copied.json() == SESSION.to_dict()
    created = await client.post("/sessions", json={"mode": "batch", "max_ttl": "10m"})
    assert created.json() == CreateSession("batch", max_ttl=600).to_dict()
    bodies: list[object] = [{"mode": "batch", "max_tll": 1}, {"mode": "x"}, []]
    for wrong in bodies:
        assert (await client.post("/sessions", json=wrong)).status_code == 422


async def test_the_description_of_the_routes(client: Any) -> None:
    """OpenAPI's description has each model once, with its fields, for answers and bodies alike; a
    state is any text.
    """
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    ours = {kind.__name__ for kind in (CreateSession, Mode, Session, SessionState, StateChange)}
    assert {*schemas} == ours | {"Workload", "HTTPValidationError", "ValidationError"}
    session = schemas["Session"]
    assert {*session["properties"]} == {*SESSION.to_dict()}
    assert session["required"] == ["id"]
    assert session["description"] == "A session as the service described it at one moment."
    assert schemas["SessionState"]["type"] == "string"
    assert "enum" not in schemas["SessionState"]
    assert schemas["CreateSession"]["additionalProperties"] is False


async def test_the_routes_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service of docs/services.md creates and reads sessions, and answers with an error's facts."""
    from httpx import ASGITransport, AsyncClient

    names: dict[str, Any] = {}
    exec(compile(PROGRAM, "docs/services.md", "exec"), names)  # noqa: S102 - the page's own
    app = names["app"]
    async with Emulator(seed=1) as emulator:
        for name, value in emulator.env().items():
            monkeypatch.setenv(name, value)
        transport = ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            created = await client.post("/sessions", json={"mode": "batch", "max_ttl": "10m"})
            assert created.status_code == 200, created.text
            session_id = created.json()["id"]
            assert (await client.get(f"/sessions/{session_id}")).json()["max_ttl"] == 600
            unknown = await client.get("/sessions/unknown")
            assert (unknown.status_code, unknown.json()["type"]) == (404, "NotFound")
            await app.state.client.close(session_id)
