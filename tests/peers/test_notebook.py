"""`%load_ext qsessions` in a real kernel: cells in sessions of their own, interrupts and restarts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import BlockBuster

from qsessions.emulator import Emulator
from qsessions.testing.threaded import ThreadedEmulator
from tests.support.needs import need
from tests.support.pages import snippets

if TYPE_CHECKING:
    from tests.support.kernel import Cell, Kernel

BATCH = "%%qsession --mode batch --max-ttl 10m"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the kernel's home folder, where its ledger is."""
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def service() -> Iterator[ThreadedEmulator]:
    """Run an emulator on real time."""
    with ThreadedEmulator(Emulator()) as service:
        yield service


@pytest.fixture(scope="module")
def running_kernel(
    service: ThreadedEmulator, folder: Path, detector: BlockBuster
) -> Iterator[Kernel]:
    """Run one kernel for all tests: each starts with what the others left in it."""
    need("ipykernel")
    from tests.support.kernel import running

    # Jupyter's client reads files on an event loop of its own.
    detector.deactivate()
    with running(folder, service.env()) as kernel:
        yield kernel
        detector.deactivate()
    detector.activate()


@pytest.fixture
def kernel(running_kernel: Kernel, blockbuster: BlockBuster) -> Kernel:
    """Return a kernel with the extension and a client."""
    blockbuster.deactivate()
    setup = "%load_ext qsessions\nfrom qsessions import SessionClient\nclient = SessionClient(ledger='local')"
    assert running_kernel.run(setup).status == "ok"
    return running_kernel


def end_of(cell: Cell) -> str:
    """Return the line that says where a cell's session stands."""
    (shown,) = cell.shown
    assert shown["text/html"].startswith("<div")
    return shown["text/plain"]


def newest(service: ThreadedEmulator) -> Any:
    """Return the session that was created last."""
    return list(service.sessions.values())[-1]


def test_a_cell_in_a_session(kernel: Kernel, service: ThreadedEmulator) -> None:
    """A cell runs in a session with the options of its first line, its value is shown, and so is
    where the session stands at its end.
    """
    kernel.run("where = 'ibm_torino'")
    cell = kernel.run(
        "%%qsession --mode dedicated --backend $where --max-ttl '1h 30m' --label run=42\n"
        "print(session.id)\n"
        "session.refresh().state"
    )
    session = newest(service)
    assert cell.status == "ok", cell
    assert cell.printed == f"{session.id}\n"
    assert cell.result == {"text/plain": "<SessionState.OPEN: 'open'>"}
    assert end_of(cell) == (
        f"<Session '{session.id}' closed, dedicated on ibm_torino, max_ttl=5400, elapsed_time=0.0>"
    )
    assert "session_closed_by_drain" in cell.shown[0]["text/html"]


def test_the_handle_is_good_for_further_cells(kernel: Kernel) -> None:
    """A cell's handle can be used after its end, and all cells together leave one thread."""
    assert kernel.run(f"{BATCH} --as mine\n1").status == "ok"
    assert kernel.run("mine.wait_until('closed').state == 'closed'").result["text/plain"] == "True"
    assert "last seen closed" in kernel.run("mine").result["text/plain"]
    threads = (
        "import threading\n[thread.name for thread in threading.enumerate()].count('qsessions')"
    )
    before = int(kernel.run(threads).result["text/plain"])
    kernel.run(f"{BATCH}\n1")
    assert int(kernel.run(threads).result["text/plain"]) == before


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("import asyncio\nawait asyncio.sleep(0, 7)", "7"),
        ("import asyncio\nx = await asyncio.sleep(0, 7)", None),
        ("def f():\n    return '''\n  text'''\nf()", r"'\n  text'"),
        ("%%time\n6", "6"),
        ("5\n!true\n6", "6"),
        ("6;", None),
        ("6\nx = 5", None),
    ],
)
def test_a_cell_runs_as_any_other(
    kernel: Kernel, service: ThreadedEmulator, code: str, result: str | None
) -> None:
    """What a cell does and shows is the same as without the magic: `await`, text over several lines,
    other magics, and no value where the last line has none.
    """
    cell = kernel.run(f"\n{BATCH}\n{code}")
    assert (cell.status, cell.result.get("text/plain")) == ("ok", result), cell
    assert newest(service).state == "closed"
    assert "closed, batch" in end_of(cell)


def test_a_cell_in_two_sessions(kernel: Kernel, service: ThreadedEmulator) -> None:
    """A cell with two first lines runs in two sessions, and both are closed."""
    cell = kernel.run(f"{BATCH} --as one\n{BATCH} --as two\nprint(one.id, two.id)\n6")
    one, two = cell.printed.split()
    assert cell.result["text/plain"] == "6"
    assert one != two
    assert {service.sessions[one].state, service.sessions[two].state} == {"closed"}


