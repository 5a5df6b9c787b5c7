"""The table of `qsessions watch`, drawn at a given time for a given screen, and what is a change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from qsessions import Mode, Session, SessionState, StateChange
from qsessions.cli.changes import Change, state_of
from qsessions.cli.session_table import Screen, draw, used_by
from tests.support.tables import table

NOW = 1_780_000_000.0
ID = "67c6b462-59bb-4436-802b-4b4c5fbf2e"


def at(ago: float) -> datetime:
    """Return the time so many seconds ago."""
    return datetime.fromtimestamp(NOW - ago, UTC)


def states(**since: float) -> tuple[StateChange, ...]:
    """Return a history: how many seconds ago each state was entered."""
    return tuple(StateChange(SessionState(name), at(ago)) for name, ago in since.items())


def change(
    number: int, *, seen: float = 0.0, before: Session | None = None, **fields: Any
) -> Change:
    """Return a session as it was read some seconds ago."""
    session_id = f"{ID}{number:02}"
    return Change(session_id, NOW - seen, before, Session(id=session_id, **fields))


RUNNING: dict[str, Any] = {
    "mode": Mode.DEDICATED,
    "backend_name": "ibm_marrakesh",
    "state": SessionState.ACTIVE,
    "accepting_jobs": True,
    "max_ttl": 600,
    "started_at": at(130),
    "timestamps": states(open=200, active=130),
    "last_job_started": at(42),
}
# As it was when it was read 30 s ago.
ACTIVE = change(1, seen=30, elapsed_time=100.0, **RUNNING)
OPEN = change(
    2,
    mode=Mode.BATCH,
    state=SessionState.OPEN,
    accepting_jobs=True,
    max_ttl=3600,
    elapsed_time=0.0,
    timestamps=states(open=65),
)
CLOSED = change(
    3,
    seen=5,
    before=ACTIVE.session,
    **RUNNING
    | {
        "state": SessionState.CLOSED,
        "accepting_jobs": False,
        "elapsed_time": 215.0,
        "timestamps": states(open=200, active=130, closed=7),
    },
)
ALL = {each.id: each for each in (ACTIVE, OPEN, CLOSED)} | {f"{ID}04": None}


def drawn(screen: Screen, changes: dict[str, Change | None] | None = None, now: float = NOW) -> str:
    """Return the text of a table."""
    return "\n".join(line.plain for line in draw(ALL if changes is None else changes, now, screen))


def test_a_table_of_80_columns() -> None:
    """At 80 columns there are the whole ids, the states and both bars; the latest change is below,
    and what has no room is named.
    """
    assert (
        drawn(Screen(width=80))
        == f"""\
id                                    state     time left        used
{"-" * 80}
{ID}01  active    ━━━━━━──  7m50s  ━━──────  2m10s
{ID}02  open      ━━━━━━━━  1h00m               0s
{ID}03  closed                  -            3m35s
{ID}04  -                       -                -
4 sessions: 1 open, 1 active, 1 closed, 1 not read; 5m45s used
7s ago: {ID}03 closed
no room for mode, backend, last change; -v shows all"""
    )


def test_a_table_of_120_columns() -> None:
    """At 120 columns everything is there, the last change cut where it is too long."""
    assert (
        drawn(Screen(width=120))
        == f"""\
