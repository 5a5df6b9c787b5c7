"""The same work with other libraries. They read the bytes of the answer and, unless the name says
so, don't look into them.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from unittest import mock

import aiohttp
from multidict import CIMultiDict, istr
from yarl import URL

from benchmarks import payloads
from benchmarks.event_loop import Call
from benchmarks.rows import Bench

Work: TypeAlias = Callable[[], object]


def library(bench: Bench, name: str, package: str = "") -> Any:
    """Return a module, or None and a note where it is not installed or the run is quick."""
    if bench.quick:
        bench.leave_out(package or name, "not in a quick run")
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        bench.leave_out(package or name, "not installed")
        return None


def bare(http: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> Call:
    """Return aiohttp's `get` and `read`, and nothing else."""

    async def call() -> object:
        async with http.get(url, headers=headers) as answer:
            return await answer.read()

    return call


def as_people_write_it(
    http: aiohttp.ClientSession, url: str, headers: Mapping[str, str], model: type
) -> Call:
    """Return aiohttp with `r.json()` and a default cattrs converter."""
    converter = payloads.default_converter()

    async def call() -> object:
        async with http.get(url, headers=headers) as answer:
            answer.raise_for_status()
            return converter.structure(await answer.json(), model)

    return call


def best_session(headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """Return an aiohttp session with the public options that make it quickest, and a deadline."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers=CIMultiDict({istr(name): value for name, value in headers.items()}),
        timeout=aiohttp.ClientTimeout(total=60),
    )


def at_its_best(
    http: aiohttp.ClientSession, url: str, decode: Callable[[bytes], object] | None = None
) -> Call:
    """Return aiohttp's quickest way to read an answer, and maybe to decode it."""
    target = URL(url)

    async def call() -> object:
        answer = await http.request("GET", target)
        body = await answer.read()
        return body if decode is None else decode(body)

    return call


def json_loads(body: bytes) -> object:
    """Decode JSON."""
    return json.loads(body)


def httpx_expert(httpx: Any, client: str, headers: Mapping[str, str], limit: int) -> Any:
    """Return an httpx client that ignores the environment, with room for all callers."""
    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=limit)
    return getattr(httpx, client)(headers=headers, trust_env=False, limits=limits)


def requests_expert(requests: Any, headers: Mapping[str, str], limit: int = 10) -> Any:
    """Return a requests session that ignores the environment, with room for all callers."""
    session = requests.Session()
    session.trust_env = False
    session.headers.update(headers)
    adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=limit)
    session.mount("http://", adapter)
    return session


def official_session_details(bench: Bench, url: str) -> Work | None:
    """Return the official client's `session_details`, or None where it is not installed."""
    package = "qiskit-ibm-runtime"
    parameters = library(bench, "qiskit_ibm_runtime.api.client_parameters", package)
    if parameters is None:
        return None
    api = importlib.import_module("qiskit_ibm_runtime.api.client")
    # It exchanges its key at the first call, and keeps the token.
    with mock.patch.dict(os.environ, IAM_URL=url):
        client = api.RuntimeClient(
            parameters.ClientParameters(
                channel="ibm_quantum_platform",
                token=payloads.API_KEY,
                url=url,
                instance=payloads.CRN,
                url_resolver=lambda *_: f"{url}/v1",
            )
        )
    return lambda: client.session_details(payloads.SESSION_ID)


@contextmanager
def without_proxies() -> Iterator[None]:
    """Hide the proxies of the environment, which some of the libraries would use."""
    hidden = {name for name in os.environ if name.lower().endswith("_proxy")}
    with mock.patch.dict(os.environ):
        for name in hidden:
            del os.environ[name]
        yield
