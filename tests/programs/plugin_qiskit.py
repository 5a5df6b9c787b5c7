"""A test with the fixture of the official client's service, with a stand-in for that client, or
without it where the environment says so.
"""

from __future__ import annotations

import os
import socket
import sys
from types import ModuleType
from typing import Any

import pytest

from qsessions.testing.threaded import ThreadedEmulator


class QiskitRuntimeService:
    """Keeps what it was made with."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.iam_url = os.environ["IAM_URL"]


client, exceptions = ModuleType("qiskit_ibm_runtime"), ModuleType("qiskit_ibm_runtime.exceptions")
vars(client).update(QiskitRuntimeService=QiskitRuntimeService, Session=object, Batch=object)
vars(exceptions).update(IBMInputValueError=ValueError)
is_there = "WITHOUT_QISKIT" not in os.environ
sys.modules["qiskit_ibm_runtime"] = client if is_there else None  # type: ignore[assignment]
sys.modules["qiskit_ibm_runtime.exceptions"] = exceptions


def test_service(
    qsessions_qiskit_service: QiskitRuntimeService, qsessions_emulator: ThreadedEmulator
) -> None:
    """The service is made for the emulator, and the cloud is out of reach."""
    arguments = qsessions_qiskit_service.arguments
    assert arguments["token"] == qsessions_emulator.api_key
    assert arguments["instance"] == qsessions_emulator.crn
    assert arguments["url_resolver"]() == f"{qsessions_emulator.url}/v1"
    assert qsessions_qiskit_service.iam_url == qsessions_emulator.iam_url
    with pytest.raises(Exception, match="is IBM's cloud"):
        socket.getaddrinfo("quantum.cloud.ibm.com", 443)


def test_other() -> None:
    """Outside of such a test nothing is kept from anywhere."""
    from qsessions.integrations import qiskit

    assert qiskit._guard.holders == 0
