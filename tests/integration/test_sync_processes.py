"""The synchronous facade where only a process of its own will do: Ctrl-C, forks, the interpreter's
end.

Each program runs under `-X dev` with warnings as errors, and what it writes to standard error is
asserted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qsessions.emulator import Emulator
from tests.support.calls import SESSION, fault
from tests.support.clients import CRN
from tests.support.fault_server import Answer, Connection, FaultServer, hang, held, http

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="signals and forks are those of POSIX"
)

# How the programs make their client, and what they have in common.
PRELUDE = """
import asyncio, atexit, gc, logging, os, signal, sys, threading
from qsessions import IBMCloudAPIKey, ServiceCRN, SessionClient

# The development mode tells callbacks that took long, which is the machine's load here and no
# defect.
logging.getLogger("asyncio").setLevel(logging.ERROR)


connect = SessionClient


def say(*words):
    print(*words, flush=True)
"""

# Sends this process a real SIGINT when the client's loop has run a given number of callbacks, and
# waits until Python has seen it.
INTERRUPTER = """
class Interrupter:
    def __init__(self):
        self.count, self.at, self.armed = 0, None, False
        self.seen = threading.Event()
        signal.signal(signal.SIGINT, self.handle)
        original = asyncio.Handle._run

        def run(handle):
            original(handle)
            if threading.current_thread().name == "qsessions":
                self.tick()

        asyncio.Handle._run = run

    def tick(self):
        self.count += 1
        if self.armed and self.count == self.at:
            self.seen.clear()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            self.seen.wait()

    def handle(self, number, frame):
        self.seen.set()
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def interrupt(self, call, at):
        self.count, self.at, self.armed = 0, at, True
        try:
            call()
            self.armed = False
        except KeyboardInterrupt as interruption:
            return getattr(interruption, "__notes__", [])
        # The moment came after the answer.
        return None


interrupter = Interrupter()
"""


@asynccontextmanager
async def program(
    text: str, *, env: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program; it is killed where the test leaves it running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-c",
        text,
        env=os.environ | (env or {}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output_of(text: str, *, env: dict[str, str] | None = None) -> tuple[int | None, str, str]:
    """Run a program to its end; give its exit code and what it wrote."""
    async with program(PRELUDE + text, env=env) as process:
        output, errors = await process.communicate()
        return process.returncode, output.decode(), errors.decode()


async def line_of(process: asyncio.subprocess.Process) -> str:
    """Read what a program says next."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


@pytest.fixture
async def service() -> AsyncIterator[dict[str, str]]:
    """Give the variables that lead a program to an emulator on real time."""
    async with Emulator() as emulator:
        yield emulator.env()


def leading_to(server: FaultServer) -> dict[str, str]:
    """Give a program's variables for a scripted server."""
    return {
        "QSESSIONS_BASE_URL": server.url,
        "IAM_URL": server.url,
        "QISKIT_IBM_TOKEN": "the-api-key",
        "QISKIT_IBM_INSTANCE": CRN,
    }


TOKEN = http(200, {"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"})

# Each public call: what it needs, and the call itself.
CALLS = {
    "make": "lambda: connect().shutdown()",
    "enter": "client.__enter__",
    "create": "lambda: client.create(mode='batch', backend='ibm_fez')",
    "get": "lambda: client.get(session_id)",
    "update": "lambda: client.update(session_id, accepting_jobs=True)",
    "drain": "lambda: client.drain(session_id)",
    "close": "lambda: client.close(session_id)",
    "versions": "lambda: client.versions()",
    "workloads": "lambda: list(client.workloads())",
    "attach": "lambda: client.attach(session_id)",
    "refresh": "lambda: client.attach(session_id).refresh()",
    "live drain": "lambda: client.attach(session_id).drain()",
    "live close": "lambda: client.attach(session_id).close()",
    # Held: what interrupts the collection of an iterator is Python's own to swallow.
    "watch": "lambda: next(held(client.attach(session_id).watch()))",
    "wait_until": "lambda: client.attach(session_id).wait_until('open')",
    "watch many": "lambda: next(held(client.watch([session_id])))",
    "open": "lambda: client.open(mode='batch', max_ttl=600).__enter__()",
    "block": "lambda: block(client)",
    "shutdown": "client.shutdown",
}


