"""The synchronous facade where only a process of its own will do: Ctrl-C, forks, the interpreter's
end.

The processes run under `-X dev` with warnings as errors, and what they write to standard error is
asserted. Interruptions at each of many moments have their long form in tests/exhaustive.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qsessions.emulator import Emulator
from tests.programs import facade, interrupted
from tests.support.calls import SESSION, fault
from tests.support.clients import CRN
from tests.support.fault_server import Answer, Connection, FaultServer, hang, held, http
from tests.support.stage import Played, Stage, stage

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="signals and forks are those of POSIX"
)

TOKEN = http(200, {"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"})
REFUSED = http(403, fault("You may not."))
# Moments between two that a striker tries; the long form tries them all.
STEP = 7
AT_TERMINAL = str(Path(facade.__file__).with_name("at_terminal.py"))
# A program with an open session that waits.
WAITING = """
import signal
from qsessions import SessionClient
with SessionClient() as client:
    with client.open(mode="batch", max_ttl=600, handle_signals=True):
        print("inside", flush=True)
        signal.pause()
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Stage]:
    """Return what starts processes."""
    with stage("-X", "dev", "-W", "error") as place:
        yield place


@pytest.fixture
async def service() -> AsyncIterator[dict[str, str]]:
    """Return the variables that lead a program to an emulator on real time."""
    async with Emulator() as emulator:
        yield emulator.env()


def leading_to(server: FaultServer) -> dict[str, str]:
    """Return the variables that lead a program to a scripted server."""
    return {
        "QSESSIONS_BASE_URL": server.url,
        "IAM_URL": server.url,
        "QISKIT_IBM_TOKEN": "the-api-key",
        "QISKIT_IBM_INSTANCE": CRN,
    }


async def outcome_of(
    place: Stage, env: dict[str, str], scenario: Callable[..., None], *arguments: object
) -> tuple[int, str, str]:
    """Play a scenario to its end; return its exit code and what it wrote."""
    async with place.playing(scenario, *arguments, env=env) as program:
        return await program.outcome()


@asynccontextmanager
async def against(
    place: Stage, answers: list[Answer], scenario: Callable[..., None], *arguments: object
) -> AsyncIterator[tuple[FaultServer, Played]]:
    """Play a scenario against a scripted server, which has a token for it."""
    async with (
        FaultServer(TOKEN, *answers) as server,
        place.playing(scenario, *arguments, env=leading_to(server)) as program,
    ):
        yield server, program


async def interrupt(program: Played) -> None:
    """Send Ctrl-C, and wait until the program is dealing with it."""
    program.send_signal(signal.SIGINT)
    assert await program.line() == "interrupted"


async def outcome_at_once(program: Played) -> tuple[int, str, str]:
    """Return how a program ended that must not wait for what hangs, which would have 30 s."""
    async with asyncio.timeout(25):
        return await program.outcome()


async def test_ctrl_c_at_any_moment(place: Stage, service: dict[str, str]) -> None:
    """Ctrl-C at the first, a middle and the last moment of each call ends it, the client's loop goes
    on serving, and no session is left of a create.
    """
    code, output, errors = await outcome_of(place, service, interrupted.ctrl_c, 3)
    assert (code, errors) == (0, "")
    assert json.loads(output) == {}


@pytest.mark.parametrize(("scenario", "least"), interrupted.STRIKES)
async def test_an_interruption_wherever_a_signal_can_strike(
    place: Stage, service: dict[str, str], scenario: Callable[[int], None], least: int
) -> None:
    """Wherever in the facade's own code an interruption strikes, the first or a second one, what the
    scenario says holds: no session is left open that isn't told of.
    """
    code, output, errors = await outcome_of(place, service, scenario, STEP)
    # The development mode tells a loop that nobody had got yet.
    assert (code, errors if scenario is not interrupted.make else "") == (0, ""), errors
    assert int(output) > least


CREATE_REQUESTS = [("POST", "/v1/sessions"), ("DELETE", "/v1/sessions/s1/close")]


