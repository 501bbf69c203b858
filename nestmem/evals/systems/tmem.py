"""TMEM (arXiv 2606.04536): a LoRA on the last blocks that plain SGD writes as a conversation passes.

There is no code by its authors. What is done here, and where it differs:

    rule     as published: rank 6 on the feed-forward layers of the last 4 blocks, A = Sigma_r V_r^T fixed, B from 0,
             SGD with rate 5e-4 and 5 epochs on answer tokens (`nestmem.adapters.rules.TMEM`); one memory is one batch
    writer   question and answer pairs by nestmem's rules and, for open statements, by the model itself, so that
             TMEM and nestmem's weights are written from the same pairs; the paper prompts its own policy
    trigger  the end of a session; the paper waits for 4,096 tokens, and answers with the rest in its prompt
    reading  the model with the LoRA and nothing but the question in the prompt

`tmem-agnostic` has one LoRA for a stream and all its questions. `tmem-conditioned` is the published protocol: for
each question a new LoRA is written, of what the question makes look relevant. The paper's writer reads the stream
with the question in its prompt; here the turns are those that recall by words finds for it within the budget. It
knows the question before it writes, and keeps all text to write from.

Nothing is ever taken out of a LoRA: a value that was replaced stays in it, and to forget is not supported where
something was written. `tmem-conditioned` forgets text, and its next LoRA does not have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from nestmem.agent import prompts, study
from nestmem.agent.recall import count_tokens
from nestmem.agent.types import Example, Learner, State
from nestmem.evals.datasets.base import Turn
from nestmem.evals.systems.base import Kind, NotSupported, Reading, Reply, Setup, System
from nestmem.evals.systems.ours import shared
from nestmem.evals.systems.told import Told
from nestmem.store import Event, MemoryRecord, Scope

ANSWER_TOKENS = 32


class Writer:
    """Reads pairs out of what a `Told` memory without a model was told, each memory once, and writes them."""

    def __init__(self, told: Told, learner: Learner) -> None:
        self._told = told
        self._learner = learner
        self._read: set[str] = set()

    def write(self, state: State, scope: str) -> State:
        """The state after a write of what is new, memory by memory in the order told."""
        memory, owner = self._told.memory, Scope(user=scope)
        self._told.clock.of(scope)
        memory.learn(owner)
        new = [m for m in memory.ledger.memories(owner, active_only=False) if m.id not in self._read]
        self._read |= {m.id for m in new}
        events = {e.id: e for e in memory.ledger.events(owner, ids={m.event_id for m in new})} if new else {}
        new.sort(key=lambda m: (events[m.event_id].seq, m.span, m.id))
        examples = [example for m in new for example in self._examples(m, events[m.event_id])]
        if not examples:
            return state
        [(state, _)] = self._learner.write([state], [examples])
        return state

    def _examples(self, memory: MemoryRecord, event: Event) -> Iterable[Example]:
        if memory.question and memory.answer:
            return study.first(memory, event)
        if not memory.extractor.endswith("/open"):
            return ()
        pairs = [pair for pair in self._learner.questions([memory.text])[0] if pair[0].strip().endswith("?")]
        kept = prompts.affirmed(prompts.grounded(pairs, memory.text), memory.text)
        return [Example(memory_id=memory.id, prompt=question, completion=said) for question, said in kept]


class Agnostic:
    """One LoRA for each scope, written at the end of each session."""

    def __init__(self, setup: Setup, learner: Learner) -> None:
        self._told = Told(setup.folder / "memory.db")
        self._learner = learner
        self._writer = Writer(self._told, learner)
        self._states: dict[str, State] = {}

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Keeps the message until the session is over."""
        self._told.observe(message, time, scope)

    def settle(self, scope: str) -> None:
        """Writes what is new."""
        self._states[scope] = self._writer.write(self._state(scope), scope)

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the model says with the LoRA."""
        return spoken(self._learner, question, self._state(scope), self._told.notes(scope))

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """What SGD wrote cannot be taken out."""
        raise NotSupported("TMEM has no rule for forgetting: what was written stays in the LoRA")

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """Under the LoRA as it is."""
        return probed(self._learner, question, candidates, self._state(scope))

    def bytes(self, scope: str) -> int:
        """Of the text it is written from, of all scopes, and of the LoRA's B of this one."""
        return self._told.bytes() + sum(bank.nbytes for bank in getattr(self._state(scope), "banks", ()))

    def close(self) -> None:
        """Closes the text; drops the LoRAs."""
        self._told.memory.close()
        self._states.clear()
        self._learner.discard()

    def _state(self, scope: str) -> State:
        state = self._states.get(scope)
        return self._learner.empty() if state is None else state