id                                    state     time left        used             mode       backend        last change
{"-" * 120}
{ID}01  active    ━━━━━━──  7m50s  ━━──────  2m10s  dedicated  ibm_marrakesh  42s job sta…
{ID}02  open      ━━━━━━━━  1h00m               0s  batch      -               1m open
{ID}03  closed                  -            3m35s  dedicated  ibm_marrakesh   7s closed
{ID}04  -                       -                -  -          -              -
4 sessions: 1 open, 1 active, 1 closed, 1 not read; 5m45s used"""
    )


def test_a_narrow_table() -> None:
    """Where bars have no room there are numbers, then fewer columns; where the state has none beside
    whole ids, the ids are cut in the middle.
    """
    widths = (100, 70, 60, 46, 45, 40, 28, 20, 7)
    by_width = {width: drawn(Screen(width=width)).splitlines() for width in widths}
    assert [lines[0].split("  ")[-1].strip() for lines in by_width.values()] == [
        *("last change", "used", "time left", "state"),
        *("time left", "time left", "state", "id", "id"),
    ]
    assert by_width[70][2] == f"{ID}01  active     7m50s      2m10s"
    assert by_width[46][2] == f"{ID}01  active"
    assert by_width[40][2] == "67c6b462-…c5fbf2e01  active     7m50s"
    assert by_width[28][2] == "67c6b462…c5fbf2e01  active"
    assert by_width[20][2] == "67c6b462-…4c5fbf2e01"
    assert by_width[7][2] == "67c…e01"
    for width, lines in by_width.items():
        assert max(map(len, lines[:6])) <= width


def test_a_whole_table() -> None:
    """With -v nothing is left out and nothing is cut."""
    lines = drawn(Screen(width=80, is_whole=True)).splitlines()
    assert lines[0].split()[-2:] == ["last", "change"]
    assert lines[2].endswith("42s job started")
    assert len(lines) == 7


def test_times_go_on_between_two_reads() -> None:
    """What is left counts down and the usage of an active dedicated session goes on; nothing else
    does, and nothing falls below 0.
    """
    later = drawn(Screen(width=80), now=NOW + 100).splitlines()
    assert later[2] == f"{ID}01  active    ━━━━━───  6m10s  ━━━─────  3m50s"
    assert later[3:6] == drawn(Screen(width=80)).splitlines()[3:6]
    over = drawn(Screen(width=80), now=NOW + 10_000).splitlines()
    assert over[2] == f"{ID}01  active    ────────     0s  ━━━━━━━━  2h48m"


@table(
    ("left", "style"),
    [(600, "green"), (151, "green"), (149, "yellow"), (61, "yellow"), (59, "red")],
)
def test_the_colour_of_a_bar(left: float, *, style: str) -> None:
    """A bar is green, yellow from a quarter on, and red in the last tenth; there is always some of
    it as long as something is left.
    """
    session = change(1, **RUNNING | {"started_at": at(600 - left), "elapsed_time": 600.0 - left})
    line = draw({session.id: session}, NOW, Screen(width=80))[2]
    bars = [span for span in line.spans if str(span.style) == style]
    assert line.plain[bars[0].start : bars[0].end].startswith("━")
    assert len(bars) == 1 + bool(left < 600)


def test_a_table_without_unicode() -> None:
    """Where the terminal has only ASCII, there is nothing else: no escape makes a line longer."""
    lines = drawn(Screen(width=80, is_ascii=True), {ACTIVE.id: ACTIVE}).splitlines()
    assert lines[2] == f"{ID}01  active    ######..  7m50s  ##......  2m10s"
    foreign = change(1, state=SessionState("läuft"), backend_name="量子")
    whole = drawn(Screen(width=120, is_ascii=True), {foreign.id: foreign}) + "".join(
        drawn(Screen(width=width, is_ascii=True)) for width in (120, 40)
    )
    assert whole.isascii()
    assert "l?uft" in whole
    assert "job sta~" in whole
    assert "67c6b462-~c5fbf2e01" in whole


def test_more_sessions_than_lines() -> None:
    """Where there is no room for all, those are shown that are open and have changed last, in their
    order; all are counted, and a change of one that isn't shown is told.
    """
    before = OPEN.session
    many: dict[str, Change | None] = {
        each.id: each for each in (change(n, **RUNNING) for n in range(10, 60))
    }
    for number in (20, 45, 30):
        each = change(number, seen=number, before=before, **RUNNING)
        many[each.id] = each
    many |= {CLOSED.id: CLOSED, f"{ID}04": None}
    lines = drawn(Screen(width=120, height=9), many).splitlines()
    assert [line[36:38] for line in lines[2:6]] == ["  "] * 4
    assert [line[34:36] for line in lines[2:6]] == ["10", "20", "30", "45"]
    assert lines[6].startswith("52 sessions: 50 active, 1 closed, 1 not read; ")
    assert lines[6].endswith("; 48 not shown")
    assert lines[7] == f"7s ago: {CLOSED.id} closed"
    assert len(drawn(Screen(width=120, height=1), many).splitlines()) == 5
    assert len(drawn(Screen(width=120), many).splitlines()) == 55


@table(
    ("fields", "used"),
    [
        ({"elapsed_time": 100.0, "timestamps": ()}, 130.0),
        ({"elapsed_time": 100.0, "state": SessionState.INACTIVE}, 100.0),
        ({"elapsed_time": 100.0, "mode": Mode.BATCH}, 100.0),
        ({"mode": Mode.BATCH}, None),
        ({"timestamps": ()}, None),
        ({}, 130.0),
        ({"timestamps": states(open=200, active=130, inactive=100)}, 30.0),
        ({"timestamps": states(open=200, active=130, closed=7)}, 123.0),
    ],
)
def test_what_a_session_has_used(fields: dict[str, Any], *, used: float | None) -> None:
    """It is what the service says, and goes on while a dedicated session is active; where the
    service says nothing, it is the time that a dedicated session was active.
    """
    assert used_by(change(1, seen=30, **RUNNING | fields), NOW) == used


def test_what_bounds_the_usage() -> None:
    """The bar of a dedicated session is the share of its active time, if the service tells that."""
    session = change(1, elapsed_time=130.0, active_ttl=130, **RUNNING)
    line = drawn(Screen(width=80), {session.id: session}).splitlines()[2]
    assert line.endswith("━━━━────  2m10s")
    spent = change(1, elapsed_time=0.0, active_ttl=0, **RUNNING)
    line = drawn(Screen(width=80), {spent.id: spent}).splitlines()[2]
    assert line.endswith("━━━━━━━━     0s")


@table(
    ("fields", "news", "changed"),
    [
        ({"last_job_started": at(1)}, "job started", ["last_job_started"]),
        (
            {"last_job_completed": at(1), "elapsed_time": 7.0, "active_ttl": 3},
            "job ended",
            ["last_job_completed"],
        ),
        (
            {
                "state": SessionState.INACTIVE,
                "timestamps": states(open=200, active=130, inactive=5),
                "last_job_completed": at(9),
            },
            "job ended, inactive",
            ["state", "last_job_completed", "timestamps"],
        ),
        ({"state": SessionState.INACTIVE}, "inactive", ["state"]),
        ({"accepting_jobs": False}, "draining", ["accepting_jobs"]),
        ({"backend_name": "ibm_fez"}, "backend_name", ["backend_name"]),
        (
            {"state_reason": "why", "max_ttl": 5},
            "state_reason, max_ttl",
            ["state_reason", "max_ttl"],
        ),
    ],
)
def test_what_has_changed(fields: dict[str, Any], *, news: str, changed: list[str]) -> None:
    """A change is told in words in the order of time, else by the names of its fields; meters that
    run all the time are none.
    """
    before = ACTIVE.session
    after = change(1, before=before, **RUNNING | {"elapsed_time": 100.0} | fields)
    assert (after.news, after.line, after.fields) == (news, news, changed)
    assert after.to_dict()["changed"] == changed
    back = Change(after.id, NOW, after.session, before)
    assert ("accepts jobs again" in back.news) == (news == "draining")


def test_when_it_has_changed() -> None:
    """A change is as old as the service says; else it is when it was seen."""
    assert ACTIVE.happened_at == NOW - 42
    assert CLOSED.happened_at == NOW - 7
    drained = change(1, seen=3, before=ACTIVE.session, **RUNNING | {"accepting_jobs": False})
    assert drained.happened_at == NOW - 3
    assert drained.to_dict()["seen_at"] == "2026-05-28T20:26:37Z"


def test_a_session_as_it_is_first_read() -> None:
    """The first line says what it is, and a row what happened last."""
    assert ACTIVE.line == "active, dedicated, on ibm_marrakesh"
    assert (OPEN.line, OPEN.news, OPEN.fields) == ("open, batch", "open", [])
    bare = change(5)
    assert (bare.line, bare.news, state_of(None)) == ("-", "-", "-")
    begun = change(2, before=OPEN.session, mode=Mode.BATCH, backend_name="ibm_fez")
    assert "on ibm_fez" in begun.news
