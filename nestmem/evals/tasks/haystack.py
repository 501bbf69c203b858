"""Running text in which something is hidden: sentences of a text, cut to a number of tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nestmem.errors import InputError

# Where in a text each split reads, as shares of it.
PARTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
# No tokenizer needs more characters of running text for a token, on average.
CHARACTERS = 8


def part(text: str, split: str) -> str:
    """The part of a text that a split reads, so that a test hides nothing in text of the training."""
    low, high = (round(share * len(text)) for share in PARTS[split])
    return text[low:high]


def anywhere(rng: np.random.Generator, text: str, tokens: int) -> int:
    """A place in a text from which this many tokens follow; a shorter text starts over at its end."""
    return int(rng.integers(0, max(1, len(text) - CHARACTERS * tokens)))


def sentences(
    encode: Callable[[str], list[int]], text: str, *, tokens: int, place: int = 0
) -> list[list[int]]:
    """Sentences of `text` from `place` on, over its end if need be, with exactly `tokens` tokens in all; the last
    is cut to fit. Each begins with a space, and a line break counts as a space."""
    found: list[list[int]] = []
    ends = 0
    while tokens > 0:
        stop = text.find(". ", place)
        words = text[place : len(text) if stop < 0 else stop + 1].split()
        place = 0 if stop < 0 else stop + 2
        ends += stop < 0
        if ends > 1 and not found:
            raise InputError("the text to hide things in has no words; give a longer one")
        sentence = encode(f" {' '.join(words)}")[:tokens] if words else []
        if sentence:
            found.append(sentence)
            tokens -= len(sentence)
    return found


def between(pieces: list[list[int]], hidden: list[list[int]], places: np.ndarray | list[int]) -> list[int]:
    """`hidden[i]` stands before piece `places[i]` (or at the end), in order. places must not fall."""
    joined: list[int] = []
    at = 0
    for slot in range(len(pieces) + 1):
        while at < len(hidden) and places[at] == slot:
            joined += hidden[at]
            at += 1
        if slot < len(pieces):
            joined += pieces[slot]
    return joined