def test_what_the_shell_shows_is_its_setting(kernel: Kernel) -> None:
    """A shell that shows each value, or none, does so in a session too."""
    setting = "get_ipython().ast_node_interactivity"
    try:
        kernel.run(f"{setting} = 'none'")
        cell = kernel.run(f"{BATCH}\n6")
        assert cell.result == {}
        kernel.run(f"{setting} = 'all'")
        cell = kernel.run(f"{BATCH}\nprint(_)\n6\nprint(_)\n7")
        assert cell.printed.endswith("6\n")
    finally:
        kernel.run(f"{setting} = 'last_expr'")
    assert cell.result["text/plain"] == "7"


def test_an_error_closes_the_session(kernel: Kernel, service: ThreadedEmulator) -> None:
    """An error in a cell is shown with the cell's own lines, and its session is closed at once."""
    cell = kernel.run(f"{BATCH}\nimport math\nmath.sqrt(\n    -1)")
    assert cell.status == "error"
    assert cell.error == ("ValueError", "math domain error")
    assert "line 3" in cell.traceback
    assert "integrations" not in cell.traceback
    assert newest(service).state == "closed"
    assert "session_closed_early" in cell.shown[0]["text/html"]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("%%qsession --max-ttl 30m\n1", "the following arguments are required: --mode"),
        ("%%qsession --mode other\n1", "argument --mode: invalid choice: 'other'"),
        (f"{BATCH} --max-ttl 3x\n1", "max_ttl must be seconds or text such as"),
        (f"{BATCH} --label x\n1", "--label must be a name and a value such as run=42"),
        (f"{BATCH} --as class\n1", "--as must be a variable's name, not 'class'."),
        (f"{BATCH} --back ibm_fez\n1", "unrecognized arguments: --back ibm_fez"),
        (f"{BATCH} --backend 'ibm\n1", "No closing quotation"),
        (BATCH, "%%qsession is a cell magic, but the cell body is empty."),
        (f"{BATCH}\n# nothing", "%%qsession is a cell magic, but the cell body is empty."),
        (
            "get_ipython().run_cell_magic('qsession', '--mode batch', '1')",
            "%%qsession must be the first line",
        ),
    ],
)
def test_wrong_options(kernel: Kernel, service: ThreadedEmulator, cell: str, problem: str) -> None:
    """What can't be right is refused in one line, before anything is sent."""
    before = len(service.requests)
    refused = kernel.run(cell)
    assert refused.status == "error"
    assert refused.printed.startswith(f"UsageError: {problem}"), refused
    assert refused.printed.count("\n") == 1
    assert len(service.requests) == before


def test_wrong_syntax(kernel: Kernel, service: ThreadedEmulator) -> None:
    """A cell that isn't Python opens no session."""
    before = len(service.requests)
    cell = kernel.run(f"{BATCH}\nif (:")
    assert cell.error is not None
    assert cell.error[0] == "SyntaxError"
    assert len(service.requests) == before


@pytest.mark.parametrize(
    "cell",
    ["%%qsession?", "%%qsession --help", "\n%%qsession --mode batch -h\nprint('run')", f"{BATCH} --help"],
)  # fmt: skip
def test_help(kernel: Kernel, service: ThreadedEmulator, cell: str) -> None:
    """`%%qsession?` and `--help` show the options, whatever else is in the cell, and open no session."""
    before = len(service.requests)
    shown = kernel.run(cell)
    for option in ("--mode {dedicated,batch}", "--backend", "--max-ttl", "--label", "--as"):
        assert option in shown.page
    assert (shown.printed, len(service.requests)) == ("", before)


@pytest.mark.parametrize(
    "wait",
    [
        "session.wait_until('closed')",
        "for _ in session.watch(): pass",
        "import asyncio\nawait asyncio.Event().wait()",
        "import asyncio\nawait asyncio.sleep(0)\nsession.wait_until('closed')",
    ],
)
def test_an_interrupt_closes_the_session_of_its_cell(
    kernel: Kernel, service: ThreadedEmulator, wait: str
) -> None:
    """An interrupt ends a cell, whatever it waits for, and closes its session at once."""
    kernel.begin(f"{BATCH}\nprint('begun')\n{wait}")
    kernel.until_printed("begun")
    assert newest(service).state == "open"
    kernel.interrupt()
    cell = kernel.end()
    assert cell.status == "error"
    assert cell.error is not None
    # In an `await` the kernel cancels the cell.
    assert cell.error[0] in {"KeyboardInterrupt", "CancelledError"}
    assert newest(service).state == "closed"
    assert "session_closed_early" in cell.shown[0]["text/html"]


