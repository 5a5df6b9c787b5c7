"""What people type first, and what the command line says of what they mistype."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

from qsessions import __version__
from qsessions.cli.app import COMMANDS, make_app
from qsessions.emulator import Emulator, Fault
from tests.support.shell import Shell, error_lines
from tests.support.tables import table

# Of each command, what it can't do without.
NEEDED = {
    "create": "--mode batch",
    "drain": "s-1",
    "close": "s-1",
    "get": "s-1",
    "run": "--mode batch",
    "update": "s-1 --accepting-jobs",
    "wait": "s-1 --for open",
}


@table(
    ("typed", "problem", "advice"),
    [
        ("create", "--mode is missing.", "Add --mode dedicated or --mode batch."),
        ("create --mode", "--mode has no value.", "Add --mode dedicated or --mode batch."),
        ("create --mod batch", "Did you mean --mode instead of --mod?", "See: qsessions create"),
        ("run -- true", "--mode is missing.", "Add --mode dedicated or --mode batch for a new"),
        ("run --mode batch", "there is no command to run.", "Put it after --"),
        ("wait s-1", "--for is missing.", "Add --for open, --for active, --for inactive, "),
        ("update s-1", "--accepting-jobs or --no-accepting-jobs is missing.", "Add it."),
        (
            "crate --mode batch",
            'there is no command "crate". Did you mean "create"?',
            "See: qsessions --help",
        ),
        (
            "--account 'my team' workloads --limit 3",
            "--account is no command.",
            "Options come after it: qsessions workloads --account …",
        ),
        ("-v", "-v is no command.", "Options come after it: qsessions COMMAND -v …"),
        (
            "--ledger=postgresql://u:secret@h/d reap",
            "--ledger is no command.",
            "Options come after it: qsessions reap --ledger …",
        ),
        ("get", "SESSION_ID is missing.", "See: qsessions get --help"),
        ("create --mode batch s-1", "there is no place for s-1.", "See: qsessions create --help"),
        ("create --mode batch --label", "--label has no value.", "See: qsessions create --help"),
        (
            "run python -c 'print(1)'",
            "Unknown option: -c.",
            "Put -- before the command: qsessions run … -- python -c 'print(1)'",
        ),
        (
            "run --mode batch python train.py --label x=1",
            "the options after python may be its own or those of run.",
            "Put -- before the command: qsessions run … -- python …",
        ),
        (
            "close-all --yes --created-before 2026-01-31 12:00",
            "--created-before has a time in parts",
            "Quote it: --created-before '2026-01-31 12:00'",
        ),
    ],
)
async def test_a_mistake_is_named_with_what_to_write(
    shell: Shell, service: Emulator, *, typed: str, problem: str, advice: str
) -> None:
    """What is missing, left over or in the wrong place is named, with what to write instead, and
    nothing is sent.
    """
    code, out, err = await shell(*shlex.split(typed))
    assert (code, out) == (2, "")
    what, do = error_lines(err)
    assert problem in what
    assert do.startswith(advice)
    assert service.requests == []


async def test_a_duration_in_parts_is_to_be_quoted(shell: Shell, service: Emulator) -> None:
    """Each option of each command that takes a duration says so when a shell took it apart, and
    nothing of it is taken for a record or a command to run.
    """
    tried = 0
    app = make_app()
    for command in COMMANDS:
        for argument in app[command].assemble_argument_collection():
            if argument.parameter.metavar != "DURATION":
                continue
            tried += 1
            option = argument.name
            needed = NEEDED.get(command, "").split()
            for parts in ("1h 30m", "1h 30 m", "1 h 30 m", "1h 30min", "1d 2h 3m 4s"):
                for typed in (
                    [option, *parts.split()],
                    [f"{option}={parts.split()[0]}", *parts.split()[1:]],
                ):
                    code, out, err = await shell(command, *needed, *typed)
                    assert (code, out) == (2, ""), typed
                    what, do = error_lines(err)
                    assert what.startswith(f"qsessions {command}: {option} has a duration in parts")
                    assert do == f"Quote it: {option} '{parts}'"
    # The timeout of all, and five more.
    assert tried > len(COMMANDS) - 3
    assert service.requests == []


@table(
    "typed",
    [
        "reap --timeout 60 30000000-0000-4000-8000-000000000000",
        "reap --timeout 1m 30abcdef30abcdef30abcdef30abcdef",
        "run --mode batch --max-ttl 10m -- printf %s 1h 30m",
        "run --mode batch --max-ttl 10m printf 1h",
        "get s-1 --timeout '1m 30s'",
    ],
)
async def test_what_is_no_part_of_a_duration_is_left_alone(shell: Shell, *, typed: str) -> None:
    """A record, a command and its arguments aren't taken for further parts of a duration."""
    _, _, err = await shell(*shlex.split(typed))
    assert "in parts" not in err
    assert "Put --" not in err