@pytest.mark.parametrize("call", CALLS)
async def test_ctrl_c_at_ten_moments(call: str, service: dict[str, str]) -> None:
    """Ctrl-C at ten moments of a call ends it, the client's loop goes on serving, and no session is
    left of a create.
    """
    code, output, errors = await output_of(
        INTERRUPTER
        + f"""
iterators = []


def held(iterator):
    iterators.append(iterator)
    return iterator


def block(client):
    with client.open(mode="batch", max_ttl=600) as live:
        live.refresh()


def once(at):
    client = connect()
    helper = connect()
    session_id = helper.create(mode="batch", backend="ibm_fez", max_ttl=600).id
    notes = interrupter.interrupt({CALLS[call]}, at)
    count = interrupter.count
    if notes is not None:
        if {call not in {"enter", "shutdown"}}:
            client.versions()
        left = [w.id for w in helper.workloads(status=("pending", "in_progress")) if w.id != session_id]
        assert (notes, left) == ([], []), (notes, left)
    client.shutdown()
    for workload in helper.workloads(status=("pending", "in_progress")):
        helper.close(workload.id)
    helper.shutdown()
    return count, notes is not None


count, _ = once(None)
moments = sorted({{1 + number * (count - 1) // 9 for number in range(10)}})
say(sum(interrupted for _, interrupted in map(once, moments)))
""",
        env=service,
    )
    assert (code, errors) == (0, "")
    # The last moments may come after the answer; the shortest calls take the loop a callback or
    # two.
    assert int(output) >= (1 if call in {"attach", "enter", "make", "shutdown"} else 8)


# Raises at a moment at which the interpreter would let a signal strike: after a call into C, at a
# function's beginning, at a loop's end.
STRIKER = """
import dis

from qsessions.sync import calls, client as sync, context, live, loop_thread

FILES = {module.__file__ for module in (calls, sync, context, live, loop_thread)}
MOMENTS = {"CALL", "RESUME", "JUMP_BACKWARD", "CALL_KW", "CALL_FUNCTION_EX", "BEFORE_WITH"}


class Striker:
    def __init__(self, at):
        self.left = at
        self.before = None, None

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            (where, last), self.before = self.before, (frame, name)
            # What follows a call that raised is no such moment.
            if where is frame and last in MOMENTS and name not in {"CACHE", "PRECALL", "PUSH_EXC_INFO"}:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self


def struck(call, at):
    sys.settrace(Striker(at))
    try:
        return call(), None
    except KeyboardInterrupt as interruption:
        return None, getattr(interruption, "__notes__", [])
    finally:
        sys.settrace(None)


def opened(client):
    return [workload.id for workload in client.workloads(status=("pending", "in_progress"))]
"""


async def test_a_create_interrupted_wherever_a_signal_can_strike(service: dict[str, str]) -> None:
    """Wherever in the facade's own code an interruption strikes a create, nothing is left open and
    nothing is left to tell.
    """
    code, output, errors = await output_of(
        STRIKER
        + """
with connect() as client, connect() as helper:
    for moment in range(1, 10_000):
        session, notes = struck(lambda: client.create(mode="batch", backend="ibm_fez"), moment)
        if session is not None:
            break
        assert (notes, opened(helper)) == ([], []), (moment, notes)
    helper.close(session.id)
say(moment)
""",
        env=service,
    )
    assert (code, errors) == (0, "")
    assert int(output) > 10


async def test_a_client_interrupted_while_it_is_made_leaves_no_thread(
    service: dict[str, str],
) -> None:
    """Wherever an interruption strikes the making of a client, its thread ends and its loop is
    closed.
    """
    code, output, errors = await output_of(
        STRIKER
        + """
import warnings

# Collected before it was given to anybody: nobody could have shut it down.
warnings.filterwarnings("ignore", "a SessionClient was not shut down")
for moment in range(1, 10_000):
    client, notes = struck(connect, moment)
    if client is not None:
        break
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "qsessions":
            thread.join()
client.shutdown()
say(moment)
""",
        env=service,
    )
    # The development mode tells a loop that nobody had got yet.
    assert code == 0, errors
    assert int(output) > 5


