"""Measure qsessions beside its peers: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import machine, plot, report
from benchmarks.groups import GROUPS, async_get
from benchmarks.peers import without_proxies
from benchmarks.rounds import Effort, Measured, Spread
from benchmarks.rows import Bench, at_most
from benchmarks.stub import running_stub

ROOT = Path(__file__).parents[1]
FULL = Effort(rounds=41, seconds=0.05)
QUICK = Effort(rounds=2, seconds=0.004)
# Where the stub has to keep up with many callers.
LOADED = ("get, 128 callers", "facade, 16 threads")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"only these of {', '.join(GROUPS)}")
    parser.add_argument(
        "--quick", action="store_true", help="only show that it works; the figures mean nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="print every round as JSON in place of the table"
    )
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=ROOT,
        metavar="FOLDER",
        help="write the tables and the plot into this repository, or into another copy of it",
    )
    options = parser.parse_args(argv)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    if options.write and options.groups:
        parser.error("--write wants all groups")
    if options.write == ROOT and options.quick:
        parser.error("the figures of --quick mean nothing")
    return options


def run(bench: Bench, names: Iterable[str]) -> None:
    """Measure groups, one after another."""
    for name in names:
        started = time.perf_counter()
        print(f"{name} ...", end="", file=sys.stderr, flush=True)
        GROUPS[name](bench)
        print(f" {time.perf_counter() - started:.0f} s", file=sys.stderr)
    _show_the_stub(bench)


def _show_the_stub(bench: Bench) -> None:
    """Add the rows that show that the stub is not what limits the others."""
    for group in LOADED:
        if group in bench.groups:
            measured = Measured(bench.groups[group])
            shares: list[Spread] = [measured.stub_share(name) for name in measured.samples]
            busiest = max(shares, key=lambda share: share.median)
            figure = f"{group}: share of the time in which the stub is at work, at most"
            bench.add(f"stub-{group.partition(',')[0]}", figure, busiest, at_most(0.7, 0.5))
    if "get, one caller" in bench.groups:
        share = Measured(bench.groups["get, one caller"]).stub_share(async_get.BARE)
        bench.add("stub-answer", "one caller, bare aiohttp: the same", share)


def write(bench: Bench, about: str, root: Path) -> None:
    """Write the tables into the two pages of a repository, and the plot beside the longer one."""
    folder = root / "benchmarks"
    report.replace_section(folder / "README.md", report.long_section(bench, about))
    report.replace_section(root / "README.md", report.short_section(bench))
    drawn = plot.svg(plot.panels(bench), "time of one get")
    (folder / "get.svg").write_text(drawn, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(argv)
    facts = machine.facts()
    pair = machine.pinned_cores()
    client_core, stub_core = pair or (None, None)
    cores = machine.cores() if pair else ()
    delay_s = 0.01 if options.quick else 0.1
    with without_proxies(), running_stub(stub_core, delay_s=delay_s) as stub:
        machine.pin(client_core)
        effort = QUICK if options.quick else FULL
        bench = Bench(stub, effort, quick=options.quick, cores=cores)
        run(bench, options.groups or GROUPS)
    about = report.conditions(facts, pair is not None)
    if options.json:
        print(json.dumps(report.as_json(bench, facts), indent=1))
    else:
        print(f"{about}\n\n{report.text_table(bench.rows)}")
        for line in bench.left_out:
            print(f"left out: {line}")
    if options.write:
        write(bench, about, options.write)


if __name__ == "__main__":
    main()
