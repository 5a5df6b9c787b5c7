"""`reap --watch`: one round after the other, until a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from attrs import define, field

from qsessions.cli import service
from qsessions.cli.child import handle_signals
from qsessions.cli.failures import advice_on, print_error, print_lines
from qsessions.cli.options import Options
from qsessions.cli.output import Output
from qsessions.cli.progress import Progress
from qsessions.errors import InvalidArgument, QSessionsError, problem_of
from qsessions.ledger.lease import LeasedLedger, take_over
from qsessions.ledger.records import Ledger
from qsessions.ledger.verdicts import Verdict
from qsessions.reaper import Reaped


async def settle(ledger: Ledger, shown: Progress) -> None:
    """Watch leases that are over for as long as it takes to tell whether their owners are gone."""
    if not isinstance(ledger, LeasedLedger):
        return
    wait = await take_over(ledger, service.CLOCK)
    if not wait:
        return
    print_lines(
        f"qsessions reap: leases are over, and are watched for {wait:.0f} s "
        "to see whether their owners are gone"
    )
    total = wait
    # Others may lose their leases meanwhile: they are the next run's.
    over = service.CLOCK.deadline(max(wait, ledger.terms.patience) + 2 * ledger.terms.heartbeat)
    while wait and not over.passed():
        shown.step("watching leases", round(total - min(wait, total)), round(total))
        await service.CLOCK.sleep(min(wait, ledger.terms.heartbeat))
        wait = await take_over(ledger, service.CLOCK)


def check_rounds(ledger: Ledger, seconds: float, options: Options, *, is_once: bool) -> None:
    """Check what `Rounds` is to do.

    Args:
        ledger: The ledger.
        seconds: How often a round begins.
        options: The command's.
        is_once: Whether there are options that make sense once only.

    Raises:
        InvalidArgument: Rounds are so rare that no lease could be told to be over, their results
            are wanted as one object, or they would all do the same.
    """
    if is_once:
        raise InvalidArgument(
            "--watch is for all that comes: it takes neither --dry-run nor records by name.",
            solution="Leave one of them out.",
        )
    if options.json:
        raise InvalidArgument("--watch has no end that --json could wait for: write --jsonl.")
    if isinstance(ledger, LeasedLedger) and seconds >= ledger.terms.ttl:
        raise InvalidArgument(
            f"--watch must be shorter than a lease, which is {ledger.terms.ttl:g} s.",
            solution="Write --watch 10s.",
        )


# How often records of unknown session ids are looked at.
_UNKNOWN_S = 300.0


@define
class Rounds:
    """Reaps in rounds, and prints what is new in each.

    A round that fails is told when that begins and when it is over; the next one tries again.
    Records of unknown session ids have rounds of their own: in a large account each lasts minutes,
    and nobody's session waits for that.

    Args:
        reap: Carries out one round; takes `unknown=`, as `qsessions.reaper.reap` does.
        output: Where to print.
        seconds: How often a round begins, if the one before is over.
    """

    reap: Callable[..., Awaitable[Sequence[Reaped]]]
    output: Output
    seconds: float
    _known: dict[bool, dict[str, tuple[Verdict, str]]] = field(factory=dict, init=False)
    _problems: dict[bool, str] = field(factory=dict, init=False)

    async def run(self) -> None:
        """Go on until SIGTERM, which lets a round come to its end."""
        stop = asyncio.Event()
        handle_signals(("SIGTERM",), lambda _: stop.set())
        seconds = max(self.seconds, _UNKNOWN_S)
        unknown = asyncio.ensure_future(self._go_on(stop, seconds, unknown=True))
        try:
            await self._go_on(stop, self.seconds, unknown=False)
        finally:
            # It may last minutes, and nothing is lost.
            unknown.cancel()
            await asyncio.wait({unknown})
        if not unknown.cancelled():
            unknown.result()

    async def _go_on(self, stop: asyncio.Event, seconds: float, *, unknown: bool) -> None:
        while not stop.is_set():
            next_at = service.CLOCK.deadline(seconds)
            await self._round(unknown=unknown)
            await next_at.wait({stopped := asyncio.ensure_future(stop.wait())})
            stopped.cancel()

    async def _round(self, *, unknown: bool) -> None:
        try:
            reaped = await self.reap(unknown=unknown)
        except QSessionsError as error:
            problem = problem_of(error, "reap")
            if problem not in self._problems.values():
                print_error("reap", problem, f"It goes on trying. {advice_on(error, 'reap')}")
            self._problems[unknown] = problem
            return
        if self._problems.pop(unknown, None) is not None and not self._problems:
            print_lines("qsessions reap: it works again")
        before = self._known.get(unknown, {})
        known = self._known[unknown] = {}
        for item in reaped:
            key, verdict = item.entry.record.key, item.decision.verdict
            problem = problem_of(item.error) if item.error else ""
            # What another reaper has done meanwhile is no news.
            if not item.done and (problem or verdict is Verdict.UNDECIDED):
                known[key] = (verdict, problem)
            is_new = key in known and known[key] != before.get(key)
            if item.done or is_new:
                self._print(item)

    def _print(self, item: Reaped) -> None:
        row = item.to_dict()
        if self.output.lines:
            self.output.record(row)
            return
        now = datetime.fromtimestamp(service.CLOCK.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        done = "done" if item.done else row["error"] or "not done"
        self.output.line([now, row["record"], row["verdict"], done, row["why"]])