async def test_a_block_interrupted_wherever_a_signal_can_strike(service: dict[str, str]) -> None:
    """Wherever in the facade's own code an interruption strikes a block, its session ends, at the
    latest with the client.
    """
    code, output, errors = await output_of(
        STRIKER
        + """
def block(client):
    with client.open(mode="batch", max_ttl=600) as live:
        live.refresh()
    return live


with connect() as helper:
    for moment in range(1, 10_000):
        client = connect()
        live, notes = struck(lambda: block(client), moment)
        client.shutdown()
        assert (notes or [], opened(helper)) == ([], []), (moment, notes)
        if live is not None:
            break
say(moment)
""",
        env=service,
    )
    assert (code, errors) == (0, "")
    assert int(output) > 20


async def test_a_create_interrupted_again_wherever_a_signal_can_strike(
    service: dict[str, str],
) -> None:
    """Wherever a second interruption strikes, it leaves with a note on what was left, which ends in
    the background.
    """
    code, output, errors = await output_of(
        STRIKER
        + """
class Interrupting:
    def acquire(self, *arguments):
        # The wait for the answer is interrupted.
        raise KeyboardInterrupt

    def release(self):
        pass


def interrupted(thread, start):
    call = loop_thread.Call(thread, start)
    if getattr(start, "func", None) is not calls._undo:
        call.answered = Interrupting()
    return call


with connect() as client, connect() as helper:
    for moment in range(1, 10_000):
        striker = Striker(moment)
        calls.Call = interrupted
        sys.settrace(striker)
        try:
            client.create(mode="batch", backend="ibm_fez")
        except KeyboardInterrupt as interruption:
            notes = getattr(interruption, "__notes__", [])
        finally:
            sys.settrace(None)
            calls.Call = loop_thread.Call
        while opened(helper):
            pass
        assert not notes or "create" in notes[0], notes
        if striker.left > 0:
            break
say(moment)
""",
        env=service,
    )
    assert (code, errors) == (0, "")
    assert int(output) > 10


async def test_a_block_interrupted_again_wherever_a_signal_can_strike(
    service: dict[str, str],
) -> None:
    """Wherever a second interruption strikes the end of a block, its session ends, at the latest
    with the client.
    """
    code, output, errors = await output_of(
        STRIKER
        + """
class InterruptedOnce:
    def __init__(self, lock):
        self.lock, self.interruptions = lock, [KeyboardInterrupt()]

    def acquire(self, *arguments):
        if self.interruptions:
            raise self.interruptions.pop()
        return self.lock.acquire(*arguments)

    def release(self):
        self.lock.release()


def interrupted(thread, start):
    call = loop_thread.Call(thread, start)
    if start.func.__name__ == "__aexit__":
        call.answered = InterruptedOnce(call.answered)
    return call


with connect() as helper:
    for moment in range(1, 10_000):
        client = connect()
        block = client.open(mode="batch", max_ttl=600)
        block.__enter__()
        calls.Call = interrupted
        striker = Striker(moment)
        sys.settrace(striker)
        try:
            block.__exit__(None, None, None)
        except KeyboardInterrupt as interruption:
            notes = getattr(interruption, "__notes__", [])
        finally:
            sys.settrace(None)
            calls.Call = loop_thread.Call
        client.shutdown()
        assert opened(helper) == [], moment
        assert not notes or "is being ended" in notes[0], notes
        if striker.left > 0:
            break
say(moment)
""",
        env=service,
    )
    assert (code, errors) == (0, "")
    assert int(output) > 10


# Says when the first Ctrl-C has come so far that a second one counts as such.
TOLD = """
from qsessions.sync.loop_thread import Stage


def observe(client):
    def watch():
        while Stage.UNDOING not in tuple(client._thread.calls.values()):
            pass
        say("interrupted")

    threading.Thread(target=watch, daemon=True).start()
"""

CREATE = """
client = connect()
observe(client)
try:
    client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m")
except KeyboardInterrupt as interruption:
    say("left", *getattr(interruption, "__notes__", []))
sys.stdin.readline()
client.shutdown()
"""


async def interrupt(process: asyncio.subprocess.Process) -> None:
    """Send Ctrl-C, and wait until the program is dealing with it."""
    process.send_signal(signal.SIGINT)
    assert await line_of(process) == "interrupted"