@asynccontextmanager
async def creating(
    place: Stage, *answers: Answer, ending: str = "shutdown"
) -> AsyncIterator[tuple[FaultServer, Played]]:
    """Play a program that creates a session, until the server has the request."""
    async with against(place, [*answers], facade.create, ending) as (server, program):
        await server.arrival(2)
        yield server, program


async def test_the_first_ctrl_c_waits_for_the_end_of_a_create(place: Stage) -> None:
    """One Ctrl-C lets the request come to its end and its session be closed, then goes on with
    nothing to tell.
    """
    released = asyncio.Event()
    answers = held(released, http(200, SESSION)), http(204)
    async with creating(place, *answers) as (server, program):
        await interrupt(program)
        released.set()
        assert await program.line() == "left"
        assert [(one.method, one.target) for one in server.received[1:]] == CREATE_REQUESTS
        program.tell()
        assert await program.outcome() == (0, "", "")


async def test_ctrl_c_tells_a_session_that_could_not_be_closed(place: Stage) -> None:
    """Where the close of an interrupted create is refused, a note names the session and says why."""
    released = asyncio.Event()
    async with creating(place, held(released, http(200, SESSION)), REFUSED) as (_, program):
        await interrupt(program)
        released.set()
        line = await program.line()
        assert line.startswith(
            "left create was cancelled in flight; session 's1' was created and could not be"
        )
        assert "You may not" in line


async def test_ctrl_c_tells_an_outcome_that_is_unknown(place: Stage) -> None:
    """Where the answer of an interrupted create is lost, a note says that the outcome is unknown."""
    released = asyncio.Event()

    async def lose(connection: Connection) -> None:
        await released.wait()
        connection.reset()

    async with creating(place, lose) as (_, program):
        await interrupt(program)
        released.set()
        assert "outcome is unknown" in await program.line()


async def test_a_second_ctrl_c_leaves_and_names_the_request(place: Stage) -> None:
    """Twice Ctrl-C before there is an answer leaves at once, naming the request; its ending goes on
    in the background.
    """
    released = asyncio.Event()
    answers = held(released, http(200, SESSION)), http(204)
    async with creating(place, *answers) as (server, program):
        await interrupt(program)
        program.send_signal(signal.SIGINT)
        line = await program.line()
        assert line.startswith(
            "left create(mode=dedicated, backend=ibm_fez, max_ttl=600) was interrupted"
        )
        assert "workloads()" in line
        released.set()
        await server.arrival(3)
        assert server.received[2].method == "DELETE"


async def test_a_second_ctrl_c_leaves_and_names_the_session(place: Stage) -> None:
    """Twice Ctrl-C while the session is being closed leaves at once, naming the session."""
    released = asyncio.Event()
    async with creating(place, held(released, http(200, SESSION)), hang) as (server, program):
        await interrupt(program)
        released.set()
        await server.arrival(3)
        program.send_signal(signal.SIGINT)
        assert (await program.line()).startswith(
            "left create was interrupted; session 's1' was created and may be open"
        )


async def test_ctrl_c_that_another_thread_gets(place: Stage) -> None:
    """Ctrl-C is noticed where the system gives it to a thread that doesn't wait, as it is where it
    strikes just before the wait.
    """
    scenario = facade.struck_elsewhere, "create", "shutdown"
    async with against(place, [hang], *scenario) as (server, program):
        await server.arrival(2)
        await interrupt(program)
        program.send_signal(signal.SIGINT)
        assert (await program.line()).startswith("left create")


@pytest.mark.parametrize("server_says", ["nothing at all", "nothing to the close"])
async def test_who_insisted_on_leaving_is_not_held_at_shutdown(
    place: Stage, server_says: str
) -> None:
    """After two Ctrl-C, `shutdown` gives what hangs a moment only, and leaves no warning behind."""
    released = asyncio.Event()
    creates = server_says == "nothing to the close"
    answers = [held(released, http(200, SESSION)), hang] if creates else [hang]
    async with creating(place, *answers) as (server, program):
        await interrupt(program)
        if creates:
            released.set()
            await server.arrival(3)
        program.send_signal(signal.SIGINT)
        assert (await program.line()).startswith("left create")
        program.tell()
        code, _, errors = await outcome_at_once(program)
        assert code == 0
        # What may be open is said, and nothing else: no warning of Python's.
        (line,) = errors.splitlines()
        assert line.startswith("create was cancelled")


