"""Needles in a haystack (RULER, arXiv 2404.06654, section 3 and appendix B): what was told once, far back.

A needle tells that a key has a value. The haystack around it is of no use. At the end one or more keys are asked
and the values must follow. The kinds, as in RULER's table of tasks:

    s1   one needle, haystack a repeated sentence, short value        single needle, S-NIAH-1
    s2   one needle, haystack of ever different text, short value     S-NIAH-2
    s3   the same, long value (a uuid there)                          S-NIAH-3
    mk   4 needles with different keys, one asked                     multi-key
    mq   4 needles with different keys, all asked                     multi-query
    mv   one key told 4 times with different values, all asked        multi-value

`Needle` draws them over a small vocabulary, for small models: tokens for "here is a needle" (0) and "what is"
(1), then keys, then values, then haystack. A number is 2 value tokens, a uuid 8.

    >>> task = Needle(kind="mk", keys=4, values=4, noise=4, needles=2, value_tokens=1, length=14, lengths=(14,))
    >>> batch = task.batch(0, 1)
    >>> batch.input_ids[0].tolist()
    [10, 0, 5, 9, 10, 11, 0, 2, 8, 10, 13, 1, 2, 8]
    >>> batch.labels[0].tolist()
    [-100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, -100, 8]

`TextNeedle` writes them as English for a model with a tokenizer:

    The secret number of the brave otter is 1029384. ... What is the secret number of the brave otter? It is 1029384.

Both can be longer than any training sequence.
Multi-value answers are asked in the order in which they were told (RULER takes any order).
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
    FixedLength,
    make_batch,
)
from nestmem.evals.tasks.haystack import anywhere, between, part, sentences


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Needles told, keys asked, whether one key has all the values, long values, the haystack."""

    needles: int
    queries: int
    one_key: bool
    long_value: bool
    repeated: bool


