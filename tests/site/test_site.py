"""The site that Sphinx builds of docs/: what it says is complete, and it works in a browser."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread

import pytest

from tests.support.browser import opened, running
from tests.support.pages import ROOT
from tests.support.tables import table

# What users type into the search, and the page that must be among the first results.
QUESTIONS = {
    "how do I close a session that a crashed program left open": "tutorial",
    "what happens on ctrl-c": "how-to/scripts",
    "my company proxy uses its own certificate": "configuration",
    "run in slurm": "how-to/clusters",
    "program died sessions open": "how-to/left-open",
    "CreateOutcomeUnknown what to do": "reference/errors",
    "does an idle session cost money": "explanation/cost",
    "difference between close and cancel": "explanation/close-and-drain",
    "log requests": "reference/events",
    "jupyter kernel died": "how-to/notebooks",
    "api version sunset": "reference/api-versions",
}
# The pages that have the widest tables and lines of code.
WIDE = ("index", "tutorial", "failures", "reference/client", "explanation/comparison")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, with warnings as errors, and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j2"]
    done = subprocess.run(
        [*command, "-d", folder / "doctrees", ROOT / "docs", folder / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing of it."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@pytest.fixture(scope="module")
def site(built: Path) -> Iterator[str]:
    """Serve the site, and return its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a browser, and return its address."""
    with running(tmp_path_factory.mktemp("chromium")) as address:
        yield address


def pages() -> set[str]:
    """Return the names of all pages."""
    return {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }


def test_every_public_name_is_in_the_reference(built: Path) -> None:
    """The reference has each name that the package, the emulator and the test helpers export."""
    inventory = (built / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]
    documented = set(re.findall(r"^(\S+) py:", zlib.decompress(inventory).decode(), re.MULTILINE))
    # `Event` is a union, told in words, and `Refusal` another name of `ServiceError`.
    exported = {
        f"{module}.{name}"
        for module in ("qsessions", "qsessions.emulator", "qsessions.testing")
        for name in import_module(module).__all__
    } - {"qsessions.Event", "qsessions.emulator.Refusal"}
    assert exported - documented == set()


def test_each_page_is_in_the_index_for_programs(built: Path) -> None:
    """llms.txt has a line for each page, which says what it is about."""
    text = (built / "llms.txt").read_text(encoding="utf-8")
    assert set(re.findall(r"^- \[.+\]\((\S+)\.html\): \w", text, re.MULTILINE)) == pages() - {
        "index"
    }


@table("scheme", ["light", "dark"])
@table("width", [400, 1200])
async def test_pages_fit_and_need_nothing_from_outside(
    browser: str, site: str, width: int, scheme: str
) -> None:
    """At a phone's and a desktop's width no page is wider than its window; none asks another host
    for anything, and none has an error on its console.
    """
    for page in WIDE:
        async with opened(browser, "about:blank") as tab:
            await tab.resize(width)
            await tab.prefer(color_scheme=scheme)
            await tab.send("Page.navigate", url=f"{site}/{page}.html")
            await tab.until("document.readyState === 'complete' && document.querySelector('h1')")
            wide = await tab.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, page
            assert [
                url for url in tab.requested if not url.startswith((site, "about:", "data:"))
            ] == []
            assert tab.problems == []


@table("words", list(QUESTIONS))
async def test_questions_find_their_page(browser: str, site: str, words: str) -> None:
    """Each question finds the page that answers it among the first three."""
    query = words.replace(" ", "+")
    async with opened(browser, f"{site}/search.html?q={query}") as tab:
        await tab.until("document.querySelector('.search-summary')?.textContent.includes('found')")
        await tab.until("document.querySelectorAll('#search-results li').length")
        found = await tab.evaluate(
            "[...document.querySelectorAll('#search-results li a')].map(link => link.pathname)"
        )
    first = list(dict.fromkeys(path.removesuffix(".html").strip("/") for path in found))[:3]
    assert QUESTIONS[words] in first
