"""Formal languages: parity, (aa)*, (abab)*, a^n b^n, a^n b^n c^n, Shuffle-2 (Nested Learning, Table 5).

The protocol is that of the literature the table stands in (Bhattamishra et al., arXiv 2009.11264, sections 4-6):
a string of the language is read symbol by symbol, and after each symbol the model says which symbols may come
next, the end of the string among them. A string counts when it is right after every one of its symbols; that is
the accuracy of the table. Bin 0 has the lengths of training (2 to 50), bin 1 longer strings (51 to 100).

Each language has few different sets of symbols that may follow, so a set is one answer token, and a softmax over
tokens asks what k independent sigmoids ask there. Parity has no illegal continuation: its answer is
the state, "even" (the string so far is a member: the number of 1s is even, the string may end) or "odd".

The answer after symbol t is `labels[:, t + 1]`, which the logits at t must say. Answers are not in the input:
a model must keep the state of the language itself.

    >>> task = Formal(language="anbn")
    >>> batch = task.batch(0, 1, length=6)
    >>> [task.symbols[i] for i in batch.input_ids[0]]
    ['a', 'a', 'a', 'b', 'b', 'b', '<end>']
    >>> [task.symbols[i] if i >= 0 else None for i in batch.labels[0]]
    [None, '{a,b}', '{a,b}', '{a,b}', '{b}', '{b}', '{end}']

The languages and how their strings are drawn:

- parity: 0s and 1s, each with probability 1/2, of any length.
- aa: (aa)*, a string of an even number of a. The set is {a,end} after an even number, {a} after an odd one.
- abab: (abab)*. {a,end} at 0 mod 4, {b} at 1, {a} at 2, {b} at 3.
- anbn, anbncn: n >= 1. {a,b} after an a, then what is left, {end} at last.
- shuffle2: two kinds of brackets, each balanced, shuffled in any way. Both opening ones may always follow; the
  answer says which closing ones may (none, the first, the second, both), and the string may end where none may.
  A uniform Dyck word of each kind, their lengths from a fair coin a pair, shuffled uniformly.

(aa)*, (abab)*, a^n b^n and a^n b^n c^n have one string a length: train and test strings of bin 0 are the same
strings whatever is drawn, so for them bin 0 says that a model fits, and bin 1 that it learned the language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nestmem.errors import InputError
from nestmem.evals.tasks.base import (
    IGNORE,
    Batch,
    Length,
    Scored,
    generator,
    make_batch,
)

ASKS = ("every", "last")


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language. `draw(rng, n)` gives a string of length n as places in `alphabet`, and `answers(string)`
    the place in `sets` after each of its symbols. Strings have lengths that are multiples of `step`."""

    alphabet: tuple[str, ...]
    sets: tuple[str, ...]
    step: int
    draw: Callable[[np.random.Generator, int], np.ndarray]
    answers: Callable[[np.ndarray], np.ndarray]