@table(
    ("typed", "usage"),
    [
        ("run --help", "Usage: qsessions run [OPTIONS] -- COMMAND [ARGUMENT...]"),
        ("reap --help", "Usage: qsessions reap [OPTIONS] [RECORD...]"),
        ("forget -h", "Usage: qsessions forget [OPTIONS] [RECORD...]"),
        ("help", "Usage: qsessions COMMAND"),
        ("help help", "Usage: qsessions COMMAND"),
        ("help create", "Usage: qsessions create --mode CHOICE [OPTIONS]"),
        ("help ls", "Usage: qsessions workloads [OPTIONS]"),
        ("--help ls", "Usage: qsessions workloads [OPTIONS]"),
        ("", "Usage: qsessions COMMAND"),
        ("-V", __version__),
    ],
)
async def test_help_and_usage(shell: Shell, *, typed: str, usage: str) -> None:
    """Help comes however it is asked for; a usage line names the command to run and the records."""
    code, out, err = await shell(*typed.split())
    assert (code, out.splitlines()[0], err) == (0, usage, "")


async def test_no_usage_line_says_args(shell: Shell) -> None:
    """No command calls what it takes ARGS, and none shows its arguments by another name."""
    for command in COMMANDS:
        _, out, _ = await shell(command, "--help")
        assert "ARGS" not in out
        for name in re.findall(r"^│ ([A-Z_]+) ", out, re.MULTILINE):
            assert name in out.splitlines()[0]


async def test_help_is_the_same_wherever_it_stands(shell: Shell) -> None:
    """A command's page has all of its text, whether help is asked for before or after its name."""
    before, after = await shell("-h", "reap"), await shell("reap", "-h")
    assert before == after


async def test_help_on_what_is_no_command(shell: Shell) -> None:
    """`help` with a word that is no command says so."""
    code, out, err = await shell("help", "nonsense")
    assert (code, out) == (2, "")
    assert 'there is no command "nonsense"' in error_lines(err)[0]


async def test_list_lists(shell: Shell) -> None:
    """`list`, `ls` and `sessions` list what `workloads` does, with its options."""
    made = await shell.data("create", "--mode", "dedicated", "--max-ttl", "10m")
    listed = await shell("workloads", "--json")
    assert made["id"] in listed[1]
    for name in ("list", "ls", "sessions"):
        assert await shell(name, "--json") == listed
        code, _, err = await shell(name, "--limit", "0")
        assert code == 2
        assert error_lines(err)[0].startswith("qsessions workloads: ")


async def test_the_words_of_sessions_filter_workloads(shell: Shell, service: Emulator) -> None:
    """`--mode dedicated` and `--status open` mean for the lists what they mean elsewhere, beside the
    words of the list itself: an open session is one that may cost.
    """
    made = {}
    for name, mode in {
        "running": "dedicated",
        "waiting": "dedicated",
        "over": "dedicated",
        "group": "batch",
    }.items():
        made[name] = (await shell.data("create", "--mode", mode, "--max-ttl", "10m"))["id"]
    service.submit_job(made["running"], seconds=3600)
    await shell.data("close", made["over"])
    for typed, names in {
        "--mode dedicated": {"running", "waiting", "over"},
        "--mode session --mode dedicated": {"running", "waiting", "over"},
        "--mode dedicated --mode batch": set(made),
        "--status open": {"running", "waiting", "group"},
        "--status open --status pending": {"running", "waiting", "group"},
        "--status closed": {"over"},
        "--status in_progress": {"running"},
        "--status open --mode dedicated": {"running", "waiting"},
    }.items():
        found = {item["id"] for item in await shell.lines("workloads", *typed.split())}
        assert found == {made[name] for name in names}, typed
    ended = await shell.lines("close-all", "--mode", "dedicated", "--all", "--yes")
    assert {item["id"] for item in ended} == {made["running"], made["waiting"]}


@table("name", ["bash", "zsh", "fish", "powershell"])
async def test_completion(shell: Shell, tmp_path: Path, *, name: str) -> None:
    """The completion of a shell is installed where asked, and knows commands and their options."""
    file = tmp_path / name
    installed = await shell("--install-completion", "--shell", name, "--output", str(file))
    assert (installed[0], installed[2]) == (0, "")
    script = await asyncio.to_thread(file.read_text, encoding="utf-8")
    for word in ("close-all", "--max-ttl", "dedicated"):
        assert word in script or word.removeprefix("--") in script, word


