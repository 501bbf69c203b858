"""Sleep: what was learned since the last sleep goes into the slow level of the weights, studied in more ways than told.

    learn         what is pending
    plan          from the ledger: one lesson for what was told again, what was replaced is out, what will not hold
                  for long stays text, what a gate kept out is tried again
    study         other ways of asking, by rule (`nestmem.agent.study`)
    consolidate   one fit of the slow level over all of it
    guard         gate G3; on failure the weakest memories are left out, at most `rounds` times, else the parent stays
    commit        version, report and the sleep's end in one transaction

Each stage is noted under a lease. Until the commit nothing but the notes is written, and everything is a function of
the ledger: a sleep that was killed is taken up by the next and comes to the same. Messages and memories are never
removed. When nothing is new, nothing happens.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from nestmem.agent import guard, strength
from nestmem.agent.guard import Gate
from nestmem.agent.weights import Change, Lesson, Wanted, WeightBook, probes_of
from nestmem.errors import InputError, LedgerError, NestmemError, SleepBusy
from nestmem.store import Ledger
from nestmem.store.records import MemoryRecord, Scope, SleepRun, WeightVersion

if TYPE_CHECKING:
    from nestmem.agent.controller import Memory

LEASE = timedelta(minutes=10)
ATTEMPTS = 3
TRY_AGAIN = ("trust region", "capacity")
"""Gates whose refusals a sleep takes up again."""

Stage = Literal["learn", "plan", "study", "consolidate", "guard", "commit"]


@dataclass(frozen=True, kw_only=True)
class SleepReport:
    """What one sleep did, in counts.

    outcome: "committed", "refused" (the parent version stays) or "nothing" (nothing was new). cursor: the seq up to
    which events have now been slept on. new: memories that became slow; slow: all that are; examples: what the slow
    level was fitted to. merged: memories told again with the same answer; replaced: with another one. kept_out: gate
    -> memories that stay text. rounds: the gates of each candidate, the last one decided. resumed: it went on from
    one that was interrupted.
    """

    outcome: Literal["committed", "refused", "nothing"]
    cursor: int
    new: int = 0
    slow: int = 0
    examples: int = 0
    merged: int = 0
    replaced: int = 0
    kept_out: dict[str, int] = field(default_factory=dict)
    rounds: list[list[Gate]] = field(default_factory=list)
    version: str | None = None
    digest: str | None = None
    resumed: bool = False
    ms: float = 0.0


@dataclass(kw_only=True)
class _Night:
    """One attempt: what was read, what is wanted, and the candidate."""

    seen: tuple[object, ...]
    memories: dict[str, MemoryRecord]
    want: Wanted
    change: Change
    merged: int
    replaced: int
    rounds: list[list[Gate]] = field(default_factory=list)

    def slow(self) -> list[Lesson]:
        """The memories of the slow level."""
        return [one for one in self.want.lessons if one.level == "slow" and not one.joint]

    def new(self) -> list[Lesson]:
        """Those that the head does not hold there."""
        head = self.want.held.head
        listed = set(head.update_ids) if head else set()
        before = {u.memory_id for u in self.want.held.stored if u.id in listed and u.level == "slow"}
        return [one for one in self.slow() if one.memory.id not in before]


class Sleeper:
    """Sleeps for the users of a `Memory`, once at a time for each. `lease`: how long a stage may take before another
    sleeper may take a sleep over. `errors`: the last failure of each user whose last sleep failed."""

    def __init__(self, memory: Memory, id: str, *, lease: timedelta = LEASE) -> None:
        self.memory = memory
        self.name = f"process {os.getpid()} ({id})"
        self.lease = lease
        self.errors: dict[Scope, str] = {}
        self._asleep: set[Scope] = set()
        self._guards_asleep = threading.Lock()

    def due(self, owner: Scope) -> bool:
        """Whether something was said since the last sleep, or one was interrupted. After a sleep that was refused:
        whether something was said or forgotten since, or the model or the guard is another."""
        ledger = self.memory.ledger
        sleeps = ledger.sleeps(owner)
        if sleeps and sleeps[-1].ended_at is None:
            return True
        if sleeps and self.memory.weights is not None and "refused" in sleeps[-1].detail:
            return sleeps[-1].detail["refused"] != circumstances(self.memory.weights, owner)
        return bool(ledger.events(owner, after_seq=ledger.sleep_cursor(owner), last=1))

    def sleep(
        self, owner: Scope, *, now: datetime | None = None, on_stage: Callable[[str], None] | None = None
    ) -> SleepReport:
        """Sleeps for one user. `now` stands in for the clock; `on_stage` is told each stage as it begins. SleepBusy
        when another thread, or another process, sleeps for this user."""
        memory, started = self.memory, time.perf_counter()
        book = memory.weights
        if book is None:
            raise InputError(
                "sleep needs the model whose weights learn; open the memory with a model (model='mini')"
            )
        with self._alone(owner):
            if not self.due(owner):
                return SleepReport(outcome="nothing", cursor=memory.ledger.sleep_cursor(owner))
            night = _Sleep(memory, book, owner, lambda: now or memory.now(), self.lease, on_stage)
            try:
                report = night.run(self.name)
            except NestmemError as error:
                self.failed(owner, error)
                raise
            self.errors.pop(owner, None)
        return replace(report, ms=(time.perf_counter() - started) * 1000)

    def failed(self, owner: Scope, error: Exception) -> str:
        """Notes why the last sleep of a user failed; returns the note."""
        self.errors[owner] = described(error)
        return self.errors[owner]

    @contextmanager
    def _alone(self, owner: Scope) -> Iterator[None]:
        """The ledger keeps other sleepers out; to it, two threads of this one are the same sleeper."""
        with self._guards_asleep:
            if owner in self._asleep:
                raise SleepBusy(
                    f"user {owner.user!r} is already asleep in another thread of this process; wait until that "
                    "sleep has ended"
                )
            self._asleep.add(owner)
        try:
            yield
        finally:
            with self._guards_asleep:
                self._asleep.discard(owner)


def circumstances(book: WeightBook, owner: Scope) -> dict[str, Any]:
    """What a sleep's outcome follows from: what was told and forgotten, the model, and the limits of the guard."""
    return {
        "changes": book.ledger.changes(owner),
        "learner": book.learner.fingerprint,
        "guard": repr(book.settings),
    }


