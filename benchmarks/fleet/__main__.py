"""How a shared ledger grows: a fleet in virtual time.

`python -m benchmarks.fleet` simulates 10,000 workers with 100,000 sessions: with one reaper, and
with three and an outage of the database. With `--check` 50 real processes do what is simulated, and
with `--statements` a real PostgreSQL says what its statements take. `--write` puts the figures into
docs/fleet.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from benchmarks import report
from benchmarks.fleet import figure
from benchmarks.fleet.fleet import Fleet, Outage, Result
from benchmarks.fleet.simulation import simulate
from qsessions import LeaseTerms

# Small enough for a machine with two cores, and quick terms, so that it takes two minutes.
REAL = Fleet(
    workers=50,
    sessions=4,
    deaths=0.8,
    reapers=2,
    every=1.0,
    terms=LeaseTerms(heartbeat=1, ttl=3, delay=2.5),
    answer=0.01,
    seconds=60.0,
    starts_within=10.0,
)
# How often they are simulated: how the rounds of reapers fall is a matter of chance.
_RUNS = 20
SIZES = (1_000, 10_000, 100_000)
_OWNERS, _READERS = ("heartbeats", "records"), ("owners", "orphans", "take over", "amend")


def scenarios(workers: int, deaths: float, seconds: float) -> dict[str, Fleet]:
    """Return the fleets to simulate, by name."""
    # A small fleet's own rate would be that of one watch for each worker.
    rate = min(20.0, workers / 20)
    quiet = Fleet(workers=workers, deaths=deaths, seconds=seconds, rate=rate)
    third = seconds / 3
    away = Outage(third, third + min(300.0, third))
    return {
        "one reaper": quiet,
        f"three, the database away for {(away.ends - away.begins) / 60:g} min": attrs.evolve(
            quiet, reapers=3, outage=away
        ),
    }


def table(results: dict[str, tuple[Fleet, Result]]) -> str:
    """Return the figures of fleets in Markdown."""
    columns = [_cells(fleet, result) for fleet, result in results.values()]
    headings = (f"{datetime.now(UTC).date()}", *results)
    names = list(columns[0])
    return report.markdown_table(
        headings, [(name, *(column[name] for column in columns)) for name in names]
    )


def _cells(fleet: Fleet, result: Result) -> dict[str, str]:
    def a_second(count: float) -> str:
        return f"{count / fleet.seconds:,.1f}"

    tokens = sum(
        counts["token_exchange"] + counts["token"]
        for counts in (result.worker_requests, result.reaper_requests)
    )
    at_reapers = sum(result.reaper_requests.values())
    return {
        "sessions whose owner died": f"{len(result.orphans):,}",
        "ended after, mean": f"{result.mean:.1f} s",
        "p99": f"{result.p99:.1f} s",
        "worst": f"{result.times[-1]:.1f} s",
        "sessions of living owners ended": f"{result.living_ended}",
        "sessions whose ids nobody had recorded": f"{result.unrecorded:,}",
        "heartbeats a second": a_second(result.statements["heartbeats"]),
        "statements with records a second": a_second(result.statements["records"]),
        "statements of reapers a second": a_second(sum(result.statements[k] for k in _READERS)),
        "rows that reapers read a second": a_second(result.rows["owners"] + result.rows["orphans"]),
        "polls of workers a second": a_second(result.worker_requests["get"]),
        "requests of reapers a second": a_second(at_reapers),
        "requests to IAM an hour": f"{tokens / fleet.seconds * 3600:,.0f}",
    }


def check() -> str:
    """Return the figures of real processes beside those of the simulation."""
    # PostgreSQL and psycopg are needed here only.
    from benchmarks.fleet.real import run_real

    simulated = Result()
    for seed in range(_RUNS):
        simulated.add(simulate(REAL, seed))
    longer = attrs.evolve(REAL, seconds=_RUNS * REAL.seconds)
    return table({"50 processes": (REAL, run_real(REAL)), "the simulation": (longer, simulated)})


def statements() -> str:
    """Return what statements take on a real PostgreSQL."""
    from benchmarks.fleet.statements import measure

    lines = [
        (
            f"{one.owners:,}",
            f"{one.renewals:,.0f}",
            *(
                f"{seconds * 1000:,.1f} ms"
                for seconds in (one.owners_s, one.orphans_s, one.count_s)
            ),
        )
        for one in measure(SIZES)
    ]
    headings = (
        f"{datetime.now(UTC).date()}, owners",
        "heartbeats a second at most",
        "a reaper reads the leases",
        "and the records of the dead",
        "the living are counted",
    )
    return report.markdown_table(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--deaths", type=float, default=0.01, help="share of workers a minute")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--check", action="store_true", help="run real processes too")
    parser.add_argument("--statements", action="store_true", help="measure PostgreSQL")
    parser.add_argument("--write", type=Path, nargs="?", const=Path(), help="the repository")
    options = parser.parse_args(arguments)
    drawn = None
    if options.check:
        name, told = "fleet-check", check()
    elif options.statements:
        name, told = "fleet-statements", statements()
    else:
        fleets = scenarios(options.workers, options.deaths, options.minutes * 60)
        results = {name: (fleet, simulate(fleet)) for name, fleet in fleets.items()}
        name, told = "fleet", table(results)
        drawn = figure.svg(*list(results.values())[-1])
    print(told)
    if options.write is not None:
        docs = options.write / "docs"
        report.replace_section(docs / "fleet.md", told, name)
        if drawn is not None:
            (docs / "fleet.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
