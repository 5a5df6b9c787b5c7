"""What tests/peers/ needs besides the packages that the other tests need."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

INSTALL = {
    "chromium": "apt-get install chromium",
    "curl": "apt-get install curl",
    "fastapi": "pip install fastapi httpx",
    "ip": "apt-get install iproute2",
    "ipykernel": "pip install ipykernel",
    "jq": "apt-get install jq",
    "nbclient": "pip install nbclient",
    "nest_asyncio": "pip install nest-asyncio",
    "nest_asyncio2": "pip install nest-asyncio2",
    "node": "apt-get install nodejs",
    "opentelemetry": "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http",
    "qiskit": "pip install qiskit",
    "qiskit_aer": "pip install qiskit-aer",
    "qiskit_ibm_runtime": "pip install qiskit-ibm-runtime",
    "qiskit_qasm3_import": "pip install qiskit-qasm3-import",
    "simplejson": "pip install simplejson",
    "qrmi": "pip install qrmi",
    "schemathesis": "pip install schemathesis",
    "uvicorn": "pip install uvicorn",
    "uvloop": "pip install uvloop",
}
# Chromium has a name of its own in each distribution.
NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome")}


def path(name: str) -> str | None:
    """Return the path of a command, or None where it is missing."""
    return next(filter(None, map(shutil.which, NAMES.get(name, (name,)))), None)


def need(*names: str) -> None:
    """Fail, with how to install it, where a command or a package is missing."""
    for name in names:
        is_package = INSTALL[name].startswith("pip")
        if not (importlib.util.find_spec(name) if is_package else path(name)):
            pytest.fail(f"{name} is not installed, try: {INSTALL[name]}", pytrace=False)
