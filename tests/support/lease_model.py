"""The rules of leases as a state machine in discrete time, apart from the code, and a search over all
of its interleavings.

One owner creates one session. Reapers look once a tick, the owner writes once a tick, and within a
tick all of it comes in any order. What may go wrong comes out of a budget. docs/fleet.md has the
rules; `Rules` has each of them as a switch, so that a test can show that each is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

from attrs import frozen

TTL, ROUND = 3, 1
# A heartbeat is a tick.
DELAY = 2
# What a request of the owner takes at most.
REQUEST = 2

Mode = Literal["runs", "paused", "dead"]
# What the owner knows of its session: nothing yet; it is about to ask for it; it has asked; its id;
# or that there is none.
Known = Literal["none", "intent", "asked", "id", "refused"]


@frozen(kw_only=True)
class Rules:
    """The rules. Each that isn't kept is a mistake that an invariant must show.

    Attributes:
        delay: How many ticks a lease that is over is left alone.
        takes_what_it_saw: Taking over is refused if epoch and beat aren't what was seen.
        write_comes_first: A look counts only if the database took a write.
        failure_begins_anew: After a look that failed nothing seen before counts.
        pause_begins_anew: Nor after a pause as long as a lease.
        seen_goes_on: A lease that is as it was is seen for longer.
        sees_itself: A lease must have been seen for long enough by the reaper's own clock.
        database_agrees: And by the database's.
        epoch_is_checked: A lease that was taken over can't be renewed.
        late_records_are_kept: A record is written though the lease can't be renewed.
        lost_answers_count: What may have been written counts as this owner's.
        new_owner_shows_nothing: Who goes on as a new owner has written nothing as the old one.
        newest_record_stays: A statement that arrives late replaces no newer record.
        id_is_compared: A reaper replaces a record only if that has the id that it read.
        session_goes_first: A record goes when its session is closed, and not before.
    """

    delay: int = DELAY
    takes_what_it_saw: bool = True
    write_comes_first: bool = True
    failure_begins_anew: bool = True
    pause_begins_anew: bool = True
    seen_goes_on: bool = True
    sees_itself: bool = True
    database_agrees: bool = True
    epoch_is_checked: bool = True
    late_records_are_kept: bool = True
    lost_answers_count: bool = True
    new_owner_shows_nothing: bool = True
    newest_record_stays: bool = True
    id_is_compared: bool = True
    session_goes_first: bool = True

    @property
    def patience(self) -> int:
        """How many ticks a lease must be seen."""
        return TTL + self.delay


class Faults(NamedTuple):
    """How often what may go wrong."""

    deaths: int = 0
    pauses: int = 0
    reaper_pauses: int = 0
    outages: int = 0
    losses: int = 0
    jumps: int = 0


class Row(NamedTuple):
    """An owner in the database. `age` counts from the renewal that was accepted last."""

    epoch: int
    beat: int
    age: int
    is_over: bool


class Record(NamedTuple):
    """The session's record in the database."""

    owner: int
    has_id: bool
    beat: int


class Statement(NamedTuple):
    """What an owner sends."""

    owner: int
    beat: int
    known: Known | None
    begins: bool
    regardless: bool


class Owner(NamedTuple):
    """The process that owns the session; `generation` is the owner in the database that it is."""

    mode: Mode = "runs"
    generation: int = 0
    beat: int = 0
    has_begun: bool = False
    has_tried: bool = False
    known: Known = "none"
    is_unwritten: bool = False
    has_sent: bool = False
    is_taken: bool = False


class Reaper(NamedTuple):
    """One that looks at the leases.

    `seen` has for each owner what was seen and for how long, `due` the owners to take over as they
    were seen, `found` the record that it acts on.
    """

    mode: Mode = "runs"
    step: Literal["look", "take", "read", "close", "amend", "done"] = "look"
    since_look: int = TTL
    seen: tuple[tuple[int, int, int] | None, ...] = (None, None)
    due: tuple[tuple[int, int, int], ...] = ()
    found: Record | None = None


