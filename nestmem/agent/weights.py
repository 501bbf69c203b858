"""The weights of users, kept in step with what the ledger holds to be true.

The ledger is the source of truth: a state is rebuilt from the updates of the head version, checked
against its digest, and cached by that digest. Nothing here writes to the ledger except through a
`Change`, which the controller commits in the same transaction as the memories it came from. What is written
passes the gates of `guard`; what fails one stays text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from nestmem.agent import chains, guard, study
from nestmem.agent.chains import Clocks
from nestmem.agent.guard import Gate, GuardSettings
from nestmem.agent.types import LEVELS, Example, Learner, Level, State, StoredUpdate, Update
from nestmem.errors import LedgerCorrupt, ModelError
from nestmem.store import Ledger
from nestmem.store.records import Event, MemoryRecord, Report, Scope, WeightUpdate, WeightVersion

Key = tuple[str, str]
MEASURED = ("known", "trust region", "capacity")
"""Gates that ask the model. What they kept out is noted and stays out; the other gates are asked each time."""
COMPANY = ("trust region", "capacity")
"""Those that looked at a memory together with others: when one of those is forgotten, they are asked again."""
TRIALS = 32
"""How many candidates are tried to find which memories of a refused write it was refused for."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the weights learn as one update: the examples of a memory, or of two that are asked together.

    needs: ids of the memories it takes. events: the ids of all events it rests on. told: its place in the life.
    make: gives its examples. asks: the question of a lesson that takes two memories.
    """

    memory: MemoryRecord
    needs: tuple[str, ...]
    events: tuple[str, ...]
    level: Level
    told: tuple[datetime, int, tuple[int, int], str]
    make: Callable[[], Sequence[Example]] = field(repr=False)
    asks: str = ""

    @property
    def joint(self) -> bool:
        """Whether it takes two memories."""
        return len(self.needs) > 1

    @property
    def key(self) -> Key:
        """What tells one lesson of a memory from another."""
        return self.memory.id, self.asks

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """What it teaches: made when it is first asked for."""
        return tuple(self.make())

    @property
    def pairs(self) -> list[dict[str, str]]:
        """The examples as they are stored."""
        return [{"prompt": e.prompt, "completion": e.completion} for e in self.examples]


@dataclass(kw_only=True)
class Change:
    """What is to happen to one user's weights: computed first, committed at once.

    refused: memory id -> (gate, reason) of what is to be kept out; let_in: what no longer is. gates: what was
    measured of the state. reports: (kind, outcome, gates) of candidates that were refused on the way.
    """

    state: State
    update_ids: tuple[str, ...]
    added: list[WeightUpdate] = field(default_factory=list)
    moved: dict[Level, list[str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    replayed: int = 0
    stale: list[str] = field(default_factory=list)
    rewritten: bool = False
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    let_in: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)
    reports: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether there is a version to commit. `rewritten`: the head is out of order or has no digest yet."""
        moved = any(self.moved.values())
        return bool(self.added or self.dropped or self.returned or moved or self.stale or self.rewritten)

    @property
    def notes(self) -> bool:
        """Whether there is something to note, with or without a version."""
        return bool(self.refused or self.let_in or self.reports)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the ledger holds of one user's weights. `stored` come without their payloads; `payloads` has
    those of updates whose rows are about to go, which are taken out whatever may ask for them.
    kept_out: memory id -> (gate, reason)."""

    head: WeightVersion | None
    stored: list[WeightUpdate]
    payloads: dict[str, bytes] = field(default_factory=dict)
    kept_out: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Wanted:
    """What one user's weights should hold, with what the gates refused (memory id -> gate, reason).

    rewrite: whether lessons that are in the weights with other examples are written anew (in sleep).
    stay: whether updates stay at the level where they are (their move was refused).
    """

    scope: Scope
    lessons: list[Lesson]
    held: Held
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    rewrite: bool = False
    stay: bool = False

    def refuse(self, refused: Mapping[str, tuple[str, str]]) -> None:
        """Takes these memories out of what is wanted, and the lessons that need them."""
        self.refused |= refused
        self.lessons = [one for one in self.lessons if not any(id_ in self.refused for id_ in one.needs)]


class WeightBook:
    """Reads, plans and caches the weight states of all users of a ledger."""

    def __init__(
        self,
        ledger: Ledger,
        learner: Learner,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[str], str],
        clocks: Clocks,
        settings: GuardSettings,
    ):
        self.ledger = ledger
        self.learner = learner
        self.clocks = clocks
        self.settings = settings
        self._clock = clock
        self._new_id = new_id
        self._cache: dict[tuple[Scope, str, str], State] = {}
        self._guards_cache = threading.Lock()
        self._refused_naps: dict[Scope, set[str]] = {}

    # Reading.

    def current(self, scope: Scope) -> bool:
        """False when the stored weights have to be learned again: they were made for another learner, or something
        was learned or forgotten while no learner was there."""
        head = self.ledger.head(scope)
        if head is not None:
            return head.learner == self.learner.fingerprint and bool(head.digest)
        told = [m for m in self.ledger.memories(scope) if m.question and m.answer]
        events = {e.id: e for e in self.ledger.events(scope, ids={m.event_id for m in told})} if told else {}
        noted = self._noted(scope)
        return all(self._keeps_out(noted.get(m.id)) or self._gate(m, events, slow=False) for m in told)

    def state(self, scope: Scope) -> tuple[State, WeightVersion | None]:
        """The state of the head version; the caller made sure that it is `current`."""
        head = self.ledger.head(scope)
        while head is not None:
            try:
                return self._of_version(scope, head), head
            except LedgerCorrupt:
                newer = self.ledger.head(scope)
                if newer == head:
                    raise
                head = newer
        return self.learner.empty(), None

    def _of_version(self, scope: Scope, version: WeightVersion) -> State:
        place = (scope.owner, version.id, version.digest)
        with self._guards_cache:
            if place in self._cache:
                return self._cache[place]
        state = self._rebuilt(scope, version)
        self._remember(scope, version, state)
        return state

    def _rebuilt(self, scope: Scope, version: WeightVersion) -> State:
        """What the updates of a version come to, by way of what was saved of it when that leads to its digest."""
        parts = self._parts(scope, version.update_ids)
        adopted = self._adopt(scope, version)
        state = self.learner.rebuild(parts)
        if not version.digest or self.learner.digest(state) == version.digest:
            return state
        if adopted:
            self.learner.discard()
            state = self.learner.rebuild(parts)
        if self.learner.additive and self.learner.digest(state) != version.digest:
            raise LedgerCorrupt(
                f"weight version {version.id} of user {scope.user!r} does not add up to its digest "
                f"{version.digest[:12]}; restore a backup of the file, or an older version with restore()"
            )
        return state

    def _adopt(self, scope: Scope, version: WeightVersion) -> bool:
        """Hands the learner what was saved of a version; returns whether it took it. It only saves time: a damaged one
        is done without."""
        data = None if self.learner.additive else self.ledger.snapshot(scope, version.digest)
        if not data:
            return False
        with suppress(ModelError):
            self.learner.adopt(data)
            return True
        return False

    def _parts(self, scope: Scope, update_ids: Iterable[str]) -> list[StoredUpdate]:
        wanted = list(update_ids)
        found = {u.id: u for u in self.ledger.updates(scope, ids=wanted)} if wanted else {}
        missing = [id_ for id_ in wanted if id_ not in found]
        if missing:
            raise LedgerCorrupt(
                f"weight updates {missing[:3]} of user {scope.user!r} are listed but not stored"
            )
        return [_stored(found[id_]) for id_ in wanted]

    def _remember(self, scope: Scope, version: WeightVersion, state: State) -> None:
        """One state per user is kept: that of the head."""
        with self._guards_cache:
            self._forget_states(scope)
            self._cache[(scope.owner, version.id, version.digest)] = state

    def drop(self, scope: Scope) -> None:
        """Forgets what is cached of a user."""
        self._refused_naps.pop(scope.owner, None)
        with self._guards_cache:
            self._forget_states(scope)

    def _forget_states(self, scope: Scope) -> None:
        for place in [p for p in self._cache if p[0] == scope.owner]:
            self._cache.pop(place, None)

    # Planning.

    def held(self, scope: Scope, *, going: Iterable[str] = ()) -> Held:
        """The head and the updates as they are stored now. `going`: updates whose rows are about to go."""
        ids = list(going)
        payloads = {u.id: u.payload for u in self.ledger.updates(scope, ids=ids)} if ids else {}
        stored = self.ledger.updates(scope, payloads=False)
        return Held(
            head=self.ledger.head(scope), stored=stored, payloads=payloads, kept_out=self._noted(scope)
        )

    def _noted(self, scope: Scope) -> dict[str, tuple[str, str]]:
        return {id_: (out.gate, out.reason) for id_, out in self.ledger.kept_out(scope).items()}

    def _keeps_out(self, noted: tuple[str, str] | None) -> bool:
        """Whether what a gate noted of a memory still stands: a measured gate that asked this very model."""
        return noted is not None and noted[0] in MEASURED and noted[1].endswith(self.by_model())

    def by_model(self) -> str:
        """What a reason ends with that holds for this model and write rule alone."""
        return f"[{self.learner.fingerprint[:12]}]"

    def calendar(self, scope: Scope, slept: int | None = None) -> chains.Calendar:
        """What the levels are read from; `slept` stands in for the seq up to which the last sleep read."""
        last = {}
        for session in self.ledger.sessions(scope):
            newest = self.ledger.events(scope, session=session, last=1)
            if newest:
                last[session] = newest[-1].when
        open_ones = [session for session, when in last.items() if when == max(last.values())]
        if not self.clocks.session:
            open_ones = list(last)
        batches = {
            session: [e.recorded_at for e in self.ledger.events(scope, session=session) if e.role == "user"]
            for session in open_ones
        }
        cursor = self.ledger.sleep_cursor(scope) if slept is None else slept
        return chains.Calendar(last=last, batches=batches, slept=cursor)

    def _gate(self, memory: MemoryRecord, events: Mapping[str, Event], *, slow: bool) -> Gate | None:
        event = events.get(memory.event_id)
        if event is None:
            return Gate(name="trust", passed=False, note="its event is gone")
        return guard.refused(memory, event, self.settings, slow=slow)

    def wanted(
        self,
        scope: Scope,
        active: Sequence[MemoryRecord],
        events: Mapping[str, Event],
        *,
        held: Held,
        again: Iterable[str] = (),
        slept: int | None = None,
    ) -> Wanted:
        """What the weights should hold when `active` are the memories that hold.

        A memory that was once written and is not in the head (an older version was restored) stays out, and so
        does what a measured gate has kept out, unless its id is in `again`. `events`: the source events of all
        active memories. slept: as in `calendar`.
        """
        told = [m for m in active if m.question and m.answer]
        anew = set(again)
        listed = set(held.head.update_ids) if held.head else set()
        inside = {u.memory_id for u in held.stored if u.id in listed}
        calendar = self.calendar(scope, slept)
        refused: dict[str, tuple[str, str]] = {}
        levels: dict[str, Level] = {}
        for memory in told:
            event = events.get(memory.event_id)
            levels[memory.id] = chains.level(event, calendar, self.clocks) if event else "fast"
            gate = self._gate(memory, events, slow=levels[memory.id] == "slow")
            noted = held.kept_out.get(memory.id)
            if gate is not None:
                refused[memory.id] = (gate.name, gate.note)
            elif noted and self._keeps_out(noted) and memory.id not in anew:
                refused[memory.id] = noted
            elif noted:
                anew.add(memory.id)
        left_out = {u.memory_id for u in held.stored} - inside - anew if held.head else set()
        kept = [m for m in told if m.id not in refused and m.id not in left_out]
        lessons = [self._lesson(m, events[m.event_id], levels[m.id]) for m in kept]
        lessons += self._joint(scope, [one for one in lessons if one.level == "slow"])
        return Wanted(scope=scope, lessons=lessons, held=held, refused=refused)

    def _lesson(self, memory: MemoryRecord, event: Event, level: Level) -> Lesson:
        return Lesson(
            memory=memory,
            needs=(memory.id,),
            events=(event.id,),
            make=lambda: study.first(memory, event) + (study.more(memory) if level == "slow" else []),
            level=level,
            told=(event.when, event.seq, memory.span, memory.key),
        )

    def _joint(self, scope: Scope, lessons: Sequence[Lesson]) -> list[Lesson]:
        """Questions that take two of these memories: somebody's name, and something of theirs."""
        found = [
            (name, one, example)
            for name in lessons
            if name.memory.key.endswith("/name")
            for one in lessons
            if one.memory.key.startswith((f"{_owner(name)}/", f"{_owner(name)}."))
            and (example := study.joint(name.memory, one.memory)) is not None
        ]
        if not found:
            return []
        sources = self._sources(scope)
        return [
            Lesson(
                memory=one.memory,
                needs=(one.memory.id, name.memory.id),
                events=tuple(dict.fromkeys([*one.events, *name.events, *sources(one), *sources(name)])),
                make=lambda example=example: [example],
                asks=example.prompt,
                level="slow",
                told=max(one.told, name.told),
            )
            for name, one, example in found
        ]

    def _sources(self, scope: Scope) -> Callable[[Lesson], list[str]]:
        """The events of the memories without which a lesson's memory could not have been read."""
        needs: dict[str, list[str]] = {}
        for edge in self.ledger.edges(scope, kind="depends_on"):
            needs.setdefault(edge.src, []).append(edge.dst)
        if not needs:
            return lambda lesson: []
        event_of = {m.id: m.event_id for m in self.ledger.memories(scope, active_only=False)}

        def sources(lesson: Lesson) -> list[str]:
            found = [lesson.memory.id]
            for id_ in found:
                found += [below for below in needs.get(id_, ()) if below not in found]
            return [event_of[id_] for id_ in found if id_ in event_of]

        return sources

    # Deciding.

    def decide(self, wanted: Sequence[Wanted]) -> list[Change]:
        """The changes that bring each user's weights to what is wanted, past the gates: one batched write for all."""
        self.leave_out_known(wanted)
        changes = self.plan(wanted)
        return [self._judged(want, change) for want, change in zip(wanted, changes, strict=True)]

    def leave_out_known(self, wanted: Sequence[Wanted]) -> None:
        """Refuses what the model says anyway. A memory that was written once passed this gate then."""
        new: list[tuple[Wanted, Lesson]] = []
        for want in wanted:
            written = {u.memory_id for u in self._usable(want)}
            new += [(want, one) for one in want.lessons if not one.joint and one.memory.id not in written]
        if not self.settings.measure or not new:
            return
        pairs = [(lesson.memory.question or "", lesson.memory.answer or "") for _, lesson in new]
        gates = guard.known(self.learner, pairs, self.settings)
        for (want, lesson), gate in zip(new, gates, strict=True):
            if not gate.passed:
                want.refuse({lesson.memory.id: ("known", f"p {gate.value:.2f} {self.by_model()}")})

    def anew(self, scope: Scope, held: Held) -> list[str]:
        """What is to be decided again when something is forgotten, since its company had a part in it: the ids of the
        memories that were kept out, and, of the naps that were refused, all."""
        self._refused_naps.pop(scope.owner, None)
        return [id_ for id_, (gate, _) in held.kept_out.items() if gate in COMPANY]

    def _judged(self, want: Wanted, change: Change) -> Change:
        """The change, or what is left of it when gates fail: first without those of what is new that it failed for,
        then without moves."""
        refusals: list[tuple[str, str, dict[str, Any]]] = []
        while self.settings.measure and (change.added or change.moved.get("medium")):
            incumbent = self.incumbent(want)
            new = {u.memory_id for u in change.added}
            gates = self._write_gates(want, change, incumbent)
            written = all(gate.passed for gate in gates)
            nap = bool(change.moved.get("medium"))
            if nap and written:
                gates += self._nap_gates(want, change.state, incumbent)
            failed = [gate.name for gate in gates if not gate.passed]
            if not failed:
                change.gates = gates
                break
            detail: dict[str, Any] = {"gates": [gate.plain() for gate in gates]}
            out = self._offenders(want, new, incumbent, nap=nap) if new and not written else set[str]()
            if out:
                reason = f"{', '.join(failed)} {self.by_model()}"
                noted = want.held.kept_out
                gate_of = {
                    id_: "capacity" if noted.get(id_, ("",))[0] == "capacity" else COMPANY[0] for id_ in out
                }
                want.refuse({id_: (gate_of[id_], reason) for id_ in sorted(out)})
                refusals.append(("write", "refused", detail | {"memories": sorted(out)}))
            else:
                want.stay = True
                self._refused_naps[want.scope.owner] = set(change.moved["medium"])
                refusals.append(("nap", "refused", detail | {"updates": len(change.moved["medium"])}))
            [change] = self.plan([want])
        change.reports = refusals
        self.sort_out(want, change)
        return change

    def _write_gates(self, want: Wanted, change: Change, incumbent: State) -> list[Gate]:
        """G1, and for memories that a sleep had no room for (they come back when something is forgotten) what the sleep
        would ask."""
        new = {u.memory_id for u in change.added}
        lessons = [one for one in want.lessons if one.memory.id in new and not one.joint]
        written = [(one.memory.question or "", one.memory.answer or "") for one in lessons]
        gates = guard.trust_region(self.learner, change.state, self.settings, written=written)
        noted = want.held.kept_out
        back = [one for one in lessons if noted.get(one.memory.id, ("",))[0] == "capacity"]
        if not back or not all(gate.passed for gate in gates):
            return gates
        found = guard.answered(self.learner, probes_of(back), change.state)
        return [
            *gates,
            *self._nap_gates(want, change.state, incumbent),
            guard.recall(found, self.settings),
        ]

    def _offenders(self, want: Wanted, new: set[str], incumbent: State, *, nap: bool) -> set[str]:
        """The new memories to be left out so that a refused write passes: by halves, in the order they were told, each
        with those before it that may stay. None when it fails for its moves; all when even without them it fails."""
        told = {one.memory.id: one.told for one in want.lessons if not one.joint}
        order = sorted(new, key=lambda id_: (told[id_], id_))
        trials = 0

        def passes(ids: Iterable[str]) -> bool:
            nonlocal trials
            trials += 1
            left = new - set(ids)
            lessons = [one for one in want.lessons if not left & set(one.needs)]
            [change] = self.plan([replace(want, lessons=lessons, refused=dict(want.refused))])
            return all(gate.passed for gate in self._write_gates(want, change, incumbent))

        if not passes(()):
            return set() if nap else new
        kept: list[str] = []
        waiting = [order]
        while waiting and trials < TRIALS:
            part = waiting.pop()
            # All together is what has failed already.
            if len(kept) + len(part) < len(order) and passes([*kept, *part]):
                kept += part
            elif len(part) > 1:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        return new - set(kept)

    def sort_out(self, want: Wanted, change: Change) -> None:
        """Puts into the change what of the gates' refusals is news."""
        noted = want.held.kept_out
        change.refused = {id_: out for id_, out in want.refused.items() if noted.get(id_, ("",))[0] != out[0]}
        wanted_ids = {one.memory.id for one in want.lessons}
        change.let_in = [id_ for id_ in noted if id_ in wanted_ids]

    def incumbent(self, want: Wanted) -> State:
        """The state of the head, empty when there is none of this model."""
        head = want.held.head
        mine = head is not None and head.learner == self.learner.fingerprint
        return self._of_version(want.scope, head) if head and mine else self.learner.empty()

    def _nap_gates(self, want: Wanted, candidate: State, incumbent: State) -> list[Gate]:
        listed = set(want.held.head.update_ids) if want.held.head else set()
        inside = {u.memory_id for u in want.held.stored if u.id in listed}
        probes = guard.stratified(
            probes_of([one for one in want.lessons if one.memory.id in inside]), self.settings.probes
        )
        before, after = (guard.answered(self.learner, probes, state) for state in (incumbent, candidate))
        return [
            guard.canary(self.learner, candidate, incumbent, self.settings),
            guard.retention(before, after, self.settings),
        ]

    def plan(self, wanted: Sequence[Wanted]) -> list[Change]:
        """The changes that bring each user's weights to what is wanted, ungated."""
        drafts = [self._draft(want) for want in wanted]
        for (change, _), want in zip(drafts, wanted, strict=True):
            self._promote(change, want)
        for level in reversed(LEVELS):
            busy = [i for i, (_, new) in enumerate(drafts) if any(one.level == level for one in new)]
            if not busy:
                continue
            lessons = [[one for one in drafts[i][1] if one.level == level] for i in busy]
            results = self.learner.write(
                [drafts[i][0].state for i in busy],
                [[example for one in batch for example in _filed(one)] for batch in lessons],
                level,
            )
            for i, batch, (state, updates) in zip(busy, lessons, results, strict=True):
                self._join(drafts[i][0], wanted[i], batch, state, updates)
        for (change, _), want in zip(drafts, wanted, strict=True):
            if self.learner.ordered:
                self._order(change, want)
        return [change for change, _ in drafts]

    def _usable(self, want: Wanted) -> list[WeightUpdate]:
        mine = self.learner.fingerprint
        return [u for u in want.held.stored if u.learner == mine]

    def _draft(self, want: Wanted) -> tuple[Change, list[Lesson]]:
        """Takes out what no longer holds, puts back what holds again, and says what has to be written."""
        fresh = want.held.head is None or want.held.head.learner == self.learner.fingerprint
        unsummed = want.held.head is not None and not want.held.head.digest
        rewrite = want.rewrite or unsummed
        usable = {u.id: u for u in self._usable(want)}
        lessons = {one.key: one for one in want.lessons}
        key_of = _keys(usable.values(), want.lessons)
        listed = (
            [id_ for id_ in want.held.head.update_ids if id_ in usable] if want.held.head and fresh else []
        )
        kept = {
            key_of[id_]: id_
            for id_ in listed
            if key_of[id_] in lessons
            and id_ not in want.held.payloads
            and (not rewrite or usable[id_].examples == lessons[key_of[id_]].pairs)
        }
        # Two memories are asked together once both are held with all their examples.
        short = {
            key[0]
            for key, id_ in kept.items()
            if not key[1] and not _studied(usable[id_], lessons[key].memory)
        }
        lessons = {key: one for key, one in lessons.items() if not (one.joint and short & set(one.needs))}
        kept = {key: id_ for key, id_ in kept.items() if key in lessons}
        gone = [id_ for id_ in listed if kept.get(key_of[id_]) != id_]
        state = self.incumbent(want)
        replayed = 0
        if gone:
            removed = self._loaded(want, [usable[id_] for id_ in gone])
            inside = [id_ for id_ in listed if id_ not in set(gone)]
            remaining = [] if self.learner.additive else self._loaded(want, [usable[id_] for id_ in inside])
            state = self.learner.erase(state, removed, remaining)
            replayed = len(remaining)
        missing = {key: one for key, one in lessons.items() if key not in kept}
        back = {
            key_of[u.id]: u.id
            for u in usable.values()
            if u.id not in want.held.payloads
            and key_of[u.id] in missing
            and u.examples == missing[key_of[u.id]].pairs
        }
        in_head = set(kept.values())
        ids = [*(id_ for id_ in listed if id_ in in_head), *back.values()]
        if back:
            state = self.learner.rebuild(self._loaded(want, [usable[id_] for id_ in ids]))
        wanted_ids = {one.memory.id for one in want.lessons}
        stale = [u.id for u in want.held.stored if u.id not in usable and u.memory_id in wanted_ids]
        change = Change(
            state=state,
            update_ids=tuple(ids),
            dropped=gone,
            returned=list(back.values()),
            replayed=replayed,
            stale=stale,
            rewritten=fresh and unsummed,
        )
        return change, [one for key, one in missing.items() if key not in back]

    def _loaded(self, want: Wanted, updates: Sequence[WeightUpdate]) -> list[StoredUpdate]:
        """The updates with their payloads, in order."""
        payloads = dict(want.held.payloads)
        absent = [u.id for u in updates if u.id not in payloads]
        if absent:
            payloads |= {u.id: u.payload for u in self.ledger.updates(want.scope, ids=absent)}
        missing = [u.id for u in updates if u.id not in payloads]
        if missing:
            raise LedgerCorrupt(
                f"weight updates {missing[:3]} of user {want.scope.user!r} are not stored any more"
            )
        return [_stored(replace(u, payload=payloads[u.id])) for u in updates]

    def _join(
        self, change: Change, want: Wanted, lessons: list[Lesson], state: State, updates: list[Update]
    ) -> None:
        by_file = {u.memory_id: u for u in updates}
        now = self._clock()
        added = []
        for lesson in lessons:
            update = by_file[_file(lesson)]
            added.append(
                WeightUpdate(
                    id=self._new_id("upd"),
                    scope=want.scope,
                    memory_id=lesson.memory.id,
                    event_ids=lesson.events,
                    level=lesson.level,
                    payload=update.payload,
                    digest=update.digest,
                    learner=self.learner.fingerprint,
                    examples=lesson.pairs,
                    created_at=now,
                )
            )
        change.added += added
        change.state = state
        change.update_ids = (*change.update_ids, *(u.id for u in added))

    def _order(self, change: Change, want: Wanted) -> None:
        """Where order matters, the weights are those of the memories in the order they were told: whatever was
        forgotten, came back or arrived late."""
        stored = {u.id: u for u in (*want.held.stored, *change.added)}
        key_of = _keys(stored.values(), want.lessons)
        told = {one.key: one.told for one in want.lessons}
        ordered = sorted(change.update_ids, key=lambda id_: (told[key_of[id_]], key_of[id_][1]))
        if tuple(ordered) == change.update_ids:
            return
        moved_to = {id_: target for target, ids in change.moved.items() for id_ in ids}
        new = {u.id: u for u in change.added}
        old = [stored[id_] for id_ in ordered if id_ not in new]
        loaded = {u.id: part for u, part in zip(old, self._loaded(want, old), strict=True)}
        parts = [loaded.get(id_) or _stored(new[id_]) for id_ in ordered]
        parts = [
            part._replace(level=moved_to.get(id_, part.level))
            for id_, part in zip(ordered, parts, strict=True)
        ]
        change.state = self.learner.rebuild(parts)
        change.update_ids = tuple(ordered)
        change.replayed = len(ordered)
        change.rewritten = True

    def _promote(self, change: Change, want: Wanted) -> None:
        """Moves updates to the level where their clock puts them. A move to the medium level that was refused is not
        tried again until there is more to move."""
        if want.stay:
            return
        stored = {u.id: u for u in want.held.stored}
        key_of = _keys(stored.values(), want.lessons)
        level_of = {one.key: one.level for one in want.lessons}
        for target in LEVELS:
            moving = [
                stored[id_]
                for id_ in change.update_ids
                if level_of[key_of[id_]] == target and stored[id_].level != target
            ]
            ids = [u.id for u in moving]
            if ids and not (target == "medium" and self._refused_naps.get(want.scope.owner) == set(ids)):
                change.state = self.learner.promote(change.state, self._loaded(want, moving), target)
                change.moved[target] = ids

    def of_version(
        self, scope: Scope, version: WeightVersion, *, memory_ids: set[str] | None = None
    ) -> Change:
        """The weights of an older version, each update in the level where it is by now; of these memories alone
        when they are given."""
        ids = version.update_ids
        if memory_ids is not None:
            found = self.ledger.updates(scope, ids=ids, payloads=False)
            kept = {u.id for u in found if u.memory_id in memory_ids}
            ids = tuple(id_ for id_ in ids if id_ in kept)
        return Change(state=self.learner.rebuild(self._parts(scope, ids)), update_ids=ids)

    # Committing.

    def commit(
        self,
        scope: Scope,
        change: Change,
        reason: str,
        *,
        kind: str = "write",
        detail: Mapping[str, Any] = {},
    ) -> WeightVersion:
        """Writes a change as the new head, with its report; to be called inside the ledger's transaction."""
        head = self.ledger.head(scope)
        if change.stale:
            self.ledger.delete_updates(scope, change.stale)
        self.ledger.add_updates(scope, change.added)
        for target, ids in change.moved.items():
            if ids:
                self.ledger.move_updates(scope, ids, target)
        version = WeightVersion(
            id=self._new_id("ver"),
            scope=scope,
            parent=head.id if head else None,
            update_ids=change.update_ids,
            digest=self.learner.digest(change.state),
            learner=self.learner.fingerprint,
            reason=reason,
            created_at=self._clock(),
        )
        self.ledger.commit_version(scope, version)
        if saved := self.learner.snapshot(change.state):
            self.ledger.put_snapshot(scope, version.digest, saved)
        self.note(scope, change)
        nap = kind == "write" and bool(change.moved.get("medium"))
        counts = {
            "added": len(change.added),
            "dropped": len(change.dropped),
            "returned": len(change.returned),
            "moved": {level: len(ids) for level, ids in change.moved.items()},
            "gates": [gate.plain() for gate in change.gates],
        }
        self.report(scope, version.id, "nap" if nap else kind, "committed", {**counts, **detail})
        return version

    def note(self, scope: Scope, change: Change) -> None:
        """Notes what gates kept out or let in, and the candidates they refused; inside a transaction."""
        if change.refused:
            self.ledger.keep_out(scope, change.refused, self._clock())
        if change.let_in:
            self.ledger.let_in(scope, change.let_in)
        for kind, outcome, detail in change.reports:
            self.report(scope, None, kind, outcome, detail)

    def report(
        self, scope: Scope, version_id: str | None, kind: str, outcome: str, detail: dict[str, Any]
    ) -> None:
        """Stores a report; `detail` holds no text of the user."""
        self.ledger.add_report(
            scope,
            Report(
                id=self._new_id("rep"),
                scope=scope,
                version_id=version_id,
                kind=kind,
                outcome=outcome,
                detail=detail,
                created_at=self._clock(),
            ),
        )

    def committed(self, scope: Scope, version: WeightVersion, state: State) -> None:
        """Keeps the state of a version whose transaction has ended well."""
        self._remember(scope, version, state)


