"""What README and docs/ say about tests, files and commands is true, and their code is run."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import qsessions
from qsessions import QSessionsError
from qsessions.cli.app import COMMANDS
from qsessions.emulator.service.validation import VERSIONS

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
}
FAILURES = PAGES["docs/failures.md"]
DEFINED = {
    name
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(
        r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
}
# The tests that run the code of a page, for each of its languages. The gate runs README's commands
# that make a virtual environment.
RUN_BY = {
    ("CONTRIBUTING.md", "sh"): {"test_the_steps_of_the_gate"},
    ("README.md", "python"): {
        "test_the_program_in_a_page_runs_as_pasted",
        "test_the_qiskit_program_of_the_readme",
        "test_tests_in_the_pages_pass",
    },
    ("README.md", "sh"): {"test_the_commands_of_the_readme"},
    ("benchmarks/README.md", "sh"): {"test_a_quick_run_measures_every_figure"},
    ("docs/command-line.md", "sh"): {"test_documented_commands_run"},
    ("docs/configuration.md", "sh"): {"test_the_commands_of_the_settings_page"},
    ("docs/containers.md", "sh"): {"test_the_commands_of_the_containers_page"},
    ("docs/containers.md", "yaml"): {"test_the_services_of_a_ci"},
    ("docs/emulator.md", "js"): {"test_the_page_for_other_languages"},
    ("docs/emulator.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/emulator.md", "sh"): {"test_the_page_for_other_languages"},
    ("docs/faults.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/faults.md", "sh"): {"test_the_commands_of_the_page_about_faults"},
    ("docs/faults.md", "toml"): {"test_the_documented_file_is_a_plan"},
    ("docs/fleet.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/fleet.md", "sh"): {"test_the_commands_of_the_page_about_fleets"},
    ("docs/fleet.md", "sql"): {"test_the_rights_of_the_page_are_enough"},
    ("docs/how-to/clusters.md", "sh"): {"test_the_commands_of_how_to_pages"},
    ("docs/how-to/credentials.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/how-to/left-open.md", "sh"): {"test_the_commands_for_what_was_left_open"},
    ("docs/how-to/networks.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/how-to/notebooks.md", "python"): {"test_the_cells_of_the_page"},
    ("docs/how-to/scripts.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/how-to/scripts.md", "sh"): {"test_the_commands_of_how_to_pages"},
    ("docs/how-to/temporal.md", "python"): {
        "test_the_lines_of_the_page",
        "test_the_test_of_the_page",
    },
    ("docs/index.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/observability.md", "python"): {"test_the_program_of_the_page_about_traces"},
    ("docs/qiskit.md", "python"): {
        "test_the_service_of_the_page",
        "test_the_whole_program_of_the_page",
    },
    ("docs/pytest.md", "python"): {"test_tests_in_the_pages_pass"},
    ("docs/python.md", "python"): {
        "test_the_program_in_a_page_runs_as_pasted",
        "test_the_program_that_handles_errors",
        "test_the_program_that_reaps",
    },
    ("docs/reference/events.md", "python"): {"test_the_program_in_a_page_runs_as_pasted"},
    ("docs/testing.md", "python"): {
        "test_the_ledger_of_the_page_conforms",
        "test_the_program_in_a_page_runs_as_pasted",
        "test_tests_in_the_pages_pass",
    },
    ("docs/services.md", "python"): {
        "test_the_program_in_a_page_runs_as_pasted",
        "test_the_routes_of_the_page",
    },
    ("docs/tutorial.md", "python"): {"test_the_tutorial"},
    ("docs/tutorial.md", "sh"): {"test_the_tutorial"},
}


def test_each_promise_names_its_test() -> None:
    """Each row of the tables of failures names at least one test, and each test that the page names
    is there.
    """
    rows = [
        line
        for line in FAILURES.splitlines()
        if line.startswith("| ") and not line.startswith(("| fault |", "| when |"))
    ]
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"`test_\w+`", row.split("|")[-2])] == []
    assert set(re.findall(r"`(test_\w+)`", FAILURES)) - DEFINED == set()


def test_all_code_is_run_by_a_test() -> None:
    """The code of every page, in every language, is known to be run by a test that is there."""
    code = {
        (page, language)
        for page, text in PAGES.items()
        for language in re.findall(r"^ *```(\w+)$", text, re.MULTILINE)
        if language != "text"
    }
    assert code == set(RUN_BY)
    assert set().union(*RUN_BY.values()) - DEFINED == set()


def without_code(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def test_each_page_has_one_title() -> None:
    """A page has at most one heading of the first level, at its top."""
    titles = {
        page: re.findall(r"^# ", without_code(text), re.MULTILINE) for page, text in PAGES.items()
    }
    assert [page for page, found in titles.items() if len(found) > 1] == []


def test_each_command_that_a_page_names_is_there() -> None:
    """What follows `qsessions` in the text of a page is a command or an option of all of them."""
    named = {
        (page, word)
        for page, text in PAGES.items()
        for word in re.findall(r"`qsessions\s+([^\s`]+)", without_code(text))
    }
    known = {*COMMANDS, "list", "help", "COMMAND", "…", "-V", "--help", "--install-completion"}
    assert [(page, word) for page, word in named if word not in known] == []


def anchors(text: str) -> set[str]:
    """Return the names that links can use for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    """Each relative link names a file that is there, and a heading in it."""
    astray = []
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            if not link.startswith("https://") and not (
                target.exists()
                and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))
            ):
                astray.append((page, link))
    assert astray == []