class State(NamedTuple):
    """All there is.

    `request` is the age of the owner's request that isn't carried out yet, and whether it was sent
    under a good lease. `wire` has statements that were given up and may still arrive. `quiet`
    counts the ticks in which nothing hindered a reaper; `is_recorded` says whether the id of the
    session was ever recorded.
    """

    faults: Faults
    owner: Owner
    reapers: tuple[Reaper, ...]
    database: Literal["answers", "reads", "away"] = "answers"
    rows: tuple[Row | None, ...] = (None, None)
    record: Record | None = None
    session: Literal["none", "open", "closed"] = "none"
    request: tuple[int, bool] | None = None
    wire: tuple[Statement, ...] = ()
    quiet: int = 0
    is_recorded: bool = False


class BrokenInvariant(Exception):
    """What must not be; `trace` is how it came to it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.trace: list[str] = []


@frozen
class Model:
    """The steps from a state, by the rules.

    Args:
        rules: The rules.
        is_on_schedule: Whether nothing but the database and the reapers fails, so that nobody may
            end the session.
        pace: How fast the reapers' clocks are.
    """

    rules: Rules
    is_on_schedule: bool = False
    pace: int = 1

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Yield all that may come next.

        Raises:
            BrokenInvariant: That breaks an invariant.
        """
        yield from self._owner_steps(state)
        for number in range(len(state.reapers)):
            yield from self._reaper_steps(state, number)
        yield from self._faults(state)
        if state.request is not None:
            yield "the service creates", state._replace(session="open", request=None)
            yield "the service refuses", state._replace(request=None)
        for statement in state.wire if state.database == "answers" else ():
            wire = tuple(each for each in state.wire if each is not statement)
            after, _ = self._written(state._replace(wire=wire), statement)
            yield "a statement arrives late", after
        yield from self._tick(state)

    def check(self, state: State) -> None:
        """Check what must always hold."""
        if state.session != "open":
            return
        if state.is_recorded and (state.record is None or not state.record.has_id):
            raise BrokenInvariant("a recorded session is lost")
        waits = state.record is not None and state.record.has_id
        if waits and state.quiet > self.rules.patience + 2 * ROUND:
            raise BrokenInvariant("an orphan is not ended")

    def _owner_steps(self, state: State) -> Iterator[tuple[str, State]]:
        owner = state.owner
        if owner.mode != "runs":
            return
        if not owner.has_tried or owner.is_unwritten:
            yield from self._writes(state)
        if owner.known == "none" and not owner.is_taken:
            known = owner._replace(known="intent", is_unwritten=True, has_tried=False)
            yield "it is about to create", state._replace(owner=known)
        if owner.known == "intent" and (owner.has_tried or not owner.is_unwritten):
            # It was written, or that was tried in vain.
            if owner.is_taken:
                known = owner._replace(known="refused", is_unwritten=True)
                yield "it creates nothing", state._replace(owner=known)
            else:
                row = state.rows[owner.generation]
                is_good = row is not None and row.age < TTL and not row.is_over
                yield (
                    "it asks for a session",
                    state._replace(owner=owner._replace(known="asked"), request=(0, is_good)),
                )
        if owner.known == "asked" and state.session != "none":
            known = owner._replace(known="id", is_unwritten=True)
            yield "it learns the id", state._replace(owner=known)

    def _writes(self, state: State) -> Iterator[tuple[str, State]]:
        owner = state.owner
        is_open = owner.known in {"intent", "asked", "id"}
        owns = owner.has_sent and is_open
        statement = Statement(
            owner.generation,
            owner.beat + 1,
            owner.known if owner.is_unwritten else None,
            not owner.has_begun,
            owns or not self.rules.new_owner_shows_nothing,
        )
        counts = owner.is_unwritten and self.rules.lost_answers_count
        state = state._replace(
            owner=owner._replace(
                beat=owner.beat + 1, has_tried=True, has_sent=owner.has_sent or counts
            )
        )
        if state.database == "answers":
            after, is_renewed = self._written(state, statement)
            yield "it writes", self._answered(after, owns=owns, is_renewed=is_renewed)
            if left := state.faults.losses:
                faults = state.faults._replace(losses=left - 1)
                yield "it writes, and the answer is lost", after._replace(faults=faults)
                held = state._replace(faults=faults, wire=(*state.wire, statement))
                yield "what it writes is held up", held
        else:
            yield "it can't write", state

    def _written(self, state: State, statement: Statement) -> tuple[State, bool]:
        """Carry out a statement in the database; return whether it renewed the lease."""
        row = state.rows[statement.owner]
        is_stale = row is not None and row.beat >= statement.beat
        if row is None:
            is_renewed = statement.begins
            row = Row(1, statement.beat, 0, is_over=False) if is_renewed else None
        else:
            is_renewed = not row.is_over or not self.rules.epoch_is_checked
            if self.rules.newest_record_stays:
                is_renewed &= not is_stale
            if is_renewed:
                row = row._replace(beat=max(row.beat, statement.beat), age=0)
        rows = (row, state.rows[1]) if statement.owner == 0 else (state.rows[0], row)
        state = state._replace(rows=rows, quiet=0 if is_renewed else state.quiet)
        is_late = self.rules.late_records_are_kept and statement.regardless
        if self.rules.newest_record_stays:
            is_late &= not is_stale
        if statement.known is None or not (is_renewed or is_late):
            return state, is_renewed
        return self._recorded(state, statement), is_renewed

    def _recorded(self, state: State, statement: Statement) -> State:
        if statement.known == "refused":
            return state._replace(record=None)
        record = Record(statement.owner, statement.known == "id", statement.beat)
        old = state.record
        is_newer = old is None or old.owner != record.owner or old.beat < record.beat
        if self.rules.newest_record_stays and not is_newer:
            return state
        is_recorded = state.is_recorded or record.has_id
        return state._replace(record=record, quiet=0, is_recorded=is_recorded)

    def _answered(self, state: State, *, owns: bool, is_renewed: bool) -> State:
        """Have the owner learn what became of its statement."""
        owner = state.owner
        if not is_renewed and not owns:
            if owner.generation == 1:
                # That would be a third, which shows nothing new.
                return state._replace(owner=owner._replace(mode="dead"))
            new = Owner(generation=1, known=owner.known, is_unwritten=owner.is_unwritten)
            return state._replace(owner=new)
        is_recorded = state.is_recorded or (owner.is_unwritten and owner.known == "id")
        owner = owner._replace(
            has_begun=True,
            is_unwritten=False,
            has_sent=owner.has_sent or owner.is_unwritten,
            is_taken=not is_renewed,
        )
        return state._replace(owner=owner, is_recorded=is_recorded)

    def _reaper_steps(self, state: State, number: int) -> Iterator[tuple[str, State]]:
        reaper = state.reapers[number]
        if reaper.mode != "runs" or reaper.step == "done":
            return
        name = f"reaper {number}"
        if reaper.step == "look":
            yield f"{name} looks", _with(state, number, self._look(state, reaper))
        elif reaper.step == "take":
            yield f"{name} takes over", self._take(state, number)
        elif reaper.step == "read":
            found = state.record if self._is_orphan(state) else None
            if state.database == "away":
                found = None
            step: Literal["close", "done"] = "done" if found is None else "close"
            after = reaper._replace(step=step, found=found)
            yield f"{name} reads", _with(state, number, after)
        elif reaper.step == "close":
            yield from self._close(state, number)
        else:
            done = _with(state, number, reaper._replace(step="done", found=None))
            yield f"{name} records that", self._amend(done, reaper.found)

    def _look(self, state: State, reaper: Reaper) -> Reaper:
        answers = state.database == "answers"
        if not self.rules.write_comes_first:
            answers |= state.database == "reads"
        if not answers:
            if self.rules.failure_begins_anew:
                return reaper._replace(step="done", since_look=TTL, seen=(None, None))
            return reaper._replace(step="done", since_look=0)
        goes_on = reaper.since_look < TTL or not self.rules.pause_begins_anew
        seen: list[tuple[int, int, int] | None] = []
        due: list[tuple[int, int, int]] = []
        for generation, row in enumerate(state.rows):
            if row is None or row.is_over:
                seen.append(None)
                continue
            before = reaper.seen[generation]
            is_same = before is not None and before[:2] == (row.epoch, row.beat)
            ticks = before[2] if before and is_same and goes_on and self.rules.seen_goes_on else 0
            seen.append((row.epoch, row.beat, ticks))
            waits = [self.rules.patience]
            if self.rules.sees_itself:
                waits.append(ticks)
            if self.rules.database_agrees:
                waits.append(row.age)
            if min(waits) >= self.rules.patience and len(waits) > 1:
                due.append((generation, row.epoch, row.beat))
        step: Literal["take", "read"] = "take" if due else "read"
        return reaper._replace(step=step, since_look=0, seen=tuple(seen), due=tuple(due))

    def _take(self, state: State, number: int) -> State:
        reaper = state.reapers[number]
        if state.database != "answers":
            failed = reaper._replace(step="done", since_look=TTL, seen=(None, None), due=())
            return _with(state, number, failed)
        rows = list(state.rows)
        for generation, epoch, beat in reaper.due:
            row = rows[generation]
            assert row is not None
            as_seen = (row.epoch, row.beat) == (epoch, beat)
            if self.rules.database_agrees:
                as_seen &= row.age >= self.rules.patience
            if row.is_over or (self.rules.takes_what_it_saw and not as_seen):
                continue
            if row.age < TTL:
                raise BrokenInvariant("a lease is taken over that is good")
            if self.is_on_schedule:
                raise BrokenInvariant("a lease is taken over of a process that did all it could")
            if state.request is not None and state.request[1]:
                raise BrokenInvariant("a request is under way that was sent under a good lease")
            rows[generation] = row._replace(epoch=row.epoch + 1, is_over=True)
        state = state._replace(rows=tuple(rows))
        return _with(state, number, reaper._replace(step="read", due=()))

    def _is_orphan(self, state: State) -> bool:
        if state.record is None:
            return False
        row = state.rows[state.record.owner]
        return row is None or row.is_over

    def _close(self, state: State, number: int) -> Iterator[tuple[str, State]]:
        reaper = state.reapers[number]
        found = reaper.found
        assert found is not None
        on = _with(state, number, reaper._replace(step="amend"))
        if state.session == "open":
            row = state.rows[state.owner.generation]
            if row is not None and row.age < TTL:
                raise BrokenInvariant("a session is ended whose owner's lease is good")
            if not self.rules.session_goes_first:
                on = self._amend(on, found)
                self.check(on)
            # Without an id it is the only session that matches.
            yield f"reaper {number} closes the session", on._replace(session="closed")
        elif found.has_id or state.session == "none":
            # There is nothing to close: or a person says so.
            yield f"reaper {number} closes nothing", on
        if not found.has_id:
            done = reaper._replace(step="done", found=None)
            yield f"reaper {number} leaves it", _with(state, number, done)

    def _amend(self, state: State, found: Record | None) -> State:
        record = state.record
        assert found is not None
        if state.database != "answers" or record is None or not self._is_orphan(state):
            return state
        is_same = record.owner == found.owner and record.has_id == found.has_id
        if record.owner != found.owner or (self.rules.id_is_compared and not is_same):
            return state
        return state._replace(record=None)

    def _faults(self, state: State) -> Iterator[tuple[str, State]]:
        yield from self._faults_of_owner(state)
        for number, reaper in enumerate(state.reapers):
            if reaper.mode == "paused":
                woken = _with(state, number, reaper._replace(mode="runs"))
                yield f"reaper {number} wakes", woken._replace(quiet=0)
            elif state.faults.reaper_pauses:
                spent = state.faults._replace(reaper_pauses=state.faults.reaper_pauses - 1)
                after = _with(state, number, reaper._replace(mode="paused"))
                yield f"reaper {number} is paused", after._replace(faults=spent)
        yield from self._faults_of_database(state)

    def _faults_of_owner(self, state: State) -> Iterator[tuple[str, State]]:
        owner, faults = state.owner, state.faults
        if owner.mode == "paused":
            yield "the owner wakes", state._replace(owner=owner._replace(mode="runs"))
        if owner.mode == "runs" and faults.deaths:
            spent = faults._replace(deaths=faults.deaths - 1)
            yield "the owner dies", state._replace(owner=owner._replace(mode="dead"), faults=spent)
        if owner.mode == "runs" and faults.pauses:
            spent = faults._replace(pauses=faults.pauses - 1)
            paused = owner._replace(mode="paused")
            yield "the owner is paused", state._replace(owner=paused, faults=spent)

    def _faults_of_database(self, state: State) -> Iterator[tuple[str, State]]:
        faults = state.faults
        if state.database != "answers":
            yield "the database is back", state._replace(database="answers", quiet=0)
        elif faults.outages:
            spent = faults._replace(outages=faults.outages - 1)
            yield "the database is away", state._replace(database="away", faults=spent)
            yield "the database only reads", state._replace(database="reads", faults=spent)
        if faults.jumps:
            spent = faults._replace(jumps=faults.jumps - 1)
            rows = tuple(row and row._replace(age=self.rules.patience) for row in state.rows)
            after = state._replace(rows=rows, quiet=0, faults=spent)
            yield "the database's clock is an hour ahead", after

    def _tick(self, state: State) -> Iterator[tuple[str, State]]:
        owner = state.owner
        if owner.mode == "runs" and not owner.has_tried:
            return
        if any(reaper.mode == "runs" and reaper.step != "done" for reaper in state.reapers):
            return
        if state.request is not None and state.request[0] == REQUEST:
            return
        bound = self.rules.patience
        reapers = tuple(
            reaper._replace(
                step="look" if reaper.mode == "runs" else reaper.step,
                since_look=min(reaper.since_look + self.pace, TTL),
                seen=tuple(
                    mark and (*mark[:2], min(mark[2] + self.pace, bound)) for mark in reaper.seen
                ),
            )
            for reaper in state.reapers
        )
        is_quiet = state.database == "answers" and state.reapers[0].mode == "runs"
        yield (
            "a tick",
            state._replace(
                owner=owner._replace(has_tried=False),
                reapers=reapers,
                rows=tuple(row and row._replace(age=min(row.age + 1, bound)) for row in state.rows),
                request=state.request and (state.request[0] + 1, state.request[1]),
                quiet=min(state.quiet + 1, bound + 2 * ROUND + 1) if is_quiet else 0,
            ),
        )