async def test_who_insisted_on_leaving_is_not_held_at_exit(place: Stage) -> None:
    """After two Ctrl-C, a program that just ends is told of its client, and not held by what hangs."""
    async with creating(place, hang, ending="none") as (_, program):
        await interrupt(program)
        program.send_signal(signal.SIGINT)
        assert (await program.line()).startswith("left create")
        program.tell()
        code, _, errors = await outcome_at_once(program)
        assert code == 0
        assert "ResourceWarning: a SessionClient was not shut down" in errors


@pytest.mark.parametrize(
    "scenario",
    [
        (facade.shut_down_during_a_create,),
        (facade.struck_elsewhere, "shut_down_during_a_create"),
    ],
)
async def test_ctrl_c_while_shutting_down(place: Stage, scenario: Any) -> None:
    """The first Ctrl-C lets `shutdown` go on to its end, a second one leaves a create of another
    thread to the background, also where the system gives it to another thread.
    """
    async with against(place, [hang], *scenario) as (server, program):
        await server.arrival(2)
        program.tell()
        for _ in range(2):
            assert await program.line() == "waiting"
            program.send_signal(signal.SIGINT)
        assert await program.line() == "left"
        assert await outcome_at_once(program) == (0, "", "")


async def test_one_ctrl_c_while_shutting_down(place: Stage, service: dict[str, str]) -> None:
    """A single Ctrl-C during `shutdown` goes on once the client has ended."""
    assert await outcome_of(place, service, interrupted.shut_down_once) == (0, "ended\n", "")


async def test_a_child_after_a_fork_is_refused_and_its_parent_goes_on(
    place: Stage, service: dict[str, str]
) -> None:
    """In a forked child every use is a clear error, whatever it does then; the parent's connection
    lives on.
    """
    code, output, errors = await outcome_of(place, service, facade.fork_a_user)
    refused = (
        "child ConfigurationError this client belongs to the process that this one was forked from. "
        "Make a client after the fork."
    )
    assert (code, errors) == (0, "")
    assert output.splitlines() == [refused, refused, "child None", "parent 0", "parent closed"]


async def test_a_program_without_shutdown_is_told_and_ends(
    place: Stage, service: dict[str, str]
) -> None:
    """A client that is never shut down costs a ResourceWarning at the program's end, and no hang."""
    code, output, errors = await outcome_of(place, service, facade.forget_to_shut_down)
    assert (code, output) == (0, "end\n")
    (*_, last) = errors.strip().splitlines()
    assert last.startswith("ResourceWarning: a SessionClient was not shut down")


async def test_a_program_that_ends_during_a_call_of_another_thread(place: Stage) -> None:
    """A daemon thread that waits for an answer doesn't keep the program from ending."""
    async with against(place, [hang], facade.end_during_a_call) as (server, program):
        await server.arrival(2)
        program.tell()
        code, _, errors = await outcome_at_once(program)
        assert code == 0
        assert "ResourceWarning: a SessionClient was not shut down" in errors


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("atexit, before", "ClientClosed"),
        # Python 3.12 starts no threads then.
        ("atexit, after", ("done", "ConnectionFailed: versions: a thread that the call needs")),
        # What `__main__` holds is let go of once there are no threads any more.
        ("finalizing", "ClientClosed"),
        (
            "finalizing, without the facade",
            "ConnectionFailed: versions: a thread that the call needs",
        ),
    ],
)
async def test_calls_while_the_interpreter_ends(
    place: Stage, service: dict[str, str], moment: str, said: str | tuple[str, ...]
) -> None:
    """A call at the interpreter's end works or gets a clear error, and never hangs, though the host's
    name needs a thread to be looked up.
    """
    url = service["QSESSIONS_BASE_URL"].replace("127.0.0.1", "localhost")
    env = service | {"QSESSIONS_BASE_URL": url}
    code, output, _ = await outcome_of(place, env, facade.call_late, moment)
    assert code == 0
    assert output.startswith(said)