async def test_completion_in_bash(shell: Shell, tmp_path: Path) -> None:
    """bash completes a command, an option and a value with what is installed."""
    file = tmp_path / "qsessions"
    assert (await shell("--install-completion", "--shell", "bash", "--output", str(file)))[0] == 0
    script = f"""
        source {shlex.quote(str(file))}
        complete_words() {{
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${{#COMP_LINE}}
            COMPREPLY=(); "$(complete -p qsessions | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
            echo "${{COMPREPLY[@]}}"
        }}
        complete_words qsessions clo
        complete_words qsessions create --max
        complete_words qsessions create --mode d
    """
    code, out, err = await shell.script(script)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["close", "close-all"],
        ["--max-ttl"],
        ["dedicated"],
    ]


@table(
    ("typed", "columns"),
    [
        (
            "workloads",
            {
                60: "id mode status age",
                80: "id mode status age used",
                140: "id mode status age used backend accepting_jobs",
            },
        ),
        (
            "ledger",
            {
                60: "record state owner age",
                80: "record state owner age why",
                140: "record state owner age why labels mode",
            },
        ),
        (
            "reap --dry-run",
            {
                60: "record verdict done",
                80: "record verdict done why",
                140: "record verdict done why",
            },
        ),
        (
            "close-all --yes",
            {
                60: "id done age mode",
                80: "id done age mode backend",
                140: "id done age mode backend",
            },
        ),
    ],
)
async def test_each_list_shows_what_decides(
    shell: Shell, *, typed: str, columns: dict[int, str]
) -> None:
    """Where a terminal is narrow, a list has its ids whole, one a line, the state, and what tells
    whose they are and how old; a wider one has more, and a file has it all.
    """
    for width, names in columns.items():
        made = {await _created(shell) for _ in range(2)}
        code, shown = await shell.on_terminal(*typed.split(), COLUMNS=str(width), NO_COLOR="1")
        assert code == 0
        header, rule, *lines = shown.splitlines()
        assert header.split() == names.split(), width
        assert len(rule) <= width
        assert all(len(line) <= width for line in lines if line[8:9] == "-")
        assert made <= {line.split()[0] for line in lines}
        await shell("close-all", "--yes", "--all")
    made = {await _created(shell) for _ in range(2)}
    code, out, _ = await shell(*typed.split())
    header, *lines = out.splitlines()
    assert code == 0
    assert len(header.split()) >= len(columns[140].split())
    assert made <= {line.split()[0] for line in lines}
    await shell("close-all", "--yes", "--all")


async def _created(shell: Shell) -> str:
    create = ("create", "--mode", "dedicated", "--max-ttl", "10m", "--backend", "ibm_marrakesh")
    made: str = (await shell.data(*create, "--label", "run=42"))["id"]
    return made


async def test_what_went_wrong_is_shown_first(shell: Shell, service: Emulator) -> None:
    """At 80 columns an error is shown rather than the reason, which the list has otherwise."""
    made = await _created(shell)
    service.faults.add(Fault(kind="answer", status=403, operations=["close"]))
    code, shown = await shell.on_terminal("reap", made, COLUMNS="80", NO_COLOR="1")
    assert code == 1
    header, _, line, *_ = shown.splitlines()
    assert header.split()[:4] == ["record", "verdict", "done", "error"]
    assert line.startswith(f"{made}  close    no    close of session ")
    assert len(line) == 80


async def test_an_instance_is_shown_with_its_crn(shell: Shell, service: Emulator) -> None:
    """Where there is no room for a CRN beside the rest, each instance has a line for each field; on
    a terminal that is wide enough they are a table.
    """
    service.add_instance(name="europe", plan="open", region="eu-de", tags=["night"])
    shell.env |= dict.fromkeys(("GLOBAL_SEARCH_URL", "GLOBAL_CATALOG_URL"), service.iam_url)
    code, shown = await shell.on_terminal("instances", COLUMNS="80", NO_COLOR="1")
    assert code == 0
    first, second = shown.strip().split("\n\n")
    assert re.search(rf"^crn +{re.escape(service.crns[0])}$", first, re.MULTILINE)
    assert [line.split()[0] for line in second.splitlines()] == [
        "name", "plan", "region", "crn", "tags",
    ]  # fmt: skip
    assert second.splitlines()[3].split()[1] == service.crns[1]
    code, shown = await shell.on_terminal("instances", COLUMNS="200", NO_COLOR="1")
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["emulated-1", "europe"]
