"""The official client's own integration tests, which IBM runs against its service, unmodified on the
emulator.

They come with the client's source distribution, which is fetched by its name. Each test that doesn't
pass is named here with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

import attrs
import pytest

from qsessions.emulator import Emulator
from qsessions.emulator.service.values import Plan
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.needs import need

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "qiskit-ibm-runtime"
QPU = "ibm_fez"
# Their tests take the backend that is called so, which IBM has, for most jobs.
BACKENDS = [f"{QPU}:12", "test_eagle:12", "ibm_torino:12"]

INTERNAL = "asks for an instance of the plan `internal`, which only IBM has"
MOCKS = "needs a mock backend, which only IBM has"
FRACTIONAL = "needs a backend of IBM's by its name, with fractional gates"
SIMULATOR = "IBM skips it: its service doesn't take these options"
NOT_PASSING = {
    "test_account.py::test_initializing_service_no_instance": INTERNAL,
    "test_account.py::test_account_plans_preference": INTERNAL,
    "test_backend.py::test_backends_include_mocks": MOCKS,
    "test_backend.py::test_run_dry_run": MOCKS,
    "test_backend.py::test_use_fractional_gates_flag": FRACTIONAL,
    "test_backend.py::test_backend_fractional_gates_cache_behavior": FRACTIONAL,
    "test_retrieve_job.py::test_retrieve_jobs_include_mocks": MOCKS,
    "test_estimator_v2.py::test_pec": SIMULATOR,
}
PROGRAM = "runs programs that the emulator has no simulation of"
NOT_RUN = {
    "test_proxies.py": "listens on a fixed port, and reaches IBM through a proxy by https alone",
    "test_fake_backends.py": "runs locally, without a service",
    "test_calibrator.py": PROGRAM,
    "test_executor.py": PROGRAM,
    "test_executor_estimator.py": PROGRAM,
    "test_executor_noise_learner.py": PROGRAM,
    "test_executor_sampler.py": PROGRAM,
    "test_noise_learner.py": PROGRAM,
    "test_noise_learner_v3.py": PROGRAM,
}


@attrs.frozen
class Group:
    """Modules that share an emulator, with how many tests each has.

    Attributes:
        speed: The emulator's. Jobs take 2 seconds of its time; tests that wait for a job to wait or
            to run look at it once a second.
    """

    modules: dict[str, int]
    speed: float = 1.0
    plan: Plan = "paid"


GROUPS = {
    "jobs": Group({"test_job.py": 19, "test_results.py": 2}),
    "retrieval": Group(
        {"test_retrieve_job.py": 14, "test_ibm_job.py": 14, "test_ibm_job_attributes.py": 9}
    ),
    "accounts": Group(
        {
            "test_account.py": 15,
            "test_auth_client.py": 1,
            "test_backend.py": 30,
            "test_backend_serialization.py": 2 * len(BACKENDS),
        },
        plan="open",
    ),
    "primitives": Group(
        {"test_session.py": 5, "test_sampler_v2.py": 51, "test_estimator_v2.py": 3}, speed=40
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetch the source of the client that is installed, and return its folder."""
    need("qiskit_ibm_runtime", "simplejson")
    folder = tmp_path_factory.mktemp("source")
    wanted = f"{PACKAGE}=={version(PACKAGE)}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}"]
    done = subprocess.run(
        [*pip, "--no-binary", PACKAGE, wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(
            f"{wanted} can't be fetched as source: let pip reach an index that has it, directly or "
            f"through PIP_INDEX_URL. pip says:\n{done.stderr[-2000:]}",
            pytrace=False,
        )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@attrs.frozen
class Run:
    """A run of their tests in a process of its own."""

    process: subprocess.Popen[bytes]
    report: Path
    log: Path


@pytest.fixture(scope="module")
def runs(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """Start all groups: they mostly wait."""
    with ExitStack() as stack:
        yield {
            name: start(group, source, tmp_path_factory.mktemp(name), stack)
            for name, group in GROUPS.items()
        }


def start(group: Group, source: Path, folder: Path, stack: ExitStack) -> Run:
    """Start an emulator and a group of their tests on it."""
    emulator = stack.enter_context(
        ThreadedEmulator(
            Emulator(
                seed=1,
                speed=group.speed,
                queue_seconds=1.5,
                backends=BACKENDS,
                plan=group.plan,
                interactive_ttl=3600,
                # Their client renews tokens by its own clock.
                token_seconds=86_400,
            )
        )
    )
    emulator.add_instance(plan=group.plan, tags=["one"])
    # Their account has run jobs before.
    for crn in emulator.crns:
        for _ in range(12):
            emulator.submit_job(backend=QPU, seconds=0, crn=crn)
    emulator.advance("1m")
    run = Run(
        stack.enter_context(
            subprocess.Popen(
                [*command(group.modules), f"--junit-xml={folder / 'report.xml'}"],
                cwd=source,
                env=environment(emulator, folder),
                stdout=stack.enter_context((folder / "log").open("wb")),
                stderr=subprocess.STDOUT,
            )
        ),
        folder / "report.xml",
        folder / "log",
    )
    stack.callback(run.process.kill)
    return run


def command(modules: Sequence[str] | dict[str, int]) -> list[str]:
    """Return how their tests are run: as they are, and with one plugin of ours."""
    plugins = [
        "no:qsessions",
        "no:schemathesis",
        "no:cacheprovider",
        "tests.programs.official_tests",
    ]
    return [
        *(sys.executable, "-m", "pytest", "-q", "-rA", "--tb=short"),
        *(word for plugin in plugins for word in ("-p", plugin)),
        *(f"test/integration/{module}" for module in modules),
    ]


def environment(emulator: ThreadedEmulator, home: Path) -> dict[str, str]:
    """Return the variables that their tests and the client read. No account of the user is seen."""
    ours = ("QISKIT_IBM_", "QSESSIONS_", "COVERAGE", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    cloud = ("GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL", "RESOURCE_CONTROLLER_URL")
    return {
        **kept,
        **emulator.env(),
        **dict.fromkeys(cloud, emulator.iam_url),
        "QISKIT_IBM_URL": emulator.iam_url,
        "QISKIT_IBM_QPU": QPU,
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(home),
        "OPENBLAS_NUM_THREADS": "1",
    }


def test_every_module_of_theirs_is_decided_on(source: Path) -> None:
    """Each module of their integration tests is run, or named with the reason why not."""
    theirs = {path.name for path in (source / "test" / "integration").glob("test_*.py")}
    ours = [name for group in GROUPS.values() for name in group.modules]
    assert theirs == {*ours, *NOT_RUN}


# The slowest group takes some 90 seconds, and all run at the same time.
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", GROUPS)
def test_their_tests_pass(runs: dict[str, Run], name: str) -> None:
    """Of a group of their tests just those that are named here don't pass."""
    run, group = runs[name], GROUPS[name]
    run.process.wait()
    log = run.log.read_text(encoding="utf-8", errors="replace")
    assert run.report.exists(), log[-5000:]
    outcomes = dict(outcomes_of(run.report))
    counts = dict.fromkeys(group.modules, 0)
    for test in outcomes:
        counts[test.partition("::")[0]] += 1
    assert counts == group.modules
    failing = {test: told for test, told in outcomes.items() if told is not None}
    expected = {test for test in NOT_PASSING if test.partition("::")[0] in group.modules}
    assert failing.keys() == expected, f"{failing}\n{log[-20000:]}"


def outcomes_of(report: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each test, as module and name, and None or what kept it from passing."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - our own pytest's
        module = case.attrib["classname"].split(".")[2]
        told = [each.get("message", "") for each in case if each.tag in OUTCOMES]
        yield f"{module}.py::{case.attrib['name']}", told[0][:300] if told else None


OUTCOMES = {"failure", "error", "skipped"}