async def test_ctrl_c_in_a_block_closes_its_session(place: Stage) -> None:
    """Ctrl-C in the block closes the session at once, then goes on."""
    answers: list[Answer] = [http(200, SESSION), http(204)]
    async with against(place, answers, facade.block, "inside") as (server, program):
        assert await program.line() == "inside"
        program.send_signal(signal.SIGINT)
        assert await program.line() == "left KeyboardInterrupt"
        assert server.received[-1].method == "DELETE"
        program.tell()
        assert await program.outcome() == (0, "", "")


@asynccontextmanager
async def ending(place: Stage, answer: Answer) -> AsyncIterator[Played]:
    """Play a program that ends a block, until the server has that request and Ctrl-C struck."""
    answers = [http(200, SESSION), answer]
    async with against(place, answers, facade.block, "at its end") as (server, program):
        assert await program.line() == "inside"
        program.tell()
        await server.arrival(3)
        await interrupt(program)
        yield program


async def test_a_second_ctrl_c_leaves_a_block_that_is_being_ended(place: Stage) -> None:
    """The first Ctrl-C at the end of a block waits for the ending; a second one leaves, naming the
    session.
    """
    async with ending(place, hang) as program:
        program.send_signal(signal.SIGINT)
        line = await program.line()
        assert line.startswith("left KeyboardInterrupt session 's1' is being ended and may be open")


async def test_one_ctrl_c_at_the_end_of_a_block_waits_for_the_ending(place: Stage) -> None:
    """The first Ctrl-C at the end of a block goes on once the session has ended, with a note where
    it could not be.
    """
    released = asyncio.Event()
    async with ending(place, held(released, REFUSED)) as program:
        released.set()
        line = await program.line()
        assert line.startswith("left KeyboardInterrupt")
        assert "You may not" in line


async def test_a_child_leaves_its_parents_block_alone(
    place: Stage, service: dict[str, str]
) -> None:
    """A forked child that leaves the parent's block doesn't end the parent's session, nor hides its
    own error.
    """
    outcome = await outcome_of(place, service, facade.fork_in_a_block)
    assert outcome == (0, "7 True\nclosed\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("way", ["async", "sync", "sync, in a call"])
async def test_signals_close_what_is_open_first(
    place: Stage, way: str, number: signal.Signals
) -> None:
    """With `handle_signals`, the open session is closed, then the process ends by the signal as it
    did before.
    """
    async with Emulator() as emulator:
        async with place.playing(facade.hold_signals, way, env=emulator.env()) as program:
            assert await program.line() == "inside"
            program.send_signal(number)
            code, _, errors = await program.outcome()
        (session,) = emulator.sessions.values()
    assert session.state == "closed"
    if number is not signal.SIGINT:
        assert (code, errors) == (-number, "")
    else:
        assert code == -signal.SIGINT
        assert errors.strip().endswith("KeyboardInterrupt")


async def test_a_terminal_that_is_gone_closes_what_is_open() -> None:
    """With `handle_signals`, a program whose terminal is gone, as after an ssh that was dropped,
    closes its session first.
    """
    async with Emulator() as emulator:
        terminal, inner = pty.openpty()
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-IS", AT_TERMINAL, sys.executable, "-c", WAITING,
            stdin=inner, stdout=asyncio.subprocess.PIPE, stderr=inner,
            env=os.environ | emulator.env(),
        )  # fmt: skip
        os.close(inner)
        assert program.stdout is not None
        assert await program.stdout.readline() == b"inside\n"
        os.close(terminal)
        await program.communicate()
        assert program.returncode == -signal.SIGHUP
        (session,) = emulator.sessions.values()
    assert session.state == "closed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", ["async", "sync"])
