"""The emulator's page as people see it: in a real browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from yarl import URL

from qsessions.emulator import Emulator
from qsessions.emulator.http import access
from qsessions.emulator.programs.runner import ProgramRunner
from tests.support.browser import Tab, opened, running
from tests.support.caller import Caller
from tests.support.needs import need
from tests.support.pages import bash

WIDTHS = (400, 1200)
SCHEMES = ("light", "dark")
IDS = "[...document.querySelectorAll('.lane')].map(lane => lane.dataset.id)"
LINK = "document.querySelector('#link').textContent"

# The lowest contrast of any text on the page to what is behind it, with the text that has it.
LOWEST_CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = rgb(colour).map((part) => part / 255).map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return rgb(colour)[3] === 255 || !element.parentElement ? colour : behind(element.parentElement);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let lowest = [21, ""];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.matches("script, .heard")) continue;
    const [low, high] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
    lowest = [[(high + 0.05) / (low + 0.05), text], lowest].sort((a, b) => a[0] - b[0])[0];
  }
  return lowest;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a browser, and return its address."""
    with running(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    """Run an emulator whose time stands still, and return a client of it."""
    async with Emulator(speed=0, seed=1) as emulator, ClientSession() as http:
        yield Caller(http, emulator)


@pytest.fixture
async def page(call: Caller, browser: str) -> AsyncIterator[Tab]:
    """Open its page in the browser; at the end it must have neither complained nor asked anyone
    else for anything.
    """
    async with opened(browser, f"{call.emulator.iam_url}/") as tab:
        await tab.until("document.querySelector('#link')?.dataset.state === 'live'")
        yield tab
        assert tab.problems == []
        paths = {url.removeprefix(call.emulator.iam_url) for url in tab.requested}
        assert {path for path in paths if not path.startswith("data:")} == {"/", "/emulator/events"}


def lane(session_id: str, part: str = "") -> str:
    """Return the JavaScript expression for a session's lane, or for a part of it."""
    return f"document.querySelector('[data-id=\"{session_id}\"] {part}')"


def badge(session_id: str) -> str:
    """Return the JavaScript expression for the state that a lane shows in words."""
    return f"{lane(session_id, '.badge')}?.textContent"


async def test_a_session_turns_active_and_closed(call: Caller, page: Tab) -> None:
    """The page shows each state as it comes, the job as a bar, what is billed, and the requests;
    news are spoken.
    """
    emulator = call.emulator
    session = await call.create(backend="ibm_fez")
    await page.until(f"{badge(session)} === 'open'")
    job = emulator.submit_job(session, seconds=30)
    await page.until(f"{badge(session)} === 'active'")
    assert await page.evaluate(f"{lane(session, '.job')}.className") == "job Running"
    await emulator.advance(12)
    await page.until(f"{lane(session, '.facts')}.innerText.includes('12 s')")
    await page.until("document.querySelector('#news').textContent.includes('is active')")
    await call("PATCH", f"/v1/sessions/{session}", {"accepting_jobs": False})
    await page.until(f"{badge(session)} === 'active, draining'")
    await emulator.advance(20)
    await page.until(f"{badge(session)} === 'closed'")
    assert emulator.jobs[job].status == "Completed"
    assert await page.evaluate(f"{lane(session, '.job')}.className") == "job Completed"
    figures = await page.evaluate("document.querySelector('#figures').innerText")
    assert figures.split("\n")[:10] == [
        "open", "0", "active", "0", "inactive", "0", "closed", "1", "usage billed", "30 s",
    ]  # fmt: skip
    requests = await page.evaluate(
        "[...document.querySelectorAll('#requests li')].map(item => item.innerText.split('\\n'))"
    )
    assert [(method, status) for _, method, _, status in requests] == [
        ("PATCH", "204"),
        ("POST", "200"),
    ]


async def test_an_empty_page_says_what_to_do(call: Caller, page: Tab) -> None:
    """Without sessions the page shows the variables that lead a client here, less the key; with one
    it does not.
    """
    env = call.emulator.env()
    key = env.pop("QISKIT_IBM_TOKEN")
    shown = await page.evaluate("document.querySelector('#empty').innerText")
    for name, value in env.items():
        assert f"export {name}={value}\n" in shown
    assert key not in await page.evaluate("document.documentElement.outerHTML")
    session = await call.create()
    await page.until(f"{lane(session)} !== null")
    assert not await page.evaluate("document.querySelector('#empty').checkVisibility()")


async def test_the_commands_of_an_empty_page(call: Caller, page: Tab, tmp_path: Path) -> None:
    """The commands that an empty page shows work as they stand, with the key in its place: each
    creates a session, and the last one moves the time.
    """
    await asyncio.to_thread(need, "curl")
    shown = await page.evaluate(
        "[...document.querySelectorAll('#empty pre')].map(pre => pre.innerText)"
    )
    commands = "\n".join(shown).replace("the-key", call.emulator.api_key)
    start = call.emulator.now()
    done = await asyncio.to_thread(
        bash, "-c", commands, folder=tmp_path, env={"HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert [session.ttls.maximum for session in call.emulator.sessions.values()] == [600, 600]
    assert call.emulator.now() == start + 60


async def test_programs_and_results(browser: str) -> None:
    """The details tell each job's program, what its results hold, and why a job failed."""
    emulator = Emulator(speed=0)
    emulator._programs = ProgramRunner(None)
    async with emulator, ClientSession() as http, opened(browser, f"{emulator.iam_url}/") as tab:
        call = Caller(http, emulator)
        session = await call.create(backend="ibm_fez")
        job = {"backend": "ibm_fez", "session_id": session}
        for program, pub in (
            ("sampler", ["bit[2] c;", None, 7]),
            ("estimator", [1, ["Z", "X"]]),
            ("sampler", [5]),
        ):
            body = {**job, "program_id": program, "params": {"pubs": [pub]}}
            assert (await call("POST", "/v1/jobs", body))[0] == 200
        await call("POST", "/v1/jobs", {**job, "program_id": "custom"})
        await tab.until(f"{lane(session)} !== null")
        await tab.evaluate(f"{lane(session)}.click()")
        await emulator.advance(10)
        cells = "[...row.cells].map(cell => cell.innerText)"
        rows = f"[...document.querySelectorAll('.details tbody tr')].map(row => {cells})"
        await tab.until(
            f"{rows}.flat().includes('c 2 bits, 7 shots') && {rows}.flat().includes('failed')"
        )
        told = {
            (program, status, results)
            for _, program, status, *_, results in await tab.evaluate(rows)
        }
        assert told == {
            ("sampler", "completed", "c 2 bits, 7 shots"),
            ("estimator", "completed", "evs 2 values, stds 2 values"),
            ("sampler", "failed", "a circuit must be OpenQASM 3 text or a QuantumCircuit"),
            ("custom", "completed", "\N{EN DASH}"),
        }  # fmt: skip
        await tab.resize(400)
        assert await tab.evaluate("document.documentElement.scrollWidth") == 400


async def test_a_browser_elsewhere_sends_the_token(
    browser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser on another machine sends the admin token as a password, for the page and its events.
    The page doesn't have it, and says what plain http needs.
    """
    monkeypatch.setattr(access, "is_loopback", lambda _: False)
    token = "pLaNtEd-admin-token"
    async with Emulator(admin_token=token, advertised_host="emulator.localhost") as emulator:
        url = URL(emulator.env()["IAM_URL"])
        async with opened(browser, str(url.with_user("me").with_password(token))) as tab:
            await tab.until("document.querySelector('#link')?.dataset.state === 'live'")
            whole = await tab.evaluate("document.documentElement.outerHTML")
            assert token not in whole
            assert f"export QSESSIONS_BASE_URL={url / 'api'}\n" in whole
            assert f"export QSESSIONS_INSECURE_HOSTS={url.authority}" in whole


async def test_it_fits_and_can_be_read(call: Caller, page: Tab) -> None:
    """At 400 and at 1200 pixels, light and dark, nothing scrolls sideways and all text has a
    contrast of 4.5 or more.
    """
    emulator = call.emulator
    emulator.add_instance(plan="open")
    idle, closed, busy = [await call.create(backend="ibm_marrakesh") for _ in range(3)]
    for session, seconds in ((idle, 5), (closed, 3), (busy, 500)):
        emulator.submit_job(session, seconds=seconds)
    for _ in range(100):
        emulator.submit_job(busy, seconds=30)
    await call("DELETE", f"/v1/sessions/{closed}/close")
    await emulator.advance(70)
    await call.create()
    await call("GET", f"/v1/sessions/{'long' * 50}")
    await call("GET", "/v1/sessions/none", headers={})
    await page.until(
        f"{badge(idle)} === 'inactive' && document.querySelectorAll('#requests li').length === 7"
    )
    await page.evaluate(f"{lane(busy)}.click()")
    backgrounds = set()
    for scheme in SCHEMES:
        await page.prefer(color_scheme=scheme)
        backgrounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for width in WIDTHS:
            await page.resize(width)
            assert await page.evaluate("document.documentElement.scrollWidth") == width
            contrast, text = await page.evaluate(LOWEST_CONTRAST)
            assert contrast >= 4.5, (text, scheme, width)
    assert len(backgrounds) == 2


async def test_the_keyboard_is_enough(call: Caller, page: Tab) -> None:
    """Arrows choose a session, Enter opens its details, Escape closes them; a new session doesn't
    take the focus away.
    """
    ids = [await call.create(backend="ibm_fez") for _ in range(3)]
    job = call.emulator.submit_job(ids[1], seconds=9)
    await page.until(f"{badge(ids[1])} === 'active' && {IDS}.length === 3")
    focused = "document.activeElement.dataset.id"
    await page.press("ArrowDown")
    assert await page.evaluate(focused) == ids[2]
    for key, expected in (
        ("ArrowDown", ids[1]),
        ("End", ids[0]),
        ("Home", ids[2]),
        ("ArrowUp", ids[2]),
    ):
        await page.press(key)
        assert await page.evaluate(focused) == expected
    await page.press("ArrowDown", "Enter")
    assert await page.evaluate(f"{lane(ids[1])}.getAttribute('aria-expanded')") == "true"
    details = await page.evaluate("document.querySelector('.details').innerText")
    assert {ids[1], job, "running", "dedicated", "ibm_fez"} <= set(details.split())
    newest = await call.create()
    await page.until(f"{IDS}[0] === '{newest}'")
    assert await page.evaluate(focused) == ids[1]
    await page.press("Escape")
    assert await page.evaluate("document.querySelector('.details')") is None
    # One lane alone is in the order of tabs.
    assert await page.evaluate("document.querySelectorAll('.lane[tabindex=\"0\"]').length") == 1
    await page.press("-")
    assert await page.evaluate("document.querySelector('#span').value") == "120"
    await page.press("+")
    assert await page.evaluate("document.querySelector('#span').value") == "60"


async def test_p_pauses(call: Caller, page: Tab) -> None:
    """While paused the page stands still and asks for nothing; it goes on with all that has
    happened since.
    """
    await page.press("p")
    assert await page.evaluate(LINK) == "Paused"
    assert (
        await page.evaluate("document.querySelector('#pause').getAttribute('aria-pressed')")
        == "true"
    )
    session = await call.create()
    assert await page.evaluate("source") is None
    assert await page.evaluate(f"{lane(session)}") is None
    await page.press("p")
    await page.until(f"{badge(session)} === 'open' && {LINK} === 'Live'")


async def test_the_pointer_shows_details(call: Caller, page: Tab) -> None:
    """A bar under the pointer shows which job it is, and what became of it."""
    session = await call.create(backend="ibm_fez")
    job = call.emulator.submit_job(session, seconds=30)
    await call.emulator.advance(20)
    await page.until(f"{lane(session, '.job')} !== null")
    spot = f"{lane(session, '.job')}.getBoundingClientRect()"
    x, y = [await page.evaluate(f"{spot}.{side}") + 2 for side in ("left", "top")]
    await page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    await page.until(
        f"document.querySelector('#tip').innerText.startsWith('job {job}\\nrunning\\nran 20 s')"
    )


async def test_data_is_text(browser: str) -> None:
    """Names and paths that look like markup are shown as they are."""
    markup = "<img/src=x/onerror=console.error(1)>"
    async with Emulator(speed=0, backends=[markup]) as emulator, ClientSession() as http:
        call = Caller(http, emulator)
        session = await call.create()
        emulator.submit_job(session, seconds=60)
        await call("GET", f"/v1/sessions/{markup}")
        async with opened(browser, f"{emulator.iam_url}/") as tab:
            await tab.until(f"{badge(session)} === 'active'")
            await tab.evaluate(f"{lane(session)}.click()")
            for part in (".facts", ".details", ".queues", "#requests"):
                shown = await tab.evaluate(
                    f"document.querySelector({json.dumps(part)}).textContent"
                )
                assert markup in shown
            assert await tab.evaluate("document.querySelectorAll('img').length") == 0
            assert tab.problems == []


async def test_a_crowd_of_sessions(call: Caller, page: Tab) -> None:
    """The page shows the forty latest sessions and says how many more there are; an older one comes
    when something happens to it.
    """
    machine = call.emulator._states()[0]
    first = await call.create()
    ttls = call.emulator.sessions[first].ttls
    for _ in range(1999):
        machine.create_session(call.emulator.now(), mode="batch", backend=None, ttls=ttls)
    await page.until(f"{IDS}.length === 40")
    rest = await page.evaluate("document.querySelector('#rest').textContent")
    assert rest == "the 40 latest; 1,960 more are not shown"
    assert first not in await page.evaluate(IDS)
    await call.emulator.advance(1)
    call.emulator.submit_job(first, seconds=9)
    await page.until(f"{badge(first)} === 'active'")
    assert await page.evaluate(f"{IDS}.length") == 40


async def test_a_lost_emulator_comes_back(call: Caller, browser: str) -> None:
    """When the emulator stops the page says so, and when it is back on its port the page shows what
    it then has.
    """
    async with opened(browser, f"{call.emulator.iam_url}/") as tab:
        await tab.prefer(reduced_motion="reduce")
        await tab.until("document.querySelector('#link')?.dataset.state === 'live'")
        await call.emulator.stop()
        await tab.until(f"{LINK} === 'Connection lost, trying again…'")
        assert (
            await tab.evaluate(
                "getComputedStyle(document.querySelector('#link'), '::before').animationName"
            )
            == "none"
        )
        await call.emulator.start()
        session = await call.create()
        await tab.until(f"{badge(session)} === 'open' && {LINK} === 'Live'")