class Conditioned:
    """A LoRA for each question, written from the turns that are recalled for it, then dropped."""

    def __init__(self, setup: Setup, learner: Learner) -> None:
        self._setup = setup
        self._told = Told(setup.folder / "memory.db")
        self._learner = learner
        self._turns: dict[str, list[tuple[Turn, datetime | None]]] = {}
        self._last: tuple[tuple[str, str], State] | None = None

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Keeps the message."""
        self._told.observe(message, time, scope)
        self._turns.setdefault(scope, []).append((message, time))
        self._last = None

    def settle(self, scope: str) -> None:
        """Nothing is written before a question."""

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """What the model says with a LoRA written for this question."""
        state = self._written(question, scope)
        context, _ = self._told.recalled(question, scope, self._setup.budget_tokens)
        reply = spoken(self._learner, question, state, self._told.notes(scope))
        return Reply(
            reading=reply.reading,
            ranked=self._told.ranked(question, scope, self._setup.depth, context),
            spoke=reply.spoke,
            notes=reply.notes,
        )

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Removes the text; no LoRA is kept."""
        self._told.forget(turns, scope)
        gone = set(turns)
        self._turns[scope] = [pair for pair in self._turns.get(scope, []) if pair[0].id not in gone]
        self._last = None

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """Under a LoRA written for this question."""
        return probed(self._learner, question, candidates, self._written(question, scope))

    def bytes(self, scope: str) -> int:
        """Of the text, of all scopes."""
        return self._told.bytes()

    def close(self) -> None:
        """Closes the text."""
        self._told.memory.close()
        self._last = None
        self._learner.discard()

    def _written(self, question: str, scope: str) -> State:
        """The state for a question; that of the last question is kept for its probe."""
        asked = (scope, question)
        if self._last is None or self._last[0] != asked:
            _, found = self._told.recalled(question, scope, self._setup.budget_tokens)
            told = Told(":memory:")
            for turn, time in self._turns.get(scope, []):
                if turn.id in found:
                    told.observe(turn, time, scope)
            self._last = (asked, Writer(told, self._learner).write(self._learner.empty(), scope))
            told.memory.close()
        return self._last[1]


def spoken(learner: Learner, question: str, state: State, notes: tuple[str, ...]) -> Reply:
    """The greedy answer of a model under a state, with nothing but the question in the prompt."""
    chat = prompts.question_chat(question)
    text = learner.generate([chat], [state], max_new_tokens=ANSWER_TOKENS)[0].strip()
    reading = Reading(
        text=text,
        prompt=chat,
        tokens_in=count_tokens(question),
        tokens_out=count_tokens(text),
        failed=None if text else "empty",
    )
    return Reply(reading=reading, spoke="weights", notes=notes)


def probed(learner: Learner, question: str, candidates: Sequence[str], state: State) -> list[float]:
    """Mean log-probability (nats per token) of each candidate."""
    pairs = [(question, candidate) for candidate in candidates]
    return [mean for _, mean in learner.exact(pairs, [state] * len(pairs))]


def make_agnostic(
    setup: Setup, *, model: str = "mini", device: str = "cpu", dtype: str = "float32"
) -> System:
    """One LoRA for all questions."""
    return Agnostic(setup, shared(model, "tmem", device, dtype))


def make_conditioned(
    setup: Setup, *, model: str = "mini", device: str = "cpu", dtype: str = "float32"
) -> System:
    """One LoRA for each question, written when it is known."""
    return Conditioned(setup, shared(model, "tmem", device, dtype))


OPTIONS: dict[str, int | str] = {"model": "mini", "device": "cpu", "dtype": "float32"}

KINDS: tuple[Kind, ...] = (
    Kind(
        name="tmem-agnostic",
        about="TMEM: a LoRA written by SGD as the stream passes",
        make=make_agnostic,
        options=OPTIONS,
    ),
    Kind(
        name="tmem-conditioned",
        about="TMEM as published: a LoRA for each question, written once the question is known",
        make=make_conditioned,
        options=OPTIONS,
    ),
)
