"""The MAD set: mechanistic architecture design (arXiv 2403.17844, section 3.1 and appendix B).

Six small tasks, each for one ability of a sequence model. Sizes are those of the paper's baseline; its harder
settings are options. The measure of the paper is the token accuracy; the score of a whole sequence stands beside it.

    recall        in-context recall: pairs of a key and a value, each value asked when its key comes again
    noisy_recall  the same, with tokens of noise between the pairs
    fuzzy_recall  keys and values of one to three tokens
    copying       selective copying: repeat the tokens of a sequence in order, without its blanks
    compression   all of a sequence must be read out of one vector, the one at its last token
    memorization  a fixed table of keys and values, learned in training, asked in the test

    >>> task = Recall(vocab_size=8, length=12, lengths=(12,))
    >>> batch = task.batch(1, 1)
    >>> batch.input_ids[0].tolist()
    [3, 6, 0, 7, 1, 6, 0, 7, 3, 6, 3, 6]
    >>> batch.labels[0].tolist()
    [-100, -100, -100, -100, -100, -100, -100, 7, -100, 6, -100, 6]

Where we differ: answers of the three kinds of recall stand in the input after their keys, as there; but here the
training loss, too, counts the answers only (there every next token, most of which are random). In fuzzy recall
the motifs of a test have the sizes of training (there keys of tests have the largest).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nestmem.errors import InputError
from nestmem.evals.tasks.base import (
    IGNORE,
    Batch,
    FixedLength,
    make_batch,
)


@dataclass(frozen=True, kw_only=True)
class Recall(FixedLength):
    """In-context recall, with noise when `noise` > 0.

    Tokens: keys, then values (half of what is not noise each), then `noise_vocab` tokens of noise. A key has one
    value in a sequence; it is drawn anew for each. Pairs are drawn at random, so a key comes again and again; its
    value is asked each time but the first. The last pair always repeats an earlier key. `noise` is the share
    of pairs that are two tokens of noise instead.
    """

    vocab_size: int = 16
    length: int = 128
    lengths: tuple[int, ...] = (128, 256, 512)
    noise: float = 0.0
    noise_vocab: int = 0
    seed: int = 0

    version: ClassVar[str] = "mad-recall/1"

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 1:
            raise InputError(f"noise is {self.noise}; expected a share from 0 up, below 1")
        if self.noise > 0 and self.noise_vocab < 1:
            raise InputError(
                f"noise is {self.noise} with noise_vocab={self.noise_vocab}; expected at least 1"
            )
        if self.vocab_size - self.noise_vocab < 2:
            raise InputError(
                f"vocab_size is {self.vocab_size} with {self.noise_vocab} for noise; expected at least 2 more"
            )
        self._check_lengths()

    @property
    def name(self) -> str:
        return "mad_noisy_recall" if self.noise > 0 else "mad_recall"

    def _check(self, length: int) -> None:
        if length % 2 or length < 4:
            raise InputError(f"length is {length}; expected an even number of at least 4, for two pairs")

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens."""
        rows, pairs = np.arange(size), length // 2
        words = self.vocab_size - self.noise_vocab
        keys = rng.integers(words // 2, size=(size, pairs))
        values = rng.integers(words // 2, words, (size, words // 2))
        noisy = rng.random((size, pairs)) < self.noise
        # One pair before the last is told for sure, and the last repeats one that was.
        noisy[rows, rng.integers(pairs - 1, size=size)] = False
        noisy[:, -1] = False
        chance = np.where(noisy, -1.0, rng.random((size, pairs)))[:, :-1]
        keys[:, -1] = keys[rows, chance.argmax(axis=1)]
        tokens = np.stack([keys, np.take_along_axis(values, keys, axis=1)], axis=2)
        if self.noise > 0:
            hay = rng.integers(words, self.vocab_size, tokens.shape)
            tokens = np.where(noisy[:, :, None], hay, tokens)
        labels = np.full_like(tokens, IGNORE)
        labels[:, :, 1] = np.where(~noisy & _seen_before(keys, ~noisy), tokens[:, :, 1], IGNORE)
        return make_batch(tokens.reshape(size, length), labels.reshape(size, length))


def _seen_before(keys: np.ndarray, told: np.ndarray) -> np.ndarray:
    """[B, P] bool: was the key of pair p told in an earlier pair?"""
    one_hot = (keys[:, :, None] == np.arange(keys.max() + 1)) & told[:, :, None]
    counts = np.cumsum(one_hot, axis=1) - one_hot
    return np.take_along_axis(counts, keys[:, :, None], axis=2)[:, :, 0] > 0


@dataclass(frozen=True, kw_only=True)
class FuzzyRecall(FixedLength):
    """In-context recall of keys and values of 1 to `motif` tokens.

    The last token of the vocabulary is padding, which stands in front; keys are motifs of different tokens of the
    first half of the others, values of the second half. The last pair always repeats an earlier key.
    """

    vocab_size: int = 16
    motif: int = 3
    length: int = 128
    lengths: tuple[int, ...] = (128, 256)
    seed: int = 0

    version: ClassVar[str] = "mad-fuzzy-recall/1"

    def __post_init__(self) -> None:
        if self.motif < 1 or (self.vocab_size - 1) // 2 < self.motif:
            raise InputError(
                f"motif is {self.motif} with vocab_size {self.vocab_size}; expected at least 1, and a vocabulary of "
                f"at least {2 * max(self.motif, 1) + 1}, so that each half holds a motif of different tokens"
            )
        self._check_lengths()

    @property
    def name(self) -> str:
        return "mad_fuzzy_recall"

    def _check(self, length: int) -> None:
        if length < 4 * self.motif:
            raise InputError(
                f"length is {length}; expected at least {4 * self.motif}, for two pairs of motifs of {self.motif}"
            )

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens."""
        half, words = (self.vocab_size - 1) // 2, self.vocab_size - 1
        # As many pairs as could ever be needed, drawn at once; a row takes from the front of its own.
        pairs = length // 2
        keys = rng.random((size, pairs, half)).argsort(axis=2)[:, :, : self.motif].tolist()
        values = half + rng.random((size, pairs, words - half)).argsort(axis=2)[:, :, : self.motif]
        sizes = rng.integers(1, self.motif + 1, (size, pairs, 2)).tolist()
        again = rng.random(size)
        tokens = np.full((size, length), self.vocab_size - 1, dtype=np.int64)
        labels = np.full((size, length), IGNORE, dtype=np.int64)
        for row, row_values in enumerate(values.tolist()):
            known: dict[tuple[int, ...], list[int]] = {}
            text: list[int] = []
            asked: list[int] = []
            for key, value, (key_size, value_size) in zip(keys[row], row_values, sizes[row], strict=True):
                motif = tuple(key[:key_size])
                answer = known[motif] if motif in known else value[:value_size]
                if len(text) + key_size + len(answer) > length - 2 * self.motif:
                    break
                text += [*motif, *answer]
                asked += [IGNORE] * key_size + (answer if motif in known else [IGNORE] * len(answer))
                known[motif] = answer
            motif = list(known)[int(again[row] * len(known))]
            text += [*motif, *known[motif]]
            asked += [IGNORE] * len(motif) + known[motif]
            tokens[row, length - len(text) :] = text
            labels[row, length - len(text) :] = asked
        return make_batch(tokens, labels)


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(FixedLength):
    """Selective copying: `copied` random tokens among blanks, a copy token, then as many blanks.

    The last two tokens of the vocabulary are blank and copy. The copy token and the blanks behind it ask for the
    tokens in order; answers are not in the input, as in the paper.
    """

    vocab_size: int = 16
    copied: int = 16
    length: int = 256
    lengths: tuple[int, ...] = (256, 512)
    seed: int = 0

    version: ClassVar[str] = "mad-copying/1"

    def __post_init__(self) -> None:
        if self.vocab_size < 3 or self.copied < 1:
            raise InputError(
                f"vocab_size is {self.vocab_size} and copied {self.copied}; expected at least 3 and 1"
            )
        self._check_lengths()

    @property
    def name(self) -> str:
        return "mad_copying"

    def _check(self, length: int) -> None:
        if length < 2 * self.copied + 1:
            raise InputError(
                f"length is {length}; expected at least {2 * self.copied + 1}, to tell and ask {self.copied} tokens; "
                "give a larger length or fewer tokens to copy"
            )

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens."""
        blank, copy = self.vocab_size - 2, self.vocab_size - 1
        told = rng.integers(blank, size=(size, self.copied))
        space = length - self.copied - 1
        places = np.sort(rng.random((size, space)).argsort(axis=1)[:, : self.copied], axis=1)
        tokens = np.full((size, length), blank, dtype=np.int64)
        np.put_along_axis(tokens, places, told, axis=1)
        tokens[:, space] = copy
        labels = np.full((size, length), IGNORE, dtype=np.int64)
        labels[:, space + 1 :] = told
        return make_batch(tokens, labels)


@dataclass(frozen=True, kw_only=True)
class Memorization(FixedLength):
    """A table of keys and values, the same in training and test, that a model must hold in its parameters.

    Keys are the first half of the vocabulary without its last token, values the second; the table is a function of
    `table_seed`. A sequence is keys, each followed by the last token of the vocabulary, whose place asks for the
    value; values are never in the input.
    """

    vocab_size: int = 256
    length: int = 32
    lengths: tuple[int, ...] = (32,)
    table_seed: int = 12345
    seed: int = 0

    version: ClassVar[str] = "mad-memorization/1"

    def __post_init__(self) -> None:
        if self.vocab_size < 3:
            raise InputError(
                f"vocab_size is {self.vocab_size}; expected at least 3: a key, a value, a question"
            )
        self._check_lengths()

    @property
    def name(self) -> str:
        return "mad_memorization"

    def _check(self, length: int) -> None:
        if length % 2 or length < 2:
            raise InputError(
                f"length is {length}; expected an even number of at least 2, a key and its question"
            )

    @property
    def table(self) -> np.ndarray:
        """[keys] the value of each key."""
        half = (self.vocab_size - 1) // 2
        return half + np.random.default_rng(self.table_seed).permutation(self.vocab_size - 1 - half)[:half]

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens."""
        table = self.table
        keys = rng.integers(len(table), size=(size, length // 2))
        tokens = np.full((size, length), self.vocab_size - 1, dtype=np.int64)
        tokens[:, 0::2] = keys
        labels = np.full((size, length), IGNORE, dtype=np.int64)
        labels[:, 1::2] = table[keys]
        return make_batch(tokens, labels)


@dataclass(frozen=True, kw_only=True)
class Compression(FixedLength):
    """Random tokens, and a last token at which the whole sequence must be held in one vector.

    A start token, random tokens, a compression token; all random tokens are asked. A model alone would be asked for
    tokens it has not read: `AutoEncoder(task, model)` gives logits that were read from the last position only. That
    vector is the model's logits, a linear map of its last hidden state, so `vocab_size` is its width, at least the
    width of the model for nothing to be lost; `words` of it are the random tokens.
    """

    words: int = 15
    vocab_size: int = 128
    length: int = 34
    lengths: tuple[int, ...] = (34,)
    seed: int = 0

    version: ClassVar[str] = "mad-compression/1"

    def __post_init__(self) -> None:
        if self.words < 2 or self.vocab_size < self.words + 2:
            raise InputError(
                f"words is {self.words} with vocab_size {self.vocab_size}; expected at least 2 words, and a "
                "vocabulary of 2 tokens more for start and compression"
            )
        self._check_lengths()

    @property
    def name(self) -> str:
        return "mad_compression"

    def _check(self, length: int) -> None:
        if length < 3:
            raise InputError(f"length is {length}; expected at least 3: start, one token, compression")

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens, two of them the task's own."""
        tokens = rng.integers(self.words, size=(size, length))
        tokens[:, 0], tokens[:, -1] = self.words, self.words + 1
        labels = np.full((size, length), IGNORE, dtype=np.int64)
        labels[:, 1:-1] = tokens[:, 1:-1]
        return make_batch(tokens, labels)


class AutoEncoder(nn.Module):
    """A model and a decoder that reads its last position only (the paper's appendix B.3).

        code = model(input_ids).logits[:, -1]           [B, V]
        logits[:, t] = MLP(W code + p_t)                [B, words], p_t a learned vector of the position

    Train and judge it as the model: `logits[:, t]` says token t + 1, in the convention of the labels.
    """

    def __init__(self, task: Compression, model: nn.Module, *, width: int = 128) -> None:
        super().__init__()
        self.model = model
        longest = max(task.length, *task.lengths)
        self.inward = nn.Linear(task.vocab_size, width)
        self.place = nn.Parameter(torch.randn(longest, width) * width**-0.5)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.head = nn.Linear(2 * width, task.words)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids [B, T] -> logits [B, T, words]."""
        if input_ids.shape[1] > len(self.place):
            raise InputError(
                f"{input_ids.shape[1]} tokens to read back; this decoder has positions for {len(self.place)}: "
                "give the task larger lengths before it is made"
            )
        code = self.inward(self.model(input_ids=input_ids).logits[:, -1])
        return self.head(self.out(code[:, None] + self.place[: input_ids.shape[1]]))
