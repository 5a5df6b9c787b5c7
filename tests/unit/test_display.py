"""How sessions and workloads are shown: short lines, and HTML for notebooks."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from qsessions import AsyncLiveSession, Mode, Session, SessionState, Workload
from qsessions.display import html, span
from tests.support.tables import table

NOON = datetime(2026, 5, 4, 12, 0, 0, 125_000, tzinfo=UTC)
ID = "9f3c1b9e-8a54-4f4a-9d36-0b8f5a2f1c11"
ACTIVE = Session(
    id=ID,
    backend_name="ibm_torino",
    mode=Mode.DEDICATED,
    state=SessionState.ACTIVE,
    state_reason="session_activated_by_job",
    accepting_jobs=True,
    started_at=NOON,
    max_ttl=1800,
    elapsed_time=150.04,
)
CLOSED = attrs.evolve(
    ACTIVE, state=SessionState.CLOSED, accepting_jobs=False, closed_at=NOON + timedelta(minutes=15)
)
WORK = Workload(
    id=ID, created=NOON, mode="session", backend="ibm_fez", status="in_progress", usage_seconds=90.0
)
# What a service that isn't to be trusted may say.
EVIL = "<script>alert(1)</script>\"'&\n\u202e" + "x" * 10_000


class Parsed(HTMLParser):
    """HTML as a reader sees it.

    Attributes:
        tags: Every element's name.
        attributes: Every attribute's name and value.
        text: The text, an element's border being a space.
        bars: The offset and the width of what is filled of each bar, in percent.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self._parts: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self._parts).split())
        self.bars = [
            (float(offset), float(width))
            for offset, width in re.findall(r"margin-left:([\d.]+)%;width:([\d.]+)%", source)
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "br":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that elements end in their order."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        self._parts.append(data)


def after(value: object, minutes: float) -> Parsed:
    """Return how something is shown so many minutes after noon."""
    return Parsed(html(value, NOON.timestamp() + minutes * 60))


@table(
    ("value", "line"),
    [
        (
            ACTIVE,
            f"<Session '{ID}' active, dedicated on ibm_torino, max_ttl=1800, elapsed_time=150.0>",
        ),
        (
            attrs.evolve(ACTIVE, accepting_jobs=False),
            f"<Session '{ID}' active, draining, dedicated on ibm_torino, max_ttl=1800, elapsed_time=150.0>",
        ),
        (
            CLOSED,
            f"<Session '{ID}' closed, dedicated on ibm_torino, max_ttl=1800, elapsed_time=150.0>",
        ),
        (Session(id="s-1"), "<Session 's-1'>"),
        (Session(id="s-1", backend_name="ibm_fez"), "<Session 's-1' ibm_fez>"),
        (WORK, f"<Workload '{ID}' in_progress, session on ibm_fez, usage_seconds=90.0>"),
        (Workload(id="w-1"), "<Workload 'w-1'>"),
    ],
)
def test_a_repr_is_a_short_line(value: object, line: str) -> None:
    """A repr has what matters on a line of at most 128 characters."""
    assert repr(value) == line
    assert len(line) <= 128


def seen(snapshot: Session) -> AsyncLiveSession:
    """Return a handle that has seen a session."""
    poll: Any = SimpleNamespace(session_id="s")
    live = AsyncLiveSession(poll, poll)
    live.snapshot = snapshot
    return live


@table(
    "value",
    [
        Session(id="s", state=SessionState(EVIL), backend_name=EVIL),
        Workload(id="w", status=EVIL),
        seen(Session(id="s", state=SessionState(EVIL))),
    ],
)
def test_a_repr_is_one_line_whatever_the_service_says(value: object) -> None:
    """A repr is one line of printable text, and cut."""
    assert repr(value).isprintable()
    assert len(repr(value)) < 120


def test_a_value_that_the_service_adds_is_shown_on_one_line() -> None:
    """What the service says is no line end and no escape sequence where Python shows it."""
    for value in (SessionState("a\x1b[31m\nb"), Mode("a\x1b[31m\nb")):
        assert repr(value).isprintable()
        assert value == "a\x1b[31m\nb"


@table(
    ("seconds", "text"),
    [
        (-1.0, "0s"),
        (0.96, "0s"),
        (59.99, "59s"),
        (60.0, "1m00s"),
        (3599.9, "59m59s"),
        (3661.0, "1h01m"),
        (90_061.0, "1d01h"),
        (1e299, "1e+299s"),
    ],
)
def test_a_duration(seconds: float, *, text: str) -> None:
    """A duration has its two largest units, as on a clock: what hasn't passed isn't counted."""
    assert span(seconds) == text


def test_an_active_session() -> None:
    """An active session is shown with how much of its time has passed and what it has used."""
    shown = after(ACTIVE, 6)
    assert shown.text == (
        f"active · dedicated on ibm_torino {ID} "
        "6m00s of at most 30m00s since 2026-05-04T12:00:00Z, as of 2026-05-04T12:06:00Z "
        "2m30s used session_activated_by_job"
    )
    assert shown.bars == [(0.0, 20.0), (0.0, 8.3)]


def test_a_draining_session() -> None:
    """A session that takes no more jobs is said to drain."""
    assert after(attrs.evolve(ACTIVE, accepting_jobs=False), 6).text.startswith("active , draining")


def test_a_closed_session() -> None:
    """A closed session's time ends with it, whenever it is shown."""
    shown = after(CLOSED, 6000)
    assert shown.text == (
        f"closed · dedicated on ibm_torino {ID} 15m00s of at most 30m00s since 2026-05-04T12:00:00Z "
        "2m30s used closed at 2026-05-04T12:15:00Z · session_activated_by_job"
    )
    assert shown.bars == [(0.0, 50.0), (0.0, 8.3)]


@table(
    ("session", "text", "bars"),
    [
        (Session(id="s"), "in no known state s", []),
        (Session(id="s", mode=Mode.BATCH), "in no known state · batch s", []),
        (
            Session(id="s", state=SessionState.OPEN, max_ttl=600),
            "open s 10m00s at most from its first job's start",
            [(0.0, 0.0)],
        ),
        (Session(id="s", state=SessionState.CLOSED, max_ttl=600), "closed s", []),
        # When it ended isn't known.
        (
            Session(id="s", state=SessionState.CLOSED, max_ttl=600, started_at=NOON),
            "closed s",
            [],
        ),
        # Without a limit there is nothing to compare with.
        (
            Session(id="s", state=SessionState.ACTIVE, started_at=NOON, elapsed_time=0.04),
            "active s 1m00s since 2026-05-04T12:00:00Z, as of 2026-05-04T12:01:00Z 0s used",
            [],
        ),
        # Longer than it may be, and by a clock that is late.
        (
            Session(id="s", started_at=NOON, max_ttl=30, elapsed_time=1e299),
            "in no known state s 1m00s of at most 30s since 2026-05-04T12:00:00Z, as of 2026-05-04T12:01:00Z 1e+299s used",
            [(0.0, 100.0), (0.0, 100.0)],
        ),
        (
            Session(id="s", started_at=NOON + timedelta(hours=1), max_ttl=90_061),
            "in no known state s 0s of at most 1d01h since 2026-05-04T13:00:00Z, as of 2026-05-04T12:01:00Z",
            [(0.0, 0.0)],
        ),
    ],
)
def test_a_session_of_which_little_is_known(
    session: Session, text: str, bars: list[tuple[float, float]]
) -> None:
    """What the service didn't say is left out, and a bar is never longer than it can be."""
    shown = Parsed(html(session, NOON.timestamp() + 60.125))
    assert (shown.text, shown.bars) == (text, bars)


@table(
    ("snapshot", "ended_by", "text"),
    [
        (None, None, "s-1 not read yet"),
        (Session(id="s-1", state=SessionState.OPEN), None, "last seen open s-1"),
        (
            Session(id="s-1", state=SessionState.CLOSED),
            "max_usage",
            "last seen closed s-1 ended by max_usage",
        ),
    ],
)
def test_a_handle(snapshot: Session | None, ended_by: str | None, text: str) -> None:
    """A handle is shown as its snapshot, which may be old, or as not read."""
    live = SimpleNamespace(id="s-1", snapshot=snapshot, ended_by=ended_by)
    assert after(live, 0).text == text


def test_a_list_of_workloads() -> None:
    """Workloads are rows on one axis of time, from the first one's creation until now, and their use
    is compared with the largest.
    """
    ended = Workload(
        id="w-2",
        created=NOON + timedelta(minutes=5),
        ended=NOON + timedelta(minutes=10),
        mode="batch",
        status="completed",
        status_reason="session_closed_by_drain",
        usage_seconds=45.0,
    )
    shown = after([WORK, ended, Workload(id="w-3")], 20)
    assert shown.text == (
        "workload mode created time usage "
        f"in_progress {ID} session on ibm_fez 2026-05-04T12:00:00Z 20m00s 1m30s "
        "completed w-2 batch session_closed_by_drain 2026-05-04T12:05:00Z 5m00s 45s "
        "w-3 3 workloads"
    )
    assert shown.bars == [(0.0, 100.0), (0.0, 100.0), (25.0, 25.0), (0.0, 50.0)]
    assert shown.tags.count("tr") == 4


def test_one_workload() -> None:
    """A workload alone is a table of one row."""
    ended = attrs.evolve(WORK, ended=NOON + timedelta(hours=25))
    assert after(ended, 6000).text.endswith("2026-05-04T12:00:00Z 1d01h 1m30s 1 workload")
    nothing = after(Workload(id="w", created=NOON, ended=NOON, usage_seconds=0.0), 60)
    assert (nothing.text.split(" ")[-4:], nothing.bars) == (["0s", "0s", "1", "workload"], [])


def test_a_long_reason_is_wrapped() -> None:
    """What the service says at length pushes no column out of sight."""
    shown = html(attrs.evolve(WORK, status_reason="why " * 40), NOON.timestamp())
    assert re.search(r'<div style="[^"]*white-space:normal;[^"]*max-width:15em">why why', shown)


def test_a_long_list_is_cut() -> None:
    """A table has at most 100 rows, and says how many there are."""
    shown = after([WORK] * 101, 20)
    assert shown.tags.count("tr") == 101
    assert shown.text.endswith("101 workloads, of which the first 100 are shown")


@pytest.mark.parametrize("kind", ["session", "workload", "handle"])
def test_what_the_service_says_is_only_text(kind: str) -> None:
    """Nothing that the service says becomes an element, an attribute or a script, and what is long
    is cut.
    """
    session = Session(
        id=EVIL,
        backend_name=EVIL,
        mode=Mode(EVIL),
        state=SessionState(EVIL),
        state_reason=EVIL,
    )
    workload = Workload(id=EVIL, backend=EVIL, mode=EVIL, status=EVIL, status_reason=EVIL)
    handle = SimpleNamespace(id=EVIL, snapshot=session, ended_by=None)
    values: dict[str, Any] = {"session": session, "workload": workload, "handle": handle}
    shown = after(values[kind], 0)
    assert set(shown.tags) <= {"div", "span", "b", "code", "br", *("table", "thead", "tbody", "tr", "th", "td")}  # fmt: skip
    assert {name for name, _ in shown.attributes} == {"style"}
    assert "<script>alert(1)</script>\"'& x" in shown.text
    assert "\u202e" not in shown.text
    assert len(shown.text) < 1500


def test_text_keeps_the_notebooks_colour() -> None:
    """No text has a colour of its own, which would be lost on the other background."""
    for value in (ACTIVE, CLOSED, [WORK]):
        styles = [style or "" for _, style in after(value, 1).attributes]
        assert not any(re.search(r"(^|;)(color|background):", style) for style in styles)


def test_objects_show_themselves() -> None:
    """What a notebook asks the objects themselves for is the same, by the machine's time."""
    assert CLOSED._repr_html_() == html(CLOSED)
    assert "in_progress" in WORK._repr_html_()