@asynccontextmanager
async def creating(
    *answers: Answer,
) -> AsyncIterator[tuple[FaultServer, asyncio.subprocess.Process]]:
    """Run a program that creates a session at a scripted server, until the server has the request."""
    async with (
        FaultServer(TOKEN, *answers) as server,
        program(PRELUDE + TOLD + CREATE, env=leading_to(server)) as process,
    ):
        await server.arrival(2)
        yield server, process


async def test_the_first_ctrl_c_waits_for_the_end_of_a_create() -> None:
    """One Ctrl-C lets the request come to its end and its session be closed, then goes on with
    nothing to tell.
    """
    released = asyncio.Event()
    async with creating(held(released, http(200, SESSION)), http(204)) as (server, process):
        await interrupt(process)
        released.set()
        assert await line_of(process) == "left"
        assert [(one.method, one.target) for one in server.received[1:]] == [
            ("POST", "/v1/sessions"),
            ("DELETE", "/v1/sessions/s1/close"),
        ]
        output, errors = await process.communicate(b"\n")
        assert (process.returncode, output, errors) == (0, b"", b"")


async def test_ctrl_c_tells_a_session_that_could_not_be_closed() -> None:
    """Where the close of an interrupted create is refused, a note names the session and says why."""
    released = asyncio.Event()
    refused = http(403, fault("You may not."))
    async with creating(held(released, http(200, SESSION)), refused) as (_, process):
        await interrupt(process)
        released.set()
        told = await line_of(process)
        assert told.startswith(
            "left create was cancelled in flight; session 's1' was created and could not be"
        )
        assert "You may not" in told


async def test_ctrl_c_tells_an_outcome_that_is_unknown() -> None:
    """Where the answer of an interrupted create is lost, a note says that the outcome is unknown."""
    released = asyncio.Event()

    async def lose(connection: Connection) -> None:
        await released.wait()
        connection.reset()

    async with creating(lose) as (_, process):
        await interrupt(process)
        released.set()
        assert "outcome is unknown" in await line_of(process)


async def test_a_second_ctrl_c_leaves_and_names_the_request() -> None:
    """Twice Ctrl-C before there is an answer leaves at once, naming the request; its ending goes on
    in the background.
    """
    released = asyncio.Event()
    async with creating(held(released, http(200, SESSION)), http(204)) as (server, process):
        await interrupt(process)
        process.send_signal(signal.SIGINT)
        told = await line_of(process)
        assert told.startswith(
            "left create(mode=dedicated, backend=ibm_fez, max_ttl=600) was interrupted"
        )
        assert "workloads()" in told
        released.set()
        await server.arrival(3)
        assert server.received[2].method == "DELETE"


async def test_a_second_ctrl_c_leaves_and_names_the_session() -> None:
    """Twice Ctrl-C while the session is being closed leaves at once, naming the session."""
    released = asyncio.Event()
    async with creating(held(released, http(200, SESSION)), hang) as (server, process):
        await interrupt(process)
        released.set()
        await server.arrival(3)
        process.send_signal(signal.SIGINT)
        told = await line_of(process)
        assert told.startswith(
            "left create was interrupted; session 's1' was created and may be open"
        )


@pytest.mark.parametrize("server_says", ["nothing at all", "nothing to the close"])
async def test_who_insisted_on_leaving_is_not_held_at_shutdown(server_says: str) -> None:
    """After two Ctrl-C, `shutdown` gives what hangs a moment only, and leaves no warning behind."""
    released = asyncio.Event()
    answers = (
        [hang] if server_says == "nothing at all" else [held(released, http(200, SESSION)), hang]
    )
    async with creating(*answers) as (server, process):
        await interrupt(process)
        if server_says != "nothing at all":
            released.set()
            await server.arrival(3)
        process.send_signal(signal.SIGINT)
        assert (await line_of(process)).startswith("left create")
        async with asyncio.timeout(25):
            _, errors = await process.communicate(b"\n")
        assert process.returncode == 0
        # What may be open is said, and nothing else: no warning of Python's.
        (told,) = errors.decode().splitlines()
        assert told.startswith("create was cancelled")


