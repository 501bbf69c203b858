"""From a question to an answer: the halves of the memory are asked apart, and what they say is compared.

The text half reads recalled lines, the weights half is asked with nothing but the question, and only when it
applies: when the question moves it about as much as what was written did. When both are
asked and disagree, an answer that a stored memory backs goes before one that none backs, the half that
knows before the one that does not, and otherwise the more confident half.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from nestmem.agent import prompts, speech
from nestmem.agent.recall import Context
from nestmem.agent.types import LLM, Arm, Chat, Learner, Spoke, State
from nestmem.store.records import MemoryRecord

By = Literal["model", "llm", "extract"]
CHARS_PER_TOKEN = 4
MARGIN = 0.5
"""How much (see `Learner.applies`) the weights must answer to a question before they are asked."""
SURE = 0.6
"""From which probability (0..1) the span that a small reader found is its answer."""


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A recalled line with the events it quotes."""

    line: str
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """An answer before its sources are known."""

    text: str
    spoke: Spoke
    by: By
    tokens: int
    halves: dict[str, str] = field(default_factory=dict)


def quotable(context: Context, exclude: Iterable[str]) -> tuple[list[str], list[Quote]]:
    """The recalled lines for a prompt, without the sentences that no longer hold and what quotes an excluded event."""
    hidden = set(exclude)
    quotes = [
        Quote(line=prompts.memory_line(item.holding, item.date, item.speaker), sources=tuple(item.sources))
        for item in context.items
        if item.holding and not set(item.sources) <= hidden
    ]
    return [quote.line for quote in quotes], quotes


def quoted(answer: str, quotes: Sequence[Quote]) -> list[str]:
    """The events of the lines in which the answer stands."""
    found = [id_ for quote in quotes if speech.holds_answer(quote.line, answer) for id_ in quote.sources]
    return list(dict.fromkeys(found))