def _with(state: State, number: int, reaper: Reaper) -> State:
    reapers = list(state.reapers)
    reapers[number] = reaper
    return state._replace(reapers=tuple(reapers))


def _ranked(state: State) -> State:
    """Number the beats anew, so that states that differ in nothing else are one."""
    used = {state.owner.beat, *(row.beat for row in state.rows if row)}
    used.update(statement.beat for statement in state.wire)
    used.update(mark[1] for reaper in state.reapers for mark in reaper.seen if mark)
    used.update(due[2] for reaper in state.reapers for due in reaper.due)
    used.update(reaper.found.beat for reaper in state.reapers if reaper.found)
    if state.record:
        used.add(state.record.beat)
    rank = {beat: number for number, beat in enumerate(sorted(used))}
    if all(beat == number for beat, number in rank.items()):
        return state
    return state._replace(
        owner=state.owner._replace(beat=rank[state.owner.beat]),
        rows=tuple(row and row._replace(beat=rank[row.beat]) for row in state.rows),
        wire=tuple(each._replace(beat=rank[each.beat]) for each in state.wire),
        record=state.record and state.record._replace(beat=rank[state.record.beat]),
        reapers=tuple(
            reaper._replace(
                seen=tuple(mark and (mark[0], rank[mark[1]], mark[2]) for mark in reaper.seen),
                due=tuple((due[0], due[1], rank[due[2]]) for due in reaper.due),
                found=reaper.found and reaper.found._replace(beat=rank[reaper.found.beat]),
            )
            for reaper in state.reapers
        ),
    )


def search(model: Model, faults: Faults, *, reapers: int = 1) -> int:
    """Look at every state that can be reached, and return how many there are.

    Raises:
        BrokenInvariant: One breaks an invariant; it has the shortest way there.
    """
    first = State(faults, Owner(), (Reaper(),) * reapers)
    came: dict[State, tuple[State, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        label = ""
        try:
            for label, after in map(_labelled, model.steps(state)):
                if after not in came:
                    came[after] = (state, label)
                    model.check(after)
                    queue.append(after)
        except BrokenInvariant as broken:
            broken.trace = _trace(came, state)
            raise
    return len(came)


def _labelled(step: tuple[str, State]) -> tuple[str, State]:
    return step[0], _ranked(step[1])


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    labels: list[str] = []
    while (step := came[state]) is not None:
        state, label = step
        labels.append(label)
    return labels[::-1]
