"""A nestmem `Memory` that is told the turns of a stream: counted ids, a clock that the turns set, and which messages
each turn became."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nestmem.agent.chains import Clocks
from nestmem.agent.controller import Memory
from nestmem.agent.messages import MAX_CONTENT_BYTES, MAX_NAME_CHARS, Message, parse_time
from nestmem.agent.recall import Context
from nestmem.agent.types import Embedder, Learner
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems.base import Hit
from nestmem.store import Ledger, Scope

START = datetime(2025, 1, 1, tzinfo=UTC)
"""The moment of the first turn where the data has no times."""
RANKED_TOKENS = 16_000
"""How much text is recalled at first to rank turns."""
SHIPPED = Clocks()


class Clock:
    """The time of the last message of the scope that is spoken of: it never goes back, and no two messages of a scope
    share a moment. What another scope was told does not move it."""

    def __init__(self) -> None:
        self._moments: dict[str, datetime] = {}
        self._scope = ""

    def of(self, scope: str) -> None:
        """Speak of this scope from now on."""
        self._scope = scope

    def tick(self, time: datetime | None) -> None:
        """A message is told that was said at `time` (None: not known)."""
        said = parse_time(time)
        last = self._moments.get(self._scope)
        if last is None:
            self._moments[self._scope] = said or START
        else:
            self._moments[self._scope] = max(last + timedelta(microseconds=1), said or last)

    def __call__(self) -> datetime:
        return self._moments.get(self._scope, START)


class Ids:
    """Counted ids: "ev_00000001"."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count:08d}"


class Told:
    """A `Memory` that is told turns: which events each turn became, and the other way round."""

    def __init__(
        self,
        path: Path | str,
        *,
        learner: Learner | None = None,
        embedder: Embedder | None = None,
        clocks: Clocks = SHIPPED,
    ) -> None:
        self.clock, ids = Clock(), Ids()
        ledger = Ledger(path, clock=self.clock, new_id=ids)
        self.memory = Memory(
            ledger, learner=learner, embedder=embedder, clock=self.clock, new_id=ids, clocks=clocks
        )
        self._events: dict[tuple[str, str], list[str]] = {}
        self._turns: dict[str, Turn] = {}
        self._blank: dict[str, int] = {}

    def observe(self, turn: Turn, time: datetime | None, scope: str) -> None:
        """Stores a turn. One without a visible character is counted and not stored."""
        self.clock.of(scope)
        where = Scope(user=scope, session=turn.session or "default")
        if not turn.text.strip():
            self._blank[scope] = self._blank.get(scope, 0) + 1
        for piece in pieces(turn.text):
            self.clock.tick(time)
            message = Message(
                role=turn.role,
                content=piece,
                name=(turn.speaker or "").strip()[:MAX_NAME_CHARS] or None,
                group=turn.group and bool(turn.speaker),
            )
            [event] = self.memory.observe([message], where, occurred_at=time, source="import")
            self._events.setdefault((scope, turn.id), []).append(event)
            self._turns[event] = turn

    def turn(self, event_id: str) -> Turn:
        """The turn that an event came from."""
        return self._turns[event_id]

    def turns(self, event_ids: Iterable[str]) -> tuple[str, ...]:
        """Ids of the turns that these events came from, each once, in the same order."""
        return tuple(dict.fromkeys(self._turns[id_].id for id_ in event_ids))

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Forgets the events of these turns; of a turn that is not held there is nothing to forget."""
        self.clock.of(scope)
        gone = [event for id_ in dict.fromkeys(turns) for event in self._events.pop((scope, id_), ())]
        if gone:
            self.memory.forget(gone, scope)
        for event in gone:
            del self._turns[event]

    def recalled(self, question: str, scope: str, budget_tokens: int) -> tuple[Context, tuple[str, ...]]:
        """What is recalled within a budget, and the turns it is made of."""
        self.clock.of(scope)
        context = self.memory.recall(question, scope, budget_tokens=budget_tokens)
        return context, self.turns(source for item in context.items for source in item.sources)

    def ranked(self, question: str, scope: str, depth: int, known: Context) -> tuple[Hit, ...]:
        """The `depth` nearest turns, each by its best passage; fewer when there are fewer. known: what was recalled
        already."""
        context, budget = known, RANKED_TOKENS
        while not context.whole:
            context = self.memory.recall(question, scope, budget_tokens=budget)
            if len({source for item in context.items for source in item.sources}) >= depth:
                break
            budget *= 4
        best: dict[str, Hit] = {}
        for item in sorted(context.items, key=lambda item: -item.score):
            turn = self._turns[item.id]
            best.setdefault(turn.id, Hit(turn=turn.id, session=turn.session, score=item.score))
        return tuple(best.values())[:depth]

    def notes(self, scope: str) -> tuple[str, ...]:
        """What a reader of the results should know of what was told."""
        blank = self._blank.get(scope, 0)
        return (f"{blank} turns without text were not told",) if blank else ()

    def bytes(self) -> int:
        """Of the ledger file, once its write-ahead log is folded in; of all scopes together."""
        self.memory.ledger.scrub()
        return self.memory.ledger.bytes_on_disk()


def pieces(text: str) -> list[str]:
    """A text in parts that each fit into one message, cut at white space; none when nothing in it is visible. What is
    no Unicode text (a lone surrogate) becomes "?".

    >>> pieces("My dog is called Biscuit.")
    ['My dog is called Biscuit.']
    """
    whole = text.encode("utf-8", "replace").decode("utf-8")
    limit = MAX_CONTENT_BYTES // 4
    found = []
    while len(whole.encode()) > MAX_CONTENT_BYTES:
        cut = max(whole.rfind(" ", 0, limit), whole.rfind("\n", 0, limit)) + 1 or limit
        found.append(whole[:cut])
        whole = whole[cut:]
    return [piece for piece in (*found, whole) if piece.strip()]