def supporting(spoken: Spoken, memories: Sequence[MemoryRecord], listed: set[str]) -> list[MemoryRecord]:
    """The memories that an answer rests on: those with its value; for weights only those that are in them."""
    if spoken.spoke == "none":
        return []
    backing = [
        m
        for m in memories
        if m.answer and (speech.same(m.answer, spoken.text) or speech.holds_answer(spoken.text, m.answer))
    ]
    return [m for m in backing if m.id in listed] if spoken.spoke == "weights" else backing


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Whoever turns a prompt into words: the learner, the endpoint for the text half, or nobody.

    margin: below this the weights are out of scope and not asked (`halves["scope"]` of an answer shows the value)."""

    learner: Learner | None
    llm: LLM | None
    max_new_tokens: int
    margin: float = MARGIN

    def answer(
        self,
        question: str,
        arm: Arm,
        *,
        lines: list[str],
        state: State | None,
        memories: Sequence[MemoryRecord],
    ) -> Spoken:
        """The answer of one arm. `memories`: what holds, for answers without a model and to back others."""
        if arm == "none":
            return self._alone(question)
        if arm == "text" or self.learner is None or state is None:
            if arm == "weights":
                return Spoken(text=prompts.UNKNOWN, spoke="none", by="extract", tokens=0)
            return self._from_text(question, lines, memories)
        [scope] = self.learner.applies([prompts.question_chat(question)], state)
        if not scope >= self.margin:
            spoken = self._alone(question) if arm == "weights" else self._from_text(question, lines, memories)
        elif arm == "weights" or not lines:
            spoken = self._from_weights(question, state)
        else:
            spoken = self._from_both(question, lines, state, memories)
        return replace(spoken, halves={**spoken.halves, "scope": f"{scope:.2f}"})

    def _alone(self, question: str) -> Spoken:
        chat = prompts.question_chat(question)
        if self.learner is None and self.llm is None:
            return Spoken(text=prompts.UNKNOWN, spoke="none", by="extract", tokens=0)
        if self.learner is not None:
            [text] = self.learner.generate([chat], [None], max_new_tokens=self.max_new_tokens)
            return Spoken(text=text.strip(), spoke="none", by="model", tokens=self._count(chat))
        assert self.llm is not None
        return Spoken(
            text=self.llm.chat(chat, max_tokens=self.max_new_tokens),
            spoke="none",
            by="llm",
            tokens=self._count(chat),
        )

    def _from_text(self, question: str, lines: list[str], memories: Sequence[MemoryRecord]) -> Spoken:
        if not lines:
            return self._alone(question) if self.learner or self.llm else _read_out(question, lines, memories)
        if self.llm is not None:
            chat = prompts.llm_answer_chat(question, lines)
            text, by = self.llm.chat(chat, max_tokens=max(64, self.max_new_tokens)), "llm"
        elif self.learner is not None and self.learner.extractive:
            return self._from_quotes(question, lines, memories)
        elif self.learner is not None:
            chat = prompts.question_chat(question, lines)
            [text] = self.learner.generate([chat], [None], max_new_tokens=self.max_new_tokens)
            by = "model"
        else:
            return _read_out(question, lines, memories)
        text = text.strip()
        spoke: Spoke = "none" if speech.is_unknown(text) else "text"
        return Spoken(text=text, spoke=spoke, by=by, tokens=self._count(chat), halves={"text": text})

    def _from_quotes(self, question: str, lines: list[str], memories: Sequence[MemoryRecord]) -> Spoken:
        """What a small reader makes of the lines: the answer of a stored memory whose question this is, else the
        span of the lines the reader is sure of, else the line that speaks of what is asked."""
        assert self.learner is not None
        stored = _stored(question, lines, memories)
        if stored is not None:
            return stored
        chat = prompts.question_chat(question, lines)
        [text] = self.learner.generate([chat], [None], max_new_tokens=self.max_new_tokens)
        text = text.strip()
        holding = [line for line in lines if speech.holds_answer(line, text) and _speaks_of(question, line)]
        if holding and not speech.is_unknown(text) and self.learner.confidence([chat], [None])[0] >= SURE:
            return Spoken(
                text=text, spoke="text", by="model", tokens=self._count(chat), halves={"text": text}
            )
        return _line(question, lines)

    def _from_weights(self, question: str, state: State) -> Spoken:
        assert self.learner is not None
        chat = prompts.question_chat(question)
        [text] = self.learner.generate([chat], [state], max_new_tokens=self.max_new_tokens)
        text = text.strip()
        spoke: Spoke = "none" if speech.is_unknown(text) else "weights"
        return Spoken(text=text, spoke=spoke, by="model", tokens=self._count(chat), halves={"weights": text})

    def _from_both(
        self, question: str, lines: list[str], state: State, memories: Sequence[MemoryRecord]
    ) -> Spoken:
        assert self.learner is not None
        bare, full = prompts.question_chat(question), prompts.question_chat(question, lines)
        if self.llm is not None or self.learner.extractive:
            read = self._from_text(question, lines, memories)
            [weighed] = self.learner.generate([bare], [state], max_new_tokens=self.max_new_tokens)
            halves, by, tokens = {"text": read.text, "weights": weighed.strip()}, read.by, read.tokens
        else:
            chats, states = [full, bare, full], [None, state, state]
            texts = self.learner.generate(chats, states, max_new_tokens=self.max_new_tokens)
            text, weighed, joint = (t.strip() for t in texts)
            halves = {"text": text, "weights": weighed, "both": joint}
            by, tokens = "model", self._count(full)
        spoke = self._who_spoke(halves, memories, [full, bare], [None, state])
        text = halves["weights"] if spoke == "weights" else halves["text"]
        if spoke == "both":
            text = min(halves["text"], halves["weights"], key=len)
        return Spoken(
            text=text, spoke=spoke, by=by if spoke != "weights" else "model", tokens=tokens, halves=halves
        )

    def _who_spoke(
        self,
        halves: dict[str, str],
        memories: Sequence[MemoryRecord],
        chats: list[Chat],
        states: list[State | None],
    ) -> Spoke:
        assert self.learner is not None
        text, weights = halves["text"], halves["weights"]
        if speech.is_unknown(text) and speech.is_unknown(weights):
            return "none"
        if speech.same(text, weights) or speech.holds_answer(text, weights):
            return "both"
        if speech.is_unknown(weights):
            return "text"
        if speech.is_unknown(text):
            return "weights"
        backed = {
            half: any(m.answer and speech.holds_answer(halves[half], m.answer) for m in memories)
            for half in ("text", "weights")
        }
        if backed["text"] != backed["weights"]:
            return "text" if backed["text"] else "weights"
        if self.llm is not None:
            return "text"
        if self.learner.extractive:
            known = [m.answer for m in memories if m.answer]
            value, other = (any(speech.same(half, a) for a in known) for half in (text, weights))
            return "text" if value or not other else "weights"
        agreed = [half for half in ("text", "weights") if speech.same(halves[half], halves["both"])]
        if agreed:
            return "text" if agreed[0] == "text" else "weights"
        sure = self.learner.confidence(chats, states)
        return "text" if sure[0] >= sure[1] else "weights"

    def _count(self, chat: Chat) -> int:
        text = "\n".join(message["content"] for message in chat)
        return self.learner.count_tokens(text) if self.learner else -(-len(text) // CHARS_PER_TOKEN)


def _read_out(question: str, lines: list[str], memories: Sequence[MemoryRecord]) -> Spoken:
    """Without a model: the stored answer whose question is like this one, else the line that speaks of it."""
    return _stored(question, lines, memories) or _line(question, lines)


def _tokens(question: str, lines: list[str]) -> int:
    return -(-len("\n".join([*lines, question])) // CHARS_PER_TOKEN)


def _stored(question: str, lines: list[str], memories: Sequence[MemoryRecord]) -> Spoken | None:
    """The answer of the stored memory whose question is like this one."""
    memory, likeness = speech.best_match(question, memories)
    if memory is None or not memory.answer or likeness < speech.ENOUGH:
        return None
    text = memory.answer
    return Spoken(
        text=text, spoke="text", by="extract", tokens=_tokens(question, lines), halves={"text": text}
    )


def _speaks_of(question: str, line: str) -> bool:
    """Whether a line has more than half of the question's telling words, or half when that is two or more."""
    asked = speech.content(question)
    common = len(asked & speech.content(line))
    return 2 * common > len(asked) or (common > 1 and 2 * common == len(asked))


def _line(question: str, lines: list[str]) -> Spoken:
    """The statement among the recalled lines that shares most telling words with the question, if any does."""
    asked = speech.content(question)
    told = [line.removeprefix("- ") for line in lines if not line.rstrip().endswith("?")]
    ranked = sorted(told, key=lambda line: -len(asked & speech.content(line)))
    tokens = _tokens(question, lines)
    if ranked and _speaks_of(question, ranked[0]):
        return Spoken(text=ranked[0], spoke="text", by="extract", tokens=tokens, halves={"text": ranked[0]})
    return Spoken(text=prompts.UNKNOWN, spoke="none", by="extract", tokens=tokens)