# Read by Python, its libraries and OpenSSL for us; and what else looks like a variable in the code:
# those that are only set for others, and names of the system's.
READ_FOR_US = {
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HOME",
    "USERPROFILE",
    "XDG_STATE_HOME",
}
NOT_READ = re.compile(r"ALL_PROXY|RESOURCE_CONTROLLER_URL|AI_MASK|S?O_\w+")


def test_all_variables_are_on_one_page() -> None:
    """The table of variables has each that the package reads, and none that it doesn't."""
    package = Path(qsessions.__file__).parent
    named = {
        node.value
        for path in package.rglob("*.py")
        # What runs there has an environment of its own.
        if "programs" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", node.value) and not NOT_READ.fullmatch(node.value)
    }
    section = PAGES["docs/configuration.md"].partition("## All variables")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == named | READ_FOR_US


def first_column(page: str) -> list[str]:
    """Return the first cell of each row of a page's tables."""
    return re.findall(r"^\| ([^|]+) \|", PAGES[page], re.MULTILINE)


def test_every_error_says_what_to_do() -> None:
    """The page of errors has one row for each class of error that is public."""
    public = {name for name in dir(qsessions) if name[0].isupper()}
    errors = {
        name
        for name in public
        if isinstance(kind := getattr(qsessions, name), type) and issubclass(kind, QSessionsError)
    }
    rows = [cell.strip("`") for cell in first_column("docs/reference/errors.md")]
    assert sorted(row for row in rows if row in public) == sorted(errors - {"QSessionsError"})


def test_the_versions_of_the_api() -> None:
    """The page of API versions has those that are known, with their sunset dates."""
    rows = re.findall(
        r"^\| (\d{4}-\S+) \| \w+.*? \| (.+) \|$",
        PAGES["docs/reference/api-versions.md"],
        re.MULTILINE,
    )
    known = [(row["version"], row.get("sunset_date", "not announced")) for row in VERSIONS]
    assert rows == known


def test_the_steps_of_the_gate() -> None:
    """CONTRIBUTING names each session of noxfile.py, and each is there, as are groups and files."""
    page = PAGES["CONTRIBUTING.md"]
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)", noxfile, re.MULTILINE)
    assert sorted(sessions) == sorted(re.findall(r"^nox -s (\w+)", page, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(re.findall(r"--group (\w+)", page)) <= set(project["dependency-groups"])
    paths = re.findall(r"`((?:tests/|\.ci/)\S+)`", page)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_readme_is_a_page() -> None:
    """README has at most 120 lines."""
    assert len(PAGES["README.md"].splitlines()) <= 120


def test_the_gate_finds_its_commands() -> None:
    """README has one command for the demo and one for the tests, which the gate runs as they stand."""
    for word in ("qsessions demo", "pytest"):
        found = re.findall(rf"^python3 -m venv .*{word}", PAGES["README.md"], re.MULTILINE)
        assert len(found) == 1, word
