"""Public stand-ins for a model, for tests and examples without torch.

`EchoLearner` is an additive learner whose weights are an exact multiset of question-answer pairs;
`ReplayLearner` the same as a sequence, for rules where order matters. `ScriptedLLM` answers from a list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nestmem.agent import speech
from nestmem.agent.prompts import UNKNOWN
from nestmem.agent.types import Chat, Drift, Example, Level, State, StoredUpdate, Update
from nestmem.errors import LLMError, ModelError

Pair = tuple[str, str]
Part = tuple[str, bytes]


class EchoLearner:
    """Learns pairs by heart. State: a sorted tuple of (level, payload); equal multisets are equal states.

    In the weights half it answers a question that is like a learned one; in the text half it repeats the
    recalled line that shares most words with the question.
    """

    rule = "additive"
    additive = True
    ordered = False
    extractive = False
    reading_tokens = 500

    def __init__(self, name: str = "echo", *, writer: Callable[[str], list[Pair]] | None = None) -> None:
        self.name = name
        self.writes: list[list[list[Example]]] = []
        self._writer = writer or (lambda statement: [])

    @property
    def fingerprint(self) -> str:
        """Of the name: another name is another model."""
        return hashlib.sha256(f"{self.rule}:{self.name}".encode()).hexdigest()

    def empty(self) -> State:
        """Nothing learned."""
        return ()

    def write(
        self, states: list[State], batch: list[list[Example]], level: Level = "fast"
    ) -> list[tuple[State, list[Update]]]:
        """One update per memory, whatever else is in the batch."""
        self.writes.append(batch)
        results = []
        for state, examples in zip(states, batch, strict=True):
            updates = [self._update(id_, examples) for id_ in dict.fromkeys(e.memory_id for e in examples)]
            results.append((self._add(state, [(level, u.payload) for u in updates]), updates))
        return results

    def erase(self, state: State, removed: list[StoredUpdate], remaining: list[StoredUpdate]) -> State:
        """Takes each removed part away once. ValueError when it is not there."""
        parts = list(state)
        for level, update in removed:
            parts.remove((level, update.payload))
        return tuple(parts)

    def rebuild(self, updates: list[StoredUpdate]) -> State:
        """The sum of all parts."""
        return self._add((), [(level, update.payload) for level, update in updates])

    def promote(self, state: State, updates: list[StoredUpdate], to_level: Level) -> State:
        """Moves parts between levels."""
        return self._add(self.erase(state, updates, []), [(to_level, u.payload) for _, u in updates])

    def digest(self, state: State) -> str:
        """Of the parts, in the state's order."""
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def snapshot(self, state: State) -> bytes:
        """Nothing: adding up is quick."""
        return b""

    def adopt(self, data: bytes) -> None:
        """ModelError when `data` is not what `snapshot` wrote."""
        if data:
            raise ModelError(f"a snapshot of {len(data)} bytes is damaged; it can be deleted")

    def discard(self) -> None:
        """Nothing is cached."""

    def exact(self, pairs: list[Pair], states: Sequence[State | None]) -> list[tuple[bool, float]]:
        """Whether the answer is exactly this one; log-probability 0 if so, else -5."""
        chats = [[{"role": "user", "content": question}] for question, _ in pairs]
        answers = self.generate(chats, states)
        right = [given == answer for given, (_, answer) in zip(answers, pairs, strict=True)]
        return [(good, 0.0 if good else -5.0) for good in right]

    def drift(self, state: State) -> Drift:
        """None: what is known by heart moves nothing."""
        return Drift(kl=0.0, norm=0.0, finite=True)

    def applies(self, chats: list[Chat], state: State) -> list[float]:
        """1 where the state knows the question, else 0."""
        known = [not speech.is_unknown(self._answer(chat[-1:], state)) for chat in chats]
        return [float(one) for one in known]

    def generate(
        self, chats: list[Chat], states: Sequence[State | None], *, max_new_tokens: int = 32
    ) -> list[str]:
        """Reads the recalled lines if there are any, else the state."""
        return [self._answer(chat, state) for chat, state in zip(chats, states, strict=True)]

    def stream(self, chat: Chat, state: State | None, *, max_new_tokens: int = 64) -> Iterator[str]:
        """The answer in words."""
        yield from self._answer(chat, state).split(" ")

    def confidence(self, chats: list[Chat], states: Sequence[State | None]) -> list[float]:
        """1 where something is known, else 0."""
        return [float(not speech.is_unknown(self._answer(c, s))) for c, s in zip(chats, states, strict=True)]

    def questions(self, statements: list[str]) -> list[list[Pair]]:
        """What the writer given at construction says; nothing by default."""
        return [self._writer(statement) for statement in statements]

    def count_tokens(self, text: str) -> int:
        """Words."""
        return len(text.split())

    def _update(self, memory_id: str, examples: list[Example]) -> Update:
        pairs = [(e.prompt, e.completion) for e in examples if e.memory_id == memory_id]
        payload = json.dumps([self.name, pairs], ensure_ascii=False).encode()
        return Update(memory_id=memory_id, payload=payload, digest=hashlib.sha256(payload).hexdigest())

    def _add(self, state: State, parts: list[Part]) -> State:
        return tuple(sorted([*state, *parts]))

    def _answer(self, chat: Chat, state: State | None) -> str:
        question = chat[-1]["content"]
        lines = [line for m in chat[:-1] for line in m["content"].splitlines() if line.startswith("- ")]
        if lines:
            asked = speech.content(question)
            best = max(lines, key=lambda line: len(asked & speech.content(line)))
            if asked & speech.content(best):
                return best.removeprefix("- ")
        pairs = [pair for _, payload in state or () for pair in json.loads(payload)[1]]
        known = [a for q, a in pairs if speech.content(q) == speech.content(question)]
        return known[-1] if known else UNKNOWN


class ReplayLearner(EchoLearner):
    """The same where order matters: the state is a sequence, and erasing replays what remains."""

    rule = "rls"
    additive = False
    ordered = True

    def erase(self, state: State, removed: list[StoredUpdate], remaining: list[StoredUpdate]) -> State:
        """Replays `remaining` in order."""
        return self.rebuild(remaining)

    def promote(self, state: State, updates: list[StoredUpdate], to_level: Level) -> State:
        """Changes levels in place."""
        moving = {(level, update.payload) for level, update in updates}
        return tuple(
            (to_level, payload) if (level, payload) in moving else (level, payload)
            for level, payload in state
        )

    def _add(self, state: State, parts: list[Part]) -> State:
        return (*state, *parts)


@dataclass
class ScriptedLLM:
    """Answers from a list, in turn; an exception in the list is raised; the last entry repeats."""

    answers: list[str | LLMError]
    name: str = "scripted"
    calls: int = 0

    def chat(self, messages: Chat, *, max_tokens: int = 256) -> str:
        """The next answer."""
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        if isinstance(answer, LLMError):
            raise answer
        return answer