async def test_who_insisted_on_leaving_is_not_held_at_exit() -> None:
    """After two Ctrl-C, a program that just ends is told of its client, and not held by what hangs."""
    async with (
        FaultServer(TOKEN, hang) as server,
        program(
            PRELUDE + TOLD + CREATE.replace("client.shutdown()\n", ""),
            env=leading_to(server),
        ) as process,
    ):
        await server.arrival(2)
        await interrupt(process)
        process.send_signal(signal.SIGINT)
        assert (await line_of(process)).startswith("left create")
        async with asyncio.timeout(25):
            _, errors = await process.communicate(b"\n")
        assert process.returncode == 0
        assert b"ResourceWarning: a SessionClient was not shut down" in errors


async def test_ctrl_c_while_shutting_down() -> None:
    """The first Ctrl-C lets `shutdown` go on to its end, a second one leaves a create of another
    thread to the background.
    """
    async with (
        FaultServer(TOKEN, hang) as server,
        program(
            PRELUDE
            + """
client = connect()
creating = threading.Thread(target=client.create, kwargs={"mode": "batch"}, daemon=True)
creating.start()
sys.stdin.readline()


begin = client._thread._shutdown.begin


def told():
    # Asked for at the beginning of each wait.
    begin()
    say("waiting")


client._thread._shutdown.begin = told
try:
    client.shutdown()
except KeyboardInterrupt:
    say("left")
""",
            env=leading_to(server),
        ) as process,
    ):
        await server.arrival(2)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        for _ in range(2):
            assert await line_of(process) == "waiting"
            process.send_signal(signal.SIGINT)
        assert await line_of(process) == "left"
        async with asyncio.timeout(25):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")


async def test_one_ctrl_c_while_shutting_down(service: dict[str, str]) -> None:
    """A single Ctrl-C during `shutdown` goes on once the client has ended."""
    code, output, errors = await output_of(
        INTERRUPTER
        + """
client = connect()
client.versions()
assert interrupter.interrupt(client.shutdown, 1) == []
client._thread._thread.join()
client.shutdown()
say("ended")
""",
        env=service,
    )
    assert (code, output, errors) == (0, "ended\n", "")


async def test_a_child_after_a_fork_is_refused_and_its_parent_goes_on(
    service: dict[str, str],
) -> None:
    """In a forked child every use is a clear error, whatever it does then; the parent's connection
    lives on.
    """
    code, output, errors = await output_of(
        """
before = connect()
before.shutdown()
client = connect()
live = client.attach(client.create(mode="batch", backend="ibm_fez").id)
child = os.fork()
if child == 0:
    for call in (client.versions, live.refresh, client.shutdown):
        try:
            say("child", call())
        except Exception as error:
            say("child", type(error).__name__, error)
    del client, live, call
    gc.collect()
    sys.exit(0)
say("parent", os.waitpid(child, 0)[1])
live.close()
say("parent", live.refresh().state)
client.shutdown()
""",
        env=service,
    )
    refused = (
        "child ConfigurationError this client belongs to the process that this one was forked from. "
        "Make a client after the fork."
    )
    assert (code, errors) == (0, "")
    assert output.splitlines() == [refused, refused, "child None", "parent 0", "parent closed"]


async def test_a_program_without_shutdown_is_told_and_ends(service: dict[str, str]) -> None:
    """A client that is never shut down costs a ResourceWarning at the program's end, and no hang."""
    code, output, errors = await output_of(
        'client = connect()\nclient.versions()\nsay("end")\n', env=service
    )
    assert (code, output) == (0, "end\n")
    assert (
        errors.strip()
        .splitlines()[-1]
        .startswith("ResourceWarning: a SessionClient was not shut down")
    )


async def test_a_program_that_ends_during_a_call_of_another_thread() -> None:
    """A daemon thread that waits for an answer doesn't keep the program from ending."""
    async with (
        FaultServer(TOKEN, hang) as server,
        program(
            PRELUDE
            + """
client = connect()
threading.Thread(target=client.get, args=("s1",), daemon=True).start()
sys.stdin.readline()
""",
            env=leading_to(server),
        ) as process,
    ):
        await server.arrival(2)
        async with asyncio.timeout(25):
            _, errors = await process.communicate(b"\n")
        assert process.returncode == 0
        assert b"ResourceWarning: a SessionClient was not shut down" in errors


