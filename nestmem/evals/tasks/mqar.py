"""Multi-query associative recall (Zoology, arXiv 2312.04927, section 4 and appendix).

A sequence opens with `pairs` pairs of a key and a value. Later each key comes once more, and the token after it
must be its value; filler stands between. Keys are drawn without replacement from the lower half of the
vocabulary, values from the upper half; token 0 is blank.

    >>> task = Mqar(vocab_size=12, pairs=2, length=12, filler="blank")
    >>> batch = task.batch(0, 1)
    >>> batch.input_ids[0].tolist()
    [4, 8, 2, 10, 4, 8, 2, 10, 0, 0, 0, 0]
    >>> batch.labels[0].tolist()
    [-100, -100, -100, -100, -100, 8, -100, 10, -100, -100, -100, -100]

The distance from the pairs to a query follows a power law, p(slot) ~ slot ** (power - 1), as repeated bigrams
do in text; power 1 is uniform. A slot is two tokens, the query and its answer.

Where we differ from the published generator: the answer stands in the input after its query (there it is
asked but not shown; each key is asked once, so it tells nothing about another), and filler of the kind
"noise" never repeats a key of the sequence (there it may, which makes some queries ambiguous).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nestmem.errors import InputError
from nestmem.evals.tasks.base import (
    IGNORE,
    Batch,
    FixedLength,
    make_batch,
)

FILLERS = ("noise", "blank")


@dataclass(frozen=True, kw_only=True)
class Mqar(FixedLength):
    """Multi-query associative recall.

    vocab_size: even; 8192 in the paper. pairs: how many are told and asked. length: tokens of a training
    sequence, even, at least 4 * pairs. lengths: test lengths. power: see above; 0.01 in the paper. filler:
    "noise" (random tokens that are no key of the sequence) or "blank" (token 0).
    """

    vocab_size: int = 256
    pairs: int = 8
    length: int = 64
    lengths: tuple[int, ...] = (64, 128, 256)
    power: float = 0.01
    filler: str = "noise"
    seed: int = 0

    version: ClassVar[str] = "mqar/1"

    def __post_init__(self) -> None:
        if self.vocab_size % 2 or self.vocab_size < 4:
            raise InputError(f"vocab_size is {self.vocab_size}; expected an even number of at least 4")
        if not 1 <= self.pairs <= self.vocab_size // 2 - 2:
            raise InputError(
                f"pairs is {self.pairs}; expected 1 to {self.vocab_size // 2 - 2}, so that half of vocab_size "
                f"({self.vocab_size}) names them all; give a larger vocab_size or fewer pairs"
            )
        if self.filler not in FILLERS:
            raise InputError(f"filler is {self.filler!r}; expected one of {', '.join(FILLERS)}")
        if self.power <= 0:
            raise InputError(f"power is {self.power}; expected above 0 (1 is uniform, 0.01 as in the paper)")
        self._check_lengths()

    @property
    def name(self) -> str:
        return "mqar"

    def _check(self, length: int) -> None:
        if length % 2 or length < 4 * self.pairs:
            raise InputError(
                f"length is {length}; expected an even number of at least {4 * self.pairs}, to tell and ask "
                f"{self.pairs} pairs; give a larger length or fewer pairs"
            )

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens."""
        half, told = self.vocab_size // 2, 2 * self.pairs
        shuffled = 1 + rng.random((size, half - 1)).argsort(axis=1)
        keys, others = shuffled[:, : self.pairs], shuffled[:, self.pairs :]
        values = half + rng.random((size, half)).argsort(axis=1)[:, : self.pairs]
        if self.filler == "noise":
            # Half of the filler comes from the keys that the sequence does not use, half from the values.
            picked = np.take_along_axis(others, rng.integers(others.shape[1], size=(size, length)), axis=1)
            tokens = np.where(
                rng.random((size, length)) < 0.5, picked, rng.integers(half, 2 * half, (size, length))
            )
        else:
            tokens = np.zeros((size, length), dtype=np.int64)
        tokens[:, 0:told:2], tokens[:, 1:told:2] = keys, values
        asked = told + 2 * self._slots(rng, size, (length - told) // 2)
        np.put_along_axis(tokens, asked, keys, axis=1)
        np.put_along_axis(tokens, asked + 1, values, axis=1)
        labels = np.full((size, length), IGNORE, dtype=np.int64)
        np.put_along_axis(labels, asked + 1, values, axis=1)
        return make_batch(tokens, labels)

    def _slots(self, rng: np.random.Generator, size: int, space: int) -> np.ndarray:
        """[B, pairs] distinct slots, drawn one after another by the power law (the Gumbel top-k trick)."""
        log_p = (self.power - 1) * np.log(np.arange(1, space + 1))
        return np.argsort(-(log_p + rng.gumbel(size=(size, space))), axis=1)[:, : self.pairs]
