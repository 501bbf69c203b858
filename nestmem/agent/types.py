"""What the controller asks of its parts (protocols) and what it hands to its caller (plain values)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

Level = Literal["fast", "medium", "slow"]
Arm = Literal["none", "text", "weights", "both"]
Spoke = Literal["text", "weights", "both", "none"]
Chat = list[dict[str, str]]
# The weights of one user. A value: every method of a learner returns a new one. Opaque to agent/.
State = Any

LEVELS: tuple[Level, ...] = ("fast", "medium", "slow")
ARMS: tuple[Arm, ...] = ("none", "text", "weights", "both")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One thing a weight write learns: a question and its answer."""

    memory_id: str
    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one memory added to the weights. `payload` is enough to add it again or take it away;
    `digest` is the sha256 of the payload, as hex."""

    memory_id: str
    payload: bytes
    digest: str


class StoredUpdate(NamedTuple):
    """An update with the level of the bank that holds it."""

    level: Level
    update: Update


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far a state moves the model. kl: mean KL(base || with the state) in nats per token on unrelated text;
    norm: of the weights it adds, over that of those they stand beside; finite: whether all numbers are."""

    kl: float
    norm: float
    finite: bool


class Learner(Protocol):
    """A model whose weights learn. The laws a learner obeys:

    - state is a value: no method changes an argument;
    - `rebuild(updates)` equals the state that the same writes, erasures and promotions led to:
      the digests are equal, in any order of the updates unless `ordered` is true;
    - one `write` returns one `Update` per memory id of the batch, users do not see each other.
    """

    @property
    def fingerprint(self) -> str:
        """sha256 over the base model, the projection A, the rule and its settings. Payloads written
        under one fingerprint are never applied under another."""
        ...

    @property
    def rule(self) -> str:
        """'nested', 'additive', 'rls' or 'tmem'."""
        ...

    @property
    def additive(self) -> bool:
        """True when the state is a sum of payloads, so that erasing is an exact subtraction."""
        ...

    @property
    def ordered(self) -> bool:
        """True when the state depends on the order in which things were written."""
        ...

    @property
    def extractive(self) -> bool:
        """True for a small model, which answers from text only by quoting it."""
        ...

    @property
    def reading_tokens(self) -> int:
        """How many tokens of recalled text the model reads well (see `recall.count_tokens`)."""
        ...

    def empty(self) -> State:
        """The weights of a user about whom nothing was learned."""
        ...

    def write(
        self, states: list[State], batch: list[list[Example]], level: Level = "fast"
    ) -> list[tuple[State, list[Update]]]:
        """Learns `batch[i]` into `states[i]`, all users in one pass."""
        ...

    def erase(self, state: State, removed: list[StoredUpdate], remaining: list[StoredUpdate]) -> State:
        """The state without `removed`. Additive rules subtract and are given no `remaining`; the others make the
        state of `remaining` again (in order, where `ordered`)."""
        ...

    def rebuild(self, updates: list[StoredUpdate]) -> State:
        """The state made of `updates`, from nothing."""
        ...

    def promote(self, state: State, updates: list[StoredUpdate], to_level: Level) -> State:
        """Moves what `updates` added (each from the level it is stored with) to the bank `to_level`."""
        ...

    def digest(self, state: State) -> str:
        """sha256 over the exact numbers of the state, as hex."""
        ...

    def snapshot(self, state: State) -> bytes:
        """What makes `rebuild` quick after a restart, once handed to `adopt`; empty where it is quick anyway."""
        ...

    def adopt(self, data: bytes) -> None:
        """Takes what `snapshot` wrote. Changes no result. Raises ModelError when it is damaged."""
        ...

    def discard(self) -> None:
        """Forgets cached work; the next rebuild does it again."""
        ...

    def exact(self, pairs: list[tuple[str, str]], states: Sequence[State | None]) -> list[tuple[bool, float]]:
        """Per (question, answer) under its state (None: the base model): is the greedy answer exactly this one, and
        the mean log-probability (nats per token, at most 0) of its tokens."""
        ...

    def drift(self, state: State) -> Drift:
        """How far a state moves the model from its base."""
        ...

    def applies(self, chats: list[Chat], state: State) -> list[float]:
        """How much a state answers to each chat: 0 when nothing was written, about 1 for what is like it."""
        ...

    def generate(
        self, chats: list[Chat], states: Sequence[State | None], *, max_new_tokens: int = 32
    ) -> list[str]:
        """The greedy answer to each chat; `None` as state means the base model."""
        ...

    def stream(self, chat: Chat, state: State | None, *, max_new_tokens: int = 64) -> Iterator[str]:
        """The pieces of the greedy answer, as they come."""
        ...

    def confidence(self, chats: list[Chat], states: Sequence[State | None]) -> list[float]:
        """The probability (0..1) of each greedy answer: the product over its tokens."""
        ...

    def questions(self, statements: list[str]) -> list[list[tuple[str, str]]]:
        """The model as its own writer: question and answer pairs about each statement. What it writes of one does
        not depend on the others."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` under the model's tokenizer."""
        ...


class Embedder(Protocol):
    """Texts to unit vectors."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def embed(self, texts: list[str]) -> np.ndarray:
        """float32, shape (len(texts), dim), rows of norm 1."""
        ...


class LLM(Protocol):
    """A chat endpoint (`llm.ChatEndpoint`, or a fake)."""

    @property
    def name(self) -> str: ...

    def chat(self, messages: Chat, *, max_tokens: int = 256) -> str:
        """The answer's text. Raises LLMError when there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer with where it came from.

    spoke: which half of the memory the answer is from; "none" when neither knew (the text is then
      the base model's own answer, or "I don't know.").
    by: who wrote the words: "model", "llm" (the endpoint) or "extract" (a stored value or line, no model).
    sources: ids of the events that the answer rests on. tokens: of the prompt.
    version: id of the weight version that was read, None when no weights were.
    """

    text: str
    spoke: Spoke
    by: Literal["model", "llm", "extract"]
    sources: list[str]
    memory_ids: list[str]
    tokens: int
    milliseconds: float
    version: str | None
    arm: Arm
    halves: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LearnReport:
    """What one `learn` did, in counts and milliseconds; `version` is the head after it.

    waiting: memories that are stored as text but have no question yet (no writer has spoken).
    failed: events that stay pending, with the reason in `errors`; nothing of them is lost.
    kept_out: memories that a gate newly kept out of the weights; they stay text.
    forget_requests: (event id, what to forget): found, never carried out by `learn`.
    """

    events: int = 0
    memories: int = 0
    superseded: int = 0
    updates: int = 0
    promoted: int = 0
    skipped: int = 0
    waiting: int = 0
    failed: int = 0
    kept_out: int = 0
    errors: tuple[str, ...] = ()
    forget_requests: tuple[tuple[str, str], ...] = ()
    learned: tuple[str, ...] = ()
    version: str | None = None
    digest: str | None = None
    ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a derivation: what `kind` of thing, its id, and a line a person can read."""

    kind: Literal["event", "memory", "update", "version"]
    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Why:
    """Where something came from: `steps` from the source events to the weights."""

    id: str
    sources: list[str]
    steps: list[Step]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What `Memory.respond` says to one chat message. `did` names the kind of turn."""

    text: str
    did: Literal["learned", "forgot", "answered", "listened"]
    event_ids: list[str]
    learned: list[str] = field(default_factory=list)
    answer: Answer | None = None