def described(error: Exception) -> str:
    """The message of an error, after its kind where it is none of nestmem's own."""
    return str(error) if isinstance(error, NestmemError) else f"{type(error).__name__}: {error}"


class _Sleep:
    """One sleep of one user, from its beginning to its end."""

    def __init__(
        self,
        memory: Memory,
        book: WeightBook,
        owner: Scope,
        now: Callable[[], datetime],
        lease: timedelta,
        on_stage: Callable[[str], None] | None,
    ) -> None:
        self.memory, self.ledger, self.book = memory, memory.ledger, book
        self.owner = owner
        self.now = now
        self.lease = lease
        self.on_stage = on_stage or (lambda stage: None)

    def run(self, name: str) -> SleepReport:
        run = self.ledger.begin_sleep(self.owner, name, self.lease, self.now())
        with ExitStack() as interrupted:
            interrupted.callback(self._release, run)
            report = self._through(run)
            interrupted.pop_all()
        return report

    def _release(self, run: SleepRun) -> None:
        """Whoever tries next need not wait for the lease. When this cannot be written either, they do."""
        with suppress(LedgerError):
            self.ledger.note_sleep(run.id, "interrupted", {}, self.now())

    def _through(self, run: SleepRun) -> SleepReport:
        self._stage(run, "learn")
        self.memory.learn(self.owner)
        for _ in range(ATTEMPTS):
            report = self._attempt(run)
            if report is not None:
                return report
        with self.ledger.transaction():
            report = self._attempt(run)
        assert report is not None
        return report

    def _stage(self, run: SleepRun, stage: Stage, **detail: Any) -> None:
        self.on_stage(stage)
        self._note(run, stage, **detail)

    def _note(self, run: SleepRun, stage: Stage, **detail: Any) -> None:
        self.ledger.note_sleep(run.id, stage, detail, self.now() + self.lease)

    def _attempt(self, run: SleepRun) -> SleepReport | None:
        """None when somebody else learned or forgot meanwhile."""
        self._stage(run, "plan")
        night = self._planned(run)
        self._stage(run, "study", memories=len(night.slow()))
        self.book.leave_out_known([night.want])
        self._stage(run, "consolidate", new=len(night.new()))
        [night.change] = self.book.plan([night.want])
        self._stage(run, "guard")
        passed = self._guarded(run, night)
        self._stage(run, "commit", passed=passed)
        return self._commit(run, night) if passed else self._refuse(run, night)

    # Planning.

    def _seen(self) -> tuple[object, ...]:
        head = self.ledger.head(self.owner)
        held = [m.id for m in self.ledger.memories(self.owner)]
        return (head.id if head else None, *held)

    def _planned(self, run: SleepRun) -> _Night:
        seen = self._seen()
        everything = self.ledger.memories(self.owner, active_only=False)
        active = self.ledger.memories(self.owner)
        events = {e.id: e for e in self.ledger.events(self.owner, ids={m.event_id for m in active})}
        held = self.book.held(self.owner)
        again = [id_ for id_, (gate, _) in held.kept_out.items() if gate in TRY_AGAIN]
        want = self.book.wanted(self.owner, active, events, held=held, again=again, slept=run.cursor)
        want.rewrite = True
        by_id = {m.id: m for m in everything}
        merged, replaced = self._joined(everything, by_id, run.cursor)
        [change] = [Change(state=self.book.learner.empty(), update_ids=())]
        return _Night(seen=seen, memories=by_id, want=want, change=change, merged=merged, replaced=replaced)

    def _joined(
        self, everything: Sequence[MemoryRecord], by_id: dict[str, MemoryRecord], cursor: int
    ) -> tuple[int, int]:
        """How many memories told since the last sleep repeat an older one, and how many replace one."""
        after = self.ledger.sleep_cursor(self.owner)
        told = self.ledger.events(self.owner, after_seq=after)
        fresh = {e.id for e in told if e.seq <= cursor}
        pairs = [
            (old, by_id[old.superseded_by])
            for old in everything
            if old.superseded_by in by_id and by_id[old.superseded_by].event_id in fresh
        ]
        merged = sum(old.answer == new.answer for old, new in pairs)
        return merged, len(pairs) - merged

    # The guard.

    def _guarded(self, run: SleepRun, night: _Night) -> bool:
        """Whether the candidate may be committed; while it may not, the weakest memories are left out."""
        settings = self.book.settings
        if not night.change.changes or not settings.measure:
            return True
        for left in reversed(range(settings.rounds + 1)):
            gates = self._gates(night)
            night.rounds.append(gates)
            night.change.gates = gates
            if all(gate.passed for gate in gates):
                return True
            slow = [one.memory for one in night.slow()]
            if not left or not slow:
                return False
            order = strength.order(slow, self.ledger.uses(self.owner), self.now())
            kept = order[: max(1, math.floor(len(order) * settings.keep))]
            weakest = [id_ for id_ in order if id_ not in set(kept)]
            if not weakest:
                return False
            failed = ", ".join(gate.name for gate in gates if not gate.passed)
            reason = f"{failed} {self.book.by_model()}"
            night.want.refuse(dict.fromkeys(weakest, ("capacity", reason)))
            self._stage(run, "consolidate", left_out=len(weakest), round=len(night.rounds))
            [night.change] = self.book.plan([night.want])
            self._stage(run, "guard")
        return False

    def _gates(self, night: _Night) -> list[Gate]:
        learner, settings = self.book.learner, self.book.settings
        candidate, incumbent = night.change.state, self.book.incumbent(night.want)
        gates = guard.trust_region(learner, candidate, settings)
        if not all(gate.passed for gate in gates):
            return gates
        new = {one.memory.id for one in night.new()}
        head = night.want.held.head
        listed = set(head.update_ids) if head else set()
        inside = {u.memory_id for u in night.want.held.stored if u.id in listed} - new
        old = [one for one in night.want.lessons if one.memory.id in inside]
        probes = guard.stratified(probes_of(old), settings.probes)
        before, after = (guard.answered(learner, probes, state) for state in (incumbent, candidate))
        fresh = probes_of(one for one in night.slow() if one.memory.id in new)
        return [
            *gates,
            guard.canary(learner, candidate, incumbent, settings),
            guard.retention(before, after, settings),
            guard.recall(guard.answered(learner, fresh, candidate), settings),
        ]

    # The end.

    def _commit(self, run: SleepRun, night: _Night) -> SleepReport | None:
        want, change = night.want, night.change
        self.book.sort_out(want, change)
        version: WeightVersion | None = None
        with self.ledger.transaction():
            if self._seen() != night.seen:
                return None
            if change.changes:
                version = self.book.commit(
                    self.owner, change, "slept", kind="sleep", detail=self._detail(run, night)
                )
            else:
                self.book.note(self.owner, change)
            self.ledger.end_sleep(run.id, self.now(), run.cursor)
        if version is not None:
            self.book.committed(self.owner, version, change.state)
        return self._report(run, night, "committed" if version else "nothing", run.cursor, version)

    def _refuse(self, run: SleepRun, night: _Night) -> SleepReport | None:
        """Keeps the parent: the version stays, and so does the seq up to which was slept. What the fits were refused
        under is noted, so that they are not made again until it is different."""
        cursor = self.ledger.sleep_cursor(self.owner)
        with self.ledger.transaction():
            if self._seen() != night.seen:
                return None
            self.book.report(self.owner, None, "sleep", "refused", self._detail(run, night))
            self._note(run, "commit", passed=False, refused=circumstances(self.book, self.owner))
            self.ledger.end_sleep(run.id, self.now(), cursor)
        return self._report(run, night, "refused", cursor, night.want.held.head)

    def _detail(self, run: SleepRun, night: _Night) -> dict[str, Any]:
        return {
            "cursor": run.cursor,
            "new": len(night.new()),
            "slow": len(night.slow()),
            "examples": self._examples(night),
            "merged": night.merged,
            "replaced": night.replaced,
            "kept_out": _counted(night.want.refused),
            "rounds": [[gate.plain() for gate in gates] for gates in night.rounds],
            "resumed": run.resumed,
        }

    def _examples(self, night: _Night) -> int:
        return sum(len(one.examples) for one in night.want.lessons if one.level == "slow")

    def _report(
        self,
        run: SleepRun,
        night: _Night,
        outcome: Literal["committed", "refused", "nothing"],
        cursor: int,
        version: WeightVersion | None,
    ) -> SleepReport:
        head = version or night.want.held.head
        return SleepReport(
            outcome=outcome,
            cursor=cursor,
            new=len(night.new()),
            slow=len(night.slow()),
            examples=self._examples(night),
            merged=night.merged,
            replaced=night.replaced,
            kept_out=_counted(night.want.refused),
            rounds=night.rounds,
            version=head.id if head else None,
            digest=head.digest if head else None,
            resumed=run.resumed,
        )


def _counted(refused: dict[str, tuple[str, str]]) -> dict[str, int]:
    return dict(sorted(Counter(gate for gate, _ in refused.values()).items()))


def account(ledger: Ledger, owner: Scope, head: WeightVersion | None) -> dict[str, Any]:
    """The levels of the weights, what the gates keep out, and the last sleep: for `status`."""
    updates = ledger.updates(owner, ids=head.update_ids, payloads=False) if head else []
    levels = Counter(u.level for u in updates)
    active = {m.id for m in ledger.memories(owner)}
    kept_out = Counter(out.gate for id_, out in ledger.kept_out(owner).items() if id_ in active)
    sleeps = [run for run in ledger.sleeps(owner) if run.ended_at is not None]
    unfinished = [run for run in ledger.sleeps(owner) if run.ended_at is None]
    return {
        "levels": {level: levels[level] for level in ("fast", "medium", "slow")},
        "kept_out": dict(sorted(kept_out.items())),
        "last_sleep": sleeps[-1].ended_at if sleeps else None,
        "slept_until_seq": ledger.sleep_cursor(owner),
        "sleep_stage": unfinished[-1].stage if unfinished else None,
    }
