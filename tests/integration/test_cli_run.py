"""`qsessions run`: a real command in a real process, signals, a terminal, and an emulator."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from qsessions.cli.run import run
from qsessions.emulator import Emulator, Fault
from qsessions.emulator.fault_kinds import Operation
from tests.support.fault_server import FaultServer, hang, held, http
from tests.support.shell import (
    GRANT,
    PIPE,
    PROGRAMS,
    QSESSIONS,
    Shell,
    closed_pipe,
    error_lines,
    outcome,
    read_all,
    shell_of,
    validate,
)

NEW = ("run", "--mode", "dedicated", "--backend", "ibm_fez", "--max-ttl", "1h")
SESSION = http(200, {"id": "s-1", "state": "open", "accepting_jobs": True})
CLOSED = http(200, {"id": "s-1", "state": "closed", "elapsed_time": 1.5})

# Commands: one that prints its signals, one that ends as signals end any program, and one that
# ignores them. Neither of the latter two ends by itself before the test has ended.
LISTENER = ("--", sys.executable, "-IS", str(PROGRAMS / "listener.py"))
IDLE = ("--", "sh", "-c", "echo ready; exec sleep 1000")
DEAF = ("--", "sh", "-c", 'trap "" TERM INT HUP QUIT; echo ready; exec sleep 1000')


async def begun(shell: Shell, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
    """Start a command whose first line of output is "ready", and wait for that."""
    process = await shell.start(*arguments, **options)
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"ready"
    return process


async def line(process: asyncio.subprocess.Process) -> str:
    """Return the command's next line."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def ending(service: Emulator) -> tuple[str, str | None]:
    """Return the state of the only session, and its reason."""
    (session,) = service.sessions.values()
    return session.state, session.reason


@pytest.mark.smoke
async def test_a_command_in_a_session(shell: Shell, service: Emulator) -> None:
    """The command has the session's id, URL and instance, and the caller's own streams; the session
    is drained, and its usage printed.
    """
    names = ("QSESSIONS_SESSION_ID", "QSESSIONS_BASE_URL", "QISKIT_IBM_INSTANCE")
    script = f"""cat; echo " ${" $".join(names)}"; echo oops >&2; yes | head -c 100000"""
    process = await shell.start(*NEW, "--", "sh", "-c", script, stdin=PIPE)
    assert process.stdin is not None
    process.stdin.write(b"input")
    code, out, err = await outcome(process)
    (session,) = service.sessions.values()
    assert code == 0
    assert out == f"input {session.id} {service.url} {service.crn}\n" + "y\n" * 50_000
    assert (session.backend, session.mode, session.ttls.maximum) == ("ibm_fez", "dedicated", 3600)
    assert re.fullmatch(
        rf"oops\nqsessions run: session {session.id} was drained after \d+\.\d s; it used 0\.0 s\.\n",
        err,
    )
    assert (session.state, session.accepting_jobs) == ("closed", False)
    assert [request.method for request in service.requests if "sessions" in request.path] == [
        "POST", "PATCH", "GET",
    ]  # fmt: skip


async def test_the_key_goes_no_further_than_it_was(shell: Shell, service: Emulator) -> None:
    """A key from the account file doesn't get into the command's environment."""
    account = {"channel": "ibm_quantum_platform", "token": service.api_key, "instance": service.crn}
    file = Path(shell.env["HOME"]) / ".qiskit" / "qiskit-ibm.json"
    await asyncio.to_thread(file.parent.mkdir, parents=True)
    await asyncio.to_thread(file.write_text, json.dumps({"mine": account}))
    for name in ("QISKIT_IBM_TOKEN", "QISKIT_IBM_INSTANCE"):
        del shell.env[name]
    code, out, _ = await shell(*NEW, "--", "env")
    assert code == 0
    assert service.api_key not in out
    assert f"QISKIT_IBM_INSTANCE={service.crn}" in out.splitlines()


@pytest.mark.parametrize(
    ("options", "exit_code", "reason"),
    [
        ((), 3, "session_closed_early"),
        (("--on-exit", "close"), 0, "session_closed_early"),
        (("--on-error", "drain"), 255, "session_closed_by_drain"),
    ],
)
async def test_how_the_session_ends(
    shell: Shell, service: Emulator, options: tuple[str, ...], exit_code: int, reason: str
) -> None:
    """A command that fails closes its session, one that succeeds drains it, unless options say otherwise;
    its exit code is kept.
    """
    code, _, err = await shell(*NEW, *options, "--", "sh", "-c", f"exit {exit_code}")
    assert code == exit_code
    state, why = ending(service)
    assert state == "closed"
    assert (why == "session_closed_early") is (reason == "session_closed_early")
    assert ("was closed" in err) is (reason == "session_closed_early")