KINDS: dict[str, Kind] = {
    "s1": Kind(needles=1, queries=1, one_key=False, long_value=False, repeated=True),
    "s2": Kind(needles=1, queries=1, one_key=False, long_value=False, repeated=False),
    "s3": Kind(needles=1, queries=1, one_key=False, long_value=True, repeated=False),
    "mk": Kind(needles=4, queries=1, one_key=False, long_value=False, repeated=False),
    "mq": Kind(needles=4, queries=4, one_key=False, long_value=False, repeated=False),
    "mv": Kind(needles=4, queries=1, one_key=True, long_value=False, repeated=False),
}
TELL, ASK, SPECIAL = 0, 1, 2
SENTENCE_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Needle(FixedLength):
    """Needles over a small vocabulary.

    kind: a name in KINDS. keys, values, noise: how many tokens of each there are. needles: how many are told,
    value_tokens: how long a value is; None takes the kind's own. length: tokens of a training sequence;
    lengths: of the tests. depth: None tells the needles anywhere; a number from 0 (first) to 1 (just before
    the question) puts all of them there, for a table by depth.
    """

    kind: str = "s2"
    keys: int = 64
    values: int = 64
    noise: int = 126
    needles: int | None = None
    value_tokens: int | None = None
    length: int = 128
    lengths: tuple[int, ...] = (128, 256, 512)
    depth: float | None = None
    seed: int = 0

    version: ClassVar[str] = "needle/1"

    def __post_init__(self) -> None:
        _check_kind(self.kind, self.depth, self.needles)
        if min(self.keys, self.values, self.noise) < 1 or self.tokens_of_value < 1:
            raise InputError(
                f"keys={self.keys}, values={self.values}, noise={self.noise}, value_tokens={self.tokens_of_value}; "
                "expected at least 1 of each"
            )
        if not KINDS[self.kind].one_key and self.told > self.keys:
            raise InputError(
                f"needles is {self.told} with {self.keys} keys; each needle needs a key of its own"
            )
        self._check_lengths()

    @property
    def name(self) -> str:
        return f"needle_{self.kind}"

    @property
    def vocab_size(self) -> int:
        return SPECIAL + self.keys + self.values + self.noise

    @property
    def told(self) -> int:
        """Needles in a sequence."""
        return KINDS[self.kind].needles if self.needles is None else self.needles

    @property
    def tokens_of_value(self) -> int:
        """Tokens of a value."""
        if self.value_tokens is not None:
            return self.value_tokens
        return 8 if KINDS[self.kind].long_value else 2

    @property
    def _answers(self) -> tuple[int, int]:
        """Questions at the end, and values in the answer to each."""
        kind = KINDS[self.kind]
        return (1, self.told) if kind.one_key else (min(kind.queries, self.told), 1)

    @property
    def _fixed(self) -> int:
        questions, values = self._answers
        return self.told * (2 + self.tokens_of_value) + questions * (2 + values * self.tokens_of_value)

    def _check(self, length: int) -> None:
        if length < self._fixed:
            raise InputError(
                f"length is {length}; {self.name} with {self.told} needles of {self.tokens_of_value} value tokens "
                f"needs {self._fixed} without any haystack; give a larger length or fewer needles"
            )

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of `length` tokens."""
        keys = SPECIAL + rng.random((size, self.keys)).argsort(axis=1)
        keys = np.repeat(keys[:, :1], self.told, axis=1) if KINDS[self.kind].one_key else keys[:, : self.told]
        first_value = SPECIAL + self.keys
        values = rng.integers(first_value, first_value + self.values, (size, self.told, self.tokens_of_value))
        told = np.concatenate([np.full((size, self.told, 1), TELL), keys[:, :, None], values], axis=2)
        question, asked = self._question(rng, keys, values)
        body = self._body(rng, told, length - question.shape[1])
        tokens = np.concatenate([body, question], axis=1)
        labels = np.full_like(tokens, IGNORE)
        labels[:, body.shape[1] :] = np.where(asked, question, IGNORE)
        return make_batch(tokens, labels)

    def _question(
        self, rng: np.random.Generator, keys: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The last tokens [B, Q] and which of them are asked [Q]."""
        size, width = len(keys), self.tokens_of_value
        questions, each = self._answers
        order = rng.random((size, self.told)).argsort(axis=1)[:, :questions]
        asked_keys = np.take_along_axis(keys, order, axis=1)
        if each > 1:
            answers = values.reshape(size, 1, each * width)
        else:
            answers = np.take_along_axis(values, order[:, :, None], axis=1)
        question = np.concatenate(
            [np.full((size, questions, 1), ASK), asked_keys[:, :, None], answers], axis=2
        )
        asked = np.tile(np.arange(2 + each * width) >= 2, questions)
        return question.reshape(size, -1), asked

    def _body(self, rng: np.random.Generator, told: np.ndarray, length: int) -> np.ndarray:
        """The haystack with the needles told in it, [B, length]."""
        size, needles, width = told.shape
        space = length - needles * width
        first_noise = self.vocab_size - self.noise
        if KINDS[self.kind].repeated:
            sentence = first_noise + np.arange(SENTENCE_TOKENS) % self.noise
            hay = np.broadcast_to(np.resize(sentence, space), (size, space))
        else:
            hay = rng.integers(first_noise, self.vocab_size, (size, space))
        if self.depth is None:
            before = np.sort(rng.integers(0, space + 1, (size, needles)), axis=1)
        else:
            before = np.full((size, needles), round(self.depth * space))
        starts = before + width * np.arange(needles)
        places = (starts[:, :, None] + np.arange(width)).reshape(size, -1)
        body = np.zeros((size, length), dtype=np.int64)
        is_hay = np.ones((size, length), dtype=bool)
        np.put_along_axis(is_hay, places, False, axis=1)
        body[is_hay] = hay.reshape(-1)
        np.put_along_axis(body, places, told.reshape(size, -1), axis=1)
        return body


def _check_kind(kind: str, depth: float | None, needles: int | None) -> None:
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if depth is not None and not 0 <= depth <= 1:
        raise InputError(f"depth is {depth}; expected 0 (first) to 1 (just before the question)")
    if needles is not None and needles < 1:
        raise InputError(f"needles is {needles}; expected at least 1")


REPEATED = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
INTRODUCTION = "Secret numbers are hidden in the text below. Remember them, for they are asked afterwards."
ADJECTIVES = (
    "amber",
    "brave",
    "calm",
    "dusty",
    "eager",
    "fancy",
    "gentle",
    "hollow",
    "icy",
    "jolly",
    "keen",
    "lively",
)
NOUNS = (
    "anchor",
    "badger",
    "candle",
    "dragon",
    "engine",
    "feather",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
)


