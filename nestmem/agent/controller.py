"""`nestmem.Memory`: observe, recall, learn into weights, answer, explain, forget.

The ledger holds everything that is true; indexes and weights follow from it. What was observed is
durable before `observe` returns. `learn` reads what is pending, in order, and commits memories, what they
supersede, weight updates and the new weight version of a user in one transaction.
"""

from __future__ import annotations

import platform
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from nestmem.agent import answering, chains, extract, prompts, selectors, speech, transfer
from nestmem.agent.chains import Clocks
from nestmem.agent.guard import TRUSTED, GuardSettings, commands
from nestmem.agent.live import Live, asked_about
from nestmem.agent.messages import Message, check_messages, parse_time
from nestmem.agent.recall import Context
from nestmem.agent.recall import recall as recall_text
from nestmem.agent.sleep import Sleeper, SleepReport, account
from nestmem.agent.types import (
    ARMS,
    LLM,
    Answer,
    Arm,
    Embedder,
    Learner,
    LearnReport,
    Reply,
    State,
    Step,
    Why,
)
from nestmem.agent.weights import Change, WeightBook
from nestmem.errors import BaseChanged, InputError, LedgerCorrupt, LedgerLocked, LedgerReadOnly, LLMError
from nestmem.store import Ledger
from nestmem.store.records import (
    Event,
    MemoryRecord,
    NewEvent,
    Receipt,
    Report,
    Scope,
    WeightVersion,
    Work,
    utc_now,
)

Messages = str | Mapping[str, Any] | Message | Sequence[str | Mapping[str, Any] | Message]
ATTEMPTS = 3
WENT_BACK = ("restored", "rolled back")
"""How the reasons of versions begin that made an older one the head."""


def random_id(kind: str) -> str:
    """A fresh id such as "mem_3f2a..."."""
    return f"{kind}_{uuid.uuid4().hex}"


