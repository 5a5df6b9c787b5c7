"""What is built can be published, and each extra is enough for what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from qsessions import __version__
from tests.support.pages import ROOT

# What must work where only this extra is installed. The smoke tests need, and so try, `test`.
PROGRAMS = {
    "": "import qsessions; print(qsessions.SessionClient, qsessions.AsyncSessionClient)",
    "emulator": "from qsessions.testing import ThreadedEmulator\n"
    "from qsessions.emulator import Emulator\n"
    "with ThreadedEmulator(Emulator()): pass",
    "ledger": "from qsessions import LocalLedger; LocalLedger()",
    "cli": "from qsessions.cli import main; main(['--version'])",
    "temporal": "from qsessions.integrations.temporal import owned_session",
    "qiskit": "from qsessions.integrations.qiskit import qiskit_session, service",
}


def run(*command: str | Path) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both distributions as a publisher does, and return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """Return the wheel."""
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """Return the wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = f"qsessions-{__version__}.dist-info/METADATA"
        return Parser().parsestr(archive.read(name).decode())


def test_an_index_accepts_both(built: Path, wheel: Path) -> None:
    """The checks of an index pass without a warning, and the wheel has nothing but the package."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())
    run(sys.executable, "-m", "check_wheel_contents", wheel)
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert tops == {"qsessions", f"qsessions-{__version__}.dist-info"}
        assert {"qsessions/py.typed", "qsessions/__init__.pyi", "qsessions/cli/schema.json"} <= set(
            archive.namelist()
        )


def test_the_sdist_has_all_that_a_checkout_has(built: Path) -> None:
    """Whoever gets the sdist can build, test and read the documentation."""
    (sdist,) = built.glob("*.tar.gz")
    tracked = run("git", "-C", ROOT, "ls-files").splitlines()
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    left_out = {name for name in tracked if not name.startswith(".")} - packed
    assert left_out == set()


def test_the_metadata(metadata: Message) -> None:
    """It has the version, as CITATION.cff, the authors, README as it is, and no address while none
    is known.
    """
    assert metadata["Version"] == __version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert metadata["Author"] == "qsessions maintainers"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata["Project-URL"] is None


def test_links_lead_to_the_repository_once_it_has_an_address() -> None:
    """With an address, README has no relative link or picture, those within the page aside."""
    from hatch_build import MetadataHook

    address = "https://example.org/owner/qsessions"
    changed: dict[str, Any] = {"version": "9.8.7"}
    MetadataHook(str(ROOT), {"address": address}).update(changed)
    text = changed["readme"]["text"]
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if ":" not in link] == []
    assert f"]({address}/blob/v9.8.7/docs/configuration.md)" in text
    assert changed["urls"]["Repository"] == address


@pytest.mark.timeout(600)
@pytest.mark.parametrize("extra", list(PROGRAMS))
def test_each_extra_is_enough(wheel: Path, tmp_path: Path, extra: str) -> None:
    """In an empty environment, each extra alone brings what its part needs."""
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[{extra}]" if extra else wheel)
    run(python, "-m", "pip", "check")
    run(python, "-I", "-W", "error", "-c", PROGRAMS[extra])
