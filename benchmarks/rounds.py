"""How times are taken: variants alternate round by round, and ratios are taken within a round.

What else the machine does changes from second to second, and hits the variants of one round alike.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from attrs import define, field, frozen

Meter: TypeAlias = Literal["cpu", "wall", "stub"]


@frozen
class Effort:
    """How long to measure.

    Attributes:
        rounds: How many rounds there are of each variant.
        seconds: How much CPU time one round of one variant should take.
    """

    rounds: int
    seconds: float


@frozen
class Variant:
    """One way to do the work.

    Attributes:
        name: What the tables call it.
        repeat: Does the work so many times.
        least: A round does the work a multiple of this.
    """

    name: str
    repeat: Callable[[int], object]
    least: int = 1


@frozen
class Spread:
    """A median with its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values; of a single one it has no width."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


@define
class Samples:
    """The rounds of a variant: seconds of each, for a single call.

    Attributes:
        calls: How many calls a round had.
        cpu: The CPU time of this process, with all of its threads.
        wall: The time that passed.
        stub: The CPU time of the stub server.
    """

    calls: int
    cpu: list[float] = field(factory=list)
    wall: list[float] = field(factory=list)
    stub: list[float] = field(factory=list)

    def of(self, meter: Meter) -> list[float]:
        """Return the rounds on one of the meters."""
        return {"cpu": self.cpu, "wall": self.wall, "stub": self.stub}[meter]


class Measured:
    """What a group of variants took."""

    def __init__(self, samples: dict[str, Samples]) -> None:
        self.samples = samples

    def __contains__(self, name: str) -> bool:
        return name in self.samples

    def ratio(self, name: str, over: str, meter: Meter = "cpu") -> Spread:
        """Return what a variant took, in shares of what another one took in the same round."""
        pairs = zip(self.samples[name].of(meter), self.samples[over].of(meter), strict=True)
        return Spread.of([one / other for one, other in pairs])

    def added(self, name: str, without: str, over: str, meter: Meter = "cpu") -> Spread:
        """Return what a variant took more than another one, in shares of a third."""
        rounds = (self.samples[each].of(meter) for each in (name, without, over))
        return Spread.of([(one - less) / third for one, less, third in zip(*rounds, strict=True)])

    def added_ratio(self, name: str, other: str, without: str, meter: Meter = "cpu") -> Spread:
        """Return what a variant adds to a third one, in shares of what another one adds to it."""
        rounds = (self.samples[each].of(meter) for each in (name, other, without))
        return Spread.of([(a - none) / (b - none) for a, b, none in zip(*rounds, strict=True)])

    def stub_share(self, name: str) -> Spread:
        """Return for how much of a variant's time the stub was at work."""
        samples = self.samples[name]
        return Spread.of([cpu / wall for cpu, wall in zip(samples.stub, samples.wall, strict=True)])


def calls_for(variant: Variant, seconds: float) -> int:
    """Warm a variant up, and return how many calls take so much CPU time.

    (Not so long: beside other work, that would be fewer calls, of which each costs more.)
    """
    variant.repeat(variant.least)
    calls = variant.least
    while seconds:
        started = time.process_time()
        variant.repeat(calls)
        took = time.process_time() - started
        if took >= seconds / 4:
            return variant.least * max(1, math.ceil(calls * seconds / took / variant.least))
        calls *= 2
    return calls


def alternate(
    variants: Sequence[Variant], effort: Effort, stub_cpu: Callable[[], float]
) -> Measured:
    """Measure variants round by round; each round begins with another one.

    Args:
        variants: What to measure; their names differ.
        effort: How many rounds, and how long.
        stub_cpu: Returns the CPU seconds that the stub server has used.
    """
    samples = {one.name: Samples(calls_for(one, effort.seconds)) for one in variants}
    gc.collect()
    # What is there by now (a peer may have imported a hundred megabytes) is no garbage of a round.
    gc.freeze()
    try:
        for number in range(effort.rounds):
            first = number // 2 % len(variants)
            order = [*variants[first:], *variants[:first]]
            # What ran before leaves its traces in the processor's caches.
            for variant in reversed(order) if number % 2 else order:
                _measure(variant, samples[variant.name], stub_cpu)
    finally:
        gc.unfreeze()
    return Measured(samples)


def _measure(variant: Variant, samples: Samples, stub_cpu: Callable[[], float]) -> None:
    gc.collect()
    stub = stub_cpu()
    wall, cpu = time.perf_counter(), time.process_time()
    variant.repeat(samples.calls)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    samples.cpu.append(cpu / samples.calls)
    samples.wall.append(wall / samples.calls)
    samples.stub.append((stub_cpu() - stub) / samples.calls)