@dataclass(frozen=True, kw_only=True)
class TextNeedle(FixedLength):
    """Needles in English, for a model with a tokenizer.

    encode: text -> token ids, without special tokens at the ends; vocab_size: what it may return. kind: a name
    in KINDS; values are numbers of 7 digits, or uuids for s3. haystack: text to hide them in (books); its first
    80 % serve training, 10 % validation, 10 % the test; s1 needs none. length, lengths, depth: as in `Needle`.
    start: ids in front of everything (a model's begin-of-text token).
    """

    encode: Callable[[str], list[int]]
    vocab_size: int
    kind: str = "s1"
    haystack: str = ""
    length: int = 1024
    lengths: tuple[int, ...] = (1024, 2048, 4096)
    depth: float | None = None
    start: tuple[int, ...] = ()
    seed: int = 0

    version: ClassVar[str] = "needle-text/1"

    def __post_init__(self) -> None:
        _check_kind(self.kind, self.depth, None)
        if not KINDS[self.kind].repeated and not self.haystack.strip():
            raise InputError(
                f"haystack is empty; kind {self.kind!r} hides its needles in running text: give the text of a book, "
                "or kind='s1'"
            )

    @property
    def name(self) -> str:
        return f"needle_text_{self.kind}"

    def _draw(self, rng: np.random.Generator, size: int, length: int, split: str) -> Batch:
        """`size` sequences of exactly `length` tokens; the last sentence of the haystack is cut to fit."""
        rows = [self._row(rng, length, split) for _ in range(size)]
        return make_batch(np.array([tokens for tokens, _ in rows]), np.array([labels for _, labels in rows]))

    def _row(self, rng: np.random.Generator, length: int, split: str) -> tuple[list[int], list[int]]:
        kind = KINDS[self.kind]
        different = 1 if kind.one_key else kind.needles
        names = [
            f"{ADJECTIVES[i // len(NOUNS)]} {NOUNS[i % len(NOUNS)]}"
            for i in rng.permutation(len(ADJECTIVES) * len(NOUNS))[:different]
        ] * (kind.needles // different)
        values = [_uuid(rng) if kind.long_value else str(rng.integers(10**6, 10**7)) for _ in names]
        needles = [
            self.encode(f" The secret number of the {name} is {value}.")
            for name, value in zip(names, values, strict=True)
        ]
        ending: list[int] = []
        asked: list[int] = []
        if kind.one_key:
            questions = [(f" What are the secret numbers of the {names[0]}? They are", ", ".join(values))]
        else:
            questions = [
                (f" What is the secret number of the {names[i]}? It is", values[i])
                for i in rng.permutation(len(names))[: kind.queries]
            ]
        for question, value in questions:
            told, answer, stop = self.encode(question), self.encode(f" {value}"), self.encode(".")
            ending += told + answer + stop
            asked += [IGNORE] * len(told) + answer + [IGNORE] * len(stop)
        opening = [*self.start, *self.encode(INTRODUCTION)]
        space = length - len(opening) - sum(map(len, needles)) - len(ending)
        if space < 0:
            raise InputError(
                f"length is {length}; {self.name} needs {length - space} tokens without any haystack; "
                "give a larger length"
            )
        hay = self._haystack(rng, space, split)
        if self.depth is None:
            places = np.sort(rng.integers(0, len(hay) + 1, len(needles)))
        else:
            places = np.full(len(needles), round(self.depth * len(hay)))
        tokens = opening + between(hay, needles, places) + ending
        return tokens, [IGNORE] * (length - len(asked)) + asked

    def _haystack(self, rng: np.random.Generator, space: int, split: str) -> list[list[int]]:
        """Sentences with `space` tokens in all."""
        if KINDS[self.kind].repeated:
            return sentences(self.encode, REPEATED, tokens=space)
        text = part(self.haystack, split)
        return sentences(self.encode, text, tokens=space, place=anywhere(rng, text, space))


def _uuid(rng: np.random.Generator) -> str:
    digits = "".join(f"{byte:02x}" for byte in rng.integers(0, 256, 16))
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