@pytest.mark.parametrize("where", ["atexit, before", "atexit, after", "finalizing"])
async def test_calls_while_the_interpreter_ends(where: str, service: dict[str, str]) -> None:
    """A call at the interpreter's end gets a clear error and never hangs, though the host's name
    needs a thread to be looked up.
    """
    texts = {
        "atexit, before": "atexit.register(late)\nclient = connect()\n",
        "atexit, after": "client = connect()\natexit.register(late, client)\n",
        # What __main__ holds is let go of once there are no threads any more.
        "finalizing": """
class Late:
    def __init__(self):
        self.client, self.late = client, late

    def __del__(self):
        self.late(self.client)


client = connect()
kept = Late()
""",
    }
    code, output, _ = await output_of(
        """
def late(given=None, os=os):
    try:
        (given or client).versions()
    except Exception as error:
        os.write(1, f"{type(error).__name__}: {error}\\n".encode())


"""
        + texts[where],
        env=service
        | {"QSESSIONS_BASE_URL": service["QSESSIONS_BASE_URL"].replace("127.0.0.1", "localhost")},
    )
    assert code == 0
    expected = "ConnectionFailed" if where == "atexit, after" else "ClientClosed"
    assert output.startswith(expected)


# Says each Ctrl-C that strikes the ending of a block.
LASTING = """
from qsessions.sync.loop_thread import Call

waits, waited = Call.wait, set()


def told(call, *arguments):
    if call in waited:
        say("interrupted")
    waited.add(call)
    waits(call, *arguments)


Call.wait = told
"""

BLOCK = """
client = connect()
observe(client)
try:
    with client.open(mode="dedicated", backend="ibm_fez", max_ttl="10m") as live:
        say("inside")
        sys.stdin.readline()
    say("clean")
except BaseException as error:
    say("left", type(error).__name__, *getattr(error, "__notes__", []))
sys.stdin.readline()
client.shutdown()
"""


async def test_ctrl_c_in_a_block_closes_its_session() -> None:
    """Ctrl-C in the block closes the session at once, then goes on."""
    async with (
        FaultServer(TOKEN, http(200, SESSION), http(204)) as server,
        program(PRELUDE + TOLD + BLOCK, env=leading_to(server)) as process,
    ):
        assert await line_of(process) == "inside"
        process.send_signal(signal.SIGINT)
        assert await line_of(process) == "left KeyboardInterrupt"
        assert server.received[-1].method == "DELETE"
        _, errors = await process.communicate(b"\n")
        assert (process.returncode, errors) == (0, b"")


async def test_a_second_ctrl_c_leaves_a_block_that_is_being_ended() -> None:
    """The first Ctrl-C at the end of a block waits for the ending; a second one leaves, naming the
    session.
    """
    async with (
        FaultServer(TOKEN, http(200, SESSION), hang) as server,
        program(
            PRELUDE + LASTING + BLOCK.replace("observe(client)\n", ""),
            env=leading_to(server),
        ) as process,
    ):
        assert await line_of(process) == "inside"
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await server.arrival(3)
        await interrupt(process)
        process.send_signal(signal.SIGINT)
        told = await line_of(process)
        assert told.startswith("left KeyboardInterrupt session 's1' is being ended and may be open")


async def test_one_ctrl_c_at_the_end_of_a_block_waits_for_the_ending() -> None:
    """The first Ctrl-C at the end of a block goes on once the session has ended, with a note where
    it could not be.
    """
    released = asyncio.Event()
    refused = http(403, fault("You may not."))
    async with (
        FaultServer(TOKEN, http(200, SESSION), held(released, refused)) as server,
        program(
            PRELUDE + LASTING + BLOCK.replace("observe(client)\n", ""),
            env=leading_to(server),
        ) as process,
    ):
        assert await line_of(process) == "inside"
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await server.arrival(3)
        await interrupt(process)
        released.set()
        told = await line_of(process)
        assert told.startswith("left KeyboardInterrupt")
        assert "You may not" in told


