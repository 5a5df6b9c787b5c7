"""`%load_ext qsessions`: a notebook's cells in sessions of their own, and lists as tables.

IPython, and with it what the ledger needs, is there wherever this is loaded.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import ast
import asyncio
import atexit
import re
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from keyword import iskeyword
from types import FrameType
from typing import Any, NoReturn

from IPython import get_ipython
from IPython.core.error import UsageError
from IPython.display import display

from qsessions.arguments import read_labels
from qsessions.config.variables import read_defaults
from qsessions.display import html
from qsessions.errors import InvalidArgument, QSessionsError
from qsessions.models import CreateSession, Mode, Workload
from qsessions.sync.client import SessionClient
from qsessions.sync.live import LiveSession

_HELP = """Run the cell in a session of its own, from create to end.

After a clean cell its jobs still run, then the session closes. After an error or an interrupt it
closes at once. The ledger has it: `qsessions reap` closes it if the kernel dies."""

_FIRST_LINE = re.compile(r"%%qsession(?:[ \t]+(.*?))?\s*")
# What the call of the magic has in place of the cell where it opens a session.
_AROUND = "the statements of this block"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> _Parser:
    parser = _Parser(
        prog="%%qsession",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mode",
        required=True,
        choices=[str(mode) for mode in Mode],
        help="exclusive access, or a group of jobs",
    )
    parser.add_argument("--backend", help="the backend's name; by default QSESSIONS_BACKEND")
    parser.add_argument(
        "--max-ttl",
        metavar="DURATION",
        help="how long after its first job's start it closes at the latest: seconds, or text such "
        "as 30m; by default QSESSIONS_MAX_TTL. Set it: it limits what a session can cost",
    )
    parser.add_argument(
        "--label",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="its name in the ledger; may be repeated",
    )
    parser.add_argument(
        "--as",
        dest="name",
        metavar="NAME",
        default="session",
        help="the variable that has its handle, a LiveSession: by default session",
    )
    return parser


_OPTIONS = _parser()


def load(shell: Any) -> None:
    """Add `%%qsession`, and show lists of workloads as tables; see `load_ipython_extension`."""
    if any(isinstance(transformer, _Cells) for transformer in shell.ast_transformers):
        return
    cells = _Cells(shell)
    # Before the one that reads every `%%`.
    shell.input_transformers_cleanup.insert(0, cells)
    shell.ast_transformers.append(cells)
    shell.register_magic_function(_qsession, "cell", "qsession")
    _show_lists(shell.display_formatter.formatters["text/html"])


class _Cells:
    """Turns a cell that begins with `%%qsession` into a `with` statement around its statements.

    So they run as in any other cell: with `await`, with their own lines in tracebacks, and with the
    value of the last one shown. It is a transformer of IPython's for both steps: text, then syntax.
    """

    # In a terminal, where each line is tried, the text is to stay a cell of a magic.
    has_side_effects = True

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def __call__(self, lines: list[str]) -> list[str]:
        """Return as many lines of a cell, with a call in place of `%%qsession`."""
        first = next((number for number, line in enumerate(lines) if line.strip()), 0)
        found = _FIRST_LINE.fullmatch(lines[first]) if lines else None
        if found is None:
            return lines
        if {"-h", "--help"} & {*(found[1] or "").split()}:
            return ["%%qsession?\n"]
        call = f"get_ipython().run_cell_magic('qsession', {found[1] or ''!r}, '')\n"
        # It may begin with a magic of its own, such as `%%time`.
        body = self._shell.transform_cell("".join(lines[first + 1 :]))
        return [*lines[:first], call, *body.splitlines(keepends=True)]

    def visit(self, module: Any) -> Any:
        """Return a cell with its statements in the session that its first one opens."""
        match module:
            case ast.Module(
                body=[
                    ast.Expr(
                        ast.Call(
                            ast.Attribute(attr="run_cell_magic"),
                            [ast.Constant("qsession"), _, ast.Constant("") as cell],
                        ) as call
                    ),
                    _,
                    *_,
                ]
            ):
                cell.value = _AROUND
                # Which may open another one.
                rest = self.visit(ast.Module(module.body[1:], []))
                block = ast.With([ast.withitem(call)], self._shown(rest.body))
                module.body = [ast.copy_location(block, call)]
        return module

    def _shown(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Return the statements with those shown whose values the shell would show."""
        which = self._shell.ast_node_interactivity
        wanted = {"all": body, "none": []}.get(which, body[-1:])
        return [_show(node) if node in wanted else node for node in body]