async def test_files_that_are_open(shell: Shell) -> None:
    """What the caller has open for the command, such as bash's <(…), the command can read; nothing
    of our own.
    """
    script = """exec "$QSESSIONS" "$@" -- sh -c 'cat "$0"; ls -l /dev/fd/ >&2' <(echo piped)"""
    code, out, err = await shell.script(script, *NEW)
    assert (code, out) == (0, "piped\n")
    assert "socket" not in err
    assert "ledger" not in err


async def test_jobs_that_go_on(shell: Shell, service: Emulator) -> None:
    """A session whose jobs go on after the command drains, and what it used so far is printed."""
    process = await begun(shell, *NEW, *LISTENER, stdin=PIPE)
    (session_id,) = service.sessions
    service.submit_job(session_id, seconds=3600)
    code, _, err = await outcome(process)
    assert code == 0
    assert re.search(r"was drained after .* s; it used \d+\.\d s so far\.\n$", err)
    assert (service.sessions[session_id].state, service.sessions[session_id].accepting_jobs) == (
        "active",
        False,
    )


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
async def test_the_report_as_json(shell: Shell, service: Emulator, form: str) -> None:
    """With --json or --jsonl the report is a line of JSON on standard error, and standard output
    stays the command's.
    """
    code, out, err = await shell(*NEW, form, "--", "sh", "-c", "echo mine; exit 7")
    (session_id,) = service.sessions
    assert (code, out) == (7, "mine\n")
    report = json.loads(err)
    validate(report, form.removeprefix("--"), "run")
    seconds = report.pop("seconds")
    assert seconds > 0
    assert report == {
        "session_id": session_id, "state": "closed", "ended": "close", "exit_code": 7, "elapsed_time": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("attached", [True, False])
async def test_without_a_look_at_the_usage(shell: Shell, service: Emulator, attached: bool) -> None:
    """Where the session can't be read any more, the command's exit code is kept, and the usage
    isn't known.
    """
    made = await shell.data("create", "--mode", "batch", "--max-ttl", "10m")
    service.faults.add(
        Fault(kind="answer", status=403, operations=["get"], nth=2 if attached else 1)
    )
    session = ("run", "--attach", made["id"]) if attached else NEW
    code, _, err = await shell(*session, "--", "sh", "-c", "exit 9")
    assert code == 9
    assert ("was not ended" if attached else "was closed") in err
    assert err.endswith("s; its usage isn't known.\n")


async def test_commands_that_cannot_be_started(
    shell: Shell, service: Emulator, tmp_path: Path
) -> None:
    """127 for a command that isn't there and 126 for one that can't be executed, as in a shell; no
    session is left of it.
    """
    junk = tmp_path / "junk"
    await asyncio.to_thread(junk.write_text, "junk")
    for command, expected in (
        ("no-such-command", 127),
        (str(tmp_path / "none"), 127),
        (str(junk), 126),
    ):
        code, out, err = await shell(*NEW, "--", command)
        assert (code, out) == (expected, "")
        assert f"{command} can't be started" in error_lines(err)[0]
        assert ("PATH" if expected == 127 else "chmod +x") in error_lines(err)[1]
    assert service.requests == []
    junk.chmod(0o700)
    code, _, err = await shell(*NEW, "--", str(junk))
    assert code == 126
    assert "Exec format error" in err
    script = tmp_path / "script"
    await asyncio.to_thread(script.write_text, "#!/no/such/interpreter\n")
    script.chmod(0o700)
    assert (await shell(*NEW, "--", str(script)))[0] == 127
    service.assert_no_open_sessions()


WRONG_USE = [
    (("run", "--", "true"), "--mode is missing"),
    (("run", "--mode", "batch"), "no command"),
    (("run", "--mode", "batch", "--"), "no command"),
    (("run", "--mode", "batch", "--attach", "s-1", "--", "true"), "--attach takes no options"),
    (("run", "--attach", "s-1", "--max-ttl", "5m", "--", "true"), "--attach takes no options"),
    (("run", "--attach", "a/b", "--", "true"), "path"),
    (("run", "--mode", "batch", "--max-ttl", "soon", "--", "true"), "--max-ttl: must be"),
    (("run", "--mode", "batch", "--grace", "none", "--", "true"), "--grace must be a limit"),
    (("run", "--mode", "batch", "--grace", "soon", "--", "true"), "--grace: must be seconds"),
    (("run", "--mode", "batch", "--json", "--jsonl", "--", "true"), "exclude each other"),
    (("run", "--mode", "batch", "--nonsense", "--", "true"), "--nonsense"),
]


async def test_wrong_use(shell: Shell, service: Emulator) -> None:
    """Wrong use is reported in two lines with exit code 2, and neither is anything sent nor the
    command run.
    """
    for arguments, problem in WRONG_USE:
        code, out, err = await shell(*arguments)
        assert (code, out) == (2, ""), arguments
        assert problem in error_lines(err)[0]
    assert service.requests == []


async def test_a_session_that_cannot_be_created(shell: Shell, service: Emulator) -> None:
    """Without a session the command isn't run, and the exit code says why."""
    service.faults.add(Fault(kind="answer", status=403, operations=["create"]))
    code, out, err = await shell(*NEW, "--", "echo", "ran")
    assert (code, out) == (1, "")
    assert "403" in error_lines(err)[0]


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
async def test_signals_kill_as_they_would(shell: Shell, service: Emulator, name: str) -> None:
    """A signal gets to the command, which it kills; the session is closed, and the exit code is 128
    and its number.
    """
    number = signal.Signals[name]
    process = await begun(shell, *NEW, *IDLE)
    process.send_signal(number)
    code, _, err = await outcome(process)
    assert code == 128 + number
    assert ending(service) == ("closed", "session_closed_early")
    assert "was closed" in err


async def test_signals_that_the_command_handles(shell: Shell, service: Emulator) -> None:
    """Each signal is passed on, as often as it comes, and what it means is the command's affair:
    here SIGTERM ends it well.
    """
    process = await begun(shell, *NEW, *LISTENER, stdin=PIPE)
    for name in (
        "SIGUSR1",
        "SIGUSR2",
        "SIGUSR1",
        "SIGINT",
        "SIGINT",
        "SIGHUP",
        "SIGQUIT",
        "SIGTERM",
    ):
        process.send_signal(signal.Signals[name])
        assert await line(process) == name
    assert (await outcome(process))[0] == 0
    state, why = ending(service)
    assert state == "closed"
    assert why != "session_closed_early"


async def test_a_command_that_does_not_listen(shell: Shell, service: Emulator) -> None:
    """A command that was asked to stop, once or twice, and goes on is killed when its grace is
    over, and the session closed.
    """
    process = await begun(shell, *NEW, "--grace", "0.3", *DEAF)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    assert (await outcome(process))[0] == 137
    assert ending(service) == ("closed", "session_closed_early")


async def test_grace_ends_with_the_command(shell: Shell, service: Emulator) -> None:
    """A command that stops within its grace is not killed, whatever the ending takes."""
    service.faults.add(Fault(kind="latency", seconds=3, operations=["update"]))
    process = await begun(shell, *NEW, "--grace", "2", *LISTENER, stdin=PIPE)
    process.send_signal(signal.SIGTERM)
    # Before its input ends too, so that it doesn't end by that and meet the signal on its way out.
    assert await line(process) == "SIGTERM"
    code, _, err = await outcome(process)
    assert code == 0
    assert "was drained" in err


async def test_ignored_signals_stay_ignored(shell: Shell) -> None:
    """What nohup has ignored neither ends the session nor gets to the command."""
    script = 'trap "" HUP; exec "$@"'
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", script, "sh", QSESSIONS, *NEW, *LISTENER, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=shell.env
    )  # fmt: skip
    assert await line(process) == "ready"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGUSR1)
    assert await line(process) == "SIGUSR1"
    assert (await outcome(process))[:2] == (0, "end\n")


