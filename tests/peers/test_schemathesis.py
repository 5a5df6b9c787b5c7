"""schemathesis, which makes up requests from the contract, finds nothing wrong with what the
emulator answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from itertools import count
from pathlib import Path

import pytest

from qsessions.emulator import Emulator
from tests.support.needs import need

FOLDER = Path(__file__).parent


@pytest.fixture
def schemathesis() -> Path:
    """Return the program."""
    need("schemathesis")
    return Path(sys.executable).with_name("schemathesis")


# It takes some 20 seconds on an idle machine.
@pytest.mark.timeout(300)
async def test_schemathesis_finds_nothing(
    tmp_path: Path, schemathesis: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All checks but the exempted one pass on all operations, along links too, and no request makes
    a 5xx or an error log.
    """
    report_file = tmp_path / "report.json"
    # Time goes on with every request, so that sessions and jobs live and end, and the same in every
    # run.
    seconds = count(1_800_000_000, 0.1)
    async with Emulator(
        clock=lambda: next(seconds), seed=1, partner=True, queue_seconds=20
    ) as emulator:
        # It has nothing to measure, and would be slow under measurement.
        plain = {
            name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")
        }
        process = await asyncio.create_subprocess_exec(
            schemathesis,
            f"--config-file={FOLDER / 'schemathesis.toml'}",
            "run",
            FOLDER.parent / "contract" / "sessions.openapi.yaml",
            f"--url={emulator.url}",
            f"--report-json-path={report_file}",
            cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=plain | emulator.env(),
        )
        output, _ = await process.communicate()
        report = json.loads(await asyncio.to_thread(report_file.read_text))

    assert (report["failures"], report["errors"]) == ([], []), output.decode()
    assert process.returncode == 0, output.decode()
    assert report["complete"]
    for phase in ("coverage", "fuzzing", "stateful"):
        assert report["phases"][phase]["status"] == "success"
    # What is only refused is not tested.
    operations = report["operations"]
    assert operations["tested"] == operations["total"] == len(report["valid_rates"])
    for operation, rates in report["valid_rates"].items():
        assert rates["fuzzing"]["accepted"] > 0, operation
    assert [
        request for request in emulator.requests if request.status is None or request.status >= 500
    ] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
