"""What a benchmark finds out: figures with their goals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field, frozen

from benchmarks.rounds import Effort, Measured, Samples, Spread, Variant, alternate
from benchmarks.stub import Stub


@frozen
class Goal:
    """What a figure must be, and what we reach for.

    Attributes:
        must: The limit.
        reach: The better one.
        at_least: Whether more is better.
    """

    must: float
    reach: float
    at_least: bool = False

    def verdict(self, value: float) -> str:
        """Return whether a value is "reached", "met" or "missed"."""
        if self._holds(value, self.reach):
            return "reached"
        return "met" if self._holds(value, self.must) else "missed"

    def _holds(self, value: float, limit: float) -> bool:
        return value >= limit if self.at_least else value <= limit


def at_most(must: float, reach: float) -> Goal:
    """Return a goal of which less is better."""
    return Goal(must, reach)


def at_least(must: float, reach: float) -> Goal:
    """Return a goal of which more is better."""
    return Goal(must, reach, at_least=True)


@frozen
class Row:
    """A line of the table.

    Attributes:
        key: A short name, by which other pages pick the row.
        figure: What was measured.
        spread: How it came out.
        goal: What it should be; None for what is only shown.
        decimals: How exact to print it.
        unit: What to print behind it.
    """

    key: str
    figure: str
    spread: Spread
    goal: Goal | None = None
    decimals: int = 2
    unit: str = ""

    @property
    def verdict(self) -> str:
        """Whether the goal is "reached", "met" or "missed"; empty without a goal."""
        # As printed: a figure that reads like its limit holds it.
        return self.goal.verdict(round(self.spread.median, self.decimals)) if self.goal else ""


@define
class Bench:
    """A run of the benchmarks: what its groups share, and what they found.

    Attributes:
        cores: Those that there are to use; empty where the client isn't pinned to one of them.
    """

    stub: Stub
    effort: Effort
    quick: bool = False
    cores: Sequence[int] = ()
    rows: list[Row] = field(factory=list)
    groups: dict[str, dict[str, Samples]] = field(factory=dict)
    left_out: list[str] = field(factory=list)

    def measure(
        self, group: str, variants: Sequence[Variant], effort: Effort | None = None
    ) -> Measured:
        """Measure a group of variants and keep its rounds."""
        measured = alternate(variants, effort or self.effort, self.stub.cpu_seconds)
        self.groups[group] = measured.samples
        return measured

    def add(
        self,
        key: str,
        figure: str,
        spread: Spread,
        goal: Goal | None = None,
        *,
        decimals: int = 2,
        unit: str = "",
    ) -> None:
        """Add a line to the table."""
        self.rows.append(Row(key, figure, spread, goal, decimals, unit))

    def leave_out(self, what: str, why: str) -> None:
        """Note what could not be measured."""
        line = f"{what}: {why}"
        if line not in self.left_out:
            self.left_out.append(line)


Group = Callable[[Bench], None]