async def on_terminal(shell: Shell, *arguments: str) -> tuple[asyncio.subprocess.Process, int]:
    """Start `qsessions` in front at a terminal, its standard output elsewhere; return it and the
    terminal's other end.
    """
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-IS", PROGRAMS / "at_terminal.py", QSESSIONS, *arguments, stdin=slave, stdout=PIPE, stderr=slave, env=shell.env
    )  # fmt: skip
    os.close(slave)
    assert await line(process) == "ready"
    return process, master


async def test_ctrl_c_at_a_terminal_comes_once(shell: Shell, service: Emulator) -> None:
    """At a terminal, Ctrl-C and Ctrl-\\ get to the command once, from the terminal itself; what is
    typed is the command's, too.
    """
    process, terminal = await on_terminal(shell, *NEW, "--grace", "0.1", *LISTENER)
    for key, name in ((b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT"), (b"\x03", "SIGINT")):
        await asyncio.to_thread(os.write, terminal, key)
        assert await line(process) == name
    # No grace has begun: the command alone knows what Ctrl-C means to it.
    process.send_signal(signal.SIGUSR2)
    assert await line(process) == "SIGUSR2"
    await asyncio.to_thread(os.write, terminal, b"\x04")
    assert await line(process) == "end"
    shown = await asyncio.to_thread(read_all, terminal)
    assert (await outcome(process))[:2] == (0, "")
    assert "was drained" in shown
    service.assert_no_open_sessions()


async def test_ctrl_c_reaches_a_command_that_left_its_group(
    shell: Shell, service: Emulator
) -> None:
    """Ctrl-C and Ctrl-\\ at a terminal get once to a command that the terminal can't send them to."""
    for command in (
        ("--", *LISTENER[1:], "setsid"),
        ("--", *LISTENER[1:], "setpgrp"),
        ("--", "setsid", *LISTENER[1:], "stay"),
    ):
        process, terminal = await on_terminal(shell, *NEW, "--grace", "60", *command)
        for key, name in ((b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT"), (b"\x03", "SIGINT")):
            await asyncio.to_thread(os.write, terminal, key)
            assert await line(process) == name
        for name in ("SIGUSR2", "SIGTERM"):
            process.send_signal(signal.Signals[name])
            assert await line(process) == name
        shown = await asyncio.to_thread(read_all, terminal)
        assert (await outcome(process))[:2] == (0, "")
        assert "was drained" in shown
    service.assert_no_open_sessions()


async def test_ctrl_c_stops_a_command_that_left_its_group(shell: Shell, service: Emulator) -> None:
    """Such a command, and what it started in its group, is killed by Ctrl-C: at once, or when its
    grace is over where it goes on. The session is closed.
    """
    for command, grace, code in (
        (("setsid", *IDLE[1:]), "60", 130),
        (("timeout", "1000", *IDLE[1:]), "60", 130),
        (("setsid", *DEAF[1:]), "0.3", 137),
        (("setsid", "sh", "-c", 'trap "" INT; sh -c "echo ready; sleep 1000"; exit 3'), "0.3", 137),
    ):
        process, terminal = await on_terminal(shell, *NEW, "--grace", grace, "--", *command)
        await asyncio.to_thread(os.write, terminal, b"\x03")
        shown = await asyncio.to_thread(read_all, terminal)
        # The end of its output: nothing of it is left.
        assert (await outcome(process))[:2] == (code, ""), command
        assert "was closed" in shown
    service.assert_no_open_sessions()


@pytest.mark.skipif(sys.platform != "linux", reason="descendants aren't known elsewhere")
async def test_ctrl_c_again_reaches_what_the_command_started(
    shell: Shell, service: Emulator
) -> None:
    """The first Ctrl-C is a command's own affair where it got it; the second also reaches what that
    started in a group of its own, once.
    """
    process, terminal = await on_terminal(
        shell, *NEW, "--grace", "60", "--", *LISTENER[1:], "parent"
    )
    assert await line(process) == "ready"
    for times in (1, 2):
        await asyncio.to_thread(os.write, terminal, b"\x03")
        assert [await line(process) for _ in range(times)] == ["SIGINT"] * times
        # To the command alone: there is nothing else by now.
        process.send_signal(signal.SIGUSR2)
        assert await line(process) == "SIGUSR2"
    process.send_signal(signal.SIGTERM)
    assert await line(process) == "SIGTERM"
    await asyncio.to_thread(read_all, terminal)
    assert (await outcome(process))[:2] == (0, "")
    service.assert_no_open_sessions()


async def test_ctrl_c_that_kills_the_command(shell: Shell, service: Emulator) -> None:
    """A command that Ctrl-C at a terminal kills closes the session: 130."""
    process, terminal = await on_terminal(shell, *NEW, *IDLE)
    await asyncio.to_thread(os.write, terminal, b"\x03")
    shown = await asyncio.to_thread(read_all, terminal)
    assert (await outcome(process))[0] == 130
    assert "was closed" in shown
    assert ending(service) == ("closed", "session_closed_early")


async def test_a_signal_from_elsewhere_at_a_terminal(shell: Shell, service: Emulator) -> None:
    """SIGTERM is passed on at a terminal, too, which doesn't send it."""
    process, terminal = await on_terminal(shell, *NEW, *IDLE)
    process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(read_all, terminal)
    assert (await outcome(process))[0] == 143
    service.assert_no_open_sessions()


async def test_a_signal_while_the_session_is_created(tmp_path: Path) -> None:
    """The create comes to its end, its session is closed, and the command is never run."""
    number = signal.SIGINT
    stopped = asyncio.Event()
    async with FaultServer(GRANT, held(stopped, SESSION), http(204)) as server:
        process = await shell_of(server, tmp_path).start(*NEW, "--", "echo", "ran")
        await server.arrival(2)
        process.send_signal(number)
        # Nobody to tell it to; it doesn't end anything.
        process.send_signal(signal.SIGUSR1)
        stopped.set()
        code, out, err = await outcome(process)
        assert [request.method for request in server.received] == ["POST", "POST", "DELETE"]
    assert (code, out) == (128 + number, "")
    assert error_lines(err) == (
        "qsessions run: interrupted; session s-1 had been created and was closed.",
        "Nothing is left to do.",
    )


async def test_a_second_signal_while_the_session_is_created(tmp_path: Path) -> None:
    """A second signal leaves at once and says that there may be a session."""
    async with FaultServer(GRANT, hang) as server:
        process = await shell_of(server, tmp_path).start(*NEW, "--", "echo", "ran")
        await server.arrival(2)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
        code, out, err = await outcome(process)
    assert code in {128 + signal.SIGHUP, 128 + signal.SIGTERM}
    assert out == ""
    assert "a session may have been created" in error_lines(err)[0]


async def test_signals_while_the_session_is_ended(tmp_path: Path) -> None:
    """Once the command has ended, a signal changes nothing; a second one leaves at once, naming the
    session.
    """
    first = asyncio.Event()
    async with FaultServer(GRANT, SESSION, held(first, http(204)), CLOSED) as server:
        shell = shell_of(server, tmp_path)
        process = await shell.start(*NEW, "--", "true")
        await server.arrival(3)
        process.send_signal(signal.SIGTERM)
        first.set()
        code, _, err = await outcome(process)
        assert code == 0
        assert re.fullmatch(
            r"qsessions run: session s-1 was drained after .*; it used 1.5 s.\n", err
        )
        server.answers = [GRANT, SESSION, hang]
        process = await shell.start(*NEW, "--", "true")
        await server.arrival(7)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        code, _, err = await outcome(process)
    assert code in {143, 130}
    assert error_lines(err) == (
        "qsessions run: interrupted twice; session s-1 may be open.",
        "End it: qsessions close s-1",
    )


async def test_a_session_that_exists(shell: Shell, service: Emulator) -> None:
    """With --attach the command runs in the session that is named, which goes on whatever becomes
    of the command.
    """
    made = await shell.data("create", "--mode", "batch", "--max-ttl", "1h")
    for exit_code in (0, 5):
        code, out, err = await shell(
            "run",
            "--attach",
            made["id"],
            "--",
            "sh",
            "-c",
            f"echo $QSESSIONS_SESSION_ID; exit {exit_code}",
        )
        assert (code, out) == (exit_code, f"{made['id']}\n")
        assert "was not ended" in err
    process = await begun(shell, "run", "--attach", made["id"], *IDLE)
    process.send_signal(signal.SIGTERM)
    assert (await outcome(process))[0] == 143
    assert [session.id for session in service.open_sessions] == [made["id"]]
    await shell.data("close", made["id"])
    code, out, err = await shell("run", "--attach", made["id"], "--", "echo", "ran")
    assert (code, out) == (1, "")
    assert "is closed" in error_lines(err)[0]
    assert (await shell("run", "--attach", "s-none", "--", "echo", "ran"))[:2] == (1, "")


async def test_being_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no signal stops it, as on Windows, a cancellation goes on like any other."""
    async with FaultServer(GRANT, hang) as server:
        for name, value in shell_of(server, tmp_path).env.items():
            monkeypatch.setenv(name, value)
        running = asyncio.ensure_future(run("true", attach="s-1", grace=1))
        await server.arrival(2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_signal_before_an_attached_command_begins(tmp_path: Path) -> None:
    """A signal while the session is being read ends it all, and nothing is left to do."""
    async with FaultServer(GRANT, hang) as server:
        process = await shell_of(server, tmp_path).start(
            "run", "--attach", "s-1", "--", "echo", "ran"
        )
        await server.arrival(2)
        process.send_signal(signal.SIGTERM)
        code, out, err = await outcome(process)
    assert (code, out) == (143, "")
    assert error_lines(err) == (
        "qsessions run: interrupted before the command began.",
        "Nothing is left to do.",
    )


@pytest.mark.parametrize(
    ("exit_code", "operation", "expected"), [(0, "update", 1), (6, "close", 6)]
)
async def test_a_session_that_cannot_be_ended(
    shell: Shell, service: Emulator, exit_code: int, operation: Operation, expected: int
) -> None:
    """It is named; the exit code stays the command's where that failed, and says so otherwise."""
    service.faults.add(Fault(kind="answer", status=403, operations=[operation]))
    code, _, err = await shell(*NEW, "--", "sh", "-c", f"exit {exit_code}")
    (session_id,) = [session.id for session in service.open_sessions]
    assert code == expected
    *_, what, advice, report = err.splitlines()
    assert session_id in what
    assert "403" in what
    assert advice == f"End it: qsessions close {session_id}"
    assert "was not ended" in report


@pytest.mark.parametrize(
    ("exit_code", "operation", "reason"),
    [(0, "update", None), (6, "close", "session_closed_early")],
)
async def test_a_session_that_is_ended_at_the_second_try(
    shell: Shell, service: Emulator, exit_code: int, operation: Operation, reason: str | None
) -> None:
    """Leaving tries once more, in the same way; where that succeeds, nothing is left to report, and
    the exit code is the command's.
    """
    service.faults.add(Fault(kind="answer", status=403, operations=[operation], times=1))
    code, _, err = await shell(*NEW, "--", "sh", "-c", f"exit {exit_code}")
    assert code == exit_code
    state, why = ending(service)
    assert state == "closed"
    assert reason is None or why == reason
    assert len(err.splitlines()) == 1
    assert "was not ended" not in err


async def test_nobody_reads_the_report(shell: Shell, service: Emulator) -> None:
    """The exit code is the command's though standard error is gone."""
    async with closed_pipe() as pipe:
        for exit_code in (0, 8):
            command = ("sh", "-c", f"exit {exit_code}")
            assert (await shell(*NEW, "--", *command, stderr=pipe))[0] == exit_code
        assert (await shell(*NEW, "--", "no-such-command", stderr=pipe))[0] == 127
        service.faults.add(Fault(kind="answer", status=403, operations=["create"]))
        # Python's own exit included.
        process = await shell.start(*NEW, "--", "true", stderr=pipe)
        assert (await outcome(process))[0] == 1
    service.assert_no_open_sessions()


@pytest.mark.smoke
async def test_a_run_that_is_killed(shell: Shell, service: Emulator) -> None:
    """While it lives the ledger shows its owner alive and reap leaves it; once it is killed, so is its
    command, and reap closes its session.
    """
    process = await begun(shell, *NEW, *LISTENER, stdin=PIPE)
    assert process.stdout is not None
    (session_id,) = service.sessions
    (record,) = await shell.lines("ledger")
    assert (record["session_id"], record["owner"], record["owner_pid"]) == (
        session_id,
        "alive",
        process.pid,
    )
    assert (record["recorded_state"], record["live_state"], record["detached"]) == (
        "created",
        "open",
        False,
    )
    assert [row["verdict"] for row in await shell.lines("reap")] == ["leave"]
    assert (await shell.data("close-all", "--yes"))["sessions"][0]["done"] is None
    process.kill()
    # The command's input goes on, and yet its output ends.
    assert await process.stdout.read() == b""
    assert (await outcome(process))[0] == -signal.SIGKILL
    assert [session.id for session in service.open_sessions] == [session_id]
    (reaped,) = await shell.lines("reap")
    assert (reaped["record"], reaped["verdict"], reaped["done"]) == (session_id, "close", True)
    service.assert_no_open_sessions()
    assert await shell.lines("ledger") == []


@pytest.mark.parametrize(
    "command", [("create", "--mode", "batch", "--max-ttl", "10m", "--json"), (*NEW, "--", "true")]
)
async def test_a_ledger_that_cannot_be_written(
    shell: Shell, service: Emulator, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A home that can't be written is warned of once, and the session is created and ended all the
    same.
    """
    await asyncio.to_thread((tmp_path / ".local").write_text, "a file")
    code, _, err = await shell(*command)
    assert code == 0
    assert len(service.sessions) == 1
    assert err.count("is not recorded: the ledger in") == 1
    assert "can't be used" in err