@dataclass(kw_only=True)
class _Lesson:
    """What one user's pending events came to, before anything of it is stored."""

    scope: Scope
    work: list[Work]
    seen: tuple[object, ...]
    records: list[MemoryRecord] = field(default_factory=list)
    depends: list[tuple[str, str]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    forgets: list[tuple[str, str]] = field(default_factory=list)
    links: list[chains.Link] = field(default_factory=list)
    active: list[MemoryRecord] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    skipped: int = 0
    commands: list[str] = field(default_factory=list)
    waiting: int = 0


class Memory:
    """The memory of an agent, in one ledger, for any number of users.

    learner: the model whose weights learn (None: text memory only). embedder: adds meaning to recall.
    llm: an endpoint that reads the text arm and turns open statements into questions. A `scope` argument
    is a Scope or the name of a user; None is the default user. clocks: when a memory leaves the fast level.
    guard: the limits of the gates before the weights. scope_margin: how much the weights must answer to a question
    (about 1 for what is like something written, 0 for what is not) before they are asked. `touched` is when the
    memory was last told or asked something, in seconds of `time.monotonic`.

    >>> from nestmem.store import Ledger
    >>> memory = Memory(Ledger(":memory:"))
    >>> _ = memory.observe("My dog is called Biscuit.")
    >>> memory.learn().learned
    ("your dog's name is Biscuit",)
    >>> memory.answer("What is the name of my dog?").text
    'Biscuit'
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        learner: Learner | None = None,
        embedder: Embedder | None = None,
        llm: LLM | None = None,
        clock: Callable[[], datetime] = utc_now,
        new_id: Callable[[str], str] = random_id,
        clocks: Clocks | None = None,
        guard: GuardSettings | None = None,
        scope_margin: float = answering.MARGIN,
    ) -> None:
        self.ledger = ledger
        self.learner = learner
        self.embedder = embedder
        self.llm = llm
        self._clock = clock
        self._new_id = new_id
        self.touched = time.monotonic()
        self._drafts: dict[str, list[tuple[str, str]]] = {}
        self._scope_margin = scope_margin
        settings = guard or GuardSettings()
        self._live = Live(settings)
        self._sleeper = Sleeper(self, new_id("sleeper"))
        self._book = (
            WeightBook(
                ledger, learner, clock=clock, new_id=new_id, clocks=clocks or Clocks(), settings=settings
            )
            if learner
            else None
        )

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    @property
    def weights(self) -> WeightBook | None:
        """The weights of all users, None without a learner."""
        return self._book

    @property
    def sleeper(self) -> Sleeper:
        """Who sleeps for the users of this memory."""
        return self._sleeper

    def now(self) -> datetime:
        """The present moment by this memory's clock."""
        return self._clock()

    def close(self) -> None:
        """Closes the ledger."""
        self.ledger.close()

    # Observing and recalling.

    def observe(
        self,
        messages: Messages,
        scope: Scope | str | None = None,
        *,
        occurred_at: datetime | str | None = None,
        source: str = "user",
    ) -> list[str]:
        """Stores messages and returns their event ids. Durable before it returns; asks no model.

        messages: a text (of the user), a message {"role", "content", "name", "timestamp", ...}, or a list.
        occurred_at: when they were said, for those that do not say it themselves; by default the moment of
        recording. source: "user", "import", or "tool" and "web", which are recalled and never learned.
        All or nothing: InputError when any message cannot be stored.
        """
        self.touched = time.monotonic()
        checked = check_messages(messages, occurred_at=occurred_at)
        stored = self.ledger.append(_scope(scope), [_new_event(m, source) for m in checked])
        return [event.id for event in stored]

    def recall(
        self,
        query: str,
        scope: Scope | str | None = None,
        *,
        budget_tokens: int = 2000,
        as_of: datetime | str | None = None,
        at: datetime | str | None = None,
        explain: bool = False,
    ) -> Context:
        """What the ledger holds about `query`, packed into `budget_tokens`, with dates and sources.

        as_of: what was believed at that time. at: what was true at that time. Asks no model.
        """
        if not isinstance(query, str) or not query.strip():
            raise InputError(f"recall was asked {query!r}; expected a text")
        if budget_tokens <= 0:
            raise InputError(f"budget_tokens is {budget_tokens}, expected at least 1")
        return recall_text(
            self.ledger,
            self.embedder,
            _scope(scope),
            query,
            budget_tokens=budget_tokens,
            as_of=parse_time(as_of, "as_of"),
            at=parse_time(at, "at"),
            explain=explain,
        )

    # Answering.

    def _reading_tokens(self) -> int:
        own = self.learner is not None and self.llm is None
        return self.learner.reading_tokens if own and self.learner else 500

    def answer(
        self,
        question: str,
        scope: Scope | str | None = None,
        *,
        arm: Arm = "both",
        budget_tokens: int | None = None,
        max_new_tokens: int = 32,
        exclude: Iterable[str] = (),
        note: bool = True,
    ) -> Answer:
        """Answers from memory and says which half of it spoke.

        arm: "none" (the model alone), "text" (recalled text in the prompt, no weights), "weights" (no text),
        "both". budget_tokens: of recalled text; by default what the reader reads well, 500 without a model.
        exclude: event ids that recall must not quote (the question itself, in a chat).
        note: whether the use of memories is counted and the live guard sees the answer; without, the answer
        changes nothing that a later one depends on.
        """
        if arm not in ARMS:
            raise InputError(f"arm is {arm!r}, expected one of {', '.join(ARMS)}")
        started, self.touched = time.perf_counter(), time.monotonic()
        where, hidden = _scope(scope), frozenset(exclude)
        budget = self._reading_tokens() if budget_tokens is None else budget_tokens
        if budget <= 0:
            raise InputError(f"budget_tokens is {budget}, expected at least 1")
        state, version = self._weights(where) if arm in ("weights", "both") else (None, None)
        lines, sources = [], []
        if arm in ("text", "both"):
            context = self.recall(question, where, budget_tokens=budget)
            lines, sources = answering.quotable(context, hidden)
        holding = told = self.ledger.memories(where.owner)
        if where.session is not None:
            inside = {e.id for e in self.ledger.events(where)}
            told = [m for m in told if m.event_id in inside]
        told = [m for m in told if m.event_id not in hidden]
        reader = answering.Reader(
            learner=self.learner, llm=self.llm, max_new_tokens=max_new_tokens, margin=self._scope_margin
        )
        spoken = reader.answer(question, arm, lines=lines, state=state, memories=told)
        listed = self._listed(where, version) if version and spoken.spoke in ("weights", "both") else set()
        used = answering.supporting(spoken, told, listed)
        events = list(dict.fromkeys([m.event_id for m in used]))
        if not events and spoken.spoke in ("text", "both"):
            events = answering.quoted(spoken.text, sources)
        if note:
            self._note_answer(where.owner, question, spoken, version, used, holding, reader)
        return Answer(
            text=spoken.text,
            spoke=spoken.spoke,
            by=spoken.by,
            sources=events,
            memory_ids=[m.id for m in used],
            tokens=spoken.tokens,
            milliseconds=(time.perf_counter() - started) * 1000,
            version=version.id if version else None,
            arm=arm,
            halves=spoken.halves,
        )

    def _note_answer(
        self,
        owner: Scope,
        question: str,
        spoken: answering.Spoken,
        version: WeightVersion | None,
        used: Sequence[MemoryRecord],
        holding: Sequence[MemoryRecord],
        reader: answering.Reader,
    ) -> None:
        """Counts what was used, and on a share of the turns compares with an answer without weights."""
        if version is not None and spoken.spoke == "weights":
            key, right = asked_about(question, spoken.text, holding)
            self._live.answered(owner, version.id, key, spoken.text, right=right)
        else:
            self._live.answered_otherwise(owner)
        if self.ledger.read_only:
            return
        without = None
        if version is not None and self._live.shadows(question):
            alone = spoken.halves.get("text")
            without = alone or reader.answer(question, "none", lines=[], state=None, memories=()).text
        # A count that is lost while another process writes costs less than an answer.
        with suppress(LedgerLocked), self.ledger.transaction():
            if used:
                self.ledger.note_use(owner, [m.id for m in used], self._clock())
            if without is not None and version is not None and self._book is not None:
                detail = {"agrees": speech.same(without, spoken.text), "spoke": spoken.spoke}
                self._book.report(owner, version.id, "shadow", "noted", detail)

    def _weights(self, scope: Scope) -> tuple[State | None, WeightVersion | None]:
        """The user's weights, learned again first when the stored ones were made for another model."""
        if self._book is None:
            return None, None
        owner = scope.owner
        if not self._book.current(owner):
            self._relearn(owner)
        return self._book.state(owner)

    def _relearn(self, owner: Scope) -> None:
        assert self._book is not None
        try:
            for _ in range(ATTEMPTS):
                lesson = self._read_pending(owner, work=[])
                try:
                    [change] = self._plan([lesson])
                except LedgerCorrupt:
                    if self._seen(owner) == lesson.seen:
                        raise
                    continue
                if self._commit_relearned(lesson, change):
                    return
            with self.ledger.transaction():
                lesson = self._read_pending(owner, work=[])
                [change] = self._plan([lesson])
                self._commit_relearned(lesson, change)
        except LedgerReadOnly as error:
            head = self.ledger.head(owner)
            if head is None or head.learner == self._book.learner.fingerprint:
                return
            raise BaseChanged(
                f"the stored weights of user {owner.user!r} were made by another model or write rule, and this ledger "
                "is read-only; open it once for writing to learn them again, or open it with the model they belong to"
            ) from error

    def _commit_relearned(self, lesson: _Lesson, change: Change | None) -> bool:
        """Stores weights that were learned again. False when the memory changed meanwhile."""
        assert self._book is not None
        assert change is not None
        owner = lesson.scope
        with self.ledger.transaction():
            if self._seen(owner) != lesson.seen:
                return False
            version = self._book.commit(owner, change, "learned again with this model and rule")
        self._book.committed(owner, version, change.state)
        return True

    def _listed(self, scope: Scope, version: WeightVersion) -> set[str]:
        """Ids of the memories whose updates are in a version."""
        return {u.memory_id for u in self.ledger.updates(scope.owner, ids=version.update_ids, payloads=False)}

    # Learning.

    def learn(self, scope: Scope | str | None = None) -> LearnReport:
        """Learns what is pending of one user. Work that fails stays pending, with its error in `status`."""
        return self.learn_many([_scope(scope)])[0]

    def learn_many(self, scopes: Iterable[Scope | str]) -> list[LearnReport]:
        """The same for several users: one batched weight write for all, one transaction for each."""
        owners = list(dict.fromkeys(_scope(s).owner for s in scopes))
        started = time.perf_counter()
        reports: dict[Scope, LearnReport] = {}
        waiting = owners
        try:
            self._draft(owners)
            for _ in range(ATTEMPTS):
                reports |= self._attempt(waiting)
                waiting = [owner for owner in waiting if owner not in reports]
            for owner in waiting:
                with self.ledger.transaction():
                    lesson = self._read_pending(owner)
                    report = self._commit(lesson, self._plan([lesson])[0])
                assert report is not None
                reports[owner] = report
        finally:
            self._drafts = {}
        took = (time.perf_counter() - started) * 1000
        return [LearnReport(**{**vars(reports[owner]), "ms": took}) for owner in owners]

    def _attempt(self, owners: list[Scope]) -> dict[Scope, LearnReport]:
        """Learns what is pending of each; those whose memory changed meanwhile are left out."""
        lessons = [self._read_pending(owner) for owner in owners]
        try:
            changes = self._plan(lessons)
        except LedgerCorrupt:
            if all(self._seen(lesson.scope) == lesson.seen for lesson in lessons):
                raise
            return {}
        reports = {lesson.scope: self._commit(lesson, c) for lesson, c in zip(lessons, changes, strict=True)}
        return {owner: report for owner, report in reports.items() if report is not None}

    def _read_pending(self, owner: Scope, *, work: list[Work] | None = None) -> _Lesson:
        """Extracts the pending events of a user, in the order they were said. Stores nothing."""
        seen = self._seen(owner)
        work = self.ledger.pending(owner) if work is None else work
        lesson = _Lesson(scope=owner, work=work, seen=seen)
        events = {e.id: e for e in self.ledger.events(owner, ids=[w.event_id for w in work])}
        lesson.work = work = [w for w in work if w.event_id in events]
        earlier = self._in_order(owner, events) if work else []
        held: dict[str, MemoryRecord] = {}
        place = 0
        for item in sorted(work, key=lambda w: (events[w.event_id].when, events[w.event_id].seq)):
            event = events[item.event_id]
            while place < len(earlier) and earlier[place][0] < (event.when, event.seq):
                _hold(held, earlier[place][1])
                place += 1
            self._read_event(lesson, item, event, held)
        self._settle(lesson)
        return lesson

    def _in_order(
        self, owner: Scope, events: Mapping[str, Event]
    ) -> list[tuple[tuple[datetime, int], MemoryRecord]]:
        """All memories in the order they were said, with their places in it. An event is read with what was held
        when it was said, so that reading it again later, after a forget, comes to the same."""
        memories = self.ledger.memories(owner, active_only=False)
        moments = {e.when for e in events.values()}
        tied = {m.event_id for m in memories if m.valid_from in moments}
        seq = {e.id: e.seq for e in self.ledger.events(owner, ids=tied)} if tied else {}
        placed = [((m.valid_from, seq.get(m.event_id, 0)), m) for m in memories]
        return sorted(placed, key=lambda pair: pair[0])

    def _seen(self, owner: Scope) -> tuple[object, ...]:
        """What tells whether somebody else told, learned or forgot something meanwhile."""
        head = self.ledger.head(owner)
        changes = self.ledger.changes(owner)
        return (changes, head.id if head else None, *((w.id, w.attempts) for w in self.ledger.pending(owner)))

    def _read_event(self, lesson: _Lesson, work: Work, event: Event, held: dict[str, MemoryRecord]) -> None:
        if event.role != "user" or event.source not in TRUSTED or commands(event.content):
            lesson.skipped += 1
            if event.role == "user" and event.source in TRUSTED:
                lesson.commands.append(event.id)
            lesson.done.append(work.id)
            return
        lesson.said.append(event.content)
        speaker = event.name if event.meta.get("group") else None
        found = extract.extract(event.content, speaker=speaker, known=_known(held.values()))
        lesson.forgets += [(event.id, request.what) for request in found.forgets]
        stored = {
            (m.key, m.answer)
            for m in self.ledger.memories(lesson.scope, active_only=False, event_ids=[event.id])
        }
        try:
            items = self._written(found.items)
        except LLMError as error:
            lesson.errors[work.id] = str(error)
            items = [(item, "rules") for item in found.items if item.question or item.ends]
        else:
            lesson.done.append(work.id)
        before = dict(held)
        for item, by in items:
            if (item.key, item.answer) in stored:
                continue
            record = self._record(lesson.scope, event, item, by)
            lesson.waiting += item.question is None and not item.ends
            needs = dict.fromkeys((*item.depends, item.key) if item.ends else item.depends)
            lesson.depends += [(record.id, before[key].id) for key in needs if key in before]
            lesson.records.append(record)
            _hold(held, record)

    def _written(self, items: Sequence[extract.Item]) -> list[tuple[extract.Item, str]]:
        """The items with who read them; open ones turned into questions and answers by the writer, if there is one.

        Raises LLMError.
        """
        result: list[tuple[extract.Item, str]] = []
        for item in items:
            if item.question or item.ends:
                result.append((item, "rules"))
                continue
            pairs = prompts.grounded(self._pairs(item.text), item.text)
            by = "llm" if self.llm is not None else "writer"
            if by == "writer":
                pairs = prompts.affirmed(pairs, item.text)
            result += [(_written_item(item, q, a, by), by) for q, a in pairs] or [(item, "rules")]
        return result

    def _pairs(self, statement: str) -> list[tuple[str, str]]:
        if self.llm is not None:
            return prompts.parse_llm_pairs(self.llm.chat(prompts.llm_writer_chat(statement)))
        if self.learner is not None:
            drafted = self._drafts.get(statement)
            written = self.learner.questions([statement])[0] if drafted is None else drafted
            return [p for p in written if p[0].strip().endswith("?")]
        return []

    def _draft(self, owners: Sequence[Scope]) -> None:
        """Lets the learner write about everybody's open statements in one batch. What it writes of one statement
        depends on that statement alone, so this saves time and changes nothing."""
        self._drafts = {}
        if self.learner is None or self.llm is not None:
            return
        waiting: dict[str, None] = {}
        for owner in owners:
            for event in self.ledger.events(owner, ids=[w.event_id for w in self.ledger.pending(owner)]):
                if event.role == "user" and event.source in TRUSTED:
                    items = extract.extract(event.content).items
                    waiting |= {item.text: None for item in items if not item.question and not item.ends}
        self._drafts = dict(zip(waiting, self.learner.questions(list(waiting)), strict=True))

    def _record(self, scope: Scope, event: Event, item: extract.Item, by: str) -> MemoryRecord:
        what = "ends" if item.ends else "open" if item.question is None else "fact"
        return MemoryRecord(
            id=self._new_id("mem"),
            scope=event.scope,
            key=item.key,
            text=item.text,
            question=item.question,
            answer=item.answer,
            kind=item.kind,
            event_id=event.id,
            span=item.span,
            valid_from=event.when,
            believed_from=event.recorded_at,
            extractor=f"{extract.VERSION if by == 'rules' else by}/{what}",
        )

    def _settle(self, lesson: _Lesson) -> None:
        """Works out which memories hold once the new ones have joined."""
        owner = lesson.scope
        keys = {r.key for r in lesson.records}
        old = self.ledger.memories(owner, active_only=False, keys=keys) if keys else []
        sources = {m.event_id for m in (*old, *lesson.records)}
        seq = {e.id: e.seq for e in self.ledger.events(owner, ids=sources)} if sources else {}
        lesson.links = chains.links(old, lesson.records, seq)
        over = {link.old for link in lesson.links}
        active = [*self.ledger.memories(owner), *lesson.records]
        lesson.active = [m for m in active if m.id not in over]

    def _plan(self, lessons: list[_Lesson]) -> Sequence[Change | None]:
        """What is to happen to the weights; None for each lesson when there is no model."""
        if self._book is None:
            return [None] * len(lessons)
        busy = [lesson for lesson in lessons if lesson.work or not self._went_back(lesson.scope)]
        wanted = []
        for lesson in busy:
            sources = self.ledger.events(lesson.scope, ids={m.event_id for m in lesson.active})
            held = self._book.held(lesson.scope)
            events = {e.id: e for e in sources}
            wanted.append(self._book.wanted(lesson.scope, lesson.active, events, held=held))
        changes = dict(zip((lesson.scope for lesson in busy), self._book.decide(wanted), strict=True))
        return [changes.get(lesson.scope) for lesson in lessons]

    def _went_back(self, owner: Scope) -> bool:
        """Whether the head is an older version that was made the head again. It stays as it is until something new
        is told."""
        head = self.ledger.head(owner)
        if head is None or self._book is None:
            return False
        return head.learner == self._book.learner.fingerprint and head.reason.startswith(WENT_BACK)

    def _commit(self, lesson: _Lesson, change: Change | None) -> LearnReport | None:
        """Stores a lesson in one transaction. None when the memory changed meanwhile: it is read again."""
        owner, version = lesson.scope, None
        with self.ledger.transaction():
            if self._seen(owner) != lesson.seen:
                return None
            self.ledger.add_memories(owner, lesson.records)
            for src, dst in lesson.depends:
                self.ledger.add_edge(owner, src, dst, "depends_on")
            for link in lesson.links:
                self.ledger.supersede(owner, link.old, link.new, link.at, link.believed_to)
            self.ledger.done(lesson.done)
            if lesson.commands and self._book:
                gate = {"gate": "instruction", "passed": False}
                self._book.report(
                    owner, None, "write", "refused", {"gates": [gate], "events": lesson.commands}
                )
            for work_id, error in lesson.errors.items():
                self.ledger.failed(work_id, error)
            if change is not None and change.changes and self._book:
                version = self._book.commit(owner, change, "learned")
            elif change is not None and change.notes and self._book:
                self._book.note(owner, change)
        if version is not None and change is not None and self._book:
            self._book.committed(owner, version, change.state)
        values = [(record.key, record.answer) for record in lesson.records if record.answer]
        corrected = self._live.told(owner, values, lesson.said)
        rolled_back = self._roll_back(owner) if corrected else None
        return self._report(lesson, change, rolled_back or version)

    def _roll_back(self, owner: Scope) -> WeightVersion | None:
        """Goes back to the last good version when the user put too many answers from weights right."""
        gate = self._live.gate(owner)
        if gate.passed or self._book is None:
            return None
        with self.ledger.transaction():
            good = self._live.last_good(owner, self.ledger.versions(owner))
            detail = {"gates": [gate.plain()]}
            if good is None:
                self._book.report(owner, None, "rollback", "refused", detail | {"why": "no older version"})
                return None
            holds = {m.id for m in self.ledger.memories(owner)}
            change = self._book.of_version(owner, good, memory_ids=holds)
            reason = f"rolled back to {good.id}"
            version = self._book.commit(
                owner, change, reason, kind="rollback", detail=detail | {"to": good.id}
            )
        self._book.committed(owner, version, change.state)
        self._live.clear(owner)
        return version

    def _report(self, lesson: _Lesson, change: Change | None, version: WeightVersion | None) -> LearnReport:
        head = version or self.ledger.head(lesson.scope)
        told = [r for r in lesson.records if r.question and r.answer]
        return LearnReport(
            events=len(lesson.work),
            memories=len(lesson.records),
            superseded=len({link.old for link in lesson.links}),
            updates=len(change.added) if change else 0,
            promoted=sum(len(ids) for ids in change.moved.values()) if change else 0,
            skipped=lesson.skipped,
            waiting=lesson.waiting,
            failed=len(lesson.errors),
            errors=tuple(dict.fromkeys(lesson.errors.values())),
            forget_requests=tuple(lesson.forgets),
            kept_out=len(change.refused) if change else 0,
            learned=tuple(speech.acknowledge(r.question or "", r.answer or "") for r in told),
            version=head.id if head else None,
            digest=head.digest if head else None,
        )

    # Explaining.

    def why(self, id: str, scope: Scope | str | None = None) -> Why:
        """Where an event, memory, weight update or weight version came from, and what it led to."""
        owner = _scope(scope).owner
        memories = self.ledger.memories(owner, active_only=False)
        updates = self.ledger.updates(owner, payloads=False)
        version = next((v for v in self.ledger.versions(owner) if v.id == id), None)
        if version is not None:
            updates = [u for u in updates if u.id in version.update_ids]
            memories = [m for m in memories if m.id in {u.memory_id for u in updates}]
        else:
            chosen = {u.memory_id for u in updates if u.id == id} | {
                m.id for m in memories if id in (m.id, m.event_id)
            }
            memories = [m for m in memories if m.id in chosen]
            updates = [u for u in updates if u.memory_id in chosen]
        sources = self.ledger.events(owner, ids={m.event_id for m in memories} | {id})
        if not sources and version is None:
            raise InputError(
                f"nothing of user {owner.user!r} has the id {id!r}; it may be forgotten, or another user's"
            )
        steps = [
            Step(kind="event", id=e.id, text=f"({e.when:%Y-%m-%d}) {e.speaker}: {e.content}") for e in sources
        ]
        steps += [Step(kind="memory", id=m.id, text=_described(m)) for m in memories]
        listed = set(head.update_ids) if (head := self.ledger.head(owner)) else set()
        steps += [
            Step(
                kind="update",
                id=u.id,
                text=f"{u.level} weights, {'in' if u.id in listed else 'not in'} the head",
            )
            for u in updates
        ]
        versions = [v for v in self.ledger.versions(owner) if {u.id for u in updates} & set(v.update_ids)]
        steps += [
            Step(kind="version", id=v.id, text=f"{v.reason}, {len(v.update_ids)} updates, {v.digest[:12]}")
            for v in versions[-1:]
        ]
        return Why(id=id, sources=[e.id for e in sources], steps=steps)

    # Forgetting.

    def forget(self, selector: Any, scope: Scope | str | None = None, *, dry_run: bool = False) -> Receipt:
        """Removes events, all that came from them, and what they put into the weights.

        selector: an event id, a memory id, a list of them, {"session": id}, {"text": "what to find"}, or
        "everything". The weights end up bit-identical to a life without the events. The receipt holds ids,
        counts and digests, never the text. With dry_run nothing is removed and `environment["would_remove"]`
        lists what would go. InputError when nothing matches, or several things do.
        """
        where = _scope(scope)
        event_ids = selectors.select(self.ledger, where, selector)
        if dry_run:
            return self._rehearse(where.owner, selector, event_ids)
        receipt, requeued = self._forget(where.owner, selector, event_ids)
        if requeued:
            self.learn(where.owner)
        return receipt

    def _rehearse(self, owner: Scope, selector: Any, event_ids: list[str]) -> Receipt:
        plan = self.ledger.forget_plan(owner, event_ids)
        removed = {"events": len(plan.event_ids), "memories": len(plan.memory_ids)}
        removed |= {"updates": len(plan.update_ids), "versions": len(plan.version_ids)}
        texts = [f"{e.id}: {e.content}" for e in self.ledger.events(owner, ids=plan.event_ids)]
        back = [m.text for m in self.ledger.memories(owner, active_only=False) if m.id in plan.restored_ids]
        head = self.ledger.head(owner)
        return Receipt(
            id="dry-run",
            scope=owner,
            selector=selectors.without_text(selector),
            removed=removed,
            event_ids=plan.event_ids,
            digest_before=head.digest if head else None,
            digest_after=None,
            replayed=0,
            created_at=self._clock(),
            environment={"dry_run": True, "would_remove": texts, "would_hold_again": back},
        )

    def _forget(self, owner: Scope, selector: Any, event_ids: list[str]) -> tuple[Receipt, bool]:
        book, change, version = self._book, None, None
        with self.ledger.transaction():
            head = self.ledger.head(owner)
            if book is not None and not book.current(owner):
                book = None
            plan = self.ledger.forget_plan(owner, event_ids)
            held = book.held(owner, going=plan.update_ids) if book else None
            if book:
                book.state(owner)
            removed = self.ledger.forget(owner, event_ids)
            if book is not None and held is not None:
                active = self.ledger.memories(owner)
                events = {e.id: e for e in self.ledger.events(owner, ids={m.event_id for m in active})}
                again = [*plan.restored_ids, *book.anew(owner, held)]
                want = book.wanted(owner, active, events, held=held, again=again)
                [change] = book.decide([want])
                if change.changes or plan.version_ids:
                    version = book.commit(owner, change, "forgot", kind="forget")
                else:
                    book.note(owner, change)
            elif head is not None and (plan.update_ids or plan.restored_ids):
                version = self._untouched_version(owner, head, set(plan.update_ids), plan.restored_ids)
            receipt = self._receipt(owner, selector, plan.event_ids, removed, head, version or head, change)
            self.ledger.add_receipt(owner, receipt)
        self._drafts = {}
        self._live.clear(owner)
        if self._book is not None:
            self._book.drop(owner)
        if book is not None and version is not None and change is not None:
            book.committed(owner, version, change.state)
        return receipt, bool(plan.requeued_event_ids)

    def _untouched_version(
        self, owner: Scope, head: WeightVersion, gone: set[str], restored: Sequence[str]
    ) -> WeightVersion:
        """The head without some updates and with those of the memories that hold again, when the model that could
        add them up is not here. Its digest is left empty, so that the first use with that model adds them up; what
        of another model is stored of a restored memory goes, so that it counts as new."""
        stored = self.ledger.updates(owner, memory_ids=restored, payloads=False) if restored else []
        back = {u.memory_id: u.id for u in stored if u.learner == head.learner}
        self.ledger.delete_updates(owner, [u.id for u in stored if u.memory_id not in back])
        kept = [id_ for id_ in head.update_ids if id_ not in gone]
        remaining = self.ledger.head(owner)
        version = WeightVersion(
            id=self._new_id("ver"),
            scope=owner,
            parent=remaining.id if remaining else None,
            update_ids=tuple(dict.fromkeys([*kept, *back.values()])),
            digest="",
            learner=head.learner,
            reason="forgot",
            created_at=self._clock(),
        )
        self.ledger.commit_version(owner, version)
        return version

    def _receipt(
        self,
        owner: Scope,
        selector: Any,
        event_ids: tuple[str, ...],
        removed: dict[str, int],
        before: WeightVersion | None,
        after: WeightVersion | None,
        change: Change | None,
    ) -> Receipt:
        learner = self.learner
        return Receipt(
            id=self._new_id("rcp"),
            scope=owner,
            selector=selectors.without_text(selector),
            removed=removed,
            event_ids=event_ids,
            digest_before=before.digest if before else None,
            digest_after=after.digest if after else None,
            replayed=change.replayed if change else 0,
            created_at=self._clock(),
            environment={
                "python": platform.python_version(),
                "learner": learner.fingerprint if learner else None,
                "rule": learner.rule if learner else None,
            },
        )

    # Status, versions, moving house.

    def status(self, scope: Scope | str | None = None) -> dict[str, Any]:
        """Counts of what is stored and of what is still to be learned, with the errors of failed attempts."""
        owner = _scope(scope).owner
        pending = self.ledger.pending(owner)
        head = self.ledger.head(owner)
        open_items = [m for m in self.ledger.memories(owner) if m.extractor.endswith("/open")]
        return {
            **self.ledger.status(owner),
            "pending": len(pending),
            "failed": sum(w.attempts > 0 for w in pending),
            "errors": sorted({w.last_error for w in pending if w.last_error}),
            "waiting_for_a_writer": len(open_items),
            "version": head.id if head else None,
            "digest": head.digest if head else None,
            "weights_current": self._book.current(owner) if self._book else None,
            "learner": self.learner.fingerprint if self.learner else None,
            "rule": self.learner.rule if self.learner else None,
            "embedder": self.embedder.name if self.embedder else None,
            "llm": self.llm.name if self.llm else None,
            **account(self.ledger, owner, head),
            "sleep_error": self._sleeper.errors.get(owner),
        }

    def sleep(
        self,
        scope: Scope | str | None = None,
        *,
        now: datetime | None = None,
        on_stage: Callable[[str], None] | None = None,
    ) -> SleepReport:
        """Takes what was learned of a user into the slow level of the weights: see `nestmem.agent.sleep`.

        Learns what is pending first. Never removes a message or a memory. InputError without a model; SleepBusy
        when another sleeper has this user. Interrupted anywhere, nothing is lost and the next sleep goes on.
        """
        return self._sleeper.sleep(_scope(scope).owner, now=now, on_stage=on_stage)

    def reports(self, scope: Scope | str | None = None, version_id: str | None = None) -> list[Report]:
        """What the guard measured at each change of a user's weights, oldest first; of one version when it is given."""
        return self.ledger.reports(_scope(scope).owner, version_id)

    def versions(self, scope: Scope | str | None = None) -> list[WeightVersion]:
        """The weight versions of a user, oldest first."""
        return self.ledger.versions(_scope(scope).owner)

    def restore(self, version_id: str, scope: Scope | str | None = None) -> WeightVersion:
        """Makes the weights of an older version the head again, as a new version. The text memory stays.

        What the older version did not hold stays out of the weights until it is said again.
        """
        owner = _scope(scope).owner
        if self._book is None:
            raise InputError(
                "restoring weights needs the model they belong to; open the memory with model=..."
            )
        with self.ledger.transaction():
            version = next((v for v in self.ledger.versions(owner) if v.id == version_id), None)
            if version is None:
                raise InputError(f"user {owner.user!r} has no weight version {version_id!r}; see versions()")
            if version.learner != self._book.learner.fingerprint:
                raise BaseChanged(
                    f"version {version_id} was made by another model or write rule; open the memory with that one"
                )
            change = self._book.of_version(owner, version)
            restored = self._book.commit(
                owner, change, f"restored {version_id}", kind="rollback", detail={"to": version_id}
            )
        self._book.committed(owner, restored, change.state)
        return restored

    def export(self, path: str | Path, scope: Scope | str | None = None) -> int:
        """Writes a user's events and memories as JSON lines; returns how many lines. Weights are not written:
        they are learned again from the memories, to the same digest under the same model."""
        return transfer.export(self.ledger, _scope(scope).owner, Path(path))

    def import_(self, path: str | Path, scope: Scope | str | None = None) -> int:
        """Reads what `export` wrote into a user's memory; returns how many events are new. Doing it twice
        changes nothing. InputError, with nothing stored, when a line is broken."""
        return transfer.import_(self.ledger, _scope(scope).owner, Path(path))

    # A chat turn.

    def respond(self, message: str, scope: Scope | str | None = None) -> Reply:
        """One turn of a chat: observes and learns the message, then acknowledges, forgets or answers."""
        where = _scope(scope)
        event_ids = self.observe(message, where)
        report = self.learn(where)
        wishes = [what for id_, what in report.forget_requests if id_ in event_ids]
        if wishes:
            return self._respond_forget(wishes, event_ids, where)
        if message.rstrip().endswith("?") or (not report.learned and speech.asks(message)):
            found = self.answer(message, where, exclude=event_ids)
            return Reply(
                text=found.text,
                did="answered",
                event_ids=event_ids,
                learned=list(report.learned),
                answer=found,
            )
        if report.learned:
            return Reply(
                text=f"Noted: {'; '.join(report.learned)}.",
                did="learned",
                event_ids=event_ids,
                learned=list(report.learned),
            )
        return Reply(text="I have kept that.", did="listened", event_ids=event_ids)

    def _respond_forget(self, wishes: list[str], event_ids: list[str], where: Scope) -> Reply:
        """Forgets what was asked for, and the request with it, since it may quote what is to go."""
        removed = 0
        for what in wishes:
            try:
                found = selectors.select(self.ledger, where, {"text": what}, exclude=event_ids)
            except InputError as error:
                return Reply(text=f"I could not forget that: {error}", did="listened", event_ids=event_ids)
            receipt = self.forget([*found, *event_ids], where)
            removed += receipt.removed.get("memories", 0)
            event_ids = []
        noun = "memory" if removed == 1 else "memories"
        return Reply(
            text=f"Forgotten: {removed} {noun}, with the messages and weights behind.",
            did="forgot",
            event_ids=[],
        )

    def stream(self, message: str, scope: Scope | str | None = None) -> Iterator[str]:
        """`respond` in pieces, word by word, for a terminal."""
        text = self.respond(message, scope).text
        for i, word in enumerate(text.split(" ")):
            yield word if i == 0 else f" {word}"


def _scope(scope: Scope | str | None) -> Scope:
    if isinstance(scope, Scope):
        return scope
    if scope is None:
        return Scope()
    if isinstance(scope, str):
        return Scope(user=scope)
    raise InputError(f"the scope is {scope!r}, expected a Scope or the name of a user")


def _new_event(message: Message, source: str) -> NewEvent:
    meta = {**message.meta, **({"group": True} if message.group else {})}
    return NewEvent(
        role=message.role,
        content=message.content,
        occurred_at=message.occurred_at,
        source=message.source or source,
        name=message.name,
        meta=meta,
    )


def _hold(held: dict[str, MemoryRecord], record: MemoryRecord) -> None:
    """Makes a record the one of its key, the newest key last."""
    held.pop(record.key, None)
    held[record.key] = record


def _known(memories: Iterable[MemoryRecord]) -> list[extract.Known]:
    return [
        extract.Known(key=m.key, question=m.question, answer=m.answer, kind=m.kind)  # pyright: ignore[reportArgumentType]
        for m in memories
        if m.answer
    ]


_CHANGE = re.compile(
    r"\b(?:now|nowadays|these days|no longer|any ?more|instead|actually|changed?|switch(?:ed)?|mov(?:ed|ing)|new|"
    r"correction|rather than|used to|since then|turns out|not\b.+\bbut)\b",
    re.IGNORECASE,
)


def _written_item(item: extract.Item, question: str, answer: str, by: str) -> extract.Item:
    """An open item with a question that a model wrote for it.

    A small writer may ask the wrong question, so what it writes replaces an older memory only where the statement
    itself speaks of a change; otherwise both are kept.
    """
    key = speech.key_of_question(question) or f"self/asked/{'_'.join(sorted(speech.content(question)))}"
    replaces = by == "llm" or bool(_CHANGE.search(item.text))
    if not replaces:
        key = f"{key}/{'_'.join(sorted(speech.content(answer)))}"
    return extract.Item(
        span=item.span, text=item.text, key=key, kind=item.kind, functional=replaces, question=question,
        answer=answer, confidence=0.5, depends=item.depends,
    )  # fmt: skip


def _described(memory: MemoryRecord) -> str:
    said = f"{memory.question} {memory.answer}" if memory.question else memory.text
    return f"{said} ({memory.kind}, {memory.key}, {memory.status}, by {memory.extractor})"