def probes_of(lessons: Iterable[Lesson]) -> list[study.Probe]:
    """The held-out questions of lessons, oldest first."""
    ordered = sorted((one for one in lessons if not one.joint), key=lambda one: one.told)
    return [probe for one in ordered if (probe := study.probe(one.memory)) is not None]


def _keys(updates: Iterable[WeightUpdate], lessons: Sequence[Lesson]) -> dict[str, Key]:
    """Update id -> the key of its lesson. The first prompt of a memory's own update is the memory's question."""
    questions = {one.memory.id: one.memory.question for one in lessons}
    found: dict[str, Key] = {}
    for update in updates:
        prompt = update.examples[0]["prompt"] if update.examples else ""
        found[update.id] = (update.memory_id, "" if prompt == questions.get(update.memory_id) else prompt)
    return found


def _owner(lesson: Lesson) -> str:
    """Whose memory it is: the first part of its key."""
    return lesson.memory.key.partition("/")[0]


def _studied(update: WeightUpdate, memory: MemoryRecord) -> bool:
    """Whether an update holds what sleep adds to a memory."""
    added = {example.prompt for example in study.more(memory)}
    return added <= {pair["prompt"] for pair in update.examples}


def _file(lesson: Lesson) -> str:
    """The name under which a lesson's examples go to the learner, which makes one update of each."""
    memory_id, prompt = lesson.key
    return f"{memory_id}\n{prompt}" if prompt else memory_id


def _filed(lesson: Lesson) -> list[Example]:
    return [replace(example, memory_id=_file(lesson)) for example in lesson.examples]


def _stored(update: WeightUpdate) -> StoredUpdate:
    level: Level = "slow" if update.level == "slow" else "medium" if update.level == "medium" else "fast"
    return StoredUpdate(
        level, Update(memory_id=update.memory_id, payload=update.payload, digest=update.digest)
    )
