"""Plots as SVG: bars of what one `get` takes, and of what watching many sessions takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from attrs import frozen

from benchmarks.groups import async_get, facade
from benchmarks.rounds import Measured, Spread
from benchmarks.rows import Bench

_LABEL_WIDTH = 270
_BAR_WIDTH = 400
_LINE = 26
_BAR = 16
_OURS = "#0f62fe"
_OTHERS = "#8d8d8d"
_STYLE = "text{font:13px system-ui,sans-serif;fill:#161616}.title{font-weight:600}"


@frozen
class Bar:
    """A bar of the plot; ours has another colour."""

    label: str
    spread: Spread
    is_ours: bool = True
    decimals: int = 2


def bars(bench: Bench, group: str, names: Sequence[str], over: str, ours: str) -> list[Bar]:
    """Return the bars of a group: wall time against one of its variants."""
    if group not in bench.groups:
        return []
    measured = Measured(bench.groups[group])
    return [
        Bar(name, measured.ratio(name, over, "wall"), name == ours)
        for name in names
        if name in measured
    ]


def panels(bench: Bench) -> dict[str, list[Bar]]:
    """Return what the plot shows, by the title above it."""
    awaited = (async_get.BARE, async_get.OURS, async_get.PEOPLE, async_get.HTTPX)
    blocking = (facade.OURS, facade.URLLIB3, facade.HTTPX, facade.REQUESTS, facade.OFFICIAL)
    title = "time of one get, in shares of aiohttp's get + read"
    return {
        f"async: {title}": bars(bench, "get, one caller", awaited, async_get.BARE, async_get.OURS),
        "sync: the same": bars(bench, "facade, one thread", blocking, facade.BARE, facade.OURS),
    }


def _drawn(bar: Bar, y: float, scale: float) -> str:
    """Return a bar with its label, its value, and a line from quartile to quartile."""
    middle, width = y + _BAR / 2, bar.spread.median * scale
    low, high = (_LABEL_WIDTH + value * scale for value in (bar.spread.low, bar.spread.high))
    fill = _OURS if bar.is_ours else _OTHERS
    at_end = max(high, _LABEL_WIDTH + width) + 8
    return (
        f'<text x="{_LABEL_WIDTH - 8}" y="{middle + 4.5:.1f}" text-anchor="end">'
        f"{escape(bar.label)}</text>\n"
        f'<rect x="{_LABEL_WIDTH}" y="{y:.1f}" width="{width:.1f}" height="{_BAR}" '
        f'fill="{fill}"/>\n'
        f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#161616" stroke-width="2"/>\n'
        f'<text x="{at_end:.1f}" y="{middle + 4.5:.1f}">{bar.spread.median:.{bar.decimals}f}</text>'
    )


def svg(shown: Mapping[str, Sequence[Bar]], about: str, *, one_scale: bool = True) -> str:
    """Return a plot.

    Args:
        shown: The bars under each title.
        about: What it shows, for who can't see it.
        one_scale: Whether all titles have the same unit.
    """
    parts: list[str] = []
    y = 10.0
    widest = {title: _widest(group) for title, group in shown.items() if group}
    for title, wide in widest.items():
        scale = _BAR_WIDTH / (max(widest.values()) if one_scale else wide)
        parts.append(f'<text class="title" x="12" y="{y + 13:.1f}">{escape(title)}</text>')
        y += _LINE
        for bar in shown[title]:
            parts.append(_drawn(bar, y, scale))
            y += _LINE
        y += 10
    width = _LABEL_WIDTH + _BAR_WIDTH + 60
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y:.0f}" '
        f'width="{width}" height="{y:.0f}" role="img" aria-label="{escape(about)}">\n'
        f'<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _widest(group: Sequence[Bar]) -> float:
    return max(bar.spread.high for bar in group) or 1.0
