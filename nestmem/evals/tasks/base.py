"""What every synthetic task shares: a batch, how it is drawn, and how answers are judged.

    Legend: B sequences, T tokens, V vocabulary.

A task is a frozen value. `batch(step, size)` is a function of the task's fields, the split, the length and the
step alone, so a run can be resumed, and two models see the same data in the same order.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nestmem.errors import InputError
from nestmem.evals.stats import clustered_mean, clustered_share

IGNORE = -100
SPLITS = ("train", "validation", "test")

# A number of tokens, or a range (shortest, longest) of lengths, both ends included.
Length = int | tuple[int, int]
# input_ids [B, T] -> logits [B, T, V].
LogitsFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences and what is asked in them.

    input_ids [B, T] int64. labels [B, T] int64: `labels[b, t]` is what the logits at t - 1 must say, having
    read the tokens 0 .. t - 1; -100 where nothing is asked. That is the convention of Hugging Face models,
    which shift inside: `model(input_ids=batch.input_ids, labels=batch.labels).loss` is the training loss.
    Column 0 is never asked, for nothing was read before it.
    """

    input_ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return Batch(input_ids=self.input_ids.to(device), labels=self.labels.to(device))


class Task(Protocol):
    """A generator of training and test batches over a small vocabulary, and its scorer.

    `train_length` is what `batch` draws when no length is given; `test_lengths` are what it is judged at,
    the last ones longer than in training. `version` changes when a batch or a score does.
    """

    version: ClassVar[str]

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def train_length(self) -> Length: ...
    @property
    def test_lengths(self) -> tuple[Length, ...]: ...

    def batch(self, step: int, size: int, *, length: Length | None = None, split: str = "train") -> Batch: ...
    def score(self, logits: Tensor, batch: Batch) -> Tensor: ...
    def token_accuracy(self, logits: Tensor, batch: Batch) -> Tensor: ...


class Scored:
    """How an answer is judged in every task here: each asked position, and all of them together."""

    def score(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B] bool: every asked position of a sequence is right. logits [B, T, V]."""
        return exact_match(logits, batch)

    def token_accuracy(self, logits: Tensor, batch: Batch) -> Tensor:
        """[B]: the share of a sequence's asked positions that are right. logits [B, T, V]."""
        return token_accuracy(logits, batch)


class FixedLength(Scored, ABC):
    """A task whose sequences have `length` tokens in training and `lengths` in the tests."""

    name: str
    length: int
    lengths: tuple[int, ...]
    seed: int

    @property
    def train_length(self) -> int:
        """Tokens of a training sequence."""
        return self.length

    @property
    def test_lengths(self) -> tuple[int, ...]:
        """Tokens of test sequences, the last ones longer than in training."""
        return self.lengths

    def batch(self, step: int, size: int, *, length: Length | None = None, split: str = "train") -> Batch:
        """`size` sequences of `length` tokens each, the training length when None. InputError for one too short."""
        tokens = one_length(self.name, self.length if length is None else length)
        self._check(tokens)
        return self._draw(generator(self.name, self.seed, split, step, size, tokens), size, tokens, split)

    def _check(self, length: int) -> None:
        """Raise InputError for a length that the task does not fit in."""

    def _check_lengths(self) -> None:
        for length in (self.length, *self.lengths):
            self._check(length)

    @abstractmethod
    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens, which fit."""


def generator(name: str, seed: int, split: str, step: int, size: int, length: Length) -> np.random.Generator:
    """The random numbers of one batch. Splits, steps, seeds, lengths and tasks have streams of their own."""
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if step < 0 or seed < 0:
        raise InputError(f"step is {step} and seed {seed}; expected numbers from 0 up")
    if size < 1:
        raise InputError(f"size is {size}; expected at least 1 sequence in a batch")
    ends = length if isinstance(length, tuple) else (length, length)
    return np.random.default_rng([zlib.crc32(name.encode()), seed, SPLITS.index(split), step, *ends])


def one_length(task: str, length: Length) -> int:
    """The length of a task whose sequences of one batch all have the same."""
    if isinstance(length, tuple):
        raise InputError(f"length is {length}; {task} draws sequences of one length: give a number of tokens")
    return length


def make_batch(input_ids: np.ndarray, labels: np.ndarray) -> Batch:
    """A batch from two integer arrays [B, T]."""
    return Batch(
        input_ids=torch.from_numpy(np.ascontiguousarray(input_ids, dtype=np.int64)),
        labels=torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)),
    )


def exact_match(logits: Tensor, batch: Batch) -> Tensor:
    """[B] bool: is every asked position of a sequence right? logits [B, T, V].

    Answers stand in the input, so the logits at an answer's second token have read its first. Where all are
    right, greedy decoding from the question gives the same answer, for it takes the same tokens one by one.
    """
    right, asked = _right(logits, batch)
    return (right | ~asked).all(dim=1)


def token_accuracy(logits: Tensor, batch: Batch) -> Tensor:
    """[B] float32: the share of a sequence's asked positions that are right. logits [B, T, V]."""
    right, asked = _right(logits, batch)
    return (right & asked).sum(dim=1) / asked.sum(dim=1).clamp(min=1)