async def test_signals_close_what_is_being_created(
    place: Stage, way: str, number: signal.Signals
) -> None:
    """With `handle_signals`, a signal while the create is in flight waits for its end, and the
    session is closed.
    """
    released = asyncio.Event()
    answers: list[Answer] = [held(released, http(200, SESSION)), http(204)]
    async with against(place, answers, facade.hold_signals, way) as (server, program):
        await server.arrival(2)
        program.send_signal(number)
        # The signal is there before the answer: both come to the same process in this order.
        released.set()
        assert await program.wait() == -number
        assert [one.method for one in server.received[1:]] == ["POST", "DELETE"]


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_a_second_signal_acts_at_once(place: Stage, way: str) -> None:
    """While a signal's session is being closed, the next signal does what it did before, at once;
    the log names the session.
    """
    answers: list[Answer] = [http(200, SESSION), hang]
    async with against(place, answers, facade.hold_signals, way) as (server, program):
        assert await program.line() == "inside"
        program.send_signal(signal.SIGTERM)
        await server.arrival(3)
        program.send_signal(signal.SIGTERM)
        code, _, errors = await program.outcome()
    assert code == -signal.SIGTERM
    assert "a second signal came: session 's1' is being ended and may be open" in errors


@pytest.mark.parametrize("handled", [True, False])
async def test_two_ctrl_c_in_a_block_end_the_program(place: Stage, handled: bool) -> None:
    """Two Ctrl-C are out of a block and its client in seconds, also where the session can't be
    ended, and name it.
    """
    answers: list[Answer] = [http(200, SESSION), hang]
    async with against(place, answers, facade.hold_signals, "sync", handled) as (server, program):
        assert await program.line() == "inside"
        program.send_signal(signal.SIGINT)
        await server.arrival(3)
        program.send_signal(signal.SIGINT)
        # An ending has 30 s, and closing the client would begin another.
        code, _, errors = await outcome_at_once(program)
    assert code == -signal.SIGINT
    assert "session 's1' is being ended and may be open; that goes on in the background" in errors


async def test_a_signal_at_the_event_loops_end(place: Stage) -> None:
    """A signal waits for its sessions' end also where the program returns meanwhile and
    `asyncio.run` cancels whatever goes on.
    """
    released = asyncio.Event()
    answers: list[Answer] = [http(200, SESSION), hang, held(released, http(204))]
    async with against(place, answers, facade.end_the_event_loop) as (server, program):
        assert await program.line() == "inside"
        program.send_signal(signal.SIGTERM)
        await server.arrival(3)
        program.tell()
        # The first was given up with the loop's tasks.
        await server.arrival(4)
        assert await program.lives()
        released.set()
        assert await program.wait() == -signal.SIGTERM
        assert [one.method for one in server.received[1:]] == ["POST", "DELETE", "DELETE"]


async def test_a_signal_while_the_client_shuts_down(place: Stage) -> None:
    """A signal waits for the sessions that `shutdown` is ending."""
    released = asyncio.Event()
    answers: list[Answer] = [http(200, SESSION), held(released, http(503)), http(204)]
    async with against(place, answers, facade.end_the_client) as (server, program):
        await server.arrival(3)
        program.send_signal(signal.SIGTERM)
        released.set()
        assert await program.wait() == -signal.SIGTERM
        assert [one.method for one in server.received[1:]] == ["POST", "PATCH", "PATCH"]


async def test_a_user_handler_is_called_afterwards_and_ignored_signals_stay_ignored(
    place: Stage, service: dict[str, str]
) -> None:
    """A handler that was set before runs after the session was closed, and a signal that was
    ignored does nothing.
    """
    code, output, errors = await outcome_of(place, service, facade.have_handlers)
    assert (code, errors) == (0, "")
    assert output.splitlines() == ["outer open", "mine closed", "inner closed", "True True"]


async def test_signals_are_handled_in_the_main_thread_only(
    place: Stage, service: dict[str, str]
) -> None:
    """In another thread `handle_signals` is refused before anything is created."""
    code, output, errors = await outcome_of(place, service, facade.hold_signals_in_a_thread)
    assert (code, errors) == (0, "")
    line, count = output.splitlines()
    assert line.startswith("ConfigurationError handle_signals=True works in the main thread only")
    assert count == "0"


async def test_what_ends_in_the_loop_thread_ends_nobody_elses_calls(
    place: Stage, service: dict[str, str]
) -> None:
    """SystemExit in a task that nobody awaits is logged and ignored: the client goes on, and ends
    cleanly.
    """
    code, output, errors = await outcome_of(place, service, facade.exit_in_an_observer)
    assert (code, output) == (0, "NotFound\nTrue\n")
    assert "SystemExit on the client's own event loop is ignored" in errors
    assert "Unclosed" not in errors
