"""What a system sees of a stream: names that say nothing.

Ids of data sets give the key away: LongMemEval's evidence sessions are called "answer_...", its stream bears the
question's id. So a system is told turns t0, t1, ... of sessions s0, s1, ... of a user u0, and what it answers is
translated back for the log. The candidates of a probe come in an order that depends on their texts alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nestmem.errors import InputError
from nestmem.evals.datasets.base import Stream, Turn
from nestmem.evals.systems.base import Hit, Reply


@dataclass(frozen=True, kw_only=True)
class Veil:
    """A stream under other names. scope: the user's; turns: as a system is told them. attempt: ends the scope."""

    stream: Stream
    number: int
    attempt: str = ""
    turns: tuple[Turn, ...] = field(init=False)
    _to: dict[str, str] = field(init=False, repr=False)
    _back: dict[str, Turn] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sessions = {
            name: f"s{n}" for n, name in enumerate(dict.fromkeys(t.session for t in self.stream.turns))
        }
        turns = tuple(
            replace(turn, id=f"t{place}", session=sessions[turn.session])
            for place, turn in enumerate(self.stream.turns)
        )
        object.__setattr__(self, "turns", turns)
        pairs = list(zip(self.stream.turns, turns, strict=True))
        object.__setattr__(self, "_to", {turn.id: veiled.id for turn, veiled in pairs})
        object.__setattr__(self, "_back", {veiled.id: turn for turn, veiled in pairs})

    @property
    def scope(self) -> str:
        """What the user is called."""
        return f"u{self.number}{self.attempt}"

    def ids(self, turns: Sequence[str]) -> tuple[str, ...]:
        """The veiled ids of turns of the stream."""
        return tuple(self._to[id_] for id_ in turns)

    def key(self) -> Stream:
        """The whole stream, questions and evidence, under the veiled names: for scripted systems only."""
        questions = tuple(replace(q, evidence=self.ids(q.evidence)) for q in self.stream.questions)
        forgets = tuple(replace(forget, turns=self.ids(forget.turns)) for forget in self.stream.forgets)
        return Stream(id=self.scope, turns=self.turns, questions=questions, forgets=forgets)

    def told(self) -> Stream:
        """The turns alone: what a placebo may be told of another stream."""
        return Stream(id=self.scope, turns=self.turns, questions=())

    def lift(self, reply: Reply, spec: str) -> Reply:
        """The reply with the stream's own ids. InputError when it names a turn that was never told."""
        named = {*reply.shown, *(hit.turn for hit in reply.ranked)}
        unknown = sorted(named - self._back.keys())
        if unknown:
            raise InputError(
                f"system {spec!r} names turns that it was not told: {', '.join(unknown[:3])}; expected ids of messages "
                "that it observed in this scope"
            )
        ranked = tuple(
            Hit(turn=self._back[hit.turn].id, session=self._back[hit.turn].session, score=hit.score)
            for hit in reply.ranked
        )
        return replace(reply, shown=tuple(self._back[id_].id for id_ in reply.shown), ranked=ranked)


def shuffled(candidates: Sequence[str]) -> list[int]:
    """Places of the candidates in an order that does not depend on where they stand.

    >>> [("blue", "red")[place] for place in shuffled(("blue", "red"))]
    ['blue', 'red']
    >>> [("red", "blue")[place] for place in shuffled(("red", "blue"))]
    ['blue', 'red']
    """
    return sorted(
        range(len(candidates)),
        key=lambda place: hashlib.sha256(candidates[place].encode("utf-8", "replace")).digest(),
    )