async def test_a_child_leaves_its_parents_block_alone(service: dict[str, str]) -> None:
    """A forked child that leaves the parent's block doesn't end the parent's session, nor hides its
    own error.
    """
    code, output, errors = await output_of(
        """
with connect() as client:
    with client.open(mode="batch", max_ttl=600) as live:
        child = os.fork()
        if child == 0:
            sys.exit(7)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), live.refresh().accepting_jobs)
    say(live.refresh().state)
""",
        env=service,
    )
    assert (code, output, errors) == (0, "7 True\nclosed\n", "")


SIGNALLED = {
    "async": """
async def main():
    async with AsyncSessionClient() as client:
        async with client.open(mode="batch", max_ttl=600, handle_signals=True) as live:
            say("inside")
            await asyncio.get_running_loop().create_future()


asyncio.run(main())
""",
    "sync": """
with connect() as client:
    with client.open(mode="batch", max_ttl=600, handle_signals=True) as live:
        say("inside")
        sys.stdin.readline()
""",
    "sync, in a call": """
with connect() as client:
    with client.open(mode="batch", max_ttl=600, handle_signals=True) as live:
        say("inside")
        live.wait_until("inactive")
""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", SIGNALLED)
async def test_signals_close_what_is_open_first(way: str, number: signal.Signals) -> None:
    """With `handle_signals`, the open session is closed, then the process ends by the signal as it
    did before.
    """
    async with Emulator() as emulator:
        text = PRELUDE.replace("import IBM", "import AsyncSessionClient, IBM") + SIGNALLED[way]
        async with program(text, env=emulator.env()) as process:
            assert await line_of(process) == "inside"
            process.send_signal(number)
            _, errors = await process.communicate()
        (session,) = emulator.sessions.values()
    assert session.state == "closed"
    if number is signal.SIGTERM:
        assert (process.returncode, errors) == (-signal.SIGTERM, b"")
    else:
        assert process.returncode == -signal.SIGINT
        assert errors.strip().endswith(b"KeyboardInterrupt")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("way", ["async", "sync"])
async def test_signals_close_what_is_being_created(way: str, number: signal.Signals) -> None:
    """With `handle_signals`, a signal while the create is in flight waits for its end, and the
    session is closed.
    """
    released = asyncio.Event()
    text = PRELUDE.replace("import IBM", "import AsyncSessionClient, IBM") + SIGNALLED[way]
    async with (
        FaultServer(TOKEN, held(released, http(200, SESSION)), http(204)) as server,
        program(text, env=leading_to(server)) as process,
    ):
        await server.arrival(2)
        process.send_signal(number)
        # The signal is there before the answer: both come to the same process in this order.
        released.set()
        await process.wait()
        assert [one.method for one in server.received[1:]] == ["POST", "DELETE"]
    assert process.returncode == -number


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_a_second_signal_acts_at_once(way: str) -> None:
    """While a signal's session is being closed, the next signal does what it did before, at once;
    the log names the session.
    """
    text = (
        PRELUDE.replace("import IBM", "import AsyncSessionClient, IBM") + "logging.basicConfig()\n"
    )
    async with (
        FaultServer(TOKEN, http(200, SESSION), hang) as server,
        program(text + SIGNALLED[way], env=leading_to(server)) as process,
    ):
        assert await line_of(process) == "inside"
        process.send_signal(signal.SIGTERM)
        await server.arrival(3)
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert b"a second signal came: session 's1' is being ended and may be open" in errors


@pytest.mark.parametrize("handled", [True, False])
async def test_two_ctrl_c_in_a_block_end_the_program(handled: bool) -> None:
    """Two Ctrl-C are out of a block and its client in seconds, also where the session can't be
    ended, and name it.
    """
    text = SIGNALLED["sync"].replace("handle_signals=True", f"handle_signals={handled}")
    async with (
        FaultServer(TOKEN, http(200, SESSION), hang) as server,
        program(PRELUDE + text, env=leading_to(server)) as process,
    ):
        assert await line_of(process) == "inside"
        process.send_signal(signal.SIGINT)
        await server.arrival(3)
        process.send_signal(signal.SIGINT)
        # An ending has 30 s, and closing the client would begin another.
        async with asyncio.timeout(25):
            _, errors = await process.communicate()
    assert process.returncode == -signal.SIGINT
    assert b"session 's1' is being ended and may be open; that goes on in the background" in errors


async def test_a_signal_at_the_event_loops_end() -> None:
    """A signal waits for its sessions' end also where the program returns meanwhile and
    `asyncio.run` cancels whatever goes on.
    """
    text = """
async def main():
    client = AsyncSessionClient()
    opened = client.open(mode="batch", max_ttl=600, handle_signals=True)
    await opened.__aenter__()
    say("inside")
    await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main())
