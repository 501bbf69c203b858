"""The weights of users, kept in step with what the ledger holds to be true.

The ledger is the source of truth: a state is rebuilt from the updates of the head version, checked
against its digest, and cached by that digest. Nothing here writes to the ledger except through a
`Change`, which the controller commits in the same transaction as the memories it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from nestmem.agent import chains, extract
from nestmem.agent.types import LEVELS, Example, Learner, Level, State, StoredUpdate, Update
from nestmem.errors import LedgerCorrupt
from nestmem.store import Ledger
from nestmem.store.records import Event, MemoryRecord, Scope, WeightUpdate, WeightVersion

TRUSTED = ("user", "import")


@dataclass(kw_only=True)
class Change:
    """What is to happen to one user's weights: computed first, committed at once."""

    state: State
    update_ids: tuple[str, ...]
    added: list[WeightUpdate] = field(default_factory=list)
    moved: dict[Level, list[str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    replayed: int = 0
    stale: list[str] = field(default_factory=list)
    rewritten: bool = False

    @property
    def changes(self) -> bool:
        """Whether there is anything to commit. `rewritten`: the head is out of order or has no digest yet."""
        moved = any(self.moved.values())
        return bool(self.added or self.dropped or self.returned or moved or self.stale or self.rewritten)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the ledger holds of one user's weights. `stored` come without their payloads; `payloads` has
    those that will be needed after their rows are deleted."""

    head: WeightVersion | None
    stored: list[WeightUpdate]
    payloads: dict[str, bytes] = field(default_factory=dict)


@dataclass(kw_only=True)
class Wanted:
    """What one user's weights should hold: the memories, in order, their source events, and the level of each."""

    scope: Scope
    memories: list[MemoryRecord]
    events: Mapping[str, Event]
    levels: dict[str, Level]
    held: Held


class WeightBook:
    """Reads, plans and caches the weight states of all users of a ledger."""

    def __init__(
        self, ledger: Ledger, learner: Learner, *, clock: Callable[[], datetime], new_id: Callable[[str], str]
    ):
        self.ledger = ledger
        self.learner = learner
        self._clock = clock
        self._new_id = new_id
        self._cache: dict[tuple[Scope, str, str], State] = {}

    # Reading.

    def current(self, scope: Scope) -> bool:
        """False when the stored weights have to be learned again: they were made for another learner, or something
        was learned or forgotten while no learner was there."""
        head = self.ledger.head(scope)
        if head is not None:
            return head.learner == self.learner.fingerprint and bool(head.digest)
        told = [m for m in self.ledger.memories(scope) if m.question and m.answer]
        events = {e.id: e for e in self.ledger.events(scope, ids={m.event_id for m in told})} if told else {}
        return not any(_teachable(m, events) for m in told)

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
        if place not in self._cache:
            state = self.learner.rebuild(self._parts(scope, version.update_ids))
            if version.digest and self.learner.additive and self.learner.digest(state) != version.digest:
                raise LedgerCorrupt(
                    f"weight version {version.id} of user {scope.user!r} does not add up to its digest "
                    f"{version.digest[:12]}; restore a backup of the file, or an older version with restore()"
                )
            self._remember(scope, version, state)
        return self._cache[place]

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
        for place in [p for p in self._cache if p[0] == scope.owner]:
            del self._cache[place]
        self._cache[(scope.owner, version.id, version.digest)] = state

    def drop(self, scope: Scope) -> None:
        """Forgets the cached state of a user."""
        for place in [p for p in self._cache if p[0] == scope.owner]:
            del self._cache[place]

    # Planning.

    def held(self, scope: Scope, *, going: Iterable[str] = ()) -> Held:
        """The head and the updates as they are stored now. `going`: updates whose rows are about to go."""
        ids = list(going)
        payloads = {u.id: u.payload for u in self.ledger.updates(scope, ids=ids)} if ids else {}
        stored = self.ledger.updates(scope, payloads=False)
        return Held(head=self.ledger.head(scope), stored=stored, payloads=payloads)

    def wanted(
        self,
        scope: Scope,
        active: Sequence[MemoryRecord],
        events: Mapping[str, Event],
        *,
        held: Held,
        again: Iterable[str] = (),
    ) -> Wanted:
        """What the weights should hold when `active` are the memories that hold.

        A memory that was once written and is not in the head (an older version was restored) stays out,
        unless its id is in `again`. `events`: the source events of all active memories.
        """
        listed = set(held.head.update_ids) if held.head else set()
        inside = {u.memory_id for u in held.stored if u.id in listed}
        left_out = {u.memory_id for u in held.stored} - inside - set(again) if held.head else set()
        last = self._last_of_sessions(scope)
        kept = [m for m in active if _teachable(m, events) and m.id not in left_out]
        levels: dict[str, Level] = {m.id: chains.level(events[m.event_id], last) for m in kept}
        return Wanted(scope=scope, memories=kept, events=events, levels=levels, held=held)

    def _last_of_sessions(self, scope: Scope) -> dict[str, datetime]:
        found = {}
        for session in self.ledger.sessions(scope):
            newest = self.ledger.events(scope, session=session, last=1)
            if newest:
                found[session] = newest[-1].when
        return found

    def plan(self, wanted: Sequence[Wanted]) -> list[Change]:
        """The changes that bring each user's weights to what is wanted: one batched write for all."""
        drafts = [self._draft(w) for w in wanted]
        lessons = [
            [example for m in new for example in _examples(m, want.events[m.event_id])]
            for (_, new), want in zip(drafts, wanted, strict=True)
        ]
        busy = [i for i, batch in enumerate(lessons) if batch]
        if busy:
            results = self.learner.write(
                [drafts[i][0].state for i in busy], [lessons[i] for i in busy], "fast"
            )
            for i, (state, updates) in zip(busy, results, strict=True):
                self._join(drafts[i][0], wanted[i], drafts[i][1], state, updates)
        for (change, _), want in zip(drafts, wanted, strict=True):
            if not self.learner.additive:
                self._order(change, want)
            self._promote(change, want)
        return [change for change, _ in drafts]

    def _draft(self, want: Wanted) -> tuple[Change, list[MemoryRecord]]:
        """Takes out what no longer holds, puts back what holds again, and says what has to be written."""
        fresh = want.held.head is None or want.held.head.learner == self.learner.fingerprint
        usable = {u.id: u for u in want.held.stored if u.learner == self.learner.fingerprint}
        listed = list(want.held.head.update_ids) if want.held.head and fresh else []
        keep_memories = {m.id for m in want.memories}
        kept = [id_ for id_ in listed if id_ in usable and usable[id_].memory_id in keep_memories]
        gone = [id_ for id_ in listed if id_ in usable and usable[id_].memory_id not in keep_memories]
        state = (
            self._of_version(want.scope, want.held.head) if want.held.head and fresh else self.learner.empty()
        )
        replayed = 0
        if gone:
            removed = self._loaded(want, [usable[id_] for id_ in gone])
            remaining = [] if self.learner.additive else self._loaded(want, [usable[id_] for id_ in kept])
            state = self.learner.erase(state, removed, remaining)
            replayed = len(remaining)
        inside = {usable[id_].memory_id for id_ in kept}
        missing = [m for m in want.memories if m.id not in inside]
        back = {u.memory_id: u for u in usable.values()}
        returning = [back[m.id] for m in missing if m.id in back]
        if returning:
            state = self.learner.rebuild(self._loaded(want, [*(usable[id_] for id_ in kept), *returning]))
        stale = [
            u.id
            for u in want.held.stored
            if u.learner != self.learner.fingerprint and u.memory_id in keep_memories
        ]
        change = Change(
            state=state,
            update_ids=(*kept, *(u.id for u in returning)),
            dropped=gone,
            returned=[u.id for u in returning],
            replayed=replayed,
            stale=stale,
            rewritten=fresh and want.held.head is not None and not want.held.head.digest,
        )
        return change, [m for m in missing if m.id not in {u.memory_id for u in returning}]

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
        self, change: Change, want: Wanted, new: list[MemoryRecord], state: State, updates: list[Update]
    ) -> None:
        by_memory = {u.memory_id: u for u in updates}
        now = self._clock()
        for memory in new:
            update = by_memory[memory.id]
            change.added.append(
                WeightUpdate(
                    id=self._new_id("upd"),
                    scope=want.scope,
                    memory_id=memory.id,
                    event_ids=(memory.event_id,),
                    level="fast",
                    payload=update.payload,
                    digest=update.digest,
                    learner=self.learner.fingerprint,
                    examples=[
                        {"prompt": e.prompt, "completion": e.completion}
                        for e in _examples(memory, want.events[memory.event_id])
                    ],
                    created_at=now,
                )
            )
        change.state = state
        change.update_ids = (*change.update_ids, *(u.id for u in change.added))

    def _order(self, change: Change, want: Wanted) -> None:
        """Where order matters, the weights are those of the memories in the order they were told: whatever was
        forgotten, came back or arrived late."""
        stored = {u.id: u for u in (*want.held.stored, *change.added)}
        told = {}
        for memory in want.memories:
            event = want.events[memory.event_id]
            told[memory.id] = (event.when, event.seq, memory.span, memory.key)
        ordered = sorted(change.update_ids, key=lambda id_: told[stored[id_].memory_id])
        if tuple(ordered) == change.update_ids:
            return
        new = {u.id: u for u in change.added}
        old = [stored[id_] for id_ in ordered if id_ not in new]
        loaded = {u.id: part for u, part in zip(old, self._loaded(want, old), strict=True)}
        change.state = self.learner.rebuild([loaded.get(id_) or _stored(new[id_]) for id_ in ordered])
        change.update_ids = tuple(ordered)
        change.replayed = len(ordered)
        change.rewritten = True

    def _promote(self, change: Change, want: Wanted) -> None:
        """Moves updates to the level where the time since puts them."""
        stored = {u.id: u for u in (*want.held.stored, *change.added)}
        new = {u.id for u in change.added}
        for target in LEVELS:
            moving = [
                stored[id_]
                for id_ in change.update_ids
                if want.levels[stored[id_].memory_id] == target and stored[id_].level != target
            ]
            if moving:
                parts = [_stored(u) for u in moving if u.id in new]
                parts += self._loaded(want, [u for u in moving if u.id not in new])
                change.state = self.learner.promote(change.state, parts, target)
                change.moved.setdefault(target, []).extend(u.id for u in moving)

    def of_version(self, scope: Scope, version: WeightVersion) -> Change:
        """The weights of an older version, each update in the level where it is by now."""
        state = self.learner.rebuild(self._parts(scope, version.update_ids))
        return Change(state=state, update_ids=version.update_ids)

    # Committing.

    def commit(self, scope: Scope, change: Change, reason: str) -> WeightVersion:
        """Writes a change as the new head; to be called inside the ledger's transaction."""
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
        return version

    def committed(self, scope: Scope, version: WeightVersion, state: State) -> None:
        """Keeps the state of a version whose transaction has ended well."""
        self._remember(scope, version, state)


def _teachable(memory: MemoryRecord, events: Mapping[str, Event]) -> bool:
    """Weights learn answered questions of trusted people. What tools and web pages said is never learned."""
    event = events.get(memory.event_id)
    return bool(
        memory.question and memory.answer and event and event.role == "user" and event.source in TRUSTED
    )


def _examples(memory: MemoryRecord, event: Event) -> list[Example]:
    """What the weights learn of a memory: question -> answer, and statement -> answer where it has no other.

    A function of the memory and its event alone: were it to look at the user's other memories, forgetting one of
    those would have to change this one's update.
    """
    assert memory.question and memory.answer
    learned = [Example(memory_id=memory.id, prompt=memory.question, completion=memory.answer)]
    alone = [item for item in extract.extract(event.content).items if item.span == memory.span]
    if len(alone) == 1:
        learned.append(Example(memory_id=memory.id, prompt=memory.text, completion=memory.answer))
    return learned


def _stored(update: WeightUpdate) -> StoredUpdate:
    level: Level = "slow" if update.level == "slow" else "medium" if update.level == "medium" else "fast"
    return StoredUpdate(
        level, Update(memory_id=update.memory_id, payload=update.payload, digest=update.digest)
    )
