"""Connects the official client's own tests to an emulator, as a plugin of pytest.

They take key, instance and backend from the environment. The client derives every other address from
one URL, whose port it drops: here it takes the emulator's.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from qiskit_ibm_runtime.accounts import account, utils
from qiskit_ibm_runtime.api import client_parameters

from qsessions.integrations.qiskit import without_cloud

ADDRESSES = (
    "get_iam_api_url",
    "get_global_search_api_url",
    "get_global_catalog_api_url",
    "get_resource_controller_api_url",
)
STACK = ExitStack()


def base_url(*_: object) -> str:
    """Return the address of the emulated service."""
    return os.environ["QSESSIONS_BASE_URL"] + "/v1"


def cloud_url(_: str) -> str:
    """Return the address of the emulated cloud."""
    return os.environ["IAM_URL"]


def pytest_configure() -> None:
    """Point the client to the emulator, and keep it from IBM's cloud."""
    client_parameters.default_runtime_url_resolver = base_url
    for name in ADDRESSES:
        for module in (account, utils):
            if hasattr(module, name):
                setattr(module, name, cloud_url)
    STACK.enter_context(without_cloud())


def pytest_unconfigure() -> None:
    """Let the process go."""
    STACK.close()