def _bits(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(2, size=n)


def _parities(string: np.ndarray) -> np.ndarray:
    return np.cumsum(string) % 2


def _blocks(letters: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """a^n b^n ... with this many letters."""
    return lambda rng, n: np.repeat(np.arange(letters), n // letters)


def _block_answers(letters: int) -> Callable[[np.ndarray], np.ndarray]:
    """0 = {a,b} after an a, i = {letter i} while some of it is left, the last = {end}."""

    def answers(string: np.ndarray) -> np.ndarray:
        n = len(string) // letters
        place = np.arange(1, len(string) + 1)
        return np.where(place <= n, 0, place // n)

    return answers


def _dyck(rng: np.random.Generator, pairs: int) -> np.ndarray:
    """A uniform balanced word, 0 opens and 1 closes: the one good rotation of a random word with a step
    too many downwards (the cycle lemma)."""
    steps = np.ones(2 * pairs + 1, dtype=np.int64)
    steps[pairs:] = -1
    rng.shuffle(steps)
    lowest = int(np.argmin(np.cumsum(steps)))
    rotated = np.roll(steps, -(lowest + 1))
    return (rotated[:-1] < 0).astype(np.int64)


def _shuffled(rng: np.random.Generator, n: int) -> np.ndarray:
    """( is 0, ) 1, [ 2, ] 3."""
    first = 2 * int(rng.binomial(n // 2, 0.5))
    string = np.empty(n, dtype=np.int64)
    places = rng.permutation(n)
    string[np.sort(places[:first])] = _dyck(rng, first // 2)
    string[np.sort(places[first:])] = 2 + _dyck(rng, (n - first) // 2)
    return string


def _open_kinds(string: np.ndarray) -> np.ndarray:
    """1 when a ( is open, plus 2 when a [ is open."""
    depth = [np.cumsum((string == opens).astype(int) - (string == opens + 1)) for opens in (0, 2)]
    return (depth[0] > 0) + 2 * (depth[1] > 0)


LANGUAGES: dict[str, Language] = {
    "parity": Language(alphabet=("0", "1"), sets=("{even}", "{odd}"), step=1, draw=_bits, answers=_parities),
    "aa": Language(
        alphabet=("a",),
        sets=("{a,end}", "{a}"),
        step=2,
        draw=lambda rng, n: np.zeros(n, dtype=np.int64),
        answers=lambda string: np.arange(1, len(string) + 1) % 2,
    ),
    "abab": Language(
        alphabet=("a", "b"),
        sets=("{a,end}", "{b}", "{a}"),
        step=4,
        draw=lambda rng, n: np.arange(n) % 2,
        answers=lambda string: np.array([0, 1, 2, 1])[np.arange(1, len(string) + 1) % 4],
    ),
    "anbn": Language(
        alphabet=("a", "b"),
        sets=("{a,b}", "{b}", "{end}"),
        step=2,
        draw=_blocks(2),
        answers=_block_answers(2),
    ),
    "anbncn": Language(
        alphabet=("a", "b", "c"),
        sets=("{a,b}", "{b}", "{c}", "{end}"),
        step=3,
        draw=_blocks(3),
        answers=_block_answers(3),
    ),
    "shuffle2": Language(
        alphabet=("(", ")", "[", "]"),
        sets=("{end}", "{)}", "{]}", "{),]}"),
        step=2,
        draw=_shuffled,
        answers=_open_kinds,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Formal(Scored):
    """Reading a string of a formal language, and saying after each symbol what may follow.

    language: a name in LANGUAGES. lengths: shortest and longest training string, both included; bins: the same
    for the tests. Lengths are drawn uniformly from those the language has. ask: "every" asks after each symbol;
    "last" (parity only) after the last one, with nothing said about the states between.

    Sequences are padded on the right with `<end>` to the longest length + 1 of their range, so all batches of
    a range have one shape; nothing is asked behind a string's own answers.
    """

    language: str = "parity"
    lengths: tuple[int, int] = (2, 50)
    bins: tuple[tuple[int, int], ...] = ((2, 50), (51, 100))
    ask: str = "every"
    seed: int = 0

    version: ClassVar[str] = "formal/1"

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise InputError(f"language is {self.language!r}; expected one of {', '.join(LANGUAGES)}")
        if self.ask not in ASKS:
            raise InputError(f"ask is {self.ask!r}; expected one of {', '.join(ASKS)}")
        if self.ask == "last" and self.language != "parity":
            raise InputError(
                f"ask='last' has a single answer for {self.language}, whose strings are all members; "
                "give ask='every', or language='parity'"
            )
        for lengths in (self.lengths, *self.bins):
            self._choices(lengths)

    @property
    def name(self) -> str:
        return self.language

    @property
    def train_length(self) -> tuple[int, int]:
        return self.lengths

    @property
    def test_lengths(self) -> tuple[tuple[int, int], ...]:
        return self.bins

    @property
    def symbols(self) -> tuple[str, ...]:
        """What each token is: `<end>`, the alphabet, the answers."""
        language = LANGUAGES[self.language]
        return ("<end>", *language.alphabet, *language.sets)

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def _choices(self, length: Length) -> np.ndarray:
        """The lengths that strings of this language have within a range."""
        low, high = length if isinstance(length, tuple) else (length, length)
        step = LANGUAGES[self.language].step
        choices = np.arange(-(-max(low, 1) // step) * step, high + 1, step)
        if not len(choices):
            raise InputError(
                f"length is {length}; strings of {self.language} have lengths that are multiples of {step}, "
                "from there up; give such a length or a range (shortest, longest) that holds one"
            )
        return choices

    def batch(self, step: int, size: int, *, length: Length | None = None, split: str = "train") -> Batch:
        """`size` strings with lengths from a range (the training range when None), or of one length."""
        length = self.lengths if length is None else length
        choices = self._choices(length)
        rng = generator(self.name, self.seed, split, step, size, length)
        language = LANGUAGES[self.language]
        columns = (length[1] if isinstance(length, tuple) else length) + 1
        tokens = np.zeros((size, columns), dtype=np.int64)
        labels = np.full((size, columns), IGNORE, dtype=np.int64)
        first_symbol, first_answer = 1, 1 + len(language.alphabet)
        for row, n in enumerate(rng.choice(choices, size=size)):
            string = language.draw(rng, int(n))
            tokens[row, :n] = first_symbol + string
            asked = slice(1, n + 1) if self.ask == "every" else slice(n, n + 1)
            labels[row, asked] = first_answer + language.answers(string)[asked.start - 1 :]
        return make_batch(tokens, labels)
