"""What is judged: anything that observes messages, answers questions and forgets. Protocols and plain values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from nestmem.agent.types import Chat
from nestmem.embedders import Embedder
from nestmem.errors import NestmemError
from nestmem.evals.datasets.base import Stream, Turn


class NotSupported(NestmemError):
    """A system was asked for what it cannot do (to forget, say). The run counts it and says so in the report."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A turn that a system found, with its score (higher is closer; comparable within one ranking)."""

    turn: str
    session: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader made of a question and what was recalled for it. text: None when there is no reader.
    prompt: the chat as it was sent; where a memory asked its model in several ways, those chats one after another.
    tokens_in, tokens_out: of all that was sent and of the text, at 4 characters each. failed: why there is no
    answer ("refused: ...", "empty", "error: ..."); a failed reading counts as wrong, never as left out."""

    text: str | None
    prompt: Chat = field(default_factory=list)
    tokens_in: int = 0
    tokens_out: int = 0
    failed: str | None = None


class Reader(Protocol):
    """Answers a question from recalled text. Deterministic for one seed where the model behind it is."""

    @property
    def name(self) -> str: ...

    def read(self, question: str, context: str, *, at: datetime | None) -> Reading:
        """The answer to `question` ("asked at" `at`), given `context`; an empty context is the bare model."""
        ...

    def write(self, instruction: str, text: str, *, max_tokens: int) -> str | None:
        """What the reader's model writes about `text` (a summary); None when there is no model."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a system answers. reading: with what was said, None in it without a reader.

    context: the text of the past that was put before the reader, within the budget; shown: ids of the turns it
    is made of. ranked: turns by closeness, best first, deeper than the context; empty where nothing is ranked.
    spoke: which half of a memory the answer came from, where a system has halves; halves: by whom the answer is and
    what each half said ("by: model", "text: Biscuit", "weights: Rook"). notes: what the reader of the
    results should know (an arm that was not there).
    """

    reading: Reading
    context: str = ""
    shown: tuple[str, ...] = ()
    ranked: tuple[Hit, ...] = ()
    spoke: str | None = None
    notes: tuple[str, ...] = ()
    halves: tuple[str, ...] = ()


class System(Protocol):
    """One memory, for any number of scopes (users). The laws: what is observed in one scope is never answered
    from in another; answering changes nothing that a later answer depends on; the same calls give the same
    replies."""

    def observe(self, message: Turn, time: datetime | None, scope: str) -> None:
        """Takes one message."""
        ...

    def settle(self, scope: str) -> None:
        """A session of `scope` is over, or questions follow: what a system does in idle time it does now."""
        ...

    def answer(self, question: str, time: datetime | None, scope: str) -> Reply:
        """Answers, with nothing in the context but what the system itself brings."""
        ...

    def forget(self, turns: Sequence[str], scope: str) -> None:
        """Forgets the messages with these turn ids. Raises NotSupported when the system cannot."""
        ...

    def probe(self, question: str, candidates: Sequence[str], scope: str) -> list[float] | None:
        """Mean log-probability (nats per token) of each candidate as the answer, with nothing in the context;
        None when the system has no weights that learn."""
        ...

    def bytes(self, scope: str) -> int:
        """What the system keeps for this scope, in bytes."""
        ...

    def close(self) -> None:
        """Frees what is held."""
        ...


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a system is made from. folder: its own, empty. key: all that it will be told and asked, with the evidence;
    None but for kinds that say they read it. donor: the turns of another stream, for a placebo; None when there is
    none. budget_tokens: of recalled text, a token being 4 characters; window_tokens: of a whole context. depth: how
    many turns `ranked` holds. api_key: for systems behind a URL."""

    folder: Path
    key: Stream | None
    donor: Stream | None
    reader: Reader
    embedder: Embedder | None
    budget_tokens: int = 2000
    window_tokens: int = 128_000
    depth: int = 50
    seed: int = 0
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A system by name. make(setup, **options): options are texts or whole numbers with the defaults given here.
    about: one line for `nestmem eval systems`. needs: "embedder" or an extra's package, for a clear error.
    reads_key: it is a fake that must know the evidence. remote: it lives elsewhere and keeps what it is told, so it is
    never tried out to learn what it costs."""

    name: str
    about: str
    make: Callable[..., System]
    options: dict[str, int | str] = field(default_factory=dict)
    needs: str | None = None
    reads_key: bool = False
    remote: bool = False
