"""What tests of the official client share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.needs import need
from tests.support.official_client import SCRIPT, OfficialClient


@pytest.fixture(scope="module")
def official() -> Iterator[OfficialClient]:
    """Start the client's process."""
    need("qiskit_ibm_runtime")
    # The client has nothing to measure, and would be slow under measurement. A process that forks
    # should have one thread.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    with subprocess.Popen(
        [sys.executable, SCRIPT],
        env=plain | {"OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield OfficialClient(process)