def answer_loss(logits: Tensor, batch: Batch) -> Tensor:
    """[B] float32: mean cross-entropy over a sequence's asked positions, in nats. logits [B, T, V]."""
    labels = batch.labels[:, 1:]
    flat = functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return flat.view_as(labels).sum(dim=1) / (labels != IGNORE).sum(dim=1).clamp(min=1)


def _right(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    if logits.shape[:2] != batch.labels.shape:
        raise InputError(
            f"the logits have shape {tuple(logits.shape)}; expected {tuple(batch.labels.shape)} and the vocabulary"
        )
    labels = batch.labels[:, 1:]
    return logits[:, :-1].argmax(dim=-1) == labels, labels != IGNORE


class Logits(nn.Module):
    """A language model as a module input_ids [B, T] -> logits [B, T, V], which is what tasks train and judge."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids).logits


@torch.no_grad()
def judge(
    task: Task,
    logits_fn: LogitsFunction,
    *,
    examples: int = 256,
    batch_size: int = 64,
    lengths: Sequence[Length] | None = None,
    split: str = "test",
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Judges a model on a task: {"64": {"exact", "tokens", "loss", "n"}, ...} by length ("2-50" for a range).

    exact: share of sequences with every asked position right, with Wilson's interval; tokens: mean share of
    right positions; loss: nats per asked position. Each with its standard error over sequences. The sequences
    are the same for every model. `logits_fn` must be ready to be judged (a module in eval mode).
    """
    if examples < 1:
        raise InputError(f"examples is {examples}; expected at least 1")
    found = {}
    for length in task.test_lengths if lengths is None else lengths:
        exact: list[float] = []
        tokens: list[float] = []
        loss: list[float] = []
        for step, start in enumerate(range(0, examples, batch_size)):
            batch = task.batch(step, min(batch_size, examples - start), length=length, split=split).to(device)
            logits = logits_fn(batch.input_ids)
            exact += task.score(logits, batch).tolist()
            tokens += task.token_accuracy(logits, batch).tolist()
            loss += answer_loss(logits, batch).tolist()
        each = range(len(exact))
        found[show_length(length)] = {
            "exact": clustered_share(exact, each).record(),
            "tokens": clustered_mean(tokens, each).record(),
            "loss": clustered_mean(loss, each).record(),
            "n": len(exact),
        }
    return found


def show_length(length: Length) -> str:
    """A length as a key of a record.

    >>> show_length(64), show_length((2, 50))
    ('64', '2-50')
    """
    return f"{length[0]}-{length[1]}" if isinstance(length, tuple) else str(length)
