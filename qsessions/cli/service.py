"""How a command reaches the service, and how it is run and interrupted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qsessions.cli.failures import (
    Exit,
    LeaveAtOnce,
    StderrHandler,
    advice_on,
    exit_code,
    print_error,
)
from qsessions.cli.options import Options
from qsessions.clock import SYSTEM_CLOCK
from qsessions.config.variables import log_as_asked
from qsessions.errors import ConfigurationError, QSessionsError, problem_of

if TYPE_CHECKING:
    from qsessions.client import AsyncSessionClient

# The time of every command that asks for it, and of its calls; a test sets another.
CLOCK = SYSTEM_CLOCK
_DISCARD = logging.NullHandler()
# What these say is printed as it is.
_PRINTED = ("qsessions.http", "qsessions.session")


def connect(options: Options, **arguments: Any) -> AsyncSessionClient:
    """Return the client that the options ask for; `arguments` are further ones of the client."""
    from qsessions.client import AsyncSessionClient

    chosen: dict[str, Any] = {
        "base_url": options.base_url,
        "api_version": options.api_version,
        "account": options.account,
        "account_file": options.account_file,
        "timeout": options.timeout,
        "clock": CLOCK,
        # Most commands need none, and those that do open it themselves.
        "ledger": None,
    }
    return AsyncSessionClient(application="qsessions-cli", **chosen | arguments)


def run_async(
    command: str,
    body: Coroutine[Any, Any, int | None],
    describe_interruption: Callable[[bool], tuple[str, str]] | None = None,
) -> int:
    """Run a command's coroutine and return its exit code; print what went wrong on standard error.

    Args:
        command: The name of the command.
        body: Returns an exit code, or None for 0.
        describe_interruption: Returns what an interrupted command did and what to do about it; its
            argument is whether calls are still under way, which nothing waits for.

    Raises:
        LeaveAtOnce: Ctrl-C came twice.
    """
    printed, logs = StderrHandler(logging.WARNING), list(map(logging.getLogger, _PRINTED))
    with suppress(ConfigurationError):
        # A wrong value is told when the client is made. What is logged isn't printed once more.
        if log_as_asked():
            logs = []
    # The commands print the library's warnings themselves, in their own words.
    logging.getLogger("qsessions").addHandler(_DISCARD)
    for log in logs:
        log.addHandler(printed)
    runner = asyncio.Runner()
    is_abandoned = False
    try:
        return runner.run(body) or Exit.DONE
    except KeyboardInterrupt:
        is_abandoned = bool(asyncio.all_tasks(runner.get_loop()))
        if describe_interruption is not None:
            print_error(command, *describe_interruption(is_abandoned))
        if not is_abandoned:
            return Exit.INTERRUPTED
        raise LeaveAtOnce(Exit.INTERRUPTED) from None
    except LeaveAtOnce:
        is_abandoned = True
        raise
    except QSessionsError as error:
        problems = [problem_of(error, command), *getattr(error, "__notes__", [])]
        problem = "; ".join(text.removesuffix(".") for text in problems)
        print_error(command, f"{problem}.", advice_on(error, command))
        return exit_code(error)
    finally:
        if not is_abandoned:
            runner.close()
            logging.getLogger("qsessions").removeHandler(_DISCARD)
            for log in logs:
                log.removeHandler(printed)