@pytest.mark.parametrize(
    "wait",
    [
        # It prints once the cell awaits.
        "asyncio.get_running_loop().call_soon(begin)\nawait asyncio.Event().wait()",
        "await asyncio.sleep(0)\nbegin()\nsession.wait_until('closed')",
    ],
)
def test_ctrl_c_in_a_terminal_closes_the_session_of_its_cell(
    service: ThreadedEmulator, folder: Path, blockbuster: BlockBuster, wait: str
) -> None:
    """In a terminal's IPython, too, Ctrl-C closes the session of a cell that awaits, and ends the
    cell: it doesn't go on with the next one.
    """
    need("ipykernel")
    blockbuster.deactivate()
    cells = [
        "%load_ext qsessions",
        "import asyncio\ndef begin(): print('begun', flush=True)",
        f"{BATCH}\n{wait}\nprint('went on')",
        "await asyncio.sleep(0)",
    ]
    program = Path(__file__).parents[1] / "programs" / "terminal_ipython.py"
    with subprocess.Popen(
        [sys.executable, program, *cells],
        env=os.environ | service.env() | {"HOME": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "begun\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
    # At the exit of IPython it would drain.
    assert newest(service).reason == "session_closed_early", printed
    assert "\nwent on" not in printed
    ends = re.findall(r"^ended: (\w+)$", printed, re.MULTILINE)
    assert ends[0] in {"KeyboardInterrupt", "CancelledError"}, printed
    assert ends[1:] == ["NoneType"]


def test_an_interrupt_ends_only_a_wait(kernel: Kernel, service: ThreadedEmulator) -> None:
    """An interrupt of a wait for a session that another cell created leaves that open, and its client
    good for further calls.
    """
    kernel.run("live = client.attach(client.create(mode='batch', max_ttl='10m').id)")
    session = newest(service)
    for wait in ("live.wait_until('closed')", "for _ in live.watch(): pass"):
        kernel.begin(f"print('begun')\n{wait}")
        kernel.until_printed("begun")
        kernel.interrupt()
        cell = kernel.end()
        assert cell.error is not None
        assert cell.error[0] == "KeyboardInterrupt"
        assert (
            kernel.run("live.refresh().state").result["text/plain"] == "<SessionState.OPEN: 'open'>"
        )
    kernel.run("live.close()")
    assert service.sessions[session.id].state == "closed"


def reap(service: ThreadedEmulator, folder: Path, *options: str) -> str:
    """Run `qsessions reap` beside the kernel, and return what it prints."""
    done = subprocess.run(
        [Path(sys.executable).parent / "qsessions", "reap", *options],
        env=os.environ | service.env() | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kernel_that_dies_leaves_it_to_the_ledger(
    kernel: Kernel, service: ThreadedEmulator, folder: Path
) -> None:
    """The session of a cell whose kernel was killed is in the ledger, and `qsessions reap` closes it;
    the new kernel works.
    """
    kernel.begin(f"{BATCH} --label run=42\nprint('begun')\nsession.wait_until('closed')")
    kernel.until_printed("begun")
    session = newest(service)
    kernel.kill()
    assert service.sessions[session.id].state == "open"
    assert session.id in reap(service, folder, "--label", "run=42")
    assert service.sessions[session.id].state == "closed"
    assert kernel.run("%load_ext qsessions").status == "ok"
    assert kernel.run(f"{BATCH}\n1").result["text/plain"] == "1"


def test_a_restart_leaves_it_to_the_ledger(
    kernel: Kernel, service: ThreadedEmulator, folder: Path
) -> None:
    """A session that a cell created, and none ended, is open after a restart and in the ledger."""
    kernel.run("created = client.create(mode='batch', max_ttl='10m')")
    session = newest(service)
    assert "its process is alive" in reap(service, folder)
    kernel.restart()
    assert service.sessions[session.id].state == "open"
    assert session.id in reap(service, folder)
    assert service.sessions[session.id].state == "closed"


def test_lists_of_workloads_are_tables(kernel: Kernel) -> None:
    """A list of workloads is shown as a table and as short lines, and other lists are left alone."""
    kernel.run(f"{BATCH}\n1")
    result = kernel.run("[work for work in client.workloads(newest_first=True)][:2]").result
    assert result["text/html"].count("<tr>") == 3
    first, second = result["text/plain"].splitlines()
    assert max(len(first), len(second)) < 120
    assert re.match(r"\[<Workload '\S{36}' completed, batch", first)
    for other in ("[]", "[1, [2]]", "[1, *client.workloads()][:1]"):
        assert kernel.run(other).result.keys() == {"text/plain"}, other
    cell = "class Own(list):\n    def _repr_html_(self): return '<p>own</p>'\nOwn([1])"
    assert kernel.run(cell).result["text/html"] == "<p>own</p>"


def test_loading_it_again_changes_nothing(kernel: Kernel, service: ThreadedEmulator) -> None:
    """A cell opens one session however often the extension was loaded."""
    assert kernel.run("%reload_ext qsessions").status == "ok"
    before = len(service.sessions)
    assert kernel.run(f"{BATCH}\n1").status == "ok"
    assert len(service.sessions) == before + 1


def test_the_cells_of_the_page(kernel: Kernel, service: ThreadedEmulator) -> None:
    """The cells of docs/how-to/notebooks.md run in their order."""
    cells = snippets("docs/how-to/notebooks.md", "python")
    assert len(cells) >= 4
    for code in cells:
        assert (cell := kernel.run(code)).status == "ok", cell
    assert {session.state for session in service.sessions.values()} == {"closed"}
