"""`emulator`: the emulator as a process."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shlex
import socket
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, PositiveInt

from qsessions.cli.child import handle_signals
from qsessions.cli.failures import Exit, print_error
from qsessions.cli.options import flag, reader
from qsessions.cli.terminal import discard_output
from qsessions.emulator import Emulator, Fault
from qsessions.emulator.faults import read_faults
from qsessions.emulator.http.access import is_loopback
from qsessions.emulator.http.recording import request_log
from qsessions.emulator.server import DEFAULT_BACKENDS


def _or_variable(name: str, text: str) -> Parameter:
    """Return an option that is also read from an environment variable."""
    return Parameter(help=text, env_var=name)


_Text = Annotated[str | None, reader(str, "text")]
_Seed = Annotated[int | None, reader(int, "a whole number")]


async def emulator(
    *,
    host: Annotated[
        str, Parameter(help="Where to listen; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0 takes a free one.")] = 0,
    advertised_host: Annotated[
        _Text,
        _or_variable(
            "QSESSIONS_EMULATOR_ADVERTISED_HOST",
            "What others call it, for the variables that it prints.",
        ),
    ] = None,
    api_key: Annotated[
        _Text,
        _or_variable(
            "QSESSIONS_EMULATOR_API_KEY", "The API key, which ps shows; a random one by default."
        ),
    ] = None,
    crn: Annotated[
        _Text,
        _or_variable(
            "QSESSIONS_EMULATOR_CRN",
            "The CRN, whose account begins with emulated; a random one by default.",
        ),
    ] = None,
    admin_token: Annotated[
        _Text,
        _or_variable(
            "QSESSIONS_EMULATOR_ADMIN_TOKEN",
            "With it, other machines may rule it too; ps shows this one.",
        ),
    ] = None,
    seed: Annotated[
        _Seed, _or_variable("QSESSIONS_EMULATOR_SEED", "Gives the same ids and keys in every run.")
    ] = None,
    speed: Annotated[
        NonNegativeFloat,
        Parameter(help="Seconds of the service in one real second; 0 stands still."),
    ] = 1.0,
    plan: Annotated[
        Literal["paid", "open"], Parameter(help="'open' refuses dedicated sessions.")
    ] = "paid",
    partner: Annotated[
        bool, Parameter(help="Allow interactive_ttl and active_ttl.", negative="")
    ] = False,
    token_seconds: Annotated[
        PositiveInt, Parameter(help="How long an access token lives, in seconds.")
    ] = 3600,
    queue_seconds: Annotated[
        NonNegativeFloat, Parameter(help="How long each job waits in the queue, in seconds.")
    ] = 0.0,
    instance: Annotated[
        tuple[Literal["paid", "open", "partner"], ...],
        flag("One more service instance, with these terms; may be repeated."),
    ] = (),
    backend: Annotated[
        tuple[str, ...],
        flag("A backend, such as ibm_fez or ibm_fez:156; may be repeated. Else there are three."),
    ] = (),
    jobs_per_minute: Annotated[
        PositiveInt | None, Parameter(help="How many jobs an instance takes a minute; any number.")
    ] = None,
    faults: Annotated[
        Path | None, Parameter(help="A TOML file of what goes wrong; see docs/faults.md.")
    ] = None,
    allow_remote_circuits: Annotated[
        bool,
        Parameter(help="Run circuits from other machines too, where Qiskit is.", negative=""),
    ] = False,
    log: Annotated[
        str | None,
        Parameter(
            help="Where to write each request as a line of JSON; - is standard error.",
            allow_leading_hyphen=True,
        ),
    ] = None,
) -> int:
    """Serve the sessions API on this machine until Ctrl-C.

    SIGTERM stops it too. When it is ready, it prints the environment
    variables for clients, one export a line, and closes standard output.

    Example: eval "$(qsessions emulator & echo pid=$!)", and kill $pid at the end.
    """
    try:
        service = Emulator(
            host=host,
            port=port,
            advertised_host=advertised_host,
            api_key=api_key,
            crn=crn,
            admin_token=admin_token,
            seed=seed,
            speed=speed,
            plan=plan,
            partner=partner,
            token_seconds=token_seconds,
            queue_seconds=queue_seconds,
            backends=backend or DEFAULT_BACKENDS,
            jobs_per_minute=jobs_per_minute,
            faults=[] if faults is None else _load_faults(faults),
            allow_remote_circuits=allow_remote_circuits,
        )
        for terms in instance:
            service.add_instance(
                plan="open" if terms == "open" else "paid", partner=terms == "partner"
            )
    except ValueError as error:
        print_error("emulator", *_as_given(error, advertised_host, api_key, crn, admin_token))
        return Exit.WRONG_USE
    try:
        handler = None if log is None else _open_log(log)
    except OSError as error:
        print_error(
            "emulator",
            f"can't write the log {log}: {error.strerror}.",
            "Use --log with a file in a folder that exists and can be written, "
            "or with - for standard error.",
        )
        return Exit.WRONG_USE
    with nullcontext() if handler is None else _logging_to(handler):
        return await _serve(service, host)


def _as_given(error: ValueError, *values: str | None) -> tuple[str, str]:
    """Return an error, with the variable or option that was given in place of the argument's name
    at its beginning, and what to do.
    """
    texts = dict(zip(("advertised_host", "api_key", "crn", "admin_token"), values, strict=True))
    name, _, rest = str(error).partition(" ")
    variable = f"QSESSIONS_EMULATOR_{name.upper()}"
    if name in texts and texts[name] == os.environ.get(variable):
        return f"{variable} {rest}.", f"Correct or unset {variable}."
    given = f"--{name.replace('_', '-')} {rest}" if name in texts else str(error)
    return f"{given}.", "See: qsessions emulator --help"


def _load_faults(path: Path) -> list[Fault]:
    """Read a fault plan. Raise ValueError that names the file and the place in it."""
    try:
        return read_faults(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # such as that of a text that isn't TOML or UTF-8
        raise ValueError(f"{path}: {error}") from None


def _open_log(log: str) -> logging.Handler:
    return logging.StreamHandler() if log == "-" else logging.FileHandler(log, encoding="utf-8")


@contextmanager
def _logging_to(handler: logging.Handler) -> Iterator[None]:
    lines: SimpleQueue[logging.LogRecord] = SimpleQueue()
    # A disk can be slow: a thread of its own writes the lines.
    listener = QueueListener(lines, handler)
    queueing = QueueHandler(lines)
    level, propagates = request_log.level, request_log.propagate
    request_log.addHandler(queueing)
    request_log.setLevel(logging.INFO)
    request_log.propagate = False
    listener.start()
    try:
        yield
    finally:
        # The process may go on and serve again.
        request_log.removeHandler(queueing)
        request_log.setLevel(level)
        request_log.propagate = propagates
        listener.stop()
        handler.close()


async def _serve(emulator: Emulator, host: str) -> int:
    """Serve until a signal.

    Standard output has only lines that a shell can eval, and is then closed, so that
    `eval "$(qsessions emulator &)"` goes on.
    """
    stop = asyncio.Event()
    # A shell that starts it in the background has it ignore Ctrl-C, which is for what is in front.
    handle_signals(("SIGINT", "SIGTERM"), lambda _: stop.set())
    try:
        await emulator.start()
    except (OSError, UnicodeError) as error:  # the latter for text that can't be the name of a host
        reason = getattr(error, "strerror", None) or error
        print_error("emulator", f"can't listen at {host!r}: {reason}.", _how_to_listen(error))
        return Exit.WRONG_USE
    if not is_loopback(host):
        print_error(
            "emulator",
            f"WARNING: {host} can be reached from other machines.",
            "The emulator speaks plain HTTP, and its credentials protect nothing.",
        )
    try:
        for name, value in emulator.env().items():
            print(f"export {name}={shlex.quote(value)}")
        sys.stdout.flush()
        if sys.stdout.isatty():
            print(
                f"# Serving, with a live view at {emulator.iam_url}/ (Ctrl-C stops it)",
                file=sys.stderr,
            )
        else:
            # The reader of the pipe must see its end; the descriptor stays valid for later prints.
            discard_output()
        await stop.wait()
    finally:
        await emulator.stop()
    return Exit.DONE


def _how_to_listen(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
        return "Use --host with an address of this machine, such as 127.0.0.1."
    return "Try --port 0, which takes a free port."
