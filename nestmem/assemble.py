"""The one place that joins text memory (`store`, `agent`) and weight memory (`adapters`, `embedders`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nestmem import embedders
from nestmem.agent.answering import MARGIN
from nestmem.agent.chains import Clocks
from nestmem.agent.controller import Memory
from nestmem.agent.guard import GuardSettings
from nestmem.agent.llm import endpoint
from nestmem.agent.types import Chat, Drift, Example, Level, State, StoredUpdate, Update
from nestmem.errors import InputError, MissingExtra
from nestmem.store import Ledger

if TYPE_CHECKING:
    from nestmem.adapters.fast_weights import FastWeights

RULES = ("nested", "additive", "rls", "tmem")


class LocalLearner:
    """A model on this machine as the agent's `Learner`: turns examples into pairs, payloads into updates."""

    def __init__(self, weights: FastWeights, *, name: str):
        self.weights = weights
        self.name = name

    @property
    def fingerprint(self) -> str:
        return self.weights.fingerprint

    @property
    def rule(self) -> str:
        return self.weights.rule

    @property
    def additive(self) -> bool:
        return self.weights.additive

    @property
    def ordered(self) -> bool:
        return self.weights.ordered

    @property
    def extractive(self) -> bool:
        return self.weights.extractive

    @property
    def reading_tokens(self) -> int:
        return self.weights.reading_tokens

    def empty(self) -> State:
        return self.weights.rule_object.empty()

    def write(
        self, states: list[State], batch: list[list[Example]], level: Level = "fast"
    ) -> list[tuple[State, list[Update]]]:
        """Learn each user's examples, those of one memory together. Raises `ValueError` on unequal lengths."""
        grouped = [_by_memory(examples) for examples in batch]
        pairs = [
            [[(e.prompt, e.completion) for e in group] for group in groups.values()] for groups in grouped
        ]
        written = self.weights.write(states, pairs, level)
        return [
            (
                state,
                [_update(memory_id, payload) for memory_id, payload in zip(groups, payloads, strict=True)],
            )
            for groups, (state, payloads) in zip(grouped, written, strict=True)
        ]

    def erase(self, state: State, removed: list[StoredUpdate], remaining: list[StoredUpdate]) -> State:
        return self.weights.erase(state, _plain(removed), _plain(remaining))

    def rebuild(self, updates: list[StoredUpdate]) -> State:
        return self.weights.rebuild(_plain(updates))

    def promote(self, state: State, updates: list[StoredUpdate], to_level: Level) -> State:
        return self.weights.promote(state, _plain(updates), to_level)

    def digest(self, state: State) -> str:
        return self.weights.rule_object.digest(state)

    def snapshot(self, state: State) -> bytes:
        return self.weights.snapshot(state)

    def adopt(self, data: bytes) -> None:
        self.weights.adopt(data)

    def discard(self) -> None:
        self.weights.discard()

    def exact(self, pairs: list[tuple[str, str]], states: Sequence[State | None]) -> list[tuple[bool, float]]:
        return self.weights.exact(pairs, list(states))

    def drift(self, state: State) -> Drift:
        moved = self.weights.drift(state)
        return Drift(kl=moved.kl, norm=moved.norm, finite=moved.finite)

    def applies(self, chats: list[Chat], state: State) -> list[float]:
        return self.weights.applies(chats, state)

    def generate(
        self, chats: list[Chat], states: Sequence[State | None], *, max_new_tokens: int = 32
    ) -> list[str]:
        return self.weights.generate(chats, list(states), max_new_tokens=max_new_tokens)

    def stream(self, chat: Chat, state: State | None, *, max_new_tokens: int = 64) -> Iterator[str]:
        return self.weights.stream(chat, state, max_new_tokens=max_new_tokens)

    def confidence(self, chats: list[Chat], states: Sequence[State | None]) -> list[float]:
        return self.weights.confidence(chats, list(states))

    def questions(self, statements: list[str]) -> list[list[tuple[str, str]]]:
        return self.weights.questions(statements)

    def count_tokens(self, text: str) -> int:
        return self.weights.count_tokens(text)

    def export_peft(self, state: State, folder: Path) -> None:
        """Write the state's banks, all levels together, as a PEFT LoRA folder."""
        from nestmem.adapters.peft import export_peft

        export_peft(self.weights.banked, self.weights.banks_of(state), folder, base_name=self.name)

    def import_peft(self, folder: Path) -> State:
        """The state of a user who brings the LoRA in `folder` along and was told nothing yet."""
        from nestmem.adapters.peft import import_peft

        return self.weights.rule_object.with_banks(import_peft(self.weights.banked, folder))


def _by_memory(examples: list[Example]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.memory_id, []).append(example)
    return groups


def _update(memory_id: str, payload: bytes) -> Update:
    return Update(memory_id=memory_id, payload=payload, digest=hashlib.sha256(payload).hexdigest())


def _plain(updates: list[StoredUpdate]) -> list[tuple[str, bytes]]:
    return [(level, update.payload) for level, update in updates]


def load_learner(model: str | Path, *, rule: str, device: str, dtype: str) -> LocalLearner:
    """A model whose weights learn, by name or folder. Raises as `open` does."""
    if rule not in RULES:
        raise InputError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
    try:
        import torch

        from nestmem.adapters.fast_weights import load_fast_weights
    except ImportError as error:
        raise MissingExtra("model", error.name or "torch") from error
    precision = getattr(torch, dtype, None)
    if not isinstance(precision, torch.dtype):
        raise InputError(f"dtype={dtype!r}: expected a torch dtype by name, such as 'float32' or 'bfloat16'")
    return LocalLearner(load_fast_weights(model, rule=rule, device=device, dtype=precision), name=str(model))


def open(
    path: str | Path = "memory.db",
    *,
    model: str | Path | None = "mini",
    rule: str = "nested",
    embedder: str = "auto",
    llm: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    read_only: bool = False,
    clocks: Clocks | None = None,
    guard: GuardSettings | None = None,
    scope_margin: float = MARGIN,
) -> Memory:
    """Open the memory in one SQLite file and give it a model whose weights learn.

    Args:
        path: the ledger; ":memory:" for one that lives as long as the process.
        model: "mini" (the embedded model), a folder, a Hugging Face name, or None for text memory only.
        rule: how experience is written into weights: "nested", "additive", "rls" or "tmem".
        embedder: "auto" (MiniLM when installed), "none", "minilm", a sentence-transformers folder, or a URL.
        llm: the URL ("URL#model") of an OpenAI-compatible endpoint that reads recalled text and writes questions.
        device, dtype: where and in which precision the model runs ("float32", "bfloat16").
        clocks: when a memory leaves the fast level of the weights (see `agent.chains.Clocks`).
        guard: the limits of the gates before the weights change (see `agent.guard.GuardSettings`).
        scope_margin: from which share of the activation at written questions on the weights are asked.

    Raises:
        InputError, MissingExtra, ModelNotFound, ModelError, UnsupportedArchitecture, EmbedderError, LedgerError.
    """
    learner = None if model is None else load_learner(model, rule=rule, device=device, dtype=dtype)
    reader = endpoint(llm) if llm else None
    ledger = Ledger(path, read_only=read_only)
    return Memory(
        ledger,
        learner=learner,
        embedder=embedders.load(embedder),
        llm=reader,
        clocks=clocks,
        guard=guard,
        scope_margin=scope_margin,
    )