"""
    released = asyncio.Event()
    text = PRELUDE.replace("import IBM", "import AsyncSessionClient, IBM") + text
    async with (
        FaultServer(TOKEN, http(200, SESSION), hang, held(released, http(204))) as server,
        program(text, env=leading_to(server)) as process,
    ):
        assert await line_of(process) == "inside"
        process.send_signal(signal.SIGTERM)
        await server.arrival(3)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        # The first was given up with the loop's tasks.
        await server.arrival(4)
        assert process.returncode is None
        released.set()
        assert await process.wait() == -signal.SIGTERM
        assert [one.method for one in server.received[1:]] == ["POST", "DELETE", "DELETE"]


async def test_a_signal_while_the_client_shuts_down() -> None:
    """A signal waits for the sessions that `shutdown` is ending."""
    text = """
with connect() as client:
    opened = client.open(mode="batch", max_ttl=600, handle_signals=True)
    opened.__enter__()
"""
    released = asyncio.Event()
    async with (
        FaultServer(TOKEN, http(200, SESSION), held(released, http(503)), http(204)) as server,
        program(PRELUDE + text, env=leading_to(server)) as process,
    ):
        await server.arrival(3)
        process.send_signal(signal.SIGTERM)
        released.set()
        assert await process.wait() == -signal.SIGTERM
        assert [one.method for one in server.received[1:]] == ["POST", "PATCH", "PATCH"]


async def test_a_user_handler_is_called_afterwards_and_ignored_signals_stay_ignored(
    service: dict[str, str],
) -> None:
    """A handler that was set before runs after the session was closed, and a signal that was
    ignored does nothing.
    """
    code, output, errors = await output_of(
        """
def mine(number, frame):
    say("mine", live.refresh().state)


signal.signal(signal.SIGTERM, mine)
signal.signal(signal.SIGINT, signal.SIG_IGN)
with connect() as client:
    with client.open(mode="batch", max_ttl=600, handle_signals=True) as live:
        with client.open(mode="batch", max_ttl=600, handle_signals=True) as other:
            os.kill(os.getpid(), signal.SIGINT)
            say("outer", live.refresh().state)
            os.kill(os.getpid(), signal.SIGTERM)
            say("inner", other.refresh().state)
    say(signal.getsignal(signal.SIGTERM) is mine, signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
""",
        env=service,
    )
    assert (code, errors) == (0, "")
    assert output.splitlines() == ["outer open", "mine closed", "inner closed", "True True"]


async def test_signals_are_handled_in_the_main_thread_only(service: dict[str, str]) -> None:
    """In another thread `handle_signals` is refused before anything is created."""
    code, output, errors = await output_of(
        """
def work():
    try:
        with client.open(mode="batch", max_ttl=600, handle_signals=True):
            say("inside")
    except Exception as error:
        say(type(error).__name__, error)


with connect() as client:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    say(len(list(client.workloads())))
""",
        env=service,
    )
    assert (code, errors) == (0, "")
    told, count = output.splitlines()
    assert told.startswith("ConfigurationError handle_signals=True works in the main thread only")
    assert count == "0"


async def test_what_ends_in_the_loop_thread_ends_nobody_elses_calls(
    service: dict[str, str],
) -> None:
    """SystemExit in a task that nobody awaits is logged and ignored: the client goes on, and ends
    cleanly.
    """
    code, output, errors = await output_of(
        """
from qsessions import TokenRenewed


def leave(event):
    if isinstance(event, TokenRenewed):
        sys.exit(5)


with connect(observers=[leave], timeout=5) as client:
    try:
        client.get("s1")
    except Exception as error:
        say(type(error).__name__)
    say(len(client.versions()) > 0)
""",
        env=service,
    )
    assert code == 0
    assert output.splitlines()[-1] == "True"
    assert "Unclosed" not in errors
