"""The figure: how long orphans lived and how busy the database was, along the time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import median

from attrs import frozen

from benchmarks.fleet.fleet import Fleet, Orphan, Result

_LEFT, _WIDTH, _HEIGHT, _GAP, _TOP = 62, 640, 170, 62, 34
_BLUE, _LIGHT, _RED, _GREY, _DARK = "#0f62fe", "#a6c8ff", "#da1e28", "#c6c6c6", "#e0e0e0"
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#161616}.title{font-weight:600}.axis{fill:#525252}"
)
# The seconds that a mark stands for.
_BUCKET = 20.0


@frozen
class _Panel:
    """A panel of the figure: from its top down to 0, over the time.

    Attributes:
        top: Where it begins.
        most: The value at its top.
        seconds: The time at its right end.
    """

    top: float
    most: float
    seconds: float

    def x(self, seconds: float) -> float:
        """Return where a time is."""
        return _LEFT + _WIDTH * seconds / self.seconds

    def y(self, value: float) -> float:
        """Return where a value is."""
        return self.top + _HEIGHT * (1 - value / self.most)

    def frame(self, title: str, step: float, fleet: Fleet) -> Iterator[str]:
        """Yield its title, axes and the outage."""
        if fleet.outage is not None:
            left, right = self.x(fleet.outage.begins), self.x(fleet.outage.ends)
            yield _shape("rect", x=left, y=self.top, width=right - left, height=_HEIGHT, fill=_DARK)
            yield _text((left + right) / 2, self.top + 16, "database away", anchor="middle")
        yield _text(12, self.top - 12, title, css="title")
        for number in range(int(self.most // step) + 1):
            y = self.y(number * step)
            yield _shape("path", d=f"M{_LEFT} {y:.1f}h{_WIDTH}", stroke=_GREY, stroke_width=0.5)
            yield _text(_LEFT - 8, y + 4.5, f"{number * step:,.0f}", anchor="end")
        for minute in range(0, int(self.seconds // 60) + 1, 5):
            place = self.x(minute * 60), self.top + _HEIGHT + 18
            yield _text(*place, f"{minute} min", anchor="middle")


def svg(fleet: Fleet, result: Result) -> str:
    """Return the figure of a fleet."""
    longest = max(result.times, default=0.0)
    lives = _Panel(_TOP, _above(max(longest, fleet.bound), 100), fleet.seconds)
    load = _by_bucket(result.by_second, fleet.seconds)
    busy = _Panel(_TOP + _HEIGHT + _GAP, _above(max(load.values()), 500), fleet.seconds)
    bound, line = lives.y(fleet.bound), "L".join(_points(busy, load))
    parts = [
        *lives.frame("seconds until a session was ended, by when its owner died", 100, fleet),
        *_lives(lives, result.orphans),
        _shape("path", d=f"M{_LEFT} {bound:.1f}h{_WIDTH}", stroke=_RED, stroke_dasharray="5 4"),
        _text(_LEFT + _WIDTH + 6, bound + 4.5, f"{fleet.bound:g} s"),
        *busy.frame("statements a second on the database", 500, fleet),
        _shape("path", d=f"M{line}", fill="none", stroke=_BLUE, stroke_width=1.5),
    ]
    width, height = _LEFT + _WIDTH + 62, _TOP + 2 * _HEIGHT + _GAP + 34
    about = f"{fleet.workers:,} workers with {fleet.workers * fleet.sessions:,} sessions"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{about}">\n'
        f'<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _shape(kind: str, **attributes: object) -> str:
    """Return an element."""
    texts = {
        name.replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else value
        for name, value in attributes.items()
    }
    written = " ".join(f'{name}="{value}"' for name, value in texts.items())
    return f"<{kind} {written}/>"


def _text(x: float, y: float, text: str, *, anchor: str = "start", css: str = "axis") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _lives(panel: _Panel, orphans: list[Orphan]) -> Iterator[str]:
    """Yield a bar from the shortest to the longest life, and a mark at the median."""
    lives: defaultdict[float, list[float]] = defaultdict(list)
    for orphan in orphans:
        if orphan.after is not None:
            lives[orphan.died_at // _BUCKET].append(orphan.after)
    for bucket, seconds in sorted(lives.items()):
        x = panel.x((bucket + 0.5) * _BUCKET)
        span = f"M{x:.1f} {panel.y(min(seconds)):.1f}V{panel.y(max(seconds)):.1f}"
        yield _shape("path", d=span, stroke=_LIGHT, stroke_width=5)
        yield _shape("circle", cx=x, cy=panel.y(median(seconds)), r=2.2, fill=_BLUE)


def _points(panel: _Panel, load: Mapping[float, float]) -> Iterator[str]:
    for seconds, value in sorted(load.items()):
        yield f"{panel.x(seconds):.1f} {panel.y(value):.1f}"


def _by_bucket(by_second: Mapping[int, int], seconds: float) -> dict[float, float]:
    """Return the mean of each few seconds, by its middle."""
    length = _BUCKET / 2
    sums = dict.fromkeys(range(int(seconds // length)), 0)
    for second, count in by_second.items():
        if int(second // length) in sums:
            sums[int(second // length)] += count
    return {(bucket + 0.5) * length: total / length for bucket, total in sums.items()}


def _above(value: float, step: float) -> float:
    return step * (value // step + 1)