def _show(node: ast.stmt) -> ast.stmt:
    if not isinstance(node, ast.Expr):
        return node
    hook = ast.parse("get_ipython().displayhook", mode="eval").body
    return ast.copy_location(ast.Expr(ast.Call(hook, [node.value], [])), node)


def _qsession(line: str, cell: str) -> AbstractContextManager[None]:
    """Return the session of a cell.

    Raises:
        UsageError: An option can't be right, or this is no cell of its own; nothing was sent.
    """
    if cell != _AROUND:
        raise UsageError("%%qsession must be the first line of a cell.")
    try:
        options = _OPTIONS.parse_args(shlex.split(line))
        if not options.name.isidentifier() or iskeyword(options.name):
            raise UsageError(f"--as must be a variable's name, not {options.name!r}.")
        request = CreateSession(options.mode, backend=options.backend, max_ttl=options.max_ttl)
        return _opened(request, read_labels(options.label), options.name)
    except (InvalidArgument, ValueError) as error:
        problem = str(error)
    raise UsageError(problem)


_qsession.__doc__ = _OPTIONS.format_help()


@contextmanager
def _opened(request: CreateSession, labels: dict[str, str], name: str) -> Iterator[None]:
    client = SessionClient(
        ledger=read_defaults().ledger or "local", application="qsessions-notebook"
    )
    live: LiveSession | None = None
    try:
        with _interruptible(), client.open(request, labels=labels) as live:
            get_ipython().user_ns[name] = live
            yield
    finally:
        # Its handle is good for further cells.
        _keep(client)
        if live is not None:
            _show_end(live)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have an interrupt of a cell with `await` take effect at once.

    The kernel cancels such a cell where others raise KeyboardInterrupt: not while it blocks, and in
    a wait only once its event loop has something else to do. A terminal's IPython leaves the loop,
    and with it the cell as it is.
    """
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    cell = None
    with suppress(RuntimeError):
        cell = asyncio.current_task()
    raises = before is signal.default_int_handler
    # A kernel's cell that has it is without `await`, and blocks the loop.
    if not (is_main and cell and callable(before)) or (raises and hasattr(get_ipython(), "kernel")):
        yield
        return
    loop = cell.get_loop()

    def handle(number: int, frame: FrameType | None) -> None:
        if asyncio.current_task(loop) is cell:
            raise KeyboardInterrupt
        if raises:
            cell.cancel()
        else:
            before(number, frame)
        # It waits for what comes from outside, and now does.
        loop.call_soon_threadsafe(int)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show_end(live: LiveSession) -> None:
    try:
        display(live.refresh())
    except QSessionsError as error:
        print(f"session {live.id} could not be read: {error}")  # noqa: T201 - as a cell does it


# That of the last cell, until another one has ended. Each cell has a client of its own, since its
# credentials may be other ones; each has a thread, so that not all of them are kept.
_kept: list[SessionClient] = []


def _keep(*clients: SessionClient) -> None:
    before, _kept[:] = tuple(_kept), clients
    for client in before:
        client.shutdown()


atexit.register(_keep)


def _show_lists(formatter: Any) -> None:
    """Have a list of workloads shown as a table, and other lists as they are."""
    before = formatter.for_type(list)

    def show(items: list[Any]) -> str | None:
        if type(items) is list and items and all(isinstance(item, Workload) for item in items):
            return html(items)
        own = before or getattr(type(items), "_repr_html_", None)
        return own(items) if own else None

    formatter.for_type(list, show)
